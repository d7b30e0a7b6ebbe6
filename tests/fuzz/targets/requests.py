"""What is in the payloads of packets: requests as classes, results of handlers, messages of several frames."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any, Self

from cs.buffer import CornuCopyBuffer

from core.golden import PACKETS
from fbsp.fake import SERVICE, SERVICE_PEER
from fbsp.golden import MESSAGES as FBSP_ITEMS
from fbsp.golden import frames_of
from packetwire import BaseRequest, LocalProtocolError, RemoteProtocolError, RequestFailed, Responder
from packetwire.cli.chunkstore import REQUESTS as CHUNK_REQUESTS
from packetwire.core import requests as requests_module
from packetwire.core.engine import ConnectionEngine
from packetwire.core.events import RequestReceived, ResponseReceived
from packetwire.core.requests import HasRequestMap, response_parts, subscribe
from packetwire.errors import ProtocolError
from packetwire.fbsp import FBSPService
from packetwire.fbsp import requests as fbsp_requests
from packetwire.iccp import ICCPController
from packetwire.iccp import requests as iccp_requests
from packetwire.iccp.refusals import INVALID as ICCP_INVALID
from packetwire.messaging import InvalidMessageError, StopError, multipart
from packetwire.messaging.multipart import join_frames, split_frames

from ..frames import pack, unpack
from ..mutators import frames_mutator, headed_mutator, octets_mutator
from ..reasons import RaisedIn
from ..target import Target, choices_of
from .byhand import frames_by_hand
from .golden import ICCP_FRAMES

# requests


class Sized(BaseRequest[bytes]):
    """Of cs.binary's kind: an octet with the length of what follows."""

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self.content = content

    @classmethod
    def parse(cls, bfr: CornuCopyBuffer) -> Self:
        return cls(bytes(bfr.take(bfr.byte0())))

    def transcribe(self) -> Any:
        yield bytes((len(self.content),))
        yield self.content


@dataclass(frozen=True)
class Numbered(BaseRequest[bytes]):
    """A frozen class whose payload is one number."""

    number: int

    @classmethod
    def from_bytes(cls, bs: bytes) -> Self:
        return cls(int.from_bytes(bs, "big"))

    def __bytes__(self) -> bytes:
        return self.number.to_bytes((self.number.bit_length() + 7) // 8, "big")


class Marked(BaseRequest[bytes]):
    """Its flags are part of its payload."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    @property
    def flags(self) -> int:  # type: ignore[override]
        return self.content[0] if self.content else 0

    @classmethod
    def from_bytes(cls, bs: bytes) -> Self:
        return cls(bs)

    def __bytes__(self) -> bytes:
        return self.content


class Shop(HasRequestMap):
    """Answers each request with its type, flags and octets."""

    def __init__(self) -> None:
        served = (Sized, Numbered, Marked, *CHUNK_REQUESTS.values())
        self._keep_request_map(
            {
                number: type(f"Served{each.__name__}", (each,), {"fulfil": fulfil})
                for number, each in enumerate(served)
            }
        )


def fulfil(request: BaseRequest[Any], context: Any) -> tuple[int, bytes]:
    """The handler of all requests here."""
    return request.flags, bytes(request)


SHOP = Shop()
KINDS = len(SHOP.conn_rq_class_by_type) + 1
DECODING = RaisedIn(
    requests_module,
    without=[
        "BaseRequest.fulfil",  # a class of the user's that cannot be served
        "HasRequestMap._rq_type_of",  # what is sent
        "HasRequestMap.__getattr__",  # a subclass that has forgotten something
        *("response_parts", "_response_flags", "_response_payload"),  # results of handlers, see below
        "Responder",  # that is called twice
    ],
)
ENDS_TOO_EARLY = "the payload ends too early"


def hear_requests(octets: bytes) -> list[str]:
    rq_type, flags, payload = (*octets[:2], octets[2:]) if len(octets) >= 2 else (0, 0, octets)
    rq_type %= KINDS
    try:
        given, answer = SHOP.conn_handle_request(rq_type, flags, payload)
    except EOFError:
        assert rq_type == 0
        return [ENDS_TOO_EARLY]
    except ValueError as error:  # also what is no request type here
        return DECODING.of(error)
    assert given == flags
    assert SHOP.conn_handle_request(rq_type, flags, answer) == (flags, answer)
    return []


# results

HANDLED = RaisedIn(
    requests_module,
    without=[
        *("BaseRequest", "HasRequestMap", "_from_bytes_by_parse"),  # requests, see above
        "Responder",  # that is called twice
    ],
)


def result_of(octets: bytes) -> Any:
    """What a handler might return."""
    kind, rest = octets[:1] or b"\0", octets[1:]
    number = int.from_bytes(rest[:12], "big", signed=True)
    inside = {
        0: None,
        1: rest,
        2: number,
        3: rest.decode("utf-8", "surrogatepass" if rest.isascii() else "surrogateescape"),
        4: bytearray(rest),
        5: memoryview(rest)[::2],
        6: [rest],
        7: 0.5,
        8: bool(number),
    }
    if kind[0] % 20 < 9:
        return inside[kind[0] % 20]
    if kind[0] % 20 == 19:
        return _later()
    second = inside[kind[0] % 9]
    return (number, second) if kind[0] % 20 < 18 else (second, number, 1)


async def _later() -> bytes:
    return b"never awaited"


def hear_results(octets: bytes) -> list[str]:
    result = result_of(octets)
    responder = Responder()
    try:
        flags, payload = response_parts(result)
    except (TypeError, LocalProtocolError) as error:
        try:
            responder.respond(result)
        except type(error):
            return HANDLED.of(error)
        raise AssertionError("a Responder takes what cannot be sent") from error
    responder.respond(result)
    assert responder.answered
    asks, answers = ConnectionEngine(), ConnectionEngine()
    tag = asks.request(1)
    answers.receive(b"".join(asks.data_to_send()))
    ok = bool(choices_of(octets).randrange(2))
    assert answers.respond(0, tag, ok, flags, payload)
    (got,) = asks.receive(b"".join(answers.data_to_send()))
    assert got == ResponseReceived(0, tag, ok, flags, payload, None)
    failed = RequestFailed(flags, payload)
    assert (failed.flags, failed.payload) == (flags, payload)
    assert len(str(failed)) < 5 * 2100
    return []


# messages of several frames


class FakeConnection:
    """Enough of a packet connection for a channel of messages."""

    max_packet_size = max_unsent = 1 << 20

    def __init__(self) -> None:
        self.receiver: Any = None
        self.answers: list[object] = []

    def attach(self, channel: int, receiver: Any, *, quick: Any = None) -> None:
        self.receiver = receiver

    def detach(self, channel: int) -> None: ...

    def open(self) -> None: ...

    def close(self) -> None: ...

    def submit(self, rq_type: int, flags: int = 0, payload: bytes = b"", **options: Any) -> object:
        return object()

    __call__ = submit

    def receive(self, event: RequestReceived) -> None:
        """Note how a request is answered: at once, by an exception, or later."""
        try:
            answer = self.receiver(event)
        except ValueError as error:  # the payload holds no message
            answer = error
        if not subscribe(answer, lambda outcome: self.answers.append(outcome())):
            self.answers.append(answer)


REQUEST_CLASSES = [*fbsp_requests.REQUESTS.values(), *iccp_requests.REQUESTS.values()]
FRAMING = RaisedIn(multipart)
OF_FBSP, OF_ICCP = RaisedIn(fbsp_requests), RaisedIn(iccp_requests)
PACKET_REASON = "packet"
"""The reason of ICCP for a packet that holds no message; what is wrong with messages is met elsewhere."""
assert PACKET_REASON in ICCP_INVALID


def reasons_of(error: ValueError) -> list[str]:
    return FRAMING.of(error) + OF_FBSP.of(error) + OF_ICCP.of(error)


def hear_multipart(octets: bytes) -> list[str]:
    request_class = REQUEST_CLASSES[octets[0] % len(REQUEST_CLASSES)] if octets else REQUEST_CLASSES[0]
    payload = octets[1:]
    reasons = channels_hear(request_class.rq_type, payload)
    expected = frames_by_hand(payload)
    try:
        frames = split_frames(payload)
    except ValueError as error:
        if expected is not None:
            raise
        return reasons + reasons_of(error)
    assert frames == expected
    assert split_frames(join_frames(frames)) == frames
    assert len(join_frames(frames)) <= len(payload)
    try:
        request = request_class.from_bytes(payload)
    except ValueError as error:
        return reasons + reasons_of(error)
    assert split_frames(bytes(request)) == request.decode_response_payload(0, payload) == frames
    try:
        fbsp_requests.message_of(payload)
    except InvalidMessageError:
        pass
    return reasons


def channels_hear(rq_type: int, payload: bytes) -> list[str]:
    """A packet request with this payload, and a response, at a service and at a controller."""
    refused: list[Any] = []
    failed: list[Exception] = []
    for protocol, channel_class in (
        (FBSPService(service=SERVICE, peer=SERVICE_PEER), fbsp_requests.FBSPPacketChannel),
        (ICCPController(), iccp_requests.ICCPPacketChannel),
    ):
        protocol.on_invalid_msg = lambda channel, session, exc: refused.append(exc)
        protocol.on_exception = lambda channel, session, msg, exc: failed.append(exc)
        connection = FakeConnection()
        channel = channel_class(protocol, connection)
        connection.receive(RequestReceived(0, 2, rq_type, payload[0] & 7 if payload else 0, payload))
        connection.receiver(ResponseReceived(0, 2, bool(len(payload) % 3), 0, payload, object()))
        channel.close()
        assert len(connection.answers) == 1
        assert all(isinstance(error, StopError | ProtocolError) for error in failed), failed
    return [
        error.code for error in refused if isinstance(error, RemoteProtocolError) and error.code == PACKET_REASON
    ]


MESSAGES = [frames_of(item) for item in FBSP_ITEMS] + ICCP_FRAMES
MULTIPART_SEEDS = [
    bytes((number % len(REQUEST_CLASSES),)) + join_frames(frames)
    for number, frames in enumerate([*MESSAGES[::7], *ICCP_FRAMES])
]
_mutate_octets = octets_mutator([b"\x80" * 9, b"\xff" * 10, b"\x81\x00"])
_mutate_frames = frames_mutator(_mutate_octets, [pack(frames) for frames in MESSAGES])


def mutate_multipart(octets: bytes, random: Random) -> bytes:
    """A payload with other frames, or other octets."""
    if random.randrange(2):
        return _mutate_octets(octets, random)
    try:
        frames = split_frames(octets)
    except ValueError:
        return _mutate_octets(octets, random)
    return join_frames(unpack(_mutate_frames(pack(frames), random)))


PAYLOADS = sorted({case.packet.payload for case in PACKETS if case.size < 300})

TARGETS = (
    Target(
        name="requests",
        seeds=[bytes((number % KINDS, number % 4)) + payload for number, payload in enumerate(PAYLOADS)]
        + [b"\0\0\x03abc", b"\x02\x01\x01abc"],
        mutate=headed_mutator(octets_mutator([b"\0", b"\x03abc"], PAYLOADS), KINDS),
        hear=hear_requests,
        reasons=DECODING.reasons | {ENDS_TOO_EARLY},
    ),
    Target(
        name="results",
        seeds=[bytes((number % 20,)) + payload for number, payload in enumerate(PAYLOADS)],
        mutate=headed_mutator(octets_mutator([bytes(12), b"\xff" * 8, b"\x7f" * 9, b"\0" * 12 + b"x"]), 20),
        hear=hear_results,
        reasons=HANDLED.reasons,
    ),
    Target(
        name="multipart",
        seeds=MULTIPART_SEEDS,
        mutate=headed_mutator(mutate_multipart, len(REQUEST_CLASSES)),
        hear=hear_multipart,
        reasons=FRAMING.reasons | OF_FBSP.reasons | OF_ICCP.reasons | {PACKET_REASON},
    ),
)

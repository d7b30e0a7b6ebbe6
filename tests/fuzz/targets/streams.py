"""Packet streams: the decoder, and the engine of a connection."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from cs.buffer import CornuCopyBuffer

from core.golden import DIRECTIONS, PACKETS, decode
from packetwire import LimitExceeded, Packet, PacketDecoder, RemoteProtocolError, StreamTruncated
from packetwire.core import engine as engine_module
from packetwire.core import packetcodec
from packetwire.core.capabilities import MARK, Capabilities, Mode
from packetwire.core.control import MAX_UNFINISHED
from packetwire.core.engine import ConnectionEngine
from packetwire.core.events import ControlAnswered, Event, RequestReceived, ResponseReceived, StreamEnded
from packetwire.core.frames import FrameType, Meta, encode_frame, encode_meta
from packetwire.core.hello import (
    ANSWER,
    ASK,
    CONTROL_CHANNEL,
    DRAIN,
    HELLO,
    PING,
    Feature,
    Hello,
    decode_drain,
    encode_drain,
    encode_hello,
)
from packetwire.core.packets import EOF_PACKET, ERQ_PACKET, MAX_UINT
from packetwire.core.refusals import REFUSALS
from packetwire.streams.frames import FrameWriter, frames_to_buffer

from ..mutators import headed_mutator, stream_mutator
from ..reasons import TextsOf
from ..target import Target, choices_of, chunks_of
from .byhand import frames_by_hand

SEED_LIMIT = 4000
OF_THE_ENGINE = {
    *("reserved-rq-type", "response-never-asked", "frame-before-hello", "bad-frame", "frame-not-agreed"),
    *("too-many-unfinished", "credit-exceeded"),
}
FEATURES = Feature.CANCEL | Feature.META | Feature.PROGRESS | Feature.DRAIN
TRUNCATED = "the stream is truncated"
LIMITED = "a limit is passed"

SEEDS = [
    *[case.wire for case in PACKETS[::12] if case.size <= SEED_LIMIT],
    *[octets[:SEED_LIMIT] for octets in DIRECTIONS],
]


def without_octets(error: BaseException | str) -> str:
    """What is said of a fault; how many of the octets can be quoted depends on the chunks."""
    return re.split("; the bytes there| bytes of it: ", str(error))[0]


# the decoder

LIMITS = (300, 300, MAX_UINT)

Decoded = tuple[list[Packet], BaseException | None, bytes]


def decoded(chunks: Sequence[bytes | memoryview], max_packet_size: int) -> Decoded:
    """The packets, what ended them, and what came behind EOF."""
    decoder = PacketDecoder(max_packet_size)
    packets: list[Packet] = []
    try:
        for chunk in chunks:
            packets += decoder.feed(chunk)
        decoder.finish()
    except (RemoteProtocolError, StreamTruncated) as error:
        return packets, error, b""
    return packets, None, decoder.trailing


@contextmanager
def pieces_kept_from(size: int) -> Iterator[None]:
    """Have the decoder collect the payload of a packet in place from this size on, as it does with long ones."""
    before, packetcodec.CHUNK_SIZE = packetcodec.CHUNK_SIZE, size
    try:
        yield
    finally:
        packetcodec.CHUNK_SIZE = before


def parsed(octets: bytes) -> tuple[list[Packet], BaseException | None]:
    """The same by `Packet.parse`, from frames."""
    packets: list[Packet] = []
    buffer: CornuCopyBuffer = frames_to_buffer([b"", *chunks_of(octets)])
    try:
        for packet in Packet.scan(buffer):
            packets.append(packet)
            if packet == EOF_PACKET:
                break
    except (RemoteProtocolError, EOFError) as error:
        return packets, error
    return packets, None


def hear_packets(octets: bytes) -> list[str]:
    limit = choices_of(octets).choice(LIMITS)
    packets, error, trailing = decoded([octets], limit)
    for chunks, kept in ((chunks_of(octets), 20), ([memoryview(bytearray(octets))], 1 << 14)):
        with pieces_kept_from(kept):
            again, error_again, trailing_again = decoded(chunks, limit)
        assert (again, trailing_again) == (packets, trailing)
        assert type(error_again) is type(error)
        assert error is None or without_octets(error_again or error) == without_octets(error)
    bodies = frames_by_hand(octets[: len(octets) - len(trailing)])
    if error is None:
        assert bodies is not None
        assert len(bodies) == len(packets)
        assert all(len(body) <= limit for body in bodies)
    written: list[bytes] = []
    writer = FrameWriter(written.append, max_size=50)
    for packet in packets:
        packet.write(writer, flush=True)
        assert Packet.from_bytes(bytes(packet)) == packet
    assert decode(b"".join(written)) == packets
    if limit == MAX_UINT:
        once_more, fault = parsed(octets)
        assert once_more == packets
        if isinstance(error, RemoteProtocolError):
            assert fault is not None
            assert without_octets(fault) == without_octets(error)
        else:
            assert isinstance(fault, EOFError) == (error is not None)
    try:
        alone = Packet.from_bytes(octets)
    except (RemoteProtocolError, ValueError, EOFError):
        pass
    else:
        assert packets == [alone] or len(octets) > limit
    if error is None:
        return []
    return [error.code if isinstance(error, RemoteProtocolError) else TRUNCATED]


# the engine

ASKED = b"".join(
    bytes(Packet(is_request=True, tag=tag, rq_type=1, payload=b"x" * 40)) for tag in (2, 3, 4, 4, 5, 6, 7, 8, 9)
)
"""Too much for some of these."""
ON_OTHER_CHANNELS = b"".join(
    bytes(Packet(is_request=True, channel=channel, tag=2, rq_type=1)) for channel in (15, 17)
)
SETTINGS: tuple[dict[str, Any], ...] = (
    {},
    {"max_packet_size": 300},
    {"accepts_requests": False},
    {"accepts_requests": False, "max_refusals": 3},
    {"max_inbound": 3},
    {"max_inbound_octets": 100},
    {"channels": ()},
    {"capabilities": Feature.CANCEL},
    {"capabilities": FEATURES},
    {"capabilities": FEATURES, "asks": True},
    {"capabilities": FEATURES | Feature.PIECES | Feature.BODIES},
)
"""The first octet of an input chooses."""
FEW, CAPABLE, ASKING, BULK = range(len(SETTINGS) - 4, len(SETTINGS))
MAX_BODIES = 2


def control(rq_type: int, payload: bytes = b"", tag: int = 2) -> bytes:
    return bytes(Packet(is_request=True, channel=CONTROL_CHANNEL, tag=tag, rq_type=rq_type + 1, payload=payload))


def control_answer(tag: int, payload: bytes = b"", *, ok: bool = True) -> bytes:
    return bytes(Packet(is_request=False, channel=CONTROL_CHANNEL, tag=tag, flags=ok, payload=payload))


HELLO_ASKED = control(HELLO, ASK + encode_hello(Hello(features=FEATURES | Feature.PIECES | Feature.BODIES)))
CANCEL = encode_frame(FrameType.CANCEL, 0, 2, b"\1")
PROGRESS = [encode_frame(FrameType.PROGRESS, 0, tag, b"so far", of_receiver=True) for tag in (2, 3, 50)]
META = [encode_frame(FrameType.META, 0, tag, encode_meta(Meta(milliseconds_left=tag))) for tag in (2, 5, 12)]
ANNOUNCED = b"".join(encode_frame(FrameType.META, 0, tag) for tag in range(2, 2 + 2 * MAX_UNFINISHED))


def bulk(kind: FrameType, tag: int, payload: bytes = b"", *, ours: bool = False) -> bytes:
    return encode_frame(kind, 0, tag, payload, of_receiver=ours)


WITH_BODIES = b"".join(
    bulk(FrameType.META, tag, encode_meta(Meta(has_body=True, body_size=size, response_credit=100)))
    + bytes(Packet(is_request=True, tag=tag, rq_type=1))
    for tag, size in ((2, None), (3, 6), (4, None))
)
IN_PIECES = b"".join(
    [
        *(bulk(FrameType.PIECE, 5), bulk(FrameType.PIECE, 2, b"of a response ", ours=True)),
        *(bulk(FrameType.PIECE, 5, b"of a "), bulk(FrameType.PIECE, 4, b"of another", ours=True)),
        *(
            bulk(FrameType.PIECE, 6, b"given up"),
            bulk(FrameType.CANCEL, 6, b"\1"),
            bulk(FrameType.PIECE, 7, b"left"),
        ),
        bytes(Packet(is_request=True, tag=5, rq_type=1, payload=b"request")),
        bytes(Packet(is_request=False, tag=2, flags=1, payload=b"payload")),
    ]
)
STREAMED = b"".join(
    [
        *(bulk(FrameType.DATA, 2, b"abc"), bulk(FrameType.DATA, 3, b"abc"), bulk(FrameType.CREDIT, 2, b"\5")),
        *(bulk(FrameType.DATA, 3, b"abc"), bulk(FrameType.STOP, 3, b"\1why"), bulk(FrameType.END, 3)),
        *(bulk(FrameType.CREDIT, 3, b"\5"), bulk(FrameType.DATA, 4, b"late"), bulk(FrameType.CANCEL, 2, b"\1")),
    ]
)
OF_CAPABILITIES = {
    FEW: [
        CANCEL + ASKED,
        HELLO_ASKED + ASKED + CANCEL,
        HELLO_ASKED + META[2],
        HELLO_ASKED + bytes(Packet(is_request=True, channel=2, tag=2, rq_type=9)),
        MARK + ASKED + HELLO_ASKED + control(PING, b"abc", 3),
        control_answer(2, ANSWER + encode_hello(Hello())) + ASKED,
    ],
    CAPABLE: [
        HELLO_ASKED + b"".join(META) + ASKED + CANCEL,
        HELLO_ASKED + b"".join(PROGRESS[:2]) + ASKED,
        HELLO_ASKED + PROGRESS[2],
        HELLO_ASKED + ANNOUNCED,
        control(DRAIN, encode_drain(5, "why")) + HELLO_ASKED + ASKED + bytes(EOF_PACKET),
        HELLO_ASKED + encode_frame(FrameType.DATA, 0, 2, b"abc"),
        HELLO_ASKED + ASKED + control(PING, bytes(33), 3) + control(DRAIN, b"\1", 4) + control(77, b"", 5),
    ],
    BULK: [
        HELLO_ASKED + WITH_BODIES + STREAMED + IN_PIECES,
        HELLO_ASKED + IN_PIECES + ASKED + WITH_BODIES,
        HELLO_ASKED + WITH_BODIES + bulk(FrameType.DATA, 2, bytes(90)) + bulk(FrameType.DATA, 2, bytes(11)),
        HELLO_ASKED + WITH_BODIES + bulk(FrameType.DATA, 3, b"abcdefg"),
        HELLO_ASKED + WITH_BODIES + STREAMED + bulk(FrameType.DATA, 3, b"behind the end"),
        HELLO_ASKED + WITH_BODIES + STREAMED + bulk(FrameType.DATA, 5, b"never announced", ours=True),
    ],
    ASKING: [
        control_answer(3, b"ping") + control_answer(4) + ASKED,
        ASKED + control_answer(4, b"no", ok=False) + control(DRAIN, encode_drain(0, "why"), 3),
        control(DRAIN, encode_drain(None, "why"), 3) + control_answer(4) + control_answer(4) + META[0] + ASKED,
    ],
}
REFUSED = TextsOf(engine_module, ["_refuse"], position=1)
DRAINED = engine_module.DRAINING.decode()
TOO_MANY_BODIES = "too many bodies are open"
NOT_BY_BYTES = {engine_module.TOO_MUCH_FOR_ALL.decode(), engine_module.BODIES_UNTAKEN.decode()}
"""Refusals that depend on what other connections of a server hold, or on bodies of responses; here are none."""
OUTSTANDING = 7


def listening(
    settings: dict[str, Any], engine_class: type[ConnectionEngine] = ConnectionEngine
) -> ConnectionEngine:
    """An engine with some requests of its own under way, one of them given up."""
    asks = settings.get("asks", False)
    if "capabilities" in settings:
        own = Hello(features=settings["capabilities"], client_id=bytes(16), body_credit=100, max_bodies=MAX_BODIES)
        settings = {"capabilities": Capabilities(Mode.AUTO, own)}
    engine = engine_class(**settings)
    engine.ask_capabilities()  # at once: else it depends on the chunks when the peer is asked
    if asks:
        engine.receive(HELLO_ASKED)
        engine.ping(b"ping", OUTSTANDING + 1)
        engine.drain(5, "why", OUTSTANDING + 2)
    for waiter in range(OUTSTANDING):
        engine.request(waiter, waiter=waiter)
    engine.request(0, channel=17, waiter=OUTSTANDING)
    engine.forget(0, 3)
    return engine


def heard(
    chunks: Sequence[bytes | memoryview],
    settings: dict[str, Any],
    engine_class: type[ConnectionEngine] = ConnectionEngine,
) -> tuple[list[Event], list[Packet]]:
    """What an engine makes of a whole stream, and what it sends."""
    engine = listening(settings, engine_class)
    events: list[Event] = []
    for chunk in chunks:
        engine.receive(chunk, events)
        assert len(engine.contexts) < 2 * MAX_UNFINISHED + 1 + engine.owed
    events += engine.receive_eof()
    end = events[-1]
    assert isinstance(end, StreamEnded)
    assert sum(isinstance(event, StreamEnded) for event in events) == 1
    answered = [event.waiter for event in events if isinstance(event, ResponseReceived | ControlAnswered)]
    last = OUTSTANDING + 2 if "asks" in settings else OUTSTANDING
    assert sorted([*answered, *end.lost]) == [0, *range(2, last + 1)]
    asked = [(event.channel, event.tag) for event in events if isinstance(event, RequestReceived)]
    assert len(asked) == len(set(asked)), "a request in flight was delivered twice"
    assert engine.outstanding == 0
    assert engine.receive(b"\x02\x02\x04") == engine.receive_eof() == []
    return events, [without_quotes(packet) for packet in decode(b"".join(engine.data_to_send()))]


def without_quotes(packet: Packet) -> Packet:
    """The same, but for the octets that the reason of an end quotes."""
    if not packet.is_request or (packet.channel, packet.rq_type) != (CONTROL_CHANNEL, DRAIN + 1):
        return packet
    milliseconds, text = decode_drain(packet.payload)
    return packet._replace(payload=encode_drain(milliseconds, without_octets(text)))


def answering(octets: bytes, settings: dict[str, Any]) -> None:
    """Each request is answered as it comes: then each gets one response, and what is sent is a stream."""
    engine = listening(settings)
    sent = bytearray()
    due: Counter[tuple[int, int]] = Counter()
    for chunk in chunks_of(octets):
        for event in engine.receive(chunk):
            if isinstance(event, RequestReceived) and engine.respond(event.channel, event.tag, True, 1, b"done"):
                due[event.channel, event.tag] += 1
        sent += b"".join(engine.data_to_send())
        engine.data_sent()
    assert engine.owed == 0
    got = Counter((each.channel, each.tag) for each in decode(sent) if not each.is_request and each.flags == 3)
    assert got == due


def comparable(events: list[Event]) -> list[Any]:
    """The events without what may depend on the chunks."""
    end: Any = events[-1]
    return [*events[:-1], type(end.cause), without_octets(end.cause), end.lost, end.clean]


def hear_engine(octets: bytes) -> list[str]:
    settings = SETTINGS[octets[0] % len(SETTINGS)] if octets else SETTINGS[0]
    octets = octets[1:]
    events, sent = heard([octets], settings)
    for chunks in (chunks_of(octets), [memoryview(octets)]):
        again, sent_again = heard(chunks, settings)
        assert comparable(again) == comparable(events)
        assert sent_again == sent
    answering(octets, settings)
    end: Any = events[-1]
    reasons = []
    for packet in sent:
        if not packet.is_request and packet.channel != CONTROL_CHANNEL:
            text = packet.payload.decode()
            (reason,) = [text] if text in (DRAINED, TOO_MANY_BODIES) else REFUSED.of(text)
            reasons.append(reason)
    cause = end.cause.__cause__ or end.cause
    if isinstance(cause, RemoteProtocolError):
        reasons.append(cause.code)
    elif isinstance(cause, StreamTruncated | LimitExceeded):
        reasons.append(TRUNCATED if isinstance(cause, StreamTruncated) else LIMITED)
    return reasons


TARGETS = (
    Target(
        name="packets",
        seeds=SEEDS,
        mutate=stream_mutator(SEEDS),
        hear=hear_packets,
        reasons=frozenset({*REFUSALS, TRUNCATED} - OF_THE_ENGINE),
    ),
    Target(
        name="engine",
        seeds=[
            bytes((choice,)) + seed
            for choice in range(len(SETTINGS))
            for seed in (ASKED, bytes(ERQ_PACKET) + ASKED, ON_OTHER_CHANNELS, *SEEDS[choice :: len(SETTINGS)])
        ]
        + [bytes((choice,)) + seed for choice, seeds in OF_CAPABILITIES.items() for seed in seeds],
        mutate=headed_mutator(stream_mutator(SEEDS), len(SETTINGS)),
        hear=hear_engine,
        reasons=frozenset({*REFUSALS, TRUNCATED, LIMITED, DRAINED, TOO_MANY_BODIES})
        | (REFUSED.reasons - NOT_BY_BYTES),
    ),
)

"""A conversation as a check leads it: what it says, what it waits for, what it does about requests of the far end.

Strategy: all of it are parts of generators, which yield steps and get what came. So a check is tried without a
stream, and most checks are for both roles: a server asks nothing but what our marks and HELLO bring; a client asks
by itself, and what it asks is kept until the check says that it may go on, so it does not end the connection first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from packetwire.conformance.ledger import Ledger
from packetwire.conformance.steps import (
    Ended,
    EndWriting,
    Failed,
    Got,
    Nothing,
    Receive,
    Send,
    Skipped,
    Steps,
)
from packetwire.core.frames import FRAME_CHANNEL, FrameType, encode_frame
from packetwire.core.hello import (
    ANSWER,
    ASK,
    CONTROL_CHANNEL,
    DRAIN,
    HELLO,
    PING,
    Feature,
    Hello,
    encode_hello,
)
from packetwire.core.packet import EOF_PACKET, ERQ_PACKET, Packet

ERQ = bytes(ERQ_PACKET)
EOF = bytes(EOF_PACKET)
END = ERQ + EOF
OURS = Hello(features=Feature.CANCEL | Feature.META | Feature.PROGRESS | Feature.DRAIN)
"""Our HELLO, unless a check is about something else."""
REFUSAL = b"a check answers no such requests"


@dataclass(frozen=True, slots=True)
class FarEnd:
    """The facts about the implementation that is checked."""

    is_client: bool = False
    """True if it asks by itself: it is checked in the role of a client."""
    rq_type: int = 0
    payload: bytes = b""
    """A request that it answers, ok or not."""
    answer: bytes = b""
    """The payload of the responses to what a client asks."""
    requests: int = 0
    """Requests that a client sends if each is answered ok."""
    features: Feature | None = None
    """The features that it says it has; None without capabilities."""
    half_closes: bool = True
    """True if the stream can end in one direction only."""


@dataclass(slots=True)
class Talk:
    """One conversation."""

    far: FarEnd
    ledger: Ledger = field(default_factory=Ledger)
    held: list[Packet] = field(default_factory=list)
    """Requests of the far end that were not answered yet."""
    asked: list[Got] = field(default_factory=list)
    """All its requests, frames and control requests included."""
    responses: list[Got] = field(default_factory=list)
    """All its responses."""
    has_ended: bool = False
    """EOF, or the end of the stream, has come."""
    said_erq: bool = False
    """Its ERQ has come."""
    _may_go_on: bool = False

    # making packets

    def ask(
        self,
        tag: int,
        channel: int = 0,
        *,
        rq_type: int | None = None,
        flags: int = 0,
        payload: bytes | None = None,
    ) -> bytes:
        """The bytes of a request, by default one that is answered."""
        packet = Packet(
            is_request=True,
            channel=channel,
            tag=tag,
            flags=flags,
            rq_type=(self.far.rq_type if rq_type is None else rq_type) + 1,
            payload=self.far.payload if payload is None else payload,
        )
        return bytes(packet)

    def respond(self, tag: int, channel: int = 0, *, ok: bool = True, payload: bytes = b"") -> bytes:
        """The bytes of a response."""
        return bytes(Packet(is_request=False, channel=channel, tag=tag, flags=int(ok), payload=payload))

    def control(self, tag: int, rq_type: int, payload: bytes = b"") -> bytes:
        """The bytes of a control request."""
        return self.ask(tag, CONTROL_CHANNEL, rq_type=rq_type, payload=payload)

    def hello(self, tag: int = 2, own: Hello = OURS) -> bytes:
        """The bytes of HELLO."""
        return self.control(tag, HELLO, ASK + encode_hello(own))

    def frame(
        self, kind: FrameType, tag: int, payload: bytes = b"", channel: int = 0, *, of_receiver: bool = False
    ) -> bytes:
        """The bytes of a frame."""
        return encode_frame(kind, channel, tag, payload, of_receiver=of_receiver)

    # steps

    def send(self, *parts: bytes, piecemeal: bool = False, deaf: bool = False) -> Steps[None]:
        """Send bytes."""
        yield Send(b"".join(parts), piecemeal, deaf)

    def end_writing(self) -> Steps[None]:
        """End our direction of the stream, without EOF."""
        if not self.far.half_closes:
            raise Skipped("this stream cannot end in one direction only")
        yield EndWriting()

    def _next(self) -> Steps[Got | Ended | Nothing]:
        """The next thing that comes; requests of the far end are dealt with, but seen, too."""
        came = yield Receive()
        assert came is not None
        if isinstance(came, Got):
            if came.is_eof:
                self.has_ended = True
            elif came.is_erq:
                self.said_erq = True
            elif came.packet.is_request:
                self.asked.append(came)
                yield from self._take(came.packet)
            else:
                self.responses.append(came)
        elif isinstance(came, Ended):
            self.has_ended = True
        return came

    def _take(self, packet: Packet) -> Steps[None]:
        """Answer a request of the far end, or keep it."""
        if packet.channel == FRAME_CHANNEL:
            return
        if packet.channel == CONTROL_CHANNEL:
            yield from self.send(self._control_answer(packet))
        elif self._may_go_on or not self.far.is_client:
            yield from self.send(self._app_answer(packet))
        else:
            self.held.append(packet)

    def _control_answer(self, packet: Packet) -> bytes:
        rq_type = (packet.rq_type or 0) - 1
        if rq_type == HELLO and not self.ledger.we_said_hello:
            payload = ANSWER + encode_hello(OURS)
            return self.respond(packet.tag, CONTROL_CHANNEL, payload=payload)
        if rq_type == PING:
            return self.respond(packet.tag, CONTROL_CHANNEL, payload=packet.payload)
        return self.respond(packet.tag, CONTROL_CHANNEL, ok=rq_type == DRAIN)

    def _app_answer(self, packet: Packet) -> bytes:
        if self.far.is_client:
            return self.respond(packet.tag, packet.channel, payload=self.far.answer)
        return self.respond(packet.tag, packet.channel, ok=False, payload=REFUSAL)

    def release(self) -> Steps[None]:
        """Let a client go on: answer what it has asked, and from now on at once."""
        self._may_go_on = True
        held, self.held = self.held, []
        if held:
            yield from self.send(*map(self._app_answer, held))

    def wait_for(self, wanted: Callable[[Got], bool], what: str) -> Steps[Got]:
        """The first packet that is wanted. Raises `Failed` if it does not come."""
        while True:
            came = yield from self._next()
            if isinstance(came, Got) and wanted(came):
                return came
            if not isinstance(came, Got) or came.is_eof:
                raise Failed(f"{what} did not come: {_how(came)}")

    def response(self, tag: int, channel: int = 0) -> Steps[Packet]:
        """The response to a request of ours. Raises `Failed` if it does not come."""
        key = (channel, tag)
        got = yield from self.wait_for(
            lambda got: not got.packet.is_request and _key(got) == key,
            f"a response to request {channel}:{tag}",
        )
        return got.packet

    def refusal(self, tag: int, channel: int = 0) -> Steps[Packet]:
        """The response to a request that must be answered not ok. Raises `Failed` if it is ok."""
        packet = yield from self.response(tag, channel)
        if packet.flags & 1:
            raise Failed(f"request {channel}:{tag} was answered ok")
        return packet

    def confirmation(self, tag: int, channel: int = 0) -> Steps[Packet]:
        """The response to a request that must be answered ok. Raises `Failed` if it is not."""
        packet = yield from self.response(tag, channel)
        if not packet.flags & 1:
            raise Failed(f"request {channel}:{tag} was answered not ok: {packet.payload[:100]!r}")
        return packet

    def agree(self, own: Hello = OURS) -> Steps[Packet]:
        """Say HELLO, and take its answer."""
        yield from self.send(self.hello(2, own))
        packet = yield from self.confirmation(2, CONTROL_CHANNEL)
        if not packet.payload.startswith(ANSWER):
            raise Failed(f"the answer to HELLO does not begin with pw2!, it is {packet.payload[:40]!r}")
        return packet

    def finish(self, first: bytes = b"", *, erq: bool = True, asks_all: bool = True) -> Steps[None]:
        """End the connection as both should, and see that each request of ours was answered once.

        A client must have gone on asking until then, unless it has a reason not to.
        """
        yield from self.release()
        yield from self.send(first, ERQ if erq else b"", b"" if self.far.is_client else EOF)
        yield from self.until_end()
        if self.far.is_client:
            yield from self.send(EOF)
        self.see_all_answered()
        if asks_all and self.requests < self.far.requests:
            raise Failed(f"it gave up: {self.requests} requests came, {self.far.requests} do if all goes well")

    @property
    def requests(self) -> int:
        """Requests of the far end's application."""
        return sum(got.packet.channel not in (CONTROL_CHANNEL, FRAME_CHANNEL) for got in self.asked)

    def see_all_answered(self) -> None:
        """Raise `Failed` if a request of ours has no response."""
        owed = [key for key in sorted(+self.ledger.unanswered) if key[0] != FRAME_CHANNEL]
        if owed:
            shown = ", ".join(f"{channel}:{tag}" for channel, tag in owed[:5])
            raise Failed(f"{len(owed)} of our requests were never answered: {shown}")

    def until_end(self) -> Steps[None]:
        """Take all that comes, up to EOF or the end of the stream. Raises `Failed` if neither comes."""
        while not self.has_ended:
            came = yield from self._next()
            if isinstance(came, Nothing):
                raise Failed(f"it does not end the connection: {_how(came)}")
            if isinstance(came, Ended) or came.is_eof:
                self.ledger.end_regularly(eof=isinstance(came, Got))

    def until_given_up(self) -> Steps[None]:
        """See that the far end gives the connection up, and answers neither the error nor what came behind it."""
        while not self.has_ended:
            came = yield from self._next()
            if isinstance(came, Nothing):
                raise Failed(f"it goes on as if nothing had happened: {_how(came)}")
            if isinstance(came, Got) and not came.packet.is_request:
                raise Failed("it answers all the same")

    # what applies

    def need(self, feature: Feature | None = None) -> None:
        """Raise `Skipped` if the far end has no capabilities, or lacks a feature."""
        if self.far.features is None:
            raise Skipped("the peer has no capabilities")
        if feature is not None and self.far.features & feature != feature:
            raise Skipped(f"the peer lacks the feature {feature.name} ({int(feature)})")


def _key(got: Got) -> tuple[int, int]:
    return got.packet.channel, got.packet.tag


def _how(came: Got | Ended | Nothing) -> str:
    if isinstance(came, Nothing):
        return f"nothing came for {came.seconds:g} s"
    if isinstance(came, Ended):
        return f"the stream ended: {came.reason}"
    return "EOF came"

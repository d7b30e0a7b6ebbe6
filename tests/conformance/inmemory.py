"""A far end without a stream: our engine with a fault around it, and what runs a check against that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from packetwire import LocalProtocolError, Packet, RequestReceived, StreamEnded
from packetwire.conformance.incoming import Incoming
from packetwire.conformance.play import Outcome, Play, Verdict
from packetwire.conformance.rulechecks import ordinary
from packetwire.conformance.steps import Got
from packetwire.conformance.table import Check
from packetwire.conformance.talk import OURS, FarEnd, Talk
from packetwire.core.capabilities import Capabilities, Mode
from packetwire.core.engine import ConnectionEngine
from packetwire.core.events import PeerDrains
from packetwire.core.hello import Feature, Hello

ERROR = b"\x00"
"""A packet of length 0: the engine gives up."""
FEATURES = OURS.features | Feature.DESCRIBE
"""All that there are checks of."""
QUESTIONS = 3
"""What a client asks, one after the other, before it ends the connection."""

Hook = Callable[["Peer", Got], bytes]


def as_it_is(peer: Peer, got: Got) -> bytes:
    return got.raw


@dataclass(frozen=True)
class Fault:
    """What is wrong with a far end. Each hook returns the bytes in place of those that it is given."""

    incoming: Hook = as_it_is
    outgoing: Hook = as_it_is
    chunk: Callable[[bytes], bytes] = bytes
    broken: Callable[[bytes], bytes] = bytes
    """Of what is no packet, and all behind it."""
    behind_eof: Callable[[bytes], bytes] = bytes
    sees_end: bool = True
    reads_on: bool = True
    """False if it stops reading while much is unread."""
    closes: bool = True
    """False if it never closes the stream."""


NONE = Fault()


class Peer:
    """The far end."""

    def __init__(self, fault: Fault, *, capable: bool = True, asks: bool = False) -> None:
        self.fault = fault
        self.engine = ConnectionEngine(
            capabilities=Capabilities(Mode.AUTO, Hello(features=FEATURES)) if capable else None
        )
        self.taken: list[Got] = []
        """All packets that came, also those that the engine does not see."""
        self.given: list[Got] = []
        """All packets of the engine, also those that do not leave."""
        self.closed = False
        self._incoming, self._outgoing = Incoming(), Incoming()
        self._out = bytearray()
        self._to_ask = QUESTIONS if asks else 0
        self._asks = asks
        self._go_on()

    def receive(self, data: bytes) -> None:
        data = self.fault.chunk(data)
        if self._incoming.has_ended or self._incoming.fault:
            self._feed(self.fault.behind_eof(data))
            return
        for got in self._incoming.feed(data):
            self._feed(self.fault.incoming(self, got))
            self.taken.append(got)
        if self._incoming.fault:
            self._feed(self.fault.broken(self._incoming.partial))
        elif self._incoming.behind_eof:
            self._feed(self.fault.behind_eof(self._incoming.behind_eof))

    def receive_end(self) -> None:
        if self.fault.sees_end and not self.engine.ended:
            if self._incoming.partial:
                self._feed(self._incoming.partial)
            self.engine.receive_eof()
            self.engine.end()
            self._go_on()
            self.closed = True

    def take(self) -> bytes:
        """What it has sent."""
        out = bytes(self._out)
        self._out.clear()
        return out

    @property
    def reads(self) -> bool:
        return self.fault.reads_on or len(self._out) < 10_000

    def _feed(self, data: bytes) -> None:
        if self.closed or not data:
            return
        for event in self.engine.receive(data):
            if isinstance(event, RequestReceived):
                self._answer(event)
            elif isinstance(event, PeerDrains):
                self._to_ask = 0
            elif isinstance(event, StreamEnded):
                self.engine.end()
        self._go_on()

    def _answer(self, request: RequestReceived) -> None:
        try:
            self.engine.respond(request.channel, request.tag, True, 0, request.payload)
        except LocalProtocolError:
            self.engine.respond_failure(request.channel, request.tag, b"too large")

    def _go_on(self) -> None:
        """Ask the next question of a client, or end, and pass on what the engine has to say."""
        if self._asks and not self.engine.waiters:
            if self._to_ask and self.engine.may_request:
                self._to_ask -= 1
                self.engine.request(1, payload=b"?")
            else:
                self.engine.end()
        for got in self._outgoing.feed(b"".join(self.engine.data_to_send())):
            self._out += self.fault.outgoing(self, got)
            self.given.append(got)
        self.engine.data_sent()
        if self.engine.ended and self._outgoing.has_ended and self.fault.closes:
            self.closed = True


def run(check: Check, fault: Fault = NONE, *, capable: bool = True, client: bool = False) -> Outcome:
    """The outcome of a check against a far end with a fault."""
    peer = Peer(fault, capable=capable, asks=client)
    talk = Talk(FarEnd(is_client=client, requests=QUESTIONS * client, features=FEATURES if capable else None))
    play = Play(check.steps(talk), talk)
    told = False
    while play.outcome is None:
        data = b"" if play.is_deaf else peer.take()
        if data:
            play.receive(data)
        elif play.outbox and peer.reads:
            deliver(play, peer)
        elif play.ends_writing and not told:
            told = True
            peer.receive_end()
        elif peer.closed:
            play.end("closed")
        else:
            play.time_out(5)
    if data := peer.take():
        play.receive(data)  # it may have said too much in the end
    return judged(check, play.outcome, talk)


def deliver(play: Play, peer: Peer) -> None:
    step = play.outbox[0]
    size = 1 if step.piecemeal else 1000 if step.deaf else len(step.data)
    for start in range(0, len(step.data), size):
        if not peer.reads:
            return
        peer.receive(step.data[start : start + size])
    play.outbox.popleft()


def judged(check: Check, outcome: Outcome, talk: Talk) -> Outcome:
    """The outcome by the rule of a check, if it has one."""
    if check.rule in talk.ledger.broken:
        return Outcome(Verdict.FAILED, talk.ledger.broken[check.rule])
    if check.steps is ordinary and not talk.ledger.occasions[check.rule]:
        return Outcome(Verdict.SKIPPED)
    return outcome


# faults


def remade(got: Got, **fields: object) -> bytes:
    """The bytes of a packet with other fields."""
    return bytes(Packet(**(got.packet._asdict() | fields)))  # type: ignore[arg-type]


def refuses(wanted: Callable[[Got], bool]) -> Fault:
    """It takes something that is right for an error."""
    return Fault(incoming=lambda peer, got: ERROR if wanted(got) else got.raw)


def ignores(wanted: Callable[[Got], bool]) -> Fault:
    """It does not see something."""
    return Fault(incoming=lambda peer, got: b"" if wanted(got) else got.raw)


def keeps_back(wanted: Callable[[Got], bool]) -> Fault:
    """It does not send something."""
    return Fault(outgoing=lambda peer, got: b"" if wanted(got) else got.raw)


def changes(wanted: Callable[[Got], bool], change: Callable[[Got], bytes]) -> Fault:
    """It sends something else."""
    return Fault(outgoing=lambda peer, got: change(got) if wanted(got) else got.raw)

"""Two engines back to back, in memory: octets travel in any portions, and the connection can be cut anywhere.

A `Side` is an engine with what its owner has: waiters, requests to answer, a batch that is half written. It
keeps account of both, and `check` compares that with the engine's own.
"""

from __future__ import annotations

from packetwire import ConnectionEnded, RequestReceived, ResponseReceived, StreamEnded
from packetwire.core.engine import NO_HANDLER, REQUESTS_ENDED, ConnectionEngine

REFUSING_TEXTS = (NO_HANDLER, REQUESTS_ENDED, b"too many requests", b"too much to do")

Answer = tuple[bool, int, bytes]


class Side:
    """One end. `waiters` are numbers; each gets exactly one outcome."""

    def __init__(self, name: str, engine: ConnectionEngine) -> None:
        self.name = name
        self.engine = engine
        self.peer: Side = self
        self.requests: list[tuple[int, int, int, int, bytes]] = []  # channel, tag, rq_type, flags, payload
        self.outcomes: dict[int, str | Answer] = {}
        self.received: list[RequestReceived] = []
        self.to_answer: list[RequestReceived] = []
        self.answers: dict[tuple[int, int], Answer] = {}
        self.ends: list[StreamEnded] = []
        self.batch = 0
        self.outgoing = bytearray()  # of the batch, not yet on the wire
        self.wire = bytearray()  # on its way to this side
        self.closed = False  # nothing follows what is on the wire
        self.arrived = 0
        self.cut_at: int | None = None  # how many octets arrive in all

    # what its owner does

    def ask(self, channel: int, rq_type: int, flags: int, payload: bytes) -> None:
        waiter = len(self.requests)
        tag = self.engine.request(rq_type, flags, payload, channel=channel, waiter=waiter)
        self.requests.append((channel, tag, rq_type, flags, payload))

    def answer(self, request: RequestReceived, answer: Answer) -> None:
        self.to_answer.remove(request)
        if self.engine.respond(request.channel, request.tag, *answer):
            self.answers[request.channel, request.tag] = answer

    def abandon(self, text: str) -> None:
        if self.engine.send_failure is None:
            for request in self.to_answer:
                self.answers[request.channel, request.tag] = (False, 0, text.encode())
        self.engine.abandon(text)
        self.to_answer.clear()

    def give_up(self, waiter: int) -> None:
        channel, tag, *_ = self.requests[waiter]
        assert self.engine.forget(channel, tag)
        self.conclude(waiter, "given up")

    def fail(self, text: str) -> None:
        for event in self.engine.fail(ConnectionEnded(text)):
            self.happen(event)
        self.stop_writing()

    def send_failed(self) -> None:
        self.engine.send_failed(BrokenPipeError())
        self.stop_writing()

    def stop_writing(self) -> None:
        self.outgoing.clear()
        self.batch = 0
        self.to_answer.clear()
        self.peer.closed = True

    # its stream

    def write(self, size: int) -> bool:
        """Write up to `size` octets, false if there are none."""
        if not self.outgoing:
            self.outgoing += b"".join(self.engine.data_to_send())
            self.batch = len(self.outgoing)
        if not self.outgoing:
            return False
        if self.peer.closed:
            self.send_failed()
            return True
        self.peer.arrive(self.outgoing[:size])
        del self.outgoing[:size]
        if not self.outgoing:
            self.outgoing += b"".join(self.engine.more_data_to_send())
            self.batch = len(self.outgoing)
        return True

    def arrive(self, octets: bytearray) -> None:
        if self.cut_at is not None:
            del octets[self.cut_at - self.arrived :]
            self.closed = self.arrived + len(octets) == self.cut_at
        self.wire += octets
        self.arrived += len(octets)

    def read(self, size: int) -> bool:
        """Receive up to `size` octets or the end, false if there is neither."""
        octets = bytes(self.wire[:size])
        del self.wire[:size]
        could_write = self.engine.send_failure is None
        if octets:
            events = self.engine.receive(octets)
        elif self.closed and not self.ends:
            events = self.engine.receive_eof()
        else:
            return False
        for event in events:
            self.happen(event)
        if could_write and self.engine.send_failure is not None:
            self.stop_writing()
        if not self.engine.owed:
            self.to_answer.clear()  # a peer that broke the protocol is owed nothing
        return True

    def close_if_over(self) -> None:
        """The owner closes the stream once both directions have ended and all is written."""
        if self.ends and not self.outgoing and not self.engine.unsent_octets and not self.engine.owed:
            self.peer.closed = True

    # what happened

    def happen(self, event: object) -> None:
        assert not self.ends, f"{event} after the end"
        if isinstance(event, RequestReceived):
            self.received.append(event)
            self.to_answer.append(event)
        elif isinstance(event, ResponseReceived):
            self.conclude(event.waiter, (event.ok, event.flags, event.payload))
            assert (event.channel, event.tag) == self.requests[event.waiter][:2]
        elif isinstance(event, StreamEnded):
            self.ends.append(event)
            for waiter in event.lost:
                self.conclude(waiter, "lost")

    def conclude(self, waiter: int, outcome: str | Answer) -> None:
        assert waiter not in self.outcomes, f"waiter {waiter} of {self.name} concluded twice"
        self.outcomes[waiter] = outcome

    def waiting(self) -> list[int]:
        return [waiter for waiter in range(len(self.requests)) if waiter not in self.outcomes]

    def check(self) -> None:
        engine = self.engine
        assert engine.outstanding == len(self.waiting())
        assert engine.owed == len(self.to_answer)
        assert engine._inbound_bytes == sum(len(request.payload) for request in self.to_answer)
        assert engine.unsent_octets == sum(map(len, engine.unsent)) + self.batch
        for waiter, outcome in self.outcomes.items():
            if isinstance(outcome, tuple):
                self.check_answer(waiter, outcome)

    def check_answer(self, waiter: int, answer: Answer) -> None:
        """It is what the peer answered to this very request, or a refusal."""
        channel, tag, *asked = self.requests[waiter]
        if (channel, tag) in self.peer.answers:
            assert answer == self.peer.answers[channel, tag]
            assert [list(r[2:]) for r in self.peer.received if r[:2] == (channel, tag)] == [asked]
        else:
            assert answer[:2] == (False, 0)
            assert answer[2].startswith(REFUSING_TEXTS)

    def check_over(self) -> None:
        """Everything has its outcome, and nothing is left."""
        self.check()
        engine = self.engine
        assert len(self.ends) == 1
        assert self.ends[0] is engine.ended
        assert self.waiting() == []
        assert (engine.outstanding, engine.owed, engine.unsent_octets) == (0, 0, 0)
        assert not any((engine.waiters, engine._inbound, engine.unsent, engine._inbound_bytes))
        assert not any(
            (engine._unsent_replies, engine._batch_replies, engine._unsent_refusals, engine._batch_refusals)
        )
        assert engine.trailing_octets == b""
        assert not self.wire


class Pair:
    """Two sides, connected."""

    def __init__(self, **bounds: int) -> None:
        self.a, self.b = Side("a", ConnectionEngine(**bounds)), Side("b", ConnectionEngine(**bounds))
        self.a.peer, self.b.peer = self.b, self.a

    @property
    def sides(self) -> tuple[Side, Side]:
        return self.a, self.b

    def move(self) -> None:
        """Everything that is on its way arrives."""
        moved = True
        while moved:
            moved = False
            for side in self.sides:
                while side.write(1 << 20):
                    moved = True
                while side.read(1 << 20):
                    moved = True
                side.close_if_over()

    def finish(self) -> None:
        """Both ends end, answering what they were asked."""
        for side in self.sides:
            side.engine.end()
        while True:
            self.move()
            owing = [side for side in self.sides if side.to_answer]
            if not owing:
                return
            for side in owing:
                side.answer(side.to_answer[-1], (True, 0, b"at last"))

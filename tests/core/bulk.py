"""Two engines with large payloads and bodies both ways, whose owners do anything at any moment.

`python -m tests.core.bulk 10000 [FIRST_SEED]` tries so many seeds; each that fails is printed, and the status is 1.
Of each seed come sizes, credits, features and steps: requests, bodies that are written, read and stopped, cancels,
ends of requests, and in half of all runs an end of the connection in the middle (`ENDINGS`).
"""

from __future__ import annotations

import sys
import traceback
from random import Random
from typing import Any

from packetwire import ConnectionEnded, Draining, LimitExceeded, PacketwireError
from packetwire.core import engine
from packetwire.core.bodies import CallBodies, ReceivingBody, SendingBody
from packetwire.core.engine import BODY_LOST, NOT_BEGUN
from packetwire.core.events import CancelReceived, Event, RequestReceived, ResponseReceived, StreamEnded
from packetwire.core.frames import Meta
from packetwire.core.hello import ALL_FEATURES, Feature, Hello
from packetwire.core.receivingbody import POOL
from packetwire.core.requestcontext import RequestContext
from packetwire.core.statuses import StatusCode

from .agreed import engine_of, known

PIECES_ABOVE = 128 << 10
"""Less than usual, so that the payloads need not be that large."""
PATTERN = bytes(range(251)) * 2000
"""Bytes by whose place in a payload or body one sees that they are the right ones; each begins elsewhere."""


RESPONSE = 100
"""The body of a response begins so much later in the pattern than that of its request."""


def pattern(begin: int, size: int, offset: int = 0) -> bytes:
    start = (begin + offset) % 251
    return (PATTERN[start : start + size] + PATTERN[:start])[:size] if size <= len(PATTERN) else b""


REFUSALS = (b"no", b"too many bodies are open", BODY_LOST, b"requests no longer allowed", NOT_BEGUN)
"""Why a request fails that nobody has given up."""


class Writer:
    """Somebody who writes a body, all of it or until he is told that nobody wants it."""

    def __init__(self, begin: int, body: SendingBody, size: int, *, is_request: bool) -> None:
        self.begin, self.body, self.size, self.is_request = begin, body, size, is_request
        self.written = 0
        self.over = False

    def write(self, random: Random) -> None:
        size = min(self.size - self.written, random.choice((1, 100, 5000, 70_000)))
        try:
            if size:
                self.body.write(pattern(self.begin, size, self.written))
                self.written += size
            if self.written == self.size:
                self.body.finish()
                self.over = True
        except PacketwireError:
            assert self.body.ended is not None
            self.over = True


class Reader:
    """Somebody who reads a body, and knows what should be in it."""

    def __init__(self, begin: int, body: ReceivingBody) -> None:
        self.begin, self.body, self.read = begin, body, 0

    def take(self, most: int | None) -> bool:
        data = self.body.take(most)
        assert data == pattern(self.begin, len(data), self.read), "a byte in the wrong place"
        self.read += len(data)
        return bool(data)


class Side:
    """One end, its user, and the stream to it."""

    def __init__(self, random: Random, hello: Hello) -> None:
        self.random = random
        self.engine = engine_of(own=hello)
        self.stream = bytearray()
        self.calls: dict[int, dict[str, Any]] = {}  # by their number
        self.todo: dict[tuple[int, int], tuple[RequestContext | None, int]] = {}
        self.writers: list[Writer] = []
        self.readers: list[Reader] = []
        self.ended: StreamEnded | None = None
        self.is_cut = False
        """Nothing it writes arrives any more."""
        self.peer: Side

    # what a user may do

    def request(self) -> None:
        random = self.random
        begin = random.randrange(251)
        channel = random.choice((0, 0, 0, 16))
        payload_size = random.choice((0, 10, 10, 1000, 140_000, 300_000))
        if random.random() < 0.6 and self.has_bodies:
            has_body, takes = random.choice(((True, False), (False, True), (True, True)))
            size = random.choice((0, 10, 3000, 200_000, 500_000))
            announced = random.random() < 0.5 if has_body else False
            self.ask(begin, payload_size, channel, size if has_body else None, takes=takes, announced=announced)
        else:
            self.ask(begin, payload_size, channel)

    def ask(
        self,
        begin: int,
        payload_size: int,
        channel: int = 0,
        body_size: int | None = None,
        *,
        takes: bool = False,
        announced: bool = False,
    ) -> None:
        """A request whose payload, and maybe body, begins so far in the pattern."""
        payload = pattern(begin, payload_size)
        bodies = None if body_size is None and not takes else CallBodies()
        number = len(self.calls)
        call = self.calls[number] = {
            "told": [],
            "begin": begin,
            "bodies": bodies,
            "channel": channel,
            "gave up": False,
        }
        waiter = Told(call)
        try:
            if bodies is None:
                call["tag"] = self.engine.request(begin, 0, payload, channel=channel, waiter=waiter)
            else:
                meta = Meta(
                    has_body=body_size is not None,
                    body_size=body_size if announced else None,
                    response_credit=self.engine.first_credit if takes else None,
                    metadata={"begin": bytes([begin])},
                )
                call["tag"] = self.engine.ask_with(meta, begin, 0, payload, channel, waiter, bodies)
        except (ConnectionEnded, LimitExceeded, Draining):
            del self.calls[number]
            return
        if bodies is not None:
            if bodies.request is not None:
                assert body_size is not None
                self.writers.append(Writer(begin, bodies.request, body_size, is_request=True))
            if bodies.response is not None:
                self.readers.append(Reader(begin + RESPONSE, bodies.response))

    @property
    def has_bodies(self) -> bool:
        return known(self.engine).have(Feature.BODIES)

    def cancel(self) -> None:
        waiting = [call for call in self.calls.values() if not call["told"]]
        if waiting:
            call = self.random.choice(waiting)
            call["gave up"] = True
            if self.random.random() < 0.5 and self.engine.forget(call["channel"], call["tag"]):
                call["told"].append("given up")
            self.engine.cancel(call["channel"], call["tag"])

    def write_body(self) -> None:
        if self.writers:
            writer = self.random.choice(self.writers)
            writer.write(self.random)
            if writer.over:
                self.writers.remove(writer)

    def read_body(self) -> None:
        if self.readers:
            reader = self.random.choice(self.readers)
            if not reader.take(self.random.choice((None, 1, 1000, 100_000))) and self.random.random() < 0.8:
                reader.body.wait()

    def stop_body(self) -> None:
        if self.readers and self.random.random() < 0.3:
            self.random.choice(self.readers).body.stop(StatusCode.BUSY, "enough")

    def answer(self) -> None:
        if self.todo:
            random = self.random
            key = random.choice(list(self.todo))
            sizes = random.choice((0, 5, 140_000)), random.choice((0, 10, 300_000))
            self.respond(key, *sizes, ok=random.random() < 0.8)

    def respond(self, key: tuple[int, int], payload_size: int, body_size: int, *, ok: bool = True) -> None:
        """Answer a request; with a body, if its caller takes one."""
        context, begin = self.todo.pop(key)
        if context is not None and context.response_body is not None:
            writer = Writer(begin + RESPONSE, context.response_body, body_size, is_request=False)
            while not writer.over:
                writer.write(self.random)
        self.engine.respond(*key, ok, 0, pattern(begin, payload_size) if ok else b"no")

    def end_requests(self) -> None:
        self.engine.end_requests()

    # how it ends

    def lose_stream(self, more: int) -> None:
        """The stream to the peer ends behind so many bytes of what is on its way, and no byte comes from there."""
        self.is_cut = self.peer.is_cut = True
        self.stream.clear()
        del self.peer.stream[more:]

    def fail(self) -> None:
        """Its owner gives the stream up; the peer finds that out."""
        self.is_cut = self.peer.is_cut = True
        self.hear_all(self.engine.fail(ConnectionEnded("given up")))

    def lose_writing(self) -> None:
        """Nothing can be written any more, though the peer is still heard."""
        self.is_cut = True
        self.engine.send_failed(BrokenPipeError())

    def break_off(self) -> None:
        """It ends its direction with a reason, which the peer hears."""
        self.engine.break_off("tired of it")

    def end(self) -> None:
        """It closes, and waits for nothing but what it owes."""
        self.engine.end()

    def garble(self) -> None:
        """The peer does not understand what comes."""
        self.peer.stream += b"\xff" * 12
        self.is_cut = True

    def see_end(self) -> None:
        """What the system says of a stream that was cut: writing fails, behind the last byte it is at its end."""
        if self.is_cut and self.engine.send_failure is None:
            self.engine.send_failed(BrokenPipeError())
        if self.peer.is_cut and not self.stream and self.ended is None:
            self.hear_all(self.engine.receive_eof())

    # what happens

    def hear_all(self, events: list[Event]) -> None:
        for event in events:
            self.hear(event)

    def write(self) -> None:
        data = b"".join(self.engine.data_to_send())
        if not self.is_cut:
            self.peer.stream += data
        if self.random.random() < 0.9:
            self.engine.data_sent()

    def read(self, size: int) -> None:
        data = bytes(self.stream[:size])
        del self.stream[:size]
        self.hear_all(self.engine.receive(data))
        self.check_bounds()

    def hear(self, event: Event) -> None:
        match event:
            case RequestReceived(channel, tag, rq_type, _, payload):
                assert payload == pattern(rq_type, len(payload))
                context = self.engine.contexts.get((channel, tag) if channel else tag)
                self.todo[channel, tag] = context, rq_type
                if context is not None and context.body is not None:
                    self.readers.append(Reader(rq_type, context.body))
            case ResponseReceived(_, _, ok, _, payload, waiter):
                call = waiter.call
                assert not ok or payload == pattern(call["begin"], len(payload))
                assert ok or payload in REFUSALS or call["gave up"], payload
                call["told"].append(ok)
                bodies = call["bodies"]
                if bodies is not None and bodies.response is not None:
                    assert bodies.response.is_whole == (ok and bodies.response.failure is None)
            case CancelReceived(channel, tag):
                assert (channel, tag) in self.todo
            case StreamEnded(_, lost):
                self.ended = event
                for waiter in lost:
                    waiter.call["told"].append("lost")

    def check_bounds(self) -> None:
        """The argument of the specification: nobody holds more than the windows, and these are bounded."""
        engine = self.engine
        if engine.bodies is None:
            return
        open_bodies = list(engine.bodies.windows.open)
        own = known(engine).own
        assert len(open_bodies) <= own.max_bodies
        for body in open_bodies:
            assert 0 <= body.available <= body._granted - body.consumed <= body.window
        assert sum(body.window for body in open_bodies) <= own.max_bodies * own.body_credit + POOL
        assert engine.pieces.held == sum(
            sum(map(len, each.pieces))
            for table in (engine._unfinished, engine._collected)
            for each in table.values()
        )

    STEPS = (
        *(request, request, answer, write_body, write_body, write_body, write_body),
        *(read_body, read_body, read_body, write, write, write, write),
    )


class Told:
    """A waiter: what its call was told."""

    def __init__(self, call: dict[str, Any]) -> None:
        self.call = call

    def set_response(self, ok: bool, flags: int, payload: bytes) -> None:
        assert not ok
        assert payload == b"cancelled"
        self.call["told"].append(ok)

    def fail(self, cause: Exception) -> None:
        assert isinstance(cause, ConnectionEnded)
        self.call["told"].append("failed")


def pair(random: Random) -> tuple[Side, Side]:
    """Two that have agreed on everything, or on all but pieces or bodies."""
    features = random.choice((ALL_FEATURES,) * 4 + (ALL_FEATURES & ~Feature.PIECES, ALL_FEATURES & ~Feature.BODIES))
    sides = [
        Side(
            random,
            Hello(
                features=features,
                body_credit=random.choice((1, 100, 20_000, 262_144)),
                max_bodies=random.choice((2, 64)),
                max_piece=random.choice((1024, 50_000, 262_144)),
            ),
        )
        for _ in range(2)
    ]
    a, b = sides
    a.peer, b.peer = b, a
    a.engine.ask_capabilities()
    settle(a, b)
    return a, b


def settle(a: Side, b: Side) -> None:
    """All arrives, all is written, read and answered."""
    for _ in range(1_000_000):
        moved = False
        for side in (a, b):
            while side.engine.unsent:
                side.write()
                side.engine.data_sent()
            side.see_end()
            moved = moved or bool(side.stream or side.peer.stream or side.todo or side.writers)
            side.read(1 << 20)
            side.write_body()
            for reader in list(side.readers):
                while reader.take(None):
                    moved = True
                reader.body.wait()
                if reader.body.at_end or reader.body.failure is not None:
                    side.readers.remove(reader)
            side.answer()
            moved = moved or bool(side.engine.unsent)
        if not moved:
            return
    raise AssertionError("it does not come to an end")


def check_that_nothing_is_left(a: Side, b: Side) -> None:
    for side in (a, b):
        engine = side.engine
        engine.data_sent()
        assert side.ended is not None
        assert [call for call in side.calls.values() if len(call["told"]) != 1] == []
        assert not side.readers, [(r.body.received, r.body._granted, r.body.is_whole) for r in side.readers]
        assert not side.writers
        assert (engine.waiters, engine.contexts, engine.owed, engine.unsent_octets) == ({}, {}, 0, 0)
        assert (engine.pieces.held, engine._unfinished, engine._collected) == (0, {}, {})
        assert engine.is_settled
        if engine.lane is not None:
            assert engine.lane.is_empty
            assert (engine.lane.waiting, engine.lane.replies, engine.lane.requests) == (0, 0, {})
        if engine.bodies is not None:
            assert (engine.bodies.held, engine.bodies.exchanges, engine.bodies.trailing) == (0, 0, {})
            assert engine.bodies.windows.open == {}


ENDINGS = ("cut", "fail", "lose_writing", "break_off", "end", "garble")


def end_somehow(random: Random, side: Side) -> None:
    """One of `ENDINGS`."""
    how = random.choice(ENDINGS)
    if how == "cut":
        side.lose_stream(random.choice((0, 1, 3, 100, random.randrange(100_000))))
    else:
        getattr(side, how)()


def run(seed: int, steps: int = 250) -> tuple[Side, Side]:
    """One life of a connection."""
    random = Random(seed)
    a, b = sides = pair(random)
    ends_from = random.randrange(2 * steps)
    ends_at = random.randrange(2 * steps)
    for number in range(steps):
        if number == ends_at:
            end_somehow(random, random.choice(sides))
        side = random.choice(sides)
        chance = random.random()
        if chance < 0.3:
            side.read(random.choice((1, 7, 100, 5000, 300_000)))
        elif chance < 0.33:
            random.choice((Side.cancel, Side.stop_body))(side)
        elif number > ends_from and chance < 0.34:
            side.end_requests()
        else:
            random.choice(Side.STEPS)(side)
    settle(a, b)
    a.engine.end()
    b.engine.end()
    settle(a, b)
    check_that_nothing_is_left(a, b)
    return a, b


def main() -> int:
    """Try seeds."""
    engine.PIECES_ABOVE = PIECES_ABOVE
    count, first = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    failed = 0
    for seed in range(first, first + count):
        try:
            run(seed)
        except Exception:
            failed += 1
            print(f"seed {seed}:", traceback.format_exc(limit=-4), flush=True)
    print(f"{count} seeds, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

"""Two engines that do anything in any order: only what is documented comes of it, one answer to each request."""

from __future__ import annotations

from random import Random
from typing import Any, get_args

import pytest

from packetwire import (
    ConnectionEnded,
    Draining,
    LimitExceeded,
    LocalProtocolError,
    PeerClosed,
    PeerEndedRequests,
    ProtocolMismatch,
    RequestReceived,
    ResponseReceived,
    StreamEnded,
)
from packetwire.core.capabilities import Mode
from packetwire.core.control import channel_and_tag
from packetwire.core.engine import ENDINGS, ConnectionEngine
from packetwire.core.events import (
    CancelReceived,
    ControlAnswered,
    Event,
    PeerCapabilities,
    PeerDrains,
    ProgressReceived,
)
from packetwire.core.frames import Meta
from packetwire.core.hello import ALL_FEATURES, NO_FEATURES, Feature, Hello
from packetwire.core.statuses import StatusCode

from .agreed import engine_of, known

MAX_OUTSTANDING = 20
FEATURES = [ALL_FEATURES, ALL_FEATURES, NO_FEATURES, *(Feature(1 << bit) for bit in (0, 1, 4, 5)), Feature(0x32)]
PROTOCOLS = [None] * 6 + ["shop", "bank"]


class Waiter:
    """Counts what it is told."""

    def __init__(self, side: Side, what: str) -> None:
        self.side, self.what, self.told = side, what, 0
        self.tag = self.channel = 0

    def fail(self, cause: Exception) -> None:
        self.told += 1
        assert isinstance(cause, ConnectionEnded)


class Side:
    """One end, its user, and the stream to it."""

    def __init__(self, random: Random, number: int, *, mode: Mode | None, hello: Hello) -> None:
        self.random, self.number = random, number
        bounds: dict[str, int] = {"max_outstanding": MAX_OUTSTANDING, "max_inbound": random.choice((5, 1000))}
        self.engine = ConnectionEngine(**bounds) if mode is None else engine_of(mode, hello, **bounds)  # type: ignore[arg-type]
        self.stream = bytearray()
        self.waiters: list[Waiter] = []
        self.todo: dict[tuple[int, int], None] = {}
        self.gave_up: set[Waiter] = set()
        self.now = 100.0
        self.ended: StreamEnded | None = None
        self.drains = False
        self.peer: Side

    # what a user may do

    def request(self) -> None:
        waiter = Waiter(self, "request")
        channel = self.random.choice((0, 0, 16))
        payload = self.random.randbytes(self.random.choice((0, 3, 200)))
        try:
            if self.random.random() < 0.5 and self.has(Feature.META):
                left = self.random.choice((None, 0, 5000))
                interval = self.random.choice((None, 0, 5)) if self.has(Feature.PROGRESS) else None
                meta = Meta(milliseconds_left=left, progress_interval=interval, metadata={"key": b"value"})
                tag = self.engine.ask_with(meta, 1, 0, payload, channel, waiter)
            else:
                tag = self.engine.request(1, 0, payload, channel=channel, waiter=waiter)
        except Draining:
            assert self.drains
        except ProtocolMismatch:
            assert known(self.engine).own.protocol != known(self.peer.engine).own.protocol
        except LimitExceeded:
            assert self.engine.outstanding == MAX_OUTSTANDING
        except ConnectionEnded:
            assert not self.engine.may_request
        else:
            waiter.tag, waiter.channel = tag, channel
            self.waiters.append(waiter)

    def cancel(self) -> None:
        waiting = [each for each in self.waiters if each.what == "request" and not each.told]
        if waiting:
            waiter = self.random.choice(waiting[-8:])
            is_told = self.engine.cancel(
                waiter.channel, waiter.tag, self.random.choice((StatusCode(1), StatusCode(2)))
            )
            assert not is_told or self.has(Feature.CANCEL)
            if self.random.random() < 0.3 and self.engine.forget(waiter.channel, waiter.tag):
                self.gave_up.add(waiter)
                waiter.told += 1

    def answer(self) -> None:
        if self.todo:
            key = self.random.choice(list(self.todo))
            del self.todo[key]
            match self.random.randrange(4):
                case 0:
                    is_sent = self.engine.refuse(
                        *key, b"no", self.random.choice(list(StatusCode)[1:3]), begun=False
                    )
                case 1:
                    is_sent = self.engine.respond_failure(*key, b"no")
                case _:
                    is_sent = self.engine.respond(*key, True, 0, self.random.randbytes(3))
            assert is_sent

    def report(self) -> None:
        self.now += self.random.choice((0.0, 0.001, 1.0))
        if self.todo:
            key = self.random.choice(list(self.todo))
            self.engine.report(*key, b"so far", self.now)
        assert not self.engine.report(0, 10_000, b"", self.now)

    def ping(self) -> None:
        self._control(lambda waiter: self.engine.ping(b"p" * self.random.choice((0, 32, 33)), waiter))

    def drain(self) -> None:
        self._control(lambda waiter: self.engine.drain(self.random.choice((None, 5)), "why", waiter))
        self.peer.drains = True

    def _control(self, send: Any) -> None:
        waiter = Waiter(self, "control")
        try:
            send(waiter)
        except LocalProtocolError:
            assert self.engine.control is None or not known(self.engine).has_agreed
        except ConnectionEnded:
            assert self.engine.ended is not None or not self.engine._may_answer
        else:
            self.waiters.append(waiter)

    def hello(self) -> None:
        self.engine.ask_capabilities()

    def wind_down(self) -> None:
        self.peer.drains = True
        self.engine.wind_down(5000)

    def end_requests(self) -> None:
        self.engine.end_requests()

    def end(self) -> None:
        if self.random.random() < 0.5:
            self.peer.drains = True
            self.engine.tell_why("enough")
        self.engine.end()

    def abandon(self) -> None:
        self.todo.clear()
        self.engine.abandon("no more")

    # what happens

    def has(self, feature: Feature) -> bool:
        return self.engine.control is not None and known(self.engine).have(feature)

    def write(self) -> None:
        self.peer.stream += b"".join(self.engine.data_to_send())
        if self.random.random() < 0.9:
            self.engine.data_sent()

    def read(self, size: int) -> None:
        data = bytes(self.stream[:size])
        del self.stream[:size]
        self.engine.now = self.now
        for event in self.engine.receive(data):
            self.hear(event)
        unfinished = [key for key in self.engine.contexts if not self.engine.owes(*channel_and_tag(key))]
        assert len(unfinished) <= 1, "that of a request which is arriving"

    def hear(self, event: Event) -> None:
        assert isinstance(event, get_args(Event))
        assert self.ended is None, "nothing comes behind the end"
        match event:
            case RequestReceived(channel, tag):
                assert (channel, tag) not in self.todo
                self.todo[channel, tag] = None
            case CancelReceived(channel, tag):
                assert (channel, tag) in self.todo
                assert self.has(Feature.CANCEL)
            case ResponseReceived(channel, tag, ok, flags, payload, waiter):
                assert (waiter.side, waiter.channel, waiter.tag) == (self, channel, tag)
                assert ok or payload
                assert self.engine.status_of(flags).code is not StatusCode.DRAINING or ok, "it asked in time"
                waiter.told += 1
            case ProgressReceived(channel, tag, payload, waiter):
                assert (waiter.side, waiter.channel, waiter.tag, waiter.told) == (self, channel, tag, 0)
                assert payload == b"so far"
            case ControlAnswered(ok, payload, waiter):
                assert waiter.what == "control"
                assert ok or payload == b"a PING of more than 32 bytes"
                waiter.told += 1
            case PeerDrains(milliseconds, text):
                assert self.drains
                assert (milliseconds, text) in {
                    (None, "why"),
                    (5, "why"),
                    (5000, "the server stops"),
                    (0, "enough"),
                }
            case PeerCapabilities(_, features):
                assert features == known(self.engine).features
            case PeerEndedRequests():
                pass
            case StreamEnded(cause, lost, clean):
                self.ended = event
                assert clean
                assert isinstance(cause, PeerClosed), cause
                for waiter in lost:
                    waiter.told += 1

    STEPS = (
        *(request, request, request, request, cancel, cancel, answer, answer, answer, report, report, ping),
        *(hello, write, write, write),
    )
    ENDS = (drain, wind_down, end_requests, end, abandon)


def two_sides(random: Random, modes: tuple[Mode | None, Mode | None], alike: bool = False) -> tuple[Side, Side]:
    features = random.choice(FEATURES)
    hellos = [
        Hello(features=features if alike else random.choice(FEATURES), protocol=random.choice(PROTOCOLS))
        for _ in modes
    ]
    a, b = (Side(random, i, mode=modes[i], hello=hellos[i]) for i in range(2))
    a.peer, b.peer = b, a
    return a, b


def settle(a: Side, b: Side) -> None:
    """All arrives, and all is answered."""
    while a.engine.unsent or b.engine.unsent or a.stream or b.stream or a.todo or b.todo:
        for side in (a, b):
            side.write()
            side.engine.data_sent()
            side.read(a.random.randrange(1, 500))
            side.answer()


def check_that_nothing_is_left(*sides: Side) -> None:
    for side in sides:
        engine = side.engine
        engine.data_sent()
        assert side.ended is not None
        assert [waiter.what for waiter in side.waiters if waiter.told != 1] == []
        assert not engine.waiters
        assert engine.owed == 0
        assert engine.contexts == {}
        assert engine.is_settled
        if engine.control is not None:
            assert engine.control.reports == {}
            assert engine.control.take_waiters() == []


def run(random: Random, modes: tuple[Mode | None, Mode | None]) -> tuple[Side, Side]:
    a, b = sides = two_sides(random, modes, alike=random.random() < 0.5)
    ends_from = random.randrange(400)
    for number in range(random.randrange(20, 400)):
        side = random.choice(sides)
        if random.random() < 0.25:
            side.read(random.choice((1, 5, 50, 2000)))
        elif number >= ends_from and random.random() < 0.05:
            random.choice(Side.ENDS)(side)
        else:
            random.choice(Side.STEPS)(side)
    settle(a, b)
    for side in sides:
        if random.random() < 0.5:
            side.wind_down()
        settle(a, b)
    a.end()
    b.end()
    settle(a, b)
    return a, b


@pytest.mark.parametrize("mode_b", [None, Mode.AUTO, Mode.PASSIVE, Mode.REQUIRE])
@pytest.mark.parametrize("mode_a", [None, Mode.AUTO, Mode.PASSIVE, Mode.REQUIRE])
def test_anything_in_any_order(mode_a: Mode | None, mode_b: Mode | None) -> None:
    told: set[str] = set()
    for seed in range(25):
        a, b = run(Random(f"{mode_a} {mode_b} {seed}"), (mode_a, mode_b))
        check_that_nothing_is_left(a, b)
        for side in (a, b):
            told.add("barred" if side.engine.barred is not None else "free")
            told.add("agreed" if side.engine.control is not None and known(side.engine).has_agreed else "alone")
    if mode_a is not None and mode_b is not None:
        assert told >= {"barred", "free", "agreed"}
    else:
        assert told == {"free", "alone"}


@pytest.mark.parametrize("seed", range(40))
def test_a_server_stops_and_no_call_fails(seed: int) -> None:
    """Both have DRAIN: whenever the server stops, what was asked is done, and nothing that is asked is refused."""
    random = Random(seed)
    a, b = sides = two_sides(random, (Mode.AUTO, Mode.AUTO))
    for side in sides:
        capabilities = known(side.engine)
        capabilities.own = Hello(features=ALL_FEATURES)
        side.engine.max_inbound = 1000
    a.hello()
    settle(a, b)
    steps = [Side.request, Side.request, Side.write, Side.write, Side.answer, Side.report, Side.ping]
    for number in range(300):
        side = random.choice(sides)
        if number == 100:
            b.wind_down()
        elif random.random() < 0.3:
            side.read(random.choice((1, 20, 500)))
        elif side is a or number < 100 or random.random() < 0.5:
            random.choice(steps)(side)
    settle(a, b)
    check_that_nothing_is_left(a, b)
    assert isinstance(a.engine.barred, Draining)
    for side in sides:
        assert side.ended is not None
        assert [waiter for waiter in side.ended.lost if waiter.what == "request"] == []
        assert not any(ending.decode() in str(side.ended.cause) for ending in ENDINGS)

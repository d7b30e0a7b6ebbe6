"""Two engines back to back: whatever happens, and in whatever order, every request has one outcome."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from packetwire import ConnectionEnded, LimitExceeded, PeerClosed, StreamTruncated

from .pair import Pair, Side

SIDES = st.sampled_from(["a", "b"])
SIZES = st.sampled_from([1, 2, 3, 7, 30, 1000, 1 << 20])
PAYLOADS = st.sampled_from([0, 1, 60, 20_000]).map(bytes)
ANSWERS = st.tuples(st.booleans(), st.integers(0, 300), PAYLOADS)


class Orderly(RuleBasedStateMachine):
    """Both sides ask, answer, give up and end, in any order; their octets arrive, in any portions."""

    def __init__(self) -> None:
        super().__init__()
        self.pair = Pair(max_outstanding=5, max_inbound=4, max_inbound_octets=30_000)

    def side(self, name: str) -> Side:
        side: Side = getattr(self.pair, name)
        return side

    @rule(
        name=SIDES,
        channel=st.sampled_from((0, 16, 17)),
        numbers=st.tuples(st.integers(0, 200), st.integers(0, 9)),
        payload=PAYLOADS,
    )
    def ask(self, name: str, channel: int, numbers: tuple[int, int], payload: bytes) -> None:
        rq_type, flags = numbers
        side = self.side(name)
        engine = side.engine
        if engine.may_request and engine.has_room:
            side.ask(channel, rq_type, flags, payload)
            return
        unsent = engine.unsent_octets
        with pytest.raises(LimitExceeded if engine.may_request else ConnectionEnded):
            engine.request(rq_type, flags, payload, channel=channel, waiter=-1)
        assert engine.unsent_octets == unsent

    @rule(name=SIDES, pick=st.integers(0, 3), answer=ANSWERS)
    def answer(self, name: str, pick: int, answer: tuple[bool, int, bytes]) -> None:
        side = self.side(name)
        if pick < len(side.to_answer):
            side.answer(side.to_answer[pick], answer)

    @rule(name=SIDES, pick=st.integers(0, 4))
    def give_up(self, name: str, pick: int) -> None:
        side = self.side(name)
        if pick < len(side.waiting()):
            side.give_up(side.waiting()[pick])

    @rule(name=SIDES, size=SIZES)
    def write(self, name: str, size: int) -> None:
        self.side(name).write(size)

    @rule(name=SIDES, size=SIZES)
    def read(self, name: str, size: int) -> None:
        self.side(name).read(size)

    @rule()
    def move(self) -> None:
        self.pair.move()

    @rule(name=SIDES)
    def end_requests(self, name: str) -> None:
        self.side(name).engine.end_requests()

    @rule(name=SIDES)
    def end(self, name: str) -> None:
        self.side(name).engine.end()

    @rule(name=SIDES)
    def abandon(self, name: str) -> None:
        self.side(name).abandon("abandoned")

    @invariant()
    def accounts_agree(self) -> None:
        for side in self.pair.sides:
            side.check()

    def teardown(self) -> None:
        self.pair.finish()
        for side in self.pair.sides:
            side.check_over()
        self.check_ends()

    def check_ends(self) -> None:
        for side in self.pair.sides:
            assert side.ends[0].clean
            assert side.engine.send_failure is None


class Faulty(Orderly):
    """The same, and the connection breaks at some time."""

    broken = False

    @precondition(lambda self: not self.broken)
    @rule(name=SIDES, keep=st.integers(0, 40))
    def cut(self, name: str, keep: int) -> None:
        """Of what is on the way to this side only the first octets arrive, and nothing more."""
        self.broken = True
        side = self.side(name)
        del side.wire[keep:]
        side.closed = True

    @precondition(lambda self: not self.broken)
    @rule(name=SIDES)
    def cannot_write(self, name: str) -> None:
        self.broken = True
        self.side(name).send_failed()

    @rule(name=SIDES)
    def fail(self, name: str) -> None:
        self.broken = True
        self.side(name).fail("given up")

    def check_ends(self) -> None:
        for side in self.pair.sides:
            assert side.ends[0].clean == (
                type(side.ends[0].cause) is PeerClosed and "EOF)" in str(side.ends[0].cause)
            )


Orderly.TestCase.settings = settings(stateful_step_count=60)
Faulty.TestCase.settings = settings(stateful_step_count=60)

TestOrderly = Orderly.TestCase
TestFaulty = Faulty.TestCase


def ask(pair: Pair) -> None:
    """Four requests each way, on two channels; the fourth is one too many."""
    for side in pair.sides:
        for number in range(4):
            side.ask(number % 2 * 16, number, number, b"payload" * number)


def answer(pair: Pair) -> None:
    """The last first, one of them "not ok"."""
    for side in pair.sides:
        while side.to_answer:
            request = side.to_answer[-1]
            side.answer(request, (request.flags != 1, request.flags, request.payload[::-1]))


def converse(pair: Pair) -> None:
    ask(pair)
    pair.move()
    answer(pair)
    pair.finish()


OUTCOMES = {
    0: (True, 0, b""),
    1: (False, 1, b"daolyap"),
    2: (True, 2, b"daolyapdaolyap"),
    3: (False, 0, b"too many requests: 3 wait for their reply"),
}


def test_a_whole_conversation() -> None:
    pair = Pair(max_inbound=3)
    converse(pair)
    for side in pair.sides:
        side.check_over()
        assert side.ends[0].clean
        assert side.outcomes == OUTCOMES


@pytest.mark.parametrize("cut_sides", ["a", "b", "ab"])
def test_cut_at_every_octet(cut_sides: str) -> None:
    """What arrived before the cut counts, the rest is lost."""
    entire = Pair(max_inbound=3)
    converse(entire)
    ends = set()
    answered = set()
    for cut in range(entire.a.arrived + 1):
        pair = Pair(max_inbound=3)
        for name in cut_sides:
            getattr(pair, name).cut_at = cut
        converse(pair)
        for side in pair.sides:
            side.check_over()
            assert set(side.outcomes) == set(OUTCOMES)
            assert all(side.outcomes[waiter] in ("lost", OUTCOMES[waiter]) for waiter in OUTCOMES)
            answered.add(sum(outcome != "lost" for outcome in side.outcomes.values()))
            ends.add(type(side.ends[0].cause))
            if cut == entire.a.arrived:
                assert side.ends[0].clean
    assert answered == {0, 1, 2, 3, 4}
    assert ends == {PeerClosed, StreamTruncated}


PORTIONS = st.integers(1, 60).flatmap(
    lambda number: st.lists(st.tuples(SIDES, SIZES, SIZES), min_size=number, max_size=number)
)


@given(PORTIONS)
def test_any_portions_give_the_same_outcomes(portions: list[tuple[str, int, int]]) -> None:
    pair = Pair(max_inbound=3)
    ask(pair)
    for name, to_write, to_read in portions:
        side: Side = getattr(pair, name)
        side.write(to_write)
        side.read(to_read)
    pair.move()
    answer(pair)
    pair.finish()
    for side in pair.sides:
        side.check_over()
        assert side.outcomes == OUTCOMES

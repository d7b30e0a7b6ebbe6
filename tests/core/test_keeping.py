"""When to connect again, which connection to ask, what to repeat: decided without a clock."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packetwire.core.keeping import REPEATS_KEPT, Attempts, Backoff, Repeats, Rules, choose, is_in_order, lost
from packetwire.errors import (
    ChildExited,
    ConnectionEnded,
    Drained,
    LocalProtocolError,
    PacketwireError,
    PeerClosed,
    RequestFailed,
    RequestTimeout,
)

FAILED = ConnectionEnded("gone")


def exited(status: int) -> ChildExited:
    return ChildExited("gone", ["child"], status, b"")


def test_delays_double_up_to_the_longest() -> None:
    assert [Backoff().delay(number, 0) for number in (1, 2, 3, 9, 10, 5000)] == [0.1, 0.2, 0.4, 25.6, 30, 30]
    assert Backoff().delay(1, 1) == 0.05
    assert Backoff(1, 10, 3, spread=0).delay(2, 1) == 3


@pytest.mark.parametrize(
    "wrong",
    [
        {"first": 0},
        {"first": 3, "longest": 2},
        {"factor": 0.5},
        {"spread": 1.5},
        {"spread": -1},
        {"factor": float("nan")},
    ],
)
def test_backoffs_that_make_no_sense(wrong: dict[str, float]) -> None:
    with pytest.raises(LocalProtocolError, match="must be"):
        Backoff(**wrong)


def test_rules_that_make_no_sense() -> None:
    with pytest.raises(LocalProtocolError, match="restart must be one of always, on-failure, never, got 'often'"):
        Rules(restart="often")
    with pytest.raises(LocalProtocolError, match="limit"):
        Rules(limit=(-1, 60))
    with pytest.raises(TypeError, match="limit"):
        Rules(limit=(1, "60"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("restart", "cause", "again"),
    [
        ("always", FAILED, True),
        ("always", exited(0), True),
        ("always", None, True),
        ("on-failure", FAILED, True),
        ("on-failure", OSError(), True),
        ("on-failure", exited(1), True),
        ("on-failure", exited(-9), True),
        ("on-failure", exited(0), False),
        ("on-failure", PeerClosed("bye"), False),
        ("on-failure", None, False),
        ("never", FAILED, False),
    ],
)
def test_what_is_made_again(restart: str, cause: BaseException | None, again: bool) -> None:
    assert (Attempts(Rules(restart=restart)).ended(cause, 0, 0) is not None) == again
    if restart == "on-failure":
        assert is_in_order(cause) != again


def test_only_what_lasted_begins_anew() -> None:
    attempts = Attempts(Rules(Backoff(spread=0)))
    delays = [attempts.ended(FAILED, 0, 0) for _ in range(6)]
    assert delays == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2])
    attempts.ready(10)
    assert attempts.ended(FAILED, 13, 0) == pytest.approx(6.4)  # shorter than the last delay
    attempts.ready(20)
    assert attempts.ended(FAILED, 26.5, 0) == pytest.approx(0.1)
    attempts.ready(30)
    assert attempts.ended(FAILED, 30.5, 0) == pytest.approx(0.2)  # shorter than a second
    assert attempts.ended(FAILED, 100, 0) == pytest.approx(0.4)  # it was not ready


def test_a_server_that_has_ended_the_connection_in_order_is_asked_again_at_once() -> None:
    attempts = Attempts(Rules(Backoff(spread=0)))
    drained = Drained("the server stops")
    assert attempts.ended(drained, 0, 0) == pytest.approx(0.1)  # it was not ready: there is nothing to come back to
    assert attempts.ended(FAILED, 0, 0) == pytest.approx(0.2)
    attempts.ready(10)
    assert attempts.ended(drained, 10.1, 0) == 0  # and it was no failure
    assert attempts.ended(FAILED, 10.1, 0) == pytest.approx(0.1)  # the next server is not there yet
    attempts.ready(10.5)
    assert attempts.ended(drained, 10.6, 0) == pytest.approx(0.2)  # but not again and again
    attempts.ready(20)
    assert attempts.ended(drained, 20.1, 0) == 0


def test_the_limit_of_attempts_within_a_time() -> None:
    attempts = Attempts(Rules(limit=(2, 60)))
    assert attempts.ended(FAILED, 0, 0) is not None
    assert attempts.ended(FAILED, 10, 0) is not None
    assert attempts.ended(FAILED, 59, 0) is None
    assert attempts.ended(FAILED, 60, 0) is not None  # the first is long ago
    assert attempts.ended(FAILED, 61, 0) is None
    assert Attempts(Rules(limit=(0, 60))).ended(FAILED, 0, 0) is None


@given(
    st.lists(st.integers(0, 9), min_size=1), st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True)
)
def test_the_lesser_of_two_is_chosen(loads: list[int], first: float, second: float) -> None:
    chosen = choose(loads, first, second)
    assert 0 <= chosen < len(loads)
    if len(loads) == 2:
        assert loads[chosen] == min(loads)
    if len(loads) > 1 and loads.count(max(loads)) == 1:
        assert loads[chosen] < max(loads)  # never the one that has most


def test_all_have_their_turn() -> None:
    rng = random.Random(1)
    chosen = [choose([0] * 5, rng.random(), rng.random()) for _ in range(1000)]
    assert min(chosen.count(index) for index in range(5)) > 100


def test_what_may_be_repeated() -> None:
    repeats = Repeats()
    assert repeats.may_repeat(False, False)
    assert not repeats.may_repeat(True, True)
    assert not repeats.may_repeat(None, False)
    assert repeats.may_repeat(None, True)


def test_what_is_lost() -> None:
    refused, answered, late = PacketwireError("drains"), RequestFailed(0, b""), RequestTimeout("late")
    for error in refused, answered, late:
        assert not lost(error)
        error.begun = False  # type: ignore[attr-defined]
    assert lost(refused)
    assert not lost(answered)
    assert not lost(late)
    assert lost(PeerClosed("bye"))


def test_repeats_are_a_part_of_all_calls() -> None:
    repeats = Repeats()
    assert [repeats.may_repeat(None, True) for _ in range(12)] == [True] * int(REPEATS_KEPT) + [False] * 2
    assert repeats.may_repeat(False, True)  # costs nothing
    for _ in range(11):
        repeats.succeeded()
    assert [repeats.may_repeat(None, True) for _ in range(2)] == [True, False]
    for _ in range(1000):
        repeats.succeeded()
    assert sum(repeats.may_repeat(None, True) for _ in range(100)) == REPEATS_KEPT

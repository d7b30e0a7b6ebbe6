"""How long requests take: percentiles are right to a fixed share, and all is bounded."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packetwire.core.durations import (
    BOUNDS,
    MOST_KINDS,
    RATE_SECONDS,
    RECENT_SECONDS,
    STEPS,
    Durations,
    Measure,
    Measures,
    Rate,
)

FACTOR = 2 ** (1 / STEPS)


def filled(values: list[float]) -> Durations:
    durations = Durations()
    for value in values:
        durations.add(value)
    return durations


def test_there_is_none() -> None:
    empty = Durations()
    assert empty.percentile(0.5) is None
    assert (empty.count, empty.seconds, empty.longest, empty.up_to(1.0)) == (0, 0.0, 0.0, 0)


@given(st.lists(st.floats(1e-6, 5000.0), min_size=1, max_size=200), st.sampled_from([0.01, 0.5, 0.9, 0.99, 1.0]))
def test_a_percentile_is_right_to_one_bucket(values: list[float], share: float) -> None:
    found = filled(values).percentile(share)
    expected = sorted(values)[math.ceil(share * len(values)) - 1]
    assert found is not None
    assert expected <= found * (1 + 1e-9)
    if BOUNDS[0] <= expected <= BOUNDS[-1]:
        assert found <= expected * FACTOR * (1 + 1e-9)
    else:
        assert found <= max(BOUNDS[0], *values)


def test_counts_up_to_a_bound() -> None:
    durations = filled([BOUNDS[3], BOUNDS[3] * 1.001, BOUNDS[9], 1e9])
    assert [durations.up_to(bound) for bound in (BOUNDS[2], BOUNDS[3], BOUNDS[4], BOUNDS[-1])] == [0, 1, 2, 3]
    assert durations.count == 4


def test_two_together() -> None:
    both = filled([1.0, 2.0]).plus(filled([3.0]))
    assert (both.count, both.seconds, both.longest, both.percentile(1.0)) == (3, 6.0, 3.0, 3.0)


def test_a_rate_comes_near_the_real_one_and_fades() -> None:
    rate = Rate()
    assert rate.at(0.0) == 0.0
    for number in range(1000):
        rate.add(number / 10)
    now = 999 / 10
    assert rate.at(now) == pytest.approx(10.0, rel=0.01)
    assert rate.at(now + RATE_SECONDS) == pytest.approx(10.0 / math.e, rel=0.01)
    assert rate.at(now - 1.0) == rate.at(now), "a clock read a moment before"
    assert rate.at(now + 1e6) == 0.0


def test_only_the_last_minutes_are_recent() -> None:
    measure = Measure("name")
    measure.add(0.0, 5.0, failed=False)
    measure.add(RECENT_SECONDS * 0.9, 1.0, failed=True)
    assert measure.recent(RECENT_SECONDS * 0.99).count == 2
    assert measure.recent(RECENT_SECONDS * 1.5).count == 2, "the last minute and this one"
    measure.add(RECENT_SECONDS * 1.5, 0.5, failed=False)
    assert measure.recent(RECENT_SECONDS * 2.6).count == 1
    assert measure.recent(RECENT_SECONDS * 10).count == 0
    assert (measure.all.count, measure.all.longest, measure.failed) == (3, 5.0, 1)


def test_kinds_that_a_peer_makes_up_are_bounded() -> None:
    measures = Measures()
    for number in range(MOST_KINDS):
        assert measures.of((0, number), None) is measures.of((0, number), None)
    assert measures.of((0, 5000), None) is measures.of((7, 5001), None) is measures.others
    named = measures.of((0, 6000), "put")
    assert named is measures.of((0, 6000), "put") is measures.kinds[0, 6000]
    assert named.label == "put"
    assert len(measures.kinds) == MOST_KINDS + 1

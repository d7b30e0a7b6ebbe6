"""Latencies and counts over time: small, whatever they are of, and right."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from packetwire.cli.reporting.latencies import Latencies
from packetwire.cli.reporting.timeline import BACK, FORTH, SPANS, Timeline

NANOSECONDS = st.integers(0, 10**12) | st.integers(0, 1 << 64)
PARTS = (0.0, 0.5, 0.9, 0.99, 1.0)


def latencies_of(values: list[int]) -> Latencies:
    latencies = Latencies()
    for value in values:
        latencies.add(value)
    return latencies


@settings(deadline=None)
@given(st.lists(NANOSECONDS, min_size=1))
def test_percentiles_are_right_to_three_percent(values: list[int]) -> None:
    latencies = latencies_of(values)
    values.sort()
    for part in PARTS:
        true = values[min(len(values) - 1, int(len(values) * part))]
        found = latencies.percentile(part)
        assert found is not None
        assert abs(found - true) <= 0.03 * true + 1
    assert (latencies.least, latencies.most) == (values[0], values[-1])


@settings(deadline=None)
@given(st.lists(NANOSECONDS, min_size=1))
def test_bars_follow_one_another_and_hold_all(values: list[int]) -> None:
    bars = latencies_of(values).bars()
    assert sum(bar.height for bar in bars) == len(values)
    assert all(one.high == other.low for one, other in pairwise(bars))
    for bar in bars:
        assert bar.height == sum(bar.low <= value < bar.high for value in values)


def test_without_latencies_there_is_nothing_to_show() -> None:
    assert (Latencies().percentile(0.5), Latencies().bars()) == (None, [])


def test_a_time_that_went_back_counts_as_none() -> None:
    latencies = latencies_of([-5, 10])
    assert (latencies.least, latencies.most, latencies.count) == (0, 10, 2)


Steps = list[tuple[int, int, int]]
STEPS = st.lists(st.tuples(st.integers(0, 10**10), st.integers(0, 1), st.integers(0, 9)), min_size=1)
"""(nanoseconds since the last one, direction, requests under way then)"""


@settings(deadline=None)
@given(STEPS)
def test_nothing_is_lost_when_spans_widen(steps: Steps) -> None:
    timeline, when, times = Timeline(), 10**18, []
    for later, side, under_way in steps:
        when += later
        times.append(when)
        span = timeline.span_of(when)
        timeline.packets[side][span] += 1
        timeline.note_under_way(span, under_way)
    assert 1 <= timeline.used <= SPANS
    for side in FORTH, BACK:
        assert sum(timeline.packets[side]) == sum(step[1] == side for step in steps)
    for span in range(timeline.used):
        here = [(time - times[0]) // timeline.width == span for time in times]
        assert timeline.packets[FORTH][span] + timeline.packets[BACK][span] == sum(here)


@settings(deadline=None)
@given(STEPS)
def test_under_way_is_the_most_of_each_span(steps: Steps) -> None:
    timeline, when, states = Timeline(), 10**18, []
    for later, side, under_way in steps:
        when += later
        span = timeline.span_of(when)
        timeline.packets[side][span] += 1
        timeline.note_under_way(span, under_way)
        states.append((when, under_way))
    before = 0
    for span, most in enumerate(timeline.under_way()):
        here = [count for time, count in states if (time - states[0][0]) // timeline.width == span]
        assert most == max([before, *here])
        before = here[-1] if here else before


def test_a_time_before_the_first_is_put_there() -> None:
    timeline = Timeline()
    assert timeline.span_of(1000) == 0
    assert timeline.span_of(5) == 0
    assert timeline.span_of(1000 + 1024) == 1

"""How long requests take, by their types: counts in buckets, percentiles, rates; all of it bounded.

Strategy: a histogram whose buckets grow by a fixed factor, so that each percentile is known to some percent,
whatever it is, with one addition for each request. Those of the last minutes are in histograms of their own, which
take turns. Several threads need a lock around it.
"""

from __future__ import annotations

import math
from bisect import bisect_left

STEPS = 4
"""Buckets for each doubling: a percentile is at most a fifth too high."""
SHORTEST = 1e-5
BOUNDS = tuple(SHORTEST * 2 ** (step / STEPS) for step in range(27 * STEPS + 1))
"""The upper bounds of the buckets, in seconds: from 10 µs to 22 minutes. The last bucket has none."""
RECENT_SECONDS = 60.0
"""Percentiles are those of the last one to two of these."""
RATE_SECONDS = 10.0
"""Rates are those of about so long."""
MOST_KINDS = 64
"""Types without a name that are told apart: a peer may make up as many as it likes."""

Kind = tuple[int, int]
"""Channel and type of a request."""


class Durations:
    """A histogram of durations."""

    def __init__(self) -> None:
        self.buckets = [0] * (len(BOUNDS) + 1)
        self.count = 0
        self.seconds = 0.0
        """All of them together."""
        self.longest = 0.0

    def add(self, seconds: float) -> None:
        """One more."""
        self.buckets[bisect_left(BOUNDS, seconds)] += 1
        self.count += 1
        self.seconds += seconds
        self.longest = max(self.longest, seconds)

    def plus(self, other: Durations) -> Durations:
        """A histogram of both."""
        both = Durations()
        both.buckets = [mine + theirs for mine, theirs in zip(self.buckets, other.buckets, strict=True)]
        both.count, both.seconds = self.count + other.count, self.seconds + other.seconds
        both.longest = max(self.longest, other.longest)
        return both

    def percentile(self, share: float) -> float | None:
        """The duration that this share of all does not exceed; None if there is none."""
        rank, seen = share * self.count, 0
        for number, count in enumerate(self.buckets):
            seen += count
            if count and seen >= rank:
                return self.longest if number == len(BOUNDS) else min(BOUNDS[number], self.longest)
        return None

    def up_to(self, seconds: float) -> int:
        """How many took no longer than that, which is best one of `BOUNDS`."""
        return sum(self.buckets[: bisect_left(BOUNDS, seconds) + 1])


class Rate:
    """How many there are in a second, of late: each counts less the longer ago it was."""

    def __init__(self) -> None:
        self._weight = 0.0
        self._at = -math.inf

    def add(self, now: float) -> None:
        """One more."""
        self._weight = self._weight_at(now) + 1
        self._at = now

    def at(self, now: float) -> float:
        """The rate now, in 1/s."""
        return self._weight_at(now) / RATE_SECONDS

    def _weight_at(self, now: float) -> float:
        return self._weight * math.exp(min(0.0, self._at - now) / RATE_SECONDS)


class Measure:
    """Requests of one kind."""

    def __init__(self, label: str | None) -> None:
        self.label = label
        self.failed = 0
        self.all = Durations()
        self.rate = Rate()
        self._recent, self._before = Durations(), Durations()
        self._began = -math.inf

    def add(self, now: float, seconds: float, *, failed: bool) -> None:
        """One more is done."""
        self._turn(now)
        self.all.add(seconds)
        self._recent.add(seconds)
        self.rate.add(now)
        self.failed += failed

    def recent(self, now: float) -> Durations:
        """Those of the last minutes."""
        self._turn(now)
        return self._recent.plus(self._before)

    def _turn(self, now: float) -> None:
        """Forget what is long ago."""
        age = now - self._began
        if age < RECENT_SECONDS:
            return
        self._before = self._recent if age < 2 * RECENT_SECONDS else Durations()
        self._recent = Durations()
        self._began = now


class Measures:
    """Requests of all kinds: those that have a name, and a bounded number of others."""

    def __init__(self) -> None:
        self.kinds: dict[Kind, Measure] = {}
        self.others = Measure(None)
        """All other kinds together."""
        self._unnamed = 0

    def of(self, kind: Kind, label: str | None) -> Measure:
        """Those of that kind."""
        found = self.kinds.get(kind)
        if found is not None:
            return found
        if label is None:
            if self._unnamed >= MOST_KINDS:
                return self.others
            self._unnamed += 1
        return self.kinds.setdefault(kind, Measure(label))

"""Latencies, counted in spans that grow with them: small, whatever comes, and exact to 3 %."""

from __future__ import annotations

from typing import NamedTuple

STEPS = 32
"""Spans in which each doubling is divided."""
_STEP_BITS = 5


class Bar(NamedTuple):
    """So many latencies from `low` up to, but without, `high` nanoseconds."""

    low: int
    high: int
    height: int


class Latencies:
    """Counts nanoseconds."""

    __slots__ = ("count", "least", "most", "spans", "total")

    def __init__(self) -> None:
        self.count = 0
        self.total = 0
        self.least = self.most = 0
        self.spans: dict[int, int] = {}

    def add(self, nanoseconds: int) -> None:
        """Count one; what is negative, as times in a damaged file can be, counts as 0."""
        nanoseconds = max(nanoseconds, 0)
        self.most = max(self.most, nanoseconds)
        if nanoseconds < self.least or not self.count:
            self.least = nanoseconds
        self.count += 1
        self.total += nanoseconds
        shift = nanoseconds.bit_length() - _STEP_BITS - 1
        span = nanoseconds if shift <= 0 else (shift << _STEP_BITS) + (nanoseconds >> shift)
        self.spans[span] = self.spans.get(span, 0) + 1

    def percentile(self, part: float) -> int | None:
        """The latency within which `part` of all are; the least and the longest are exact. None without any."""
        if not self.count:
            return None
        rank = min(self.count - 1, int(self.count * part))
        if rank in (0, self.count - 1):
            return self.most if rank else self.least
        passed = 0
        for span in sorted(self.spans):
            passed += self.spans[span]
            if passed > rank:
                low, high = _bounds(span)
                return min(max((low + high) // 2, self.least), self.most)
        return self.most

    def bars(self, steps: int = 4) -> list[Bar]:
        """The counts, with each doubling divided into `steps`, a power of two up to `STEPS`; gaps are filled."""
        width = STEPS // steps
        merged: dict[int, int] = {}
        for span, count in self.spans.items():
            merged[span // width] = merged.get(span // width, 0) + count
        if not merged:
            return []
        return [
            Bar(_bounds(number * width)[0], _bounds((number + 1) * width)[0], merged.get(number, 0))
            for number in range(min(merged), max(merged) + 1)
        ]


def _bounds(span: int) -> tuple[int, int]:
    """The least number in a span, and the first behind it."""
    shift = max(0, (span >> _STEP_BITS) - 1)
    mantissa = span - (shift << _STEP_BITS)
    return mantissa << shift, (mantissa + 1) << shift

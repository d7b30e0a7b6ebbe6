"""Counts over time, in spans of equal length that double as the time grows, so that their number is bounded."""

from __future__ import annotations

SPANS = 512
"""Spans of time, at most."""
FIRST_SHIFT = 10
"""The first spans have 2 ** 10 nanoseconds."""

FORTH, BACK = 0, 1


class Timeline:
    """Packets and bytes of both directions, requests that failed, and requests under way."""

    def __init__(self) -> None:
        self.start: int | None = None
        self.end = 0
        self.packets = [[0] * SPANS, [0] * SPANS]
        self.sizes = [[0] * SPANS, [0] * SPANS]
        self.failures = [0] * SPANS
        self.most_under_way = [0] * SPANS
        """The most in each span in which anything came."""
        self._last_under_way = [0] * SPANS
        self._shift = FIRST_SHIFT

    @property
    def width(self) -> int:
        """Nanoseconds in each span."""
        return 1 << self._shift

    @property
    def used(self) -> int:
        """Spans from the start to the end."""
        return 0 if self.start is None else (self.end - self.start >> self._shift) + 1

    def span_of(self, when: int) -> int:
        """The span of a time, which becomes the end if it is later than all others; the first for earlier times."""
        if self.start is None:
            self.start = self.end = when
        if when <= self.end:
            return max(0, when - self.start >> self._shift)
        self.end = when
        span = when - self.start >> self._shift
        while span >= SPANS:
            self._widen()
            span = when - self.start >> self._shift
        return span

    def note_under_way(self, span: int, count: int) -> None:
        """So many requests are under way after what came just now."""
        self._last_under_way[span] = count
        self.most_under_way[span] = max(self.most_under_way[span], count)

    def under_way(self) -> list[int]:
        """The most requests that were under way in each span, also where nothing came."""
        found, last = [], 0
        for span in range(self.used):
            if self._is_touched(span):
                found.append(max(last, self.most_under_way[span]))
                last = self._last_under_way[span]
            else:
                found.append(last)
        return found

    def _is_touched(self, span: int) -> bool:
        return self.packets[FORTH][span] + self.packets[BACK][span] > 0

    def _widen(self) -> None:
        """Double the length of all spans."""
        self._last_under_way = [
            self._last_under_way[late if self._is_touched(late) else late - 1] for late in range(1, SPANS, 2)
        ] + [0] * (SPANS // 2)
        self.most_under_way = _halved(list(map(max, self.most_under_way[::2], self.most_under_way[1::2])))
        for counts in (*self.packets, *self.sizes, self.failures):
            counts[:] = _halved([early + late for early, late in zip(counts[::2], counts[1::2], strict=True)])
        self._shift += 1


def _halved(counts: list[int]) -> list[int]:
    return counts + [0] * (SPANS - len(counts))

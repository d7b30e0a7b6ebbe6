"""What is due when. No clock: the time is told."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item", bound=Hashable)

KEPT_AT_LEAST = 64
"""Entries of the heap below which those that are not needed any more may stay."""


class Deadlines(Generic[Item]):
    """At most one deadline for each item; what was removed is not kept."""

    def __init__(self) -> None:
        self._entries: dict[Item, tuple[float, int]] = {}
        self._heap: list[tuple[float, int, Item]] = []
        self._count = itertools.count()

    def __len__(self) -> int:
        return len(self._entries)

    def set(self, item: Item, when: float) -> None:
        """Have `item` due at `when`, instead of any time before."""
        number = next(self._count)
        self._entries[item] = when, number
        heapq.heappush(self._heap, (when, number, item))
        self._clean()

    def get(self, item: Item) -> float | None:
        """When `item` is due."""
        entry = self._entries.get(item)
        return None if entry is None else entry[0]

    def remove(self, item: Item) -> None:
        """`item` is not due any more; it need not have been."""
        if self._entries.pop(item, None) is not None:
            self._clean()

    def next(self) -> float | None:
        """When the first one is due."""
        self._drop_stale()
        return self._heap[0][0] if self._heap else None

    def due(self, now: float) -> Iterator[Item]:
        """Those that are due, and not any more then."""
        while (when := self.next()) is not None and when <= now:
            item = heapq.heappop(self._heap)[2]
            del self._entries[item]
            yield item

    def _is_stale(self, entry: tuple[float, int, Item]) -> bool:
        return self._entries.get(entry[2]) != entry[:2]

    def _drop_stale(self) -> None:
        while self._heap and self._is_stale(self._heap[0]):
            heapq.heappop(self._heap)

    def _clean(self) -> None:
        if len(self._heap) > KEPT_AT_LEAST + 2 * len(self._entries):
            self._heap = [entry for entry in self._heap if not self._is_stale(entry)]
            heapq.heapify(self._heap)

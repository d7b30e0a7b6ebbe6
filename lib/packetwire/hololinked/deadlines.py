"""Deadlines of items. No clock: time is an argument.

Most deadlines are removed long before they are due, so they go into a dict first, which costs next to nothing. Only
when one may be due, or the exact time of the first one is wanted, do they go into a heap.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item", bound=Hashable)

KEPT_AT_LEAST = 64
"""Entries up to which the heap is not cleaned of obsolete ones."""


class Deadlines(Generic[Item]):
    """At most one deadline for each item. Items that were removed are not kept alive."""

    def __init__(self) -> None:
        self.not_before = math.inf
        """A lower bound of the first deadline."""
        self._fresh: dict[Item, float] = {}
        """Not in the heap yet."""
        self._entries: dict[Item, tuple[float, int, Item]] = {}
        self._heap: list[tuple[float, int, Item]] = []
        self._count = itertools.count()

    def __len__(self) -> int:
        return len(self._fresh) + len(self._entries)

    def set(self, item: Item, when: float) -> None:
        """Set the deadline of `item`, in place of an earlier one."""
        if self._entries and self._entries.pop(item, None) is not None:
            self._clean()
        self._fresh[item] = when
        if when < self.not_before:  # noqa: PLR1730, min takes three times as long
            self.not_before = when

    def get(self, item: Item) -> float | None:
        """The deadline of `item`, if it has one."""
        entry = self._entries.get(item)
        return self._fresh.get(item) if entry is None else entry[0]

    def remove(self, item: Item) -> None:
        """Remove the deadline of `item`, if it has one."""
        if self._fresh.pop(item, None) is None and self._entries.pop(item, None) is not None:
            self._clean()
        if not self._fresh and not self._entries:
            self.not_before = math.inf

    def next(self) -> float | None:
        """The first deadline, if there is one."""
        heap, entries = self._heap, self._entries
        for item, when in self._fresh.items():
            entry = entries[item] = when, next(self._count), item
            heapq.heappush(heap, entry)
        self._fresh.clear()
        while heap and entries.get(heap[0][2]) is not heap[0]:
            heapq.heappop(heap)
        self.not_before = heap[0][0] if heap else math.inf
        return heap[0][0] if heap else None

    def due(self, now: float) -> Iterator[Item]:
        """Remove and return all items that are due."""
        while self.not_before <= now and (when := self.next()) is not None and when <= now:
            item = heapq.heappop(self._heap)[2]
            del self._entries[item]
            yield item

    def _clean(self) -> None:
        if len(self._heap) > KEPT_AT_LEAST + 2 * len(self._entries):
            self._heap = list(self._entries.values())
            heapq.heapify(self._heap)

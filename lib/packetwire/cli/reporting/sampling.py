"""A sample of exchanges: all while they are few; of many the first, the last, the odd, the slowest, and others.

Those are chosen at random, but always the same ones of the same capture.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Iterator

from packetwire.cli.reporting.model import Exchange, Outcome

AT_RANDOM = 6000
FIRST = LAST = 500
OF_EACH_KIND = 1000
"""Exchanges that failed, that were cancelled, without an answer, and with bodies: of each so many, at random."""
SLOWEST = 10
"""Of each request type."""
MOST_TYPES = 100


class Reservoir:
    """So many of the items that it is offered, each with the same probability."""

    def __init__(self, size: int, choose: random.Random) -> None:
        self.items: list[Exchange] = []
        self._size = size
        self._offered = 0
        self._random = choose.random

    def offer(self, item: Exchange) -> None:
        """Keep it, perhaps in place of another."""
        self._offered += 1
        if len(self.items) < self._size:
            self.items.append(item)
        elif (place := int(self._random() * self._offered)) < self._size:
            self.items[place] = item


class Sample:
    """Takes exchanges as they end."""

    def __init__(self) -> None:
        choose = random.Random(0)
        self._any = Reservoir(AT_RANDOM, choose)
        self._first: list[Exchange] = []
        self._last: deque[Exchange] = deque(maxlen=LAST)
        self._odd = {
            kind: Reservoir(OF_EACH_KIND, choose) for kind in ("failed", "cancelled", "unanswered", "body")
        }
        self._slowest: dict[tuple[int, int, int], list[tuple[int, int, Exchange]]] = {}

    def offer(self, exchange: Exchange) -> None:
        """Consider one more."""
        self._any.offer(exchange)
        if exchange.serial < FIRST:
            self._first.append(exchange)
        self._last.append(exchange)
        latency = exchange.latency
        if latency is not None:
            self._offer_slow(exchange, latency)
        if exchange.outcome is not Outcome.OK or exchange.extra is not None:
            self._offer_odd(exchange)

    def _offer_slow(self, exchange: Exchange, latency: int) -> None:
        key = (exchange.asker, exchange.channel, exchange.rq_type)
        slowest = self._slowest.get(key)
        if slowest is None:
            if len(self._slowest) >= MOST_TYPES:
                return
            slowest = self._slowest[key] = []
        if len(slowest) < SLOWEST:
            heapq.heappush(slowest, (latency, exchange.serial, exchange))
        elif latency > slowest[0][0]:
            heapq.heapreplace(slowest, (latency, exchange.serial, exchange))

    def _offer_odd(self, exchange: Exchange) -> None:
        extra = exchange.extra
        if extra is not None and extra.cancel is not None:
            self._odd["cancelled"].offer(exchange)
        elif exchange.outcome is Outcome.FAILED:
            self._odd["failed"].offer(exchange)
        elif exchange.outcome is not Outcome.OK:
            self._odd["unanswered"].offer(exchange)
        if extra is not None and (extra.sent or extra.received):
            self._odd["body"].offer(exchange)

    def chosen(self) -> list[Exchange]:
        """All that are kept, in the order of their requests."""
        return sorted({id(each): each for each in self._all()}.values(), key=lambda each: (each.time, each.serial))

    def _all(self) -> Iterator[Exchange]:
        yield from self._any.items
        yield from self._first
        yield from self._last
        for reservoir in self._odd.values():
            yield from reservoir.items
        for slowest in self._slowest.values():
            for _, _, exchange in slowest:
                yield exchange

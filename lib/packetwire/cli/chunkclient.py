"""The near side of a chunk store: asks, and measures how long the answers took."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, TypeVar

from packetwire import BaseRequest, HasPacketConnection, PacketConnectionRecvSend
from packetwire.cli.chunkstore import REQUESTS

ResponseT = TypeVar("ResponseT")

REPLY_TIMEOUT = 30.0
"""Seconds for any single answer; a store that takes longer has failed."""


@dataclass
class Measured:
    """The measurements of one series of requests."""

    what: str
    size: int = 0
    """Bytes that the requests move, in all."""
    seconds: float = 0.0
    round_trips: list[float] = field(default_factory=list)
    """Seconds of each round trip."""

    @property
    def median(self) -> float:
        """The median round trip."""
        return statistics.median(self.round_trips)

    @property
    def p99(self) -> float:
        """The 99th percentile of round trips."""
        return sorted(self.round_trips)[len(self.round_trips) * 99 // 100]


class ChunkClient(HasPacketConnection):
    """Asks the chunk store at the other end of `recv_send`.

    `window` is the number of requests under way at a time; `measured` has the measurements of each series.
    """

    def __init__(self, recv_send: PacketConnectionRecvSend, *, window: int = 64, **connection: Any) -> None:
        super().__init__(recv_send, "chunkstore", rq_type_map=REQUESTS, request_handler=None, **connection)
        self.window = window
        self.measured: list[Measured] = []

    def ask(self, request: BaseRequest[ResponseT]) -> ResponseT:
        """One request and its answer."""
        return self.conn_do_remote(request, timeout=REPLY_TIMEOUT)

    def ask_in_turn(self, what: str, requests: Iterable[BaseRequest[ResponseT]]) -> list[ResponseT]:
        """Many requests, each after the answer to the one before."""
        measured = self._measure(what, 0)
        replies = []
        begin = perf_counter()
        for request in requests:
            asked = perf_counter()
            replies.append(self.ask(request))
            measured.round_trips.append(perf_counter() - asked)
        measured.seconds = perf_counter() - begin
        return replies

    def ask_in_flight(
        self, what: str, requests: Iterable[BaseRequest[ResponseT]], size: int = 0
    ) -> Iterator[ResponseT]:
        """Many requests, `window` of them under way at a time; the answers come in order.

        `size` is the number of bytes that they move in all.
        """
        measured = self._measure(what, size)
        asked: deque[float] = deque()

        def noted() -> Iterator[BaseRequest[ResponseT]]:
            for request in requests:
                asked.append(perf_counter())
                yield request

        begin = perf_counter()
        for reply in self.conn_map(noted(), window=self.window, timeout=REPLY_TIMEOUT):
            measured.round_trips.append(perf_counter() - asked.popleft())
            yield reply
        measured.seconds = perf_counter() - begin

    def _measure(self, what: str, size: int) -> Measured:
        measured = Measured(what, size)
        self.measured.append(measured)
        return measured

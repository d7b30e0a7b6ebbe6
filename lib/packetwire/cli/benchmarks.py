"""The requests of `packetwire bench`, their answers, and the measurements.

    packetwire serve packetwire.cli.benchmarks:REQUESTS ADDRESS

is the server that `packetwire bench ADDRESS` measures. `Stream` and `Digest` are not measured: they show bodies.
"""

from __future__ import annotations

import hashlib
import math
import statistics
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import perf_counter
from typing import Any, ClassVar, Generic, Self, TypeVar

from packetwire.core.requests import BaseRequest
from packetwire.current import current_request

REVERSE, SWALLOW, PRODUCE, STREAM, DIGEST = range(5)
"""The request types."""

PAYLOAD = bytes(range(16))
BULK = b"\xa5" * (1 << 20)  # no zeros: the system would have a single page for all of them
DEPTH = 64
"""Requests under way at a time, when many are measured."""
CALLERS = 16
"""Threads that ask at the same time."""

SubmittedT = TypeVar("SubmittedT")
"""The result of `Asker.submit`."""

_SWALLOWED = len(BULK).to_bytes(4, "big")


def answer(rq_type: int, flags: int, payload: bytes) -> bytes:
    """The `request_handler` of every measured server."""
    if rq_type == REVERSE:
        return payload[::-1]
    if rq_type == SWALLOW:
        return len(payload).to_bytes(4, "big")
    if rq_type == PRODUCE:
        return BULK
    raise ValueError(f"there is no request type {rq_type}")


@dataclass(frozen=True)
class _Payload(BaseRequest[bytes]):
    data: bytes = b""

    rq_type: ClassVar[int]

    def __bytes__(self) -> bytes:
        return self.data

    @classmethod
    def from_bytes(cls, bs: bytes) -> Self:
        return cls(bs)

    def fulfil(self, context: object) -> bytes:
        return answer(self.rq_type, self.flags, self.data)

    def decode_response_payload(self, flags: int, payload: bytes) -> bytes:
        return payload


class Reverse(_Payload):
    """Ask for the bytes in reverse."""

    rq_type = REVERSE


class Swallow(_Payload):
    """Send bytes; the answer is how many came."""

    rq_type = SWALLOW


class Produce(_Payload):
    """Ask for 1 MiB."""

    rq_type = PRODUCE


@dataclass(frozen=True)
class Stream(BaseRequest[bytes]):
    """Ask for a body of so many bytes."""

    size: int

    def __bytes__(self) -> bytes:
        return b"%d" % self.size

    @classmethod
    def from_bytes(cls, bs: bytes) -> Self:
        return cls(int(bs))

    def fulfil(self, context: object) -> Iterator[bytes]:
        left = self.size
        while left > 0:
            yield BULK[:left]
            left -= len(BULK)

    def decode_response_payload(self, flags: int, payload: bytes) -> bytes:
        return payload


@dataclass(frozen=True)
class Digest(BaseRequest[str]):
    """Send a body; the answer is its SHA-256, in hexadecimal."""

    def __bytes__(self) -> bytes:
        return b""

    @classmethod
    def from_bytes(cls, bs: bytes) -> Self:
        return cls()

    def fulfil(self, context: object) -> bytes:
        digest = hashlib.sha256()
        for chunk in current_request().body or ():
            digest.update(chunk)
        return digest.hexdigest().encode()

    def decode_response_payload(self, flags: int, payload: bytes) -> str:
        return payload.decode()


REQUESTS: dict[int, type[BaseRequest[Any]]] = {
    REVERSE: Reverse,
    SWALLOW: Swallow,
    PRODUCE: Produce,
    STREAM: Stream,
    DIGEST: Digest,
}


class WrongAnswer(Exception):
    """The server is not one that answers as `answer` does."""


@dataclass(frozen=True)
class Rate:
    """So many requests in so many seconds."""

    requests: int
    seconds: float


@dataclass(frozen=True)
class RoundTrips:
    """Seconds of a round trip: the median, and the 99th percentile."""

    median: float
    p99: float


class Asker(ABC, Generic[SubmittedT]):
    """The asking end of a connection, and the measurements on it.

    A measurement takes `seconds`, and makes at least one request. None warms up: call `in_flight` with a number
    of requests and no time limit for that, and for the growth of memory.
    """

    @abstractmethod
    def call(self, rq_type: int, payload: bytes) -> bytes:
        """Ask, wait, return the answer."""

    @abstractmethod
    def submit(self, rq_type: int, payload: bytes) -> SubmittedT:
        """Ask; the result is to be passed to `collect`, in the same order."""

    @abstractmethod
    def collect(self, submitted: SubmittedT) -> bytes:
        """Wait for the answer to a submitted request."""

    def round_trip(self, seconds: float) -> RoundTrips:
        """One request after the other."""
        call = self.call
        times: list[float] = []
        reply = b""
        asked = perf_counter()
        end = asked + seconds
        while asked < end or not times:
            reply = call(REVERSE, PAYLOAD)
            answered = perf_counter()
            times.append(answered - asked)
            asked = answered
        expect(reply, PAYLOAD[::-1])
        return summary(times)

    def in_flight(self, seconds: float, requests: float = math.inf) -> Rate:
        """`DEPTH` requests under way at a time, until `requests` were made or the time is over."""
        submit, collect = self.submit, self.collect
        answered = 0
        begin = perf_counter()
        end = begin + seconds
        under_way = deque(submit(REVERSE, PAYLOAD) for _ in range(DEPTH))
        while answered < requests and perf_counter() < end:
            collect(under_way.popleft())
            answered += 1
            under_way.append(submit(REVERSE, PAYLOAD))
        reply = b""
        while under_way:
            reply = collect(under_way.popleft())
            answered += 1
        taken = perf_counter() - begin
        expect(reply, PAYLOAD[::-1])
        return Rate(answered, taken)

    def callers(self, seconds: float) -> Rate:
        """`CALLERS` threads, each with one request after the other; every answer is checked."""
        counts: list[int] = []
        errors: list[Exception] = []
        start = threading.Barrier(CALLERS + 1)

        def ask(number: int) -> None:
            call = self.call
            payload = PAYLOAD[1:] + bytes((number,))
            expected = payload[::-1]
            count = 0
            start.wait()
            try:
                while True:
                    reply = call(REVERSE, payload)
                    count += 1
                    if reply != expected:
                        expect(reply, expected)
                    if perf_counter() >= end:
                        break
            except Exception as error:
                errors.append(error)
            counts.append(count)

        # daemons, so that the process can end without waiting for them
        threads = [threading.Thread(target=ask, args=(number,), daemon=True) for number in range(CALLERS)]
        for thread in threads:
            thread.start()
        begin = perf_counter()
        end = begin + seconds
        start.wait()
        for thread in threads:
            thread.join()
        taken = perf_counter() - begin
        if errors:
            raise errors[0]
        return Rate(sum(counts), taken)

    def up(self, seconds: float) -> Rate:
        """1 MiB with each request, one after the other."""
        return repeated(lambda: self.call(SWALLOW, BULK), seconds, _SWALLOWED)

    def down(self, seconds: float) -> Rate:
        """1 MiB with each answer, one after the other."""
        return repeated(lambda: self.call(PRODUCE, b""), seconds, BULK)


def repeated(ask: Callable[[], bytes], seconds: float, expected: bytes) -> Rate:
    """Ask again and again. Each answer must have the right length; the last one is compared."""
    count, reply = 0, b""
    begin = now = perf_counter()
    while now < begin + seconds or not count:
        reply = ask()
        now = perf_counter()
        count += 1
        if len(reply) != len(expected):
            break
    expect(reply, expected)
    return Rate(count, now - begin)


def summary(times: list[float]) -> RoundTrips:
    """The figures of many round trips."""
    return RoundTrips(statistics.median(times), sorted(times)[len(times) * 99 // 100])


def expect(reply: bytes, expected: bytes) -> None:
    """Raise `WrongAnswer` for any other reply."""
    if reply != expected:
        raise WrongAnswer(f"expected {len(expected)} bytes {expected[:20]!r}, got {len(reply)}: {reply[:20]!r}")

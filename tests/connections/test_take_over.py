"""A handler that takes long holds up nobody: others run, and the connection is read on."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from packetwire import PacketConnection
from packetwire.testing import connection_pair

pytestmark = pytest.mark.timeout(60)

WAIT = 30
"""Seconds until a test fails that else would hang."""
QUICK, SLOW, INLINE = 0, 1, 2
WAKE_UPS = 20
"""Voluntary context switches in a second in which nothing is to be done; those of Python itself are a few."""


class Gate:
    """A handler whose SLOW requests block until it is opened, and what it has seen."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.entered = threading.Semaphore(0)
        self.order: list[bytes] = []
        self.running = self.most = 0
        self._count = threading.Lock()

    def __call__(self, rq_type: int, flags: int, payload: bytes) -> bytes:
        with self._count:
            self.running += 1
            self.most = max(self.most, self.running)
            self.order.append(payload)
        try:
            if rq_type == SLOW:
                self.entered.release()
                assert self.opened.wait(WAIT)
        finally:
            with self._count:
                self.running -= 1
        return payload

    def wait_entered(self, count: int) -> None:
        """Until so many SLOW requests have begun since the last time."""
        for _ in range(count):
            assert self.entered.acquire(timeout=WAIT)


@contextmanager
def gated(**settings: Any) -> Iterator[tuple[PacketConnection, Gate]]:
    gate = Gate()
    with connection_pair(b={"request_handler": gate, **settings}) as (a, _):
        try:
            yield a, gate
        finally:
            gate.opened.set()


LONG = pytest.mark.long


def test_small_calls_go_on_beside_a_handler_that_blocks() -> None:
    """The first time, when nobody knows that it will block, and again."""
    with gated() as (a, gate):
        for _ in range(3):
            gate.opened.clear()
            slow = a.submit(SLOW, 0, b"slow")
            for i in range(200):
                assert a(QUICK, b"%d" % i, timeout=WAIT) == (True, 0, b"%d" % i)
            gate.wait_entered(1)
            assert not slow.ready
            gate.opened.set()
            assert slow(timeout=WAIT) == (True, 0, b"slow")


def test_what_came_with_a_handler_that_blocks_is_served() -> None:
    """The requests behind it in the same piece of the stream."""
    with gated() as (a, gate):
        results = [a.submit(SLOW if i == 10 else QUICK, 0, b"%d" % i) for i in range(100)]
        for i, result in enumerate(results):
            if i != 10:
                assert result(timeout=WAIT) == (True, 0, b"%d" % i)
        gate.opened.set()
        assert results[10](timeout=WAIT) == (True, 0, b"10")


def test_two_handlers_that_wait_for_each_other() -> None:
    both = threading.Barrier(2)

    def handler(rq_type: int, flags: int, payload: bytes) -> bytes:
        both.wait(WAIT)
        return payload

    with connection_pair(b={"request_handler": handler}) as (a, _):
        for _ in range(20):
            results = [a.submit(0, 0, payload) for payload in (b"one", b"other")]
            assert [result(timeout=WAIT)[2] for result in results] == [b"one", b"other"]


def test_four_handlers_run_at_once_and_a_fifth_waits() -> None:
    with gated(handlers=4, inline={INLINE}) as (a, gate):
        results = [a.submit(SLOW, 0, b"%d" % i) for i in range(5)]
        gate.wait_entered(4)
        assert a(INLINE, b"inline", timeout=WAIT)[0]  # behind the fifth, which was seen, then
        assert not gate.entered.acquire(blocking=False)
        gate.opened.set()
        assert [result(timeout=WAIT)[2] for result in results] == [b"%d" % i for i in range(5)]
        assert len([a(SLOW, timeout=WAIT) for _ in range(50)]) == 50
        assert gate.most <= 5  # the four, and the inline one


def test_never_more_than_four_at_once() -> None:
    with gated(handlers=4) as (a, gate):
        for round_ in range(5):
            gate.opened.clear()
            results = [a.submit(SLOW if i % 3 else QUICK, 0, b"%d" % i) for i in range(60)]
            gate.wait_entered(4)
            gate.opened.set()
            assert all(result(timeout=WAIT)[0] for result in results), round_
            gate.wait_entered(36)
        assert gate.most == 4


def test_one_handler_never_runs_twice_at_once_and_keeps_the_order() -> None:
    with gated(handlers=1) as (a, gate):
        slow = a.submit(SLOW, 0, b"0")
        gate.wait_entered(1)
        results = [a.submit(QUICK if i % 10 else SLOW, 0, b"%d" % i) for i in range(1, 200)]
        assert gate.order == [b"0"]
        gate.opened.set()
        assert slow(timeout=WAIT)[0]
        assert all(result(timeout=WAIT)[0] for result in results)
        for i in range(200, 300):  # one after the other, each read by its caller
            assert a(QUICK, b"%d" % i, timeout=WAIT)[0]
        assert gate.order == [b"%d" % i for i in range(300)]
        assert gate.most == 1


@pytest.mark.parametrize("depth", [1, 100])
def test_nested_call_backs(depth: int) -> None:
    ends: list[PacketConnection] = []

    def handler_of(which: int) -> Any:
        def handler(rq_type: int, flags: int, payload: bytes) -> bytes:
            left = int(payload)
            if not left:
                return b"end"
            ok, _, reply = ends[which](0, b"%d" % (left - 1), timeout=WAIT)
            assert ok
            return reply + b"."

        return handler

    with connection_pair({"request_handler": handler_of(0)}, {"request_handler": handler_of(1)}) as pair:
        ends += pair
        for _ in range(3):
            assert pair[0](0, b"%d" % depth, timeout=WAIT) == (True, 0, b"end" + b"." * depth)


@pytest.mark.parametrize("waiting", [0, 20])
def test_inline_types_run_while_slow_jobs_occupy_all_workers(waiting: int) -> None:
    with gated(handlers=4, inline={INLINE}) as (a, gate):
        results = [a.submit(SLOW, 0, b"slow") for _ in range(4 + waiting)]
        gate.wait_entered(4)
        for i in range(50):
            assert a(INLINE, b"%d" % i, timeout=WAIT) == (True, 0, b"%d" % i)
        assert not any(result.ready for result in results)
        gate.opened.set()
        assert all(result(timeout=WAIT)[0] for result in results)


def test_a_handler_that_waits_for_an_inline_type_of_the_other_end() -> None:
    """It does not count while it waits, and what it waits for needs no worker."""
    with gated(handlers=1, inline={INLINE}) as (a, gate):
        slow = a.submit(SLOW, 0, b"slow")
        gate.wait_entered(1)
        queued = [a.submit(QUICK, 0, b"queued") for _ in range(20)]
        assert a(INLINE, b"inline", timeout=WAIT)[0]
        assert not any(result.ready for result in queued)
        gate.opened.set()
        assert all(result(timeout=WAIT)[0] for result in [slow, *queued])


COUNTED = """
import resource, sys, threading, time
from packetwire.testing import connection_pair

def switches():
    return resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw

def handler(rq_type, flags, payload):
    if rq_type == 1:
        entered.set()
        opened.wait(60)
    return payload

def counted():
    time.sleep(0.5)  # what was under way has settled
    before = switches()
    time.sleep(1)
    return switches() - before

entered, opened = threading.Event(), threading.Event()
with connection_pair(b={"request_handler": handler, "handlers": 4}) as (a, b):
    for _ in range(100):
        a(0)
    if sys.argv[1] == "waited for":
        caller = threading.Thread(target=a, args=(1,))
        caller.start()
    else:
        result = a.submit(1)
    entered.wait(60)
    if sys.argv[1] == "known as slow":
        opened.set()
        result()
        opened.clear()
        entered.clear()
        result = a.submit(1)
        entered.wait(60)
    print(counted())
    if sys.argv[1] != "waited for":
        for _ in range(100):
            a(0)
        print(counted())
    opened.set()
    if sys.argv[1] == "waited for":
        caller.join()
"""


@pytest.mark.parametrize(
    "how", ["waited for", pytest.param("submitted", marks=LONG), pytest.param("known as slow", marks=LONG)]
)
def test_a_handler_that_blocks_costs_no_wake_ups(how: str) -> None:
    """Counted over a second, in a process of its own that has both ends."""
    program = subprocess.run(
        [sys.executable, "-c", COUNTED, how], capture_output=True, text=True, timeout=WAIT, check=True
    )
    counts = [int(line) for line in program.stdout.split()]
    assert counts
    assert max(counts) <= WAKE_UPS, counts

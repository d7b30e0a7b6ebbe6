"""A thread that asks runs nothing of the peer's: no handler, receiver or observer, inline or not."""

from __future__ import annotations

import threading
from collections.abc import Callable
from threading import get_ident
from typing import Any

import pytest

from packetwire import PacketConnection, RequestReceived, RequestTimeout, Responder
from packetwire.testing import connection_pair

pytestmark = pytest.mark.timeout(60)

WAIT = 20
"""Seconds until a test fails that else would hang."""
HANDLERS = (1, 4, "inline")
CHANNEL = 16

ASKING: dict[str, Callable[[PacketConnection], object]] = {
    "calls": lambda conn: [conn(0, b"%d" % i, timeout=WAIT) for i in range(200)],
    "results": lambda conn: [conn.submit(0)(timeout=WAIT) for _ in range(100)],
    "windows": lambda conn: [result() for result in [conn.submit(0) for _ in range(200)]],
    "map": lambda conn: list(conn.map([(0, b"x")] * 200, window=16)),
    "large": lambda conn: [conn(0, bytes(1 << 20), timeout=WAIT) for _ in range(5)],
}


class Threads:
    """Which threads have run what."""

    def __init__(self) -> None:
        self.seen: set[int] = set()
        self.count = 0

    def note(self) -> None:
        self.seen.add(get_ident())
        self.count += 1


def asking_back(channel: int) -> tuple[Any, list[PacketConnection]]:
    """A handler that sends requests of its own, whose answers nobody waits for, before each answer; its `ends`."""

    def handler(rq_type: int, flags: int, payload: bytes) -> bytes:
        for _ in range(3):
            ends[1].submit(1, 0, b"", channel=channel)
        return payload

    ends: list[PacketConnection] = []
    return handler, ends


@pytest.mark.parametrize("asking", ASKING.values(), ids=ASKING)
@pytest.mark.parametrize("handlers", HANDLERS)
def test_handlers(handlers: Any, asking: Callable[[PacketConnection], object]) -> None:
    threads = Threads()

    def handler(rq_type: int, flags: int, payload: bytes) -> None:
        threads.note()

    asks, ends = asking_back(0)
    with connection_pair({"request_handler": handler, "handlers": handlers}, {"request_handler": asks}) as pair:
        ends += pair
        asking(pair[0])
    assert threads.count
    assert get_ident() not in threads.seen


@pytest.mark.parametrize("asking", ASKING.values(), ids=ASKING)
def test_inline_types(asking: Callable[[PacketConnection], object]) -> None:
    threads = Threads()
    asks, ends = asking_back(0)
    ours = {"request_handler": lambda rq_type, flags, payload: threads.note(), "inline": {1}}
    with connection_pair(ours, {"request_handler": asks}) as pair:
        ends += pair
        asking(pair[0])
    assert threads.count
    assert get_ident() not in threads.seen


@pytest.mark.parametrize("asking", ASKING.values(), ids=ASKING)
def test_receivers(asking: Callable[[PacketConnection], object]) -> None:
    threads = Threads()

    def receiver(event: Any) -> None:
        if isinstance(event, RequestReceived):
            threads.note()

    asks, ends = asking_back(CHANNEL)
    with connection_pair(b={"request_handler": asks}) as pair:
        pair[0].attach(CHANNEL, receiver)
        ends += pair
        asking(pair[0])
    assert threads.count
    assert get_ident() not in threads.seen


@pytest.mark.parametrize("asking", ASKING.values(), ids=ASKING)
@pytest.mark.parametrize("which", ["requests", "all events"])
def test_observers(which: str, asking: Callable[[PacketConnection], object]) -> None:
    threads = Threads()

    def on_event(event: Any) -> None:
        if which == "all events" or isinstance(event, RequestReceived):
            threads.note()

    ours = {"request_handler": lambda rq_type, flags, payload: None, "on_event": on_event}
    asks, ends = asking_back(0)
    with connection_pair(ours, {"request_handler": asks}) as pair:
        ends += pair
        asking(pair[0])
    assert threads.count
    assert get_ident() not in threads.seen


def test_closing() -> None:
    """Also what comes while one waits for the end."""
    threads = Threads()
    closing = threading.Event()

    def handler(rq_type: int, flags: int, payload: bytes) -> None:
        threads.note()

    def asks(rq_type: int, flags: int, payload: bytes) -> bytes:
        for _ in range(100):
            b(1, timeout=WAIT)
            closing.set()
        return payload

    for handlers in HANDLERS:
        closing.clear()
        pair = connection_pair({"request_handler": handler, "handlers": handlers}, {"request_handler": asks})
        with pair as (a, b):
            result = a.submit(0)
            assert closing.wait(WAIT)
            a.close(WAIT)
            assert result(timeout=WAIT)[0]
    assert threads.count == 300
    assert get_ident() not in threads.seen


@pytest.mark.parametrize("inline", [None, {1}], ids=["no inline types", "an inline type"])
@pytest.mark.parametrize("handlers", HANDLERS)
def test_a_lock_that_the_caller_holds(handlers: Any, inline: Any) -> None:
    """The peer's request comes before the response, and its handler waits for the caller to let the lock go."""
    lock = threading.Lock()
    got: list[bool] = []

    def takes_lock(rq_type: int, flags: int, payload: bytes) -> None:
        if got_it := lock.acquire(timeout=WAIT):
            lock.release()
        got.append(got_it)

    def asks(rq_type: int, flags: int, payload: bytes) -> bytes:
        under_way.append(b.submit(1))
        return payload

    under_way: list[Any] = []
    ours = {"request_handler": takes_lock, "handlers": handlers, "inline": inline}
    with connection_pair(ours, {"request_handler": asks}) as (a, b):
        for i in range(30):
            with lock:
                assert a(0, b"%d" % i, timeout=WAIT / 2) == (True, 0, b"%d" % i)
            assert under_way.pop()(timeout=WAIT)[0]
    assert got == [True] * 30


@pytest.mark.parametrize("handlers", HANDLERS)
@pytest.mark.parametrize("inline", [None, {1}], ids=["no inline types", "an inline type"])
def test_a_lock_that_the_caller_holds_before_it_calls(inline: Any, handlers: Any) -> None:
    """The handler waits for it in the thread that reads, which is to read the caller's response."""
    lock = threading.Lock()
    entered = threading.Semaphore(0)

    def takes_lock(rq_type: int, flags: int, payload: bytes) -> bytes:
        entered.release()
        with lock:
            return b"had it"

    ours = {"request_handler": takes_lock, "handlers": handlers, "inline": inline}
    theirs = {"request_handler": lambda rq_type, flags, payload: payload}
    with connection_pair(ours, theirs) as (a, b):
        for i in range(30):
            with lock:
                result = b.submit(1)
                assert entered.acquire(timeout=WAIT)
                assert a(0, b"%d" % i, timeout=WAIT / 2) == (True, 0, b"%d" % i)
                assert a.submit(0, 0, b"x")(timeout=WAIT / 2) == (True, 0, b"x")
            assert result(timeout=WAIT) == (True, 0, b"had it")


@pytest.mark.parametrize("first", ["the handler", "the call"])
@pytest.mark.parametrize("handlers", HANDLERS)
def test_a_time_limit_holds_while_a_handler_blocks(handlers: Any, first: str) -> None:
    """Also an inline one. What the caller waits for never comes."""
    entered, opened = threading.Event(), threading.Event()
    owed: list[Responder] = []

    def blocks(rq_type: int, flags: int, payload: bytes) -> bytes:
        entered.set()
        return b"opened" if opened.wait(WAIT) else b"not opened"

    def asks(rq_type: int, flags: int, payload: bytes) -> Responder:
        if first == "the call":
            under_way.append(b.submit(1))
        owed.append(Responder())
        return owed[0]

    under_way: list[Any] = []
    with connection_pair({"request_handler": blocks, "handlers": handlers}, {"request_handler": asks}) as (a, b):
        if first == "the handler":
            under_way.append(b.submit(1))
            assert entered.wait(WAIT)
        with pytest.raises(RequestTimeout):
            a(0, timeout=0.5)
        opened.set()
        assert under_way[0](timeout=WAIT) == (True, 0, b"opened"), "the call returned after the handler"
        owed[0].respond()


class Ended:
    """A thread that has ended; another thread is added while it is asked."""

    ident = None

    def __init__(self, threads: set[Any]) -> None:
        self.threads = threads

    def is_alive(self) -> bool:
        self.threads.add(Ended(set()))
        return False


def test_two_threads_that_add_a_thread_at_a_time_do_not_disturb_each_other() -> None:
    with connection_pair(None, {"request_handler": lambda rq_type, flags, payload: payload}) as (ours, theirs):
        workers = theirs._driver._workers
        there = set(workers.threads)
        workers.threads.update(Ended(workers.threads) for _ in range(3))
        workers.starting.discard(workers._new_thread())  # it is never started
        workers.threads.intersection_update(there)
        workers.parked -= 1
        workers._alive -= 1
        assert ours(1, b"ab", timeout=WAIT)[2] == b"ab"

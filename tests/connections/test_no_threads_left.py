"""The system starts no more threads, from any moment on: nothing hangs, and nothing is left behind."""

from __future__ import annotations

import asyncio
import os
import queue
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any

import pytest
from tests.leftovers import join, open_fds, threads_since

from childprocesses import child_processes
from packetwire import AsyncPacketConnection, ConnectionEnded, PacketConnection, RequestTimeout, connect_to
from packetwire.fbsp.workers import Workers
from packetwire.testing import FaultyLink

pytestmark = pytest.mark.timeout(60)

FACES = ("threads", "asyncio")
LIMIT = 30
ENOUGH = 12
"""Threads that none of these needs altogether."""

ECHO = """
from packetwire import PacketConnection, stdio
with PacketConnection(stdio(), request_handler=lambda rq_type, flags, payload: payload) as conn:
    conn.join()
"""
EXITS = "import os; os.read(0, 1)"
"""A child that ends at the first request."""


@contextmanager
def threads_allowed(count: int) -> Iterator[None]:
    """No more than so many threads can be started."""
    start = threading.Thread.start
    left = count

    def start_if_allowed(thread: threading.Thread) -> None:
        nonlocal left
        if left <= 0:
            raise RuntimeError("can't start new thread")
        left -= 1
        start(thread)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading.Thread, "start", start_if_allowed)
        yield


@contextmanager
def nothing_left() -> Iterator[None]:
    """In the end there are the same threads, descriptors and children as before."""
    threads, fds, children = set(threading.enumerate()), open_fds(), child_processes()
    yield
    for thread in threads_since(threads):
        if not isinstance(thread, threading._DummyThread):
            join(thread, LIMIT)
    while any(isinstance(thread, threading._DummyThread) for thread in threads_since(threads)):
        time.sleep(0.001)  # a bare one cannot be joined; the watchdog is what ends it otherwise
    assert threads_since(threads) == set()
    assert open_fds() - fds == set()
    assert child_processes() - children == set()


def spawned(program: str) -> Callable[[ExitStack], Any]:
    def make(stack: ExitStack) -> Any:
        argv = [sys.executable, "-c", program]
        return lambda kind, **settings: kind.spawn(argv, exit_timeout=LIMIT, **settings)

    return make


def over_exec(stack: ExitStack) -> Any:
    return lambda kind, **settings: kind(connect_to(f"exec:{sys.executable} -c '{ECHO}'"), **settings)


def over_files(stack: ExitStack) -> Any:
    """Files, which a thread reads and another one writes; the other end answers nothing."""
    (ours, to_us), (them, to_them) = os.pipe(), os.pipe()
    files = [stack.enter_context(open(fd, mode)) for fd, mode in ((ours, "rb"), (to_them, "wb"))]
    stack.callback(os.close, them)
    stack.callback(os.close, to_us)
    return lambda kind, **settings: kind(tuple(files), **settings)


def over_a_full_socket(stack: ExitStack) -> Any:
    """One that takes nothing: a thread has to wait for room."""
    ours, theirs = socket.socketpair()
    stack.callback(ours.close)
    stack.callback(theirs.close)
    return lambda kind, **settings: kind(ours, **settings)


KINDS = {
    "a child": spawned(ECHO),
    "a child that exits": spawned(EXITS),
    "exec": over_exec,
    "files": over_files,
    "a full socket": over_a_full_socket,
}


def ask_with_threads(conn: PacketConnection, payload: bytes) -> None:
    with conn:
        conn(1, payload, timeout=0.3)


async def ask_in_a_loop(conn: AsyncPacketConnection, payload: bytes) -> None:
    async with conn:
        await conn(1, payload, timeout=0.3)


@pytest.mark.long
@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_left_behind(kind: str, face: str, caplog: pytest.LogCaptureFixture) -> None:
    def handler(rq_type: int, flags: int, payload: bytes) -> None:
        return None

    payload = bytes(1 << 20) if kind == "a full socket" else b"payload"
    for count in range(ENOUGH):
        with nothing_left(), ExitStack() as stack:
            make = KINDS[kind](stack)
            if face == "threads":
                conn = make(PacketConnection, request_handler=handler, close_timeout=0.3)
                with threads_allowed(count), suppress(RuntimeError, ConnectionEnded, RequestTimeout):
                    ask_with_threads(conn, payload)
            else:
                conn = make(AsyncPacketConnection, request_handler=handler, close_timeout=0.3)
                with asyncio.Runner() as runner:
                    with threads_allowed(count), suppress(RuntimeError, ConnectionEnded, RequestTimeout):
                        runner.run(ask_in_a_loop(conn, payload))
            assert not conn.is_open()


@pytest.mark.parametrize("face", FACES)
def test_with_threads_for_the_opening_alone_a_child_is_ended(face: str) -> None:
    """None is to be had for the closing."""

    async def in_a_loop() -> None:
        async with AsyncPacketConnection.spawn([sys.executable, "-c", ECHO], close_timeout=LIMIT) as conn:
            assert (await conn(1, b"payload"))[0]
            stack.enter_context(threads_allowed(0))

    with nothing_left(), ExitStack() as stack:
        if face == "asyncio":
            with asyncio.Runner() as runner:
                runner.run(in_a_loop())
        else:
            with PacketConnection.spawn([sys.executable, "-c", ECHO], close_timeout=LIMIT) as conn:
                assert conn(1, b"payload")[0]
                stack.enter_context(threads_allowed(0))


@pytest.mark.parametrize("handlers", [2, "inline"])
def test_a_handler_that_closes_its_own_connection(handlers: Any) -> None:
    ours, theirs = socket.socketpair()
    closed = threading.Event()

    def handler(rq_type: int, flags: int, payload: bytes) -> None:
        with threads_allowed(0):
            conn.close()
        closed.set()

    with ours, theirs, nothing_left():
        conn = PacketConnection(ours, request_handler=handler, handlers=handlers, close_timeout=0.3)
        conn.open()
        with PacketConnection(theirs, close_timeout=0.3) as other:
            with suppress(ConnectionEnded):
                other(1, timeout=LIMIT)
            assert closed.wait(LIMIT)
        assert not conn.is_open()
        assert conn.ended is not None


def test_a_link_for_tests_that_cannot_begin() -> None:
    with nothing_left(), threads_allowed(0), pytest.raises(RuntimeError, match="can't start new thread"):
        with FaultyLink():
            pass


@pytest.mark.parametrize("allowed", [0, 1, 2])
def test_the_threads_of_a_service_that_cannot_be_started(allowed: int) -> None:
    """Jobs are run by those that there are; without any they are refused."""
    done: queue.Queue[int] = queue.Queue()
    gate = threading.Event()

    def job(number: int) -> None:
        assert gate.wait(LIMIT)
        done.put(number)

    with nothing_left():
        workers = Workers(3, "workers")
        with threads_allowed(allowed):
            taken = [workers.submit(partial(job, number)) for number in range(4)]
        assert taken == [allowed > 0] * 4
        gate.set()
        assert {done.get(timeout=LIMIT) for number in range(4) if taken[number]} == set(range(4) if allowed else ())
        workers.close(LIMIT)

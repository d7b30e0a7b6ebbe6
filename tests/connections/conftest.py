"""The transports that connections are tested over, and a check that nothing is left behind."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from cs.buffer import CornuCopyBuffer

from packetwire import PacketConnection


@dataclass
class Ends:
    """Two `recv_send` that are connected to each other, and what closes their descriptors."""

    a: Any
    b: Any
    close_a: Callable[[], None]
    close_b: Callable[[], None]
    stack: ExitStack = field(default_factory=ExitStack)


def _closer(*fds: int) -> Callable[[], None]:
    left = set(fds)

    def close() -> None:
        while left:
            os.close(left.pop())

    return close


def _pipes() -> tuple[int, int, int, int]:
    a_recv, b_send = os.pipe()
    b_recv, a_send = os.pipe()
    return a_recv, a_send, b_recv, b_send


def pipes() -> Ends:
    a_recv, a_send, b_recv, b_send = _pipes()
    return Ends((a_recv, a_send), (b_recv, b_send), _closer(a_recv, a_send), _closer(b_recv, b_send))


def socketpair() -> Ends:
    a, b = socket.socketpair()
    return Ends(a, b, a.close, b.close)


def socket_fds() -> Ends:
    a, b = socket.socketpair()
    return Ends(a.fileno(), (b.fileno(), b.fileno()), a.close, b.close)


def tcp() -> Ends:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        a = socket.create_connection(listener.getsockname())
        b, _ = listener.accept()
    a.settimeout(0.01)  # neither a timeout nor non-blocking mode of the user's object may matter
    b.setblocking(False)
    return Ends(a, b, a.close, b.close)


def files() -> Ends:
    a_recv, a_send, b_recv, b_send = _pipes()
    opened = (open(a_recv, "rb"), open(a_send, "wb"), open(b_recv, "rb"), open(b_send, "wb"))

    def close(*which: Any) -> Callable[[], None]:
        return lambda: [file.close() for file in which] and None

    return Ends(opened[:2], opened[2:], close(*opened[:2]), close(*opened[2:]))


def raw_files() -> Ends:
    a_recv, a_send, b_recv, b_send = _pipes()
    opened = [open(fd, mode, buffering=0, closefd=False) for fd, mode in ((a_recv, "rb"), (a_send, "wb"))]
    return Ends(tuple(opened), (b_recv, b_send), _closer(a_recv, a_send), _closer(b_recv, b_send))


def buffers() -> Ends:
    a_recv, a_send, b_recv, b_send = _pipes()
    a = CornuCopyBuffer.from_fd(a_recv), a_send
    b = CornuCopyBuffer.from_fd(b_recv), open(b_send, "wb", closefd=False)
    opened = ExitStack()  # a buffer duplicates the descriptor that it reads
    for bfr, _ in (a, b):
        opened.callback(bfr.close)
    return Ends(a, b, _closer(a_recv, a_send), _closer(b_recv, b_send), opened)


TRANSPORTS = {make.__name__: make for make in (pipes, socketpair, socket_fds, tcp, files, raw_files, buffers)}
DESCRIPTORS = ("pipes", "socketpair")
"""The transports that faults are tried on: their ends can be closed under a connection."""


@pytest.fixture(params=TRANSPORTS)
def ends(request: pytest.FixtureRequest) -> Iterator[Ends]:
    """Two connected ends, over each transport."""
    yield from _open(TRANSPORTS[request.param])


@pytest.fixture(params=DESCRIPTORS)
def fd_ends(request: pytest.FixtureRequest) -> Iterator[Ends]:
    """Two connected ends, over a pair of pipes and over a socket pair."""
    yield from _open(TRANSPORTS[request.param])


def _open(make: Callable[[], Ends]) -> Iterator[Ends]:
    opened = make()
    with opened.stack:
        yield opened
    opened.close_a()
    opened.close_b()


@pytest.fixture
def connect(ends: Ends) -> Callable[..., tuple[PacketConnection, PacketConnection]]:
    """Open connections at both ends; `a` and `b` are the arguments of each."""
    return lambda a=None, b=None: open_both(ends, a, b)


@pytest.fixture
def fd_connect(fd_ends: Ends) -> Callable[..., tuple[PacketConnection, PacketConnection]]:
    """As `connect`, over pipes and a socket pair only: for what does not depend on the transport."""
    return lambda a=None, b=None: open_both(fd_ends, a, b)


def open_both(
    ends: Ends, a: dict[str, Any] | None = None, b: dict[str, Any] | None = None
) -> tuple[PacketConnection, PacketConnection]:
    """Two open connections, closed at the end of the test, the second one first."""
    first = PacketConnection(ends.a, "a", **(a or {}))
    second = PacketConnection(ends.b, "b", **(b or {}))
    return ends.stack.enter_context(first), ends.stack.enter_context(second)


def open_fds() -> set[str]:
    """What the process has open: a descriptor's number and what it is."""
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{fd} {os.readlink(f'/proc/self/fd/{fd}')}")
        except FileNotFoundError:
            pass  # the one that listdir used
    return found


def threads_since(before: set[threading.Thread]) -> set[threading.Thread]:
    """Threads that were not there; a bare one that has ended does not count, though it stays listed."""
    running = sys._current_frames()
    listed = set(threading.enumerate()) - before
    return {one for one in listed if not isinstance(one, threading._DummyThread) or one.ident in running}


@pytest.fixture(autouse=True)
def _nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """After the test the threads, descriptors and blocking modes are what they were."""
    threads, fds = set(threading.enumerate()), open_fds()
    yield
    if request.node.get_closest_marker("leaves_threads"):
        for _ in range(3):  # one may start another in its end
            for thread in threads_since(threads):
                with suppress(RuntimeError):  # it is just being started
                    thread.join(10)
    deadline = time.monotonic() + 10
    while any(isinstance(one, threading._DummyThread) for one in threads_since(threads)):
        assert time.monotonic() < deadline, "a bare thread does not end"  # it cannot be joined
        time.sleep(0)
    assert threads_since(threads) == set()
    assert open_fds() - fds == set()

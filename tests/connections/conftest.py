"""The transports that connections are tested over, and a check that nothing is left behind."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest
from cs.buffer import CornuCopyBuffer
from tests.leftovers import join, open_fds, threads_since

from packetwire import PacketConnection

from .sshd import Sshd, running_sshd


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


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """A server of OpenSSH."""
    with running_sshd(tmp_path_factory.mktemp("sshd")) as server:
        yield server


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


@pytest.fixture(autouse=True)
def _nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """After the test the threads, descriptors and blocking modes are what they were."""
    threads, fds = set(threading.enumerate()), open_fds()
    yield
    if request.node.get_closest_marker("leaves_threads"):
        for _ in range(3):  # one may start another in its end
            for thread in threads_since(threads):
                join(thread, 10)
    assert threads_since(threads) == set()
    assert open_fds() - fds == set()

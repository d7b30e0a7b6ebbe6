"""The loops and the streams that asyncio connections are tested on, and a check that nothing is left behind."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import pytest
from tests.leftovers import open_fds, threads_since

from packetwire import AsyncPacketConnection

try:
    import uvloop
except ModuleNotFoundError:
    uvloop = None

LOOPS = {"asyncio": None, "uvloop": uvloop and uvloop.new_event_loop}

Run = Callable[[Callable[[], Coroutine[Any, Any, Any]]], Any]
Ends = tuple[Any, Any]


@pytest.fixture(params=["asyncio", pytest.param("uvloop", marks=pytest.mark.long)])
def loop_factory(request: pytest.FixtureRequest) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """What makes the loop of a test."""
    if request.param == "uvloop" and uvloop is None:
        pytest.skip("uvloop is not installed")
    return LOOPS[request.param]


@pytest.fixture
def run(loop_factory: Callable[[], asyncio.AbstractEventLoop] | None) -> Run:
    """Run a coroutine function in a loop of its own; no task and no registration may be left in the loop."""

    def run(main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        async def checked() -> Any:
            registered = registrations()
            result = await main()
            await asyncio.sleep(0)  # transports that were closed are gone one round later
            assert asyncio.all_tasks() == {asyncio.current_task()}
            assert registrations() == registered
            return result

        with asyncio.Runner(loop_factory=loop_factory) as runner:
            return runner.run(checked())

    return run


def registrations() -> set[int]:
    """The descriptors that the running loop polls, as far as it tells."""
    selector = getattr(asyncio.get_running_loop(), "_selector", None)
    return set(selector.get_map()) if selector is not None else set()


# streams: each yields two ends that are connected, and closes them behind the connections


@asynccontextmanager
async def pipes() -> AsyncIterator[Ends]:
    (a_recv, b_send), (b_recv, a_send) = os.pipe(), os.pipe()
    try:
        yield (a_recv, a_send), (b_recv, b_send)
    finally:
        for fd in (a_recv, a_send, b_recv, b_send):
            os.close(fd)


@asynccontextmanager
async def socketpair() -> AsyncIterator[Ends]:
    a, b = socket.socketpair()
    with a, b:
        yield a, b


@asynccontextmanager
async def tcp() -> AsyncIterator[Ends]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        a = socket.create_connection(listener.getsockname())
        b, _ = listener.accept()
    with a, b:
        yield a, b


@asynccontextmanager
async def files() -> AsyncIterator[Ends]:
    (a_recv, b_send), (b_recv, a_send) = os.pipe(), os.pipe()
    with open(a_recv, "rb") as ar, open(a_send, "wb") as aw, open(b_recv, "rb") as br, open(b_send, "wb") as bw:
        yield (ar, aw), (br, bw)


@asynccontextmanager
async def streams() -> AsyncIterator[Ends]:
    a, b = socket.socketpair()
    ours, theirs = await asyncio.open_unix_connection(sock=a), await asyncio.open_unix_connection(sock=b)
    try:
        yield ours, theirs
    finally:
        for _, writer in (ours, theirs):
            writer.transport.abort()  # `close` would wait for a peer that does not read
            await writer.wait_closed()


TRANSPORTS = {make.__name__: make for make in (pipes, socketpair, tcp, files, streams)}


@pytest.fixture(params=TRANSPORTS)
def ends(request: pytest.FixtureRequest) -> Callable[[], Any]:
    """An asynchronous context manager for two connected ends, over each transport."""
    return TRANSPORTS[request.param]


@pytest.fixture(params=["pipes", "socketpair"])
def fd_ends(request: pytest.FixtureRequest) -> Callable[[], Any]:
    """As `ends`, for what does not depend on the transport."""
    return TRANSPORTS[request.param]


@asynccontextmanager
async def connected(
    make: Callable[[], Any], a: dict[str, Any] | None = None, b: dict[str, Any] | None = None
) -> AsyncIterator[tuple[Any, Any]]:
    """Two open connections over what `make` makes, with these settings."""
    async with AsyncExitStack() as stack:
        ours, theirs = await stack.enter_async_context(make())
        first = await stack.enter_async_context(AsyncPacketConnection(ours, "a", **(a or {})))
        second = await stack.enter_async_context(AsyncPacketConnection(theirs, "b", **(b or {})))
        yield first, second


class RawPeer:
    """The other end without packetwire: what it reads and writes, the test decides."""

    def __init__(self, end: Any) -> None:
        self._end = end
        self._recv, self._send = end if isinstance(end, tuple) else (end.fileno(), end.fileno())

    def send(self, octets: bytes) -> None:
        assert os.write(self._send, octets) == len(octets)

    def shut_down(self) -> None:
        """End the stream towards the other side."""
        if isinstance(self._end, socket.socket):
            self._end.shutdown(socket.SHUT_WR)
        else:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._send)  # the number stays taken
            os.close(null)

    def flood(self, octets: bytes) -> None:
        """Write as long as that goes, blocking."""
        with suppress(OSError):
            while octets:
                octets = octets[os.write(self._send, octets) :]

    async def read(self) -> bytes:
        """Read, without blocking the loop."""
        loop = asyncio.get_running_loop()
        readable = loop.create_future()
        blocking = os.get_blocking(self._recv)
        loop.add_reader(self._recv, lambda: readable.done() or readable.set_result(None))
        try:
            await readable
        finally:
            loop.remove_reader(self._recv)
            os.set_blocking(self._recv, blocking)
        return os.read(self._recv, 65536)

    async def read_until(self, found: Callable[[bytes], bool]) -> bytes:
        """Read until `found(octets)`."""
        octets = b""
        while not found(octets):
            octets += await self.read()
        return octets

    async def read_past(self, count: int) -> int:
        """Read at least that many octets, return how many."""
        taken = 0
        while taken < count:
            taken += len(await self.read())
        return taken

    async def swallow(self) -> None:
        """Read until the end."""
        while await self.read():
            pass


@pytest.fixture(autouse=True, scope="session")
def _uvloop_keeps_two_descriptors() -> None:
    """It makes them for signals, with its first loop, for the whole process."""
    if uvloop is not None:
        uvloop.new_event_loop().close()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(asyncio.sleep(0))


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    """After the test the threads and descriptors are what they were."""
    threads, fds = set(threading.enumerate()), open_fds()
    yield
    for thread in set(threading.enumerate()) - threads:
        if thread.name == "packetwire-reader":
            thread.join(20)  # a read of a file, which nothing can wake, ends with the file that was closed just now
    assert threads_since(threads) == set()
    assert open_fds() - fds == set()

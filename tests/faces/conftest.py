"""A connection of either face at one end of a socket pair, whatever drives it: threads or a loop in a thread."""

from __future__ import annotations

import asyncio
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from packetwire import AsyncPacketConnection, Packet, PacketConnection, PacketDecoder

WATCHDOG = 30.0
STEP = 0.01


def until(condition: Callable[[], Any]) -> None:
    """Return once `condition()` is true; fail if it does not become so."""
    deadline = time.monotonic() + WATCHDOG
    while not condition():
        assert time.monotonic() < deadline, condition
        select.select([], [], [], STEP)


class Threaded:
    """A `PacketConnection`, and how to use it."""

    make = PacketConnection

    @contextmanager
    def opened(self, conn: Any) -> Iterator[None]:
        """Open inside the block."""
        with conn:
            yield

    def do(self, function: Callable[[], Any]) -> Any:
        """Call `function` where the connection may be used, and wait for what it returns."""
        return function()


class Looped:
    """An `AsyncPacketConnection` in a loop that runs in a thread, and how to use it."""

    make = AsyncPacketConnection

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()

    @contextmanager
    def opened(self, conn: Any) -> Iterator[None]:
        """Open inside the block."""
        thread = threading.Thread(target=self.loop.run_forever)
        thread.start()
        try:
            self.do(conn.open)
            try:
                yield
            finally:
                self.do(conn.close)
        finally:
            self.loop.call_soon_threadsafe(self.loop.stop)
            thread.join(WATCHDOG)
            self.loop.close()

    def do(self, function: Callable[[], Any]) -> Any:
        """Call `function` where the connection may be used, and wait for what it returns."""

        async def called() -> Any:
            result = function()
            return await result if asyncio.iscoroutine(result) or asyncio.isfuture(result) else result

        return asyncio.run_coroutine_threadsafe(called(), self.loop).result(WATCHDOG)


class Peer:
    """The other end without packetwire: the test decides what it sends."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.settimeout(WATCHDOG)
        self._decoder = PacketDecoder()
        self._packets: list[Packet] = []

    def send(self, *packets: Packet) -> None:
        self.sock.sendall(b"".join(map(bytes, packets)))

    def ask(self, tag: int, *, channel: int = 0, rq_type: int = 0, flags: int = 0, payload: bytes = b"") -> Packet:
        """Ask, and return the next packet that comes."""
        self.send(
            Packet(is_request=True, channel=channel, tag=tag, flags=flags, rq_type=rq_type + 1, payload=payload)
        )
        return self.read()

    def read(self) -> Packet:
        """The next packet."""
        while not self._packets:
            octets = self.sock.recv(65536)
            assert octets, "the stream ended"
            self._packets += self._decoder.feed(octets)
        return self._packets.pop(0)


class Ends:
    """Both ends: a connection of some face, and what the test holds in its hands."""

    def __init__(self, face: Any, stack: ExitStack) -> None:
        self.face = face
        self.do = face.do
        self._stack = stack
        self._sockets = [stack.enter_context(each) for each in socket.socketpair()]

    def make(self, **settings: Any) -> Any:
        """A connection of the face, not open yet."""
        self.conn = self.face.make(self._sockets[0], "tried", **settings)
        return self.conn

    def open(self, **settings: Any) -> Any:
        """A connection of the face, open until the end of the test; that made before, if there is one."""
        conn = getattr(self, "conn", None) or self.make(**settings)
        self._stack.enter_context(self.face.opened(conn))
        return conn

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """Ask from the connection."""
        return self.do(lambda: self.conn(*args, **kwargs))

    def peer(self) -> Peer:
        """Its stream ends before the connection is closed, which else would wait for that."""
        self._stack.callback(self._sockets[1].close)
        return Peer(self._sockets[1])

    def asker(self, **settings: Any) -> PacketConnection:
        """A connection at the other end, open until the end of the test."""
        return self._stack.enter_context(PacketConnection(self._sockets[1], "asker", **settings))


@pytest.fixture(params=[Threaded, Looped], ids=["threads", "asyncio"])
def face(request: pytest.FixtureRequest) -> Iterator[Any]:
    made = request.param()
    yield made
    if isinstance(made, Looped):
        made.loop.close()  # of a test that opened nothing


@pytest.fixture
def ends(face: Any) -> Iterator[Ends]:
    with ExitStack() as stack:
        yield Ends(face, stack)

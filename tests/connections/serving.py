"""A server of either face, for tests that see it from outside only."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from packetwire import AsyncPacketConnection, PacketConnection, aserve, serve

FACES = ("threads", "asyncio")
LIMIT = 30

Handler = Callable[[int, int, bytes], Any]


class Serving:
    """A server that runs: its address, and the connections that were made for its clients."""

    def __init__(self) -> None:
        self.address = ""
        self.made: list[Any] = []
        self.server: Any = None
        self._call: Callable[[Callable[[], object]], object] = lambda function: function()

    def stop(self, drain_timeout: float | None = None) -> None:
        """From any thread."""
        self._call(lambda: self.server.stop(drain_timeout))

    @property
    def connections(self) -> int:
        return int(self.server.connections)


@contextmanager
def serving(
    face: str, address: str, handler: Handler, limits: dict[str, Any], **connection: Any
) -> Iterator[Serving]:
    """Serve `handler`, which may block with threads only, by the face of that name."""
    with (_with_threads if face == "threads" else _in_a_loop)(address, handler, limits, connection) as served:
        yield served


@contextmanager
def _with_threads(
    address: str, handler: Handler, limits: dict[str, Any], connection: dict[str, Any]
) -> Iterator[Serving]:
    served = Serving()

    def make(stream: Any) -> PacketConnection:
        served.made.append(PacketConnection(stream, request_handler=handler, close_timeout=2, **connection))
        return served.made[-1]

    with serve(address, make, **limits) as served.server:
        served.address = str(served.server.address)
        yield served


@contextmanager
def _in_a_loop(
    address: str, handler: Handler, limits: dict[str, Any], connection: dict[str, Any]
) -> Iterator[Serving]:
    served = Serving()
    ready, over = threading.Event(), asyncio.Event()
    failures: list[BaseException] = []

    def make(stream: Any) -> AsyncPacketConnection:
        served.made.append(AsyncPacketConnection(stream, request_handler=handler, close_timeout=2, **connection))
        return served.made[-1]

    async def main() -> None:
        loop = asyncio.get_running_loop()
        served._call = loop.call_soon_threadsafe
        async with await aserve(address, make, **limits) as served.server:
            served.address = str(served.server.address)
            ready.set()
            await over.wait()

    def run() -> None:
        try:
            asyncio.run(main())
        except BaseException as error:
            failures.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert ready.wait(LIMIT)
        if not failures:
            yield served
    finally:
        if not failures:
            served._call(over.set)
        thread.join(LIMIT)
        assert not thread.is_alive()
    for failure in failures:
        raise failure

"""Clients and workers of packets, by threads and in a loop, to be used in the same way by a test."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any, NamedTuple

from packetwire.zmqpackets import AsyncPacketClient, AsyncPacketWorker, PacketClient, PacketWorker

from .conftest import WAIT

RUNNING: list[_Looped] = []
"""Whose loops still run."""


class _Looped:
    """Something of asyncio's, in a loop that runs in a thread until it is closed."""

    make: Callable[..., Any]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        RUNNING.append(self)
        try:
            self.made = self._do(lambda: type(self).make(*args, **kwargs))
        except BaseException:
            self.end()
            raise

    def _do(self, function: Callable[[], Any]) -> Any:
        async def called() -> Any:
            return function()

        return asyncio.run_coroutine_threadsafe(called(), self._loop).result(WAIT)

    def _begin(self, awaitable: Awaitable[Any]) -> Future[Any]:
        async def awaited() -> Any:
            return await awaitable

        return asyncio.run_coroutine_threadsafe(awaited(), self._loop)

    def close(self, *args: Any) -> None:
        self._begin(self.made.close(*args)).result(WAIT)

    def end(self) -> None:
        """End the loop, with what was made in it."""
        RUNNING.remove(self)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(WAIT)
        self._loop.close()

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class LoopedClient(_Looped):
    """An `AsyncPacketClient`, as if it were one for threads."""

    make = AsyncPacketClient

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._begin(self.made(*args, **kwargs)).result(WAIT)

    def submit(self, *args: Any, **kwargs: Any) -> Future[Any]:
        return self._begin(self._do(lambda: self.made.submit(*args, **kwargs)))

    @property
    def late_responses(self) -> int:
        return int(self.made.late_responses)

    @property
    def _pending(self) -> Any:
        return self.made._pending


class LoopedWorker(_Looped):
    """An `AsyncPacketWorker`, as if it were one for threads."""

    make = AsyncPacketWorker

    def join(self, timeout: float | None = None) -> bool:
        return bool(self._begin(self.made.join(timeout)).result(WAIT))


class Face(NamedTuple):
    """The classes of one face."""

    name: str
    client: Callable[..., Any]
    worker: Callable[..., Any]


def end_loops() -> None:
    """When a test is over."""
    for each in RUNNING[:]:
        if hasattr(each, "made"):
            each.close()
        each.end()


FACES = [Face("threads", PacketClient, PacketWorker), Face("asyncio", LoopedClient, LoopedWorker)]

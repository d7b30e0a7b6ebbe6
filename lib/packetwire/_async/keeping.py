"""The places where an event loop differs from threads, for what keeps connections alive."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from inspect import isawaitable
from typing import Any


class Change:
    """Wakes whoever waits for something to be different. `count` tells one change from the next."""

    def __init__(self) -> None:
        self.count = 0
        self._waiting: set[asyncio.Future[None]] = set()

    def tell(self) -> None:
        """Something is different."""
        self.count += 1
        for future in self._waiting:
            if not future.done():
                future.set_result(None)

    async def wait(self, seen: int, seconds: float) -> None:
        """Wait until `count` is not the one that was seen, for so many seconds at most."""
        if self.count != seen or seconds <= 0:
            return
        future = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        try:
            await asyncio.wait([future], timeout=seconds)
        finally:
            self._waiting.discard(future)


class Background:
    """One piece of work in the background: a task."""

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None

    def start(self, work: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
        """Begin it."""
        self._task = asyncio.get_running_loop().create_task(work(), name=name)

    async def stop(self, seconds: float) -> None:
        """Wait for its end, for so many seconds; then it is cancelled."""
        if self._task is not None:
            done, _ = await asyncio.wait([self._task], timeout=max(0.0, seconds))
            if not done:
                self._task.cancel()
                await asyncio.wait([self._task])


async def called(function: Callable[..., object], *args: object) -> Any:
    """The result of a function of the user's, which may be a coroutine function."""
    result = function(*args)
    return await result if isawaitable(result) else result

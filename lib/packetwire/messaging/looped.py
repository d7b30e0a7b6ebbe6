"""Channels in an event loop: what waits for a message is a task.

Strategy: the loop's thread is the one that reads, all the time. So all that channels do is as it is with
threads, but that nothing may wait inside of it: a peer that does not take what it is sent is given up at
its bounds, and whoever sends much awaits `drain` before.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Callable
from threading import get_ident
from typing import Any

from packetwire.core.timelimits import time_limit
from packetwire.messaging.session import Session
from packetwire.messaging.shared import SharedChannel


class Watchers:
    """Tasks that wait until something is true, which is looked at when something has changed."""

    __slots__ = ("_watchers",)

    def __init__(self) -> None:
        self._watchers: list[tuple[Callable[[], bool], asyncio.Future[bool]]] = []

    def look(self) -> None:
        """Something has changed: wake those whose condition is true now."""
        for condition, future in self._watchers:
            if not future.done() and condition():
                future.set_result(True)

    async def wait(self, condition: Callable[[], bool], timeout: float | None = None) -> bool:
        """Wait until `condition()`; false after `timeout` seconds."""
        limit = time_limit(timeout)
        if condition():
            return True
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bool] = loop.create_future()
        watcher = condition, future
        self._watchers.append(watcher)
        timer = None if limit is None else loop.call_later(limit, _give_up, future)
        try:
            return await future
        finally:
            self._watchers.remove(watcher)
            if timer is not None:
                timer.cancel()


def _give_up(future: asyncio.Future[bool]) -> None:
    if not future.done():
        future.set_result(False)


class LoopChannel(SharedChannel):
    """A channel that an event loop drives, to be used in its thread alone.

    It is mixed in before the class of a carrier.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._reader = get_ident()
        self._watchers = Watchers()

    def notify(self) -> None:
        self._watchers.look()

    async def wait_for(self, done: Callable[[], bool], timeout: float | None = None) -> bool:
        """Wait until `done()`, which is asked when something has arrived; false after `timeout` seconds."""
        return await self._watchers.wait(lambda: done() or self.closed, timeout) and done()

    @abstractmethod
    async def drain(self, session: Session | None) -> None:
        """Wait until there is room to send to a peer, or none at all any more."""

"""Descriptors and deadlines in an event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

OTHERS_TURN: Final = 32
"""Messages that are handed out without waiting before the loop gets its turn."""


class LoopDriver:
    """Calls `turn` when its descriptor tells of news, and when a deadline has come; again while it returns True.

    It belongs to the loop in which `attach` was called last.
    """

    def __init__(self, fd: int, turn: Callable[[], bool], next_deadline: Callable[[], float | None]) -> None:
        self._fd = fd
        self._others: dict[int, Callable[[], None]] = {}
        self._turn = turn
        self._next_deadline = next_deadline
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._soon: asyncio.Handle | None = None
        self._calls = 0

    def watch(self, fd: int, look: Callable[[], None]) -> None:
        """Have `look` called when another descriptor tells of news. Before `attach`."""
        self._others[fd] = look

    def attach(self) -> None:
        """Work in the running loop. In the one where it works already this costs nothing."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self.detach()
            self._loop = loop
            loop.add_reader(self._fd, self._run)
            for fd, look in self._others.items():
                loop.add_reader(fd, look)
                look()
            self._run()

    def detach(self) -> None:
        """Work no more."""
        loop, self._loop = self._loop, None
        if loop is not None and not loop.is_closed():
            for fd in (self._fd, *self._others):
                loop.remove_reader(fd)
        for handle in (self._timer, self._soon):
            if handle is not None:
                handle.cancel()
        self._timer = self._soon = None

    async def turn_of_others(self) -> None:
        """Let the loop do something else now and then, before what may be done without waiting for anything."""
        self._calls += 1
        if self._calls % OTHERS_TURN == 0:
            await asyncio.sleep(0)

    def poke(self) -> None:
        """A descriptor may have told of news that nobody heard."""
        if self._soon is None and self._loop is not None:
            self._soon = self._loop.call_soon(self._run)

    def _run(self) -> None:
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        more = True  # so it is after an exception, too, and the descriptor does not tell of it again
        try:
            more = self._turn()
        finally:
            if more:
                self.poke()
            self.set_timer()

    def set_timer(self) -> None:
        """There may be a new deadline."""
        when = self._next_deadline()
        if when is None or self._loop is None or (self._timer is not None and self._timer_at <= when):
            return  # a timer that comes too early looks again
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = when
        self._timer = self._loop.call_later(max(0.0, when - time.monotonic()), self._ring)

    def _ring(self) -> None:
        self._timer = None
        self._run()

"""Descriptors and deadlines in an event loop."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable
from typing import Final

from packetwire.aio.loops import guard_loop
from packetwire.errors import ConnectionEnded

OTHERS_TURN: Final = 32
"""Messages that are returned without waiting before the loop gets a turn."""
LONGEST_PAUSE: Final = 1.0
"""Seconds between two turns that fail, at most; the first ones follow at once."""
CLOSE_WAIT: Final = 1.0
"""Seconds for a loop to stop using a socket that another thread closes."""


class LoopDriver:
    """Calls `turn` when the descriptor is readable, and at a deadline; again while it returns True.

    `next_deadline` returns None, or infinity, if there is none; it may return a time that is too early.

    It belongs to the loop in which `attach` was called last. A turn may raise `ConnectionEnded` once `detach` was
    called: all who wait have got it by then.
    """

    def __init__(self, fd: int, turn: Callable[[], bool], next_deadline: Callable[[], float | None]) -> None:
        self._fd = fd
        self._others: dict[int, Callable[[], None]] = {}
        self._turn = turn
        self._next_deadline = next_deadline
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        self._soon: asyncio.Handle | None = None
        self._calls = 0
        self._failures = 0

    def watch(self, fd: int, look: Callable[[], None]) -> None:
        """Have `look` called when another descriptor is readable. To be called before `attach`."""
        self._others[fd] = look

    def attach(self) -> None:
        """Work in the running loop; costs nothing if it does so already."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self.detach()
            self._loop = loop
            guard_loop(loop)
            loop.add_reader(self._fd, self._run)
            for fd, look in self._others.items():
                loop.add_reader(fd, self._look, look)
            for look in self._others.values():
                self._look(look)
            self._run()

    def in_loop(self, call: Callable[[], None]) -> None:
        """Have `call` called in the loop, from any thread, and wait up to `CLOSE_WAIT` for it."""
        loop = self._loop
        if loop is None or not loop.is_running() or loop is _running_loop():
            call()
            return
        done = threading.Event()

        def run() -> None:
            try:
                call()
            finally:
                done.set()

        try:
            loop.call_soon_threadsafe(run)
        except RuntimeError:  # the loop was closed just now
            call()
        else:
            done.wait(CLOSE_WAIT)

    def after_fork(self) -> None:
        """In the child of a fork: forget the loop, whose selector is shared with the parent."""
        self._loop = self._timer = self._soon = None
        self._timer_at = math.inf

    def detach(self) -> None:
        """Stop working."""
        loop, self._loop = self._loop, None
        if loop is not None and not loop.is_closed():
            for fd in (self._fd, *self._others):
                loop.remove_reader(fd)
        for handle in (self._timer, self._soon):
            if handle is not None:
                handle.cancel()
        self._timer = self._soon = None
        self._timer_at = math.inf

    async def turn_of_others(self) -> None:
        """Let the loop do other work now and then, for callers that might never have to wait."""
        self._calls += 1
        if self._calls % OTHERS_TURN == 0:
            await asyncio.sleep(0)

    def poke(self) -> None:
        """Take a turn soon: the descriptor may have been reset without anybody looking."""
        if self._soon is None and self._loop is not None:
            self._soon = self._loop.call_soon(self._run)

    def _look(self, look: Callable[[], None]) -> None:
        try:
            look()
        except ConnectionEnded:
            if self._loop is not None:
                raise

    def _run(self) -> None:
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        try:
            more = self._turn()
        except ConnectionEnded:
            if self._loop is not None:
                self._try_again()
                raise
        except BaseException:
            self._try_again()
            raise
        else:
            self._failures = 0
            if more:
                self.poke()
            self.set_timer()

    def _try_again(self) -> None:
        """Take another turn after one that failed, as the descriptor does not signal again what was left.

        If it keeps failing there are pauses in between, since each failure is logged.
        """
        self._failures += 1
        if self._loop is None:
            return
        if self._failures == 1:
            self.poke()
            self.set_timer()
        elif self._soon is None:
            self._loop.remove_reader(self._fd)
            pause = min(LONGEST_PAUSE, 0.001 * 2.0 ** min(self._failures, 20))
            self._soon = self._loop.call_later(pause, self._resume)

    def _resume(self) -> None:
        if self._loop is not None:
            self._loop.add_reader(self._fd, self._run)
            self._run()

    def set_timer(self) -> None:
        """Adjust the timer: there may be a new deadline."""
        when = self._next_deadline()
        if when is None or self._loop is None or when >= self._timer_at:
            return  # the timer is early enough; when it fires it is adjusted
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = when
        self._timer = self._loop.call_later(max(0.0, when - time.monotonic()), self._ring)

    def _ring(self) -> None:
        self._timer, self._timer_at = None, math.inf
        self._run()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None

"""The view of its controller that the main function of a component has, with threads and in an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

from packetwire.core.timelimits import time_limit
from packetwire.errors import ConnectionEnded
from packetwire.iccp.config import Config
from packetwire.streams import forking


class Terminated(SystemExit):
    """Raised in the main function by SIGTERM, so that FINISHED is said then, too."""


class Control:
    """The wishes of the controller, for the main function of a component."""

    def __init__(self) -> None:
        self.config: Config | None = None
        """The last configuration that was taken."""
        self.reason: Exception | None = None
        """The reason to stop, if the controller did not ask for it."""
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._waiting: list[Callable[[], object]] = []
        forking.register(self)

    def after_fork(self) -> None:
        """In the child of a fork: the controller is the parent's. Here it is time to stop."""
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._stop.set()
        self._waiting = []
        self.reason = self.reason or ConnectionEnded(forking.of_parent("the connection to the controller"))

    @property
    def stopping(self) -> bool:
        """True once it is time to stop."""
        return self._stop.is_set()

    def wait_stop(self, timeout: float | None = None) -> bool:
        """Wait until it is time to stop; false after `timeout` seconds."""
        return self._stop.wait(time_limit(timeout))

    async def stopped(self) -> None:
        """Wait until it is time to stop, in an event loop."""
        loop, stopped = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            try:
                loop.call_soon_threadsafe(stopped.set)
            except RuntimeError:
                pass  # the loop was closed: nobody waits any more

        with self._lock:
            if self.stopping:
                return
            self._waiting.append(wake)
        try:
            await stopped.wait()
        finally:
            with self._lock:
                if wake in self._waiting:
                    self._waiting.remove(wake)

    def stop(self, reason: Exception | None = None) -> bool:
        """It is time to stop; false if it was already."""
        with self._lock:
            if self.stopping:
                return False
            self.reason = reason
            self._stop.set()
            waiting, self._waiting = self._waiting, []
        for wake in waiting:
            wake()
        return True

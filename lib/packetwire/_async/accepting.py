"""Waiting for clients, in a task."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from packetwire.admission import Admission
from packetwire.listeners import Acceptor, Listener


class AcceptLoop:
    """Has the event loop poll what is listened at, unless accepting is paused."""

    def __init__(self, listener: Listener, admission: Admission[Any]) -> None:
        self._listener = listener
        self._admission = admission
        self._loop = asyncio.get_running_loop()
        self._woken = asyncio.Event()
        self._polled: set[Acceptor] = set()
        self._ready: list[Acceptor] = []

    def wake(self) -> None:
        """Have `wait` return. In the loop."""
        self._woken.set()

    async def wait(self, *limits: float | None) -> Iterable[Acceptor]:
        """Wait for a client or `wake`, or until the first of the `limits`, in seconds; where clients wait."""
        if self._admission.is_paused:
            self.close()
        else:
            self._poll()
        paused = self._admission.paused_until
        left = [] if paused is None else [paused - time.monotonic()]
        left += [limit for limit in limits if limit is not None]
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, min(left)) if left else None):
                await self._woken.wait()
        self._woken.clear()
        ready, self._ready = self._ready, []
        return ready

    def _poll(self) -> None:
        for listening in self._listener.sockets:
            if listening not in self._polled:
                self._polled.add(listening)
                self._loop.add_reader(listening.fileno(), self._is_ready, listening)

    def _is_ready(self, listening: Acceptor) -> None:
        # not polled until it was looked at: whoever waits there would be announced again and again
        self._loop.remove_reader(listening.fileno())
        self._polled.discard(listening)
        self._ready.append(listening)
        self._woken.set()

    def close(self) -> None:
        """Poll nothing. A second call does nothing."""
        for listening in self._polled:
            self._loop.remove_reader(listening.fileno())
        self._polled.clear()

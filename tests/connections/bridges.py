"""A bridge of either face that runs, for tests that see it from outside only."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from packetwire.aio.bridge import AsyncBridge
from packetwire.bridge import Bridge

from .serving import LIMIT

MODULES = {"threads": "packetwire._sync.bridge", "asyncio": "packetwire._async.bridge"}
"""Where a face looks its functions up."""


class Bridging:
    """A bridge, and the thread that it runs in."""

    def __init__(self, face: str, make: Callable[[], Any]) -> None:
        self._face = face
        self._make = make
        self._ready = threading.Event()
        self._refused: BaseException | None = None
        self._stop: Callable[[], object] = lambda: None
        self.bridge: Any = None
        self.thread = threading.Thread(target=self._run)

    def start(self) -> None:
        """Returns when clients can connect; raises as the bridge does when it is made."""
        self.thread.start()
        assert self._ready.wait(LIMIT)
        if self._refused is not None:
            raise self._refused

    def _run(self) -> None:
        try:
            if self._face == "asyncio":
                asyncio.run(self._run_in_a_loop())
                return
            with self._make() as self.bridge:
                self._stop = self.bridge.stop
                self._ready.set()
                self.bridge.run()
        except BaseException as error:
            if self._ready.is_set():
                raise
            self._refused = error
            self._ready.set()

    async def _run_in_a_loop(self) -> None:
        loop = asyncio.get_running_loop()
        async with self._make() as self.bridge:
            self._stop = lambda: loop.is_closed() or loop.call_soon_threadsafe(self.bridge.stop)
            self._ready.set()
            await self.bridge.run()

    @property
    def address(self) -> Any:
        return self.bridge.address

    @property
    def clients(self) -> int:
        return int(self.bridge.clients)

    @property
    def failure(self) -> Exception | None:
        failure: Exception | None = self.bridge.failure
        return failure

    def stop(self) -> None:
        """From any thread."""
        self._stop()


@contextmanager
def bridging(face: str, a: Any, b: Any, **options: Any) -> Iterator[Bridging]:
    """Bridge both addresses until the end of the block."""
    made = Bridging(face, lambda: (AsyncBridge if face == "asyncio" else Bridge)(a, b, **options))
    try:
        made.start()
        yield made
    finally:
        made.stop()
        made.thread.join(LIMIT)
        assert not made.thread.is_alive()

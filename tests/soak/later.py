"""A thread that calls what is due."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable


class Later:
    """Calls functions some milliseconds later, one after the other."""

    def __init__(self) -> None:
        self._change = threading.Condition()
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._busy = False
        threading.Thread(target=self._run, name="soak-later", daemon=True).start()

    def call(self, milliseconds: int, function: Callable[[], None]) -> None:
        """From any thread."""
        with self._change:
            heapq.heappush(self._due, (time.monotonic() + milliseconds / 1000, next(self._numbers), function))
            self._change.notify_all()

    def finish(self) -> None:
        """Wait until all is called."""
        with self._change:
            self._change.wait_for(lambda: not self._due and not self._busy)

    def _run(self) -> None:
        while True:
            with self._change:
                while not self._due or (left := self._due[0][0] - time.monotonic()) > 0:
                    self._change.wait(left if self._due else None)
                function = heapq.heappop(self._due)[2]
                self._busy = True
            try:
                function()
            finally:
                del function  # it refers to what belongs to a round
                with self._change:
                    self._busy = False
                    self._change.notify_all()

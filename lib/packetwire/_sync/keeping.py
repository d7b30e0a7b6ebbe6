"""The places where threads differ from an event loop, for what keeps connections alive."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any


class Change:
    """Wakes whoever waits for something to be different. `count` tells one change from the next."""

    def __init__(self) -> None:
        self.count = 0
        self._condition = threading.Condition()

    def tell(self) -> None:
        """Something is different."""
        with self._condition:
            self.count += 1
            self._condition.notify_all()

    def wait(self, seen: int, seconds: float) -> None:
        """Wait until `count` is not the one that was seen, for so many seconds at most."""
        deadline = time.monotonic() + seconds
        with self._condition:
            while self.count == seen and (left := deadline - time.monotonic()) > 0:
                self._condition.wait(left)


class Background:
    """One piece of work in the background: a thread."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None

    def start(self, work: Callable[[], None], name: str) -> None:
        """Begin it."""
        self._thread = threading.Thread(target=work, name=name, daemon=True)
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """Wait for its end, for so many seconds; then it is left alone."""
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(max(0.0, seconds))


def called(function: Callable[..., Any], *args: Any) -> Any:
    """The result of a function of the user's."""
    return function(*args)

"""Signals and log of commands that run until they are stopped."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from packetwire.printable import printable

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)

ENDED = 0
"""A byte that is not the number of a signal."""


@contextmanager
def stop_signals() -> Iterator[tuple[int, int]]:
    """A pipe into which signals write their numbers: nothing is interrupted, the reading thread handles them."""
    read_fd, write_fd = os.pipe()
    os.set_blocking(write_fd, False)
    replaced = {}
    wakeup_fd = signal.set_wakeup_fd(write_fd, warn_on_full_buffer=False)
    try:
        for signum in STOP_SIGNALS:
            if signal.getsignal(signum) is not signal.SIG_IGN:
                replaced[signum] = signal.signal(signum, lambda signum, frame: None)
        yield read_fd, write_fd
    finally:
        for signum, handler in replaced.items():
            signal.signal(signum, handler)
        signal.set_wakeup_fd(wakeup_fd)
        os.close(read_fd)
        os.close(write_fd)


def run_until_signal(wait: Callable[[], object], stop: Callable[[bool], object], told: int, tell: int) -> int:
    """Until `wait()` returns, call `stop(is_first)` at each signal; returns the number of the first one, or 0.

    `told` and `tell` are the pipe of `stop_signals`.
    """

    def watch() -> None:
        wait()
        os.write(tell, bytes((ENDED,)))

    watcher = threading.Thread(target=watch, name="packetwire-watch", daemon=True)
    watcher.start()
    first = ENDED
    while (byte := os.read(told, 1)[0]) != ENDED:
        if byte in STOP_SIGNALS:
            stop(not first)
            first = first or byte
    watcher.join()
    return first


class _Printable(logging.Formatter):
    """Names and texts of strangers stand in records: each line of one is shown without what controls a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(printable(line.expandtabs()) for line in super().format(record).split("\n"))


@contextmanager
def log_shown(quiet: bool = False) -> Iterator[None]:
    """Show log records on standard error, unless the user's module has configured logging."""
    logger = logging.getLogger("packetwire")
    if quiet or logging.getLogger().handlers:
        yield
        return
    handler = logging.StreamHandler()
    handler.setFormatter(_Printable("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)

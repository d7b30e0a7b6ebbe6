"""What commands that run until they are told to stop have in common: the signals, and the log."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def stop_signals() -> Iterator[tuple[int, int]]:
    """A pipe into which signals write their numbers: nothing is interrupted, the thread that reads acts."""
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


@contextmanager
def log_shown(quiet: bool = False) -> Iterator[None]:
    """Show on standard error what goes wrong, unless the user's module has set up logging itself."""
    logger = logging.getLogger("packetwire")
    if quiet or logging.getLogger().handlers:
        yield
        return
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)

"""What goes wrong beside the requests: hangs, and errors that nobody catches."""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import logging
import os
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

Complain = Callable[[str], None]

TICK = 1.0
"""Seconds between two looks of the watchdog."""
SUSPENDED = 3.0
"""Seconds by which such a look is late if the process was stopped."""

EXPECTED = (
    "request %d on channel %d (rq_type %d) failed",
    "request %d on channel %d (rq_type %d) is wrong",
    "requests go on failing and are counted from here on",
    "%d more requests failed",
    "closed after %.1f s with %d requests unanswered",
    "a client could not be served: %r",
    "a client was not let in: %s",
    "stopped with %d clients still connected",
    "clients turned away",
    "a client was turned away",
    "a stream was refused",
    "%s: %s",
)
"""Parts of what the library may log in rounds like these."""


class Watchdog:
    """Watches one round, by `with`."""

    def __init__(self, seconds: float, what: str) -> None:
        """After that time the stacks of all threads and tasks are shown, and `what`, and the process exits."""
        self.suspended = 0.0
        """Seconds in which the process, or the whole machine, was stopped: these do not count."""
        self._seconds = seconds
        self._what = what
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="soak-watchdog")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        tick = min(TICK, self._seconds)
        for _ in range(round(self._seconds / tick)):
            begun = time.monotonic()
            is_over = self._over.wait(tick)
            late = time.monotonic() - begun - tick
            if late > SUSPENDED:
                self.suspended += late
            if is_over:
                return
        print(f"HANGS for {self._seconds:g} s: {self._what}", file=sys.stderr, flush=True)
        faulthandler.dump_traceback(all_threads=True)
        for task in [found for found in gc.get_objects() if isinstance(found, asyncio.Task)]:
            if not task.done():
                task.print_stack(limit=6)
        os._exit(1)


class _Log(logging.Handler):
    def __init__(self, complain: Complain, counts: Counter[str]) -> None:
        super().__init__(logging.WARNING)
        self._complain = complain
        self._counts = counts

    def emit(self, record: logging.LogRecord) -> None:
        text = str(record.msg)
        self._counts[text.removeprefix("%s: ")] += 1
        if not any(part in text for part in EXPECTED):
            self._complain(f"{record.levelname} logged: {record.getMessage()}")


@contextmanager
def told_of_stray_errors(complain: Complain, counts: Counter[str]) -> Iterator[None]:
    """Have `complain` called for exceptions that end a thread or are lost, for warnings, and for odd log records.

    `counts` is of the log records, by their text.
    """
    log, logger = _Log(complain, counts), logging.getLogger("packetwire")
    former_hooks = threading.excepthook, sys.unraisablehook
    propagate = logger.propagate

    def in_thread(args: Any) -> None:
        complain(f"thread {args.thread and args.thread.name} ended by {args.exc_value!r}")
        threading.__excepthook__(args)

    def unraisable(args: Any) -> None:
        complain(f"{args.err_msg or 'ignored'} {args.object!r}: {args.exc_value!r}")
        sys.__unraisablehook__(args)

    threading.excepthook, sys.unraisablehook = in_thread, unraisable
    logger.addHandler(log)
    logger.propagate = False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            yield
    finally:
        logger.propagate = propagate
        logger.removeHandler(log)
        threading.excepthook, sys.unraisablehook = former_hooks

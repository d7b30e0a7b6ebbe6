"""What a test leaves behind, apart from what ends by itself."""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import suppress

WAIT = 20.0
"""Seconds for what ends by itself."""


def threads_since(before: set[threading.Thread]) -> set[threading.Thread]:
    """The threads that were not there before, and do not end by themselves.

    Wherever the garbage collector comes upon a connection that an earlier test dropped, it has a thread close that
    one; so such a thread is waited for. A bare thread that has ended may stay listed, and does not count.
    """
    for thread in set(threading.enumerate()) - before:
        if thread.name.endswith("-closer"):
            join(thread, WAIT)
    deadline = time.monotonic() + WAIT
    while _bare_threads(before) and time.monotonic() < deadline:  # these cannot be joined
        time.sleep(0)
    return {one for one in set(threading.enumerate()) - before if not _is_bare(one)} | _bare_threads(before)


def join(thread: threading.Thread, timeout: float) -> None:
    """Waits for a thread's end, also for one that has had no turn since its start, which join() refuses."""
    deadline = time.monotonic() + timeout
    while not thread._started.is_set() and thread in threading.enumerate() and time.monotonic() < deadline:
        time.sleep(0.001)
    with suppress(RuntimeError):  # it could not be started
        thread.join(max(0.0, deadline - time.monotonic()))


def _bare_threads(before: set[threading.Thread]) -> set[threading.Thread]:
    running = sys._current_frames()
    return {one for one in set(threading.enumerate()) - before if _is_bare(one) and one.ident in running}


def _is_bare(thread: threading.Thread) -> bool:
    return isinstance(thread, threading._DummyThread)


def open_fds() -> set[str]:
    """What is open: each descriptor's number, and what it is."""
    found = set()
    for fd in os.listdir("/dev/fd"):
        with suppress(OSError):
            found.add(f"{fd} {os.readlink(f'/dev/fd/{fd}')}")
    return found

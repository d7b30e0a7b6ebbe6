"""Sleeping in the main thread, which is the one that runs Python's signal handlers.

A signal that comes in the moment before a thread goes to sleep is noted, but its handler does not run until the
thread wakes up: Ctrl-C would seem to do nothing. The moment is as long as another thread takes to get the GIL, so
it is long where something has just happened, and hardly there when nothing goes on. So the main thread sleeps for a
short while first, and then for twice as long each time, and all others for as long as there is nothing to do.
"""

from __future__ import annotations

import os
import threading

FIRST_SLEEP = 0.05
"""Seconds for which the main thread sleeps at first, and so by which a signal handler may be late."""
MAX_WAIT = 100_000.0
"""Seconds of one wait for a lock: below the limit of every system."""

main_thread = {threading.main_thread().ident}
"""Has the ident of the main thread; in a fork that is the thread that forked."""


def _after_fork() -> None:
    main_thread.clear()
    main_thread.add(threading.get_ident())


os.register_at_fork(after_in_child=_after_fork)


def sleep_limit(me: int, left: float | None, naps: int) -> float:
    """Seconds that the thread `me` may sleep, if it wants to for `left` seconds, or None: for ever.

    `naps` are the sleeps before this one in which nothing happened.
    """
    longest = min(FIRST_SLEEP * 2.0 ** min(naps, 32), MAX_WAIT) if me in main_thread else MAX_WAIT
    return longest if left is None else min(longest, max(0.0, left))

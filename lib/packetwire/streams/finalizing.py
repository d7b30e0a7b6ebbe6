"""Threads that are started where nothing may be waited for: a bare one starts them.

A finalizer runs at any instruction of any thread, maybe while this one holds a lock or starts a thread. It cannot
start a `threading.Thread`, which takes a lock and waits for the thread to run. Nor can whoever holds a role: a
finalizer may come in the first instructions of the new thread, and wait for what the one that starts it would do.
"""

from __future__ import annotations

import _thread
from collections.abc import Callable
from threading import Thread


def start_without_waiting(thread: Thread, failed: Callable[[RuntimeError], object]) -> None:
    """Have a thread started soon; `failed` is called if the system has no more of them, here or elsewhere."""
    try:
        _thread.start_new_thread(_start_or_fail, (thread, failed))
    except RuntimeError as error:
        failed(error)


def _start_or_fail(thread: Thread, failed: Callable[[RuntimeError], object]) -> None:
    try:
        thread.start()
    except RuntimeError as error:
        failed(error)


def leave_to_thread(work: Callable[[], object], name: str) -> list[Thread]:
    """Have `work()` done in a thread, from a finalizer. Raises RuntimeError if none can be started.

    Returns a list that has that thread while the work is done, unless only a bare one was to be had.
    """
    doing: list[Thread] = []
    _thread.start_new_thread(_start, (work, name, doing))
    return doing


def _start(work: Callable[[], object], name: str, doing: list[Thread]) -> None:
    # not here: it may wait for threads, and `threading` would list this one for ever
    thread = Thread(target=work, name=name, daemon=True)
    doing.append(thread)
    try:
        thread.start()
    except RuntimeError:  # the system has no more
        doing.clear()
        work()

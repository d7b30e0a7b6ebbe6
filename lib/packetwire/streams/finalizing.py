"""Starting threads without waiting for anything, by a bare thread that starts them.

A finalizer runs at any instruction of any thread, maybe while that thread holds a lock or starts a thread. It must
not start a `threading.Thread`, which takes a lock and waits for the thread to run. Nor must a thread that holds a
role: a finalizer may run in the first instructions of the new thread, and wait for what the starting one would do.
"""

from __future__ import annotations

import _thread
from collections.abc import Callable
from threading import Thread


def start_without_waiting(thread: Thread, failed: Callable[[RuntimeError], object]) -> None:
    """Have a thread started soon; `failed` is called, maybe in another thread, if the system has none left."""
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
    """Have `work()` called in a thread, from a finalizer. Raises RuntimeError if none can be started.

    Returns a list that has that thread while it works; it stays empty if only a bare thread could be started.
    """
    doing: list[Thread] = []
    _thread.start_new_thread(_start, (work, name, doing))
    return doing


def _start(work: Callable[[], object], name: str, doing: list[Thread]) -> None:
    # not in this bare thread: the work may wait for threads, and `threading` would list this one for ever
    thread = Thread(target=work, name=name, daemon=True)
    doing.append(thread)
    try:
        thread.start()
    except RuntimeError:  # the system has no more
        doing.clear()
        work()

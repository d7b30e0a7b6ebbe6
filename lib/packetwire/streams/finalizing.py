"""Work that a finalizer has to leave to a thread.

A finalizer runs at any instruction of any thread, maybe while this one holds a lock or starts a thread. It cannot
start a `threading.Thread`, which takes a lock and waits for the thread to run: a bare one starts that.
"""

from __future__ import annotations

import _thread
from collections.abc import Callable
from threading import Thread


def leave_to_thread(work: Callable[[], object], name: str) -> None:
    """Have `work()` done in a thread, from a finalizer. Raises RuntimeError if none can be started."""
    _thread.start_new_thread(_start, (work, name))


def _start(work: Callable[[], object], name: str) -> None:
    # not here: it may wait for threads, and `threading` would list this one for ever
    try:
        Thread(target=work, name=name, daemon=True).start()
    except RuntimeError:  # the system has no more
        work()

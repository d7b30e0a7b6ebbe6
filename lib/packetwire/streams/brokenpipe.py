"""SIGPIPE, which a write to a pipe that nobody reads raises, and which kills a program that has not ignored it.

Python ignores it. A program may set it to SIG_DFL, to end as others do in a pipeline. Its connections are not to
kill it: while they write, the signal is held back in that thread, and taken.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from importlib import import_module
from typing import TypeVar

ResultT = TypeVar("ResultT")

_SIGPIPE, _SIG_DFL = int(signal.SIGPIPE), int(signal.SIG_DFL)
_getsignal: Callable[[int], object] = import_module("_signal").getsignal


def sigpipe_kills() -> bool:
    """Whether the program has asked to be killed by it, which it may do at any time."""
    # asked at each write; what `signal.getsignal` does besides takes 20 times as long
    return _getsignal(_SIGPIPE) == _SIG_DFL


def hold_sigpipe_back() -> None:
    """In a thread of ours, for good."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPIPE})


def without_sigpipe(write: Callable[[], ResultT]) -> ResultT:
    """What `write` returns or raises: BrokenPipeError instead of the signal."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPIPE})
    if signal.SIGPIPE in before:
        return write()
    try:
        return write()
    except BrokenPipeError:
        if signal.SIGPIPE in signal.sigpending():
            signal.sigwait({signal.SIGPIPE})
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

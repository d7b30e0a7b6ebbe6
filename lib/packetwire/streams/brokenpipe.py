"""SIGPIPE: sent on a write to a pipe without a reader; it kills a process that does not ignore it.

Python ignores it. A program may set it to SIG_DFL, to end like other programs in a pipeline. Its connections must
not kill it: while they write, the signal is blocked in that thread, and then consumed.
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
    """True if the program has restored the default action, which it may do at any time."""
    # called for each write; `signal.getsignal` also makes an enum of the result, which takes 20 times as long
    return _getsignal(_SIGPIPE) == _SIG_DFL


def hold_sigpipe_back() -> None:
    """Block SIGPIPE in the current thread, one of ours, for good."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPIPE})


def without_sigpipe(write: Callable[[], ResultT]) -> ResultT:
    """Call `write`; a broken pipe raises BrokenPipeError and sends no signal."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPIPE})
    if signal.SIGPIPE in before:
        return write()
    try:
        return write()
    except BrokenPipeError:
        # one that was pending is consumed here: it would be delivered as soon as it is unblocked
        if signal.SIGPIPE in signal.sigpending():
            signal.sigwait({signal.SIGPIPE})
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

"""An event loop in a forked process: its shutdown there leaves the parent's loop alone.

A fork shares the selector (epoll) and the self-pipe of asyncio's loop with its parent. If it leaves by an
exception, `asyncio.run` closes the loop in the fork, which takes the self-pipe out of the parent's selector: from
then on no thread can wake the parent's loop, and closing a connection there waits for ever. So in a fork a loop
that has connections of ours gets a selector and a self-pipe of its own, in which nothing is registered.

These parts of asyncio are private. Nothing is done if they are not what they are known to be. uvloop sees to
forks itself.
"""

from __future__ import annotations

import asyncio
import signal
import weakref
from contextlib import suppress

from packetwire.streams import forking


class _Loop:
    """One loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)

    def after_fork(self) -> None:
        """In the child of a fork."""
        loop: object = self._loop()
        if not isinstance(loop, asyncio.SelectorEventLoop) or loop.is_closed():
            return
        with suppress(AttributeError, TypeError):
            selector = loop._selector  # type: ignore[attr-defined]
            copy, selector._selector = selector._selector, type(selector._selector)()
            copy.close()
            _forget_wakeup(loop._csock.fileno())  # type: ignore[attr-defined]
            loop._close_self_pipe()  # type: ignore[attr-defined]
            loop._make_self_pipe()  # type: ignore[attr-defined]


def _forget_wakeup(fd: int) -> None:
    """Signals of this process are not reported to the parent, either."""
    with suppress(ValueError):  # not in the main thread
        found = signal.set_wakeup_fd(-1)
        if found not in (-1, fd):
            signal.set_wakeup_fd(found, warn_on_full_buffer=False)


_loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Loop] = weakref.WeakKeyDictionary()


def guard_loop(loop: asyncio.AbstractEventLoop) -> None:
    """Have a fork that shuts this loop down leave the parent's alone. A second call does nothing."""
    if loop not in _loops:
        _loops[loop] = forking.register(_Loop(loop), first=True)

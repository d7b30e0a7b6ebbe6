"""Descriptors and locks in a forked process: there, all that packetwire opened is closed.

A fork has a copy of every descriptor. While it lives, a copy keeps the stream open after its owner was killed:
the peer gets no end of the stream, a server's port stays taken. So each object that opens a descriptor is
registered here, and in the child of a fork its `after_fork` closes the copy and replaces the locks, since a
thread that held one does not exist there.

The open files behind the copies are still the parent's. So the copies are closed and nothing else is done: no
shutdown, no change of an epoll set, nothing written, no signal, no file removed. The epoll sets go first.

Opening and registering are one step for a fork, as are closing and forgetting: both happen within `opening()`,
for which a fork in another thread waits. It waits a second at most, because a fork must not hang either.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from functools import partial
from typing import IO, TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import Future

FORK_WAIT = 1.0
"""Seconds that a fork waits for other threads to open or close what they are about to."""
_LOWEST = 3
"""The first descriptor behind standard input, output and error."""


class Forkable(Protocol):
    """An object that holds descriptors or locks."""

    def after_fork(self) -> None:
        """In the child of a fork: close the copies of what it opened, by `os.close` only, and replace its locks."""
        ...


ForkableT = TypeVar("ForkableT", bound=Forkable)

_Registry = weakref.WeakValueDictionary[int, Any]  # by id: what is registered may have an equality of its own
_first: _Registry = weakref.WeakValueDictionary()
_others: _Registry = weakref.WeakValueDictionary()
_files: _Registry = weakref.WeakValueDictionary()
_opening = threading.RLock()
_held = threading.local()
_forking_process = 0
"""The process that forked last: in a fork, its parent."""


def opening() -> AbstractContextManager[object]:
    """In `with opening():` no fork comes between one step and the next. Only for what does not wait for others."""
    return _opening


def register(opened: ForkableT, *, first: bool = False) -> ForkableT:
    """Have `opened.after_fork` called in the child of a fork, while `opened` lives; epoll sets come `first`."""
    (_first if first else _others)[id(opened)] = opened
    return opened


def close_copy(fd: int) -> None:
    """In the child of a fork: close a descriptor, if it is one."""
    if fd >= 0:
        with suppress(OSError):  # its owner was closing it at that moment
            os.close(fd)


def above_standard(fd: int) -> int:
    """`fd`, or in its place a number above 2.

    Where standard input, output or error is closed, the next descriptor gets that number, and whatever is printed
    gets into it.
    """
    if fd >= _LOWEST:
        return fd
    import fcntl

    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _LOWEST)
    finally:
        os.close(fd)


class Descriptor:
    """A descriptor of ours, which `open_it` opens; its number `fd` is -1 once it is closed."""

    def __init__(self, open_it: Callable[[], int]) -> None:
        with opening():
            self.fd = above_standard(open_it())
            register(self)

    def close(self) -> None:
        """Close it. A second call does nothing."""
        with opening():
            fd, self.fd = self.fd, -1
            if fd >= 0:
                os.close(fd)

    def after_fork(self) -> None:
        fd, self.fd = self.fd, -1
        close_copy(fd)


FileT = TypeVar("FileT", socket.socket, IO[bytes])


def guard(opened: FileT) -> FileT:
    """Have a socket or an unbuffered file, which was opened within `opening()`, closed in the child of a fork."""
    _files[id(opened)] = opened
    return opened


def keep(opened: socket.socket | IO[bytes]) -> None:
    """Take `guard` back: a fork may have it."""
    _files.pop(id(opened), None)


def _close_copy_of(opened: socket.socket | IO[bytes]) -> None:
    if isinstance(opened, socket.socket):
        close_copy(opened.detach())  # its own close waits for the files made of it
    else:
        with suppress(OSError):
            opened.close()  # of a file without a buffer, that is os.close


def guarded_socket(make: Callable[[], socket.socket]) -> socket.socket:
    """A socket that `make` opens, above the numbers of standard input, output and error, and guarded."""
    with opening():
        sock = make()
        if 0 <= sock.fileno() < _LOWEST:
            timeout = sock.gettimeout()
            sock = socket.socket(sock.family, sock.type, sock.proto, above_standard(sock.detach()))
            sock.settimeout(timeout)
        return guard(sock)


def close_socket(sock: socket.socket) -> None:
    """Close a guarded socket: as one step for a fork in another thread."""
    with opening():
        sock.close()


def forget_threads() -> None:
    """Python ends: other threads do not run any more, so their locks are never given back, and are replaced."""
    global _opening
    _opening = threading.RLock()
    for opened in [*_first.values(), *_others.values()]:
        replace_locks = getattr(opened, "replace_locks", None)
        if replace_locks is not None:
            replace_locks()


# for those who let go of more than descriptors


def of_parent(what: str) -> str:
    """In `after_fork`: what is said from then on to whoever uses `what`."""
    return f"{what} was opened in process {_forking_process}; this is a fork"


class ParentsLock:
    """In a fork, in place of a lock of the parent's: whoever wants it gets the `error` instead."""

    def __init__(self, error: Callable[[], Exception]) -> None:
        self._error = error

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Never."""
        raise self._error()

    def release(self) -> None:
        """For the thread that forked while it held the former lock."""

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *exc: object) -> None:
        self.release()


def fail_future(future: Future[Any], error: Exception) -> None:
    """In the child of a fork: nobody there will say what comes of it.

    Another thread may have held its lock. Its callbacks are not called: they are the user's.
    """
    inner: Any = future
    inner._condition = threading.Condition()
    inner._done_callbacks.clear()
    inner._waiters.clear()
    if not future.done():
        future.set_exception(error)


# the hooks


def _before_fork() -> None:
    global _forking_process
    _forking_process = os.getpid()
    stack = _held.__dict__.setdefault("stack", [])
    lock = _opening
    stack.append(lock if lock.acquire(timeout=FORK_WAIT) else None)


def _after_fork_in_parent() -> None:
    lock = _held.stack.pop()
    if lock is not None:
        lock.release()


def _after_fork_in_child() -> None:
    global _opening
    _opening = threading.RLock()
    _held.__dict__.clear()
    failures = []
    for let_go in [
        *(opened.after_fork for opened in [*_first.values(), *_others.values()]),
        *(partial(_close_copy_of, opened) for opened in _files.values()),
    ]:
        try:
            let_go()
        except Exception as error:  # of what was made or closed at that moment; the others are not to suffer
            failures.append(error)
    if failures:
        # Python prints it, though not those in it
        raise ExceptionGroup(f"after a fork, not everything could be let go of: {failures!r}", failures)


if hasattr(os, "register_at_fork") and sys.platform != "win32":
    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
    )

"""Descriptors and locks in a forked process: the child closes whatever packetwire had opened.

The child of a fork has a copy of every descriptor. A copy keeps a stream open even if its owner is killed: the
peer sees no end of the stream, a server's port stays taken. So each object that opens a descriptor is registered
here; in the child its `after_fork` closes the copy and replaces the locks, since a thread that held one does not
exist there.

The open files behind the copies are still the parent's. So the copies are closed and nothing else is done: no
shutdown, no change of an epoll set, nothing written, no signal, no file removed. Epoll sets are closed first.

For a fork, opening and registering are one step, and so are closing and forgetting: both happen within `opening()`,
for which a fork in another thread waits; a second at most, as a fork must not hang either.
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
from typing import IO, TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import Future

FORK_WAIT = 1.0
"""Seconds that a fork waits for other threads which are opening or closing descriptors."""
_LOWEST = 3
"""The first descriptor after standard input, output and error."""


class Forkable(Protocol):
    """An object that holds descriptors or locks."""

    def after_fork(self) -> None:
        """In the child of a fork: close its copies of descriptors, by `os.close` only, and replace its locks."""
        ...


ForkableT = TypeVar("ForkableT", bound=Forkable)
ResultT = TypeVar("ResultT")

_Registry = weakref.WeakValueDictionary[int, Forkable]  # by id: objects may define an equality of their own
_first: _Registry = weakref.WeakValueDictionary()
_others: _Registry = weakref.WeakValueDictionary()
_files: weakref.WeakValueDictionary[int, socket.socket | IO[bytes]] = weakref.WeakValueDictionary()
_opening = threading.RLock()
_held = threading.local()
_forking_process = 0
"""The pid of the process that forked last: in the child, that of its parent."""


def opening() -> AbstractContextManager[object]:
    """In `with opening():` no fork comes between one step and the next. Only for steps that do not wait."""
    return _opening


def register(opened: ForkableT, *, first: bool = False) -> ForkableT:
    """Have `opened.after_fork` called in the child of a fork, while `opened` lives; epoll sets come `first`."""
    (_first if first else _others)[id(opened)] = opened
    return opened


def close_copy(fd: int) -> None:
    """In the child of a fork: close a descriptor, unless its number is negative."""
    if fd >= 0:
        with suppress(OSError):  # the parent was closing it when it forked
            os.close(fd)


def above_standard(fd: int) -> int:
    """`fd`, moved to a number above 2 if it has a lower one.

    If standard input, output or error is closed, the next descriptor gets its number, and anything that is printed
    goes there.
    """
    if fd >= _LOWEST:
        return fd
    import fcntl

    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _LOWEST)
    finally:
        os.close(fd)


class Descriptor:
    """A descriptor of ours, opened by `open_it`; `fd` is -1 once it is closed."""

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
    """Have a socket or an unbuffered file, opened within `opening()`, closed in the child of a fork."""
    _files[id(opened)] = opened
    return opened


def keep(opened: socket.socket | IO[bytes]) -> None:
    """Undo `guard`: the child of a fork may have it."""
    _files.pop(id(opened), None)


def _close_copy_of(opened: socket.socket | IO[bytes]) -> None:
    if isinstance(opened, socket.socket):
        close_copy(opened.detach())  # `close` would leave it open while files made of it are
    else:
        with suppress(OSError):
            opened.close()  # which is just os.close, as the file is unbuffered


def guarded_socket(make: Callable[[], socket.socket]) -> socket.socket:
    """A guarded socket, opened by `make`, with a descriptor above 2."""
    with opening():
        sock = make()
        if 0 <= sock.fileno() < _LOWEST:
            timeout = sock.gettimeout()
            sock = socket.socket(sock.family, sock.type, sock.proto, above_standard(sock.detach()))
            sock.settimeout(timeout)
        return guard(sock)


def close_socket(sock: socket.socket) -> None:
    """Close a guarded socket, in one step for a fork in another thread."""
    with opening():
        sock.close()


def forget_threads() -> None:
    """Replace all locks when Python exits: other threads do not run any more, and never release theirs."""
    global _opening
    _opening = threading.RLock()
    for opened in [*_first.values(), *_others.values()]:
        replace_locks = getattr(opened, "replace_locks", None)
        if replace_locks is not None:
            replace_locks()


# for objects that hold more than descriptors


def of_parent(what: str) -> str:
    """The message, from `after_fork` on, for users of `what`."""
    return f"{what} was opened in process {_forking_process}; this is a fork"


class ParentsLock:
    """Replaces a lock in the child of a fork: to acquire it raises `error()`."""

    def __init__(self, error: Callable[[], Exception]) -> None:
        self._error = error

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Raise the error."""
        raise self._error()

    def release(self) -> None:
        """Do nothing: the thread that forked may have held the former lock."""

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *exc: object) -> None:
        self.release()


def fail_future(future: Future[ResultT], error: Exception) -> None:
    """In the child of a fork: fail a future that nobody will complete there.

    Its lock is replaced, as another thread may have held it. The callbacks, which are the user's, are not called.
    """
    vars(future)["_condition"] = threading.Condition()
    vars(future)["_done_callbacks"].clear()
    vars(future)["_waiters"].clear()
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
    steps: list[Callable[[], None]] = [
        *(opened.after_fork for opened in [*_first.values(), *_others.values()]),
        *(partial(_close_copy_of, opened) for opened in _files.values()),
    ]
    for let_go in steps:
        try:
            let_go()
        except Exception as error:  # of an object that was half made or half closed: go on with the others
            failures.append(error)
    if failures:
        # Python prints this group, but not the exceptions in it
        raise ExceptionGroup(f"after a fork, not everything could be let go of: {failures!r}", failures)


if hasattr(os, "register_at_fork") and sys.platform != "win32":
    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
    )

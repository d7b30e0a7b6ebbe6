"""Several descriptors as one, which is readable while any of them is."""

from __future__ import annotations

import select
from collections.abc import Iterable
from typing import Protocol

from packetwire.streams import forking


class _Set(Protocol):
    """An epoll object or a kqueue."""

    def fileno(self) -> int: ...

    def close(self) -> None: ...


class _Kqueue(_Set, Protocol):
    """A kqueue, which not every system's `select` has."""

    def control(self, changes: Iterable[object], max_events: int, /) -> object: ...


class PollSet:
    """A set of descriptors, by epoll or kqueue, whose own descriptor can be polled."""

    def __init__(self, fds: Iterable[int]) -> None:
        with forking.opening():
            self._epoll: select.epoll | None = None
            self._kqueue: _Kqueue | None = None
            self._set: _Set
            if hasattr(select, "epoll"):
                self._set = self._epoll = select.epoll()
            else:
                self._set = self._kqueue = vars(select)["kqueue"]()
            forking.register(self, first=True)
        for fd in fds:
            self.add(fd)

    def fileno(self) -> int:
        return self._set.fileno()

    def add(self, fd: int) -> None:
        if self._epoll is not None:
            self._epoll.register(fd, select.EPOLLIN)
        else:
            self._change(fd, "KQ_EV_ADD")

    def remove(self, fd: int) -> None:
        if self._epoll is not None:
            self._epoll.unregister(fd)
        else:
            self._change(fd, "KQ_EV_DELETE")

    def _change(self, fd: int, action: str) -> None:
        names = vars(select)
        assert self._kqueue is not None
        self._kqueue.control([names["kevent"](fd, names["KQ_FILTER_READ"], names[action])], 0)

    def close(self) -> None:
        """Close the set. A second call does nothing."""
        with forking.opening():
            self._set.close()

    def after_fork(self) -> None:
        """In the child of a fork: the set is the parent's, so nothing is taken out of it."""
        self._set.close()

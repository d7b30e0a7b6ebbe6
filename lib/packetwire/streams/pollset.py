"""Several descriptors as one: it is readable while one of them is."""

from __future__ import annotations

import select
from collections.abc import Iterable
from typing import Any

from packetwire.streams import forking


class PollSet:
    """Made of epoll or kqueue, whose descriptors can themselves be polled."""

    def __init__(self, fds: Iterable[int]) -> None:
        with forking.opening():
            self._epoll: Any = select.epoll() if hasattr(select, "epoll") else None
            self._kqueue: Any = None if self._epoll is not None else select.kqueue()  # type: ignore[attr-defined]
            forking.register(self, first=True)
        for fd in fds:
            self.add(fd)

    def fileno(self) -> int:
        fd: int = (self._epoll or self._kqueue).fileno()
        return fd

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
        kqueue: Any = select
        self._kqueue.control([kqueue.kevent(fd, kqueue.KQ_FILTER_READ, getattr(kqueue, action))], 0)

    def close(self) -> None:
        """A second call does nothing."""
        with forking.opening():
            (self._epoll or self._kqueue).close()

    def after_fork(self) -> None:
        """In the child of a fork: the set is the parent's, so nothing is taken out of it."""
        (self._epoll or self._kqueue).close()

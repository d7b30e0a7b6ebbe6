"""The work for one client of a bridge, in a task of its own."""

from __future__ import annotations

import asyncio
import errno
import select
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any, Protocol, Self, TypeVar

from packetwire._sync import sessions as threaded
from packetwire.aio.blocking import NoThread, in_thread, to_the_end_in_thread
from packetwire.relay import Relay
from packetwire.streams import forking

MadeT = TypeVar("MadeT", bound="Closable")
DoneT = TypeVar("DoneT")


class Closable(Protocol):
    """Something that is closed at the end."""

    def close(self) -> None:
        """Let go of it, which may wait for something."""
        ...


class Running:
    """A task that does `work`."""

    def __init__(self, work: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
        self._work = work
        self._name = name
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.get_running_loop().create_task(self._work(), name=self._name)

    async def join(self, seconds: float | None) -> bool:
        """Wait until it is done, for so long at most; False if it is not."""
        assert self._task is not None
        done, _ = await asyncio.wait([self._task], timeout=seconds)
        return bool(done)

    def abandon(self) -> None:
        """Nobody waits for it any more."""
        assert self._task is not None
        self._task.cancel()


async def made_by(make: Callable[[], MadeT], name: str, given: Closable | None = None) -> MadeT:
    """Make it, in a thread as it may wait for something; what comes too late is closed again.

    If the system has no more threads OSError is raised, and `given` closed, of which it would be made.
    """
    try:
        return await in_thread(make, name, dispose=lambda made: made.close())
    except NoThread as error:
        if given is not None:
            given.close()
        raise OSError(errno.EAGAIN, str(error)) from error


async def close(made: Closable, name: str) -> None:
    """Close it, in a thread as it may wait for something."""
    await _done_in_thread(made.close, name)


async def failure_of(relay: Relay, name: str) -> Exception | None:
    """The reason, if it failed; asked in a thread as it may be known a moment later only."""
    return await _done_in_thread(relay.failure, name)


async def _done_in_thread(work: Callable[[], DoneT], name: str) -> DoneT:
    try:
        return await to_the_end_in_thread(work, name)
    except NoThread:
        return work()  # a moment in which the loop stands still is better than what is never done


async def relay_until_over(relay: Relay, name: str) -> None:
    """Relay until both directions are over, or until it is stopped.

    A loop polls for room or for data, but does not tell of a side that is gone without either. So it polls an epoll
    set that has all events. Without epoll, and for what that refuses, such as a file, it is a thread that polls.
    """
    relay.begin()
    try:
        if hasattr(select, "epoll"):
            await _poll_until_over(relay)
    except PermissionError:
        pass
    if not relay.is_over:
        await to_the_end_in_thread(partial(threaded.poll_until_over, relay), name, hurry=relay.stop)
    relay.finish()


async def _poll_until_over(relay: Relay) -> None:
    with _EpollSet() as polled:
        while not relay.is_over:
            relay.advance(await polled.ready(relay.wanted()))


class _EpollSet:
    """An epoll set that a loop polls; what is in it changes from poll to poll."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._events: dict[int, int] = {}
        with forking.opening():
            self._epoll = select.epoll()
            forking.register(self, first=True)

    async def ready(self, wanted: dict[int, int]) -> dict[int, int]:
        """Wait until one of these descriptors is ready, and return those that are. Raises PermissionError."""
        for fd in self._events.keys() - wanted.keys():
            with suppress(OSError):  # it was closed, so it is not in there any more
                self._epoll.unregister(fd)
            del self._events[fd]
        for fd, events in wanted.items():
            if fd not in self._events:
                self._epoll.register(fd, events)
            elif self._events[fd] != events:
                self._epoll.modify(fd, events)
            self._events[fd] = events
        ready = self._epoll.poll(0)
        if not ready:
            await self._wait()
            ready = self._epoll.poll(0)
        return dict(ready)

    async def _wait(self) -> None:
        told = self._loop.create_future()
        fd = self._epoll.fileno()
        self._loop.add_reader(fd, _tell, told)
        try:
            await told
        finally:
            self._loop.remove_reader(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._epoll.close()

    def after_fork(self) -> None:
        """In the child of a fork: the set is the parent's, so nothing is taken out of it."""
        self._epoll.close()


def _tell(told: asyncio.Future[None]) -> None:
    if not told.done():
        told.set_result(None)

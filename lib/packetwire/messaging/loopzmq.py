"""Channels over ZMQ sockets that an event loop reads."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress

import zmq

from packetwire.aio.loops import guard_loop
from packetwire.messaging.looped import LoopChannel
from packetwire.messaging.session import Session
from packetwire.messaging.zmq import (
    LONGEST_SLEEP,
    THREAD_WAIT,
    DealerChannel,
    PairChannel,
    RouterChannel,
    ZmqChannel,
    descriptor_of,
)


class LoopZmqChannel(LoopChannel, ZmqChannel):
    """A channel over one ZMQ socket; its messages arrive in the loop that `start` was called in."""

    _loop: asyncio.AbstractEventLoop | None = None
    _timer: asyncio.TimerHandle | None = None
    _pump_due = False
    _polled: list[int]

    def __init__(self, *args: object, **kwargs: object) -> None:
        self._polled = []
        super().__init__(*args, **kwargs)

    def after_fork(self) -> None:
        super().after_fork()
        self._loop = None
        self._polled = []

    def start(self) -> None:
        """Deliver messages in the running loop."""
        if self._loop is not None:
            return
        self._loop = asyncio.get_running_loop()
        guard_loop(self._loop)
        if self.closed:
            return
        self._polled = self._descriptors()
        for fd in self._polled:
            self._loop.add_reader(fd, self._ready, fd)
        self._tick()

    def _watch_monitor(self, monitor: zmq.Socket[bytes]) -> None:
        super()._watch_monitor(monitor)
        if self._loop is not None:
            self._polled.append(self._monitor_fd)
            self._loop.add_reader(self._monitor_fd, self._ready, self._monitor_fd)

    def _sockets_taken(self) -> None:
        """As for threads, but in the loop, which polls the sockets, and whose tasks are to be told.

        A loop that does not answer has nobody to tell.
        """
        loop = self._loop
        if loop is None or loop.is_closed() or not loop.is_running() or self._runs_here(loop):
            super()._sockets_taken()
            return
        done = threading.Event()

        def take() -> None:
            try:
                super(LoopZmqChannel, self)._sockets_taken()
            finally:
                done.set()

        with suppress(RuntimeError):  # it was closed just now
            loop.call_soon_threadsafe(take)
            done.wait(THREAD_WAIT)

    @staticmethod
    def _runs_here(loop: asyncio.AbstractEventLoop) -> bool:
        try:
            return asyncio.get_running_loop() is loop
        except RuntimeError:
            return False

    def _let_go_of_sockets(self) -> None:
        polled, self._polled = self._polled, []
        if self._loop is not None and not self._loop.is_closed():
            for fd in polled:
                self._loop.remove_reader(fd)
            if self._timer is not None:
                self._timer.cancel()
        super()._let_go_of_sockets()

    def _descriptors(self) -> list[int]:
        fds = [descriptor_of(self._socket)]
        return [*fds, self._monitor_fd] if self._monitor is not None else fds

    def _ready(self, fd: int) -> None:
        if fd == self._monitor_fd:
            self._monitor_ready = True
        else:
            self._announced = True
        self._pump()

    def _rouse(self) -> None:
        if self._loop is not None and not self._pump_due:
            self._pump_due = True
            self._loop.call_soon(self._pump)

    def _tick(self) -> None:
        assert self._loop is not None
        if self.closed:
            return
        self._timer = self._loop.call_later(LONGEST_SLEEP, self._tick)
        self._pump()

    def _pump(self) -> None:
        """Deliver what has come, send what has waited; a long queue is left to the next round."""
        self._pump_due = False
        if self.closed:
            return
        with self.lock:
            self._parked = False
            if self._deliver_some(_never, None):
                self._look_at_links()
                self._rouse()
                return
            if self._unsent:
                self._send_postponed()
            self._look_after_links()
            self._parked = True

    async def drain(self, session: Session | None) -> None:
        route = b"" if session is None or session.routing_id is None else session.routing_id
        await self.wait_for(lambda: self._unsent_bytes.get(route, 0) <= self.max_unsent)


def _never() -> bool:
    return False


class LoopRouterChannel(LoopZmqChannel, RouterChannel):
    """Any number of peers: a service, or a controller."""


class LoopDealerChannel(LoopZmqChannel, DealerChannel):
    """One peer, which has a Router."""


class LoopPairChannel(LoopZmqChannel, PairChannel):
    """One peer, which has a Pair too."""

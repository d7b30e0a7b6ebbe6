"""Channels over ZMQ sockets that an event loop reads."""

from __future__ import annotations

import asyncio

from packetwire.messaging.channel import Session
from packetwire.messaging.looped import LoopChannel
from packetwire.messaging.zmq import (
    LONGEST_SLEEP,
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

    def start(self) -> None:
        """Deliver messages in the running loop."""
        if self._loop is not None:
            return
        self._loop = asyncio.get_running_loop()
        for fd in self._descriptors():
            self._loop.add_reader(fd, self._ready, fd)
        self._tick()

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
                self._rouse()
                return
            if self._unsent:
                self._send_postponed()
            self._look_after_links()
            self._parked = True

    async def drain(self, session: Session | None) -> None:
        route = b"" if session is None or session.routing_id is None else session.routing_id
        await self.wait_for(lambda: self._unsent_octets.get(route, 0) <= self.max_unsent)

    def close(self) -> None:
        if self._loop is not None and not self.closed and not self._loop.is_closed():
            for fd in self._descriptors():
                self._loop.remove_reader(fd)
            if self._timer is not None:
                self._timer.cancel()
        super().close()


def _never() -> bool:
    return False


class LoopRouterChannel(LoopZmqChannel, RouterChannel):
    """Any number of peers: a service, or a controller."""


class LoopDealerChannel(LoopZmqChannel, DealerChannel):
    """One peer, which has a Router."""


class LoopPairChannel(LoopZmqChannel, PairChannel):
    """One peer, which has a Pair too."""

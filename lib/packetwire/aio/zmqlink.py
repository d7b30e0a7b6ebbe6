"""A DEALER of packets that an event loop polls."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress

from packetwire.aio.belonging import check_loop
from packetwire.aio.loops import guard_loop
from packetwire.errors import extra_missing

try:
    import zmq
except ModuleNotFoundError as error:
    raise extra_missing("zmq", error) from error

from packetwire.streams.curve import CurveClient
from packetwire.streams.zmqsockets import ZmqContext
from packetwire.zmq.owned import let_go, set_owner
from packetwire.zmq.sockets import context_ended, leave_to_parent, os_error
from packetwire.zmqlink import CLOSE_LINGER, DealerLink, Message


class LoopLink:
    """A DEALER that the running loop polls; see `DealerThread` for what it is given."""

    def __init__(
        self,
        endpoint: str,
        *,
        receive: Callable[[Message], None],
        room: Callable[[], bool] = lambda: True,
        tick: Callable[[], float | None] = lambda: None,
        lost: Callable[[Exception], None],
        queue: int,
        curve: CurveClient | None,
        context: ZmqContext | None,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.thread = threading.get_ident()
        self._endpoint = endpoint
        self._has_room = room
        self._tick = tick
        self._lost = lost
        self._is_roused = self._closed = False
        self._timer: asyncio.TimerHandle | None = None
        self._emptied: asyncio.Future[None] | None = None
        self._link = DealerLink(endpoint, receive, queue, curve, context)
        self._socket = self._link.socket
        self._fd = int(self._socket.fileno())
        self.loop.add_reader(self._fd, self._turn)
        set_owner(self._socket, self._socket_taken)
        guard_loop(self.loop)
        self.wake()  # the descriptor may have told of something already

    def after_fork(self) -> None:
        """In the child of a fork: the socket and the loop are the parent's."""
        leave_to_parent(self._socket)
        self._closed = True

    def check_loop(self, what: object) -> None:
        """Raise `LocalProtocolError` elsewhere than in its loop."""
        check_loop(what, self.loop, self.thread)

    def send(self, message: Message) -> None:
        """Have it sent, in the next turn of the loop."""
        self._link.outbox.append(message)
        self.wake()

    def wake(self) -> None:
        """There is something to send, or room again."""
        if not self._is_roused and not self._closed:
            self._is_roused = True
            self.loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._is_roused = False
        if self._closed:
            return
        try:
            pause = self._tick()
            if self._link.pass_messages(self._has_room):
                self.wake()
        except Exception as error:
            reason = os_error(error) if isinstance(error, zmq.ZMQError) else error
            if reason is not error:
                reason.__cause__ = error
            self._lose(reason)
            return
        if self._emptied is not None and not self._link.outbox and not self._emptied.done():
            self._emptied.set_result(None)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if pause is None else self.loop.call_later(pause, self._turn)

    def _lose(self, reason: Exception) -> None:
        self._let_go()
        self._lost(reason)

    def _socket_taken(self) -> None:
        """In whatever thread destroys the context; a loop that does not answer has nobody to tell."""
        if self.loop.is_closed() or not self.loop.is_running() or threading.get_ident() == self.thread:
            self._lose(context_ended())
            return
        done = threading.Event()

        def take() -> None:
            try:
                self._lose(context_ended())
            finally:
                done.set()

        with suppress(RuntimeError):  # it was closed just now
            self.loop.call_soon_threadsafe(take)
            done.wait(CLOSE_LINGER)

    async def stop(self) -> None:
        """Send what waits, if there is somebody to take it; then it is over."""
        if self._link.outbox and not self._closed:
            self._emptied = self.loop.create_future()
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_LINGER):
                    await self._emptied
        self._let_go()

    def _let_go(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._emptied is not None and not self._emptied.done():
            self._emptied.set_result(None)
        if self._timer is not None:
            self._timer.cancel()
        if not self.loop.is_closed():
            self.loop.remove_reader(self._fd)
        let_go(self._socket)

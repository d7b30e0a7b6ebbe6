"""A DEALER of packets, and the thread that owns it."""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Callable

from packetwire.errors import extra_missing

try:
    import zmq
except ModuleNotFoundError as error:
    raise extra_missing("zmq", error) from error

from packetwire.streams.curve import CurveClient
from packetwire.streams.wakeup import Wakeup
from packetwire.streams.zmqsockets import ZmqContext
from packetwire.zmq.owned import let_go, set_owner
from packetwire.zmq.sockets import context_ended, leave_to_parent, os_error
from packetwire.zmqlink import CLOSE_LINGER, DealerLink, Message

STOP_SECONDS = 5.0
"""Seconds for the thread of the socket to end."""


class DealerThread:
    """A DEALER and the thread that owns it.

    Called there: `receive` with each message, as long as there is `room`; and `tick` each time that the thread
    wakes up, which returns the seconds until it wants to be called again. `lost` is called if the socket is lost,
    because the program has ended its context.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        name: str,
        receive: Callable[[Message], None],
        room: Callable[[], bool] = lambda: True,
        tick: Callable[[], float | None] = lambda: None,
        lost: Callable[[Exception], None],
        queue: int,
        curve: CurveClient | None,
        context: ZmqContext | None,
    ) -> None:
        self._has_room = room
        self._tick = tick
        self._lost = lost
        self._stopping = self._is_roused = False
        self._taken: OSError | None = None
        self._link = DealerLink(endpoint, receive, queue, curve, context)
        self._socket = self._link.socket
        try:
            self._wakeup = Wakeup()
            self._thread = threading.Thread(target=self._run, name=name, daemon=True)
            self._thread.start()  # which fails if the system has no more threads
        except BaseException:
            let_go(self._socket, 0)
            if hasattr(self, "_wakeup"):
                self._wakeup.close()
            raise
        set_owner(self._socket, self._socket_taken)

    def after_fork(self) -> None:
        """In the child of a fork: the socket and its thread are the parent's."""
        leave_to_parent(self._socket)
        self._stopping = True

    def send(self, message: Message) -> None:
        """Have it sent. From any thread."""
        self._link.outbox.append(message)
        self.wake()

    def wake(self) -> None:
        """There is something to send, or room again. From any thread."""
        if not self._is_roused:  # else the thread is about to look
            self._is_roused = True
            self._wakeup.set()

    def stop(self) -> None:
        """Let what was given to `send` leave, if there is somebody to take it; then it is over."""
        self._stopping = True
        self._wakeup.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(STOP_SECONDS)

    def _socket_taken(self) -> None:
        """In whatever thread destroys the context."""
        self._taken = context_ended()
        self._wakeup.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(CLOSE_LINGER)

    def _run(self) -> None:
        try:
            self._pass_until_stopped()
        except Exception as error:
            reason = os_error(error) if isinstance(error, zmq.ZMQError) else error
            if reason is not error:
                reason.__cause__ = error
            let_go(self._socket)
            self._lost(reason)
        finally:
            let_go(self._socket)
            self._wakeup.close()

    def _pass_until_stopped(self) -> None:
        poller = select.poll()
        poller.register(self._socket.fileno(), select.POLLIN)
        poller.register(self._wakeup.fileno(), select.POLLIN)
        give_up_at: float | None = None
        while True:
            self._wakeup.clear()
            self._is_roused = False  # before all is looked at that others leave for this thread
            if self._taken is not None:
                raise self._taken
            pause = self._tick()
            if self._link.pass_messages(self._has_room):
                pause = 0.0
            if self._stopping:
                give_up_at = give_up_at or time.monotonic() + CLOSE_LINGER
                left = give_up_at - time.monotonic()
                if not self._link.outbox or left <= 0:
                    return
                pause = left if pause is None else min(pause, left)
            poller.poll(None if pause is None else pause * 1000)

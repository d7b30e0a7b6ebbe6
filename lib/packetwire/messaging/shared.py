"""Channels that threads share: a lock around the protocol, waiting for what arrives, and for room to send.

Strategy: all that touches a protocol or its sessions happens under one lock, which is never held while
somebody waits for the carrier. So handlers may answer from any thread. One thread at a time is *the
reader*: it delivers messages, and must not wait, because nothing would arrive meanwhile.
"""

from __future__ import annotations

import errno
import logging
import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Hashable
from threading import get_ident
from types import TracebackType
from typing import Any, Final, Self, cast

from packetwire.core.timelimits import time_limit
from packetwire.errors import ConnectionEnded, LimitExceeded, LocalProtocolError
from packetwire.messaging.channel import Channel
from packetwire.messaging.message import Message, RoutingID, TZMQMessage
from packetwire.messaging.protocol import Protocol
from packetwire.messaging.session import Session
from packetwire.streams import forking

logger = logging.getLogger("packetwire")

ROOM_CHECK: Final = 0.05
"""Seconds between two looks for room to send, where the carrier does not tell of it."""
DEFAULT_PATIENCE: Final = 30.0
"""Seconds that `send` waits for a peer to take what it was sent before; then the peer is given up."""
SOON: Final = 1.0
"""Seconds that a message may wait for room that only spares the peer some work."""
NOBODY: Final = -1


class SharedChannel(Channel):
    """A channel whose `send` and sessions any thread may use.

    `send` waits while the peer has more than enough to take; in the thread that reads it cannot wait, and
    a peer that does not take what it is sent there is given up. It is a context manager that closes.
    """

    protocol: Protocol

    def __init__(self, protocol: Protocol, *, session_type: type[Session] | None = None) -> None:
        super().__init__(protocol, session_type=session_type)
        self.lock = threading.RLock()
        """Held while the protocol is at work."""
        self._arrival = threading.Condition(self.lock)
        self._sleepers = 0
        self._reader = NOBODY
        self.closed = False
        self.patience = DEFAULT_PATIENCE
        self.forked = False
        """Whether this is a fork of the process that opened it."""
        forking.register(self)

    def after_fork(self) -> None:
        """In the child of a fork: the channel is the parent's. Whoever uses it here gets a `ConnectionEnded`."""
        if self.forked:
            return
        self.closed = self.forked = True
        reason = ConnectionEnded(forking.of_parent(f"this {type(self).__name__}"))
        self.lock = cast(Any, forking.ParentsLock(reason.for_waiter))
        self._arrival = threading.Condition(self.lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Give the channel up, and lose the sessions that are left. A second call does nothing."""

    @abstractmethod
    def wait_until(
        self, done: Callable[[], bool], timeout: float | None = None, answer_to: Hashable = None
    ) -> bool:
        """Wait until `done()`, which is asked under the lock when something has arrived.

        False after `timeout` seconds. `answer_to` names the message of ours whose answer is awaited, so
        that a carrier that knows can have this thread read for it.
        """

    def exchange(
        self, msg: Message, session: Session, done: Callable[[], bool], timeout: float | None = None
    ) -> tuple[int, bool]:
        """Send a message and wait until `done()`, as `send` and `wait_until` do: what both return.

        `timeout` limits both; EAGAIN says that there was no room for the message in that time.

        It is for a message whose conclusion is awaited; a carrier that knows how is quicker than with both.
        """
        deadline = deadline_of(timeout)
        error_number = self._send_by(deadline, msg, session)
        return error_number, not error_number and self.wait_until(done, left_until(deadline))

    def send(self, msg: Message, session: Session) -> int:
        return self._send_by(None, msg, session)

    def send_soon(self, msg: Message, session: Session) -> int:
        """Send what is not worth a long wait: EAGAIN if there is no room within `SOON` seconds, or here at once."""
        return self._send_by(deadline_of(SOON), msg, session)

    def _send_by(self, wanted: float | None, msg: Message, session: Session) -> int:
        """Send a message; EAGAIN if there was no room until `wanted`, and the session is not lost by that."""
        deadline: float | None = None
        while True:
            with self.lock:
                error_number = super().send(msg, session)
                if not error_number:
                    return 0
                if error_number != errno.EAGAIN:
                    self._note_failure(session, error_number)
                    return error_number
                if deadline is None:
                    deadline = time.monotonic() + self.patience
                is_reader = self._reader == get_ident()
                if wanted is not None and (is_reader or time.monotonic() >= wanted):
                    return error_number
                if is_reader or time.monotonic() >= deadline:
                    self._give_up(session)
                    return error_number
                self._sleep(ROOM_CHECK)

    def send_unchecked(self, msg: Message, session: Session) -> int:
        with self.lock:
            return super().send_unchecked(msg, session)

    def deliver(self, routing_id: RoutingID, zmsg: TZMQMessage) -> Any:
        with self.lock:
            try:
                return super().deliver(routing_id, zmsg)
            finally:
                self.notify()

    def discard_session(self, session: Session) -> None:
        with self.lock:
            super().discard_session(session)
            self.notify()

    def lose_session(self, session: Session, exc: Exception | None = None) -> None:
        with self.lock:
            if session.routing_id is not None and self.sessions.get(session.routing_id) is session:
                super().lose_session(session, exc)

    def probe(self, session: Session) -> None:
        """Have the protocol find out whether a silent peer is there."""
        try:
            self.protocol.probe(self, session)
        except Exception:
            logger.exception("the probe of a silent peer failed")

    def notify(self) -> None:
        """With the lock held: something has changed."""
        if self._sleepers:
            self._arrival.notify_all()

    def _note_failure(self, session: Session, error_number: int) -> None:
        """The carrier refused a message for good."""

    def _give_up(self, session: Session) -> None:
        self.lose_session(session, LimitExceeded("the peer does not take what it is sent"))

    def _sleep(self, timeout: float | None) -> None:
        """With the lock held: let it go until something changes."""
        self._sleepers += 1
        try:
            self._arrival.wait(timeout)
        finally:
            self._sleepers -= 1

    def _check_may_wait(self) -> None:
        if self._reader == get_ident():
            raise LocalProtocolError(
                "an inline handler or an event of this channel would wait for itself: it runs in the thread that "
                "reads"
            )


def deadline_of(timeout: float | None) -> float | None:
    """When a wait of `timeout` seconds ends."""
    limit = time_limit(timeout)
    return None if limit is None else time.monotonic() + limit


def left_until(deadline: float | None) -> float | None:
    """Seconds until then, at least 0; None for no deadline."""
    return None if deadline is None else max(0.0, deadline - time.monotonic())

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
from collections import deque
from collections.abc import Callable, Hashable
from threading import get_ident
from typing import Any, Final, Self, cast

from packetwire.core.timelimits import LONGEST, time_limit
from packetwire.errors import ConnectionEnded, LimitExceeded, LocalProtocolError
from packetwire.messaging.channel import Channel, Posted
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
_NUMBERS: Final = (float, int)


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
        """True if this is a fork of the process that opened it."""
        forking.register(self)

    def after_fork(self) -> None:
        """In the child of a fork: the channel is the parent's. Its use here raises `ConnectionEnded`."""
        if self.forked:
            return
        self.closed = self.forked = True
        reason = ConnectionEnded(forking.of_parent(f"this {type(self).__name__}"))
        self.lock = cast(Any, forking.ParentsLock(reason.for_waiter))
        self._arrival = threading.Condition(self.lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
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

    def converse(
        self, session: Session, done: Callable[[], bool], deadline: float | None, answer_to: Hashable = None
    ) -> tuple[int, bool]:
        """Carry what was posted, as `carry` does, and wait until `done()`: what both return.

        The `deadline` limits both; EAGAIN says that there was no room until then. A carrier that knows how is
        quicker than with both.
        """
        with self.lock:
            error_number = self.flush() if self.outbox else 0
        if error_number == errno.EAGAIN:
            error_number = self.carry(session, left_until(deadline))
        return error_number, not error_number and self.wait_until(done, left_until(deadline), answer_to)

    def exchange(
        self, msg: Message, session: Session, done: Callable[[], bool], timeout: float | None = None
    ) -> tuple[int, bool]:
        """Post a message, and `converse`."""
        deadline = deadline_of(timeout)
        with self.lock:
            if not self.post(msg, session):
                return errno.ENOTCONN, False
        return self.converse(session, done, deadline)

    def carry(self, session: Session, timeout: float | None = None) -> int:
        """Have the carrier take what was posted for a session: 0, or its error number.

        It waits for room, as `send` does; at most for `timeout` seconds, and then EAGAIN says that there was none.
        The message still leaves when there is.
        """
        wanted: float | None = None
        patience: float | None = None
        while True:
            with self.lock:
                error_number = self.flush() if self.outbox else 0
                if error_number != errno.EAGAIN or not self._is_posted_for(session):
                    return error_number
                wanted = wanted or deadline_of(timeout)
                patience = patience or time.monotonic() + self.patience
                if not self._wait_for_room(session, wanted, patience):
                    return error_number

    def _is_posted_for(self, session: Session) -> bool:
        return any(each is session for each, _, _ in self.outbox)

    def flush(self) -> int:
        """As the base class; of a session for which there is no room, what was posted stays in `outbox`.

        The reader cannot wait for room: it gives such a session up.
        """
        if len(self.outbox) == 1:  # as it mostly is
            session, zmsg, _ = entry = self.outbox.popleft()
            if not self._transmit(zmsg, session):
                return 0
            self.outbox.appendleft(entry)
        return self._flush_as_it_goes()

    def _flush_as_it_goes(self) -> int:
        failed, kept, blocked = 0, list[Posted](), set[Session]()
        while self.outbox:
            session, zmsg, needed = entry = self.outbox.popleft()
            if session in blocked:
                kept.append(entry)
                continue
            error_number = self._transmit(zmsg, session)
            if not error_number:
                continue
            failed = error_number
            if error_number != errno.EAGAIN:
                self._note_failure(session, error_number)
            elif self._reader == get_ident():
                if needed:
                    self._give_up(session)
            else:
                blocked.add(session)
                kept.append(entry)
        self.outbox.extendleft(reversed(kept))
        return failed

    def tell(self, msg: Message, session: Session) -> int:
        with self.lock:
            if self._handling:  # by this thread, which has the lock
                return super().tell(msg, session)
        return self.send(msg, session)

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
                deadline = deadline or time.monotonic() + self.patience
                if not self._wait_for_room(session, wanted, deadline):
                    return error_number

    def _wait_for_room(self, session: Session, wanted: float | None, patience: float) -> bool:
        """With the lock held: let it go for a while; false when there was no room until `wanted`.

        A session is given up when patience is over, and at once by the reader, which cannot wait.
        """
        is_reader = self._reader == get_ident()
        if wanted is not None and (is_reader or time.monotonic() >= wanted):
            return False
        if is_reader or time.monotonic() >= patience:
            self._give_up(session)
            return False
        self._sleep(ROOM_CHECK)
        return True

    def run_job(self, job: Callable[[], object], kind: int) -> bool:
        """Have `job()` called by a thread of the carrier's; false if it has none for that."""
        return False

    def send_unchecked(self, msg: Message, session: Session) -> int:
        with self.lock:
            return super().send_unchecked(msg, session)

    def deliver(self, routing_id: RoutingID, zmsg: TZMQMessage) -> Any:
        with self.lock:  # the rest is as in the base class, but for one call less
            self._handling += 1
            try:
                return self.handle(routing_id, zmsg)
            finally:
                self._handling -= 1
                if self.outbox and not self._holds:
                    self.flush()
                self.notify()

    def discard_session(self, session: Session) -> None:
        with self.lock:
            super().discard_session(session)
            self.notify()

    def _drop_posted(self, session: Session) -> None:
        if self.outbox:
            self.outbox = deque(entry for entry in self.outbox if entry[0] is not session)

    def lose_session(self, session: Session, exc: Exception | None = None) -> None:
        with self.lock:
            if session.routing_id is not None and self.sessions.get(session.routing_id) is session:
                super().lose_session(session, exc)

    def probe(self, session: Session) -> None:
        """Have the protocol find out whether a silent peer is there."""
        try:
            self.protocol.probe(self, session)
            self.flush()
        except Exception:
            logger.exception("the probe of a silent peer failed")

    def notify(self) -> None:
        """With the lock held: something has changed."""
        if self._sleepers:
            self._arrival.notify_all()

    def _note_failure(self, session: Session, error_number: int) -> None:
        """The carrier refused a message for good."""

    def _give_up(self, session: Session) -> None:
        self._drop_posted(session)
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
    """The time at which a wait of `timeout` seconds ends; None for never."""
    if timeout is None:
        return None
    if type(timeout) in _NUMBERS and 0 <= timeout < LONGEST:  # as it mostly is
        return time.monotonic() + timeout
    limit = time_limit(timeout)
    return None if limit is None else time.monotonic() + limit


def left_until(deadline: float | None) -> float | None:
    """Seconds until then, at least 0; None for no deadline."""
    return None if deadline is None else max(0.0, deadline - time.monotonic())

"""Requests of ours: sending them, and in the sequential case reading the response in the same thread.

While many are without an answer, they are not written one by one, see `request`.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import get_ident
from time import monotonic

from packetwire.core.calloptions import CallPlan
from packetwire.core.engine import ConnectionEngine
from packetwire.core.packet import payload_size
from packetwire.core.statuses import StatusCode
from packetwire.core.varint import MAX_UINT, BytesLike
from packetwire.errors import ConnectionEnded, LimitExceeded
from packetwire.hosts.threads.clock import Clock
from packetwire.hosts.threads.delivery import Delivery
from packetwire.hosts.threads.nesting import as_users, inside
from packetwire.hosts.threads.reading import Reading
from packetwire.hosts.threads.roles import Bell
from packetwire.hosts.threads.waiter import RequestWaiter, Waiter
from packetwire.hosts.threads.waiting import Waiting
from packetwire.hosts.threads.writing import Writing
from packetwire.streams.buffers import WRITE_AT

POSTPONE_ABOVE = 2
"""Requests without an answer past which writing is postponed."""


class Calls:
    """Sends the requests of threads, and waits for their answers."""

    def __init__(
        self,
        engine: ConnectionEngine,
        name: str,
        *,
        delivery: Delivery,
        reading: Reading,
        writing: Writing,
        clock: Clock,
        bell: Bell,
        waiting: Waiting,
        max_unsent: int,
        trace_log: Callable[..., object] | None,
        recover: Callable[[], None],
    ) -> None:
        self.recover = recover
        self._waiting = waiting
        self._engine = engine
        self._name = name
        self._reading = reading
        self._reader = reading.reader
        self._disarm = reading.reader.disarm_descriptor
        self._is_watched, self._unhurried = delivery.is_watched, delivery.unhurried
        self._role = reading.role
        self._writer = writing.role
        self._writing = writing
        self._clock = clock
        self._bell = bell
        # these are machine integers where this is compiled
        self._max_unsent = min(max_unsent, MAX_UINT)
        self._postpone_above, self._write_at = POSTPONE_ABOVE, WRITE_AT
        self._trace = trace_log

    def call(
        self,
        rq_type: int,
        flags: int,
        payload: BytesLike,
        channel: int,
        waiter: Waiter,
        deadline: float | None,
    ) -> int:
        """Send a request and wait until `waiter` is done, or the deadline, which ends the request too."""
        me, marks = get_ident(), inside
        engine, role, reading, reader = self._engine, self._role, self._reading, self._reader
        if me in marks or me == self._writer.get(0):
            return self._call_from_inside(me, rq_type, flags, payload, channel, waiter, deadline)
        if (
            len(engine.waiters) >= engine.max_outstanding
            or (engine.unsent_octets > self._max_unsent and self._is_full(payload))
            or engine.send_failure is not None
        ):
            self._waiting.wait_for_room(deadline, payload_size(payload))
        tag = -1
        try:
            marks[me] = waiter
            try:
                # before the request leaves, so that no worker wakes up for the response
                if not (self._is_watched or self._unhurried) and role.setdefault(0, me) == me and reader.is_armed:
                    reader.is_armed = False  # as in `ReaderRole.disarm`
                    try:
                        self._disarm()
                    except (OSError, ValueError) as error:
                        reader.lose(error)
                try:
                    tag = engine.ask(rq_type, flags, payload, channel, waiter)
                except (LimitExceeded, ConnectionEnded):  # what was seen to above has changed since
                    if role.get(0) == me:
                        reader.leave(me)
                    marks.pop(me, None)
                    tag = self.request(rq_type, flags, payload, channel, waiter, deadline)
                    marks[me] = waiter
                if self._trace:
                    self._tell_of(channel, tag, rq_type, payload)
                if role.get(0) == me:
                    self._writing.flush(me)
                    reading.lead(waiter, deadline)
                else:
                    self._writing.flush()
            finally:
                if self._writing.keeper == me:
                    self._writing.leave_to_clock()
                if role.get(0) == me:
                    reader.leave(me, True)
            if not waiter.done:
                self._waiting.wait(me, waiter, deadline)
        finally:
            marks.pop(me, None)
            if not waiter.done and tag >= 0:
                self.forget(channel, tag)
        return tag

    def _call_from_inside(
        self,
        me: int,
        rq_type: int,
        flags: int,
        payload: BytesLike,
        channel: int,
        waiter: Waiter,
        deadline: float | None,
    ) -> int:
        """The same in a thread that runs a handler, or that holds a role further out."""
        self._waiting.check_not_inside(me)
        tag = self.request(rq_type, flags, payload, channel, waiter, deadline)
        try:
            self._waiting.wait_for(waiter, deadline)
        finally:
            if not waiter.done:
                self.forget(channel, tag)
        return tag

    def submit(
        self,
        result: RequestWaiter,
        rq_type: int,
        flags: int,
        payload: BytesLike,
        channel: int,
        deadline: float | None,
        plan: CallPlan | None = None,
    ) -> None:
        """Send a request whose response is for `result`, first waiting for room within the bounds."""
        try:
            result.tag = self.request(rq_type, flags, payload, channel, result, deadline, plan)
        except BaseException:
            self.recover()
            raise

    def request(
        self,
        rq_type: int,
        flags: int,
        payload: BytesLike,
        channel: int,
        waiter: Waiter,
        deadline: float | None,
        plan: CallPlan | None = None,
    ) -> int:
        """Send a request, first waiting for room within the bounds; return its tag.

        While many are without an answer, writing is postponed until this thread waits or the clock comes to it, so
        that they leave together.
        """
        engine = self._engine
        while True:
            under_way = len(engine.waiters)
            if (
                under_way >= engine.max_outstanding
                or (engine.unsent_octets > self._max_unsent and self._is_full(payload))
                or engine.send_failure is not None
            ):
                self._waiting.wait_for_room(deadline, payload_size(payload))
            try:
                if plan is None:
                    tag = engine.ask(rq_type, flags, payload, channel, waiter)
                else:
                    meta = plan.meta(monotonic())
                    tag = engine.ask_with(meta, rq_type, flags, payload, channel, waiter, plan.bodies)
            except LimitExceeded:  # another thread came first
                if plan is not None and plan.bodies is not None and engine.bodies_now().is_full:
                    raise
                continue
            except ConnectionEnded:
                if engine.send_failure is None:
                    raise
                self._waiting.wait_for_room(deadline)  # writing has just failed, and the stream's end says why
                error = engine.why_not()
                raise error from error.__cause__
            break
        if under_way <= self._postpone_above or engine.unsent_octets >= self._write_at:
            self._writing.flush()
        elif self._clock.is_idle:
            self._clock.wake()
        if self._trace:
            self._tell_of(channel, tag, rq_type, payload)
        return tag

    def _is_full(self, payload: BytesLike) -> bool:
        return self._engine.is_full(self._max_unsent, payload_size(payload))

    def _tell_of(self, channel: int, tag: int, rq_type: int, payload: BytesLike) -> None:
        if self._trace:
            as_users(self._trace, "==> request %d:%d rq_type=%d %r", channel, tag, rq_type, payload[:32])

    def tell_cancelled(self, channel: int, tag: int, text: str) -> None:
        """The peer is told that a request is given up, whose response is waited for all the same."""
        if self._engine.cancel(channel, tag, StatusCode.CANCELLED, text):
            self._writing.flush()

    def forget(self, channel: int, tag: int, code: StatusCode = StatusCode.CANCELLED, text: str = "") -> bool:
        """Nobody waits for this response any more, and the peer is told why, if it understands that.

        False if the response came, or is being delivered.
        """
        engine = self._engine
        forgotten = engine.forget(channel, tag)
        if forgotten and engine.control is not None and engine.cancel(channel, tag, code, text):
            self._writing.flush()
        if self._bell.locks:
            self._bell.ring()
        return forgotten

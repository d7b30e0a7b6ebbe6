"""Requests of ours: sending them, and waiting for what comes of them.

A thread that waits for an answer reads for itself if nobody else does, so that in the sequential case there is no
switch to another thread; else it sleeps on its waiter. It never runs a handler, a receiver or `on_event`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import get_ident

from packetwire.core.engine import ConnectionEngine
from packetwire.core.packets import BytesLike
from packetwire.errors import ConnectionEnded, LimitExceeded, LocalProtocolError, RequestTimeout
from packetwire.hosts.threads.clock import Clock
from packetwire.hosts.threads.delivery import Delivery
from packetwire.hosts.threads.nesting import as_ours, as_users, inside, is_interrupted
from packetwire.hosts.threads.parking import Parking
from packetwire.hosts.threads.reading import Reading
from packetwire.hosts.threads.roles import Bell
from packetwire.hosts.threads.slots import handling, without_slot
from packetwire.hosts.threads.waiter import Waiter
from packetwire.hosts.threads.workers import WRITE_AT, Workers
from packetwire.hosts.threads.writing import Writing

POSTPONE_ABOVE = 2
"""Requests without an answer past which writing is postponed."""


class Calls:
    """What threads do to ask."""

    def __init__(
        self,
        engine: ConnectionEngine,
        name: str,
        *,
        parking: Parking,
        delivery: Delivery,
        reading: Reading,
        writing: Writing,
        workers: Workers,
        clock: Clock,
        bell: Bell,
        max_unsent: int,
        trace_log: Callable[..., object] | None,
    ) -> None:
        self._engine = engine
        self._name = name
        self._reading = reading
        self._delivery = delivery
        self._is_watched, self._receivers = delivery.is_watched, delivery.receivers
        self._role = reading.role
        self._writer = writing.role
        self._inline_turn = reading.inline.turn
        self._arm, self._disarm = parking.arm, parking.disarm
        self._writing = writing
        self._workers = workers
        self._clock = clock
        self._bell = bell
        self._locks = bell.locks
        self._max_unsent = max_unsent
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
        me = get_ident()
        engine, role, reading = self._engine, self._role, self._reading
        if me in inside or me == self._writer.get(0):
            return self._call_from_inside(me, rq_type, flags, payload, channel, waiter, deadline)
        if (
            len(engine.waiters) >= engine.max_outstanding
            or engine.unsent_octets > self._max_unsent
            or engine.send_failure is not None
        ):
            self._wait_for_room(deadline)
        tag = -1
        try:
            inside[me] = waiter
            try:
                # before the request leaves, so that no worker wakes up for the response
                if not (self._is_watched or self._receivers) and role.setdefault(0, me) == me:
                    try:
                        self._disarm()
                    except (OSError, ValueError) as error:
                        reading.lose(error)
                try:
                    tag = engine.ask(rq_type, flags, payload, channel, waiter)
                except (LimitExceeded, ConnectionEnded):  # what was seen to above has changed since
                    if role.get(0) == me:
                        reading.leave(me)
                    inside.pop(me, None)
                    tag = self.request(rq_type, flags, payload, channel, waiter, deadline)
                    inside[me] = waiter
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
                if role.get(0) == me:  # as Reading.leave
                    role.pop(0, None)
                    if engine.ended is None:
                        try:
                            self._arm()
                        except (OSError, ValueError) as error:
                            reading.lose(error)
                    if self._locks:
                        self._bell.ring()
            if not waiter.done:
                self._wait(me, waiter, deadline)
        finally:
            inside.pop(me, None)
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
        self._check_not_inside(me)
        tag = self.request(rq_type, flags, payload, channel, waiter, deadline)
        try:
            self.wait_for(waiter, deadline)
        finally:
            if not waiter.done:
                self.forget(channel, tag)
        return tag

    def request(
        self,
        rq_type: int,
        flags: int,
        payload: BytesLike,
        channel: int,
        waiter: Waiter,
        deadline: float | None,
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
                or engine.unsent_octets > self._max_unsent
                or engine.send_failure is not None
            ):
                self._wait_for_room(deadline)
            try:
                tag = engine.ask(rq_type, flags, payload, channel, waiter)
            except LimitExceeded:  # another thread came first
                continue
            except ConnectionEnded:
                if engine.send_failure is None:
                    raise
                self._wait_for_room(deadline)  # writing has just failed, and the stream's end says why
                raise engine.why_not() from None
            break
        if under_way <= POSTPONE_ABOVE or engine.unsent_octets >= WRITE_AT:
            self._writing.flush()
        elif self._clock.is_idle:
            self._clock.wake()
        if self._trace:
            self._tell_of(channel, tag, rq_type, payload)
        return tag

    def _tell_of(self, channel: int, tag: int, rq_type: int, payload: BytesLike) -> None:
        if self._trace:
            as_users(self._trace, "==> request %d:%d rq_type=%d %r", channel, tag, rq_type, payload[:32])

    def forget(self, channel: int, tag: int) -> bool:
        """Nobody waits for this response any more; false if it came, or is being delivered."""
        forgotten = self._engine.forget(channel, tag)
        if self._bell.locks:
            self._bell.ring()
        return forgotten

    # waiting

    def wait_for(self, waiter: Waiter, deadline: float | None) -> bool:
        """Return once `waiter` is done, reading meanwhile if nobody else does; false at the deadline."""
        if waiter.done:
            return True
        me = get_ident()
        self._check_not_inside(me)
        is_reader = self._role.get(0) == me  # as a handler may be
        try:
            return as_ours(self._flush_and_wait, me, waiter, deadline)
        except BaseException:
            if not is_reader and self._role.get(0) == me:
                self._reading.leave(me)
            raise

    def _flush_and_wait(self, me: int, waiter: Waiter, deadline: float | None) -> bool:
        if self._engine.unsent:
            self._writing.flush()
        if me not in handling:
            return self._wait(me, waiter, deadline)
        kept = me in self._workers.busy and self._workers.on_watch.leave(me)
        if not kept and me in self._workers.busy:
            self._reading.see_to_take_over(me)
        try:
            with without_slot(me):
                if kept:
                    self._read_on(me, waiter, deadline)
                if not waiter.done and not self._workers.parked:
                    self._workers.need_thread()  # one is left to read
                return waiter.done or self._wait(me, waiter, deadline)
        finally:
            if kept and self._role.get(0) == me:
                self._workers.on_watch.append(me)

    def _read_on(self, me: int, waiter: Waiter, deadline: float | None) -> None:
        """As a handler in the thread that has the reader's role: it keeps that if it can."""
        if not self._delivery.is_observed:
            self._reading.lead(waiter, deadline)
        if not waiter.done:
            self._reading.leave(me)

    def _wait(self, me: int, waiter: Waiter, deadline: float | None) -> bool:
        role, reading, engine, naps = self._role, self._reading, self._engine, 0
        while not waiter.done:
            try:
                if not self._delivery.is_observed and engine.ended is None and role.setdefault(0, me) == me:
                    try:
                        self._disarm()
                    except (OSError, ValueError) as error:
                        reading.lose(error)
                    reading.lead(waiter, deadline)
            finally:
                if role.get(0) == me:
                    reading.leave(me)
            if waiter.done:
                break
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return False
            waiter.sleep(left, naps)
            naps += 1
        return True

    def _wait_for_room(self, deadline: float | None) -> None:
        """Wait until a request fits, or cannot be made any more."""
        engine = self._engine
        me = get_ident()
        self._check_not_inside(me)
        self._writing.flush()
        with without_slot(me):
            if engine.send_failure is not None:
                # the stream's end says more about it
                self._bell.wait_for(lambda: engine.ended is not None, engine.deadline)
            elif not self._bell.wait_for(self._has_room, deadline):
                raise RequestTimeout(
                    f"{self._name}: no room for one more request in time: {engine.outstanding} of "
                    f"{engine.max_outstanding} unanswered, {engine.unsent_octets} octets unsent"
                )

    def _has_room(self) -> bool:
        engine = self._engine
        return not engine.may_request or (engine.has_room and engine.unsent_octets <= self._max_unsent)

    def _check_not_inside(self, me: int) -> None:
        """Raises `LocalProtocolError` in a thread that would wait for itself."""
        if me in self._workers.busy and self._inline_turn.get(0) != me:
            self._reading.see_to_take_over(me)
        if (
            self._inline_turn.get(0) == me
            or (me in (self._role.get(0), self._writer.get(0)) and me not in self._workers.on_watch)
            or is_interrupted(me)
        ):
            raise LocalProtocolError(
                f"{self._name}: a blocking call in the thread that reads or writes this connection (an inline "
                "handler, an on_event or a notify callback), or in a signal handler or finalizer that interrupted "
                "a call, would wait for itself"
            )

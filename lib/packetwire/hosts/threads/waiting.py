"""Waiting for responses, and for room to ask.

A thread that waits for a response reads for itself if nobody else does, so that in the sequential case there is no
switch to another thread; else it sleeps on its waiter. It never runs a handler, a receiver or `on_event`.
"""

from __future__ import annotations

import time
from threading import get_ident

from packetwire.core.engine import ConnectionEngine
from packetwire.errors import LocalProtocolError, RequestTimeout
from packetwire.hosts.threads.delivery import Delivery
from packetwire.hosts.threads.nesting import OURS, inside, is_interrupted, put_back
from packetwire.hosts.threads.reading import Reading
from packetwire.hosts.threads.roles import Bell
from packetwire.hosts.threads.slots import handling, without_slot
from packetwire.hosts.threads.waiter import Waiter
from packetwire.hosts.threads.workers import Workers
from packetwire.hosts.threads.writing import Writing


class Waiting:
    """Lets threads wait for one connection."""

    def __init__(
        self,
        engine: ConnectionEngine,
        name: str,
        *,
        delivery: Delivery,
        reading: Reading,
        writing: Writing,
        workers: Workers,
        bell: Bell,
        max_unsent: int,
    ) -> None:
        self._engine = engine
        self._name = name
        self._reading = reading
        self._reader = reading.reader
        self._delivery = delivery
        self._role = reading.role
        self._writer = writing.role
        self._inline_turn = reading.inline.turn
        self._writing = writing
        self._workers = workers
        self._bell = bell
        self._max_unsent = max_unsent

    def join_receive(self, timeout: float | None = None) -> bool:
        """Wait until nothing more is received."""
        me = get_ident()
        self._check_can_wait(me)
        deadline = None if timeout is None else time.monotonic() + timeout
        # not by the bell: this waits long, and must not wake up for each request that is served
        with without_slot(me):
            return self._delivery.all_received.wait_for(lambda: self._engine.ended is not None, deadline)

    def _check_can_wait(self, me: int) -> None:
        role, turn = self._role, self._inline_turn
        if turn.get(0) == me or (role.get(0) == me and me not in self._workers.on_watch):
            raise LocalProtocolError(
                f"{self._name}: the thread that reads this connection would wait for itself (in an inline handler, "
                "an on_event, or a signal handler or finalizer that interrupted it)"
            )

    def wait_for(self, waiter: Waiter, deadline: float | None) -> bool:
        """Return once `waiter` is done, reading meanwhile if nobody else does; false at the deadline."""
        if waiter.done:
            return True
        me = get_ident()
        self.check_not_inside(me)
        is_reader = self._role.get(0) == me  # as a handler may be
        outer = inside.get(me)
        try:
            try:
                inside[me] = OURS
                return self._flush_and_wait(me, waiter, deadline)
            finally:
                put_back(me, outer)
        except BaseException:
            put_back(me, outer)  # it may have come in the above `finally`
            if not is_reader and self._role.get(0) == me:
                self._reader.leave(me)
            raise

    def _flush_and_wait(self, me: int, waiter: Waiter, deadline: float | None) -> bool:
        if self._engine.unsent:
            self._writing.flush()
        turn = handling.get(me)
        if turn is None or turn.slots is None:
            return self.wait(me, waiter, deadline)
        # first this, then whether it was cancelled: whoever cancels does it the other way round
        turn.waits = waiter, self._reading.interrupt
        if turn.request is not None and turn.answering.owed.is_cancelled(turn.request[0]):
            waiter.given_up = True
        kept = me in self._workers.busy and self._workers.on_watch.leave(me)
        if not kept and me in self._workers.busy:
            self._reading.see_to_take_over(me)
        try:
            with without_slot(me):
                if kept:
                    self._read_on(me, waiter, deadline)
                if not waiter.done and not self._workers.parked:
                    self._workers.need_thread()  # one is left to read
                return waiter.done or self.wait(me, waiter, deadline)
        finally:
            turn.waits = None
            if kept and self._role.get(0) == me:
                self._workers.on_watch.append(me)

    def _read_on(self, me: int, waiter: Waiter, deadline: float | None) -> None:
        """As a handler in the thread that has the reader's role: it keeps that if it can."""
        if not self._delivery.is_observed:
            self._reading.lead(waiter, deadline)
        if not waiter.done:
            self._reader.leave(me)

    def wait(self, me: int, waiter: Waiter, deadline: float | None) -> bool:
        """The same, as `me`, a thread that has a mark of ours and nothing to write."""
        role, reader, engine, naps = self._role, self._reader, self._engine, 0
        while not waiter.done:
            try:
                if not self._delivery.is_observed and engine.ended is None and role.setdefault(0, me) == me:
                    reader.disarm()
                    self._reading.lead(waiter, deadline)
            finally:
                if role.get(0) == me:
                    reader.leave(me, True)
            if waiter.done:
                break
            if waiter.given_up:
                return False
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return False
            self._sleep(waiter, left, naps)
            naps += 1
        return True

    def _sleep(self, waiter: Waiter, left: float | None, naps: int) -> None:
        """While another thread reads: it has a worker read on when it leaves, as it sees that this one sleeps."""
        reader = self._reader
        reader.sleepers.append(None)
        try:
            if not reader.is_left_alone() or self._delivery.is_observed:
                waiter.sleep(left, naps)
        finally:
            reader.sleepers.pop()

    def wait_for_room(self, deadline: float | None, size: int = 0) -> None:
        """Wait until a request with a payload of `size` bytes fits, or cannot be made any more."""
        engine = self._engine
        me = get_ident()
        self.check_not_inside(me)
        self._writing.flush()
        if self._reader.is_left_alone():
            self._reader.arm()
        with without_slot(me):
            if engine.send_failure is not None:
                # the stream's end says more about it
                self._bell.wait_for(lambda: engine.ended is not None, engine.deadline)
            elif not self._bell.wait_for(lambda: self._has_room(size), deadline):
                raise RequestTimeout(
                    f"{self._name}: no room for one more request in time: {engine.outstanding} of "
                    f"{engine.max_outstanding} unanswered, {engine.unsent_octets} bytes unsent"
                )

    def _has_room(self, size: int) -> bool:
        engine = self._engine
        return not engine.may_request or (engine.has_room and not engine.is_full(self._max_unsent, size))

    def check_not_inside(self, me: int) -> None:
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

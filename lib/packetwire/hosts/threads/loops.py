"""The loops of a connection's own threads: the workers, and the clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import get_ident
from typing import Any

from packetwire.core.engine import ConnectionEngine
from packetwire.hosts.threads.answering import Job
from packetwire.hosts.threads.clock import IDLE_SECONDS, Clock
from packetwire.hosts.threads.closing import Closing
from packetwire.hosts.threads.delivery import Delivery
from packetwire.hosts.threads.inline import InlineHandlers
from packetwire.hosts.threads.parking import Parked, Parking
from packetwire.hosts.threads.reading import Reading
from packetwire.hosts.threads.workers import Workers
from packetwire.hosts.threads.writing import Writing

_TIMEOUT, _READABLE = int(Parked.TIMEOUT), int(Parked.READABLE)
_TICK_AGAIN = 0.05
"""Seconds until the end of a stream that is overdue is looked at again, while a handler holds up the reader."""


class Loops:
    """The round of a worker, `work`, and that of the clock, `look`."""

    def __init__(
        self,
        engine: ConnectionEngine,
        *,
        parking: Parking,
        writing: Writing,
        clock: Clock,
        workers: Workers,
        reading: Reading,
        inline: InlineHandlers,
        delivery: Delivery,
        closing: Closing,
    ) -> None:
        self._engine = engine
        self._parking = parking
        self._park = parking.park
        self._writing = writing
        self._clock = clock
        self._workers = workers
        self._reading = reading
        self._inline = inline
        self._delivery = delivery
        self._closing = closing
        self._last_look = (-1, -1, -1)

    def run_job(self, run: Callable[[], object], channel: int, kind: int) -> bool:
        """Have a worker run it, as it runs handlers of that kind; false if no handler is begun any more."""
        if self._workers.stopping or self._engine.ended is not None:
            return False
        job: Any = Job(channel, run)
        self._workers.jobs.append((job, 0, kind, b""))
        if self._reading.role.get(0) != get_ident():  # the reader looks itself what there is to run
            self._workers.call_thread()
        return True

    def look(self) -> bool:
        """As the clock: whether something goes on; what was postponed or takes long is seen to."""
        workers, writing, reader = self._workers, self._writing, self._reading.reader
        last_look, look = self._last_look, (workers.begun, writing.flushes, reader.left)
        if workers.on_watch and look[0] == last_look[0] and workers.on_watch.take_over():
            reader.role.pop(0, None)
            reader.arm()
            workers.need_thread()
        if look[2] == last_look[2] and reader.is_left_alone():
            reader.arm()
        # whoever has the role sees to it; the clock itself, which waits for room, is not to be kept awake by that
        if look[1] == last_look[1] and self._engine.unsent and not writing.role:
            self._writing.flush()
        self._last_look = look
        return look != last_look or bool(workers.on_watch)

    def work(self, me: int) -> bool:
        """A worker: do what there is to do, else park; false when it shall end. It counts as parked on entry."""
        workers, reading = self._workers, self._reading
        if workers.stopping or workers.parked > workers.most_parked:
            workers.parked -= 1
            if workers.stopping:
                self._parking.wake()  # the next parked thread shall see it too
                self._closing.finish()
            return False
        if not self._clock.is_idle and self._clock.thread is None:
            self._clock.start()
        if self._delivery.postponed:
            workers.parked -= 1
            try:
                if not workers.parked:
                    workers.need_thread()  # one is left to read
                self._delivery.catch_up()
                if self._engine.unsent:
                    self._writing.flush()
            finally:
                workers.parked += 1
            return True
        inline = self._inline
        if (inline.jobs or workers.jobs or workers.slow_jobs) and (inline.has_work() or workers.has_work):
            workers.parked -= 1
            try:
                if inline.jobs and not workers.parked:
                    workers.need_thread()  # one is left to read
                if not inline.run(me):
                    workers.run_jobs(me)
                elif self._engine.unsent_octets:
                    self._writing.flush()
            finally:
                workers.parked += 1
            return True
        deadline = self._engine.deadline if self._engine.ended is None else None
        timeout = IDLE_SECONDS if workers.parked > 1 else None
        if deadline is not None:
            timeout = max(0.0, deadline - time.monotonic()) or _TICK_AGAIN
        parked = self._park(timeout)
        if workers.stopping:
            return True
        if parked == _TIMEOUT and deadline is None:
            return not workers.may_leave()
        if parked == _READABLE:
            workers.parked -= 1
            try:
                reading.serve(me)
            finally:
                workers.parked += 1
        elif self._engine.unsent:
            self._writing.flush()
        if deadline is not None and time.monotonic() >= deadline:
            reading.tick(time.monotonic())
        return True

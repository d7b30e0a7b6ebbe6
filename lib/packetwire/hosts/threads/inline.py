"""Inline handlers: one at a time, in the order of the requests, and never behind those that are not inline.

The thread that runs them has the *turn*, which exists once. The thread that reads runs them itself; if one takes
long, the clock passes the reader's role on, as for other handlers. The turn stays, so the order does; but a caller
who holds what such a handler waits for gets its response.
"""

from __future__ import annotations

from collections import deque

from packetwire.core.engine import ConnectionEngine
from packetwire.core.packetcodec import Fields
from packetwire.hosts.threads.answering import Answering
from packetwire.hosts.threads.clock import Clock
from packetwire.hosts.threads.role import Role
from packetwire.hosts.threads.slots import Turn, handling
from packetwire.hosts.threads.workers import Workers
from packetwire.hosts.threads.writing import Writing


class InlineHandlers:
    """The requests with inline handlers, and who runs these."""

    def __init__(
        self,
        engine: ConnectionEngine,
        jobs: deque[Fields],
        *,
        workers: Workers,
        writing: Writing,
        clock: Clock,
        answering: Answering,
    ) -> None:
        self.turn = Role()
        """Held by whoever runs them."""
        self.jobs = jobs
        self._engine = engine
        self._workers = workers
        self._writing = writing
        self._clock = clock
        self._answering = answering

    def has_work(self) -> bool:
        """True if one may run, and nobody runs any."""
        return bool(self.jobs) and not self.turn and not self._workers.is_held

    def serve(self, me: int) -> bool:
        """As the reader: run them; false if the role was taken over meanwhile."""
        workers = self._workers
        workers.on_watch.append(me)
        try:
            self.run(me)
        finally:
            try:  # as in `Watch.leave`
                workers.on_watch.remove(me)
                kept = True
            except ValueError:
                kept = False
            if not kept and self._engine.unsent:
                self._writing.flush()
        return kept

    def run(self, me: int) -> bool:
        """As a worker: run them, if no other thread does; false if there was nothing to do."""
        jobs, turn, engine, workers = self.jobs, self.turn, self._engine, self._workers
        answering, clock, served = self._answering, self._clock, False
        turn_of_thread = Turn(None, answering)
        while jobs and not turn and not (engine.unsent_octets > workers.free_until and workers.is_held):
            try:
                if turn.setdefault(0, me) == me:
                    handling[me] = turn_of_thread
                    while jobs and not (engine.unsent_octets > workers.free_until and workers.is_held):
                        workers.begun += 1
                        if clock.is_idle or clock.thread is None:  # it looks how long this takes
                            clock.begin()
                        request = jobs.popleft()
                        turn_of_thread.request = request
                        answering.run_handler(request, me)
                        served = True
                        if engine.unsent_octets >= workers.write_at:
                            self._writing.flush()
            finally:
                if turn.get(0) == me:
                    handling.pop(me, None)
                    turn.pop(0, None)
        return served

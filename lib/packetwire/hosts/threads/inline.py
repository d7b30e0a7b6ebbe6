"""Inline handlers: one at a time, in the order of the requests, and never behind those that are not inline.

Whoever runs them has the *turn*, which exists once. The thread that reads runs them itself; if one takes long, the
clock passes the reader's role on, as for other handlers. The turn stays, so the order does; but a caller who holds
what such a handler waits for gets its response.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from packetwire.core.engine import ConnectionEngine
from packetwire.core.packetcodec import Fields
from packetwire.hosts.threads.clock import Clock
from packetwire.hosts.threads.roles import Role
from packetwire.hosts.threads.workers import WRITE_AT, Workers
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
        run_handler: Callable[[Fields], None],
    ) -> None:
        self.turn = Role()
        """Held by whoever runs them."""
        self.jobs = jobs
        self._engine = engine
        self._workers = workers
        self._writing = writing
        self._clock = clock
        self._run_handler = run_handler

    def has_work(self) -> bool:
        """Whether one may run, and nobody runs any."""
        return bool(self.jobs) and not self.turn and not self._workers.is_held

    def serve(self, me: int) -> bool:
        """As the reader: run them; false if the role was taken over meanwhile."""
        workers = self._workers
        workers.on_watch.append(me)
        try:
            self.run(me)
        finally:
            kept = workers.on_watch.leave(me)
            if not kept and self._engine.unsent:
                self._writing.flush()
        return kept

    def run(self, me: int) -> bool:
        """As a worker: run them, if no other thread does; false if there was nothing to do."""
        jobs, turn, engine, workers = self.jobs, self.turn, self._engine, self._workers
        run_handler, clock, served = self._run_handler, self._clock, False
        while jobs and not turn and not (engine.unsent_octets > workers.free_until and workers.is_held):
            try:
                if turn.setdefault(0, me) == me:
                    while jobs and not (engine.unsent_octets > workers.free_until and workers.is_held):
                        workers.begun += 1
                        if clock.is_idle or clock.thread is None:  # it looks how long this takes
                            clock.begin()
                        run_handler(jobs.popleft())
                        served = True
                        if engine.unsent_octets >= WRITE_AT:
                            self._writing.flush()
            finally:
                turn.give_up(me)
        return served

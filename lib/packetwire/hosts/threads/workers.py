"""The threads of a connection, and the handlers that they run.

Strategy: take-over. The thread that has read requests runs their handlers itself, one after the other, as long as
they are quick: that costs no switch to another thread. If one takes longer than a tick of the clock, the clock
takes the reader's role from that thread, and another one reads, and runs what waits. The type of such a request
counts as slow until it has been quick again for a while, and goes to other threads at once.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from threading import get_ident

from packetwire.core.engine import ConnectionEngine
from packetwire.core.packetcodec import Fields
from packetwire.core.varint import MAX_UINT
from packetwire.hosts.threads.answering import Answering, logger
from packetwire.hosts.threads.clock import Clock
from packetwire.hosts.threads.failures import Failures
from packetwire.hosts.threads.nesting import OURS, inside
from packetwire.hosts.threads.parking import Parking
from packetwire.hosts.threads.roles import Bell, Watch
from packetwire.hosts.threads.slots import Slots, Turn, handling
from packetwire.hosts.threads.slowness import SlowTypes, type_of
from packetwire.hosts.threads.writing import Writing
from packetwire.streams.buffers import WRITE_AT
from packetwire.streams.finalizing import start_without_waiting


class Workers:
    """The threads of one connection: each does `work` again and again, until that returns false."""

    def __init__(
        self,
        engine: ConnectionEngine,
        name: str,
        *,
        jobs: deque[Fields],
        slow_jobs: deque[Fields],
        limit: int,
        max_unsent: int,
        held: list[None],
        answering: Answering,
        writing: Writing,
        clock: Clock,
        parking: Parking,
        bell: Bell,
        failures: Failures,
    ) -> None:
        self.jobs = jobs
        """Requests that wait for a handler."""
        self.slow_jobs = slow_jobs
        """Those of slow types, which no reader runs itself."""
        self.slots = Slots(limit, name, self._slot_is_free)
        self.busy: dict[int, Turn] = {}
        """The threads that run handlers, by their idents."""
        self.on_watch = Watch()
        """The reader, while it runs handlers: whoever takes it out has the reader's role."""
        self.begun = 0
        """Handlers that a reader has begun."""
        self.most_parked = limit + 1
        """Above that a thread that is parked ends."""
        self.parked = 0
        """Threads that have nothing to do."""
        self.stopping = False
        self.work: Callable[[int], bool] = lambda me: False
        """One round of a thread; false if it was the last. To be set before there are threads."""
        self._alive = 0
        self.threads: set[threading.Thread] = set()
        self.starting: set[threading.Thread] = set()
        """Those of them that cannot be joined yet."""
        self._slow = SlowTypes()
        self._engine, self._name, self._limit = engine, name, limit
        self._max_unsent = max_unsent
        self._held = held
        # a machine integer where this is compiled
        self.free_until = min(max_unsent, MAX_UINT) if engine.budget is None else 0
        """Bytes without a place in the stream up to which handlers are started without asking."""
        self.write_at = WRITE_AT
        self._answering = answering
        self._writing = writing
        self._clock = clock
        self._parking = parking
        self._bell = bell
        self._failures = failures

    # threads

    def start(self) -> None:
        """Start the first thread."""
        worker = self._new_thread()
        try:
            worker.start()
        except RuntimeError as error:
            self._not_started(worker, error)

    def _add(self) -> None:
        """Start one more thread, unless it is too late; without waiting for it, as a role may be held here."""
        if not self.stopping:
            worker = self._new_thread()
            start_without_waiting(worker, partial(self._not_started, worker))

    def _new_thread(self) -> threading.Thread:
        worker = threading.Thread(target=self._run, name=f"{self._name}-worker", daemon=True)
        # those that left are forgotten only here: closing waits until the last of them is gone
        for gone in [each for each in self.threads.copy() if each not in self.starting and not each.is_alive()]:
            self.threads.discard(gone)
        self.starting.add(worker)
        self.threads.add(worker)
        self._alive += 1
        self.parked += 1  # it is spare until it finds something to do
        return worker

    def _not_started(self, worker: threading.Thread, error: RuntimeError) -> None:
        """The system has no more threads."""
        self.threads.discard(worker)
        self.starting.discard(worker)
        self._alive -= 1
        self.parked -= 1
        logger.error("%s: %s", self._name, error)
        if not self.threads:
            self._failures.no_thread(error)
        self._bell.ring()

    def _run(self) -> None:
        me = get_ident()
        inside[me] = OURS
        self.starting.discard(threading.current_thread())
        self._bell.ring()
        try:
            while self.work(me):
                pass
        except BaseException as error:  # none of a handler's: those are answered
            self._failures.worker_lost(error)
        finally:
            inside.pop(me, None)
            self._alive -= 1

    def call_thread(self) -> None:
        """As any thread: there is something to do for a thread that is parked.

        One is, unless this thread itself is the only one, in a handler that waits.
        """
        if self.parked == 0 and get_ident() in self.busy:
            self.need_thread()
        else:
            self._parking.wake()

    def need_thread(self) -> None:
        """As a thread of ours: there is something to do for a thread that is parked, or one more."""
        if self.parked > 0:
            self._parking.wake()
        elif self._alive <= 2 * (self._limit + self.slots.nested) + 2:
            self._add()

    def see_to_clock(self) -> None:
        """As any thread that reads: start the clock if that is wanted, as nobody else may be there for it."""
        if not self._clock.is_idle and self._clock.thread is None and get_ident() in self.busy:
            self._clock.start()

    def may_leave(self) -> bool:
        """As a thread that was parked for long: leave if another one stays parked. It is not counted then."""
        self.parked -= 1
        if self.parked > 0:  # of two that come here together, one at least sees what both have taken away
            return True
        self.parked += 1
        return False

    def stop(self) -> None:
        """No handler is begun any more, and each thread ends as soon as it is woken."""
        self.stopping = True
        self.jobs.clear()
        self.slow_jobs.clear()

    def join(self, timeout: float) -> None:
        """Wait for each thread that runs no handler, `timeout` seconds at most."""
        for thread in list(self.threads):
            if thread not in self.starting and thread.ident != get_ident() and thread.ident not in self.busy:
                thread.join(timeout)

    def after_fork(self) -> None:
        """In the child of a fork: the other threads are the parent's."""
        self.stop()
        self.threads.clear()

    # handlers

    @property
    def is_held(self) -> bool:
        """True while no handler is to be started: the peer does not take its replies."""
        engine = self._engine
        if engine.unsent_octets <= self.free_until or not engine.is_held(self._max_unsent):
            return False
        self._held.append(None)  # first: whoever makes room from here on has a thread look again
        return engine.is_held(self._max_unsent)

    @property
    def has_work(self) -> bool:
        """True if one more handler may run, and there is one to run."""
        return bool((self.jobs or self.slow_jobs) and self.slots.free) and not self.is_held

    def serve(self, me: int) -> bool:
        """As the reader: run what waits, but for what is slow; false if the role was taken over meanwhile."""
        try:
            self.slots.free.pop()
        except IndexError:
            return True  # whoever has a slot runs these, too
        jobs, slow, slots, debts = self.jobs, self._slow, self.slots, self.slots.debts
        take = jobs.popleft
        engine, writing, clock, on_watch = self._engine, self._writing, self._clock, self.on_watch
        answering, busy = self._answering, self.busy
        turn = Turn(slots, answering)
        busy[me] = turn
        handling[me] = turn
        on_watch.append(me)
        try:
            while jobs and not (engine.unsent_octets > self.free_until and self.is_held):
                try:
                    request = take()
                except IndexError:  # another thread took it
                    break
                if slow and self._limit > 1 and type_of(request) in slow:
                    self.slow_jobs.append(request)
                    self.need_thread()
                    continue
                self.begun += 1
                if clock.is_idle or clock.thread is None:  # it looks how long this takes
                    clock.begin()
                turn.request = request
                answering.run_handler(request, me)
                if me not in on_watch:  # taken over; there may be another reader in it now
                    slow.add(request)
                    writing.flush()
                    break
                if debts:  # one that has waited runs on without a slot: this one's is for that
                    break
                if engine.unsent_octets >= self.write_at:
                    writing.flush()
        finally:
            busy.pop(me, None)
            handling.pop(me, None)
            if debts:
                slots.give_back()
            else:
                slots.free.append(None)
                if jobs or self.slow_jobs:  # another thread may have found no slot meanwhile
                    self.need_thread()
            try:  # as in `Watch.leave`
                on_watch.remove(me)
                kept = True
            except ValueError:
                kept = False
        return kept

    def run_jobs(self, me: int) -> bool:
        """As a thread that has no role: run what waits; false if there was nothing."""
        if not self.has_work:
            return False
        try:
            self.slots.free.pop()
        except IndexError:
            return False
        turn = Turn(self.slots, self._answering)
        self.busy[me] = turn
        handling[me] = turn
        served = False
        try:
            while not self.stopping and not self.is_held:
                try:
                    request = (self.slow_jobs or self.jobs).popleft()
                except IndexError:
                    break
                served = True
                turn.request = request
                self._run_beside(request, me)
                if self.slots.debts:  # as in serve
                    break
        finally:
            self.busy.pop(me, None)
            handling.pop(me, None)
            self.slots.give_back()
        return served

    def _run_beside(self, request: Fields, me: int) -> None:
        if self.parked == 0 or self.jobs or self.slow_jobs:
            self.need_thread()  # one is left to read, and others to run what else waits
        began = time.monotonic()
        self._answering.run_handler(request, me)
        if self._slow:
            self._slow.took(request, time.monotonic() - began)
        self._writing.flush()

    def _slot_is_free(self) -> None:
        if self.jobs or self.slow_jobs:
            self.need_thread()

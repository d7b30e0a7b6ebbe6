"""The threads of a connection, the requests that wait for a handler, and the slots in which handlers run.

Strategy. A thread that runs a handler has a slot, of which there are `limit`, so that no more run at once. It keeps
the slot as long as requests wait. While it waits for a call of its own on the connection it has none, so that
call-backs can nest. Before a handler runs there is another thread that is spare: one is left to read.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from threading import get_ident

from packetwire.core.engine import ConnectionEngine
from packetwire.core.events import RequestReceived
from packetwire.errors import LimitExceeded
from packetwire.threaded.answering import logger

MAX_NESTED = 512
"""Handlers of one connection that wait for calls of their own on it: the depth of a chain of call-backs."""


class Workers:
    """Threads that do `work`, and in it run the handlers of `jobs`. `lock` guards the engine and the slots.

    Called back: `flush` when there may be something to write, `call_helper` and `wake_helper` when another thread
    has something to do, soon or now, `wake` to have one more look whether it shall end, `started` behind each
    start of a thread, `failed` with the error if there is no thread at all and none can be started.
    """

    def __init__(
        self,
        engine: ConnectionEngine,
        lock: threading.Lock,
        name: str,
        *,
        limit: int,
        max_unsent: int,
        work: Callable[[], None],
        run_handler: Callable[[RequestReceived], None],
        flush: Callable[[], None],
        call_helper: Callable[[], None],
        wake_helper: Callable[[], None],
        wake: Callable[[], None],
        started: Callable[[], None],
        failed: Callable[[RuntimeError], None],
    ) -> None:
        self.jobs: deque[RequestReceived] = deque()
        """Requests that wait for a handler."""
        self.busy: set[int] = set()
        """The idents of the threads that run one."""
        self.running = 0
        """Handlers that run, but for those that wait for calls of their own."""
        self.starting = 0
        """Threads that cannot be joined yet."""
        self.stopping = False
        self.threads: set[threading.Thread] = set()
        self._nested = self._spare = 0
        self._engine = engine
        self._lock = lock
        self._name = name
        self._limit = limit
        self._max_unsent = max_unsent
        self._work = work
        self._run_handler = run_handler
        self._flush = flush
        self._call_helper = call_helper
        self._wake_helper = wake_helper
        self._wake = wake
        self._started = started
        self._failed = failed

    # threads

    def add(self) -> bool:
        """Start one more thread; false if that cannot be, or is too late."""
        with self._lock:
            if self.stopping:
                return False
            worker = threading.Thread(target=self._work, name=f"{self._name}-worker", daemon=True)
            # those that left are forgotten only here: closing waits until the last of them is gone
            self.threads = {w for w in self.threads if w.ident is None or w.is_alive()} | {worker}
            self._spare += 1
            self.starting += 1
        try:
            worker.start()
        except RuntimeError as error:  # the system has no more threads
            with self._lock:
                self.threads.discard(worker)
                self._spare -= 1
                last = self._spare == 0
            logger.error("%s: %s", self._name, error)
            if last:
                self._failed(error)
            return False
        finally:
            with self._lock:
                self.starting -= 1
            self._started()
        return True

    def is_superfluous(self) -> bool:
        """Whether the thread that asks shall end; then it is not counted as spare any more."""
        if not self.stopping and self._spare <= self._limit + 1:
            return False
        with self._lock:
            if not self.stopping and self._spare <= self._limit + 1:
                return False
            self._spare -= 1
        if self.stopping:
            self._wake()  # the next parked thread shall see it too
        return True

    def stop(self) -> None:
        """With the lock held: no handler is begun any more, and each thread ends as soon as it is woken."""
        self.stopping = True
        self.jobs.clear()

    def join(self, timeout: float) -> None:
        """Wait for each thread that runs no handler, `timeout` seconds at most."""
        me = threading.current_thread()
        with self._lock:
            threads = [w for w in self.threads if w is not me and w.ident and w.ident not in self.busy]
        for thread in threads:
            thread.join(timeout)

    def after_fork(self, lock: threading.Lock) -> None:
        """In the child of a fork: the other threads are the parent's."""
        self._lock = lock
        self.stop()
        self.threads.clear()

    # jobs

    def next_job(self, *, finished: bool) -> RequestReceived | None:
        """The next request to handle, if one more handler may run; there is another spare thread then.

        `finished`: the thread that asks has just run a handler.
        """
        if not finished and not self.jobs:
            return None
        with self._lock:
            if finished:
                self.running -= 1
                self._spare += 1
            if (
                not self.jobs
                or self.running >= self._limit
                or self._engine.is_held(self._max_unsent)
                or self.stopping
            ):
                return None
            self.running += 1  # first: the reader looks at both without the lock
            event = self.jobs.popleft()
            self._spare -= 1
            alone = self._spare == 0
        if alone:
            self.add()
        elif self.jobs:
            self._call_helper()
        return event

    def run_jobs(self, event: RequestReceived | None) -> None:
        """Run the handler for `event`, and for what follows it in the queue."""
        me = get_ident()
        self.busy.add(me)
        try:
            while event is not None:
                try:
                    self._run_handler(event)
                except KeyboardInterrupt:
                    pass  # raised by the handler itself, and answered: a worker is not the program
                self._flush()
                event = self._following_job()
        finally:
            self.busy.discard(me)

    def _following_job(self) -> RequestReceived | None:
        """The next request for a thread that has a slot, and keeps it."""
        if self._engine.is_held(self._max_unsent) or self.running > self._limit or self.stopping:
            return None
        try:
            event = self.jobs.popleft()
        except IndexError:
            return None
        if self.jobs:
            self._call_helper()
        return event

    # slots

    @property
    def has_slot(self) -> bool:
        """Whether one more handler may run."""
        return self.running < self._limit

    def give_up_slot(self, me: int) -> bool:
        """With the lock held: if this thread runs a handler, it does not while it waits.

        Raises `LimitExceeded` if too many wait already.
        """
        if me not in self.busy:
            return False
        if self._nested >= MAX_NESTED:
            raise LimitExceeded(
                f"{self._name}: {MAX_NESTED} handlers wait for calls of their own, the chain is too deep"
            )
        self._nested += 1
        self.running -= 1
        if self.jobs:
            self._wake_helper()
        return True

    def take_slot_back(self, nested: bool) -> None:
        """With the lock held: the handler runs on. It never waits for a slot, as others may wait for it."""
        if nested:
            self._nested -= 1
            self.running += 1

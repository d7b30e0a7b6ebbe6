"""Daemon threads that run plain request handlers, which may block.

Strategy: what is read is put into a queue, a few workers take it from there. One that begins a job calls the
next if there are more; so as many run as are needed, and few threads are woken for handlers that are quick. A
worker answers for itself, which the engine allows any thread. The loop is called once for all that comes until
it is there: it writes, and sees to results that are not ready to be sent. A worker in a handler is left to it
when the connection closes: nothing can end it from outside.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from types import CoroutineType
from typing import Any

from packetwire.core.engine import ConnectionEngine
from packetwire.core.packetcodec import Fields, Key
from packetwire.hosts.threads.slots import Turn, handling

logger = logging.getLogger("packetwire")

Deliver = Callable[[Fields, Any, BaseException | None], None]

JOIN_SECONDS = 1.0
"""Seconds for a worker that runs no handler to end."""


class Workers:
    """Up to `limit` threads that call `handle(request)`, and answer with its result if that is bytes.

    Any other outcome goes to `deliver(request, result, error)`, which is called in the loop; `delivered` is
    called there after each batch. With `delivers_all` nothing is answered by a worker. No job is begun while more
    than `max_unsent` bytes wait to be written or delivered.
    """

    def __init__(
        self,
        engine: ConnectionEngine,
        handle: Callable[[Fields], Any],
        limit: int,
        name: str,
        *,
        deliver: Deliver,
        delivered: Callable[[], object],
        max_unsent: int,
        answering: Any,
        delivers_all: bool = False,
    ) -> None:
        self.jobs: deque[Fields] = deque()
        """Requests to be handled; `call` has them begun."""
        self._engine = engine
        self._handle = handle
        self._limit = limit
        self._name = name
        self._deliver = deliver
        self._delivered = delivered
        self._max_unsent = max_unsent
        self._delivers_all = delivers_all
        self._loop = asyncio.get_running_loop()
        self._calls: SimpleQueue[None] = SimpleQueue()  # an item for each worker that shall look for jobs
        self._lock = threading.Lock()  # guards what follows
        self._done: list[tuple[Fields, object, BaseException | None]] = []
        self._done_bytes = 0
        self._loop_is_called = False
        self._threads: set[threading.Thread] = set()
        self._in_handler: set[threading.Thread] = set()
        self._answering = answering
        self.turns: set[Turn] = set()
        """One for each worker."""
        self._idle = 0
        self._stopping = False

    # in the loop

    def call(self) -> None:
        """There are jobs, or they may not be held any more: have a worker look."""
        with self._lock:
            error = self._call_worker() if self.jobs else None
        if error is not None:
            self._refuse_jobs(error)

    def _call_worker(self) -> RuntimeError | None:
        """With the lock held: wake an idle worker, else start one, unless there are enough.

        Returns why none can be started, if there are none at all.
        """
        if self._idle:
            self._idle -= 1
            self._calls.put(None)
        elif len(self._threads) < self._limit and not self._stopping:
            thread = threading.Thread(target=self._work, name=f"{self._name}-worker", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # the system has no more threads
                return None if self._threads else error
            self._threads.add(thread)
        return None

    def interrupt_of(self, key: Key) -> Callable[[], object] | None:
        """The function that interrupts the handler of a request; None if no worker has begun it."""
        with self._lock:
            for turn in self.turns:
                if turn.request is not None and turn.request[0] == key:
                    return turn.give_up
            # it has run, and its result is not taken yet
            return _nothing if any(request[0] == key for request, _, _ in self._done) else None

    def _refuse_jobs(self, error: RuntimeError) -> None:
        logger.error("%s: no thread can be started for a handler: %s", self._name, error)
        refused = list(self.jobs)
        self.jobs.clear()
        for request in refused:
            self._deliver(request, None, error)
        self._delivered()

    def _take_done(self) -> None:
        with self._lock:
            self._loop_is_called = False
            done, self._done, self._done_bytes = self._done, [], 0
        for request, result, error in done:
            self._deliver(request, result, error)
        self._delivered()
        if self.jobs:
            self.call()

    def stop(self) -> None:
        """Begin nothing more, and see the workers end that run no handler. A second call does nothing."""
        with self._lock:
            self._stopping = True
            self.jobs.clear()
            dropped, self._done = self._done, []
            leaving = self._threads - self._in_handler
            for _ in self._threads:
                self._calls.put(None)
        for _, result, _ in dropped:
            if isinstance(result, CoroutineType):
                result.close()  # a plain handler may return one, which nobody awaits any more
        for thread in leaving:
            thread.join(JOIN_SECONDS)

    def after_fork(self) -> None:
        """In the child of a fork: the workers are the parent's, and the one that forked has nothing left to do."""
        self._lock = threading.Lock()
        self._stopping = True
        self.jobs.clear()
        self._threads.clear()

    # in a worker

    def _work(self) -> None:
        this = threading.current_thread()
        turn = Turn(None, self._answering)
        handling[threading.get_ident()] = turn
        with self._lock:
            self.turns.add(turn)
        try:
            while not self._stopping:
                request = self._next_job(this)
                if request is not None:
                    turn.request = request
                    self._run(this, request)
                else:
                    self._calls.get()
        finally:
            handling.pop(threading.get_ident(), None)
            with self._lock:
                self.turns.discard(turn)
                self._threads.discard(this)

    def _next_job(self, this: threading.Thread) -> Fields | None:
        """The next job; without one this worker counts as idle, until it is called."""
        with self._lock:
            jobs = self.jobs
            if jobs and not self._stopping and not self._engine.is_held(self._max_unsent, self._done_bytes):
                self._in_handler.add(this)
                request = jobs.popleft()
                if jobs:
                    self._call_worker()
                return request
            self._idle += 1
            return None

    def _run(self, this: threading.Thread, request: Fields) -> None:
        result, failure = None, None
        is_answered = False
        try:
            if self._answering.is_special and not self._answering.may_begin(request):
                is_answered = True
            else:
                result = self._handle(request)
            # in one step, and before it answers: whoever has the answer may close, and that waits for this thread
            self._in_handler.discard(this)
            if type(result) is bytes and not (self._delivers_all or self._stopping):
                key = request[0]
                channel, tag = (0, key) if isinstance(key, int) else key
                self._engine.respond(channel, tag, True, 0, result)
                is_answered = True
        except BaseException as error:  # whatever it is, it belongs to the peer that asked
            failure = error
        with self._lock:
            self._in_handler.discard(this)
            call = not (self._loop_is_called or self._stopping)
            if not self._stopping:
                if not is_answered:
                    self._done.append((request, result, failure))
                    self._done_bytes += _bytes_of(result)
                self._loop_is_called = True
        failure = None  # else this frame and its traceback refer to each other, and hold the request
        if call:
            with suppress(RuntimeError):  # the loop is closed: the handler outlived it
                self._loop.call_soon_threadsafe(self._take_done)


def _nothing() -> None:
    """Nobody has to be told."""


def _bytes_of(result: object) -> int:
    """The size of the reply that a handler's result makes, as far as that is known."""
    payload = result[1] if isinstance(result, tuple) and len(result) == 2 else result
    return len(payload) if isinstance(payload, bytes | bytearray | memoryview | str) else 0

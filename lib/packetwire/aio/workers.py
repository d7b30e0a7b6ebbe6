"""Daemon threads that run plain request handlers, which may block.

Strategy: the loop adds jobs to a queue, a few workers take them from there. What comes of the jobs is handed
to the loop in batches: the first result wakes the loop, those that follow until it comes are taken along. A
worker in a handler is left to it when the connection closes: nothing can end it from outside.
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

from packetwire.core.events import RequestReceived

logger = logging.getLogger("packetwire")

Deliver = Callable[[RequestReceived, Any, BaseException | None], None]

JOIN_SECONDS = 1.0
"""Seconds for a worker that runs no handler to end."""


class Workers:
    """Up to `limit` threads that call `handle(event)`; `deliver(event, result, error)` is called in the loop.

    `delivered` is called there after each batch. No job is begun while `held(octets)`, with the octets of the
    results that the loop has not taken yet.
    """

    def __init__(
        self,
        handle: Callable[[RequestReceived], Any],
        limit: int,
        name: str,
        *,
        deliver: Deliver,
        delivered: Callable[[], None],
        held: Callable[[int], bool],
    ) -> None:
        self._handle = handle
        self._limit = limit
        self._name = name
        self._deliver = deliver
        self._delivered = delivered
        self._held = held
        self._loop = asyncio.get_running_loop()
        self._calls: SimpleQueue[None] = SimpleQueue()  # an item for each worker that shall look for jobs
        self._lock = threading.Lock()  # guards what follows
        self._jobs: deque[RequestReceived] = deque()
        self._done: list[tuple[RequestReceived, Any, BaseException | None]] = []
        self._done_octets = 0
        self._loop_is_called = False
        self._threads: set[threading.Thread] = set()
        self._in_handler: set[threading.Thread] = set()
        self._idle = 0
        self._stopping = False

    # in the loop

    def add(self, event: RequestReceived) -> None:
        """Have it handled as soon as a worker is free."""
        with self._lock:
            self._jobs.append(event)
            error = self._call_worker()
        if error is not None:
            self._refuse_jobs(error)

    def resume(self) -> None:
        """Jobs may not be held any more."""
        if self._jobs:
            with self._lock:
                for _ in range(min(len(self._jobs), self._idle)):
                    self._call_worker()

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

    def _refuse_jobs(self, error: RuntimeError) -> None:
        logger.error("%s: no thread can be started for a handler: %s", self._name, error)
        with self._lock:
            refused = list(self._jobs)
            self._jobs.clear()
        for event in refused:
            self._deliver(event, None, error)
        self._delivered()

    def _take_done(self) -> None:
        with self._lock:
            self._loop_is_called = False
            done, self._done, self._done_octets = self._done, [], 0
        for event, result, error in done:
            self._deliver(event, result, error)
        self._delivered()
        self.resume()

    def stop(self) -> None:
        """Begin nothing more, and see the workers end that run no handler. A second call does nothing."""
        with self._lock:
            self._stopping = True
            self._jobs.clear()
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
        self._jobs.clear()
        self._threads.clear()

    # in a worker

    def _work(self) -> None:
        this = threading.current_thread()
        try:
            while not self._stopping:
                event = self._next_job(this)
                if event is not None:
                    self._run(this, event)
                else:
                    self._calls.get()
        finally:
            with self._lock:
                self._threads.discard(this)

    def _next_job(self, this: threading.Thread) -> RequestReceived | None:
        """The next job; without one this worker counts as idle, until it is called."""
        with self._lock:
            if self._jobs and not self._stopping and not self._held(self._done_octets):
                self._in_handler.add(this)
                return self._jobs.popleft()
            self._idle += 1
            return None

    def _run(self, this: threading.Thread, event: RequestReceived) -> None:
        result, failure = None, None
        try:
            result = self._handle(event)
        except BaseException as error:  # whatever it is, it belongs to the peer that asked
            failure = error
        with self._lock:
            self._in_handler.discard(this)
            call = not (self._loop_is_called or self._stopping)
            if not self._stopping:
                self._done.append((event, result, failure))
                self._done_octets += _octets_of(result)
                self._loop_is_called = True
        failure = None  # else this frame and its traceback refer to each other, and hold the request
        if call:
            with suppress(RuntimeError):  # the loop is closed: the handler outlived it
                self._loop.call_soon_threadsafe(self._take_done)


def _octets_of(result: Any) -> int:
    """The size of the reply that a handler's result makes, as far as that is known."""
    payload = result[1] if isinstance(result, tuple) and len(result) == 2 else result
    return len(payload) if isinstance(payload, bytes | bytearray | memoryview | str) else 0

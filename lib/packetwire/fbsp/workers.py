"""Threads for the operations of a service."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from packetwire.streams import forking

logger = logging.getLogger("packetwire")

DEFAULT_MAX_WAITING: Final = 65536
"""Requests of all clients that wait for a thread."""

Job = Callable[[], object]


class Workers:
    """At most `limit` threads that run jobs in the order in which they come.

    Threads are started as they are needed. They are daemons: a program's exit waits for no job.
    """

    def __init__(self, limit: int, name: str, *, max_waiting: int = DEFAULT_MAX_WAITING) -> None:
        if limit < 1:
            raise ValueError(f"a service has 1 thread or more, not {limit}")
        self._limit = limit
        self._name = name
        self._max_waiting = max_waiting
        self._jobs: deque[Job] = deque()
        self._change = threading.Condition()
        self._threads: set[threading.Thread] = set()
        self._idle = 0
        self._closed = False
        forking.register(self)

    def after_fork(self) -> None:
        """In the child of a fork: the threads are the parent's."""
        self._change = threading.Condition()
        self._threads.clear()
        self._jobs.clear()
        self._closed = True

    def submit(self, job: Job) -> bool:
        """Have a job run; false if too many wait already, or after `close`."""
        with self._change:
            if self._closed or len(self._jobs) >= self._max_waiting:
                return False
            self._jobs.append(job)
            if self._idle >= len(self._jobs):
                self._change.notify()
            elif len(self._threads) < self._limit:
                thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # the system has no more of them: those that there are must do
                    if not self._threads:
                        self._jobs.pop()
                        return False
                else:
                    self._threads.add(thread)
        return True

    def close(self, timeout: float) -> None:
        """Drop the jobs that wait, and wait for those that run."""
        with self._change:
            self._closed = True
            self._jobs.clear()
            self._change.notify_all()
            threads = self._threads - {threading.current_thread()}
        for thread in threads:
            thread.join(timeout)

    def _run(self) -> None:
        while True:
            with self._change:
                self._idle += 1
                while not self._jobs and not self._closed:
                    self._change.wait()
                self._idle -= 1
                if self._closed:
                    return
                job = self._jobs.popleft()
            try:
                job()
            except BaseException:
                # also SystemExit: a thread that ended here would be counted as one of the limit for ever
                logger.exception("%s: a job failed", self._name)

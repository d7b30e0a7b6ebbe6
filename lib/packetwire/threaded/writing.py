"""Writing what the engine wants sent, by whichever thread is at hand.

The writer's role exists once. Whoever holds it takes a batch, tries to write it without blocking, and looks
again before giving the role up; so what others send meanwhile leaves with the next batch. What the stream
does not take goes to the one thread that polls for room.
"""

from __future__ import annotations

import select
import threading
from collections.abc import Callable, Sequence
from threading import get_ident

from packetwire.core.engine import ConnectionEngine
from packetwire.streams.bytestream import ByteStream
from packetwire.streams.wakeup import Wakeup

NOBODY = 0
_THREAD = -1
_CLOSED = -2
_JOIN_SECONDS = 5.0
"""Seconds for the thread that polls, which never blocks, to see that it should end."""


class Writing:
    """The writer's role for one connection. `lock` guards the engine and the role.

    Called back without the lock: `written` when there may be room again, `failed` with the error after
    which nothing can be written, `interrupted` with a BaseException that hit a write.
    """

    def __init__(
        self,
        engine: ConnectionEngine,
        stream: ByteStream,
        lock: threading.Lock,
        name: str,
        *,
        written: Callable[[], object],
        failed: Callable[[Exception], object],
        interrupted: Callable[[BaseException], object],
    ) -> None:
        self.holder = NOBODY
        """The thread that has the role."""
        self._engine = engine
        self._stream = stream
        self._lock = lock
        self._name = name
        self._written = written
        self._failed = failed
        self._interrupted = interrupted
        self._leftover: Sequence[bytes | memoryview] = ()
        self._wakeup: Wakeup | None = None
        self._thread: threading.Thread | None = None
        self._started = threading.Event()
        self._stopping = False

    @property
    def by_a_thread(self) -> bool:
        """Whether one is writing, which does not wait; the thread that polls for room does not count."""
        return self.holder > NOBODY

    def take(self, me: int) -> list[bytes] | None:
        """With the lock held: take the role and what is to be written, if nobody has it; see `write`."""
        if self.holder != NOBODY:
            return None  # that thread looks again before it gives up the role
        batch = self._engine.data_to_send()
        if not batch:
            return None
        self.holder = me
        return batch

    def release(self, me: int) -> None:
        """An interruption may have left the role with its thread."""
        if self.holder == me:
            self.holder = NOBODY

    def flush(self) -> None:
        """Write what the engine wants sent, as far as that goes without waiting."""
        me = get_ident()
        try:
            with self._lock:
                batch = self.take(me)
            if batch is not None:
                self.write(batch)
        finally:
            if self.holder == me:
                self.holder = NOBODY

    def write(self, batch: list[bytes]) -> None:
        """As the writer: write until nothing is left, or hand the rest to the thread that waits for room."""
        while batch:
            rest = self._try_write(batch)
            if rest:
                self._hand_over(rest)
                return
            with self._lock:
                batch = self._engine.more_data_to_send()
                if not batch:
                    self.holder = NOBODY
        self._written()

    def _try_write(self, batch: Sequence[bytes | memoryview]) -> Sequence[bytes | memoryview]:
        """Write what fits, return the rest. A failure leaves no rest."""
        try:
            return self._stream.write_batch(batch)
        except Exception as error:
            self._failed(error)
            return ()
        except BaseException as error:
            self._interrupted(error)
            raise

    # what the stream does not take at once

    def _hand_over(self, rest: Sequence[bytes | memoryview]) -> None:
        with self._lock:
            if self._stopping:
                self.holder = NOBODY
                return
            self._leftover = rest
            self.holder = _THREAD
            start = self._wakeup is None
            if start:
                self._wakeup = Wakeup()
        if start:
            self._start_thread()
        else:
            self._wakeup.set()  # type: ignore[union-attr]

    def _start_thread(self) -> None:
        self._thread = threading.Thread(target=self._wait_and_write, name=f"{self._name}-writer", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:  # the system has no more threads
            self._thread = None
            self.holder = NOBODY
            self._failed(error)
        finally:
            self._started.set()

    def _wait_and_write(self) -> None:
        """The thread: wait for room and write, whenever there is something left over."""
        wakeup = self._wakeup
        assert wakeup is not None
        while not self._stopping:
            poller = select.poll()
            poller.register(wakeup.fileno(), select.POLLIN)
            fd = self._stream.write_fd if self._leftover else -1
            if fd >= 0:
                poller.register(fd, self._stream.write_events)
            if fd >= 0 or not self._leftover:  # else the stream has been closed elsewhere: writing says why
                poller.poll()
            wakeup.clear()
            if self._leftover and not self._stopping:
                self._leftover = self._try_write(self._leftover)
                if not self._leftover:
                    self._go_on()
        with self._lock:
            if self.holder == _THREAD:
                self.holder = NOBODY

    def _go_on(self) -> None:
        """As the thread, with all written: take the next batch, or give up the role."""
        with self._lock:
            self._leftover = self._engine.more_data_to_send()
            if not self._leftover:
                self.holder = NOBODY
        self._written()
        if self._leftover and self._wakeup:
            self._wakeup.set()

    # the end

    def stop(self) -> None:
        """Nothing is handed over any more; wait for the thread's end."""
        with self._lock:
            self._stopping = True
            wakeup = self._wakeup
        if wakeup:
            wakeup.set()
            self._started.wait()  # a thread that was not started yet cannot be joined
        if self._thread:
            self._thread.join(_JOIN_SECONDS)

    def after_fork(self, lock: threading.Lock) -> None:
        """In the child of a fork: the thread is the parent's, and so is the stream."""
        self._lock = lock
        self._started = threading.Event()
        self._started.set()
        self._thread = None
        self._stopping = True
        self._leftover = ()
        self.holder = _CLOSED

    def close(self) -> None:
        """After `stop`: nobody can take the role any more."""
        self.holder = _CLOSED
        if self._wakeup:
            self._wakeup.close()

"""The clock of a connection: one thread that sees to what was postponed, and to what takes too long.

It looks once a millisecond, but only while something goes on: handlers are started, or requests are sent whose
writing was postponed. Otherwise it sleeps until it is woken, or until the stream, which did not take all, has room.
It is started when it is needed, by a worker: a caller may be interrupted at any instruction, and a thread
that was started by half cannot be joined. After a long sleep it ends, so that an idle connection has none.
"""

from __future__ import annotations

import select
import threading
from collections.abc import Callable

from packetwire.hosts.threads.nesting import OURS, inside
from packetwire.hosts.threads.writing import Writing
from packetwire.streams.bytestream import ByteStream
from packetwire.streams.finalizing import start_without_waiting
from packetwire.streams.wakeup import Wakeup

TICK = 0.001
"""Seconds between two looks, and so the time after which a handler counts as slow."""
PATIENCE = 4
"""Looks in vain after which it sleeps."""
IDLE_SECONDS = 1.0
"""Seconds of sleep after which a thread that is not needed ends."""


class Clock:
    """Calls `look` while it says that something goes on, and `go_on` of `writing` when there is room.

    `wanted` is called to have a worker `start` it, `started` when it runs, `failed` if no thread can be started.
    """

    def __init__(
        self,
        name: str,
        stream: ByteStream,
        writing: Writing,
        look: Callable[[], bool],
        wanted: Callable[[], object],
        started: Callable[[], object],
        failed: Callable[[RuntimeError], object],
    ) -> None:
        self.is_idle = True
        """True if it must be woken before it looks again; false also while it is to be started."""
        self.thread: threading.Thread | None = None
        self.is_starting = False
        """True while that cannot be joined yet."""
        self._name = name
        self._stream = stream
        self._writing = writing
        self._look = look
        self._wanted = wanted
        self._started = started
        self._failed = failed
        self._wakeup = Wakeup()
        self._poll = select.poll()
        self._poll.register(self._wakeup.fileno(), select.POLLIN)
        self._unstarted = [None]  # popped by whoever starts the thread
        self._stopping = False

    def wake(self) -> None:
        """Have it look from now on; it has work, or will have some."""
        self.is_idle = False
        if self.thread is None:
            self._wanted()
        else:
            self._wakeup.set()

    def begin(self) -> None:
        """As a worker: have it look from now on, and start it if need be."""
        if self.is_idle:
            self.wake()
        if self.thread is None:
            self.start()

    def start(self) -> None:
        """As a worker: start it, unless that was done."""
        try:
            self._unstarted.pop()
        except IndexError:
            return
        if self._stopping:
            return
        self.is_starting = True
        self.thread = threading.Thread(target=self._run, name=f"{self._name}-clock", daemon=True)
        start_without_waiting(self.thread, self._not_started)  # a role may be held here

    def _not_started(self, error: RuntimeError) -> None:
        """The system has no more threads."""
        self.thread = None
        self.is_starting = False
        self._unstarted.append(None)
        self.is_idle = True
        self._failed(error)

    def _run(self) -> None:
        inside[threading.get_ident()] = OURS
        try:
            self.is_starting = False
            self._started()
            self._go_round()
        finally:
            inside.pop(threading.get_ident(), None)

    def _go_round(self) -> None:
        in_vain = 0
        while not self._stopping:
            in_vain = 0 if self._look() else in_vain + 1
            timeout = TICK
            if in_vain > PATIENCE:
                # said first: whoever begins something then does that first, and looks at this
                self.is_idle = True
                self.is_idle = not self._look()
                timeout = IDLE_SECONDS if self.is_idle else TICK
            if not self._wait(timeout) and self.is_idle and self._may_end():
                return

    def _may_end(self) -> bool:
        """True if this thread may end, having slept for long; who wakes it now has another one started."""
        if self._writing.leftover:
            return False
        thread, self.thread = self.thread, None
        self._unstarted.append(None)
        if self.is_idle or self._stopping:  # behind the above: `wake` says this first, and then looks for a thread
            return True
        try:
            self._unstarted.pop()
        except IndexError:  # another one has been started
            return True
        self.thread = thread
        return False

    def _wait(self, timeout: float) -> bool:
        """Wait until it is woken, or there is room to write, which is used; false at the timeout."""
        if self._writing.leftover and not self._writing.keeper:
            self._wait_for_room(timeout)
            return True
        if not self._poll.poll(timeout * 1000):
            return False
        self._wakeup.clear()
        return True

    def _wait_for_room(self, timeout: float) -> None:
        fd, wakeup = self._stream.write_fd, self._wakeup.fileno()
        poller = select.poll()
        poller.register(wakeup, select.POLLIN)
        if fd >= 0:
            poller.register(fd, self._stream.write_events)
        ready = dict(poller.poll(timeout * 1000 if fd >= 0 else 0))
        if wakeup in ready:
            self._wakeup.clear()
        # the stream may have been closed elsewhere: writing says why
        if (fd in ready or fd < 0) and not self._stopping:
            self._writing.go_on()

    def stop(self) -> None:
        """Have the thread end."""
        self._stopping = True
        self._unstarted.clear()
        self._wakeup.set()

    def join(self, seconds: float) -> None:
        """Wait until it has ended, so many seconds at most."""
        thread = self.thread
        if thread is not None and not self.is_starting and thread.ident != threading.get_ident():
            thread.join(seconds)

    def close(self) -> None:
        """After `join`."""
        self._wakeup.close()

    def after_fork(self) -> None:
        """In the child of a fork: the thread is the parent's."""
        self._stopping = True
        self._unstarted.clear()
        self.thread = None

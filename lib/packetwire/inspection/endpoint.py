"""The Unix socket at which a server is inspected: HTTP, in a thread of its own.

HTTP, as then whatever there is can ask: curl, Prometheus, a shell. A thread, for servers in an event loop too: when
the loop stands still one wants to look inside. It does nothing but poll: those who ask are few at a time, and each
has some seconds, so one that sends or takes nothing is in nobody's way. A snapshot is kept for a moment, so that
making them never takes more than a twentieth of the time, however often somebody asks.
"""

from __future__ import annotations

import logging
import select
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from packetwire.core.stats import ConnectionStats
from packetwire.inspection.snapshot import ServerState, Snapshot, Totals, snapshot_of
from packetwire.inspection.views import answer_to, is_whole
from packetwire.listeners import Listener
from packetwire.streams import forking
from packetwire.streams.wakeup import Wakeup
from packetwire.watching import Watch

logger = logging.getLogger("packetwire")

MOST_ASKERS = 8
"""Those who are answered at a time; others wait to be accepted."""
MOST_REQUEST = 8192
"""Bytes of a request."""
ASK_SECONDS = 5.0
"""Seconds that somebody has to ask, and to take the answer."""
FRESH_SECONDS = 0.1
"""Seconds, at least, that a snapshot is used."""
SHARE = 20
"""A snapshot is used so many times as long as it took to be made."""
END_WAIT = 2.0
"""Seconds that the end of the thread is waited for."""


class Inspection:
    """The inspection of one server, until `close`. `state` tells what it is to tell."""

    def __init__(self, listener: Listener, state: Callable[[], ServerState]) -> None:
        self.watch = Watch()
        self.address = listener.address
        self._listener = listener
        self._state = state
        self._totals = Totals()
        self._taken: Snapshot | None = None
        self._fresh_until = 0.0
        self._askers: dict[int, _Asker] = {}
        self._is_closed = False
        self._wakeup = Wakeup()
        self._thread = threading.Thread(target=self._run, name=f"packetwire-{self.address}-inspect", daemon=True)
        forking.register(self)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def after_fork(self) -> None:
        """In the child of a fork: the parent answers."""
        self._is_closed = True
        self._askers.clear()

    def has_left(self, stats: ConnectionStats | None) -> None:
        """A client of the server has left; its counters still count."""
        with self.watch.lock:
            self._totals.has_left(stats)

    def close(self) -> None:
        """Answer no more. A second call does nothing."""
        self._is_closed = True
        self._wakeup.set()
        if self._thread.is_alive():
            self._thread.join(END_WAIT)
        self._listener.close()
        self._wakeup.close()

    def forget(self) -> None:
        """Python ends, and the thread does not run any more: remove the file."""
        self._listener.close()

    # in the thread

    def _run(self) -> None:
        try:
            while not self._is_closed:
                self._turn()
        except Exception as error:
            if not self._is_closed:
                logger.error("%s: inspecting failed: %r", self.address, error, exc_info=error)
        finally:
            self._listener.close()
            for asker in list(self._askers.values()):
                asker.close()
            self._askers.clear()

    def _turn(self) -> None:
        """Wait for somebody who asks, or takes an answer, and go on with that."""
        poller = select.poll()
        poller.register(self._wakeup.fileno(), select.POLLIN)
        places = (
            {} if len(self._askers) >= MOST_ASKERS else {each.fileno(): each for each in self._listener.sockets}
        )
        for fd in places:
            poller.register(fd, select.POLLIN)
        for fd, asker in self._askers.items():
            poller.register(fd, asker.wanted)
        deadline = min((asker.deadline for asker in self._askers.values()), default=None)
        left = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
        for fd, _ in poller.poll(left):
            if fd in places:
                self._accept(places[fd])
            elif fd in self._askers:
                self._askers[fd].go_on(self._take)
        now = time.monotonic()
        for fd, asker in list(self._askers.items()):
            if asker.is_over or now >= asker.deadline:
                del self._askers[fd]
                asker.close()

    def _accept(self, listening: socket.socket) -> None:
        try:
            sock = forking.guarded_socket(lambda: listening.accept()[0])
        except BlockingIOError:
            return  # gone again
        except OSError as error:
            if self._is_closed:
                return
            logger.warning("%s: nobody can be accepted: %s", self.address, error)
            with suppress(OSError, ValueError):  # out of descriptors: later
                select.select([self._wakeup.fileno()], [], [], 1.0)
            return
        sock.setblocking(False)
        asker = _Asker(sock)
        self._askers[sock.fileno()] = asker

    def _take(self) -> Snapshot:
        """The state of the server now, or a moment ago."""
        began = time.monotonic()
        if self._taken is None or began >= self._fresh_until:
            self._taken = snapshot_of(self._state(), self.watch, self._totals)
            done = time.monotonic()
            self._fresh_until = done + max(FRESH_SECONDS, SHARE * (done - began))
        return self._taken


class _Asker:
    """Somebody who asks."""

    def __init__(self, sock: socket.socket) -> None:
        self.deadline = time.monotonic() + ASK_SECONDS
        self.is_over = False
        self._sock = sock
        self._request = b""
        self._answer: memoryview | None = None

    @property
    def wanted(self) -> int:
        """The event that is waited for."""
        return select.POLLIN if self._answer is None else select.POLLOUT

    def go_on(self, take: Callable[[], Snapshot]) -> None:
        """Read, or write, as far as that goes at once."""
        try:
            if self._answer is None:
                self._read(take)
            if self._answer is not None:
                self._write(self._answer)
        except BlockingIOError:
            pass
        except OSError:
            self.is_over = True

    def _read(self, take: Callable[[], Snapshot]) -> None:
        data = self._sock.recv(MOST_REQUEST)
        self._request += data
        if not data or is_whole(self._request) or len(self._request) >= MOST_REQUEST:
            self._answer = memoryview(answer_to(self._request, take))

    def _write(self, left: memoryview) -> None:
        left = left[self._sock.send(left) :]
        self._answer = left
        if not left:
            with suppress(OSError):
                self._sock.shutdown(socket.SHUT_WR)
            self.is_over = True

    def close(self) -> None:
        """Hang up."""
        forking.close_socket(self._sock)

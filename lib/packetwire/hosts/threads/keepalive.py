"""Looking after the peers of all connections of the process, by one thread.

It refers to them weakly, runs only while there are some, and does for each what `core.keepalive` says.
"""

from __future__ import annotations

import logging
import select
import threading
import time
import weakref
from collections.abc import Callable
from functools import partial

from packetwire.core.engine import ConnectionEngine
from packetwire.core.keepalive import Keepalive, Verdict
from packetwire.core.roundtrips import PingWaiter, RoundTrips
from packetwire.errors import ConnectionEnded, LocalProtocolError, PacketwireError, PeerUnresponsive
from packetwire.streams import forking
from packetwire.streams.bytestream import ByteStream
from packetwire.streams.finalizing import start_without_waiting

logger = logging.getLogger("packetwire")

IDLE_SECONDS = 5.0
"""Seconds between two looks while there is nothing to look after."""
JOIN_SECONDS = 1.0


class PeerCare:
    """Looks after the peer of one connection, once that understands it; `fail(cause, told)` ends the connection."""

    def __init__(
        self,
        engine: ConnectionEngine,
        stream: ByteStream,
        name: str,
        keepalive: Keepalive | None,
        *,
        round_trips: RoundTrips,
        flush: Callable[[], object],
        fail: Callable[[ConnectionEnded, str], object],
    ) -> None:
        self._engine = engine
        self._stream = stream
        self._name = name
        self._keepalive = keepalive
        self._round_trips = round_trips
        self._flush = flush
        self._fail = fail

    def begin(self) -> None:
        """The peer has agreed on capabilities."""
        if self._keepalive is not None:
            watch.add(self)

    def end(self) -> None:
        """The connection is over."""
        if self._keepalive is not None:
            watch.discard(self)

    def look(self, now: float) -> float:
        """Do what is due; returns the seconds until the next look."""
        engine, keepalive = self._engine, self._keepalive
        if keepalive is None or engine.ended is not None:
            return IDLE_SECONDS
        verdict = keepalive.look_at(engine, now, self._stream.bytes_written, engine.outstanding)
        if verdict is Verdict.SILENT and self._has_unread:
            keepalive.forgive(now)
        elif verdict is Verdict.PING:
            self._ping(now)
        elif verdict is not Verdict.NOTHING:
            why = keepalive.text(verdict)
            self._fail(PeerUnresponsive(f"{self._name}: the peer is unresponsive: {why}"), keepalive.told(verdict))
        return keepalive.interval

    def _ping(self, now: float) -> None:
        try:
            self._engine.ping(b"", PingWaiter(self._round_trips, now, time.monotonic))
        except (LocalProtocolError, PacketwireError):
            return  # it has just ended
        self._flush()

    @property
    def _has_unread(self) -> bool:
        """Something is there to be read, which this end has not come to: an inline handler holds it up."""
        poll = select.poll()
        fd = self._stream.read_fd
        if fd < 0:
            return False
        poll.register(fd, select.POLLIN)
        return any(found & select.POLLIN for _, found in poll.poll(0))


class PeerWatch:
    """The thread, and the connections that it looks after."""

    def __init__(self) -> None:
        self._watched: weakref.WeakSet[PeerCare] = weakref.WeakSet()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        forking.register(self)

    def add(self, care: PeerCare) -> None:
        """Look after this connection, too."""
        with self._changed:
            self._watched.add(care)
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="packetwire-keepalive", daemon=True)
                self._thread = thread
                start_without_waiting(thread, partial(self._not_started, thread))
            self._changed.notify_all()

    def _not_started(self, thread: threading.Thread, error: RuntimeError) -> None:
        """The system has no more threads."""
        with self._changed:
            if self._thread is thread:
                self._thread = None
                self._changed.notify_all()
        logger.error("no thread can be started to look after peers: %s", error)

    def discard(self, care: PeerCare) -> None:
        """Do not look after this connection any more."""
        with self._changed:
            self._watched.discard(care)
            thread = None if self._watched else self._thread
            self._changed.notify_all()
            if thread is None or thread is threading.current_thread():
                return
            if not self._changed.wait_for(lambda: self._thread is not thread or self._watched, JOIN_SECONDS):
                return
        if thread.is_alive() and self._thread is not thread:
            thread.join(JOIN_SECONDS)

    def _run(self) -> None:
        while True:
            with self._changed:
                watched = list(self._watched)
                if not watched:
                    self._thread = None
                    self._changed.notify_all()
                    return
            pause = min([_looked(care) for care in watched], default=IDLE_SECONDS)
            del watched
            with self._changed:
                if self._watched:
                    self._changed.wait(pause)

    def after_fork(self) -> None:
        """In the child of a fork: the thread is the parent's, and so are the connections."""
        self._watched = weakref.WeakSet()
        self._changed = threading.Condition()
        self._thread = None


def _looked(care: PeerCare) -> float:
    try:
        return care.look(time.monotonic())
    except Exception:
        logger.exception("looking after a peer failed")
        return IDLE_SECONDS


watch = PeerWatch()

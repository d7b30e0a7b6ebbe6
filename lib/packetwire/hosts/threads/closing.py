"""The end of a connection that this side closes: in order while there is time, then anyhow.

Closing has one deadline for all it does: what is owed both ways is waited for, then EOF is sent and the peer's is
waited for, then the threads are stopped and the stream is let go of. An interruption ends the waiting only.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from threading import get_ident

from packetwire.core.engine import END_GRACE, NOT_DONE, ConnectionEngine, limit_passed
from packetwire.errors import ConnectionEnded, ended_by
from packetwire.hosts.threads.answering import Answering, logger
from packetwire.hosts.threads.clock import Clock
from packetwire.hosts.threads.delivery import Delivery
from packetwire.hosts.threads.parking import Parking
from packetwire.hosts.threads.reading import Reading
from packetwire.hosts.threads.role import CLOCK
from packetwire.hosts.threads.roles import Bell
from packetwire.hosts.threads.workers import Workers
from packetwire.hosts.threads.writing import Writing
from packetwire.streams.bytestream import ByteStream
from packetwire.streams.finalizing import leave_to_thread

MAX_TEAR_DOWN = 10.0
"""Seconds that an interrupted close waits for what it has opened to be let go of."""


class Closing:
    """Closes one connection; `closed` is called when nothing is left of it."""

    def __init__(
        self,
        engine: ConnectionEngine,
        stream: ByteStream,
        name: str,
        *,
        parking: Parking,
        writing: Writing,
        clock: Clock,
        answering: Answering,
        workers: Workers,
        delivery: Delivery,
        reading: Reading,
        bell: Bell,
        closed: Callable[[], object],
    ) -> None:
        self._engine = engine
        self._stream = stream
        self._name = name
        self._parking = parking
        self._writing = writing
        self._clock = clock
        self._answering = answering
        self._workers = workers
        self._delivery = delivery
        self._reading = reading
        self._bell = bell
        self._closed = closed
        self._is_left: list[None] = [None]  # empty when nothing is left to let go of
        self._turn: list[None] = [None]  # popped by whoever does that
        self._done = Bell()
        self._trailing = b""
        self._failure: Exception | None = None

    def release(self, cause: ConnectionEnded) -> bool:
        """As a finalizer: have a thread let go of everything."""
        try:
            leave_to_thread(partial(self._let_go, cause), f"{self._name}-closer")
        except RuntimeError:  # there are no more: a worker does it, when it ends
            self._workers.stopping = True
            self._parking.wake()
        return True

    def abort(self, cause: ConnectionEnded, told: str | None = None) -> None:
        """End the connection now, for that reason; the peer is told as far as that goes without waiting.

        `told` is the reason as it reads there, if that is another text.
        """
        self._engine.break_off(str(cause) if told is None else told)
        self._writing.flush()
        self._delivery.fail(cause)

    def _let_go(self, cause: ConnectionEnded) -> None:
        self._engine.break_off(str(cause))
        self._send_eof()
        self._delivery.fail(cause)
        self.finish()

    def runs_in(self, thread_ident: int) -> bool:
        """True if that thread runs a handler of this connection, reads it or writes it."""
        return thread_ident in self._workers.busy or thread_ident in (
            self._reading.role.holder,
            self._writing.role.holder,
            self._reading.inline.turn.holder,
        )

    def close(self, timeout: float) -> bytes:
        """End the connection in order within `timeout` seconds, then anyhow; return the trailing bytes."""
        if self.runs_in(get_ident()):
            # a handler cannot wait for its own end
            thread = threading.Thread(target=self.close, args=(timeout,), name=f"{self._name}-closer", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                self._close_without_thread(error)
            return b""
        try:
            self._end_in_order(timeout)
            closers = self._have_torn_down()
            self._done.wait_for(lambda: not self._is_left)
            for closer in closers:
                closer.join(END_GRACE)  # it has nothing left to do
        except BaseException:
            self.give_up()
            raise
        if self._failure is not None:
            raise self._failure
        return self._trailing

    def give_up(self) -> None:
        """An interruption ends the waiting for the peer, but leaves nothing behind."""
        self._stream.hurry()
        self._have_torn_down()
        self._done.wait_for(lambda: not self._is_left, time.monotonic() + MAX_TEAR_DOWN)

    def _have_torn_down(self) -> list[threading.Thread]:
        """Have a thread do it, as nothing interrupts that; here, if none can be started."""
        if self._is_left:
            try:
                return leave_to_thread(self.finish, f"{self._name}-closer")
            except RuntimeError:
                self.finish()
        return []

    def _close_without_thread(self, error: RuntimeError) -> None:
        """None can be started to close it beside this handler: end it, and leave the rest to a worker that ends."""
        self._engine.abandon(NOT_DONE.decode())
        self._engine.end()
        self._writing.flush()
        self._delivery.fail(
            ended_by(error, f"{self._name}: closed by a handler, and no thread can be started for it: {error}")
        )
        self._workers.stop()
        self._parking.wake()

    def _end_in_order(self, timeout: float) -> None:
        engine = self._engine
        deadline = time.monotonic() + timeout
        self._engine.end_requests()
        self._writing.flush()
        if not self._reading.role:
            # in a signal handler that came where its thread had given up reading, and nobody else could begin yet
            self._reading.reader.arm()
        settled = self._await(lambda: not engine.outstanding and (not engine.owed or self._dead), deadline)
        if not settled:
            logger.warning(
                "%s: closed after %.1f s with %d requests unanswered by the peer and %d by us",
                self._name,
                timeout,
                engine.outstanding,
                engine.owed,
            )
            engine.tell_why(limit_passed(timeout))
            engine.abandon(NOT_DONE.decode())
        self._send_eof()
        self._await(
            lambda: self._dead or not (engine.ended is None or engine.unsent_octets or engine.unsent), deadline
        )

    def _send_eof(self) -> None:
        """Send EOF, as soon as nothing is owed; without waiting for room."""
        self._engine.end()
        self._writing.flush()
        # whoever is writing at this moment does not wait, but takes the EOF along only if it is not too late
        self._await(lambda: not self._writing.by_a_thread, time.monotonic() + END_GRACE)
        self._writing.flush()

    @property
    def _dead(self) -> bool:
        return self._engine.send_failure is not None

    def _await(self, condition: Callable[[], bool], deadline: float | None) -> bool:
        """Wait until `condition`; false at the deadline."""
        return condition() or self._bell.wait_for(condition, deadline)

    def _tear_down(self) -> bytes:
        """Let go of everything; return the bytes that came behind the peer's EOF."""
        self._answering.sum_up()
        try:
            self._stop_threads()
            return self._stream.give_back(self._engine.trailing_octets)
        finally:
            self._stream.end_write()
            self._stream.close()
            self._engine.let_go()
            self._closed()

    def _stop_threads(self) -> None:
        self._delivery.fail(ConnectionEnded(f"{self._name}: this side closed the connection"))
        self._delivery.catch_up()
        self._workers.stop()
        self._parking.wake()
        self._clock.stop()
        # whoever is reading, writing or starting a thread at this moment is about to see that it has ended
        self._await(self._is_quiet, time.monotonic() + END_GRACE)
        self._clock.join(END_GRACE)
        self._writing.close()
        self._reading.role.close()
        self._workers.join(END_GRACE)
        self._parking.close()
        self._reading.close()
        self._clock.close()

    def _is_quiet(self) -> bool:
        writer = self._writing.role.holder
        is_starting = self._workers.starting or self._clock.is_starting
        return not self._reading.role and writer in (0, CLOCK) and not is_starting

    def finish(self) -> None:
        """Let go of everything, unless another thread does."""
        try:
            self._turn.pop()
        except IndexError:
            return
        try:
            self._trailing = self._tear_down()
        except Exception as error:
            self._failure = error
        finally:
            self._is_left.clear()
            self._done.ring()

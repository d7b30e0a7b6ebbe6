"""One open connection, driven by threads: an engine, a stream, and who reads, writes and runs handlers.

Strategy. Two roles exist once each, and whoever has one gives it up again: the *reader* takes bytes from the
stream, feeds the engine and delivers what comes out (`reading`); the *writer* takes what the engine wants sent and
tries to write it (`writing`). Callers take both for themselves (`calls`). Workers read, and run handlers
(`workers`). The clock does what was postponed, waits for room, and passes the reader's role on when a handler takes
long (`clock`).

No lock is held anywhere here. The engine stands the calls of many threads, roles are taken in a single step, and
whoever waits has a lock of his own (`roles`). So a signal handler or a finalizer that comes at any instruction can
use the connection, and an exception at any instruction leaves it usable, or ended with its cause (`recover`).
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Container
from threading import get_ident

from packetwire.core.channels import Channels, RequestHandler
from packetwire.core.engine import ConnectionEngine
from packetwire.core.events import Event, RequestReceived, StreamEnded
from packetwire.core.packetcodec import Fields
from packetwire.core.requests import Outcome
from packetwire.errors import ConnectionEnded, LocalProtocolError, ended_by
from packetwire.hosts.threads.answering import Answering, logger
from packetwire.hosts.threads.calls import Calls
from packetwire.hosts.threads.clock import Clock
from packetwire.hosts.threads.closing import Closing
from packetwire.hosts.threads.delivery import Delivery
from packetwire.hosts.threads.loops import Loops
from packetwire.hosts.threads.parking import open_parking
from packetwire.hosts.threads.reading import Reading
from packetwire.hosts.threads.recovery import Recovery
from packetwire.hosts.threads.roles import CLOCK, Bell
from packetwire.hosts.threads.slots import without_slot
from packetwire.hosts.threads.waiter import Waiter
from packetwire.hosts.threads.workers import Workers
from packetwire.hosts.threads.writing import Writing
from packetwire.streams import forking
from packetwire.streams.bytestream import ByteStream


class Driver:
    """Drives `engine` over `stream` from `start` to `close`."""

    def __init__(
        self,
        engine: ConnectionEngine,
        stream: ByteStream,
        *,
        name: str,
        handler: RequestHandler | None,
        handlers: int | str,
        inline: Container[int] | None,
        on_event: Callable[[Event], object] | None,
        trace_log: Callable[..., object] | None,
        error_detail: str,
        max_unsent: int,
        spin: float,
        channels: Channels,
    ) -> None:
        self.name = name
        self.engine = engine
        self.stream = stream
        self._forked = False
        self._bell = Bell()
        jobs: deque[Fields] = deque()
        slow_jobs: deque[Fields] = deque()
        inline_jobs: deque[Fields] = deque()
        self._parking = open_parking(stream.read_fd)
        self._writing = Writing(
            engine,
            stream,
            waiting=self._bell,
            held=(jobs, slow_jobs, inline_jobs),
            wait_for_room=self._wait_for_room_to_write,
            written=self._has_written,
            failed=self._write_failed,
            interrupted=self._write_interrupted,
        )
        self._clock = Clock(
            name, stream, self._writing, self._look, self._parking.wake, self._bell.ring, self._has_no_clock
        )
        self._answering = Answering(
            engine,
            name,
            handler=handler,
            error_detail=error_detail,
            trace_log=trace_log,
            answered=self._has_answered,
            channels=channels,
        )
        self._workers = Workers(
            engine,
            name,
            jobs=jobs,
            slow_jobs=slow_jobs,
            limit=handlers if isinstance(handlers, int) else 1,
            max_unsent=max_unsent,
            run_handler=self._answering.run_handler,
            writing=self._writing,
            clock=self._clock,
            parking=self._parking,
            bell=self._bell,
            work=self._work,
            failed=self._has_no_thread,
            died=self._has_lost_worker,
        )
        self._delivery = Delivery(
            engine,
            name,
            answering=self._answering,
            bell=self._bell,
            jobs=jobs,
            inline_jobs=inline_jobs,
            inline=inline,
            all_inline=handlers == "inline",
            on_event=on_event,
            trace_log=trace_log,
            receivers=channels.receivers,
            interrupt=self._interrupt_caller,
        )
        self._reading = Reading(
            engine,
            stream,
            name,
            parking=self._parking,
            writing=self._writing,
            workers=self._workers,
            answering=self._answering,
            delivery=self._delivery,
            bell=self._bell,
            inline_jobs=inline_jobs,
            spin=spin,
        )
        self._calls = Calls(
            engine,
            name,
            parking=self._parking,
            delivery=self._delivery,
            reading=self._reading,
            writing=self._writing,
            workers=self._workers,
            clock=self._clock,
            bell=self._bell,
            max_unsent=max_unsent,
            trace_log=trace_log,
        )
        self.call, self.request = self._calls.call, self._calls.request
        self.wait_for, self.forget = self._calls.wait_for, self._calls.forget
        self.flush = self._writing.flush
        self.interrupt_lead = self._reading.interrupt
        self._closing = Closing(
            engine,
            stream,
            name,
            parking=self._parking,
            writing=self._writing,
            clock=self._clock,
            answering=self._answering,
            workers=self._workers,
            delivery=self._delivery,
            reading=self._reading,
            bell=self._bell,
            closed=self._is_closed,
        )
        self._loops = Loops(
            engine,
            parking=self._parking,
            writing=self._writing,
            clock=self._clock,
            workers=self._workers,
            reading=self._reading,
            closing=self._closing,
        )
        parts = (self, self._calls, self._reading, self._delivery, self._writing, self._workers, self._closing)
        self.recover = Recovery(
            parts, reading=self._reading, writing=self._writing, clock=self._clock, bell=self._bell
        ).recover
        self.abort, self.runs_in = self._closing.abort, self._closing.runs_in
        self.give_up = self._closing.give_up
        self.when_all_received = self._delivery.when_all_received

    # life

    def start(self) -> None:
        """Begin to read."""
        forking.register(self)
        if self.engine.budget is not None:
            self.engine.budget.add(self)
        self.stream.start(self._expect_end)
        leading, self.stream.leading_octets = self.stream.leading_octets, b""
        if leading:
            self._take_in_at_start(leading)
        self._reading.arm()
        self._workers.add()

    def _take_in_at_start(self, leading: bytes) -> None:
        """What was read before comes first; the handlers of requests in it are left to the workers."""
        me = get_ident()
        self._reading.role.setdefault(0, me)
        try:
            self._reading.take_in(leading)
            if self.engine.deadline is not None and self.engine.ended is None:
                self._reading.read()  # the stream is at its end behind these, which no poll may see
        finally:
            self._reading.role.give_up(me)

    @property
    def last_packet(self) -> float | None:
        """When the last packet was complete."""
        return self._reading.last_packet

    @property
    def receiving(self) -> bool:
        """Whether anything more can be received."""
        return self.engine.ended is None

    @property
    def is_settled(self) -> bool:
        """Whether neither end owes a response to the other, and all is written."""
        return self.engine.is_settled

    @property
    def owed_bytes(self) -> int:
        """Bytes that are held for the peer."""
        return self.engine.owed_bytes

    @property
    def waits_for_peer(self) -> bool:
        """Whether only the peer can change that."""
        return self.engine.waits_for_peer

    @property
    def bytes_written(self) -> int:
        """All that was ever written to the peer."""
        return self.stream.bytes_written

    def end_requests(self) -> None:
        """Send ERQ."""
        self.engine.end_requests()
        self.flush()

    def end(self) -> None:
        """Send EOF behind the replies that are owed."""
        self.engine.end()
        self.flush()

    def wind_down(self) -> None:
        """Begin no more requests of the peer; send EOF when those that were begun are answered."""
        self.engine.wind_down()
        self.flush()

    def resume(self) -> None:
        """Handlers that were held may be started now. From any thread."""
        if self._workers.jobs or self._workers.slow_jobs or self._reading.inline_jobs:
            self._workers.call_thread()

    def release(self, cause: ConnectionEnded) -> bool:
        """As a finalizer: have a thread let go of everything."""
        return not self._forked and self._closing.release(cause)

    def close(self, timeout: float) -> bytes:
        """End the connection in order within `timeout` seconds, then anyhow; return the trailing octets."""
        return b"" if self._forked else self._closing.close(timeout)

    def _is_closed(self) -> None:
        if self.engine.budget is not None:
            self.engine.budget.discard(self)

    def join_receive(self, timeout: float | None = None) -> bool:
        """Wait until nothing more is received."""
        me = get_ident()
        self._check_can_wait(me)
        deadline = None if timeout is None else time.monotonic() + timeout
        # not by the bell: this waits long, and must not wake up for each request that is served
        with without_slot(me):
            return self._delivery.all_received.wait_for(lambda: self.engine.ended is not None, deadline)

    def _check_can_wait(self, me: int) -> None:
        role, turn = self._reading.role, self._reading.inline_turn
        if turn.get(0) == me or (role.get(0) == me and me not in self._workers.on_watch):
            raise LocalProtocolError(
                f"{self.name}: the thread that reads this connection would wait for itself (in an inline handler, "
                "an on_event, or a signal handler or finalizer that interrupted it)"
            )

    def after_fork(self) -> None:
        """In the child of a fork: the connection belongs to the parent."""
        self._forked = True
        self._bell.locks.clear()
        self._workers.after_fork()
        self._clock.after_fork()
        self._writing.close()
        self._reading.after_fork()
        cause = ConnectionEnded(f"{self.name} was opened in process {os.getppid()}; this is a fork")
        for event in self.engine.fail(cause):
            if isinstance(event, StreamEnded):
                for waiter in event.lost:
                    Waiter.fail(waiter, cause)  # not by its own method, which calls the user's

    # what ends it

    def _expect_end(self, cause: ConnectionEnded) -> None:
        """The stream should end now; if it does not within a second, it ends for the `cause` known last."""
        self.engine.expect_end(cause, time.monotonic())
        self._parking.wake()

    def _write_failed(self, error: Exception) -> None:
        """Nothing can be sent. What the peer sent before may say why, so go on reading for a moment."""
        self.engine.send_failed(error)
        if self.engine.deadline is None:
            reason = ended_by(error, f"{self.name}: writing failed: {error}")
            self.engine.expect_end(reason, time.monotonic())
        self._parking.wake()
        self._bell.ring()

    def _write_interrupted(self, error: BaseException) -> None:
        self._delivery.fail(ended_by(error, f"{self.name}: interrupted while writing: {error!r}"))

    def _has_no_thread(self, error: RuntimeError) -> None:
        self._delivery.fail(ended_by(error, f"{self.name}: no thread can be started to read: {error}"))

    def _has_lost_worker(self, error: BaseException) -> None:
        logger.error("%s: a worker ended by %r", self.name, error, exc_info=error)
        self._delivery.fail(ended_by(error, f"{self.name}: interrupted in a worker: {error!r}"))

    def _has_no_clock(self, error: RuntimeError) -> None:
        logger.error("%s: %s", self.name, error)
        if self._writing.leftover:
            self._writing.leftover = ()
            self._writing.role.give_up(CLOCK)
            self._write_failed(error)

    # what the parts call, of those that were made after them

    def _look(self) -> bool:
        return self._loops.look()

    def _work(self, me: int) -> bool:
        return self._loops.work(me)

    def _interrupt_caller(self) -> None:
        self._reading.interrupt()

    def _wait_for_room_to_write(self) -> None:
        self._clock.wake()

    def _has_written(self) -> None:
        """There is room again: for whoever waits to send, and for handlers whose replies had none."""
        if self._workers.jobs or self._workers.slow_jobs or self._reading.inline_jobs:
            self._workers.call_thread()
        if self._bell.locks:
            self._bell.ring()

    # answering

    def take(self, event: RequestReceived) -> None:
        """In on_event: the request is answered by `answer`, the handler is not called for it."""
        self._delivery.taken.add((event.channel, event.tag))

    def answer(self, event: RequestReceived, outcome: Outcome) -> None:
        """The result of a request that was taken is there."""
        self._answering.answer(event, outcome)

    def _has_answered(self) -> None:
        if self._reading.role.get(0) != get_ident():  # the reader writes behind all events of its chunk
            self.flush()

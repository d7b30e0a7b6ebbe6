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
from collections import deque
from collections.abc import Callable, Container
from threading import get_ident
from typing import TYPE_CHECKING

from packetwire.core.channels import Channels, RequestHandler
from packetwire.core.engine import ConnectionEngine
from packetwire.core.events import Event, RequestReceived, StreamEnded
from packetwire.core.keepalive import Keepalive
from packetwire.core.owed import Interrupt
from packetwire.core.packetcodec import Fields, Key
from packetwire.core.requests import Responder
from packetwire.errors import ConnectionEnded
from packetwire.hosts.threads.account import Account
from packetwire.hosts.threads.answering import Answering
from packetwire.hosts.threads.calls import Calls
from packetwire.hosts.threads.clock import Clock
from packetwire.hosts.threads.closing import Closing
from packetwire.hosts.threads.control import ControlRequests
from packetwire.hosts.threads.delivery import Delivery
from packetwire.hosts.threads.failures import Failures
from packetwire.hosts.threads.inline import InlineHandlers
from packetwire.hosts.threads.keepalive import PeerCare
from packetwire.hosts.threads.loops import Loops
from packetwire.hosts.threads.nesting import as_ours, as_users
from packetwire.hosts.threads.parking import open_parking
from packetwire.hosts.threads.readerrole import ReaderRole
from packetwire.hosts.threads.reading import Reading
from packetwire.hosts.threads.recovery import Recovery
from packetwire.hosts.threads.roles import Bell
from packetwire.hosts.threads.slots import handling
from packetwire.hosts.threads.waiter import Waiter
from packetwire.hosts.threads.waiting import Waiting
from packetwire.hosts.threads.workers import Workers
from packetwire.hosts.threads.writing import Writing
from packetwire.streams import forking
from packetwire.streams.bytestream import ByteStream

if TYPE_CHECKING:
    from packetwire.hooks import OpenSpans
    from packetwire.hosts.threads.bodies import ServedBodies


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
        keepalive: Keepalive | None = None,
        open_spans: OpenSpans | None = None,
        body_timeout: float | None = None,
    ) -> None:
        self.name = name
        self.engine = engine
        engine.deliver = Waiter.set_response
        self.stream = stream
        self._forked = False
        self._open_spans = open_spans
        self._bell = bell = Bell()
        jobs: deque[Fields] = deque()
        slow_jobs: deque[Fields] = deque()
        inline_jobs: deque[Fields] = deque()
        held: list[None] = []  # not empty once a handler was not started, as too much was unsent
        self._parking = parking = open_parking(stream.read_fd)
        self._failures = failures = Failures(engine, name, parking=parking, bell=bell)
        self._writing = writing = Writing(
            engine, stream, waiting=bell, held=held,
            wait_for_room=self._wait_for_room_to_write, written=self._has_written,
            failed=failures.writing_failed, interrupted=failures.writing_interrupted
        )  # fmt: skip
        self._clock = clock = Clock(
            name, stream, writing, self._look, self._want_clock, bell.ring, failures.no_clock
        )
        self._answering = answering = Answering(
            engine, name, handler=handler, error_detail=error_detail, trace_log=trace_log,
            answered=self._has_answered, channels=channels
        )  # fmt: skip
        answering.bodies, self._body_timeout = self._served_bodies, body_timeout
        self._workers = workers = Workers(
            engine, name, jobs=jobs, slow_jobs=slow_jobs, limit=handlers if isinstance(handlers, int) else 1,
            max_unsent=max_unsent, held=held, answering=answering, writing=writing, clock=clock,
            parking=parking, bell=bell, failures=failures
        )  # fmt: skip
        self._inline = inline_handlers = InlineHandlers(
            engine, inline_jobs, workers=workers, writing=writing, clock=clock, answering=answering
        )
        self._delivery = delivery = Delivery(
            engine, name, answering=answering, bell=bell, jobs=jobs, inline_jobs=inline_jobs, inline=inline,
            all_inline=handlers == "inline", on_event=on_event, trace_log=trace_log,
            receivers=channels.receivers, unhurried=channels.unhurried, interrupt=self._interrupt_caller,
            cancel=self._cancel, run_job=self._run_own_job
        )  # fmt: skip
        self._reader = reader = ReaderRole(
            engine, parking=parking, clock=clock, delivery=delivery, bell=bell, lost=failures.descriptor_lost,
            is_eager=engine.accepts_requests or bool(channels) or delivery.is_watched
        )  # fmt: skip
        self._reading = reading = Reading(
            engine, stream, name, reader=reader, writing=writing, workers=workers, delivery=delivery,
            bell=bell, inline=inline_handlers, failures=failures, spin=spin
        )  # fmt: skip
        failures.connect(delivery=delivery, reader=reader, writing=writing)
        self.recover = Recovery(reader=reader, writing=writing, clock=clock, bell=bell).recover
        self._queues = jobs, slow_jobs, inline_jobs
        waiting = Waiting(
            engine, name, delivery=delivery, reading=reading, writing=writing, workers=workers, bell=bell,
            max_unsent=max_unsent
        )  # fmt: skip
        self._calls = calls = Calls(
            engine, name, delivery=delivery, reading=reading, writing=writing, clock=clock, bell=bell,
            waiting=waiting, max_unsent=max_unsent, trace_log=trace_log, recover=self.recover
        )  # fmt: skip
        self.control = ControlRequests(
            engine, name, writing=writing, reader=reader, waiting=waiting, bell=bell
        )  # fmt: skip
        """Asks the peer what is no request of a user."""
        self._closing = closing = Closing(
            engine, stream, name, parking=parking, writing=writing, clock=clock, answering=answering,
            workers=workers, delivery=delivery, reading=reading, bell=bell, closed=self._is_closed
        )  # fmt: skip
        self._care = care = PeerCare(
            engine, stream, name, keepalive, round_trips=self.control.round_trips, flush=writing.flush,
            fail=closing.abort
        )  # fmt: skip
        delivery.agreed = care.begin
        self._account = Account(name, engine, stream, workers, inline_handlers, held, closing.abort)
        self._loops = Loops(
            engine, parking=parking, writing=writing, clock=clock, workers=workers, reading=reading,
            inline=inline_handlers, delivery=delivery, closing=closing
        )  # fmt: skip
        workers.work, self.run_job = self._loops.work, self._loops.run_job
        self.call, self.submit, self.forget = calls.call, calls.submit, calls.forget
        self.tell_cancelled = calls.tell_cancelled
        self.wait_for, self.join_receive, self.flush = waiting.wait_for, waiting.join_receive, writing.flush
        self.interrupt_lead, self.be_eager = reading.interrupt, reader.be_eager
        self.when_all_received, self.answer = delivery.when_all_received, answering.answer
        self.abort, self.runs_in, self.give_up = closing.abort, closing.runs_in, closing.give_up

    # life

    def start(self) -> None:
        """Begin to read."""
        forking.register(self)
        self._account.open()
        self.stream.start(self._failures.expect_end)
        leading, self.stream.leading_octets = self.stream.leading_octets, b""
        if leading:
            as_ours(self._take_in_at_start, leading)
        self._reader.arm()
        self._workers.start()

    def _take_in_at_start(self, leading: bytes) -> None:
        """Take in what was read before; the handlers of requests in it are left to the workers."""
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
        """The time at which the last packet was complete."""
        return self._reading.last_packet

    @property
    def bytes_written(self) -> int:
        """All that was ever written to the peer."""
        return self.stream.bytes_written

    @property
    def is_settled(self) -> bool:
        """True while neither end owes a response to the other, and all is written."""
        return self.engine.is_settled

    def end_requests(self) -> None:
        """Send ERQ."""
        self.engine.end_requests()
        self.flush()

    def end(self) -> None:
        """Send EOF behind the replies that are owed."""
        self.engine.end()
        self.flush()

    def wind_down(self, *, patient: bool = False) -> None:
        """Begin no more requests of the peer; send EOF when those that were begun are answered."""
        self.engine.wind_down(patient=patient)
        self.flush()

    def release(self, cause: ConnectionEnded) -> bool:
        """As a finalizer: have a thread let go of everything."""
        return not self._forked and self._closing.release(cause)

    def close(self, timeout: float) -> bytes:
        """End the connection in order within `timeout` seconds, then anyhow; return the trailing bytes."""
        return b"" if self._forked else self._closing.close(timeout)

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

    # what the parts call, of those that were made after them

    def _look(self) -> bool:
        return self._loops.look()

    def _want_clock(self) -> None:
        """Have a thread of ours start the clock: one that is parked, or else one that reads in its handler."""
        self._workers.call_thread()
        if not self._workers.parked:
            self._reading.interrupt()

    def _is_closed(self) -> None:
        self._care.end()
        self._account.close()
        if self._open_spans is not None:
            as_users(self._open_spans.end)

    def _interrupt_caller(self) -> None:
        self._reading.interrupt()

    def _cancel(self, key: Key) -> None:
        self._answering.cancel(key, self._running, self._queues)

    def _running(self, key: Key) -> Interrupt | None:
        """The function that interrupts the handler of this request, if a thread runs it."""
        for turn in [*self._workers.busy.values(), handling.get(self._inline.turn.holder)]:
            if turn is not None and turn.request is not None and turn.request[0] == key:
                return turn.give_up
        return None

    def _run_own_job(self, job: Callable[[], object]) -> None:
        self._loops.run_job(job, 0, 0)

    def _wait_for_room_to_write(self) -> None:
        self._clock.wake()

    def _has_written(self) -> None:
        """There is room again: for whoever waits to send, and for handlers whose replies had none."""
        self._account.resume()
        if self._bell.locks:
            self._bell.ring()

    # answering

    def _served_bodies(self) -> ServedBodies:
        from packetwire.hosts.threads.bodies import ServedBodies  # only who has bodies needs it

        return ServedBodies(self, self._body_timeout)

    def take(self, event: RequestReceived, responder: Responder) -> None:
        """In on_event: the request is answered by `answer`, the handler is not called for it."""
        self._answering.owed.deferred[(event.channel, event.tag) if event.channel else event.tag] = responder
        self._delivery.taken.add((event.channel, event.tag))

    def _has_answered(self) -> None:
        if self._reading.role.get(0) != get_ident():  # the reader writes behind all events of its chunk
            self.flush()

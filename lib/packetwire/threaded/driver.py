"""One open connection, driven by threads: an engine, a stream, and who reads, writes and runs handlers.

Strategy. Two roles exist once each, and are taken and given up under one short lock:

- *the reader* takes octets from the stream, feeds the engine and delivers what comes out. A thread that
  waits for an answer reads for itself if nobody else does (no thread switch in the sequential case);
  otherwise a worker reads that was parked until the stream became readable.
- *the writer* takes what the engine wants sent and tries to write it, without blocking. What does not fit
  goes to the one thread that polls for room.

Workers read, and run handlers; who of them runs which handler when stands in `workers`.

The engine is only touched under the lock. Octets are read and written, and handlers, callbacks and
waiters called, without it. An interruption (Ctrl-C) between the taking of octets and their delivery ends
the connection, because what follows could not be understood.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable, Container
from functools import partial
from threading import get_ident

from packetwire.core.channels import Channels, RequestHandler
from packetwire.core.engine import END_GRACE, NOT_DONE, ConnectionEngine
from packetwire.core.events import Event, RequestReceived, ResponseReceived, StreamEnded, event_text
from packetwire.core.requests import Outcome
from packetwire.core.varint import BytesLike
from packetwire.errors import (
    ConnectionEnded,
    LocalProtocolError,
    RequestTimeout,
    ended_by,
)
from packetwire.streams import forking
from packetwire.streams.bytestream import ByteStream
from packetwire.streams.fds import READ_SIZE
from packetwire.streams.finalizing import leave_to_thread
from packetwire.streams.wakeup import Wakeup
from packetwire.threaded.answering import Answering, logger
from packetwire.threaded.parking import Parked, open_parking
from packetwire.threaded.spinning import Spin
from packetwire.threaded.waiter import Waiter
from packetwire.threaded.workers import Workers
from packetwire.threaded.writing import NOBODY, Writing

POSTPONE_ABOVE = 2
"""Requests without an answer past which writing is postponed."""
POSTPONE_OCTETS = 640
"""Octets that are written without postponing further: enough to share a system call, and few enough for
the peer to work on them meanwhile."""
WATCH = 0.001
"""Seconds between two looks."""
WATCH_PATIENCE = 4

_CLOSED = -2


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
        self._all_inline = handlers == "inline"
        self._inline = inline
        self._on_event = on_event
        self._trace = trace_log
        self._observed = trace_log is not None or on_event is not None
        self._max_unsent = max_unsent

        self._lock = threading.Lock()
        self._change = threading.Condition(self._lock)
        self._watchers = 0  # threads that wait on _change
        self._received_all = threading.Event()
        self._reader = NOBODY
        self._forked = False

        self._read_fd = stream.read_fd
        self._read_failure: Exception | None = None
        self._parking = open_parking(self._read_fd)
        self._lead_wakeup = Wakeup()
        self._lead_poll = select.poll()
        self._lead_poll.register(self._read_fd, select.POLLIN)
        self._lead_poll.register(self._lead_wakeup.fileno(), select.POLLIN)
        self._lead_spin = Spin(self._lead_poll.poll, spin)
        self._idle_spin = Spin(self._lead_poll.poll, spin)
        self._handled_inline = 0  # requests in what was read last

        self._taken: set[tuple[int, int]] = set()
        self._helper_called = False
        self._on_watch = False
        self._unarmed = False
        self._close_is_left = False

        self._writing = Writing(
            engine,
            stream,
            self._lock,
            name,
            written=self._has_written,
            failed=self._write_failed,
            interrupted=self._write_interrupted,
        )
        self._answering = Answering(
            engine,
            self._lock,
            name,
            handler=handler,
            error_detail=error_detail,
            trace_log=trace_log,
            answered=self._has_answered,
            channels=channels,
        )
        self._attached = self._answering.attached
        self._receivers = channels.receivers
        self._run_handler = self._answering.run_handler
        self._workers = Workers(
            engine,
            self._lock,
            name,
            limit=handlers if isinstance(handlers, int) else 1,
            max_unsent=max_unsent,
            work=self._work,
            run_handler=self._run_handler,
            flush=self._flush_after_handler,
            call_helper=self._call_helper,
            wake_helper=self._wake_helper,
            wake=self._parking.wake,
            started=self._changed,
            failed=self._has_no_thread,
        )
        self._jobs = self._workers.jobs
        self._busy = self._workers.busy

        self._doom: tuple[float, ConnectionEnded] | None = None

        self.last_packet: float | None = None
        """When the last packet was complete."""
        self._decoded = 0  # octets of the peer's packets, at that time

    # life

    def start(self) -> None:
        """Begin to read."""
        forking.register(self)
        if self.engine.budget is not None:
            self.engine.budget.add(self)
        self.stream.start(self._expect_end)
        leading, self.stream.leading_octets = self.stream.leading_octets, b""
        self._reader = get_ident()
        try:
            if leading:
                self._take_in(leading)
            if self._doom is not None and self.engine.ended is None:
                self._read()  # the stream is at its end behind these, which no poll may see
        finally:
            self._leave_reading()
        self._workers.add()

    @property
    def receiving(self) -> bool:
        """Whether anything more can be received."""
        return self.engine.ended is None

    def end_requests(self) -> None:
        """Send ERQ."""
        with self._lock:
            self.engine.end_requests()
        self.flush()

    def end(self) -> None:
        """Send EOF behind the replies that are owed."""
        with self._lock:
            self.engine.end()
        self.flush()

    def wind_down(self) -> None:
        """Begin no more requests of the peer; send EOF when those that were begun are answered."""
        with self._lock:
            self.engine.wind_down()
        self.flush()

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

    def resume(self) -> None:
        """Handlers that were held may be started now. From any thread."""
        if self._jobs:
            self._call_worker()

    def abort(self, cause: ConnectionEnded) -> None:
        """End the connection now, for that reason; the peer is told as far as that goes without waiting."""
        self.end()
        self._fail(cause)

    def release(self, cause: ConnectionEnded) -> bool:
        """As a finalizer: have a thread let go of everything."""
        if self._forked:
            return False
        try:
            leave_to_thread(partial(self._let_go, cause), f"{self.name}-closer")
        except RuntimeError:  # there are no more: a worker does it, when it ends
            self._close_is_left = self._workers.stopping = True
            self._parking.wake()
        return True

    def _let_go(self, cause: ConnectionEnded) -> None:
        self.abort(cause)
        self._tear_down()

    def join_receive(self, timeout: float | None = None) -> bool:
        """Wait until nothing more is received."""
        me = get_ident()
        if self._reader == me:
            raise self._would_wait_for_itself()
        with self._lock:
            nested = self._workers.give_up_slot(me)
        try:
            # not by _change: this waits long, and must not wake up for each request that is served
            return self._received_all.wait(timeout)
        finally:
            with self._lock:
                self._workers.take_slot_back(nested)

    def close(self, timeout: float) -> bytes:
        """End the connection in order within `timeout` seconds, then anyhow; return the trailing octets."""
        if self._forked:
            return b""
        if self.runs_in(get_ident()):
            # a handler cannot wait for its own end
            closer = threading.Thread(target=self.close, args=(timeout,), name=f"{self.name}-closer", daemon=True)
            try:
                closer.start()
            except RuntimeError as error:
                self._close_without_thread(error)
            return b""
        try:
            self._end_in_order(timeout)
        except BaseException:
            # an interruption ends the waiting, but leaves nothing behind
            self.stream.hurry()
            self._tear_down()
            raise
        return self._tear_down()

    def _close_without_thread(self, error: RuntimeError) -> None:
        """None can be started to close it beside this handler: end it, and leave the rest to a worker that ends."""
        with self._lock:
            self.engine.abandon(NOT_DONE.decode())
        self.end()
        self._fail(
            ended_by(error, f"{self.name}: closed by a handler, and no thread can be started for it: {error}")
        )
        with self._lock:
            self._close_is_left = True
            self._workers.stop()
        self._parking.wake()

    def _finish_closing(self) -> None:
        with self._lock:
            is_left, self._close_is_left = self._close_is_left, False
        if is_left:
            self._tear_down()

    def _end_in_order(self, timeout: float) -> None:
        engine = self.engine
        deadline = time.monotonic() + timeout
        self.end_requests()
        settled = self._await(lambda: not engine.outstanding and (not engine.owed or self._dead), deadline)
        if not settled:
            with self._lock:
                logger.warning(
                    "%s: closed after %.1f s with %d requests unanswered by the peer and %d by us",
                    self.name,
                    timeout,
                    engine.outstanding,
                    engine.owed,
                )
                engine.abandon(NOT_DONE.decode())
        self.end()
        # whoever is writing at this moment does not wait, but takes the EOF along only if it is not too late
        self._await(lambda: not self._writing.by_a_thread, time.monotonic() + END_GRACE)
        self.flush()
        self._await(lambda: self._dead or not (self.receiving or engine.unsent_octets), deadline)

    @property
    def _dead(self) -> bool:
        return self.engine.send_failure is not None

    def _tear_down(self) -> bytes:
        """Let go of everything; return the octets that came behind the peer's EOF."""
        self._answering.sum_up()
        try:
            self._stop_threads()
            return self.stream.give_back(self.engine.trailing_octets)
        finally:
            self.stream.end_write()
            self.stream.close()
            self.engine.let_go()
            if self.engine.budget is not None:
                self.engine.budget.discard(self)

    def _stop_threads(self) -> None:
        self._fail(ConnectionEnded(f"{self.name}: this side closed the connection"))
        with self._lock:
            self._workers.stop()
        self._parking.wake()
        self._writing.stop()
        # whoever is reading, writing or starting a thread at this moment is about to see that it has ended
        self._await(self._is_quiet, time.monotonic() + END_GRACE)
        with self._lock:
            self._reader = _CLOSED
        self._workers.join(END_GRACE)
        self._parking.close()
        self._lead_wakeup.close()
        self._writing.close()

    def _is_quiet(self) -> bool:
        return self._reader == NOBODY and self._writing.holder == NOBODY and not self._workers.starting

    def after_fork(self) -> None:
        """In the child of a fork: the connection belongs to the parent. Nobody holds the former locks here."""
        self._forked = True
        lock = self._lock = threading.Lock()
        self._change = threading.Condition(lock)
        self._received_all = threading.Event()
        self._received_all.set()
        self._reader = _CLOSED
        self._workers.after_fork(lock)
        self._writing.after_fork(lock)
        self._answering.after_fork(lock)
        cause = ConnectionEnded(f"{self.name} was opened in process {os.getppid()}; this is a fork")
        for event in self.engine.fail(cause):
            if isinstance(event, StreamEnded):
                for waiter in event.lost:
                    Waiter.fail(waiter, cause)  # not by its own method, which calls the user's

    # calls

    def request(
        self,
        rq_type: int,
        flags: int,
        payload: BytesLike,
        channel: int,
        waiter: Waiter,
        deadline: float | None,
        *,
        lead: bool = False,
    ) -> int:
        """Send a request, first waiting for room within the bounds; return its tag.

        While many are without an answer, writing is postponed until this thread waits or a helper comes
        to it, so that they leave together.

        With `lead` this thread becomes the reader, if nobody is: before the request leaves, so that no
        worker wakes up for the response.
        """
        me = get_ident()
        engine = self.engine
        writing = self._writing
        batch: list[bytes] | None = None
        try:
            with self._lock:
                under_way = len(engine.waiters)
                if under_way >= engine.max_outstanding or engine.unsent_octets > self._max_unsent:
                    self._wait_for_room(me, deadline)
                if engine.send_failure is not None:
                    self._wait_for_reason(me)
                tag = engine.request(rq_type, flags, payload, channel=channel, waiter=waiter)
                postponed = (
                    under_way > POSTPONE_ABOVE
                    and not lead
                    and engine.unsent_octets < POSTPONE_OCTETS
                    and self._reader == NOBODY
                )
                if not postponed:
                    batch = writing.take(me)
                if lead and self._reader == NOBODY:
                    self._reader = me
            if postponed:
                self._call_helper()
            elif batch is not None:
                if lead and self._reader == me:
                    self._disarm()
                writing.write(batch)
            elif lead and self._reader == me:
                self._disarm()
        finally:
            if writing.holder == me:
                writing.release(me)
        if self._trace:
            self._trace("==> request %d:%d rq_type=%d %r", channel, tag, rq_type, payload[:32])
        return tag

    def call(
        self,
        rq_type: int,
        flags: int,
        payload: BytesLike,
        channel: int,
        waiter: Waiter,
        deadline: float | None,
    ) -> int:
        """Send a request and wait until `waiter` is done, or the deadline, which ends the request too."""
        me = get_ident()
        if self._reader == me:
            raise self._would_wait_for_itself()
        tag = -1
        try:
            try:
                tag = self.request(rq_type, flags, payload, channel, waiter, deadline, lead=True)
                if self._reader == me and me not in self._busy:
                    self._read_until(waiter, deadline)
            finally:
                if self._reader == me:
                    self._leave_reading()
            if not waiter.done:
                self.wait_for(waiter, deadline)
        finally:
            if not waiter.done and tag >= 0:
                self.forget(channel, tag)
        return tag

    def _wait_for_room(self, me: int, deadline: float | None) -> None:
        """With the lock held: let it go and wait until a request fits, or cannot be made any more."""
        engine = self.engine
        if self._reader == me:
            raise self._would_wait_for_itself()
        nested = self._workers.give_up_slot(me)
        self._wake_helper()
        self._watchers += 1
        try:
            while engine.may_request and (not engine.has_room or engine.unsent_octets > self._max_unsent):
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    raise RequestTimeout(
                        f"{self.name}: no room for one more request in time: {engine.outstanding} of "
                        f"{engine.max_outstanding} unanswered, {engine.unsent_octets} octets unsent"
                    )
                self._change.wait(left)
        finally:
            self._watchers -= 1
            self._workers.take_slot_back(nested)

    def _wait_for_reason(self, me: int) -> None:
        """With the lock held, after a failed write: wait for the stream's end, which says more about it."""
        doom = self._doom
        if doom is None or self._reader == me:
            return
        self._watchers += 1
        try:
            while self.engine.ended is None and (left := doom[0] - time.monotonic()) > 0:
                self._change.wait(left)
        finally:
            self._watchers -= 1

    def wait_for(self, waiter: Waiter, deadline: float | None) -> bool:
        """Return once `waiter` is done, reading meanwhile if nobody else does; false at the deadline."""
        if waiter.done:
            return True
        me = get_ident()
        if self._reader == me:
            raise self._would_wait_for_itself()
        if self.engine.unsent_octets and self._writing.holder == NOBODY:
            self.flush()
        nested = False
        if me in self._busy:
            with self._lock:
                nested = self._workers.give_up_slot(me)
        try:
            while not waiter.done:
                if self._lead(me, waiter, deadline):
                    continue
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    return False
                waiter.wait(left)
            return True
        finally:
            if nested:
                with self._lock:
                    self._workers.take_slot_back(nested)

    def forget(self, channel: int, tag: int) -> bool:
        """Nobody waits for this response any more; false if it came, or is being delivered."""
        with self._lock:
            forgotten = self.engine.forget(channel, tag)
        self._changed()
        return forgotten

    def interrupt_lead(self) -> None:
        """Let the thread that reads for itself look at its waiter again."""
        if self._reader != NOBODY:
            self._lead_wakeup.set()

    def _would_wait_for_itself(self) -> LocalProtocolError:
        return LocalProtocolError(
            f"{self.name}: a blocking call in the thread that reads this connection (an inline handler, "
            "an on_event or a notify callback) would wait for itself"
        )

    # reading for oneself

    def _lead(self, me: int, waiter: Waiter, deadline: float | None) -> bool:
        """Become the reader until `waiter` is done; false if someone else reads, or at the deadline."""
        try:
            with self._lock:
                if self._reader != NOBODY or self.engine.ended is not None:
                    return False
                self._reader = me
            self._disarm()
            return self._read_until(waiter, deadline)
        finally:
            if self._reader == me:
                self._leave_reading()

    def _disarm(self) -> None:
        try:
            self._parking.disarm()
        except (OSError, ValueError) as error:
            self._fail(ended_by(error, f"{self.name}: the stream's descriptor is gone: {error}"))

    def _read_until(self, waiter: Waiter, deadline: float | None) -> bool:
        """As the reader: read until `waiter` is done or nothing more comes; false at the deadline."""
        poll = self._lead_poll.poll
        while not waiter.done and self.engine.ended is None:
            ready = self._lead_spin() if len(self.engine.waiters) <= POSTPONE_ABOVE else None
            if ready:
                pass
            elif deadline is None:
                ready = poll()
            else:
                ready = poll(max(0.0, deadline - time.monotonic()) * 1000)
                if not ready and time.monotonic() >= deadline:
                    return False
            if len(ready) > 1 or (ready and ready[0][0] != self._read_fd):
                self._lead_wakeup.clear()
                continue
            self._read()
            if self._jobs:
                self._call_worker()
        return True

    # reading

    def _leave_reading(self) -> None:
        # first give up the role, then arm: a worker that is woken while the role is taken leaves again
        self._reader = NOBODY
        self._arm()
        if self._watchers:
            self._changed()

    def _arm(self) -> None:
        """Let a parked worker read what comes next."""
        self._unarmed = False
        if self.engine.ended is None:
            try:
                self._parking.arm()
            except (OSError, ValueError) as error:
                self._fail(ended_by(error, f"{self.name}: the stream's descriptor is gone: {error}"))

    def _read(self) -> bool:
        """As the reader: take what there is and deliver what comes of it; false if there was nothing.

        That is one read, or several while a long packet is arriving, of which there may well be more, or when
        the stream is about to end, as no poll may see that.
        """
        brought = False
        while True:
            try:
                octets = self.stream.try_read(READ_SIZE)
            except Exception as error:
                self._read_failure = error
                octets = b""
            except BaseException as error:
                self._interrupted(error, [])
                raise
            if octets is None:
                return brought
            self._take_in(octets)
            brought = True
            if self.engine.ended is not None or (self.engine.octets_wanted < READ_SIZE and self._doom is None):
                return True

    def _take_in(self, octets: bytes) -> None:
        """As the reader: feed the engine what was read, b"" for the end, and deliver what comes of it."""
        if self.engine.unsent_octets and self._writing.holder == NOBODY:
            self.flush()  # what was postponed must not wait for the handlers that follow
        events: list[Event] = []
        try:
            if octets:
                with self._lock:
                    self.engine.receive(octets, events)
                    if self._decoded != self.engine.octets_decoded:
                        self._decoded = self.engine.octets_decoded
                        self.last_packet = time.monotonic()
            else:
                self._receive_end(events)
            if self._observed:
                self._show(events)
            for event in events:
                # told apart by their exact type, the frequent kinds first
                kind = type(event)
                if kind is ResponseReceived:
                    if self._receivers:
                        self._attached.give(event)
                    event.waiter.deliver(event)  # type: ignore[union-attr]
                elif kind is RequestReceived:
                    self._receive_request(event)  # type: ignore[arg-type]
                elif kind is StreamEnded:
                    self._end(event)  # type: ignore[arg-type]
                else:
                    self._attached.give(event)
        except BaseException as error:
            self._interrupted(error, events)
            raise
        if self.engine.unsent_octets:
            self.flush()
        if self._watchers:
            self._changed()

    def _receive_end(self, events: list[Event]) -> None:
        """The stream is at its end: find out why."""
        cause = self.stream.end_reason()
        error = self._read_failure
        if cause is None and error is not None:
            cause = ended_by(error, f"{self.name}: reading failed: {error}")
        gone = self.stream.is_cut_off
        with self._lock:
            events += self.engine.receive_eof(cause, gone=gone)

    def _show(self, events: list[Event]) -> None:
        """Tell the observers, before anything comes of the events."""
        for event in events:
            if self._trace:
                self._trace("<== %s", event_text(event))
            if self._on_event:
                try:
                    self._on_event(event)
                except Exception:
                    logger.exception("%s: on_event failed for %s", self.name, type(event).__name__)

    def _receive_request(self, event: RequestReceived) -> None:
        """Run the handler here if it is inline and nothing stands in its way, else leave it to a worker."""
        if self._taken and (event.channel, event.tag) in self._taken:
            self._taken.discard((event.channel, event.tag))
        elif self._receivers and self._attached.give(event):
            self._handled_inline += 1
        elif (
            (self._all_inline or (self._inline and not event.channel and event.rq_type in self._inline))
            and not self._jobs
            and not (self._all_inline and self._workers.running)  # no second one beside one that had to wait
            and not self.engine.is_held(self._max_unsent)
        ):
            self._handled_inline += 1
            self._run_handler(event)
        else:
            self._jobs.append(event)

    def _end(self, event: StreamEnded) -> None:
        self._received_all.set()
        self._attached.give(event)
        for waiter in event.lost:
            waiter.fail(event.cause)
        self._answering.sum_up()
        if not event.clean:
            logger.info("%s: %s", self.name, event.cause)

    def _interrupted(self, error: BaseException, events: list[Event]) -> None:
        """Octets were taken whose events cannot all be delivered in order: end, but tell every waiter."""
        for event in events:
            if isinstance(event, ResponseReceived):
                event.waiter.deliver(event)
            elif isinstance(event, StreamEnded):
                self._end(event)
        self._fail(ended_by(error, f"{self.name}: interrupted while reading: {error!r}"))

    def _fail(self, cause: ConnectionEnded) -> None:
        """End the connection for `cause`, if it has not ended yet. From any thread."""
        with self._lock:
            events = self.engine.fail(cause)
        self._show(events)
        for event in events:
            if isinstance(event, StreamEnded):
                self._end(event)
        self.interrupt_lead()
        self._changed()

    def _expect_end(self, cause: ConnectionEnded) -> None:
        """The stream should end now; if it does not within a second, it ends for the `cause` known last."""
        with self._lock:
            self._doom = self._doom[0] if self._doom else time.monotonic() + END_GRACE, cause
        self._parking.wake()

    def _changed(self) -> None:
        if self._watchers:
            with self._lock:
                self._change.notify_all()

    def _await(self, condition: Callable[[], bool], deadline: float | None) -> bool:
        """Wait until `condition`, which is asked under the lock; false at the deadline."""
        me = get_ident()
        with self._lock:
            if condition():
                return True
            if self._reader == me:
                raise self._would_wait_for_itself()
            nested = self._workers.give_up_slot(me)
            self._watchers += 1
            try:
                while not condition():
                    left = None if deadline is None else deadline - time.monotonic()
                    if left is not None and left <= 0:
                        return False
                    self._change.wait(left)
                return True
            finally:
                self._watchers -= 1
                self._workers.take_slot_back(nested)

    # writing

    def flush(self) -> None:
        """Write what the engine wants sent, as far as that goes without waiting."""
        if self.engine.unsent_octets:
            self._writing.flush()

    def _has_written(self) -> None:
        """There is room again: for whoever waits to send, and for handlers whose replies had none."""
        if self._jobs:
            self._call_worker()
        if self._watchers:
            self._changed()

    def _write_failed(self, error: Exception) -> None:
        """Nothing can be sent. What the peer sent before may say why, so go on reading for a moment."""
        with self._lock:
            self.engine.send_failed(error)
            if self._doom is None:  # whoever sees the failure finds this too, and waits for a better reason
                reason = ended_by(error, f"{self.name}: writing failed: {error}")
                self._doom = time.monotonic() + END_GRACE, reason
        self._parking.wake()
        self._changed()

    def _write_interrupted(self, error: BaseException) -> None:
        self._fail(ended_by(error, f"{self.name}: interrupted while writing: {error!r}"))

    def _flush_after_handler(self) -> None:
        """Write the reply, unless a helper is about to come to the next request, and writes both together."""
        if not (self._jobs and self._helper_called):
            self.flush()

    # workers

    def _has_no_thread(self, error: RuntimeError) -> None:
        self._fail(ended_by(error, f"{self.name}: no thread can be started to read: {error}"))

    def _call_worker(self) -> None:
        """There may be a handler to run for a worker that is parked."""
        if self._workers.has_slot:
            self._wake_helper()

    def _wake_helper(self) -> None:
        """Have a spare worker come now."""
        self._helper_called = True
        self._parking.wake()

    def _call_helper(self) -> None:
        """Have a spare worker see to what is postponed here: octets to write, the stream, further handlers.

        It gets the GIL when this thread blocks, or has computed for some milliseconds; by then there is
        mostly nothing left to do. While that is so it comes by the clock.
        """
        if not self._helper_called:
            self._helper_called = True
            if not self._on_watch:
                self._parking.wake()

    def _help(self) -> bool:
        """As a worker that was called; false if there was nothing to do."""
        self._helper_called = False
        needed = bool(self._jobs)
        if self.engine.unsent_octets:
            self.flush()
            needed = True
        if self._unarmed and self._reader == NOBODY:
            self._arm()
            needed = True
        return needed

    def _watch(self) -> None:
        """As a worker that was called in vain: look by the clock a while, instead of being woken each time."""
        if self._on_watch:
            return
        self._on_watch = True
        idle = 0
        parked = Parked.TIMEOUT
        while idle < WATCH_PATIENCE and not self._workers.stopping and self._doom is None:
            parked = self._parking.park(WATCH)
            if parked is Parked.READABLE:
                break
            if not self._helper_called:
                idle += 1
            elif self._help():
                break
            else:
                idle = 0
        # whoever calls from here on wakes a worker; whoever called before did not
        self._on_watch = False
        if parked is Parked.READABLE:
            if self._helper_called:
                self._parking.wake()
            self._read_as_worker()
        elif self._helper_called:
            self._help()

    def _work(self) -> None:
        """A worker: run a handler if one is to be run, else read if that may bring something, else park."""
        event: RequestReceived | None = None
        while True:
            served = event is not None
            event = self._workers.next_job(finished=served)
            if event is not None:
                self._workers.run_jobs(event)
            elif self._workers.is_superfluous():
                self._finish_closing()
                return
            elif not ((self._unarmed or served) and self._read_as_worker(soon=not self._unarmed)):
                self._park()

    def _park(self) -> None:
        if self.engine.unsent_octets and self._writing.holder == NOBODY:
            self.flush()
        doom = self._doom if self.engine.ended is None else None
        parked = self._parking.park(None if doom is None else max(0.0, doom[0] - time.monotonic()))
        if self._workers.stopping:
            return
        if parked is Parked.READABLE:
            self._read_as_worker()
        elif parked is Parked.WOKEN and not self._help():
            self._watch()
        if doom is not None and time.monotonic() >= doom[0]:
            self._fail(doom[1])

    def _read_as_worker(self, *, soon: bool = False) -> bool:
        """Read, if nobody else does; true if that brought anything. `soon`: only what comes at once."""
        me = get_ident()
        try:
            with self._lock:
                if self._reader != NOBODY or self.engine.ended is not None:
                    return False
                self._reader = me
            if soon:
                self._disarm()
                if not self._comes_soon():
                    return False
            self._handled_inline = 0
            brought = self._read()
            while self._handled_inline == 1 and not self._jobs and self._comes_soon():
                self._handled_inline = 0
                self._read()
            if len(self._jobs) > 1:
                # these are run before anyone reads on; the helper reads if a handler takes its time
                self._unarmed = True
                self._reader = NOBODY
                self._call_helper()
            return brought
        except BaseException as error:
            logger.error("%s: reading ended by %r", self.name, error, exc_info=error)
            return False
        finally:
            if self._reader == me:
                self._leave_reading()

    def _comes_soon(self) -> bool:
        """As the reader, after a request was answered: whether the next one comes at once, as far as looked."""
        if self.engine.ended is not None:
            return False
        ready = self._idle_spin()
        if not ready:
            return False
        if len(ready) == 1 and ready[0][0] == self._read_fd:
            return True
        self._lead_wakeup.clear()
        return False

    def runs_in(self, thread_ident: int) -> bool:
        """Whether that thread runs a handler of this connection, or reads it."""
        return thread_ident in self._busy or self._reader == thread_ident

    # answering

    def take(self, event: RequestReceived) -> None:
        """In on_event: the request is answered by `answer`, the handler is not called for it."""
        self._taken.add((event.channel, event.tag))

    def answer(self, event: RequestReceived, outcome: Outcome) -> None:
        """The result of a request that was taken is there."""
        self._answering.answer(event, outcome)

    def _has_answered(self) -> None:
        if self._reader == get_ident():  # it writes behind all events of its chunk
            self._handled_inline += 1
        else:
            self.flush()

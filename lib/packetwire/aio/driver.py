"""One open connection, driven by an event loop: an engine, a transport, and what runs the handlers.

Strategy. Everything here runs in the loop's thread, so the engine needs no lock. The transport reports what it
has read; events are delivered straight to the futures of those who wait. What is to be sent is written at once
if nothing else is about to come, else at the end of this round of the loop, so that it leaves together.

What waits for room, calls as well as handlers, is kept in order and begun when there is.

An interruption between the taking of octets and their delivery ends the connection, because what follows
could not be understood.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from threading import get_ident

from packetwire.aio.answering import Answering
from packetwire.aio.belonging import check_loop
from packetwire.aio.loops import guard_loop
from packetwire.aio.request import RequestFuture, deliver, refuse
from packetwire.aio.transport import Transport
from packetwire.core.channels import Channels, RequestHandler
from packetwire.core.engine import END_GRACE, NOT_DONE, ConnectionEngine
from packetwire.core.events import Event, RequestReceived, ResponseReceived, StreamEnded, event_text
from packetwire.core.packet import check_payload
from packetwire.core.requests import Outcome
from packetwire.core.responses import Response
from packetwire.core.settings import Settings
from packetwire.core.varint import BytesLike
from packetwire.errors import ConnectionEnded, LimitExceeded, RequestTimeout, ended_by
from packetwire.streams import forking
from packetwire.streams.fds import READ_SIZE
from packetwire.streams.finalizing import leave_to_thread

logger = logging.getLogger("packetwire")

WRITE_OCTETS = 160
WRITE_EACH = 10
"""Octets that are written without waiting for more: at least the one, or the other for each request under way.
With small packets that is about a half of them, so that each end has something to do while the other writes."""

LOOK_INTERVAL = 0.1
"""Seconds between two looks for a peer that has ended its direction."""

_Arguments = tuple[int, int, bytes]


class Driver:
    """Drives `engine` over `transport` from `start` to `close`."""

    def __init__(
        self,
        engine: ConnectionEngine,
        transport: Transport,
        *,
        name: str,
        settings: Settings,
        handler: RequestHandler | None,
        on_event: Callable[[Event], object] | None,
        trace_log: Callable[..., object] | None,
        channels: Channels,
    ) -> None:
        self.name = name
        self.engine = engine
        self.transport = transport
        self._on_event = on_event
        self._trace = trace_log
        self._watched = trace_log is not None or on_event is not None
        self._max_unsent = settings.max_unsent
        self.trailing_octets = b""
        """What came behind the peer's EOF and could not be given back, after `close`."""
        self.loop = asyncio.get_running_loop()
        self.thread = get_ident()
        self._forked = False

        self._waiting: OrderedDict[RequestFuture, _Arguments] = OrderedDict()  # requests without room
        self._waiting_octets = 0
        self._ends_requests = self._ends = False  # once nothing is in _waiting

        self._answering = Answering(
            engine,
            name,
            handler=handler,
            settings=settings,
            trace_log=trace_log,
            answered=self._answered,
            settled=self._settled,
            channels=channels,
        )
        self._attached = self._answering.attached
        self._receivers = channels.receivers

        self._torn_down = False
        self._let_go_of = False  # soon after that
        self._gone: asyncio.Event | None = None  # for those who wait for it
        self._receiving = False  # what is to be sent leaves when the delivery is done
        self._flush_due = False
        self._writing = False  # the transport waits for room
        self._events: Sequence[Event] = ()  # that are being delivered
        self._watchers: list[tuple[Callable[[], bool], asyncio.Future[bool]]] = []
        self._received_all = asyncio.Event()
        self.last_packet: float | None = None
        """When the last packet was complete."""
        self._decoded = 0  # octets of the peer's packets, at that time
        self._end_timer: asyncio.TimerHandle | None = None

    # life

    async def start(self) -> None:
        """Begin to read. If nobody closes it, that is done when the loop shuts down."""
        forking.register(self)
        guard_loop(self.loop)
        if self.engine.budget is not None:
            self.engine.budget.add(self)
        self._life = self._live()
        await anext(self._life)
        self.transport.start(self)

    async def _live(self) -> AsyncGenerator[None]:
        """An asynchronous generator: these are closed by a loop that shuts down."""
        try:
            yield
        finally:
            await self._tear_down()

    def end_requests(self) -> None:
        """Send ERQ, behind what waits for room."""
        self._ends_requests = True
        self._changed()

    def end(self) -> None:
        """Send EOF behind what waits for room and the replies that are owed."""
        self._ends_requests = self._ends = True
        self._changed()

    def wind_down(self) -> None:
        """Begin no more requests of the peer; send EOF when those that were begun are answered."""
        self.engine.wind_down()
        self._changed()

    @property
    def is_settled(self) -> bool:
        """Whether neither end owes a response to the other, and all is written."""
        return self.engine.is_settled and not self._waiting

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
        return self.transport.bytes_written

    def resume(self) -> None:
        """Handlers that were held may be started now."""
        self._changed()

    def abort(self, cause: ConnectionEnded) -> None:
        """End the connection now, for that reason; the peer is told as far as that goes without waiting."""
        self.end()
        self._fail(cause)

    def release(self, cause: ConnectionEnded) -> bool:
        """As a finalizer: the loop shall let go of everything. If it does not run, a thread does."""
        if self.is_gone:
            return False
        loop = self.loop
        if not loop.is_closed() and (loop.is_running() or get_ident() != self.thread):
            try:
                loop.call_soon_threadsafe(self._release, cause)
                return True
            except RuntimeError:  # it has been closed just now
                pass
        self._release_without_loop(cause)
        return True

    def _release(self, cause: ConnectionEnded) -> None:
        if not self.is_gone:
            self.abort(cause)
            self._closer = self.loop.create_task(self._let_go(), name=f"{self.name}-closer")

    def _release_without_loop(self, cause: ConnectionEnded) -> None:
        """In the loop's thread, or after its end: nothing else of this runs now."""
        self._torn_down = True
        for step in (
            lambda: self.abort(cause),
            self.transport.stop,
            self._answering.cancel,
            self._tell_gone,
        ):
            with suppress(RuntimeError):  # the loop is closed
                step()
        leave_to_thread(self._let_go_without_loop, f"{self.name}-closer")

    def _let_go_without_loop(self) -> None:
        try:
            self._answering.stop_workers()
        finally:
            self.transport.let_go()
            self._forget()

    async def join_receive(self, timeout: float | None = None) -> bool:
        """Wait until nothing more is received."""
        try:
            async with asyncio.timeout(timeout):
                await self._received_all.wait()
        except TimeoutError:
            return False
        return True

    def runs_this_task(self) -> bool:
        """Whether the present task runs a handler of this connection."""
        return self._answering.runs_this_task()

    async def close(self, timeout: float) -> None:
        """End the connection in order within `timeout` seconds, then anyhow."""
        if self._forked:
            return
        if self._answering.runs_this_task():
            # a handler cannot wait for its own end
            self._closer = self.loop.create_task(self._close(timeout), name=f"{self.name}-closer")
            return
        await self._close(timeout)

    async def _close(self, timeout: float) -> None:
        try:
            await self._end_in_order(timeout)
        except BaseException:
            # an interruption ends the waiting, but leaves nothing behind
            self.transport.hurry()
            raise
        finally:
            await self._let_go()

    async def _let_go(self) -> None:
        await self._tear_down()
        with suppress(RuntimeError):  # the loop shuts down, and closes it at this moment
            await self._life.aclose()

    async def _end_in_order(self, timeout: float) -> None:
        engine = self.engine
        deadline = self.loop.time() + timeout
        self.end_requests()
        settled = await self._await(
            lambda: not (self._waiting or engine.outstanding) and (not engine.owed or self._dead), deadline
        )
        if not settled:
            logger.warning(
                "%s: closed after %.1f s with %d requests unanswered by the peer and %d by us",
                self.name,
                timeout,
                self.outstanding,
                engine.owed,
            )
            self._fail_waiting(ConnectionEnded(f"{self.name}: this side closed the connection"))
            engine.abandon(NOT_DONE.decode())
        self.end()
        await self._await(lambda: self._dead or not (self.receiving or engine.unsent_octets), deadline)

    @property
    def is_gone(self) -> bool:
        """Whether it has let go of everything, or belongs to the process that this one is a fork of."""
        return self._torn_down or self._forked

    def check_loop(self, conn: object) -> None:
        """Raise `LocalProtocolError` unless `conn` may be used here. In a fork it is over: others say so."""
        if not self._forked:
            check_loop(conn, self.loop, self.thread)

    @property
    def receiving(self) -> bool:
        """Whether anything more can be received."""
        return self.engine.ended is None

    @property
    def outstanding(self) -> int:
        """Our requests that have no answer yet, sent or not."""
        return self.engine.outstanding + len(self._waiting)

    @property
    def _dead(self) -> bool:
        return self.engine.send_failure is not None

    async def _tear_down(self) -> None:
        """Let go of everything. A second call waits for the first."""
        if self._torn_down:
            if not (self._let_go_of or self._forked):
                self._gone = self._gone or asyncio.Event()
                await self._gone.wait()
            return
        self._torn_down = True
        self._answering.sum_up()
        try:
            self._fail(ConnectionEnded(f"{self.name}: this side closed the connection"))
            self.transport.stop()
            await self._answering.stop()
        finally:
            try:
                self.trailing_octets = await self.transport.close(self.engine.trailing_octets)
            finally:
                self._forget()
                self._tell_gone()

    def _tell_gone(self) -> None:
        self._let_go_of = True
        if self._gone is not None:
            self._gone.set()

    def _forget(self) -> None:
        self.engine.let_go()
        if self.engine.budget is not None:
            self.engine.budget.discard(self)

    def after_fork(self) -> None:
        """In the child of a fork: the connection, and the loop's selector, belong to the parent."""
        self._forked = self._torn_down = True
        self.transport.after_fork()
        self._answering.after_fork()
        cause = ConnectionEnded(f"{self.name} was opened in process {os.getppid()}; this is a fork")
        with suppress(RuntimeError):  # in a thread beside the loop, which does not go on here
            self._received_all.set()
            for event in self.engine.fail(cause):
                if isinstance(event, StreamEnded):
                    for waiter in event.lost:
                        refuse(waiter, cause.for_waiter())
            self._fail_waiting(cause)

    # calls

    def ask(
        self, waiter: asyncio.Future[Response], rq_type: int, flags: int, payload: BytesLike, channel: int
    ) -> int:
        """Send a request and return its tag, or -1 if there is no room for it, or others wait for that."""
        engine = self.engine
        if (
            len(engine.waiters) >= engine.max_outstanding
            or engine.unsent_octets > self._max_unsent
            or self._waiting
            or self._ends_requests
            or engine.send_failure is not None
        ):
            return -1
        tag = engine.ask(rq_type, flags, payload, channel, waiter)
        if engine.unsent_octets >= WRITE_OCTETS or not (self._flush_due or self._receiving):
            self._send(len(engine.waiters))
        if self._trace:
            self._trace("==> request %d:%d rq_type=%d %r", channel, tag, rq_type, payload[:32])
        return tag

    def request(
        self, request: RequestFuture, rq_type: int, flags: int, payload: BytesLike, *, bounded: bool = False
    ) -> None:
        """Send a request, or keep it until it fits within the bounds.

        If it is `bounded` no more than `max_outstanding` requests, or one that passes `max_unsent` octets,
        are kept; then it raises `LimitExceeded`.
        """
        request.tag = self.ask(request, rq_type, flags, payload, request.channel)
        if request.tag < 0:
            self._keep(request, rq_type, flags, check_payload(payload), bounded=bounded)

    def _keep(self, request: RequestFuture, rq_type: int, flags: int, payload: bytes, *, bounded: bool) -> None:
        engine = self.engine
        if self._refuses_requests:
            raise engine.why_not()
        if bounded and (len(self._waiting) >= engine.max_outstanding or self._waiting_octets > self._max_unsent):
            raise LimitExceeded(f"{self._lack_of_room()}, {len(self._waiting)} more wait; await drain() first")
        self._waiting[request] = rq_type, flags, payload
        self._waiting_octets += len(payload)

    def _lack_of_room(self) -> str:
        engine = self.engine
        return (
            f"{self.name}: no room for one more request: {engine.outstanding} of {engine.max_outstanding} "
            f"unanswered, {engine.unsent_octets} octets unsent"
        )

    def forget(self, channel: int, tag: int) -> None:
        """Nobody waits for this response any more."""
        if self.engine.forget(channel, tag) and not self._receiving:
            self._changed()

    def give_up(self, request: RequestFuture) -> None:
        """As `forget`, of a request that may wait for room."""
        if request.tag >= 0:
            self.forget(request.channel, request.tag)
        elif request in self._waiting:
            self._waiting_octets -= len(self._waiting.pop(request)[2])
            if not self._receiving:
                self._changed()

    def time_out(self, request: RequestFuture, why: Callable[[], str]) -> None:
        """The time for this response is up."""
        if not request.done():
            text = why() if request.tag >= 0 else f"no time left: {self._lack_of_room()}"
            self.give_up(request)
            refuse(request, RequestTimeout(text))

    async def drain(self, timeout: float | None) -> None:
        """Wait until a request fits, or cannot be made any more."""
        deadline = None if timeout is None else self.loop.time() + timeout
        # again, if one that was woken before has taken the room
        while not (self._has_room or self._refuses_requests):
            if not await self._await(lambda: self._has_room or self._refuses_requests, deadline):
                raise RequestTimeout(self._lack_of_room())

    @property
    def _has_room(self) -> bool:
        return not self._waiting and self._fits

    @property
    def _fits(self) -> bool:
        return self.engine.has_room and self.engine.unsent_octets <= self._max_unsent

    @property
    def _refuses_requests(self) -> bool:
        """Whether none is taken any more. After a failed write they are, and wait for the reason."""
        return self.engine.ended is not None or self._ends_requests

    def _admit(self) -> None:
        """Send what waits for room, then announce the end if that is due."""
        engine = self.engine
        while self._waiting and self._fits and engine.may_request:
            request, (rq_type, flags, payload) = self._waiting.popitem(last=False)
            self._waiting_octets -= len(payload)
            try:
                request.tag = engine.request(rq_type, flags, payload, channel=request.channel, waiter=request)
            except Exception as error:
                refuse(request, error)
        if not self._waiting:
            if self._ends:
                engine.end()
            elif self._ends_requests:
                engine.end_requests()

    def _fail_waiting(self, cause: ConnectionEnded) -> None:
        while self._waiting:
            request, _ = self._waiting.popitem(last=False)
            refuse(request, cause.for_waiter())
        self._waiting_octets = 0

    # receiving, called by the transport

    def receive(self, octets: bytes) -> bool:
        engine = self.engine
        events: list[Event] = []
        self._events = events
        engine.receive(octets, events)
        if self._decoded != engine.octets_decoded:
            self._decoded = engine.octets_decoded
            self.last_packet = time.monotonic()
        responses = self._deliver(events)
        self._events = ()
        if engine.unsent_octets:
            self._flush()
        if responses > 1 and not self._flush_due:
            # those who got these may ask again before anything else happens
            self._flush_soon()
        if self._is_awaited:
            self._changed()
        return engine.octets_wanted >= READ_SIZE and engine.ended is None

    def receive_end(self, cause: ConnectionEnded | None) -> None:
        self._events = self.engine.receive_eof(cause, gone=self.transport.is_gone)
        self._deliver(self._events)
        self._events = ()
        self._changed()
        self._look_for_peer()

    def _look_for_peer(self) -> None:
        """As long as replies are owed behind the end of the stream, see whether anybody is there to read them.

        A peer that vanished looks at first like one that has only ended its direction: over TCP it shows when it
        refuses our ERQ. Its handlers should not run on for nothing.
        """
        if self.engine.owed and not self._torn_down:
            if self.transport.is_gone:
                self.write_failed(ConnectionResetError("the peer has closed the stream"))
            else:
                self.loop.call_later(LOOK_INTERVAL, self._look_for_peer)

    def expect_end(self, cause: ConnectionEnded) -> None:
        # the stream should end now; if it does not within a second, it ends for the cause known last
        self.engine.expect_end(cause, self.loop.time())
        if self._end_timer is None and self.receiving:
            self._end_timer = self.loop.call_later(END_GRACE, self._tick)

    def _tick(self) -> None:
        assert self.engine.deadline is not None
        # the timer may be early by as much as the loop's clock is coarse
        self._ended_by(self.engine.tick(max(self.loop.time(), self.engine.deadline)))

    def interrupted(self, error: BaseException) -> None:
        # octets were taken whose events cannot all be delivered in order: end, but tell every waiter
        self._receiving = False
        for event in self._events:
            if isinstance(event, ResponseReceived):
                deliver(event)
            elif isinstance(event, StreamEnded):
                self._end(event)
        self._fail(ended_by(error, f"{self.name}: interrupted while reading: {error!r}"))

    def _deliver(self, events: list[Event]) -> int:
        """Give each event to whom it belongs; returns how many were responses."""
        if self._watched:
            self._show(events)
        responses = 0
        answering = self._answering
        self._receiving = True
        for event in events:
            # told apart by their exact type, the frequent kinds first
            kind = type(event)
            if kind is ResponseReceived:
                if self._receivers:
                    self._attached.give(event)
                deliver(event)  # type: ignore[arg-type]
                responses += 1
            elif kind is RequestReceived:
                answering.receive(event)  # type: ignore[arg-type]
            elif kind is StreamEnded:
                self._end(event)  # type: ignore[arg-type]
            else:
                self._attached.give(event)
        self._receiving = False
        return responses

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

    def _end(self, event: StreamEnded) -> None:
        self.transport.stop_reading()  # what follows belongs to someone else
        if self._end_timer is not None:
            self._end_timer.cancel()
        self._received_all.set()
        self._attached.give(event)
        for waiter in event.lost:
            refuse(waiter, event.cause.for_waiter())
        self._fail_waiting(event.cause)
        self._answering.sum_up()
        if not event.clean:
            logger.info("%s: %s", self.name, event.cause)

    def _fail(self, cause: ConnectionEnded) -> None:
        """End the connection for `cause`, if it has not ended yet."""
        self._ended_by(self.engine.fail(cause))

    def _ended_by(self, events: list[Event]) -> None:
        self._show(events)
        for event in events:
            if isinstance(event, StreamEnded):
                self._end(event)
        self._changed()

    # answering

    def take(self, event: RequestReceived) -> None:
        """In on_event: the request is answered by `answer`, the handler is not called for it."""
        self._answering.take(event)

    def answer(self, event: RequestReceived, outcome: Outcome) -> None:
        """The result of a request that was taken is there. From any thread."""
        self._answering.answer(event, outcome)

    def _answered(self) -> None:
        if self.engine.unsent_octets >= WRITE_OCTETS or not (self._flush_due or self._receiving):
            self._send(self.engine.owed + 1)
        if self._watchers and not self._receiving:
            self._changed()

    def _settled(self) -> None:
        self._flush()
        if self._is_awaited:
            self._changed()

    # what waits for a change

    @property
    def _is_awaited(self) -> bool:
        return bool(self._waiting or self._watchers or self._answering.is_waiting or self._ends_requests)

    def _changed(self) -> None:
        """Begin what waited for room, write what comes of it, and wake those whose condition is true now."""
        while True:
            self._answering.resume()
            self._admit()
            if self._writing or not self.engine.unsent_octets:
                break
            self._flush()
        for condition, future in self._watchers:
            if not future.done() and condition():
                future.set_result(True)

    async def _await(self, condition: Callable[[], bool], deadline: float | None) -> bool:
        """Wait until `condition`; false at the deadline."""
        if condition():
            return True
        future: asyncio.Future[bool] = self.loop.create_future()
        watcher = condition, future
        self._watchers.append(watcher)
        timer = None if deadline is None else self.loop.call_at(deadline, _give_up, future)
        try:
            return await future
        finally:
            self._watchers.remove(watcher)
            if timer is not None:
                timer.cancel()

    # writing

    def _send(self, under_way: int) -> None:
        """There is something to write: now, if it is all there is, or much, else with what comes in this round."""
        unsent = self.engine.unsent_octets
        if unsent >= WRITE_OCTETS and unsent >= WRITE_EACH * under_way:
            self._flush()
        elif not (self._flush_due or self._receiving):
            if under_way == 1:
                self._flush()
            else:
                self._flush_soon()

    def _flush_soon(self) -> None:
        self._flush_due = True
        self.loop.call_soon(self._flush_now)

    def _flush_now(self) -> None:
        self._flush_due = False
        self._flush()
        if self._is_awaited:
            self._changed()

    def _flush(self) -> None:
        """Write what the engine wants sent, as far as that goes without waiting."""
        if not self._writing:
            self._write(self.engine.data_to_send())

    def _write(self, batch: list[bytes]) -> None:
        while batch:
            self._writing = True
            if not self.transport.write(batch):
                return
            batch = self.engine.more_data_to_send()
        self._writing = False
        # at any time before, a worker may have found that there was no room for its reply
        self._answering.resume_workers()

    def written(self) -> None:
        self._write(self.engine.more_data_to_send())
        self._changed()

    def write_failed(self, error: Exception) -> None:
        # what the peer sent before may say why, so go on reading for a moment
        reason = ended_by(error, f"{self.name}: writing failed: {error}")
        self.engine.send_failed(error)
        if self.engine.deadline is None:
            self.expect_end(reason)
        self._changed()


def _give_up(future: asyncio.Future[bool]) -> None:
    if not future.done():
        future.set_result(False)

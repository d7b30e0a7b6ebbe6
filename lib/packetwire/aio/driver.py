"""One open connection, driven by an event loop: an engine, a transport, and what asks, answers, delivers and
writes.

Strategy. Everything here runs in the loop's thread, so the engine needs no lock. This is the life of a connection;
what each request passes is in `calls`, `writing`, `delivery` and `answering`. `changed` looks at all that waits for
a change of any kind: calls without room, handlers that are held, or somebody who awaits the end.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from threading import get_ident
from typing import TYPE_CHECKING

from packetwire.aio.answering import Answering
from packetwire.aio.belonging import check_loop
from packetwire.aio.calls import Calls
from packetwire.aio.control import ControlRequests
from packetwire.aio.delivery import Delivery
from packetwire.aio.loops import guard_loop
from packetwire.aio.transport import Transport
from packetwire.aio.writing import Writing
from packetwire.core.channels import Channels, RequestHandler
from packetwire.core.engine import END_GRACE, NOT_DONE, ConnectionEngine, limit_passed
from packetwire.core.events import Event, RequestReceived, StreamEnded
from packetwire.core.keepalive import Keepalive, Verdict
from packetwire.core.requests import Outcome, Responder
from packetwire.core.roundtrips import PingWaiter
from packetwire.core.settings import Settings
from packetwire.errors import ConnectionEnded, PacketwireError, PeerUnresponsive, RequestTimeout, ended_by
from packetwire.streams import forking
from packetwire.streams.finalizing import leave_to_thread

if TYPE_CHECKING:
    from packetwire.aio.bodies import ServedBodies
    from packetwire.hooks import OpenSpans

logger = logging.getLogger("packetwire")

STOP_SECONDS = 1.0
"""Seconds for handlers to end that were cancelled."""
LOOK_INTERVAL = 0.1
"""Seconds between two looks for a peer that has ended its direction."""


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
        keepalive: Keepalive | None = None,
        open_spans: OpenSpans | None = None,
    ) -> None:
        self.name = name
        self.engine = engine
        self.transport = transport
        self.trailing_octets = b""
        """The bytes behind the peer's EOF that could not be given back, after `close`."""
        self.loop = asyncio.get_running_loop()
        self.is_running = self.loop.is_running
        self.thread = get_ident()
        self._forked = False
        self._watchers: list[tuple[Callable[[], bool], asyncio.Future[bool]]] = []
        self._writing = Writing(engine, transport, self.loop, self._settled)
        self.calls = Calls(
            engine,
            name,
            self._writing,
            self.loop,
            max_unsent=settings.max_unsent,
            trace_log=trace_log,
            changed=self._changed,
        )
        """Requests of ours."""
        self.submit = self.calls.submit
        self.control = ControlRequests(engine, name, self.loop, self._writing.flush, self._await)
        """Asks the peer what is no request of a user."""
        self._answering = Answering(
            engine,
            name,
            self._writing,
            handler=handler,
            settings=settings,
            trace_log=trace_log,
            answered=self._answered,
            settled=self._settled,
            channels=channels,
        )
        self._answering.bodies, self._body_timeout = self._served_bodies, settings.body_timeout
        self.flush = self._writing.flush
        """Writes what the engine wants sent."""
        self._writing.workers = self._answering.workers
        self._delivery = Delivery(
            engine,
            name,
            answering=self._answering,
            calls=self.calls,
            writing=self._writing,
            receivers=channels.receivers,
            watchers=self._watchers,
            on_event=on_event,
            trace_log=trace_log,
            ended=self._end,
            changed=self._changed,
        )
        self.receive = self._delivery.receive
        """Takes what the transport has read."""

        self._delivery.agreed = self._look_after_peer
        self._keepalive = keepalive
        self._open_spans = open_spans
        self._care_timer: asyncio.TimerHandle | None = None
        self._torn_down = False
        self._let_go_of = False  # soon after that
        self._gone: asyncio.Event | None = None  # for those who wait for it
        self._received_all = asyncio.Event()
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
        self.calls.ends_requests = True
        self._changed()

    def end(self) -> None:
        """Send EOF behind what waits for room and the replies that are owed."""
        self.calls.ends_requests = self.calls.ends = True
        self._changed()

    def wind_down(self, *, patient: bool = False) -> None:
        """Begin no more requests of the peer; send EOF when those that were begun are answered."""
        self.engine.wind_down(patient=patient)
        self._changed()

    @property
    def is_settled(self) -> bool:
        """True if neither end owes a response to the other, and all is written."""
        return self.engine.is_settled and not self.calls.waiting

    @property
    def owed_bytes(self) -> int:
        """Bytes that are held for the peer."""
        return self.engine.owed_bytes

    @property
    def waits_for_peer(self) -> bool:
        """True if only the peer can change that."""
        return self.engine.waits_for_peer

    @property
    def bytes_written(self) -> int:
        """All that was ever written to the peer."""
        return self.transport.bytes_written

    def resume(self) -> None:
        """Handlers that were held may be started now."""
        self._changed()

    def abort(self, cause: ConnectionEnded, told: str | None = None) -> None:
        """End the connection now, for that reason; the peer is told as far as that goes without waiting.

        `told` is the reason as it reads there, if that is another text.
        """
        self.engine.break_off(str(cause) if told is None else told)
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
        """True if the present task runs a handler of this connection."""
        return self._answering.runs_this_task

    async def close(self, timeout: float) -> None:
        """End the connection in order within `timeout` seconds, then anyhow."""
        if self._forked:
            return
        if self._answering.runs_this_task:
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
            lambda: not (self.calls.waiting or engine.outstanding) and (not engine.owed or self._dead), deadline
        )
        if not settled:
            logger.warning(
                "%s: closed after %.1f s with %d requests unanswered by the peer and %d by us",
                self.name,
                timeout,
                self.outstanding,
                engine.owed,
            )
            self.calls.fail_waiting(ConnectionEnded(f"{self.name}: this side closed the connection"))
            engine.tell_why(limit_passed(timeout))
            engine.abandon(NOT_DONE.decode())
        self.end()
        await self._await(lambda: self._dead or not (self.receiving or engine.unsent_octets), deadline)

    @property
    def is_gone(self) -> bool:
        """True if it has let go of everything, or belongs to the process that this one is a fork of."""
        return self._torn_down or self._forked

    def check_loop(self, conn: object) -> None:
        """Raise `LocalProtocolError` unless `conn` may be used here. In a fork it is over: others say so."""
        if not self._forked:
            check_loop(conn, self.loop, self.thread)
            self.thread = get_ident()  # a loop may have moved

    @property
    def receiving(self) -> bool:
        """True if anything more can be received."""
        return self.engine.ended is None

    @property
    def outstanding(self) -> int:
        """Our requests that have no answer yet, sent or not."""
        return self.engine.outstanding + len(self.calls.waiting)

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
        self._answering.begin_no_more()
        try:
            self._fail(ConnectionEnded(f"{self.name}: this side closed the connection"))
            self.transport.stop()
            tasks = self._answering.cancel()
            self._answering.stop_workers()
            if tasks:
                await asyncio.wait(
                    tasks, timeout=STOP_SECONDS
                )  # who does not let itself be cancelled is left to it
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

    def _look_after_peer(self) -> None:
        """See whether the peer is still there, now and from here on, if that is wanted."""
        keepalive, engine = self._keepalive, self.engine
        if keepalive is None or engine.ended is not None or self._torn_down:
            return
        now = self.loop.time()
        verdict = keepalive.look_at(engine, now, self.transport.bytes_written, self.outstanding)
        if verdict is Verdict.PING:
            with suppress(PacketwireError):  # it has just ended
                engine.ping(b"", PingWaiter(self.control.round_trips, now, self.loop.time))
                self._writing.flush()
        elif verdict is not Verdict.NOTHING:
            why = keepalive.text(verdict)
            self.abort(PeerUnresponsive(f"{self.name}: the peer is unresponsive: {why}"), keepalive.told(verdict))
            return
        self._care_timer = self.loop.call_later(keepalive.interval, self._look_after_peer)

    def _forget(self) -> None:
        if self._care_timer is not None:
            self._care_timer.cancel()
        if self._open_spans is not None:
            self._open_spans.end()
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
                        waiter.fail(cause.for_waiter())
            self.calls.fail_waiting(cause)

    # calls

    async def drain(self, timeout: float | None) -> None:
        """Wait until a request fits, or cannot be made any more."""
        calls = self.calls
        deadline = None if timeout is None else self.loop.time() + timeout
        # again, if one that was woken before has taken the room
        while not (calls.has_room or calls.refuses_requests):
            if not await self._await(lambda: calls.has_room or calls.refuses_requests, deadline):
                raise RequestTimeout(calls.lack_of_room())

    # what the transport reports

    @property
    def is_busy(self) -> bool:
        """True if nothing shall be read in this turn of the loop."""
        return self._answering.is_due

    @property
    def last_packet(self) -> float | None:
        """The time at which the last packet was complete."""
        return self._delivery.last_packet

    def receive_end(self, cause: ConnectionEnded | None) -> None:
        delivery = self._delivery
        delivery.events = events = self.engine.receive_eof(cause, gone=self.transport.is_gone)
        delivery.handle(events)
        delivery.events = ()
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
        # bytes were taken of which not all can be delivered in order: end, but tell every waiter
        self._delivery.deliver_after_all()
        self._fail(ended_by(error, f"{self.name}: interrupted while reading: {error!r}"))

    def _end(self, event: StreamEnded) -> None:
        self.transport.stop_reading()  # what follows belongs to someone else
        if self._end_timer is not None:
            self._end_timer.cancel()
        self._received_all.set()
        self._answering.attached.give(event)
        for waiter in event.lost:
            waiter.fail(event.cause.for_waiter())
        self.calls.fail_waiting(event.cause)
        self._answering.sum_up()
        if not event.clean:
            logger.info("%s: %s", self.name, event.cause)

    def _fail(self, cause: ConnectionEnded) -> None:
        """End the connection for `cause`, if it has not ended yet."""
        self._ended_by(self.engine.fail(cause))

    def _ended_by(self, events: list[Event]) -> None:
        self._delivery.show(events)
        for event in events:
            if isinstance(event, StreamEnded):
                self._end(event)
        self._changed()

    # answering

    def _served_bodies(self) -> ServedBodies:
        from packetwire.aio.bodies import ServedBodies  # only who has bodies needs it

        return ServedBodies(self, self._body_timeout)

    def take(self, event: RequestReceived, responder: Responder) -> None:
        """In on_event: the request is answered by `answer`, the handler is not called for it."""
        self._answering.take(event, responder)

    def answer(self, event: RequestReceived, outcome: Outcome) -> None:
        """The result of a request that was taken is there. From any thread."""
        self._answering.answer(event, outcome)

    def _answered(self) -> None:
        self._writing.added(self.engine.owed + 1)
        if self._watchers and not self._writing.is_receiving:
            self._changed()

    def _settled(self) -> None:
        self._writing.flush()
        calls = self.calls
        if self._watchers or self._answering.jobs or calls.waiting or calls.ends_requests:
            self._changed()

    # what waits for a change

    def _changed(self) -> None:
        """Begin what waited for room, write what comes of it, and wake those whose condition is true now."""
        while True:
            self._answering.begin()
            self.calls.admit()
            if self._writing.is_waiting or not (self.engine.unsent_octets and self.engine.unsent):
                break
            self._writing.flush()
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

    def written(self) -> None:
        self._writing.written()
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

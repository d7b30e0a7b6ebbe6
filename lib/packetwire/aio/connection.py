"""`AsyncPacketConnection`: requests and responses both ways over one stream, for programs with asyncio.

The class is what its user sees: opening and closing, which are counted, and the calls. The work is done by
a `Driver`, one per opening, so that a connection can be opened again.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Callable, Container, Iterable, Mapping
from functools import partial
from threading import get_ident
from types import EllipsisType, TracebackType
from typing import TYPE_CHECKING, Any, Self, Unpack

from packetwire._async.mapping import pipelined
from packetwire.aio.capturing import CapturedTransport
from packetwire.aio.current import outer_request, plainly, serving
from packetwire.aio.driver import Driver
from packetwire.aio.opening import AsyncRecvSend, open_transport
from packetwire.aio.planned import Request, leave_by, leave_when_done, submit_planned
from packetwire.aio.polled import PolledTransport
from packetwire.aio.request import CallWaiter, RequestFuture
from packetwire.connectionbase import (
    ABANDON_TIMEOUT,
    ConnectionFace,
    check_fallback,
    deadline_of,
    no_response,
    request_arguments,
)
from packetwire.core.calloptions import CallOptions
from packetwire.core.channels import RequestHandler
from packetwire.core.events import Event
from packetwire.core.hello import NO_FEATURES, Feature
from packetwire.core.responses import DecodeResponse, Response
from packetwire.core.settings import (
    DEFAULT_BODY_TIMEOUT,
    DEFAULT_CLOSE_TIMEOUT,
    DEFAULT_HANDLERS,
    DEFAULT_MAX_OUTSTANDING,
    DEFAULT_MAX_PACKET_SIZE,
    DEFAULT_MAX_UNSENT,
    Settings,
)
from packetwire.core.timelimits import milliseconds_of, seconds_of, time_limit
from packetwire.core.varint import BytesLike
from packetwire.errors import ConnectionEnded, LocalProtocolError

if TYPE_CHECKING:
    from subprocess import Popen

    from packetwire._async.bodies import AsyncStreamCall
    from packetwire.capture import CaptureWriter
    from packetwire.dedup import Dedup
    from packetwire.hooks import Hooks, Span

BODIES = Feature.META | Feature.BODIES
_names = itertools.count(1)


class AsyncPacketConnection(ConnectionFace[Driver]):
    """Requests and responses over one byte stream, many at a time, both ways, in an event loop.

    `recv_send` is the stream: all that `PacketConnection` accepts, and also

    - a pair of asyncio's (StreamReader, StreamWriter), which is not closed;
    - a coroutine function, or a callable that returns an awaitable, for any of the forms that a callable
      can return. A (StreamReader, StreamWriter) that it returns is closed at the end.

    A callable that is no coroutine function is called in a thread, and so is its `close`: they may wait.

    The connection is open inside `async with`; that is counted, so nested use is fine, and it can be opened
    again after its end, in another loop too. It is to be used in the loop that it was opened in.

    - `request_handler(rq_type, flags, payload)` answers the peer's requests. A coroutine function is run as
      a task for each request, which may use this connection; it begins at once, and costs no task if it does
      not wait. A plain function runs in a thread, as many as `handlers` at once, or in the loop if that is
      "inline" or the request's type is in `inline`: right for what is quick. It returns what a handler of
      `PacketConnection` may return, or an awaitable of that.
    - The other arguments are those of `PacketConnection`. `on_event` and `trace_log` are called in the loop,
      and a `capture` is written there.
    """

    def __init__(
        self,
        recv_send: AsyncRecvSend,
        name: str | None = None,
        *,
        request_handler: RequestHandler | None = None,
        trace_log: Callable[..., object] | None = None,
        handlers: int | str = DEFAULT_HANDLERS,
        inline: Container[int] | None = None,
        max_packet_size: int = DEFAULT_MAX_PACKET_SIZE,
        max_outstanding: int = DEFAULT_MAX_OUTSTANDING,
        max_unsent: int = DEFAULT_MAX_UNSENT,
        error_detail: str = "message",
        on_event: Callable[[Event], object] | None = None,
        close_timeout: float = DEFAULT_CLOSE_TIMEOUT,
        leading_octets: bytes = b"",
        capture: CaptureWriter | None = None,
        channels: Mapping[int, RequestHandler] | None = None,
        half_close: bool = False,
        capabilities: str = "auto",
        protocol: str | None = None,
        protocol_version: str | None = None,
        description: bytes | None = None,
        keepalive: float | str | None = "auto",
        hooks: Hooks | None = None,
        dedup: Dedup | None = None,
        body_timeout: float | None = DEFAULT_BODY_TIMEOUT,
    ) -> None:
        super().__init__(
            recv_send,
            name if name is not None else f"a{next(_names)}",
            Settings(
                handlers=handlers,
                inline=inline,
                max_packet_size=max_packet_size,
                max_outstanding=max_outstanding,
                max_unsent=max_unsent,
                error_detail=error_detail,
                close_timeout=close_timeout,
                half_close=half_close,
                capabilities=capabilities,
                protocol=protocol,
                protocol_version=protocol_version,
                description=description,
                keepalive=keepalive,
                body_timeout=body_timeout,
            ),
            request_handler=request_handler,
            trace_log=trace_log,
            on_event=on_event,
            leading_octets=leading_octets,
            capture=capture,
            channels=channels,
            hooks=hooks,
            dedup=dedup,
        )
        self._opening = asyncio.Lock()  # keeps opening and closing apart
        self._unfinished: Driver | None = None
        """The driver that its last user has left, and may not have begun to close."""

    # opening and closing

    async def open(self) -> Self:
        """Open the connection, or count one more user of it.

        Raises what the making of the stream raises, and `ConnectionEnded` in a handler of this connection
        that is still at work while it closes.
        """
        if self._driver is not None and not self._opens and self._driver.runs_this_task():
            raise ConnectionEnded(f"{self} is being closed, a handler of it cannot open it again")
        if not self._opens and not self._opening.locked():
            self._opening = asyncio.Lock()  # the former one may belong to another loop
        async with self._opening:
            if self._opens:
                self._open_driver()
                self._opens += 1
            else:
                await self._finish(self.close_timeout)
                await self._start()
        return self

    async def _start(self) -> None:
        leading = b"" if callable(self.recv_send) else self.trailing_octets
        self._supplied.check()
        transport = await open_transport(self.recv_send, self.name, leading)
        if isinstance(transport, PolledTransport):
            self._closing = transport.stream.weaken_close()
            self.preamble = getattr(transport.stream, "preamble", b"")
        try:
            self._check_half_close(transport.half_closes)
        except LocalProtocolError:
            await transport.close(b"")
            raise
        self.trailing_octets = b""
        if self.capture is not None:
            transport = CapturedTransport(transport, self.capture.begin(self.name))
        try:
            handler, on_event, trace_log = self._weakly()
            driver = Driver(
                self._make_engine(),
                transport,
                name=self.name,
                settings=self._settings,
                handler=handler,
                on_event=on_event,
                trace_log=trace_log,
                channels=self._channels,
                keepalive=self._make_keepalive(transport.is_remote),
                open_spans=self._open_spans,
            )
        except BaseException:
            await transport.close(b"")
            raise
        # before it starts: a handler may be called, and ask back, before we return
        self._driver, self._opens, self._was_open = driver, 1, True
        try:
            await driver.start()
            if self.capabilities == "require":
                await self._check_peer(driver)
        except BaseException:
            self._opens = 0
            await driver.close(0.0)
            raise

    async def _check_peer(self, driver: Driver) -> None:
        """Raise what is wrong with a peer whose capabilities are required."""
        await driver.control.require(NO_FEATURES, "capabilities are required", None)
        if driver.engine.barred is not None:
            raise driver.engine.why_not()

    async def close(self, timeout: float | None = None) -> None:
        """Give the connection up; the last user's close ends it, within `timeout` seconds.

        As `PacketConnection.close`. A handler that is a task and still runs then is cancelled. If this is
        cancelled the connection ends at once.
        """
        seconds = seconds_of(self.close_timeout if timeout is None else timeout)
        if self._opens == 0:
            return
        driver = self._driver
        assert driver is not None
        if not driver.is_gone:
            driver.check_loop(self)
        self._opens -= 1
        if self._opens:
            return
        self._unfinished = driver
        async with self._opening:
            await self._finish(seconds)

    async def _finish(self, seconds: float) -> None:
        """Close what its last user has left; whoever opens the connection anew may come before the closer."""
        driver, self._unfinished = self._unfinished, None
        if driver is not None:
            try:
                await driver.close(seconds)
            finally:
                self.trailing_octets = driver.trailing_octets

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close(None if exc_type is None else min(ABANDON_TIMEOUT, self.close_timeout))

    @property
    def process(self) -> Popen[bytes] | None:
        """The child process of this opening, if the stream is one to a child."""
        return self._driver.transport.process if self._driver else None

    @property
    def outstanding(self) -> int:
        """Our requests that have no answer yet, those that wait for room among them."""
        return self._driver.outstanding if self._driver else 0

    async def join(self, timeout: float | None = None) -> bool:
        """Wait until nothing more is received or sent; returns at once after close. False at the timeout."""
        return await self.join_recv(timeout)

    async def join_recv(self, timeout: float | None = None) -> bool:
        """Wait until nothing more is received: servers await this. False at the timeout.

        Raises `ConnectionEnded` if the connection was never opened.
        """
        limit = time_limit(timeout)
        driver = self._driver or self._open_driver()
        if not driver.is_gone:
            driver.check_loop(self)
        return await driver.join_receive(limit)

    def _open_driver(self) -> Driver:
        driver = super()._open_driver()
        driver.check_loop(self)
        return driver

    def send_erq(self) -> None:
        """Announce that this side sends no more requests, behind those that wait for room."""
        self._open_driver().end_requests()

    def send_eof(self) -> None:
        """Announce the end: EOF leaves as soon as the replies that are owed have left."""
        self._open_driver().end()

    # calls

    async def __call__(
        self,
        rq_type: int,
        payload: BytesLike = b"",
        flags: int = 0,
        *,
        decode_response: DecodeResponse | None = None,
        channel: int = 0,
        label: str | None = None,
        timeout: float | None = None,
        body: object = None,
        fallback: str | None = None,
        **options: Unpack[CallOptions],
    ) -> Response:
        """Ask and wait for the response: `(ok, flags, payload)`.

        Waits for room too. If the task is cancelled, or `timeout` seconds are over, a late response is
        dropped. Takes the options and the `body` of the call of a `PacketConnection`, and raises as that does.
        A body may be an asynchronous iterable, too; a file is read in a thread.
        """
        if body is not None:
            asked = rq_type, flags, payload, channel
            return await self._call_with_body(asked, body, fallback, label, timeout, options, decode_response)
        driver = self._driver
        if driver is None or not self._opens or get_ident() != driver.thread or not driver.is_running():
            driver = self._open_driver()
        if self._hooks is not None or (
            (options or serving.get() is not None) and (options or outer_request() is not None)
        ):
            response = await self._call_as_planned(
                driver, (rq_type, flags, payload, channel), label, timeout, options
            )
            if decode_response is None or not response[0]:
                return response
            return True, response[1], decode_response(response[1], response[2])
        limit = None if timeout is None else time_limit(timeout)
        calls = driver.calls
        tag = -1
        future: asyncio.Future[Response] | None = None
        if limit is None:
            future = driver.loop.create_future()
            tag = calls.ask(CallWaiter(future), rq_type, flags, payload, channel)
        if future is not None and tag >= 0:
            try:
                response = await future
            except BaseException:
                calls.forget(channel, tag)
                raise
        else:
            request = calls.submit(rq_type, flags, payload, channel, None, False)
            if limit is not None:
                self._limit(driver, request, rq_type, label, timeout, limit)
            response = await request
        if decode_response is None or not response[0]:
            return response
        return True, response[1], decode_response(response[1], response[2])

    async def _call_with_body(
        self,
        request: tuple[int, int, BytesLike, int],
        body: object,
        fallback: str | None,
        label: str | None,
        timeout: float | None,
        options: CallOptions,
        decode_response: DecodeResponse | None,
    ) -> Response:
        from packetwire._async.bodies import call_with_body
        from packetwire.aio.bodycalls import joined_for

        rq_type, flags, _, channel = request
        check_fallback(fallback)
        deadline = deadline_of(timeout, options.get("deadline"))
        joined = await joined_for(self._open_driver(), request, body, fallback, deadline)
        if joined is not None:
            return await self(
                rq_type, joined, flags, decode_response=decode_response, channel=channel, label=label,
                timeout=timeout, **options
            )  # fmt: skip
        call = self._stream(request, label, timeout, ..., options, takes_body=False)
        response = await call_with_body(call, body, timeout)
        if decode_response is None or not response[0]:
            return response
        return True, response[1], decode_response(response[1], response[2])

    def stream(
        self,
        rq_type: int,
        payload: BytesLike = b"",
        flags: int = 0,
        *,
        channel: int = 0,
        label: str | None = None,
        timeout: float | None = None,
        body_timeout: float | EllipsisType | None = ...,
        **options: Unpack[CallOptions],
    ) -> AsyncStreamCall:
        """A request with a body, whose response may have one, too: an `AsyncStreamCall`, for `async with`.

        The request leaves at the begin of the block, with its `payload`. `timeout` are the seconds for finding room
        within the bounds, `body_timeout` those for which a body may stand still; by default, that of the
        connection. Takes the options of the call. The block raises as `submit`; `CapabilityMissing` to a peer
        without bodies; `LimitExceeded` while as many bodies are open as this end takes, which are 64.
        """
        return self._stream(
            (rq_type, flags, payload, channel), label, timeout, body_timeout, options, takes_body=True
        )

    def _stream(
        self,
        request: tuple[int, int, BytesLike, int],
        label: str | None,
        timeout: float | None,
        body_timeout: float | EllipsisType | None,
        options: CallOptions,
        *,
        takes_body: bool,
    ) -> AsyncStreamCall:
        from packetwire._async.bodies import AsyncStreamCall  # only who has bodies needs it
        from packetwire.aio.bodycalls import begin

        limit = time_limit(timeout)
        still = self.body_timeout if isinstance(body_timeout, EllipsisType) else time_limit(body_timeout)
        return AsyncStreamCall(
            lambda: begin(
                self._open_driver(), request, options, limit, label, self._hooks, still, takes_body=takes_body
            )
        )

    def submit(
        self,
        rq_type: int,
        flags: int = 0,
        payload: BytesLike = b"",
        *,
        decode_response: DecodeResponse | None = None,
        channel: int = 0,
        label: str | None = None,
        timeout: float | None = None,
        body: Any = None,
        fallback: str | None = None,
        **options: Unpack[CallOptions],
    ) -> RequestFuture:
        """Ask, return an asyncio future that will be `(ok, flags, payload)`; `timeout` is for the response.

        The request leaves in this round of the loop, or when there is room for it within `max_outstanding`
        and `max_unsent`. As much again is kept, then this raises `LimitExceeded`: whoever submits many
        requests awaits `drain` before each, or uses `map`. Else it raises as the call does, and so does the
        future. A `body` is sent by a task, which ends with the future.
        """
        driver = self._driver
        if driver is None or not self._opens or get_ident() != driver.thread or not driver.is_running():
            driver = self._open_driver()
        if body is not None:
            from packetwire.aio.bodycalls import submit_with_body

            check_fallback(fallback)
            limit = time_limit(timeout)
            request = submit_with_body(
                driver, (rq_type, flags, payload, channel), body, fallback, options, label, self._hooks,
                self.body_timeout, decode_response,
            )  # fmt: skip
            if limit is not None:
                self._limit(driver, request, rq_type, label, timeout, limit)
            return request
        if self._hooks is not None or (
            (options or serving.get() is not None or plainly) and (options or outer_request() is not None)
        ):
            request, span = self._submit_as_planned(
                driver, (rq_type, flags, payload, channel), decode_response, label, timeout, options
            )
            if span is not None:
                leave_when_done(driver, request, span, label)
            return request
        if timeout is None:
            return driver.submit(rq_type, flags, payload, channel, decode_response, True)
        limit = time_limit(timeout)
        request = driver.submit(rq_type, flags, payload, channel, decode_response, True)
        if limit is not None:
            self._limit(driver, request, rq_type, label, timeout, limit)
        return request

    def _submit_as_planned(
        self,
        driver: Driver,
        request: Request,
        decode_response: DecodeResponse | None,
        label: str | None,
        timeout: float | None,
        options: CallOptions,
    ) -> tuple[RequestFuture, Span | None]:
        limit = time_limit(timeout)
        future, span = submit_planned(
            driver, request, options, outer_request(), decode_response, label, self._hooks
        )
        if limit is not None:
            self._limit(driver, future, request[0], label, timeout, limit)
        return future, span

    async def _call_as_planned(
        self, driver: Driver, request: Request, label: str | None, timeout: float | None, options: CallOptions
    ) -> Response:
        """The span is left in the task that calls, as it was entered there."""
        future, span = self._submit_as_planned(driver, request, None, label, timeout, options)
        if span is None:
            return await future
        try:
            response = await future
        except BaseException as error:
            span.leave(error)
            raise
        leave_by(driver, span, response, label)
        return response

    async def ping(self, timeout: float | None = None) -> float:
        """Seconds that a packet to the peer and back takes; as `PacketConnection.ping`."""
        return await self._open_driver().control.ping(deadline_of(timeout))

    async def describe(self, timeout: float | None = None) -> bytes:
        """Ask the peer what its service offers; as `PacketConnection.describe`."""
        ok, flags, payload = await self._open_driver().control.describe(deadline_of(timeout))
        if not ok:
            raise self.failure(flags, payload, "DESCRIBE")
        description: bytes = payload
        return description

    async def drain_peer(
        self, timeout: float | None = None, *, cut_off: float | None = None, reason: str = ""
    ) -> None:
        """Tell the peer to send no more requests, and wait until it knows; as `PacketConnection.drain_peer`."""
        control = self._open_driver().control
        await control.drain(milliseconds_of(cut_off), reason, deadline_of(timeout))

    async def drain(self, *, timeout: float | None = None) -> None:
        """Wait until there is room for one more request, or none can be made any more.

        Raises `RequestTimeout` after `timeout` seconds.
        """
        await self._open_driver().drain(time_limit(timeout))

    def _limit(
        self,
        driver: Driver,
        request: RequestFuture,
        rq_type: int,
        label: str | None,
        timeout: float | None,
        limit: float,
    ) -> None:
        # not a method of ours: the timer must not keep us alive
        why = partial(_timeout_text, str(self), driver, request, rq_type, label, timeout)
        request.timer = driver.loop.call_later(limit, driver.calls.time_out, request, why)

    def map(
        self,
        requests: Iterable[int | tuple[int, BytesLike] | tuple[int, int, BytesLike]],
        *,
        window: int = 64,
        channel: int = 0,
        timeout: float | None = None,
        return_exceptions: bool = False,
        **options: Unpack[CallOptions],
    ) -> AsyncGenerator[Response]:
        """Ask many, up to `window` at a time, yield the responses in the order of the requests.

        A request is an rq_type, (rq_type, payload) or (rq_type, flags, payload). `timeout` limits the wait
        for each response. An exception that a request raises ends the iteration, and has the request as
        `request`; with `return_exceptions` it is yielded in place of the response, and the others go on.
        """
        time_limit(timeout)  # raises here, not at the first response
        return pipelined(
            self,
            lambda request: self.submit(*request_arguments(request), channel=channel, timeout=timeout, **options),
            requests,
            window,
            timeout,
            return_exceptions,
        )


def _timeout_text(
    conn: str, driver: Driver, request: RequestFuture, rq_type: int, label: str | None, timeout: float | None
) -> str:
    hint = driver.transport.hint()
    return no_response(conn, driver.engine, rq_type, request.channel, request.tag, label, timeout, hint)

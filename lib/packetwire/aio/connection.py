"""`AsyncPacketConnection`: requests and responses both ways over one stream, for programs with asyncio.

The class is what its user sees: opening and closing, which are counted, and the calls. The work is done by
a `Driver`, one per opening, so that a connection can be opened again.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncGenerator, Callable, Container, Iterable, Mapping
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from packetwire.aio.belonging import running_loop
from packetwire.aio.capturing import CapturedTransport
from packetwire.aio.driver import Driver
from packetwire.aio.opening import AsyncRecvSend, open_transport
from packetwire.aio.polled import PolledTransport
from packetwire.aio.request import RequestFuture
from packetwire.core.channels import RequestHandler
from packetwire.core.events import Event, RequestReceived, without_payload
from packetwire.core.requests import Responder
from packetwire.core.responses import DecodeResponse, Response
from packetwire.core.settings import (
    DEFAULT_CLOSE_TIMEOUT,
    DEFAULT_HANDLERS,
    DEFAULT_MAX_OUTSTANDING,
    DEFAULT_MAX_PACKET_SIZE,
    DEFAULT_MAX_UNSENT,
    Settings,
)
from packetwire.core.timelimits import seconds_of, time_limit
from packetwire.core.varint import BytesLike
from packetwire.errors import ConnectionEnded, LocalProtocolError, about_request
from packetwire.face import ABANDON_TIMEOUT, ConnectionFace, request_arguments

if TYPE_CHECKING:
    from subprocess import Popen

    from packetwire.capture import CaptureWriter

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
      a task for each request, which may use this connection. A plain function runs in a thread, as many as
      `handlers` at once, or in the loop if that is "inline" or the request's type is in `inline`: right for
      what is quick. It returns what a handler of `PacketConnection` may return, or an awaitable of that.
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
            ),
            request_handler=request_handler,
            trace_log=trace_log,
            on_event=on_event,
            leading_octets=leading_octets,
            capture=capture,
            channels=channels,
        )
        self._opening = asyncio.Lock()  # keeps opening and closing apart
        self._unfinished: Driver | None = None
        """What its last user has left, and may not have begun to close."""

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
            )
        except BaseException:
            await transport.close(b"")
            raise
        # before it starts: a handler may be called, and ask back, before we return
        self._driver, self._opens, self._was_open = driver, 1, True
        try:
            await driver.start()
        except BaseException:
            self._opens = 0
            await driver.close(0.0)
            raise

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
        """Wait until nothing more is received: servers await this. False at the timeout."""
        limit = time_limit(timeout)
        driver = self._driver
        if driver is None:
            return True
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
    ) -> Response:
        """Ask and wait for the response: `(ok, flags, payload)`.

        Waits for room too. If the task is cancelled, or `timeout` seconds are over, a late response is
        dropped. Raises as the call of a `PacketConnection` does.
        """
        driver = self._driver
        if driver is None or not self._opens or driver.loop is not running_loop():
            driver = self._open_driver()
        limit = None if timeout is None else time_limit(timeout)
        future = driver.loop.create_future()
        tag = driver.ask(future, rq_type, flags, payload, channel) if limit is None else -1
        if tag >= 0:
            try:
                response: Response = await future
            except BaseException:
                driver.forget(channel, tag)
                raise
        else:
            request = RequestFuture(driver, channel)
            driver.request(request, rq_type, flags, payload)
            if limit is not None:
                self._limit(driver, request, rq_type, label, timeout, limit)
            response = await request
        if decode_response is None or not response[0]:
            return response
        return True, response[1], decode_response(response[1], response[2])

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
    ) -> RequestFuture:
        """Ask, return an asyncio future that will be `(ok, flags, payload)`; `timeout` is for the response.

        The request leaves in this round of the loop, or when there is room for it within `max_outstanding`
        and `max_unsent`. As much again is kept, then this raises `LimitExceeded`: whoever submits many
        requests awaits `drain` before each, or uses `map`. Else it raises as the call does, and so does the
        future.
        """
        driver = self._open_driver()
        limit = None if timeout is None else time_limit(timeout)
        request = RequestFuture(driver, channel, decode_response)
        driver.request(request, rq_type, flags, payload, bounded=True)
        if limit is not None:
            self._limit(driver, request, rq_type, label, timeout, limit)
        return request

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
        request.timer = driver.loop.call_later(limit, driver.time_out, request, why)

    def map(
        self,
        requests: Iterable[int | tuple[int, BytesLike] | tuple[int, int, BytesLike]],
        *,
        window: int = 64,
        channel: int = 0,
        timeout: float | None = None,
        return_exceptions: bool = False,
    ) -> AsyncGenerator[Response]:
        """Ask many, up to `window` at a time, yield the responses in the order of the requests.

        A request is an rq_type, (rq_type, payload) or (rq_type, flags, payload). `timeout` limits the wait
        for each response. An exception that a request raises ends the iteration, and has the request as
        `request`; with `return_exceptions` it is yielded in place of the response, and the others go on.
        """
        time_limit(timeout)  # a mistake is told here, not at the first response
        return pipelined(
            self,
            lambda request: self.submit(*request_arguments(request), channel=channel, timeout=timeout),
            requests,
            window,
            return_exceptions=return_exceptions,
        )

    def take(self, event: RequestReceived) -> Responder:
        """In `on_event`: take this request over from the request handler, and answer it by the `Responder`."""
        driver = self._open_driver()
        responder = Responder()
        driver.take(event)
        responder.when_done(partial(driver.answer, without_payload(event)))
        return responder


def _timeout_text(
    conn: str, driver: Driver, request: RequestFuture, rq_type: int, label: str | None, timeout: float | None
) -> str:
    what = f"request {request.tag}" + (f" ({label})" if label else "")
    if request.channel:
        what += f" on channel {request.channel}"
    partial_octets = driver.engine.partial_octets
    hint = f"; a packet has begun: {partial_octets[:100]!r}" if partial_octets else ""
    hint += driver.transport.hint()
    return f"{conn}: no response to {what}, rq_type {rq_type}, within {timeout} s{hint}"


def pipelined(
    conn: AsyncPacketConnection,
    submit: Callable[[Any], RequestFuture],
    requests: Iterable[Any],
    window: int,
    decode: Callable[[Any, Response], Any] | None = None,
    return_exceptions: bool = False,
) -> AsyncGenerator[Any]:
    """Submit `requests`, up to `window` ahead of the responses, and yield these in order.

    If `decode(request, response)` is given, what it makes of them is yielded. If the iteration is left early, the
    requests under way are cancelled when it is closed.
    """
    if not window >= 1:  # nor NaN
        raise LocalProtocolError(f"window must be 1 or more, got {window}")
    return _pipeline(conn, submit, requests, window, decode, return_exceptions)


async def _pipeline(
    conn: AsyncPacketConnection,
    submit: Callable[[Any], RequestFuture],
    requests: Iterable[Any],
    window: int,
    decode: Callable[[Any, Response], Any] | None,
    return_exceptions: bool,
) -> AsyncGenerator[Any]:
    under_way: deque[tuple[int, Any, RequestFuture | Exception]] = deque()

    async def collected(number: int, request: Any, future: RequestFuture | Exception) -> Any:
        try:
            if isinstance(future, Exception):
                raise future
            response = await future
            return response if decode is None else decode(request, response)
        except Exception as error:
            about_request(error, number, request)
            if not return_exceptions:
                raise
            return error

    try:
        for number, request in enumerate(requests):
            if len(under_way) >= window:
                yield await collected(*under_way.popleft())
            try:
                await conn.drain()
                under_way.append((number, request, submit(request)))
            except Exception as error:
                if not return_exceptions:
                    about_request(error, number, request)
                    raise
                under_way.append((number, request, error))
        while under_way:
            yield await collected(*under_way.popleft())
    finally:
        for _, _, future in under_way:
            if not isinstance(future, Exception):
                future.cancel()

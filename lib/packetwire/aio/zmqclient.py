"""`AsyncPacketClient`: requests that any of many workers may answer, in an event loop."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Self

from packetwire.aio.zmqlink import LoopLink
from packetwire.core.pending import PendingRequests
from packetwire.core.timelimits import seconds_of, time_limit
from packetwire.core.varint import BytesLike
from packetwire.errors import ConnectionEnded, LimitExceeded, LocalProtocolError, RequestTimeout
from packetwire.streams import forking
from packetwire.streams.curve import CurveClient
from packetwire.streams.zmqsockets import ZmqContext
from packetwire.zmqlink import DEFAULT_ATTEMPTS, DEFAULT_TIMEOUT, MAX_PENDING, Message, Response, packet_of


class AsyncPacketClient:
    """Sends requests that any worker may answer. Use it by `async with`, or `close` it; in one event loop."""

    def __init__(
        self,
        endpoint: str,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        attempts: int = DEFAULT_ATTEMPTS,
        max_pending: int = MAX_PENDING,
        curve: CurveClient | None = None,
        context: ZmqContext | None = None,
    ) -> None:
        """`timeout` is the default of each request; an idempotent one is sent up to `attempts` times."""
        timeout = seconds_of(timeout)
        if not timeout > 0:
            raise LocalProtocolError("timeout, attempts and max_pending must be more than 0")
        self.endpoint = endpoint
        self._timeout = timeout
        self._pending: PendingRequests[asyncio.Future[Response]] = PendingRequests(attempts, max_pending)
        self._room = asyncio.Event()
        self._closed = False
        self._lost: Exception | None = None
        self._link = LoopLink(
            endpoint,
            receive=self._receive,
            tick=self._see_to_deadlines,
            lost=self._socket_lost,
            queue=max_pending,
            curve=curve,
            context=context,
        )
        forking.register(self)

    def after_fork(self) -> None:
        """In the child of a fork: the client is the parent's, and so are the responses that it waits for."""
        self._lost = ConnectionEnded(forking.of_parent(f"the client of {self.endpoint}"))
        self._closed = True
        self._link.after_fork()

    def __str__(self) -> str:
        return f"the client of {self.endpoint}"

    @property
    def late_responses(self) -> int:
        """Responses whose caller had given up, or had another one already."""
        return self._pending.late_responses

    async def __call__(
        self,
        rq_type: int,
        payload: BytesLike = b"",
        flags: int = 0,
        *,
        channel: int = 0,
        timeout: float | None = None,
        idempotent: bool = False,
    ) -> Response:
        """Ask and wait for the response: `(ok, flags, payload)`. Raises `RequestTimeout`.

        Waits for room, too, while `max_pending` requests are without an answer.
        """
        timeout = self._timeout if timeout is None else seconds_of(timeout)
        deadline = time.monotonic() + timeout
        if self._pending.is_full:
            await self.drain(timeout=timeout)
        return await self._submit(rq_type, flags, payload, channel, deadline, idempotent)

    def submit(
        self,
        rq_type: int,
        flags: int = 0,
        payload: BytesLike = b"",
        *,
        channel: int = 0,
        timeout: float | None = None,
        idempotent: bool = False,
    ) -> asyncio.Future[Response]:
        """Ask; the future gets `(ok, flags, payload)`, or `RequestTimeout`.

        With `idempotent` the request may be performed several times: it is sent again, to another worker if
        there is one, when a part of the time is over. Raises `LimitExceeded` while `max_pending` are without an
        answer: whoever submits many awaits `drain` before each.
        """
        deadline = time.monotonic() + (self._timeout if timeout is None else seconds_of(timeout))
        return self._submit(rq_type, flags, payload, channel, deadline, idempotent)

    def _submit(
        self, rq_type: int, flags: int, payload: BytesLike, channel: int, deadline: float, idempotent: bool
    ) -> asyncio.Future[Response]:
        self._check_open()
        if self._pending.is_full:
            raise LimitExceeded(
                f"{self.endpoint}: {len(self._pending)} requests are without an answer, no room for one more"
            )
        future: asyncio.Future[Response] = self._link.loop.create_future()
        now = time.monotonic()
        tag, packet = self._pending.ask(future, rq_type, flags, payload, channel, now, deadline, idempotent)
        future.add_done_callback(lambda done: self._given_up(tag) if done.cancelled() else None)
        self._link.send([packet])
        return future

    def _check_open(self) -> None:
        if not self._closed:
            self._link.check_loop(self)
            return
        raise ConnectionEnded(f"{self.endpoint}: this client is closed") from self._lost

    async def drain(self, *, timeout: float | None = None) -> None:
        """Wait until there is room for one more request. Raises `RequestTimeout` after `timeout` seconds."""
        self._check_open()
        try:
            async with asyncio.timeout(time_limit(timeout)):
                while self._pending.is_full:
                    self._room.clear()
                    await self._room.wait()
        except TimeoutError:
            raise RequestTimeout(
                f"{self.endpoint}: {len(self._pending)} requests are without an answer, no room for one more"
            ) from None

    async def close(self) -> None:
        """End it: requests without an answer get `ConnectionEnded`. A second call does nothing."""
        if self._closed:
            return
        self._link.check_loop(self)
        self._end("this client was closed")
        await self._link.stop()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    def _end(self, why: object, cause: Exception | None = None) -> None:
        self._closed = True
        for future in self._pending.take_all():
            reason = ConnectionEnded(f"{self.endpoint}: {why}")
            reason.__cause__ = cause
            _fail(future, reason)
        self._room.set()

    def _socket_lost(self, error: Exception) -> None:
        """Nothing will come any more."""
        if not self._closed:
            self._lost = error
            self._end(error, error)

    def _given_up(self, tag: int) -> None:
        self._pending.forget(tag)
        self._room.set()

    def _receive(self, message: Message) -> None:
        packet = packet_of(message, self.endpoint)
        future = None if packet is None else self._pending.answer(packet)
        if packet is None or future is None:
            return
        self._room.set()
        if not future.done():
            future.set_result((bool(packet.flags & 1), packet.flags >> 1, packet.payload))

    def _see_to_deadlines(self) -> float | None:
        """Send again or give up what is due; seconds until the next is."""
        due = self._pending.due(time.monotonic(), asyncio.Future.cancelled)
        for packet in due.again:
            self._link.send([packet])
        for tag, future in due.late.items():
            _fail(future, RequestTimeout(f"{self.endpoint}: no response in time to request {tag}"))
            self._room.set()
        return due.seconds


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    """There will be no response; asyncio does not complain if nobody collects the `error`."""
    if not future.done():
        future.set_exception(error)
        future.exception()

"""`AsyncHasPacketConnection`: an object with a connection in an event loop, whose requests are classes."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping
from inspect import iscoroutinefunction
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, overload

from packetwire.aio.connection import AsyncPacketConnection, pipelined
from packetwire.aio.opening import AsyncRecvSend
from packetwire.aio.request import RequestFuture
from packetwire.core.requests import BaseRequest, HasRequestMap
from packetwire.core.responses import Response
from packetwire.core.timelimits import time_limit
from packetwire.errors import RequestFailed

ResponseT = TypeVar("ResponseT")


class AsyncHasPacketConnection(HasRequestMap):
    """A mixin for a class that speaks a protocol of `BaseRequest` classes, as client, server or both.

    As `HasPacketConnection`, with an `AsyncPacketConnection` as `conn`. A request class's `fulfil` may be
    `async def`; then it runs in the loop. It is an asynchronous context manager for its connection.
    """

    def __init__(
        self,
        recv_send: AsyncRecvSend,
        name: str | None = None,
        *,
        rq_type_map: Mapping[int, type[BaseRequest[Any]]],
        **packet_kw: Any,
    ) -> None:
        self._keep_request_map(rq_type_map)
        inline = {rq_type for rq_type, rq_class in rq_type_map.items() if _runs_in_the_loop(rq_class)}
        packet_kw.setdefault("request_handler", self.conn_handle_request)
        packet_kw.setdefault("inline", inline or None)
        self.conn = AsyncPacketConnection(recv_send, name, **packet_kw)

    async def __aenter__(self) -> Self:
        await self.conn.open()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.conn.__aexit__(exc_type, exc, traceback)

    def conn_submit(
        self,
        rq: BaseRequest[Any],
        *,
        channel: int = 0,
        label: str | None = None,
        timeout: float | None = None,
    ) -> RequestFuture:
        """Submit a request, return an asyncio future that will be `(ok, flags, payload)`."""
        rq_type = self._rq_type_of(rq)
        if label is None:
            label = type(rq).__name__
        return self.conn.submit(rq_type, rq.flags, bytes(rq), channel=channel, label=label, timeout=timeout)

    async def conn_do_remote(
        self,
        rq: BaseRequest[ResponseT],
        *,
        channel: int = 0,
        label: str | None = None,
        timeout: float | None = None,
    ) -> ResponseT:
        """Run a request at the far end, return its decoded response.

        Opens the connection for the call if it is not open. Raises `RequestFailed` (a ValueError) if the
        response is "not ok", and as `AsyncPacketConnection.__call__` does.
        """
        async with self.conn as conn:
            response = await conn(
                self._rq_type_of(rq), bytes(rq), rq.flags, channel=channel, label=label, timeout=timeout
            )
        return _decoded(rq, response)

    @overload
    def conn_map(
        self,
        requests: Iterable[BaseRequest[ResponseT]],
        *,
        window: int = 64,
        channel: int = 0,
        timeout: float | None = None,
        return_exceptions: Literal[False] = False,
    ) -> AsyncGenerator[ResponseT]: ...

    @overload
    def conn_map(
        self,
        requests: Iterable[BaseRequest[ResponseT]],
        *,
        window: int = 64,
        channel: int = 0,
        timeout: float | None = None,
        return_exceptions: bool,
    ) -> AsyncGenerator[ResponseT | Exception]: ...

    def conn_map(
        self,
        requests: Iterable[BaseRequest[ResponseT]],
        *,
        window: int = 64,
        channel: int = 0,
        timeout: float | None = None,
        return_exceptions: bool = False,
    ) -> AsyncGenerator[Any]:
        """Run many requests, up to `window` at a time, yield their decoded responses in order.

        Raises as `conn_do_remote` does, at the request that failed, which is the exception's `request`; with
        `return_exceptions` the exception is yielded in place of the response, and the others go on.
        """
        time_limit(timeout)  # a mistake is told here, not at the first response

        def submit(rq: BaseRequest[ResponseT]) -> RequestFuture:
            return self.conn_submit(rq, channel=channel, timeout=timeout)

        return pipelined(self.conn, submit, requests, window, _decoded, return_exceptions)


def _runs_in_the_loop(rq_class: type[BaseRequest[Any]]) -> bool:
    return getattr(rq_class, "inline", False) or iscoroutinefunction(rq_class.fulfil)


def _decoded(rq: BaseRequest[ResponseT], response: Response) -> ResponseT:
    ok, flags, payload = response
    if not ok:
        raise RequestFailed(flags, payload, type(rq).__name__)
    return rq.decode_response_payload(flags, payload)

# Made from _async/service.py by tools/unasync.py: change that one, and run it.
"""`HasPacketConnection`: an object with a connection, whose requests are classes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from types import EllipsisType, TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, Unpack, overload

from packetwire._sync.host import Answer, is_for_connection, runs_inline
from packetwire._sync.mapping import as_they_come, pipelined
from packetwire.connection import PacketConnection
from packetwire.core.calloptions import CallOptions
from packetwire.core.descriptions import description_of
from packetwire.core.requests import BaseRequest, HasRequestMap
from packetwire.core.responses import Response
from packetwire.core.timelimits import time_limit
from packetwire.streams.open import PacketConnectionRecvSend

if TYPE_CHECKING:
    from packetwire._sync.bodies import StreamCall
    from packetwire.result import RequestResult

ResponseT = TypeVar("ResponseT")


class HasPacketConnection(HasRequestMap):
    """A mixin for a class that speaks a protocol of `BaseRequest` classes, as client, server or both.

    `conn` is its `PacketConnection`. `rq_type_map` maps request types to classes; requests that come in
    are decoded by it and fulfilled with this object as their context. It is a context manager for its
    connection. With `describe` it tells whoever asks the numbers and names of the requests, as `packetwire serve`
    does. Further arguments go to `PacketConnection`.

    In an event loop, the `fulfil` of a request class may be `async def`; then it runs in the loop.
    """

    __module__ = "packetwire.service"  # where it is public

    def __init__(
        self,
        recv_send: PacketConnectionRecvSend,
        name: str | None = None,
        *,
        rq_type_map: Mapping[int, type[BaseRequest[Any]]],
        describe: bool = False,
        **packet_kw: Any,
    ) -> None:
        self._keep_request_map(rq_type_map)
        inline = {rq_type for rq_type, rq_class in rq_type_map.items() if runs_inline(rq_class)}
        packet_kw.setdefault("request_handler", self.conn_handle_request)
        packet_kw.setdefault("inline", inline or None)
        if describe:
            packet_kw.setdefault("description", description_of(type(self).__name__, rq_type_map))
        self.conn = PacketConnection(recv_send, name, **packet_kw)

    def __enter__(self) -> Self:
        if is_for_connection(type(self), HasPacketConnection):
            self.conn.open()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if is_for_connection(type(self), HasPacketConnection):
            self.conn.__exit__(exc_type, exc, traceback)

    def conn_submit(
        self,
        rq: BaseRequest[Any],
        *,
        channel: int = 0,
        label: str | None = None,
        timeout: float | None = None,
        body: Any = None,
        fallback: str | None = None,
        **options: Unpack[CallOptions],
    ) -> RequestResult:
        """Submit a request, return a result that will be `(ok, flags, payload)`.

        The options are those of a call of the connection: `deadline`, `meta`, `on_progress`, `idle_timeout`. The
        `body` is that of `submit` of the connection, and so is `fallback`.
        """
        rq_type = self._rq_type_of(rq)
        if label is None:
            label = type(rq).__name__
        return self.conn.submit(
            rq_type, rq.flags, bytes(rq), channel=channel, label=label, timeout=timeout, body=body,
            fallback=fallback, **options
        )  # fmt: skip

    def conn_begin(
        self,
        rq: BaseRequest[ResponseT],
        *,
        channel: int = 0,
        label: str | None = None,
        timeout: float | None = None,
        **options: Unpack[CallOptions],
    ) -> Answer[ResponseT]:
        """Submit a request, return an `Answer`: its decoded response, to be collected later.

        As `conn_submit`, but for what is collected: that is and raises what it is and raises for `conn_do_remote`.
        """
        future = self.conn_submit(rq, channel=channel, label=label, timeout=timeout, **options)
        return Answer(future, partial(self._decoded, rq))

    def conn_do_remote(
        self,
        rq: BaseRequest[ResponseT],
        *,
        channel: int = 0,
        label: str | None = None,
        timeout: float | None = None,
        **options: Unpack[CallOptions],
    ) -> ResponseT:
        """Run a request at the far end, return its decoded response.

        Opens the connection for the call if it is not open. Takes the options of a call of the connection. Raises
        `RequestFailed` (a ValueError) if the response is "not ok", and as `PacketConnection.__call__` does.
        """
        conn = self.conn
        rq_type = self._rq_type_of(rq)
        if label is None:
            label = type(rq).__name__
        with conn:  # counted also if it is open: its other users may close it before the request has left
            ok, flags, payload = conn(
                rq_type, bytes(rq), rq.flags, channel=channel, label=label, timeout=timeout, **options
            )
        if not ok:
            raise rq.decode_failed_response(conn.failure(flags, payload, type(rq).__name__))
        return rq.decode_response_payload(flags, payload)

    def conn_stream(
        self,
        rq: BaseRequest[Any],
        *,
        channel: int = 0,
        label: str | None = None,
        timeout: float | None = None,
        body_timeout: float | EllipsisType | None = ...,
        **options: Unpack[CallOptions],
    ) -> StreamCall:
        """A request with a body, whose response may have one, too: a `StreamCall`.

        As `stream` of the connection. The `fulfil` of the class may be a generator, and finds the request's body by
        `current_request`.
        """
        rq_type = self._rq_type_of(rq)
        if label is None:
            label = type(rq).__name__
        return self.conn.stream(
            rq_type,
            bytes(rq),
            rq.flags,
            channel=channel,
            label=label,
            timeout=timeout,
            body_timeout=body_timeout,
            **options,
        )

    @overload
    def conn_map(
        self,
        requests: Iterable[BaseRequest[ResponseT]],
        *,
        window: int = 64,
        channel: int = 0,
        timeout: float | None = None,
        return_exceptions: Literal[False] = False,
        **options: Unpack[CallOptions],
    ) -> Iterator[ResponseT]: ...

    @overload
    def conn_map(
        self,
        requests: Iterable[BaseRequest[ResponseT]],
        *,
        window: int = 64,
        channel: int = 0,
        timeout: float | None = None,
        return_exceptions: bool,
        **options: Unpack[CallOptions],
    ) -> Iterator[ResponseT | Exception]: ...

    def conn_map(
        self,
        requests: Iterable[BaseRequest[ResponseT]],
        *,
        window: int = 64,
        channel: int = 0,
        timeout: float | None = None,
        return_exceptions: bool = False,
        **options: Unpack[CallOptions],
    ) -> Iterator[Any]:
        """Run many requests, up to `window` at a time, yield their decoded responses in order.

        Raises as `conn_do_remote` does, at the request that failed, which is the exception's `request`; with
        `return_exceptions` the exception is yielded in place of the response, and the others go on.
        """
        time_limit(timeout)  # raises here, not at the first response

        def submit(rq: BaseRequest[ResponseT]) -> RequestResult:
            return self.conn_submit(rq, channel=channel, timeout=timeout, **options)

        return pipelined(self.conn, submit, requests, window, timeout, return_exceptions, self._decoded)

    @overload
    def conn_map_unordered(
        self,
        requests: Iterable[BaseRequest[ResponseT]],
        *,
        window: int = 64,
        channel: int = 0,
        timeout: float | None = None,
        return_exceptions: Literal[False] = False,
        **options: Unpack[CallOptions],
    ) -> Iterator[tuple[BaseRequest[ResponseT], ResponseT]]: ...

    @overload
    def conn_map_unordered(
        self,
        requests: Iterable[BaseRequest[ResponseT]],
        *,
        window: int = 64,
        channel: int = 0,
        timeout: float | None = None,
        return_exceptions: bool,
        **options: Unpack[CallOptions],
    ) -> Iterator[tuple[BaseRequest[ResponseT], ResponseT | Exception]]: ...

    def conn_map_unordered(
        self,
        requests: Iterable[BaseRequest[ResponseT]],
        *,
        window: int = 64,
        channel: int = 0,
        timeout: float | None = None,
        return_exceptions: bool = False,
        **options: Unpack[CallOptions],
    ) -> Iterator[Any]:
        """As `conn_map`, but yields pairs of a request and its decoded response, in the order of the responses."""
        time_limit(timeout)  # raises here, not at the first response

        def submit(rq: BaseRequest[ResponseT]) -> RequestResult:
            return self.conn_submit(rq, channel=channel, timeout=timeout, **options)

        return as_they_come(self.conn, submit, requests, window, timeout, return_exceptions, self._decoded)

    def _decoded(self, rq: BaseRequest[ResponseT], response: Response) -> ResponseT:
        ok, flags, payload = response
        if not ok:
            raise rq.decode_failed_response(self.conn.failure(flags, payload, type(rq).__name__))
        return rq.decode_response_payload(flags, payload)

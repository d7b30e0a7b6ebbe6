"""`HasPacketConnection`: an object with a connection whose requests are classes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, overload

from packetwire.connection import PacketConnection, pipelined
from packetwire.core.requests import BaseRequest, HasRequestMap
from packetwire.core.timelimits import time_limit
from packetwire.errors import RequestFailed
from packetwire.streams.open import PacketConnectionRecvSend

if TYPE_CHECKING:
    from packetwire.result import RequestResult

ResponseT = TypeVar("ResponseT")


class HasPacketConnection(HasRequestMap):
    """A mixin for a class that speaks a protocol of `BaseRequest` classes, as client, server or both.

    `conn` is its `PacketConnection`. `rq_type_map` maps request types to classes; requests that come in
    are decoded by it and fulfilled with this object as their context. It is a context manager for its
    connection. Further arguments go to `PacketConnection`.
    """

    def __init__(
        self,
        recv_send: PacketConnectionRecvSend,
        name: str | None = None,
        *,
        rq_type_map: Mapping[int, type[BaseRequest[Any]]],
        **packet_kw: Any,
    ) -> None:
        self._keep_request_map(rq_type_map)
        inline = {rq_type for rq_type, rq_class in rq_type_map.items() if getattr(rq_class, "inline", False)}
        packet_kw.setdefault("request_handler", self.conn_handle_request)
        packet_kw.setdefault("inline", inline or None)
        self.conn = PacketConnection(recv_send, name, **packet_kw)

    def __enter__(self) -> Self:
        if self._is_own_context():
            self.conn.open()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._is_own_context():
            self.conn.__exit__(exc_type, exc, traceback)

    @classmethod
    def _is_own_context(cls) -> bool:
        """Whether `with` is meant for the connection.

        A class with another context manager among its bases, such as a store that opens its connection on
        demand, may pass `__enter__` on to us without meaning that.
        """
        definer = next(base for base in cls.__mro__ if "__enter__" in vars(base))
        return issubclass(definer, HasPacketConnection)

    def conn_submit(
        self,
        rq: BaseRequest[Any],
        *,
        channel: int = 0,
        label: str | None = None,
        timeout: float | None = None,
    ) -> RequestResult:
        """Submit a request, return a `Result` that will be `(ok, flags, payload)`."""
        rq_type = self._rq_type_of(rq)
        if label is None:
            label = type(rq).__name__
        return self.conn.submit(rq_type, rq.flags, bytes(rq), channel=channel, label=label, timeout=timeout)

    def conn_do_remote(
        self,
        rq: BaseRequest[ResponseT],
        *,
        channel: int = 0,
        label: str | None = None,
        timeout: float | None = None,
    ) -> ResponseT:
        """Run a request at the far end, return its decoded response.

        Opens the connection for the call if it is not open. Raises `RequestFailed` (a ValueError) if the
        response is "not ok", and as `PacketConnection.__call__` does.
        """
        conn = self.conn
        rq_type = self._rq_type_of(rq)
        with conn:  # counted also if it is open: its other users may close it before the request has left
            ok, flags, payload = conn(rq_type, bytes(rq), rq.flags, channel=channel, label=label, timeout=timeout)
        if not ok:
            raise RequestFailed(flags, payload, type(rq).__name__)
        return rq.decode_response_payload(flags, payload)

    @overload
    def conn_map(
        self,
        requests: Iterable[BaseRequest[ResponseT]],
        *,
        window: int = 64,
        channel: int = 0,
        timeout: float | None = None,
        return_exceptions: Literal[False] = False,
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
    ) -> Iterator[ResponseT | Exception]: ...

    def conn_map(
        self,
        requests: Iterable[BaseRequest[ResponseT]],
        *,
        window: int = 64,
        channel: int = 0,
        timeout: float | None = None,
        return_exceptions: bool = False,
    ) -> Iterator[ResponseT | Exception]:
        """Run many requests, up to `window` at a time, yield their decoded responses in order.

        Raises as `conn_do_remote` does, at the request that failed, which is the exception's `request`; with
        `return_exceptions` the exception is yielded in place of the response, and the others go on.
        """

        time_limit(timeout)  # a mistake is told here, not at the first response

        def submit(rq: BaseRequest[ResponseT]) -> _Decoded:
            return _Decoded(rq, self.conn_submit(rq, channel=channel, timeout=timeout))

        return pipelined(submit, requests, window, timeout, return_exceptions)


class _Decoded:
    """The result of a request, decoded when it is collected."""

    def __init__(self, rq: BaseRequest[Any], result: RequestResult) -> None:
        self._rq = rq
        self._result = result
        self.cancel = result.cancel

    def __call__(self, *, timeout: float | None) -> Any:
        ok, flags, payload = self._result(timeout=timeout)
        if not ok:
            raise RequestFailed(flags, payload, type(self._rq).__name__)
        return self._rq.decode_response_payload(flags, payload)

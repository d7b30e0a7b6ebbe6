# Made from _async/typedcalls.py by tools/unasync.py: change that one, and run it.
"""`Client` and `ServiceSession`: the two ends of a connection on which a service is called."""

from __future__ import annotations

from collections.abc import Coroutine, Iterable, Iterator
from types import EllipsisType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Unpack, overload

from packetwire._sync.host import IS_ASYNC, Answer, answered
from packetwire._sync.service import HasPacketConnection
from packetwire.addresses import Address
from packetwire.core.calloptions import CallOptions
from packetwire.core.requests import BaseRequest, HandlerResult
from packetwire.streams.open import PacketConnectionRecvSend
from packetwire.typed.call import Call
from packetwire.typed.places import recv_send_of
from packetwire.typed.request import HasRequests, TypedRequest, Yielding, YieldingLater

if TYPE_CHECKING:
    from packetwire._sync.items import ItemStream

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")
Later = Coroutine[Any, Any, ResultT]
"""The result of a method that is `async def`, as its annotations say it; a client gets what is awaited."""


class TypedConnection(HasPacketConnection):
    """A connection on which typed requests are made, and answered by a service if there is one."""

    is_async = IS_ASYNC
    """True in an event loop."""

    def __init__(self, where: Any, service: HasRequests | None, **connection: Any) -> None:
        if service is None:
            connection.setdefault("request_handler", None)
        elif not callable(getattr(service, "request_map", None)) or isinstance(service, type):
            what = "not the class" if isinstance(service, type) else f"got {service!r:.100}"
            raise TypeError(f"serves= is a service, such as Shop(), {what}")
        super().__init__(where, rq_type_map={} if service is None else service.request_map(), **connection)
        self.service = service

    def conn_handle_request(self, rq_type: int, flags: int, payload: bytes) -> HandlerResult:
        """Decode a call that came in, and run its method."""
        return answered(self, self._request_that_came(rq_type, flags, payload), self.service)

    @overload
    def do(
        self,
        request: BaseRequest[Later[ResultT]],
        *,
        timeout: float | None = None,
        body_timeout: float | EllipsisType | None = ...,
        **options: Unpack[CallOptions],
    ) -> ResultT: ...

    @overload
    def do(
        self,
        request: BaseRequest[Yielding[ItemT]],
        *,
        timeout: float | None = None,
        body_timeout: float | EllipsisType | None = ...,
        **options: Unpack[CallOptions],
    ) -> ItemStream[ItemT]: ...

    @overload
    def do(
        self,
        request: BaseRequest[YieldingLater[ItemT]],
        *,
        timeout: float | None = None,
        body_timeout: float | EllipsisType | None = ...,
        **options: Unpack[CallOptions],
    ) -> ItemStream[ItemT]: ...

    @overload
    def do(
        self,
        request: BaseRequest[ResultT],
        *,
        timeout: float | None = None,
        body_timeout: float | EllipsisType | None = ...,
        **options: Unpack[CallOptions],
    ) -> ResultT: ...

    def do(
        self,
        request: BaseRequest[Any],
        *,
        timeout: float | None = None,
        body_timeout: float | EllipsisType | None = ...,
        **options: Unpack[CallOptions],
    ) -> Any:
        """Make a call, such as `Shop.put("Emma")`, and return its result.

        Takes the options of a call of the connection: `deadline`, `meta`, `on_progress`, `idle_timeout`.
        Raises the errors that its method lists, another `RequestFailed` if it failed, `BadValue` for an argument of
        the wrong kind, and as `PacketConnection.__call__` does. Opens the connection for the call if it is not
        open.

        A method that yields gives an `ItemStream`, whose connection must be open already. For one that takes
        or yields items `timeout` is for finding room and behind what was sent, and `body_timeout` are the seconds
        for which these may stand still; by default, that of the connection. It raises `CapabilityMissing` to a
        peer without bodies.
        """
        conn = self.conn
        if isinstance(request, Call) and request.has_streams:
            return self._do_streaming(request, timeout, body_timeout, options)
        if not (conn.is_open() and conn._hooks is None and isinstance(request, TypedRequest)):
            return self.conn_do_remote(request, timeout=timeout, **options)
        # the same in fewer steps: it is not opened once more
        number = request.operation.number
        ok, flags, payload = conn(number, bytes(request), request.flags, timeout=timeout, **options)
        if not ok:
            raise request.decode_failed_response(conn.failure(flags, payload, type(request).__name__))
        return request.decode_response_payload(flags, payload)

    def _do_streaming(
        self,
        request: Call[Any],
        timeout: float | None,
        body_timeout: float | EllipsisType | None,
        options: CallOptions,
    ) -> Any:
        from packetwire._sync.bodies import call_with_body
        from packetwire._sync.items import ItemReader, ItemStream
        from packetwire._sync.uploading import Upload, encoded
        from packetwire.typed.items import ItemDecoder

        conn, operation = self.conn, request.operation
        items_in, items_out = operation.items_in, operation.items_out
        what = operation.number, request.flags, bytes(request), 0
        is_read = items_out is not None
        call = conn._stream(what, operation.name, timeout, body_timeout, options, takes_body=is_read)
        if items_out is None:
            assert items_in is not None
            with conn:
                ok, flags, payload = call_with_body(call, encoded(items_in, request.items), timeout)
            if not ok:
                raise request.decode_failed_response(conn.failure(flags, payload, type(request).__name__))
            return request.decode_response_payload(flags, payload)
        call.__enter__()
        if items_in is None:
            call.finish()
        upload = None if items_in is None else Upload(call, encoded(items_in, request.items))
        items: ItemReader[object] = ItemReader(call.body, ItemDecoder(items_out, conn.max_packet_size))
        return ItemStream(conn, call, request, items, upload)

    @overload
    def submit(
        self, request: BaseRequest[Later[ResultT]], *, timeout: float | None = None, **options: Unpack[CallOptions]
    ) -> Answer[ResultT]: ...

    @overload
    def submit(
        self, request: BaseRequest[ResultT], *, timeout: float | None = None, **options: Unpack[CallOptions]
    ) -> Answer[ResultT]: ...

    def submit(
        self, request: BaseRequest[Any], *, timeout: float | None = None, **options: Unpack[CallOptions]
    ) -> Answer[Any]:
        """Begin a call, and return what will be its result. Takes the same options."""
        return self.conn_begin(request, timeout=timeout, **options)

    @overload
    def map(
        self,
        requests: Iterable[BaseRequest[ResultT]],
        *,
        window: int = 64,
        timeout: float | None = None,
        return_exceptions: Literal[False] = False,
        **options: Unpack[CallOptions],
    ) -> Iterator[ResultT]: ...

    @overload
    def map(
        self,
        requests: Iterable[BaseRequest[ResultT]],
        *,
        window: int = 64,
        timeout: float | None = None,
        return_exceptions: bool,
        **options: Unpack[CallOptions],
    ) -> Iterator[ResultT | Exception]: ...

    def map(
        self,
        requests: Iterable[BaseRequest[Any]],
        *,
        window: int = 64,
        timeout: float | None = None,
        return_exceptions: bool = False,
        **options: Unpack[CallOptions],
    ) -> Iterator[Any]:
        """Make many calls, up to `window` at a time, yield their results in order; see `conn_map`."""
        return self.conn_map(
            requests, window=window, timeout=timeout, return_exceptions=return_exceptions, **options
        )

    @overload
    def map_unordered(
        self,
        requests: Iterable[BaseRequest[ResultT]],
        *,
        window: int = 64,
        timeout: float | None = None,
        return_exceptions: Literal[False] = False,
        **options: Unpack[CallOptions],
    ) -> Iterator[tuple[BaseRequest[ResultT], ResultT]]: ...

    @overload
    def map_unordered(
        self,
        requests: Iterable[BaseRequest[ResultT]],
        *,
        window: int = 64,
        timeout: float | None = None,
        return_exceptions: bool,
        **options: Unpack[CallOptions],
    ) -> Iterator[tuple[BaseRequest[ResultT], ResultT | Exception]]: ...

    def map_unordered(
        self,
        requests: Iterable[BaseRequest[Any]],
        *,
        window: int = 64,
        timeout: float | None = None,
        return_exceptions: bool = False,
        **options: Unpack[CallOptions],
    ) -> Iterator[Any]:
        """As `map`, but yields pairs of a call and its result, in the order of the results."""
        return self.conn_map_unordered(
            requests, window=window, timeout=timeout, return_exceptions=return_exceptions, **options
        )

    def _rq_type_of(self, rq: BaseRequest[object]) -> int:
        if isinstance(rq, Call) and rq.has_streams:
            raise TypeError(f"{rq.operation.name} has a stream of items, so it is called by do(...) only")
        if isinstance(rq, TypedRequest):
            return rq.operation.number
        return super()._rq_type_of(rq)


class Client(TypedConnection):
    """Calls of a service over a connection, which is open inside `with`.

        with Client("unix:/run/shop.sock") as client:
            client.do(Shop.put("Emma"), timeout=5)

    `where` is an address, as for `connect_to`, or a stream, as for `PacketConnection`; further arguments go to
    that. `serves` is a service that the far end may call on the same connection. A method that is `async def` is
    called as any other.
    """

    __module__ = "packetwire.typed"  # where it is public

    def __init__(
        self,
        where: str | Address | PacketConnectionRecvSend,
        *,
        serves: HasRequests | None = None,
        **connection: object,
    ) -> None:
        super().__init__(recv_send_of(where), serves, **connection)


class ServiceSession(TypedConnection):
    """A service on one connection: what `Service.serve` makes for each client.

    It can ask the client in turn, as a `Client` does, for what that serves.
    """

    __module__ = "packetwire.typed"  # where it is public

    def __init__(self, recv_send: PacketConnectionRecvSend, service: HasRequests, **connection: object) -> None:
        super().__init__(recv_send, service, **connection)

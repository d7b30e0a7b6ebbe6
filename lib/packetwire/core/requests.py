"""Requests as classes, and what a handler's result means on the wire.

`BaseRequest` is a plain mixin over anything that has `from_bytes` and `__bytes__`: a dataclass with these
two methods, or a cs.binary class. A handler's result is turned into (flags, payload) by `response_parts`;
a *deferred* result (a `Responder`, a future, a cs.result.Result) is one that comes later.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, cast

from packetwire.core.engine import MAX_RESPONSE_FLAGS
from packetwire.core.faults import caused_by_peer
from packetwire.core.mistakes import check_request_map
from packetwire.core.varint import BytesLike
from packetwire.errors import LocalProtocolError, RequestError, RequestFailed

ResponseT_co = TypeVar("ResponseT_co", covariant=True)

Outcome = Callable[[], Any]
"""Returns what a deferred result came to, or raises."""

HandlerResult = Any
"""None | int | bytes-like | str | (int, bytes-like or str) | a deferred result of one of these."""


class BaseRequest(Generic[ResponseT_co]):
    """One operation of a protocol: a subclass per request type, an instance per request.

    A subclass gives `from_bytes` and `__bytes__` for its payload (as a dataclass with these methods, or
    through a cs.binary class behind `BaseRequest` in its bases, or as `parse` and `transcribe` of
    cs.binary's kind), `fulfil` for the far end, and `decode_response_payload` for what its caller gets.

    `flags` go with the request; subclasses may never call `__init__`, or make `flags` a property.
    A class with `inline = True` is fulfilled in the thread that reads the connection: right for what is
    quick, because everything behind it waits.
    """

    flags: int = 0
    inline: bool = False

    if TYPE_CHECKING:

        @classmethod
        def from_bytes(cls, bs: bytes) -> Self: ...

        def __bytes__(self) -> bytes: ...

    def __init__(self, *values: object, flags: int | None = None, **fields: object) -> None:
        """Keep `flags`, which may also come first, and hand the rest to the class behind in the bases.

        cs.binary's classes of one value (BinarySingleValue) parse themselves by `cls(value)`: with one of
        these behind, what comes first is the value.
        """
        if values and flags is None and not hasattr(self, "parse_value"):
            flags, *values = values  # type: ignore[assignment]
        if flags:
            self.flags = flags
        super().__init__(*values, **fields)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if hasattr(cls, "parse") and not hasattr(cls, "from_bytes"):
            cls.from_bytes = classmethod(_from_bytes_by_parse)  # type: ignore[assignment, method-assign]
        if hasattr(cls, "transcribe") and not hasattr(cls, "__bytes__"):
            cls.__bytes__ = _bytes_by_transcribe  # type: ignore[method-assign]

    @classmethod
    def from_request_payload(cls, flags: int, payload: bytes) -> Self:
        """Decode a request that was received; raises what `from_bytes` raises."""
        self = cls.from_bytes(payload)
        if self.flags != flags:
            try:
                object.__setattr__(self, "flags", flags)  # a frozen dataclass is no obstacle
            except AttributeError as error:
                raise ValueError(
                    f"{cls.__name__}: flags=0x{flags:02x} came with a payload that means 0x{self.flags:02x}"
                ) from error
        return self

    def fulfil(self, context: Any) -> HandlerResult:
        """Perform the request, at its receiving end; `context` is the object that has the connection.

        Returns None, an int (flags), bytes-like or str (payload), (int, payload), or a deferred result.
        An exception makes the response "not ok".
        """
        raise NotImplementedError(f"{type(self).__name__} has no fulfil method: it cannot be served here")

    def decode_response_payload(self, flags: int, payload: bytes) -> ResponseT_co:
        """The caller's result of an "ok" response; by default (flags, payload)."""
        return cast(ResponseT_co, (flags, payload))

    def decode_failed_response(self, failure: RequestFailed) -> Exception:
        """The exception that a response that is not ok raises for the caller; by default the `failure` itself."""
        return failure

    def _answer(self, context: object) -> HandlerResult:
        """The answer of the receiving end: the result of `fulfil`, which typed requests encode."""
        return self.fulfil(context)


class HasRequestMap:
    """The request classes of a service, whatever its connection is."""

    conn_rq_class_by_type: dict[int, type[BaseRequest[Any]]]
    """The class that decodes a request, by its type."""
    conn_type_by_rq_class: dict[type[BaseRequest[Any]], int]
    """The request type of each class, for what is sent."""

    if not TYPE_CHECKING:  # pragma: no branch  # it would hide each wrong name from type checkers

        def __getattr__(self, name: str) -> Any:
            """Say what is missing where a subclass has forgotten to call the `__init__` of this one."""
            if name in ("conn", "conn_rq_class_by_type", "conn_type_by_rq_class"):
                text = (
                    f"{type(self).__name__} has no {name!r}: its __init__ must call super().__init__(recv_send, …)"
                )
                raise AttributeError(text, name=name, obj=self)
            other = getattr(super(), "__getattr__", None)  # of another base
            if other is not None:
                return other(name)
            text = f"{type(self).__name__!r} object has no attribute {name!r}"
            raise AttributeError(text, name=name, obj=self)

    def _keep_request_map(self, rq_type_map: Mapping[int, type[BaseRequest[object]]]) -> None:
        check_request_map(rq_type_map, BaseRequest)
        self.conn_rq_class_by_type = dict(rq_type_map)
        self.conn_type_by_rq_class = {rq_class: rq_type for rq_type, rq_class in rq_type_map.items()}

    def conn_handle_request(self, rq_type: int, flags: int, payload: bytes) -> HandlerResult:
        """Decode a request that came in and fulfil it with this object as its context."""
        return self._request_that_came(rq_type, flags, payload)._answer(self)

    def _request_that_came(self, rq_type: int, flags: int, payload: bytes) -> BaseRequest[object]:
        rq_class = self.conn_rq_class_by_type.get(rq_type)
        if rq_class is None:
            known = ", ".join(f"{number}: {cls.__name__}" for number, cls in self.conn_rq_class_by_type.items())
            unknown = LocalProtocolError(f"unknown request type {rq_type}; known are {known}")
            caused_by_peer(unknown)
            raise unknown
        try:
            return rq_class.from_request_payload(flags, payload)
        except Exception as error:
            caused_by_peer(error)
            raise

    def _rq_type_of(self, rq: BaseRequest[object]) -> int:
        try:
            return self.conn_type_by_rq_class[type(rq)]
        except KeyError:
            if isinstance(rq, type):
                raise TypeError(f"{rq.__name__} is a class: make a request of it, {rq.__name__}(…)") from None
            known = ", ".join(cls.__name__ for cls in self.conn_type_by_rq_class)
            raise LocalProtocolError(
                f"{type(rq).__name__} is not in the rq_type_map of {type(self).__name__}; registered are {known}"
            ) from None


def _from_bytes_by_parse(cls: Any, bs: bytes) -> object:
    from cs.buffer import CornuCopyBuffer

    bfr = CornuCopyBuffer.from_bytes(bs)
    self = cls.parse(bfr)
    if not bfr.at_eof():
        raise ValueError(f"{cls.__name__}: unparsed data at offset {bfr.offset}: {bs[bfr.offset :]!r:.100}")
    return self


def _bytes_by_transcribe(self: Any) -> bytes:
    from cs.binary import flatten

    return b"".join(flatten(self.transcribe()))


def response_parts(result: HandlerResult) -> tuple[int, bytes]:
    """The (flags, payload) that a handler's result stands for.

    Raises TypeError or `LocalProtocolError` for a result that means nothing, naming it.
    """
    if result is None:
        return 0, b""
    if isinstance(result, bytes):
        return 0, result
    if isinstance(result, int):
        return _response_flags(result), b""
    if isinstance(result, str | bytearray | memoryview):
        return 0, _response_payload(result)
    if isinstance(result, tuple) and len(result) == 2 and isinstance(result[0], int):
        flags, payload = result
        return _response_flags(flags), _response_payload(payload)
    if isinstance(result, CoroutineType):
        result.close()  # which else would complain that nobody awaits it
        raise TypeError(
            f"{result.__qualname__} is an async def, which a connection with threads does not run: serve it by "
            "AsyncPacketConnection or AsyncHasPacketConnection"
        )
    raise TypeError(
        "a handler must return None, an int, bytes-like, str, (int, bytes-like) or a deferred result, "
        f"got {type(result).__name__}: {result!r:.100}"
    )


def _response_flags(flags: int) -> int:
    if not 0 <= flags <= MAX_RESPONSE_FLAGS:
        raise LocalProtocolError(f"response flags must be from 0 to {MAX_RESPONSE_FLAGS}, got {flags}")
    return int(flags)


def _response_payload(payload: BytesLike | str) -> bytes:
    if isinstance(payload, str):
        return payload.encode("utf-8", errors="xmlcharrefreplace")
    if isinstance(payload, bytes | bytearray | memoryview):
        return bytes(payload)
    raise TypeError(
        f"a response's payload must be bytes-like or str, got {type(payload).__name__}: {payload!r:.100}"
    )


class Refusal(RequestError, RuntimeError):
    """The error that `Responder.fail` makes of a text; a RuntimeError, as a user of a `Responder` may expect."""


class Responder:
    """A deferred result: return it from a handler, answer it later, once, from any thread."""

    def __init__(self) -> None:
        # each key is set or popped in one step, so that two threads can race without a lock
        self._cell: dict[str, Any] = {"unfired": True}

    def respond(self, result: HandlerResult = None) -> None:
        """Answer "ok" with what a handler may return; raises `LocalProtocolError` if answered before."""
        parts = response_parts(result)  # now: a bytearray may change, and its owner should see the TypeError
        self._settle(lambda: parts)

    def fail(self, error: BaseException | str) -> None:
        """Answer "not ok"; raises `LocalProtocolError` if answered before.

        A str is the text of a `RequestError`.
        """
        cause = error if isinstance(error, BaseException) else Refusal(error)

        def outcome() -> object:
            raise cause

        self._settle(outcome)

    def on_cancel(self, callback: Callable[[], object]) -> None:
        """Have `callback` called, once, if the peer gives the request up; at once if it has.

        The request is to be answered all the same. It is called in a thread or loop of the connection, so it must
        be quick.
        """
        self._cell["on_cancel"] = callback
        if "cancelled" in self._cell:
            self._tell_cancelled()

    def cancel(self) -> None:
        """The peer gave the request up; nothing comes of it once it is answered."""
        if "outcome" not in self._cell:
            self._cell["cancelled"] = True
            self._tell_cancelled()

    def _tell_cancelled(self) -> None:
        callback = self._cell.pop("on_cancel", None)
        if callback is not None:
            callback()

    @property
    def cancelled(self) -> bool:
        """True once the peer has given the request up."""
        return "cancelled" in self._cell

    @property
    def answered(self) -> bool:
        """True once it has its answer."""
        return "outcome" in self._cell

    def when_done(self, callback: Callable[[Outcome], None]) -> None:
        """Call `callback` with a function that returns (flags, payload) or raises, now or later, once.

        A Responder answers one request: a second callback raises `LocalProtocolError`.
        """
        if self._cell.setdefault("callback", callback) is not callback:
            raise LocalProtocolError("this Responder answers another request already")
        self._fire()

    def _settle(self, outcome: Outcome) -> None:
        if self._cell.setdefault("outcome", outcome) is not outcome:
            raise LocalProtocolError("this request was answered before")
        self._fire()

    def _fire(self) -> None:
        cell = self._cell
        if "outcome" in cell and "callback" in cell and cell.pop("unfired", False):
            cell["callback"](cell["outcome"])


def subscribe(result: HandlerResult, callback: Callable[[Outcome], None]) -> bool:
    """If `result` is deferred have `callback` called when it is there, else return False.

    `callback` gets a function that returns the result or raises; it may be called at once.
    """
    if result is None or isinstance(result, bytes | int | str | tuple | bytearray | memoryview):
        return False
    if isinstance(result, Responder):
        result.when_done(callback)
    elif callable(getattr(result, "add_done_callback", None)):
        result.add_done_callback(lambda future: callback(future.result))
    elif callable(notify := getattr(result, "notify", None)) and callable(result):
        # called by notify while it is being completed, a Result would wait for itself for ever
        notify(lambda done: callback(lambda: _completed(done)))
    else:
        return False
    return True


def is_body(result: HandlerResult) -> bool:
    """True for a result that is sent as a body: an iterator, also an asynchronous one, or a binary file."""
    return isinstance(result, Iterator | AsyncIterator) or callable(getattr(result, "read", None))


def cancel_deferred(result: HandlerResult) -> None:
    """Nobody waits for a deferred result any more: cancel it, or tell its `Responder`."""
    if isinstance(result, Responder):
        result.cancel()
    elif callable(cancel := getattr(result, "cancel", None)):
        cancel()


def _completed(result: Any) -> Any:
    """The outcome of a completed cs.result.Result; raises its exception, or CancellationError."""
    exc_info = result.exc_info
    if exc_info:
        raise exc_info[1]
    return result.result

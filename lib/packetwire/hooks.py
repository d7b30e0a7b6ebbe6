"""Hooks: code of the user's around each call, and around each handler; such as what traces them.

Strategy: a connection without hooks does not even import this. With some, a call and a handler each have a *span*:
a context manager that was entered, and that is left once, by whoever is first to know how it ended. An exception of
a hook is logged and changes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator, Mapping, Sized
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from inspect import isawaitable, iscoroutinefunction
from types import CoroutineType
from typing import Any, Protocol

from packetwire._sync.bodyhost import chunks_of, close_source
from packetwire.core.calloptions import CallPlan, with_trace
from packetwire.core.channels import PlainHandler
from packetwire.core.requests import (
    HandlerResult,
    HasRequestMap,
    Outcome,
    Responder,
    cancel_deferred,
    is_body,
    subscribe,
)
from packetwire.current import present_context
from packetwire.errors import ConnectionEnded, RequestCancelled

logger = logging.getLogger("packetwire")

LabelOf = Callable[[int], str | None]
"""Tells the name of a request by its type; None if it has none."""

_VALUES = (bytes, int, str, tuple, bytearray, memoryview, type(None))


@dataclass(slots=True, kw_only=True)
class ClientCall:
    """A call that is about to be made: `hooks.client` is given one, and may add to it.

    Its additions are sent if it is known that the peer understands them, and left out otherwise.
    """

    rq_type: int
    channel: int
    label: str | None
    """The name that the caller gave the call; that of the class, for requests that are classes."""
    connection: str
    """The name of the connection."""
    meta: dict[str, bytes] = field(default_factory=dict)
    """The metadata of the call, for the far end's `current_request().meta`."""
    trace_context: bytes | None = None
    """26 bytes: version, trace id (16 bytes), parent id (8 bytes), flags, as in W3C's `traceparent`."""
    trace_state: bytes | None = None
    """The bytes of W3C's `tracestate`."""
    size: int = 0
    """Bytes of the payload; those of a body do not count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedRequest:
    """A request whose handler is about to be called: `hooks.server` is given one."""

    rq_type: int
    channel: int
    connection: str
    """The name of the connection."""
    meta: Mapping[str, bytes]
    """The metadata that its caller gave with it."""
    trace_context: bytes | None
    """As in `ClientCall`; None if the caller sent none."""
    trace_state: bytes | None
    label: str | None = None
    """The name of its class, for requests that are classes; None for others, and for types that nobody knows."""
    size: int = 0
    """Bytes of the payload; those of a body do not count."""


class Hooks(Protocol):
    """The object that a connection takes as `hooks`.

    The context managers that its functions return may also have

    - `suspend()`: the handler has returned, and its result comes later; called where it ran;
    - `resume()`: a coroutine goes on with it now; called in the task of that;
    - `responded(size)`: the response has that many bytes of payload; called before the context manager is left.
    """

    def client(self, call: ClientCall) -> AbstractContextManager[Any] | None:
        """The context manager around a call of ours; None for none."""
        ...

    def server(self, request: ServedRequest) -> AbstractContextManager[Any] | None:
        """The context manager around a handler, until its request is answered; None for none."""
        ...


class HookLog:
    """Logs what hooks raise: each kind of exception once for each of their functions."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._logged: set[tuple[str, type[BaseException]]] = set()

    def failed(self, what: str, error: Exception) -> None:
        """An exception of a hook."""
        if (what, type(error)) not in self._logged:
            self._logged.add((what, type(error)))
            logger.error("%s: a hook failed, %s: %r", self._name, what, error, exc_info=error)


class Span:
    """A context manager of the user's: entered when this is made, left by the first `leave`."""

    __slots__ = ("_log", "_managers")

    def __init__(self, make: Callable[[], AbstractContextManager[Any] | None], log: HookLog, what: str) -> None:
        self._log = log
        self._managers: list[AbstractContextManager[object]] = []  # popped in one step, by whoever leaves it
        try:
            manager = make()
            if manager is not None:
                manager.__enter__()
                self._managers.append(manager)
        except Exception as error:
            log.failed(what, error)

    def suspend(self) -> None:
        """The handler has returned, and there is no result yet."""
        self._tell("suspend")

    def resume(self) -> None:
        """It goes on, maybe in another task."""
        self._tell("resume")

    def _tell(self, what: str, *args: object) -> None:
        """Call this function of the context manager, if it has one."""
        for manager in self._managers[:1]:
            function = getattr(manager, what, None)
            if function is not None:
                try:
                    function(*args)
                except Exception as error:
                    self._log.failed(f"{what} of a context manager", error)

    def leave(self, error: BaseException | None = None, size: int | None = None) -> None:
        """It ended, by that exception if there is one; only the first call counts.

        `size` is that of the payload of the response, if there is one.
        """
        if size is not None:
            self._tell("responded", size)
        try:
            manager = self._managers.pop()
        except IndexError:
            return
        try:
            if error is None:
                manager.__exit__(None, None, None)
            else:
                manager.__exit__(type(error), error, error.__traceback__)
        except Exception as failure:
            if failure is not error:  # which a generator raises again
                self._log.failed("leaving a context manager", failure)


class HandlerSpan(Protocol):
    """The span around a handler, until its request is answered: a `Span`, or what a server notes of it."""

    def suspend(self) -> None:
        """The handler has returned, and there is no result yet."""
        ...

    def resume(self) -> None:
        """It goes on, maybe in another task."""
        ...

    def leave(self, error: BaseException | None = None, size: int | None = None) -> None:
        """It ended; only the first call counts."""
        ...


class OpenSpans:
    """Spans of requests whose handlers have returned, and whose results are not there yet."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._spans: dict[int, HandlerSpan] = {}

    def add(self, span: HandlerSpan) -> None:
        """It is left when its result is there, or at the end of the connection."""
        self._spans[id(span)] = span

    def leave(self, span: HandlerSpan, error: BaseException | None, size: int | None) -> None:
        """Its result is there, or the exception that stands for it."""
        self._spans.pop(id(span), None)
        span.leave(error, size)

    def end(self) -> None:
        """The connection is closed: nobody gets these results any more."""
        while self._spans:
            try:
                _, span = self._spans.popitem()
            except KeyError:  # another thread left the last one
                return
            span.leave(ConnectionEnded(f"{self._name} was closed before this request was answered"))


class ConnectionHooks:
    """The hooks of one connection. Its driver has only `open_spans`, which does not refer to the user's object."""

    def __init__(self, hooks: Hooks, name: str) -> None:
        for function in "client", "server":
            if not callable(getattr(hooks, function, None)):
                raise TypeError(f"hooks must have functions client(call) and server(request), got {hooks!r:.100}")
        self._hooks = hooks
        self._name = name
        self._log = HookLog(name)
        self.open_spans = OpenSpans(name)

    def begin_call(
        self, plan: CallPlan, request: tuple[int, int, object, int], label: str | None
    ) -> tuple[CallPlan, Span]:
        """The span of a call, which has begun, and the plan of that call with what the hook has added.

        The request is (rq_type, flags, payload, channel); nothing of it is checked yet.
        """
        rq_type, _, payload, channel = request
        call = ClientCall(
            rq_type=rq_type,
            channel=channel,
            label=label,
            connection=self._name,
            meta=dict(plan.metadata),
            size=_size(payload),
        )
        span = Span(partial(self._hooks.client, call), self._log, "client(call)")
        try:
            plan = with_trace(plan, call.meta, call.trace_context, call.trace_state)
        except Exception as error:  # what it has added cannot be sent
            self._log.failed("what client(call) has added", error)
        return plan, span

    def begin_request(self, rq_type: int, payload: bytes, channel: int, label_of: LabelOf) -> Span:
        """The span of the request that the present thread or task serves."""
        context = present_context()
        meta = None if context is None else context.meta
        request = ServedRequest(
            rq_type=rq_type,
            channel=channel,
            connection=self._name,
            meta={} if context is None else context.metadata,
            trace_context=None if meta is None else meta.trace_context,
            trace_state=None if meta is None else meta.trace_state,
            label=label_of(rq_type),
            size=len(payload),
        )
        return Span(partial(self._hooks.server, request), self._log, "server(request)")

    def around(
        self, handler: PlainHandler, channel: int, label_of: LabelOf, *, runs_coroutines: bool
    ) -> PlainHandler:
        """A handler that does the same, with a span around it."""
        kind = HookedCoroutineHandler if runs_coroutines and is_async(handler) else HookedHandler
        begin = partial(self.begin_request, channel=channel, label_of=label_of)
        return kind(begin, handler, self.open_spans, runs_coroutines)


class HookedHandler:
    """A handler with a span around it; `func` is the handler itself."""

    def __init__(
        self,
        begin: Callable[[int, bytes], HandlerSpan],
        handler: PlainHandler,
        open_spans: OpenSpans,
        runs_coroutines: bool,
    ) -> None:
        self.func = handler
        self._begin = begin
        self._open_spans = open_spans
        self._runs_coroutines = runs_coroutines

    def __call__(self, rq_type: int, flags: int, payload: bytes) -> HandlerResult:
        span = self._begin(rq_type, payload)
        try:
            result = self.func(rq_type, flags, payload)
        except BaseException as error:
            span.leave(error)
            raise
        return self._covered(span, result)

    def _covered(self, span: HandlerSpan, result: HandlerResult) -> HandlerResult:
        """The result of a handler; the span ends when it is there."""
        if not isinstance(result, _VALUES):
            if isinstance(result, CoroutineType):
                if self._runs_coroutines:
                    return self._awaited(span, result)
            elif isinstance(result, Responder) or _comes_later(result):
                span.suspend()
                self._open_spans.add(span)
                return CoveredResult(result, span, self._open_spans)
            elif self._runs_coroutines and isawaitable(result):
                return self._awaited(span, result)
            elif is_body(result):
                span.suspend()
                self._open_spans.add(span)
                return covered_body(result, span, self._open_spans)
        span.leave(None, _size_of_response(result))
        return result

    def _awaited(self, span: HandlerSpan, awaitable: Awaitable[HandlerResult]) -> Awaitable[HandlerResult]:
        span.suspend()
        return self._await(span, awaitable)

    async def _await(self, span: HandlerSpan, awaitable: Awaitable[HandlerResult]) -> HandlerResult:
        span.resume()
        try:
            result = await awaitable
        except BaseException as error:
            span.leave(error)
            raise
        return self._covered(span, result)


class HookedCoroutineHandler(HookedHandler):
    """The same of an `async def`: the span begins and ends in its task."""

    async def __call__(self, rq_type: int, flags: int, payload: bytes) -> HandlerResult:
        span = self._begin(rq_type, payload)
        try:
            result = await self.func(rq_type, flags, payload)
        except BaseException as error:
            span.leave(error)
            raise
        return self._covered(span, result)


class CoveredResult:
    """A deferred result whose span ends when it is there; a deferred result itself, like a future."""

    def __init__(self, deferred: HandlerResult, span: HandlerSpan, open_spans: OpenSpans) -> None:
        self._deferred = deferred
        self._span = span
        self._open_spans = open_spans
        self.result: Outcome
        """Returns or raises what it came to, once that is there."""

    def add_done_callback(self, callback: Callable[[CoveredResult], object]) -> None:
        """Have `callback(self)` called when it is there."""
        subscribe(self._deferred, partial(self._is_there, callback))

    def _is_there(self, callback: Callable[[CoveredResult], object], outcome: Outcome) -> None:
        error: BaseException | None = None
        size: int | None = None
        try:
            size = _size_of_response(outcome())
        except BaseException as raised:
            error = raised
        try:
            self._open_spans.leave(self._span, error, size)
        finally:
            error = None  # else its traceback and this frame refer to each other
            self.result = outcome
            callback(self)

    def cancel(self) -> None:
        """Nobody waits for it any more."""
        cancel_deferred(self._deferred)


class BodySpan:
    """The span of a request that is answered by a body: the current one while a part of that is made."""

    def __init__(self, span: HandlerSpan, open_spans: OpenSpans) -> None:
        self._span = span
        self._open_spans = open_spans
        self._context = present_context()

    @contextmanager
    def making(self) -> Iterator[None]:
        """In the block the next part is made; an exception ends the span."""
        self._span.resume()
        try:
            yield
        except (StopIteration, StopAsyncIteration) as end:
            self._open_spans.leave(self._span, None, _size_of_response(getattr(end, "value", None)))
            raise
        except BaseException as error:
            self._open_spans.leave(self._span, error, None)
            raise
        else:
            self._span.suspend()

    def end(self) -> None:
        """No more is made."""
        error = None
        if self._context is not None and self._context.cancelled is not None:
            error = RequestCancelled("the caller gave this request up", begun=True)
        self._open_spans.leave(self._span, error, None if error else 0)


class CoveredIterator(Generator[Any, None, Any]):
    """A body whose span ends with it. It counts as a generator, as what one returns is the response."""

    def __init__(self, source: Any, span: BodySpan) -> None:
        self._source = source
        self._chunks = chunks_of(source)
        self._span = span

    def send(self, value: None) -> Any:
        with self._span.making():
            return next(self._chunks)

    def throw(self, *args: Any) -> Any:
        return self._chunks.throw(*args)

    def close(self) -> None:
        try:
            self._chunks.close()
            close_source(self._source)
        finally:
            self._span.end()


class CoveredAsyncIterator:
    """The same of an asynchronous one."""

    def __init__(self, source: Any, span: BodySpan) -> None:
        self._source = source
        self._span = span

    def __aiter__(self) -> CoveredAsyncIterator:
        return self

    async def __anext__(self) -> Any:
        with self._span.making():
            return await anext(self._source)

    async def aclose(self) -> None:
        """Nobody reads on."""
        try:
            close: Callable[[], Awaitable[object]] | None = getattr(self._source, "aclose", None)
            if close is not None:
                await close()
        finally:
            self._span.end()


class CoveredFile:
    """The same of a file."""

    def __init__(self, source: Any, span: BodySpan) -> None:
        self._source = source
        self._span = span
        self.read = self._read_later if iscoroutinefunction(source.read) else self._read

    def _read(self, size: int) -> object:
        with self._span.making():
            return self._source.read(size)

    async def _read_later(self, size: int) -> object:
        with self._span.making():
            return await self._source.read(size)

    def close(self) -> Any:
        """Nobody reads on."""
        try:
            close = getattr(self._source, "close", None)
            return close() if callable(close) else None
        finally:
            self._span.end()


def covered_body(source: Any, span: HandlerSpan, open_spans: OpenSpans) -> Any:
    """The body that a handler has returned; its span ends with it."""
    around = BodySpan(span, open_spans)
    if callable(getattr(source, "read", None)):
        return CoveredFile(source, around)
    return (
        CoveredAsyncIterator(source, around)
        if isinstance(source, AsyncIterator)
        else CoveredIterator(source, around)
    )


def label_of(handler: object) -> LabelOf:
    """A function that tells the name of a request by its type, for a handler of requests that are classes."""
    while isinstance(handler, partial | HookedHandler):
        handler = handler.func
    service = getattr(handler, "__self__", None)
    return partial(_class_name, service.conn_rq_class_by_type) if isinstance(service, HasRequestMap) else _no_label


def _class_name(classes: Mapping[int, type], rq_type: int) -> str | None:
    found = classes.get(rq_type)
    return None if found is None else found.__name__


def _no_label(rq_type: int) -> None:
    return None


def _size(payload: object) -> int:
    """Bytes of what may be a payload; 0 for what is none."""
    if isinstance(payload, str):
        return len(payload.encode(errors="replace"))
    return payload.nbytes if isinstance(payload, memoryview) else len(payload) if isinstance(payload, Sized) else 0


def _size_of_response(result: object) -> int:
    """Bytes of the payload that a handler's result stands for."""
    return _size(result[1]) if isinstance(result, tuple) and len(result) == 2 else _size(result)


def _comes_later(result: HandlerResult) -> bool:
    """True for what `subscribe` takes."""
    return callable(getattr(result, "add_done_callback", None)) or (
        callable(getattr(result, "notify", None)) and callable(result)
    )


def is_async(handler: object) -> bool:
    """True if calling it makes a coroutine."""
    while isinstance(handler, partial):
        handler = handler.func
    return iscoroutinefunction(handler) or iscoroutinefunction(type(handler).__call__)

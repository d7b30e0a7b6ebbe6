"""Answers of methods with streams: items are read from the body of the request, or sent as that of the response.

Strategy. A method in a thread reads and yields plainly, one in an event loop asynchronously; what joins them to the
connection is a generator of bytes, of the same sort. Only an asynchronous method of a service that is served in
threads needs more: an event loop of its own, for as long as it yields.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from contextlib import suppress
from typing import Any

from packetwire.core.requests import HandlerResult
from packetwire.core.session import SESSION
from packetwire.core.settings import DEFAULT_MAX_PACKET_SIZE
from packetwire.current import current_request
from packetwire.errors import LocalProtocolError, RequestError
from packetwire.typed.call import Call
from packetwire.typed.items import ItemCodec, ItemDecoder
from packetwire.typed.request import TypedRequest
from packetwire.typed.stepping import stepped

_END: object = object()


def answer(call: Call[object], context: object) -> HandlerResult:
    """The answer of a method that takes items or yields them: what a handler may return."""
    session = SESSION.get()
    in_loop = call.is_async and (session is None or session.is_async)
    operation = call.operation
    if operation.items_in is not None:
        call.items = _received(call, operation.items_in, session, in_loop)
    if operation.items_out is None:
        return TypedRequest._answer(call, context)
    result = call.fulfilled(context)
    if in_loop:
        return _sent_by_loop(call, session, result)
    return _sent(call, session, stepped(result, current_request().on_cancel) if call.is_async else result)


def _received(call: Call[Any], codec: ItemCodec, session: Any, in_loop: bool) -> Any:
    """The items of its parameter."""
    body = current_request().body
    if body is None:
        raise RequestError(f"{call.operation.name}: {codec.name} comes as a body, but this request has none")
    decoder = ItemDecoder(codec, DEFAULT_MAX_PACKET_SIZE if session is None else session.conn.max_packet_size)
    if hasattr(body, "__anext__") is not in_loop:
        raise LocalProtocolError(f"{call.operation.name} cannot wait for items where the connection is read")
    if in_loop:
        from packetwire._async.items import AsyncItemReader

        return AsyncItemReader(body, decoder)
    from packetwire._sync.items import ItemReader

    reader: ItemReader[object] = ItemReader(body, decoder)
    return _Waiting(reader) if call.is_async else reader


class _Waiting:
    """Items for an asynchronous method in a thread: its event loop, which is for it alone, waits with it."""

    def __init__(self, items: Iterator[object]) -> None:
        self._items = items

    def __aiter__(self) -> AsyncIterator[object]:
        return self

    async def __anext__(self) -> object:
        item = next(self._items, _END)
        if item is _END:
            raise StopAsyncIteration
        return item


def _sent(call: Call[Any], session: Any, source: Any) -> Generator[bytes]:
    """The bytes of what a method yields in a thread; `caller` finds the session meanwhile."""
    items, number = iter(source), 0
    try:
        while (item := _next(call, session, items)) is not _END:
            yield call.operation.item_bytes(number, item)
            number += 1
    finally:
        with suppress(AttributeError):
            close = items.close
            _in_session(session, close)


def _next(call: Call[object], session: object, items: Iterator[object]) -> object:
    try:
        return _in_session(session, next, items, _END)
    except RequestError as error:
        raise call.operation.refusal(error, call.flags) from error


def _in_session(session: Any, function: Any, *args: Any) -> Any:
    token = SESSION.set(session)
    try:
        return function(*args)
    finally:
        SESSION.reset(token)


async def _sent_by_loop(
    call: Call[object], session: object, source: AsyncIterator[object]
) -> AsyncGenerator[bytes]:
    """The same of what it yields in an event loop, in a task of its own."""
    SESSION.set(session)
    number = 0
    try:
        async for item in source:
            yield call.operation.item_bytes(number, item)
            number += 1
    except RequestError as error:
        raise call.operation.refusal(error, call.flags) from error
    finally:
        close: Any = getattr(source, "aclose", None)
        if close is not None:
            await close()

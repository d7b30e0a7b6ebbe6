"""The places where an event loop differs from threads, for the modules that are written once for both."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from inspect import iscoroutinefunction
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from packetwire.core.session import SESSION

if TYPE_CHECKING:
    from packetwire.aio.request import RequestFuture
    from packetwire.core.requests import BaseRequest
    from packetwire.core.responses import Response

IS_ASYNC = True
ItemT = TypeVar("ItemT")
ResponseT = TypeVar("ResponseT")


class Requester(Protocol):
    """A connection, to which requests are submitted."""

    async def drain(self) -> None:
        """Wait until there is room for one more request."""
        ...


class AsyncAnswer(Generic[ResponseT]):
    """The decoded response to one request: await it, as often as you like."""

    __module__ = "packetwire.typed"  # where it is public

    def __init__(self, future: RequestFuture, decode: Callable[[Response], ResponseT]) -> None:
        self._future = future
        self._decode = decode

    def __await__(self) -> Generator[Any, None, ResponseT]:
        return self._decode((yield from self._future))

    def done(self) -> bool:
        """True once there is a response, or the reason why there is none."""
        return self._future.done()

    def cancel(self) -> bool:
        """Give the request up: whoever awaits it is cancelled. False if it is done."""
        return self._future.cancel()


class Arrivals(Generic[ItemT]):
    """Items whose results are awaited together; `next` gives one whose result is there."""

    def __init__(self, timeout: float | None) -> None:
        """The `timeout` is that of each result, which was given to `submit`."""
        self.under_way: dict[ItemT, None] = {}
        self._ready: deque[ItemT] = deque()
        self._arrived = asyncio.Event()

    def add(self, item: ItemT, future: RequestFuture) -> None:
        """Await one more."""
        self.under_way[item] = None
        future.add_done_callback(lambda _: self._is_there(item))

    def _is_there(self, item: ItemT) -> None:
        self._ready.append(item)
        self._arrived.set()

    async def next(self) -> ItemT:
        """One whose result is there; it is not among those under way any more."""
        while not self._ready:
            self._arrived.clear()
            await self._arrived.wait()
        item = self._ready.popleft()
        del self.under_way[item]
        return item


def room_for_one_more(conn: Requester) -> Coroutine[Any, Any, None]:
    """Wait until `submit` has room for a request."""
    return conn.drain()


def response_to(future: RequestFuture, timeout: float | None) -> RequestFuture:
    """Wait for the response; its time limit was given to `submit`."""
    return future


def runs_inline(rq_class: type[BaseRequest[Any]]) -> bool:
    """Tell if requests of this class are handled where the connection is read: in the loop."""
    return (
        getattr(rq_class, "inline", False)
        or iscoroutinefunction(rq_class.fulfil)
        or getattr(rq_class, "is_async", False)  # a method that yields there
    )


def answered(session: object, request: BaseRequest[Any], service: object) -> Any:
    """The answer of a service to a request of `session`; `caller` finds that while it is made."""
    token = SESSION.set(session)
    try:
        answer = request._answer(service)
    finally:
        SESSION.reset(token)
    return _in_session(session, answer) if type(answer) is CoroutineType else answer


async def _in_session(session: object, coroutine: Coroutine[object, object, object]) -> object:
    SESSION.set(session)  # a coroutine has a context of its own
    return await coroutine


def is_for_connection(cls: type, mixin: type) -> bool:
    """Tell if `async with` an object of this class is meant for its connection."""
    return True

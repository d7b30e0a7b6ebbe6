"""The places where threads differ from an event loop, for the modules that are written once for both."""

from __future__ import annotations

import time
from collections.abc import Callable
from math import inf
from queue import Empty, SimpleQueue
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, cast

from packetwire.core.session import SESSION
from packetwire.core.timelimits import time_limit
from packetwire.errors import RequestTimeout

if TYPE_CHECKING:
    from packetwire.core.requests import BaseRequest
    from packetwire.core.responses import Response
    from packetwire.result import RequestResult


class Item(Protocol):
    """One of several requests that are waited for together."""

    def cancel(self) -> None:
        """Give it up."""
        ...

    def fail(self, error: Exception) -> None:
        """It has ended by that."""
        ...


IS_ASYNC = False
ItemT = TypeVar("ItemT", bound=Item)
ResponseT = TypeVar("ResponseT")

Requester = object
"""A connection, to which requests are submitted."""


class Answer(Generic[ResponseT]):
    """The decoded response to one request: call it to wait for that, as often as you like."""

    __module__ = "packetwire.typed"  # where it is public

    def __init__(self, result: RequestResult, decode: Callable[[Response], ResponseT]) -> None:
        self._result = result
        self._decode = decode

    def __call__(self, timeout: float | None = None) -> ResponseT:
        """Wait, at most `timeout` seconds, and return it. Raises `RequestTimeout`, and what the response means."""
        response: Any = self._result(timeout=timeout)
        return self._decode(response)

    def done(self) -> bool:
        """True once there is a response, or the reason why there is none."""
        return bool(self._result.ready)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is done; False after `timeout` seconds."""
        return bool(self._result.wait(timeout))

    def cancel(self) -> None:
        """Give the request up: whoever waits for it gets a `RequestCancelled`, a late response is dropped."""
        self._result.cancel()


class Arrivals(Generic[ItemT]):
    """Items whose results are waited for together; `next` gives one that can be collected."""

    def __init__(self, timeout: float | None) -> None:
        """The `timeout` is that of each result, in seconds."""
        self.under_way: dict[ItemT, float] = {}
        self._timeout = timeout
        self._limit = time_limit(timeout)
        self._ready: SimpleQueue[ItemT] = SimpleQueue()

    def add(self, item: ItemT, result: RequestResult) -> None:
        """Wait for one more."""
        self.under_way[item] = inf if self._limit is None else time.monotonic() + self._limit
        result.notify(lambda _: self._ready.put(item))

    def next(self) -> ItemT:
        """One that can be collected; it is not among those under way any more."""
        while True:
            oldest, deadline = next(iter(self.under_way.items()))
            left = None if deadline == inf else max(0.0, deadline - time.monotonic())
            try:
                item = self._ready.get(timeout=left)
            except Empty:
                item = oldest
                item.cancel()
                item.fail(RequestTimeout(f"no response within {self._timeout} s"))
            if item in self.under_way:  # it may have come just when its time was over
                del self.under_way[item]
                return item


def room_for_one_more(conn: Requester) -> None:
    """Nothing to do: `submit` itself waits until there is room for a request."""


def response_to(result: RequestResult, timeout: float | None) -> Response:
    """Wait for the response, for `timeout` seconds at most."""
    return cast("Response", result(timeout=timeout))


def runs_inline(rq_class: type[BaseRequest[Any]]) -> bool:
    """Tell if requests of this class are handled where the connection is read: in the thread that reads."""
    return getattr(rq_class, "inline", False)


def answered(session: object, request: BaseRequest[Any], service: object) -> Any:
    """The answer of a service to a request of `session`; `caller` finds that while it is made.

    A coroutine runs here, in an event loop of its own.
    """
    token = SESSION.set(session)
    try:
        answer = request._answer(service)
        if type(answer) is CoroutineType:
            import asyncio

            return asyncio.run(answer)
        return answer
    finally:
        SESSION.reset(token)


def is_for_connection(cls: type, mixin: type) -> bool:
    """Tell if `with` an object of this class is meant for its connection.

    A class with another context manager among its bases, such as a store that opens its connection on
    demand, may pass `__enter__` on to the mixin without meaning that.
    """
    definer = next(base for base in cls.__mro__ if "__enter__" in vars(base))
    return issubclass(definer, mixin)

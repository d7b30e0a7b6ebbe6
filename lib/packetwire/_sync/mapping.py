# Made from _async/mapping.py by tools/unasync.py: change that one, and run it.
"""Many requests, some of them under way at a time, whose responses come in the order of the requests."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from packetwire._sync.host import Arrivals, Requester, response_to, room_for_one_more
from packetwire.core.responses import Response
from packetwire.errors import LocalProtocolError, about_request

if TYPE_CHECKING:
    from packetwire.result import RequestResult

RequestT = TypeVar("RequestT")
Decode = Callable[[RequestT, Response], Any]


def pipelined(
    conn: Requester,
    submit: Callable[[RequestT], RequestResult],
    requests: Iterable[RequestT],
    window: int,
    timeout: float | None,
    return_exceptions: bool = False,
    decode: Decode[RequestT] | None = None,
) -> Iterator[Any]:
    """Submit `requests`, up to `window` ahead of the responses, and yield these in order.

    If `decode(request, response)` is given, what it makes of them is yielded. If the iteration is left early, the
    requests under way are cancelled when it is closed.
    """
    if not window >= 1:  # nor NaN
        raise LocalProtocolError(f"window must be 1 or more, got {window}")
    return _pipeline(conn, submit, requests, window, timeout, return_exceptions, decode)


def _pipeline(
    conn: Requester,
    submit: Callable[[RequestT], RequestResult],
    requests: Iterable[RequestT],
    window: int,
    timeout: float | None,
    return_exceptions: bool,
    decode: Decode[RequestT] | None,
) -> Iterator[object]:
    under_way: deque[_Mapped[RequestT]] = deque()
    try:
        for number, request in enumerate(requests):
            if len(under_way) >= window:
                yield under_way[0].collected(timeout, return_exceptions, decode)
                under_way.popleft()
            mapped = _Mapped(number, request)
            under_way.append(mapped)
            try:
                room_for_one_more(conn)
                mapped.result = submit(request)
            except Exception as error:
                mapped.fail(error)
                if not return_exceptions:
                    raise
        while under_way:
            yield under_way[0].collected(timeout, return_exceptions, decode)
            under_way.popleft()
    finally:
        for mapped in under_way:
            mapped.cancel()


def as_they_come(
    conn: Requester,
    submit: Callable[[RequestT], RequestResult],
    requests: Iterable[RequestT],
    window: int,
    timeout: float | None,
    return_exceptions: bool,
    decode: Decode[RequestT],
) -> Iterator[tuple[RequestT, Any]]:
    """As `pipelined`, but yields pairs of a request and its response, in the order of the responses."""
    if not window >= 1:  # nor NaN
        raise LocalProtocolError(f"window must be 1 or more, got {window}")
    return _as_they_come(conn, submit, requests, window, timeout, return_exceptions, decode)


def _as_they_come(
    conn: Requester,
    submit: Callable[[RequestT], RequestResult],
    requests: Iterable[RequestT],
    window: int,
    timeout: float | None,
    return_exceptions: bool,
    decode: Decode[RequestT],
) -> Iterator[tuple[RequestT, object]]:
    arrivals: Arrivals[_Mapped[RequestT]] = Arrivals(timeout)
    try:
        for number, request in enumerate(requests):
            if len(arrivals.under_way) >= window:
                mapped = arrivals.next()
                yield mapped.request, mapped.collected(timeout, return_exceptions, decode)
            mapped = _Mapped(number, request)
            try:
                room_for_one_more(conn)
                mapped.result = submit(request)
            except Exception as error:
                mapped.fail(error)
                if not return_exceptions:
                    raise
                yield request, error
            else:
                arrivals.add(mapped, mapped.result)
        while arrivals.under_way:
            mapped = arrivals.next()
            yield mapped.request, mapped.collected(timeout, return_exceptions, decode)
    finally:
        for mapped in arrivals.under_way:
            mapped.cancel()


class _Mapped(Generic[RequestT]):
    """One request: its result, or why there is none."""

    def __init__(self, number: int, request: RequestT) -> None:
        self._number = number
        self.request = request
        self._error: Exception | None = None
        self.result: RequestResult | None = None

    def fail(self, error: Exception) -> None:
        """It could not be submitted."""
        about_request(error, self._number, self.request)
        self._error = error

    def collected(self, timeout: float | None, return_exceptions: bool, decode: Decode[RequestT] | None) -> object:
        """Return what is yielded for it; raises what came instead, unless that is to be yielded."""
        if self.result is None or self._error is not None:
            if return_exceptions or self._error is None:
                return self._error
            raise self._error
        try:
            response = response_to(self.result, timeout)
            return response if decode is None else decode(self.request, response)
        except Exception as error:
            about_request(error, self._number, self.request)
            if not return_exceptions:
                raise
            self.cancel()
            return error

    def cancel(self) -> None:
        """Give the request up, if it is under way."""
        if self.result is not None:
            self.result.cancel()

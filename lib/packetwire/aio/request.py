"""What waits for a response.

A call waits on a plain future, which is its own. What `submit` gives away is a `RequestFuture`, which forgets
its request when somebody cancels it; awaiting it takes a little longer.
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from packetwire.core.events import ResponseReceived
from packetwire.core.responses import RESPONSE, DecodeResponse, Response, ending_of


class Requester(Protocol):
    """Who made the request."""

    loop: asyncio.AbstractEventLoop

    def give_up(self, request: RequestFuture) -> None:
        """Nobody waits for this response any more."""
        ...


class RequestFuture(asyncio.Future[Response]):
    """The response to one request, `(ok, flags, payload)`.

    Cancelling it, or a task that awaits it, gives the request up: a late response is dropped.
    """

    # defaults on the class: making one costs less
    channel = 0
    tag = -1
    """-1 until the request is sent."""
    timer: asyncio.TimerHandle | None = None
    _decode: DecodeResponse | None = None

    def __init__(self, requester: Requester, channel: int, decode_response: DecodeResponse | None = None) -> None:
        super().__init__(loop=requester.loop)
        self._requester = requester
        if channel:
            self.channel = channel
        if decode_response is not None:
            self._decode = decode_response

    def cancel(self, msg: Any | None = None) -> bool:
        if self.done():
            return False
        self.stop_timer()
        self._requester.give_up(self)
        return super().cancel(msg)

    def stop_timer(self) -> None:
        """It is about to be done."""
        if self.timer is not None:
            self.timer.cancel()

    def deliver(self, response: ResponseReceived) -> None:
        """The response came, and was waited for until now."""
        self.stop_timer()
        if self._decode is None or not response.ok:
            self.set_result(response[RESPONSE])  # type: ignore[arg-type]
            return
        try:
            decoded = self._decode(response.flags, response.payload)
        except StopIteration as error:  # which a future cannot raise
            self.set_exception(RuntimeError(f"decode_response raised {error!r}"))
        except BaseException as error:  # whatever it is, it belongs to whoever collects the response
            self.set_exception(error)
        else:
            self.set_result((True, response.flags, decoded))


def deliver(response: ResponseReceived) -> None:
    """Give the response to what waits for it, if that still does."""
    waiter = response.waiter
    if waiter.done():
        return
    if not response.ok and (cause := ending_of(response.flags, response.payload)) is not None:
        refuse(waiter, cause)
    elif type(waiter) is RequestFuture:
        waiter.deliver(response)
    else:
        waiter.set_result(response[RESPONSE])


def refuse(waiter: asyncio.Future[Response], error: BaseException) -> None:
    """There will be no response; asyncio does not complain if nobody collects the `error`."""
    if not waiter.done():
        if type(waiter) is RequestFuture:
            waiter.stop_timer()
        waiter.set_exception(error)
        waiter.exception()

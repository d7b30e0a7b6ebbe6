"""The waiters for responses: of calls, and of requests that were submitted.

The engine tells a waiter by `set_response`, or `fail`. A call waits on a plain future, which is its own and told by
a `CallWaiter`. `submit` returns a `RequestFuture`, which forgets its request when somebody cancels it; awaiting it
takes a little longer.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Protocol

from packetwire.core.responses import DecodeResponse, Response, ending_of, failure_of
from packetwire.core.statuses import Status, StatusCode

if TYPE_CHECKING:
    from packetwire.core.calloptions import CallPlan

logger = logging.getLogger("packetwire")


class Requester(Protocol):
    """The maker of a request."""

    def status_of(self, flags: int) -> Status:
        """The meaning of the flags of a response that is not ok."""
        ...

    def give_up(self, request: RequestFuture) -> None:
        """Nobody waits for this response any more."""
        ...


class CallWaiter:
    """Tells the future of one call; `tag` is that of its request."""

    def __init__(self, future: asyncio.Future[Response]) -> None:
        self.future = future

    def set_response(self, ok: bool, flags: int, payload: bytes) -> None:
        """The response came, if anybody still waits."""
        future = self.future
        if future.done():
            return
        if not ok and (cause := ending_of(flags, payload)) is not None:
            self.fail(cause)
        else:
            future.set_result((ok, flags, payload))

    def take_report(self, payload: bytes) -> None:
        """A report of progress came, for which nobody has asked."""

    def fail(self, error: BaseException) -> None:
        """There will be no response; asyncio does not complain if nobody collects the `error`."""
        future = self.future
        if not future.done():
            future.set_exception(error)
            future.exception()


class RequestFuture(asyncio.Future[Response]):
    """The response to one request, `(ok, flags, payload)`.

    Cancelling it, or a task that awaits it, gives the request up: a late response is dropped.
    """

    # making one shall cost little: no __init__, whoever makes it sets what it needs
    __slots__ = ("requester", "tag")
    requester: Requester
    tag: int
    """-1 until the request is sent."""
    channel = 0
    timer: asyncio.TimerHandle | None = None
    decode: DecodeResponse | None = None
    plan: CallPlan | None = None
    said: CallPlan | None = None
    """The same, if it is said to the peer."""
    heard = 0.0
    """The time of the last report of progress."""
    deadline_timer: asyncio.TimerHandle | None = None
    idle_timer: asyncio.TimerHandle | None = None

    def follow(self, loop: asyncio.AbstractEventLoop, calls: Any) -> None:
        """Begin to wait as the plan says; `calls` are told when that is over."""
        plan = self.plan
        assert plan is not None
        self.heard = loop.time()
        if plan.deadline is not None:
            self.deadline_timer = loop.call_at(plan.deadline, calls.pass_deadline, self)
        if plan.idle_timeout is not None:
            self.idle_timer = loop.call_at(self.heard + plan.idle_timeout, calls.look_for_progress, self)

    def take_report(self, payload: bytes) -> None:
        """A report of progress came."""
        plan = self.plan
        if plan is None or self.cancelled():
            return
        self.heard = self.get_loop().time()
        if plan.on_progress is not None:
            try:
                plan.on_progress(payload)
            except Exception:
                logger.exception("on_progress failed")

    def cancel(self, msg: object | None = None) -> bool:
        if self.done():
            return False
        self.stop_timer()
        self.requester.give_up(self)
        return super().cancel(msg)

    def stop_timer(self) -> None:
        """It is about to be done."""
        if self.timer is not None:
            self.timer.cancel()
        if self.plan is not None:
            for timer in (self.deadline_timer, self.idle_timer):
                if timer is not None:
                    timer.cancel()

    def set_response(self, ok: bool, flags: int, payload: bytes) -> None:
        """The response came, if anybody still waits."""
        if self.done():
            return
        if not ok and (cause := ending_of(flags, payload)) is not None:
            self.fail(cause)
            return
        if self.timer is not None or self.plan is not None:
            self.stop_timer()
            if not ok and self.plan is not None and self.plan.deadline is not None:
                status = self.requester.status_of(flags)
                if status.code is StatusCode.DEADLINE:  # the clock of the far end was first
                    self.fail(failure_of(status, flags, payload, "the request"))
                    return
        if self.decode is None or not ok:
            self.set_result((ok, flags, payload))
        else:
            self._set_decoded(self.decode, flags, payload)

    def _set_decoded(self, decode: DecodeResponse, flags: int, payload: bytes) -> None:
        try:
            decoded = decode(flags, payload)
        except StopIteration as error:  # which a future cannot raise
            self.set_exception(RuntimeError(f"decode_response raised {error!r}"))
        except BaseException as error:  # whatever it is, it belongs to whoever collects the response
            self.set_exception(error)
        else:
            self.set_result((True, flags, decoded))

    def fail(self, error: BaseException) -> None:
        """There will be no response; asyncio does not complain if nobody collects the `error`."""
        if not self.done():
            self.stop_timer()
            self.set_exception(error)
            self.exception()

"""Requests of ours with bodies, from an event loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from packetwire.aio.bodies import LoopExchange
from packetwire.aio.current import outer_request
from packetwire.aio.planned import Request, leave_when_done
from packetwire.aio.request import RequestFuture
from packetwire.bodylimits import BodyLimits
from packetwire.core.bodies import CallBodies
from packetwire.core.calloptions import plan_of, with_bodies
from packetwire.core.statuses import StatusCode
from packetwire.errors import PacketwireError, RequestCancelled, RequestTimeout, copy_of

if TYPE_CHECKING:
    from packetwire.core.calloptions import CallOptions, CallPlan
    from packetwire.core.responses import Response
    from packetwire.hooks import ConnectionHooks


class CalledExchange(LoopExchange):
    """A request of ours."""

    def __init__(self, driver: Any, future: RequestFuture, plan: CallPlan, timeout: float | None) -> None:
        name = f"{driver.name}:{future.tag}"
        super().__init__(driver, BodyLimits(name, driver.loop.time, timeout, plan.deadline))
        assert plan.bodies is not None
        self.bodies = plan.bodies
        self._name = name
        self.future = future

    def timed_out(self, text: str) -> PacketwireError:
        """End it; returns why."""
        error = self._limits.error(text)
        self._end(error, str(error))
        return error

    def why(self, error: PacketwireError) -> PacketwireError:
        """The exception to raise for the end of a body."""
        return copy_of(error)

    async def response(self, timeout: float | None) -> Response:
        """Wait for the response."""
        done, _ = await asyncio.wait([self.future], timeout=timeout)
        if not done:
            raise RequestTimeout(f"{self._name}: no response within {timeout} s")
        return self.future.result()

    def give_up(self, text: str) -> None:
        """Nobody wants the response any more."""
        self._end(RequestCancelled(text or f"cancelled: {self._name}"), text)

    def _end(self, error: PacketwireError, text: str) -> None:
        if not self.future.done():
            self._driver.calls.give_up(self.future, StatusCode.CANCELLED, text)
            self.future.fail(error)


async def begin(
    driver: Any,
    request: Request,
    options: CallOptions,
    limit: float | None,
    label: str | None,
    hooks: ConnectionHooks | None,
    timeout: float | None,
    *,
    takes_body: bool,
) -> CalledExchange:
    """Send a request with a body; `limit` are seconds for finding room."""
    plan = with_bodies(plan_of(options, outer_request(), driver.loop.time()), CallBodies(), takes_body=takes_body)
    if hooks is None:
        return await _begin(driver, request, options, limit, plan, timeout)
    plan, span = hooks.begin_call(plan, request, label)
    try:
        exchange = await _begin(driver, request, options, limit, plan, timeout)
    except BaseException as error:
        span.leave(error)
        raise
    leave_when_done(driver, exchange.future, span, label)
    return exchange


async def _begin(
    driver: Any,
    request: Request,
    options: CallOptions,
    limit: float | None,
    plan: CallPlan,
    timeout: float | None,
) -> CalledExchange:
    ends = [None if limit is None else driver.loop.time() + limit, plan.deadline]
    deadline = min((each for each in ends if each is not None), default=None)
    try:
        await driver.control.require(plan.needs, f"a request with {', '.join(['a body', *options])}", deadline)
    except RequestTimeout as late:
        raise plan.why_late(late, driver.loop.time()) from None
    if plan.response_credit is not None:
        plan = plan._replace(response_credit=driver.engine.first_credit)
    future = RequestFuture(loop=driver.loop)
    future.requester, future.tag, future.channel, future.plan = driver.calls, -1, request[3], plan
    future.said = plan
    while not driver.calls.begin_now(future, *request[:3]):
        await driver.drain(None if deadline is None else max(0.0, deadline - driver.loop.time()))
        await asyncio.sleep(0)  # writing may have failed, and the end is to come
    future.follow(driver.loop, driver.calls)
    return CalledExchange(driver, future, plan, timeout)

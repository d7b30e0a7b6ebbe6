"""Requests of ours with bodies, from an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from packetwire._async.bodies import BodyWriter, joined_body
from packetwire._async.bodyhost import chunks_of
from packetwire.aio.bodies import LoopExchange
from packetwire.aio.current import outer_request
from packetwire.aio.planned import Request, leave_when_done
from packetwire.aio.request import RequestFuture
from packetwire.bodylimits import BodyLimits
from packetwire.core.bodies import CallBodies
from packetwire.core.calloptions import plan_of, with_bodies
from packetwire.core.hello import Feature
from packetwire.core.statuses import StatusCode
from packetwire.errors import (
    BodyEnded,
    CapabilityMissing,
    PacketwireError,
    RequestCancelled,
    RequestTimeout,
    copy_of,
)

if TYPE_CHECKING:
    from packetwire.core.calloptions import CallOptions, CallPlan
    from packetwire.core.responses import DecodeResponse, Response
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

    def fail(self, error: BaseException) -> None:
        """Its body cannot be sent, as the source of it has failed."""
        self._end(error, "")

    def _end(self, error: BaseException, text: str) -> None:
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
    future: RequestFuture | None = None,
) -> CalledExchange:
    """Send a request with a body, whose response is for `future`; `limit` are seconds for finding room."""
    future = RequestFuture(loop=driver.loop) if future is None else future
    plan = with_bodies(plan_of(options, outer_request(), driver.loop.time()), CallBodies(), takes_body=takes_body)
    if hooks is None:
        return await _begin(driver, request, options, limit, plan, timeout, future)
    plan, span = hooks.begin_call(plan, request, label)
    try:
        exchange = await _begin(driver, request, options, limit, plan, timeout, future)
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
    future: RequestFuture,
) -> CalledExchange:
    ends = [None if limit is None else driver.loop.time() + limit, plan.deadline]
    deadline = min((each for each in ends if each is not None), default=None)
    try:
        await driver.control.require(plan.needs, f"a request with {', '.join(['a body', *options])}", deadline)
    except RequestTimeout as late:
        raise plan.why_late(late, driver.loop.time()) from None
    if plan.response_credit is not None:
        plan = plan._replace(response_credit=driver.engine.first_credit)
    future.requester, future.tag, future.channel, future.plan = driver.calls, -1, request[3], plan
    future.said = plan
    while not driver.calls.begin_now(future, *request[:3]):
        await driver.drain(None if deadline is None else max(0.0, deadline - driver.loop.time()))
        await asyncio.sleep(0)  # writing may have failed, and the end is to come
    future.follow(driver.loop, driver.calls)
    return CalledExchange(driver, future, plan, timeout)


async def joined_for(
    driver: Any, request: Request, body: Any, fallback: str | None, deadline: float | None
) -> bytes | None:
    """The payload with the body behind it, if there is a fallback and the peer knows no bodies; else None."""
    if fallback is None:
        return None
    try:
        await driver.control.require(Feature.META | Feature.BODIES, "a request with a body", deadline)
    except CapabilityMissing:
        return await joined_body(request[2], body, driver.engine.max_payload)
    return None


def submit_with_body(
    driver: Any,
    request: Request,
    body: object,
    fallback: str | None,
    options: CallOptions,
    label: str | None,
    hooks: ConnectionHooks | None,
    timeout: float | None,
    decode_response: DecodeResponse | None,
) -> RequestFuture:
    """Have a task send a request and its body; returns the future, which ends the task when it is done."""
    plan = plan_of(options, None, driver.loop.time())
    with_bodies(plan, CallBodies(), takes_body=False)  # raises here what makes no sense
    future = RequestFuture(loop=driver.loop)
    future.requester, future.tag, future.channel = driver.calls, -1, request[3]
    if decode_response is not None:
        future.decode = decode_response

    async def send() -> None:
        joined = await joined_for(driver, request, body, fallback, plan.deadline)
        if joined is not None:
            rq_type, flags, _, _ = request
            future.plan = plan_of(options, outer_request(), driver.loop.time())
            if future.plan.needs:
                await driver.control.require(future.plan.needs, f"a request with {', '.join(options)}", None)
            driver.calls.begin(future, rq_type, flags, joined, False)
            future.follow(driver.loop, driver.calls)
            return
        exchange = await begin(
            driver, request, options, None, label, hooks, timeout, takes_body=False, future=future
        )
        await _send_body(exchange, body)

    task = driver.loop.create_task(_ended_by_failure(send(), future))
    future.add_done_callback(lambda _: task.cancel())
    return future


async def _send_body(exchange: CalledExchange, source: object) -> None:
    """Send the body of a request that takes none back; a failure of the source ends the request."""
    assert exchange.bodies.request is not None
    writer = BodyWriter(exchange.bodies.request, exchange)
    try:
        with suppress(BodyEnded):  # the response says why
            async for chunk in chunks_of(source):
                await writer.write(chunk)
        writer.finish()
    except BaseException as error:
        exchange.fail(error)
        raise


async def _ended_by_failure(sending: Coroutine[object, object, None], future: RequestFuture) -> None:
    try:
        await sending
    except Exception as error:
        future.fail(error)

"""Calls with options: what is said before the request, and how long is waited for the response."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from packetwire.aio.request import RequestFuture
from packetwire.core.calloptions import CallOptions, CallPlan, plan_of
from packetwire.core.requestcontext import RequestContext
from packetwire.core.responses import DecodeResponse, Response, failure_of
from packetwire.core.varint import BytesLike

if TYPE_CHECKING:
    from packetwire.aio.driver import Driver
    from packetwire.hooks import ConnectionHooks, Span

Request = tuple[int, int, BytesLike, int]
"""(rq_type, flags, payload, channel)"""


def submit_planned(
    driver: Driver,
    request: Request,
    options: CallOptions,
    outer: RequestContext | None,
    decode_response: DecodeResponse | None,
    label: str | None,
    hooks: ConnectionHooks | None,
) -> tuple[RequestFuture, Span | None]:
    """Submit a request with options, or in a handler of the request `outer`; returns the future, and its span.

    Raises as `submit`; the future, too, `CapabilityMissing`. If it is not known yet what the peer understands, the
    request leaves when that is known. The caller sees to it that the span is left.
    """
    plan = plan_of(options, outer, driver.loop.time(), driver.engine.request_ids)
    if hooks is None:
        return _submit(driver, request, options, plan, decode_response), None
    plan, span = hooks.begin_call(plan, request, label)
    try:
        return _submit(driver, request, options, plan, decode_response), span
    except BaseException as error:
        span.leave(error)
        raise


def _submit(
    driver: Driver,
    request: Request,
    options: CallOptions,
    plan: CallPlan,
    decode_response: DecodeResponse | None,
) -> RequestFuture:
    future = RequestFuture(loop=driver.loop)
    future.requester, future.tag, future.channel = driver.calls, -1, request[3]
    if decode_response is not None:
        future.decode = decode_response
    future.plan = plan
    if plan.needs or (plan.wants and driver.control.have(plan.wants)):
        future.said = plan
    if driver.control.have(plan.needs) or not plan.needs:
        driver.calls.begin(future, *request[:3], True)
    else:
        task = driver.loop.create_task(_submit_when_known(driver, future, plan, request, ", ".join(options)))
        future.add_done_callback(lambda _: task.cancel())
    future.follow(driver.loop, driver.calls)
    return future


def leave_by(driver: Driver, span: Span, response: Response, label: str | None) -> None:
    """Leave a span, as there is a response; one that is not ok counts as an exception."""
    ok, flags, payload = response
    error = None if ok else failure_of(driver.engine.status_of(flags), flags, payload, label or "request")
    span.leave(error, len(payload))


def leave_when_done(driver: Driver, future: RequestFuture, span: Span, label: str | None) -> None:
    """Have the span left when the future is done."""

    def leave(done: asyncio.Future[Response]) -> None:
        if done.cancelled():
            span.leave(asyncio.CancelledError())
        elif (error := done.exception()) is not None:
            span.leave(error)
        else:
            leave_by(driver, span, done.result(), label)

    future.add_done_callback(leave)


async def _submit_when_known(
    driver: Driver, future: RequestFuture, plan: CallPlan, request: Request, options: str
) -> None:
    try:
        await driver.control.require(plan.needs, f"a request with {options}", None)  # the future has timers
        if not future.done():
            driver.calls.begin(future, *request[:3], False)
    except Exception as error:
        future.fail(error)

"""Calls with options: what is said before the request, and how long is waited for the response."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from packetwire.core.calloptions import CallOptions, CallPlan, plan_of, with_bodies
from packetwire.core.requestcontext import RequestContext
from packetwire.core.responses import DecodeResponse
from packetwire.core.varint import BytesLike
from packetwire.errors import RequestTimeout
from packetwire.lightresult import LightResult

if TYPE_CHECKING:
    from packetwire.core.bodies import CallBodies
    from packetwire.hooks import ConnectionHooks, Span
    from packetwire.hosts.threads.driver import Driver


def submit_planned(
    driver: Driver,
    request: tuple[int, int, BytesLike, int],
    options: CallOptions,
    outer: RequestContext | None,
    limit: float | None,
    label: str | None,
    decode_response: DecodeResponse | None,
    hooks: ConnectionHooks | None,
    *,
    is_called: bool = False,
    bodies: CallBodies | None = None,
    takes_body: bool = False,
) -> LightResult:
    """Submit a request, (rq_type, flags, payload, channel), with options, or in a handler of the request `outer`.

    `limit` are seconds for finding room. `is_called`: the result is collected at once, and tells the hooks then, in
    this thread. `bodies` are those of a request that has one, and maybe `takes_body`. Raises as `submit`, and
    `CapabilityMissing`.
    """
    plan = plan_of(options, outer, time.monotonic(), driver.engine.request_ids)
    if bodies is not None:
        plan = with_bodies(plan, bodies, takes_body=takes_body)
    if hooks is None:
        return _submit(driver, request, options, plan, limit, label, decode_response, None)
    plan, span = hooks.begin_call(plan, request, label)
    try:
        result = _submit(driver, request, options, plan, limit, label, decode_response, span)
        if not is_called:
            result.notify(LightResult.leave_span)
    except BaseException as error:
        span.leave(error)
        raise
    return result


def _submit(
    driver: Driver,
    request: tuple[int, int, BytesLike, int],
    options: CallOptions,
    plan: CallPlan,
    limit: float | None,
    label: str | None,
    decode_response: DecodeResponse | None,
    span: Span | None,
) -> LightResult:
    rq_type, flags, payload, channel = request
    now = time.monotonic()
    ends = [each for each in (None if limit is None else now + limit, plan.deadline) if each is not None]
    deadline = min(ends, default=None)
    if plan.needs:
        what = ["a body"] if plan.bodies is not None else []
        try:
            driver.control.require(plan.needs, f"a request with {', '.join([*what, *options])}", deadline)
        except RequestTimeout as late:
            raise plan.why_late(late, time.monotonic()) from None
    if plan.response_credit is not None:
        plan = plan._replace(response_credit=driver.engine.first_credit)
    is_said = bool(plan.needs or (plan.wants and driver.control.have(plan.wants)))
    result = LightResult(driver, label, channel, decode_response)
    result.follow(plan, span)
    driver.submit(result, rq_type, flags, payload, channel, deadline, plan if is_said else None)
    return result

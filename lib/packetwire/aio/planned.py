"""Calls with options: what is said before the request, and how long is waited for the response."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from packetwire.aio.request import RequestFuture
from packetwire.core.calloptions import CallPlan, plan_of
from packetwire.core.requestcontext import RequestContext
from packetwire.core.responses import DecodeResponse
from packetwire.core.varint import BytesLike

if TYPE_CHECKING:
    from packetwire.aio.driver import Driver

Request = tuple[int, int, BytesLike, int]
"""(rq_type, flags, payload, channel)"""


def submit_planned(
    driver: Driver,
    request: Request,
    options: Mapping[str, Any],
    outer: RequestContext | None,
    decode_response: DecodeResponse | None,
) -> RequestFuture:
    """Submit a request with options, or in a handler of the request `outer`.

    Raises as `submit`; the future, too, `CapabilityMissing`. If it is not known yet what the peer understands, the
    request leaves when that is known.
    """
    plan = plan_of(options, outer, driver.loop.time())
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


async def _submit_when_known(
    driver: Driver, future: RequestFuture, plan: CallPlan, request: Request, options: str
) -> None:
    try:
        await driver.control.require(plan.needs, f"a request with {options}", plan.deadline)
        if not future.done():
            driver.calls.begin(future, *request[:3], False)
    except Exception as error:
        future.fail(error)

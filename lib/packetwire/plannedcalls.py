"""Calls with options: what is said before the request, and how long is waited for the response."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from packetwire.core.calloptions import plan_of
from packetwire.core.requestcontext import RequestContext
from packetwire.core.responses import DecodeResponse
from packetwire.core.varint import BytesLike
from packetwire.lightresult import LightResult

if TYPE_CHECKING:
    from packetwire.hosts.threads.driver import Driver


def submit_planned(
    driver: Driver,
    request: tuple[int, int, BytesLike, int],
    options: Mapping[str, Any],
    outer: RequestContext | None,
    limit: float | None,
    label: str | None,
    decode_response: DecodeResponse | None,
) -> LightResult:
    """Submit a request, (rq_type, flags, payload, channel), with options, or in a handler of the request `outer`.

    `limit` are seconds for finding room. Raises as `submit`, and `CapabilityMissing`.
    """
    rq_type, flags, payload, channel = request
    now = time.monotonic()
    plan = plan_of(options, outer, now)
    ends = [each for each in (None if limit is None else now + limit, plan.deadline) if each is not None]
    deadline = min(ends, default=None)
    if plan.needs:
        driver.control.require(plan.needs, f"a request with {', '.join(options)}", deadline)
    is_said = bool(plan.needs or (plan.wants and driver.control.have(plan.wants)))
    result = LightResult(driver, label, channel, decode_response)
    result.follow(plan)
    driver.submit(result, rq_type, flags, payload, channel, deadline, plan if is_said else None)
    return result

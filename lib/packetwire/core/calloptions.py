"""The options of a call that the far end is told: a deadline, metadata, the wish to hear of progress.

Strategy: an ordinary call has none of it, and costs nothing for it. The options of one call are checked here and
become a `CallPlan`, which both faces carry out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypedDict

from packetwire.core.bodies import CallBodies
from packetwire.core.fields import metadata_fields
from packetwire.core.frames import REQUEST_NUMBER_SIZE, TRACE_CONTEXT_SIZE, Meta
from packetwire.core.hello import NO_FEATURES, Feature
from packetwire.core.requestcontext import RequestContext
from packetwire.core.requestids import RequestId, RequestIds
from packetwire.core.timelimits import time_limit
from packetwire.errors import DeadlineExceeded, LocalProtocolError, RequestTimeout

OPTIONS = ("deadline", "meta", "on_progress", "idle_timeout", "once")
PROGRESS_INTERVAL = 50
"""Milliseconds between two reports of progress, at least."""
LONGEST_PROGRESS_INTERVAL = 10_000
MAX_TRACE_STATE = 4096
"""Bytes of the state of a trace, which has to fit into META with all else."""


class CallOptions(TypedDict, total=False):
    """The keyword arguments of calls that the peer must understand; without them a call goes to any peer.

    - `deadline`: seconds from now after which nobody needs the response. The far end is told how many are left: it
      does not begin the request later, and its handler sees it. Calls that a handler makes have the deadline of the
      request that it serves, if that is earlier; None here ends that.
    - `meta`: a mapping of str to bytes, for the far end's handler.
    - `on_progress(payload)`: called with each report of the handler, in a thread or the loop of the connection.
    - `idle_timeout`: seconds; the call ends if neither the response nor a report comes for so long.
    - `once`: True gives the request an id, by which a service with a `Dedup` recognizes it if it comes again.
    """

    deadline: float | None
    meta: Mapping[str, bytes]
    on_progress: Callable[[bytes], object]
    idle_timeout: float
    once: bool | RequestId


class CallPlan(NamedTuple):
    """The options of one call, checked; times are those of its face's clock."""

    deadline: float | None
    metadata: Mapping[str, bytes]
    on_progress: Callable[[bytes], object] | None
    idle_timeout: float | None
    needs: Feature
    """The features that the peer must understand for it."""
    wants: Feature
    """The features that are used if the peer understands them."""
    outer: RequestContext | None
    """The request whose handler makes this call, if the call ends with it."""
    trace_context: bytes | None = None
    trace_state: bytes | None = None
    request_id: RequestId | None = None
    bodies: CallBodies | None = None
    """Those of the request, if it has any; filled when it is sent."""
    has_body: bool = False
    response_credit: int | None = None
    """The first credit of the response body, once the peer is known; None if none is taken."""

    def meta(self, now: float) -> Meta:
        """The metadata to be sent before the request."""
        left = None if self.deadline is None else max(0, math.ceil((self.deadline - now) * 1000))
        return Meta(
            milliseconds_left=left,
            has_body=self.has_body,
            response_credit=self.response_credit,
            progress_interval=self._interval,
            trace_context=self.trace_context,
            trace_state=self.trace_state,
            request_id=None if self.request_id is None else encode_request_id(self.request_id),
            metadata=self.metadata,
        )

    @property
    def _interval(self) -> int | None:
        if self.on_progress is None and self.idle_timeout is None:
            return None
        most = LONGEST_PROGRESS_INTERVAL if self.on_progress is None else PROGRESS_INTERVAL
        if self.idle_timeout is None:
            return most
        return max(0, min(most, int(self.idle_timeout * 1000 / 4)))

    def why_late(self, late: RequestTimeout, now: float) -> RequestTimeout:
        """The exception for a call that was not sent in time: another one if its deadline has passed."""
        if self.deadline is None or now < self.deadline:
            return late
        return DeadlineExceeded(f"{late}, and the deadline has passed", begun=False)

    def time_left(self, now: float) -> float | None:
        """Seconds until the deadline, not below 0; None without one."""
        return None if self.deadline is None else max(0.0, self.deadline - now)


def encode_request_id(request_id: RequestId) -> tuple[bytes, int]:
    """It, as `Meta` has it."""
    return request_id.number.to_bytes(REQUEST_NUMBER_SIZE), request_id.attempt


def plan_of(
    options: CallOptions, outer: RequestContext | None, now: float, ids: RequestIds | None = None
) -> CallPlan:
    """The plan for these options, in a handler of the request `outer`; `ids` are those of this end.

    Raises TypeError or `LocalProtocolError` for what makes no sense.
    """
    for name in options:
        if name not in OPTIONS:
            raise TypeError(f"unexpected keyword argument {name!r}")
    needs = wants = NO_FEATURES
    if outer is not None and (outer.is_detached or ("deadline" in options and options["deadline"] is None)):
        outer = None
    limit = time_limit(options.get("deadline"), "deadline")
    deadline = None if limit is None else now + limit
    if deadline is not None:
        needs |= Feature.META
    if outer is not None and outer.deadline is not None and (deadline is None or outer.deadline < deadline):
        deadline, wants = outer.deadline, Feature.META
    metadata = options.get("meta") or {}
    if metadata:
        metadata_fields(metadata)  # raises for what cannot be sent
        needs |= Feature.META
    on_progress, idle = options.get("on_progress"), time_limit(options.get("idle_timeout"), "idle_timeout")
    if on_progress is not None or idle is not None:
        needs |= Feature.META | Feature.PROGRESS
    once = options.get("once", False)
    if once is not False:
        needs |= Feature.META | Feature.REQUEST_IDS
    return CallPlan(deadline, metadata, on_progress, idle, needs, wants, outer, request_id=_request_id(once, ids))


def _request_id(once: object, ids: RequestIds | None) -> RequestId | None:
    if once is False or isinstance(once, RequestId):
        return once or None
    if once is not True:
        raise TypeError(f"once must be True or False, got {type(once).__name__}: {once!r:.100}")
    return None if ids is None else ids.next()


def with_bodies(plan: CallPlan, bodies: CallBodies, *, takes_body: bool) -> CallPlan:
    """The plan of a request with a body, and maybe with one in its response.

    Raises `LocalProtocolError` for one that is to be done once: nothing keeps its body for a second attempt.
    """
    if plan.needs & Feature.REQUEST_IDS:
        raise LocalProtocolError("once=True is for calls without a body")
    needs = plan.needs | Feature.META | Feature.BODIES
    return plan._replace(bodies=bodies, has_body=True, response_credit=1 if takes_body else None, needs=needs)


def with_trace(
    plan: CallPlan, metadata: Mapping[str, bytes], trace_context: bytes | None, trace_state: bytes | None
) -> CallPlan:
    """The plan with this metadata and trace, which are sent if the peer understands them.

    Raises TypeError or `LocalProtocolError` for what cannot be sent.
    """
    if trace_context is None and trace_state is None and metadata == plan.metadata:
        return plan
    metadata_fields(metadata)
    for name, value in ("trace_context", trace_context), ("trace_state", trace_state):
        if value is not None and not isinstance(value, bytes):
            raise TypeError(f"{name} must be bytes, got {type(value).__name__}: {value!r:.100}")
    if trace_context is not None and len(trace_context) != TRACE_CONTEXT_SIZE:
        raise LocalProtocolError(f"trace_context must have {TRACE_CONTEXT_SIZE} bytes, it has {len(trace_context)}")
    if trace_state is not None and len(trace_state) > MAX_TRACE_STATE:
        raise LocalProtocolError(f"trace_state may have {MAX_TRACE_STATE} bytes, it has {len(trace_state)}")
    return plan._replace(
        metadata=metadata, trace_context=trace_context, trace_state=trace_state, wants=plan.wants | Feature.META
    )

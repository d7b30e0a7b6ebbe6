"""What a call can say beside its request: what it needs of the peer, and what makes no sense."""

from __future__ import annotations

import math
from typing import Any

import pytest

from packetwire import DeadlineExceeded, LocalProtocolError, RequestTimeout
from packetwire.core.calloptions import (
    LONGEST_PROGRESS_INTERVAL,
    MAX_TRACE_STATE,
    OPTIONS,
    PROGRESS_INTERVAL,
    CallOptions,
    plan_of,
    with_trace,
)
from packetwire.core.frames import Meta, encode_meta
from packetwire.core.hello import NO_FEATURES, Feature
from packetwire.core.requestcontext import RequestContext
from packetwire.core.requestids import RequestId, RequestIds

NOW = 100.0


def heard(payload: bytes) -> None:
    """Takes a report."""


def named(value: object) -> str:
    return " ".join(value) if isinstance(value, dict) else str(value)


def outer(seconds: float | None = None) -> RequestContext:
    left = None if seconds is None else int(seconds * 1000)
    return RequestContext(Meta(milliseconds_left=left), NOW)


def test_the_options_are_those_of_the_type() -> None:
    assert set(OPTIONS) == set(CallOptions.__annotations__)


def test_nothing_is_needed_for_nothing() -> None:
    plan = plan_of({}, None, NOW)
    assert plan == (None, {}, None, None, NO_FEATURES, NO_FEATURES, None, None, None, None, None, False, None)
    assert plan.meta(NOW) == Meta()
    assert plan.time_left(NOW) is None


@pytest.mark.parametrize(
    ("options", "needs"),
    [
        ({"deadline": 5}, Feature.META),
        ({"deadline": None}, NO_FEATURES),
        ({"deadline": math.inf}, NO_FEATURES),
        ({"meta": {"key": b"value"}}, Feature.META),
        ({"meta": {}}, NO_FEATURES),
        ({"on_progress": heard}, Feature.META | Feature.PROGRESS),
        ({"on_progress": None}, NO_FEATURES),
        ({"idle_timeout": 5}, Feature.META | Feature.PROGRESS),
        ({"idle_timeout": None}, NO_FEATURES),
    ],
    ids=named,
)
def test_what_the_peer_must_understand(options: dict[str, Any], needs: Feature) -> None:
    plan = plan_of(options, None, NOW)
    assert plan.needs == needs
    assert plan.wants == NO_FEATURES


def test_what_is_said_before_the_request() -> None:
    plan = plan_of({"deadline": 2.5, "meta": {"key": b"value"}, "on_progress": heard}, None, NOW)
    assert plan.deadline == 102.5
    assert plan.meta(NOW) == Meta(
        milliseconds_left=2500, progress_interval=PROGRESS_INTERVAL, metadata={"key": b"value"}
    )
    assert plan.meta(NOW + 1.0001).milliseconds_left == 1500, "no less than is left"
    assert plan.meta(NOW + 9).milliseconds_left == 0
    assert (plan.time_left(NOW + 1), plan.time_left(NOW + 9)) == (1.5, 0.0)


@pytest.mark.parametrize(
    ("options", "interval"),
    [
        ({"on_progress": heard}, PROGRESS_INTERVAL),
        ({"idle_timeout": 2}, 500),
        ({"idle_timeout": 1e6}, LONGEST_PROGRESS_INTERVAL),
        ({"idle_timeout": 2, "on_progress": heard}, PROGRESS_INTERVAL),
        ({"idle_timeout": 0.02, "on_progress": heard}, 5),
        ({"idle_timeout": 0}, 0),
        ({"idle_timeout": -5}, 0),
        ({"meta": {"key": b""}}, None),
    ],
    ids=named,
)
def test_how_often_progress_is_wanted(options: dict[str, Any], interval: int | None) -> None:
    """At least four times in the time without any after which the call would end."""
    meta = plan_of(options, None, NOW).meta(NOW)
    assert meta.progress_interval == interval
    encode_meta(meta)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"deadlin": 5}, TypeError, "unexpected keyword argument 'deadlin'"),
        ({"deadline": "5"}, TypeError, "deadline must be a number of seconds, got str: '5'"),
        ({"deadline": math.nan}, LocalProtocolError, "deadline must be a number of seconds, got nan"),
        ({"idle_timeout": b""}, TypeError, "idle_timeout must be a number of seconds, got bytes: b''"),
        ({"meta": {"key": "text"}}, TypeError, "metadata must be bytes by str, got 'key': 'text'"),
        ({"meta": {"key": bytes(5000)}}, LocalProtocolError, "5003 bytes of metadata, the limit is 2048"),
        ({"meta": [b"value"]}, TypeError, "metadata must be a mapping, got list: [b'value']"),
        ({"meta": {"\ud800": b""}}, LocalProtocolError, "a key of metadata is no text in UTF-8: '\\ud800'"),
    ],
    ids=named,
)
def test_what_makes_no_sense(options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        plan_of(options, None, NOW)
    assert type(caught.value) is error
    assert str(caught.value) == text


# calls of a handler


@pytest.mark.parametrize(
    ("seconds", "given", "expected"),
    [(None, 5, 105.0), (3, 5, 103.0), (5, 3, 103.0), (5, math.inf, 105.0), (None, math.inf, None)],
)
def test_the_earlier_deadline_counts(seconds: float | None, given: float, expected: float | None) -> None:
    request = outer(seconds)
    plan = plan_of({"deadline": given}, request, NOW)
    assert plan.deadline == expected
    assert plan.outer is request, "the call ends with the request that it serves"


def test_what_is_inherited_is_only_said_to_who_understands_it() -> None:
    plan = plan_of({}, outer(3), NOW)
    assert (plan.needs, plan.wants) == (NO_FEATURES, Feature.META)
    assert plan.meta(NOW).milliseconds_left == 3000
    plan = plan_of({"deadline": 5}, outer(3), NOW)
    assert (plan.needs, plan.wants) == (Feature.META, Feature.META)
    plan = plan_of({"deadline": 3}, outer(5), NOW)
    assert (plan.needs, plan.wants) == (Feature.META, NO_FEATURES)


def test_no_deadline_ends_what_is_inherited() -> None:
    plan = plan_of({"deadline": None}, outer(3), NOW)
    assert plan.deadline is plan.outer is None
    request = outer(3)
    request.is_detached = True
    plan = plan_of({"deadline": 5}, request, NOW)
    assert plan.deadline == 105.0
    assert plan.outer is None


def test_a_trace_is_sent_if_it_can_be() -> None:
    plan = plan_of({"meta": {"user": b"emma"}}, None, 0.0)
    assert with_trace(plan, {"user": b"emma"}, None, None) is plan
    traced = with_trace(plan_of({}, None, 0.0), {"k": b"v"}, bytes(26), b"a=b")
    assert traced.needs == NO_FEATURES
    assert traced.wants == Feature.META
    meta = traced.meta(0.0)
    assert (meta.metadata, meta.trace_context, meta.trace_state) == ({"k": b"v"}, bytes(26), b"a=b")
    assert with_trace(plan, {}, None, b"x" * MAX_TRACE_STATE).trace_context is None


@pytest.mark.parametrize(
    ("metadata", "trace_context", "trace_state", "error"),
    [
        ({"k": "v"}, None, None, TypeError),
        ({}, "context", None, TypeError),
        ({}, bytes(25), None, LocalProtocolError),
        ({}, None, 5, TypeError),
        ({}, None, b"x" * (MAX_TRACE_STATE + 1), LocalProtocolError),
    ],
)
def test_a_trace_that_cannot_be_sent(
    metadata: Any, trace_context: Any, trace_state: Any, error: type[Exception]
) -> None:
    with pytest.raises(error):
        with_trace(plan_of({}, None, 0.0), metadata, trace_context, trace_state)


def test_a_request_that_is_to_be_done_once() -> None:
    ids = RequestIds(b"client")
    plans = [plan_of({"once": once}, None, NOW, ids) for once in (True, True, RequestId(9, 3), False)]
    assert [plan.request_id for plan in plans] == [RequestId(1), RequestId(2), RequestId(9, 3), None]
    assert plans[0].needs == Feature.META | Feature.REQUEST_IDS
    assert plans[2].meta(NOW) == Meta(request_id=(b"\0\0\0\0\0\0\0\x09", 3))
    assert plans[3].needs == NO_FEATURES
    assert plan_of({"once": True}, None, NOW).request_id is None
    with pytest.raises(TypeError, match="once must be True or False, got int: 1"):
        plan_of({"once": 1}, None, NOW, ids)


def test_why_a_call_was_not_sent_in_time() -> None:
    late = RequestTimeout("no time left")
    assert plan_of({}, None, NOW).why_late(late, NOW) is late
    plan = plan_of({"deadline": 5}, None, NOW)
    assert plan.why_late(late, NOW + 4) is late
    over = plan.why_late(late, NOW + 5)
    assert isinstance(over, DeadlineExceeded)
    assert (str(over), over.begun) == ("no time left, and the deadline has passed", False)

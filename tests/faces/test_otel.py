"""`packetwire.otel`: spans of calls and handlers joined over the wire, and metrics, from both faces."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from packetwire import RequestFailed, Responder, ServedRequest
from packetwire.otel import Telemetry
from packetwire.typed import Client, Service, method

from .conftest import WATCHDOG, Ends, Looped, until
from .traced_process import FAR, MIDDLE, Recorded, chain


def echo(rq_type: int, flags: int, payload: bytes) -> bytes:
    if rq_type == 9:
        raise ValueError("nine")
    return payload


@pytest.mark.timeout(90)
def test_a_trace_over_three_processes_is_one_tree(tmp_path: Path) -> None:
    """Threads ask an event loop, and that asks threads."""
    recorded = Recorded()
    with recorded.tracer.start_as_current_span("begin"), chain(recorded, tmp_path) as conn:
        for text in b"abc", b"xyz":
            assert conn(1, text, label="pass") == (True, 0, text[::-1])
    spans = recorded.spans()
    for role in MIDDLE, FAR:
        spans += json.loads((tmp_path / role).read_text())
    assert len({span["trace"] for span in spans}) == 1
    by_id = {span["id"]: span for span in spans}

    def path(span: dict[str, Any]) -> list[str]:
        parent = by_id.get(span["parent"])
        return [*(path(parent) if parent else []), f"{span['kind']} {span['name']}"]

    leaves = [path(span) for span in spans if span["name"] == "work"]
    way = ["CLIENT pass", "SERVER packetwire 1", "CLIENT Reverse", "SERVER Reverse"]
    assert leaves == [["INTERNAL begin", *way, "INTERNAL work"]] * 2
    assert len(spans) == 1 + 2 * 5, "there is nothing else"


def finished(recorded: Recorded, number: int) -> list[Any]:
    """Those spans; a handler's is finished behind its response, which its caller may have by then."""
    until(lambda: len(recorded.exporter.get_finished_spans()) >= number)
    spans = recorded.exporter.get_finished_spans()
    assert len(spans) == number
    return list(spans)


def test_attributes(ends: Ends) -> None:
    here, there = Recorded(), Recorded()
    ends.make(hooks=here.hooks, capabilities="require")
    peer = ends.asker(request_handler=echo, hooks=there.hooks)
    ends.open()
    assert ends.call(5, b"xyz", label="fetch")[0]
    assert ends.call(9)[0] is False
    call, failed = finished(here, 2)
    assert call.name == "fetch"
    assert dict(call.attributes) == {
        "rpc.system.name": "packetwire",
        "rpc.method": "fetch",
        "packetwire.request_type": 5,
        "packetwire.channel": 0,
        "packetwire.connection": "tried",
    }
    assert call.status.is_unset
    assert (failed.name, failed.attributes["rpc.method"]) == ("packetwire 9", "_OTHER")
    assert failed.attributes["error.type"] == RequestFailed.__name__
    assert failed.status.status_code is trace.StatusCode.ERROR
    assert "nine" in failed.status.description
    peer.close()
    handled, broken = finished(there, 2)
    assert handled.context.trace_id == call.context.trace_id
    assert handled.parent.span_id == call.context.span_id
    assert handled.parent.is_remote
    assert broken.attributes["error.type"] == "ValueError"
    assert [event.name for event in broken.events] == ["exception"]


def test_metrics(ends: Ends) -> None:
    reader, far_reader = InMemoryMetricReader(), InMemoryMetricReader()
    here = Telemetry(meter_provider=MeterProvider([reader]))
    there = Telemetry(meter_provider=MeterProvider([far_reader]))
    under_way, go_on = threading.Event(), threading.Event()

    def handler(rq_type: int, flags: int, payload: bytes) -> bytes:
        if rq_type == 1:
            under_way.set()
            assert go_on.wait(WATCHDOG)
        return echo(rq_type, flags, payload)

    ends.open(hooks=here)
    peer = ends.asker(request_handler=handler, hooks=there)
    slow = ends.do(lambda: [ends.conn.submit(1)])[0]
    assert under_way.wait(WATCHDOG)
    assert active(reader, "client") == active(far_reader, "server") == 1
    go_on.set()
    ends.do(lambda: slow() if callable(slow) else slow)
    assert ends.call(5, b"xyz", label="fetch")[0]
    assert ends.call(9)[0] is False
    peer.close()
    assert active(reader, "client") == active(far_reader, "server") == 0
    client, server = points(reader), points(far_reader)
    assert {key: point.count for key, point in client["rpc.client.call.duration"].items()} == {
        ("_OTHER", None): 1,
        ("fetch", None): 1,
        ("_OTHER", "RequestFailed"): 1,
    }
    assert {key: point.count for key, point in server["rpc.server.call.duration"].items()} == {
        ("_OTHER", None): 2,
        ("_OTHER", "ValueError"): 1,
    }
    assert client["packetwire.client.request.size"][("fetch", None)].sum == 3
    assert client["packetwire.client.response.size"][("fetch", None)].sum == 3
    assert server["packetwire.server.request.size"][("_OTHER", None)].sum == 3
    assert server["packetwire.server.response.size"][("_OTHER", None)].sum == 3


def test_a_span_covers_what_is_streamed(ends: Ends) -> None:
    there = Recorded()

    def handler(rq_type: int, flags: int, payload: bytes) -> Iterator[bytes]:
        for number in range(2):
            with there.tracer.start_as_current_span(f"part {number}"):
                part = b"%d" % number
            yield part

    ends.open(request_handler=handler, hooks=there.hooks)
    asker = ends.asker()
    with asker.stream(5) as call:
        assert b"".join(call) == b"01"
    asker.close()
    *parts, served = finished(there, 3)
    assert [part.name for part in parts] == ["part 0", "part 1"]
    assert {part.parent.span_id for part in parts} == {served.context.span_id}
    assert served.end_time >= parts[1].end_time
    assert served.status.is_unset


class Shop(Service):
    """A service by its annotations."""

    @method(5)
    def put(self, title: str) -> int:
        return len(title)


def test_typed_methods_have_their_names() -> None:
    here, there = Recorded(), Recorded()
    ours, theirs = socket.socketpair()
    with ours, theirs, Shop().serve(theirs, connection={"hooks": there.hooks}):
        with Client(ours, hooks=here.hooks, capabilities="require") as client:
            assert client.do(Shop.put("Emma")) == 4
    (call,), (handled,) = finished(here, 1), finished(there, 1)
    assert call.name == handled.name == "Shop.put"
    assert handled.parent.span_id == call.context.span_id


def points(reader: InMemoryMetricReader) -> dict[str, dict[Any, Any]]:
    """Name of a metric -> (method, error) -> what was measured."""
    data = reader.get_metrics_data()
    return {
        metric.name: {
            (point.attributes["rpc.method"], point.attributes.get("error.type")): point
            for point in metric.data.data_points
        }
        for each in data.resource_metrics
        for scope in each.scope_metrics
        for metric in scope.metrics
    }


def active(reader: InMemoryMetricReader, end: str) -> int:
    return sum(point.value for point in points(reader)[f"packetwire.{end}.active_requests"].values())


def test_a_call_that_is_under_way_is_no_parent_of_the_next(ends: Ends) -> None:
    recorded = Recorded()
    ends.open(hooks=recorded.hooks)
    ends.asker(request_handler=echo)

    async def both() -> None:
        first, second = ends.conn.submit(1), ends.conn.submit(2)
        assert not trace.get_current_span().get_span_context().is_valid
        await asyncio.gather(first, second)

    if isinstance(ends.face, Looped):
        ends.do(both)
    else:
        first, second = ends.conn.submit(1), ends.conn.submit(2)
        assert not trace.get_current_span().get_span_context().is_valid
        assert [first()[0], second()[0]] == [True, True]
    ends.do(ends.conn.close)
    assert [span.parent for span in finished(recorded, 2)] == [None, None]


@pytest.mark.parametrize("kind", [Responder, Future])
def test_a_result_that_comes_later_leaves_the_thread_as_it_was(
    ends: Ends, kind: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The next handler there, and its spans, have nothing to do with it."""
    recorded, made = Recorded(), kind()
    seen: list[Any] = []

    def handler(rq_type: int, flags: int, payload: bytes) -> Any:
        seen.append(trace.get_current_span().get_span_context())
        return made if rq_type == 1 else payload

    ends.open(request_handler=handler, hooks=recorded.hooks, handlers=1)
    asker = ends.asker()
    later = asker.submit(1)
    assert asker(2)[0]
    made.respond(b"late") if kind is Responder else made.set_result(b"late")
    assert later() == (True, 0, b"late")
    spans = finished(recorded, 2)
    assert [span.parent for span in spans] == [None, None]
    assert {each.span_id for each in seen} == {span.context.span_id for span in spans}
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_coroutines_of_plain_functions_run_in_their_span(ends: Ends) -> None:
    if not isinstance(ends.face, Looped):
        pytest.skip("coroutines need a loop")
    recorded, seen = Recorded(), []

    async def work(payload: bytes) -> bytes:
        seen.append(trace.get_current_span().get_span_context())
        await asyncio.sleep(0)
        seen.append(trace.get_current_span().get_span_context())
        return payload

    ends.open(request_handler=lambda rq_type, flags, payload: work(payload), hooks=recorded.hooks)
    assert ends.asker()(1)[0]
    (span,) = finished(recorded, 1)
    assert [each.span_id for each in seen] == [span.context.span_id] * 2


@pytest.mark.parametrize(
    ("context", "state", "expected"),
    [
        (None, None, None),
        (bytes(26), None, None),
        (b"\xff" + b"1" * 25, None, None),
        (b"\x00" + b"1" * 25, b"a=b,c=d", {"a": "b", "c": "d"}),
        (b"\x00" + b"1" * 25, b" a=b ,,c=d\t", {"a": "b", "c": "d"}),
        (b"\x00" + b"1" * 25, b"a=b,a=c", {}),
        (b"\x00" + b"1" * 25, b"a=b,\xff\x00", {}),
        (b"\x00" + b"1" * 25, b"A=b", {}),
        (b"\x00" + b"1" * 25, b",".join(b"k%d=v" % number for number in range(33)), {}),
        (b"\x00" + b"1" * 25, b"=" * 512, {}),
    ],
)
def test_what_a_peer_says(
    context: bytes | None, state: bytes | None, expected: Any, caplog: pytest.LogCaptureFixture
) -> None:
    recorded = Recorded()
    request = ServedRequest(rq_type=1, channel=0, connection="c", meta={}, trace_context=context, trace_state=state)
    with recorded.hooks.server(request):  # type: ignore[attr-defined]
        here = trace.get_current_span().get_span_context()
    (span,) = finished(recorded, 1)
    assert here == span.context
    if expected is None:
        assert span.parent is None
    else:
        assert span.context.trace_id == span.parent.trace_id == int.from_bytes(b"1" * 16)
        assert dict(span.parent.trace_state) == expected
    assert caplog.records == [], "a peer cannot fill the log"


def test_without_an_sdk_the_trace_is_passed_on(ends: Ends) -> None:
    here, far = Recorded(), Recorded()

    def handler(rq_type: int, flags: int, payload: bytes) -> bytes:
        assert below.call(2)[0]
        return payload

    with here.tracer.start_as_current_span("begin") as begin:
        with ExitStack() as stack:
            below = Ends(ends.face, stack) if not isinstance(ends.face, Looped) else None
            if below is None:
                pytest.skip("the same code")
            below.make(hooks=Telemetry(), capabilities="require")
            below.asker(request_handler=echo, hooks=far.hooks)
            below.open()
            ends.make(hooks=here.hooks, capabilities="require")
            ends.asker(request_handler=handler, hooks=Telemetry())
            ends.open()
            assert ends.call(1)[0]
    (span,) = finished(far, 1)
    assert span.context.trace_id == begin.get_span_context().trace_id

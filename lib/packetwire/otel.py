"""OpenTelemetry: spans and metrics of calls and handlers, joined over the wire. It needs the extra "otel".

    hooks = Telemetry()
    conn = PacketConnection(stream, hooks=hooks)

Strategy: the object is the `hooks` of a connection, and knows the API of OpenTelemetry only: whether and where
something is recorded is set up by the program, with its SDK. A call carries the trace id and the id of its span in
the trace context of W3C; the far end's span continues it. A span of a call is never the current one, as the caller
goes on while a call that was submitted is under way; that of a handler is, while the handler runs.
"""

from __future__ import annotations

import re
import sys
import time
from types import TracebackType
from typing import Any

from packetwire.core.faults import is_caused_by_peer
from packetwire.core.statuses import StatusCode
from packetwire.errors import RequestFailed, extra_missing
from packetwire.hooks import ClientCall, ServedRequest

try:
    from opentelemetry import context as contexts
    from opentelemetry import metrics, trace
except ModuleNotFoundError as error:
    raise extra_missing("otel", error) from error

__all__ = ["Telemetry"]

SYSTEM = "packetwire"
OTHER = "_OTHER"
"""The method of a request whose type has no name here; the word is that of the conventions."""
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
"""Seconds: the bounds that the conventions recommend for durations."""
CONTEXT_VERSION = 0

MOST_MEMBERS = 32
"""Members that a trace state may have."""
_MEMBER = re.compile(
    r"([a-z][\w*/-]{0,255}|[a-z0-9][\w*/-]{0,240}@[a-z][\w*/-]{0,13})=([ -+\--<>-~]{0,255}[!-+\--<>-~])", re.ASCII
)


class Telemetry:
    """The `hooks` of connections whose calls and handlers are traced and measured; any number may share one.

    Without providers it uses the global ones, which the program sets up with OpenTelemetry's SDK; as long as there
    are none, nothing is recorded, and the trace of whoever calls is passed on.

    Spans have the attributes `rpc.system.name`, `rpc.method`, `error.type` and `rpc.response.status_code` of
    OpenTelemetry's conventions, and `packetwire.request_type`, `packetwire.channel` and `packetwire.connection`.
    `rpc.method` is the name of the class of a request, or the `label` of a call; else "_OTHER". The metrics are

    - `rpc.client.call.duration`, `rpc.server.call.duration`: seconds;
    - `packetwire.client.active_requests`, `packetwire.server.active_requests`: those under way;
    - `packetwire.client.request.size`, `packetwire.client.response.size`, and the same of `server`: bytes of
      payload, without bodies.
    """

    def __init__(
        self,
        *,
        tracer_provider: trace.TracerProvider | None = None,
        meter_provider: metrics.MeterProvider | None = None,
    ) -> None:
        self._tracer = trace.get_tracer("packetwire", _version(), tracer_provider)
        meter = metrics.get_meter("packetwire", _version(), meter_provider)
        self._client, self._server = _Instruments(meter, "client"), _Instruments(meter, "server")

    def client(self, call: ClientCall) -> _Span:
        """Begin the span of a call, a child of the current one, and give the call its trace context."""
        method = OTHER if call.label is None else call.label
        span = self._tracer.start_span(
            _name_of(call, method), kind=trace.SpanKind.CLIENT, attributes=_attributes(call, method)
        )
        context = span.get_span_context()
        if not context.is_valid:  # nothing is set up here: the far end is below whoever called us
            context = trace.get_current_span().get_span_context()
        if context.is_valid:
            call.trace_context = _encode(context)
            state = context.trace_state.to_header()
            call.trace_state = state.encode() if state else None
        return _Span(span, self._client, call, method)

    def server(self, request: ServedRequest) -> _ServerSpan:
        """Begin the span of a handler, a child of that of the call, wherever that was made."""
        method = OTHER if request.label is None else request.label
        parent = contexts.Context()  # not what happens to be current where the handler runs
        remote = _decode(request)
        if remote is not None:
            parent = trace.set_span_in_context(trace.NonRecordingSpan(remote), parent)
        span = self._tracer.start_span(
            _name_of(request, method), parent, kind=trace.SpanKind.SERVER, attributes=_attributes(request, method)
        )
        here = trace.set_span_in_context(span, parent) if span.get_span_context().is_valid else parent
        return _ServerSpan(span, self._server, request, method, here)


class _Instruments:
    """The metrics of one of the two ends."""

    def __init__(self, meter: metrics.Meter, end: str) -> None:
        self.duration = meter.create_histogram(
            f"rpc.{end}.call.duration",
            unit="s",
            description="Seconds that calls take.",
            explicit_bucket_boundaries_advisory=BUCKETS,
        )
        self.active = meter.create_up_down_counter(
            f"packetwire.{end}.active_requests", unit="{request}", description="Requests under way."
        )
        self.request_size = meter.create_histogram(
            f"packetwire.{end}.request.size", unit="By", description="Bytes of the payloads of requests."
        )
        self.response_size = meter.create_histogram(
            f"packetwire.{end}.response.size", unit="By", description="Bytes of the payloads of responses."
        )


class _Span:
    """The span of a call, and what is measured of it."""

    records_exceptions = False
    """True where an exception has its traceback."""

    def __init__(
        self, span: trace.Span, instruments: _Instruments, about: ClientCall | ServedRequest, method: str
    ) -> None:
        self._span = span
        self._instruments = instruments
        self._about = about
        self._attributes: dict[str, str] = {"rpc.system.name": SYSTEM, "rpc.method": method}

    def __enter__(self) -> None:
        self._began = time.perf_counter()
        self._instruments.active.add(1, self._attributes)
        self._instruments.request_size.record(self._about.size, self._attributes)

    def responded(self, size: int) -> None:
        """The response has so many bytes of payload."""
        self._instruments.response_size.record(size, self._attributes)

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        seconds = time.perf_counter() - self._began
        self._instruments.active.add(-1, self._attributes)
        failed = {} if exc is None else _failure(exc)
        self._instruments.duration.record(seconds, self._attributes | failed)
        if exc is not None and self._span.is_recording():
            self._span.set_attributes(failed)
            self._span.set_status(trace.Status(trace.StatusCode.ERROR, str(exc)))
            if self.records_exceptions and not is_caused_by_peer(exc):
                self._span.record_exception(exc)
        self._span.end()


class _ServerSpan(_Span):
    """The span of a handler: the current one while that runs."""

    records_exceptions = True

    def __init__(
        self,
        span: trace.Span,
        instruments: _Instruments,
        request: ServedRequest,
        method: str,
        context: contexts.Context,
    ) -> None:
        super().__init__(span, instruments, request, method)
        self._context = context
        self._token: Any = None

    def __enter__(self) -> None:
        super().__enter__()
        self.resume()

    def resume(self) -> None:
        """It is the current one here from now on."""
        self._token = contexts.attach(self._context)

    def suspend(self) -> None:
        """It is the current one no more."""
        token, self._token = self._token, None
        if token is not None and contexts.get_current() is self._context:  # else it is left elsewhere
            contexts.detach(token)

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.suspend()
        super().__exit__(exc_type, exc, traceback)


def _version() -> str:
    version: str = sys.modules["packetwire"].__version__
    return version


def _name_of(about: ClientCall | ServedRequest, method: str) -> str:
    return f"{SYSTEM} {about.rq_type}" if method == OTHER else method


def _attributes(about: ClientCall | ServedRequest, method: str) -> dict[str, str | int]:
    return {
        "rpc.system.name": SYSTEM,
        "rpc.method": method,
        "packetwire.request_type": about.rq_type,
        "packetwire.channel": about.channel,
        "packetwire.connection": about.connection,
    }


def _failure(error: BaseException) -> dict[str, str]:
    """The attributes that say how it failed."""
    code = error.code if isinstance(error, RequestFailed) else 0
    if not code:
        return {"error.type": type(error).__name__}
    name = StatusCode(code).name
    return {"error.type": name, "rpc.response.status_code": name}


def _encode(context: trace.SpanContext) -> bytes:
    """The trace context of W3C, in bytes."""
    return (
        bytes((CONTEXT_VERSION,))
        + context.trace_id.to_bytes(16)
        + context.span_id.to_bytes(8)
        + bytes((context.trace_flags & 0xFF,))
    )


def _decode(request: ServedRequest) -> trace.SpanContext | None:
    """The span of the call that this request comes from; None if its caller said nothing that can be used."""
    given = request.trace_context
    if given is None or len(given) != 26 or given[0] == 0xFF:
        return None
    context = trace.SpanContext(
        trace_id=int.from_bytes(given[1:17]),
        span_id=int.from_bytes(given[17:25]),
        is_remote=True,
        trace_flags=trace.TraceFlags(given[25]),
        trace_state=_state_of(request.trace_state or b""),
    )
    return context if context.is_valid else None


def _state_of(header: bytes) -> trace.TraceState:
    """The members of a trace state; none of them if one is wrong, which is not logged: a peer has said it."""
    members = [member.strip(" \t") for member in header.decode("latin-1").split(",")]
    matches = [_MEMBER.fullmatch(member) for member in members if member]
    pairs = {match[1]: match[2] for match in matches if match}
    if len(pairs) != len(matches) or len(pairs) > MOST_MEMBERS:
        return trace.TraceState()
    return trace.TraceState(list(pairs.items()))

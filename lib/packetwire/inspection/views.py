"""The answers to HTTP requests for a snapshot: JSON, or the text format of Prometheus."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator

from packetwire.inspection.snapshot import Snapshot

JSON_PATHS = ("/", "/stats", "/stats.json")
METRICS_PATH = "/metrics"
HELP = f"GET / for JSON, GET {METRICS_PATH} for Prometheus\n"

_REQUEST_LINE = re.compile(rb"([A-Z]+) (\S+) HTTP/1\.[01]\r?\n")
_REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 503: "Service Unavailable"}


def is_whole(request: bytes) -> bool:
    """True if the head of an HTTP request is there, up to the empty line."""
    return b"\r\n\r\n" in request or b"\n\n" in request


def answer_to(request: bytes, take: Callable[[], Snapshot]) -> bytes:
    """The whole answer to an HTTP request; `take` makes the snapshot, if that is asked for."""
    found = _REQUEST_LINE.match(request)
    if found is None:
        return answer(400, "text/plain", HELP)
    method, path = found[1], found[2].partition(b"?")[0].decode("latin-1")
    if path not in (*JSON_PATHS, METRICS_PATH):
        return answer(404, "text/plain", HELP)
    if method not in (b"GET", b"HEAD"):
        return answer(405, "text/plain", HELP, "Allow: GET, HEAD\r\n")
    if path == METRICS_PATH:
        whole = answer(200, "text/plain; version=0.0.4; charset=utf-8", prometheus(take()))
    else:
        whole = answer(200, "application/json", json.dumps(take()) + "\n")
    return whole if method == b"GET" else whole.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"


def answer(status: int, kind: str, text: str, more: str = "") -> bytes:
    """An HTTP answer, after which the connection ends."""
    body = text.encode()
    head = (
        f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
        f"Cache-Control: no-store\r\n{more}Connection: close\r\n\r\n"
    )
    return head.encode() + body


COUNTERS = {
    "requests_received": "Requests of clients.",
    "responses_sent": "Responses to them.",
    "refused": "Requests of clients that no handler saw.",
    "cancelled": "Requests of clients that they gave up.",
    "requests_sent": "Requests to clients.",
    "bytes_received": "Bytes from clients.",
    "bytes_sent": "Bytes to clients.",
    "clients": "Clients that have connected.",
}
GAUGES = {
    "uptime": ("uptime_seconds", "Seconds since it began."),
    "connections": ("connections", "Clients that are connected."),
    "max_connections": ("max_connections", "Clients that may be connected."),
    "memory": ("memory_bytes", "Bytes that are held for all clients."),
    "max_memory": ("max_memory_bytes", "Bytes that may be held for them."),
    "under_way": ("requests_under_way", "Requests whose handlers run."),
    "waiting": ("requests_waiting", "Requests that wait for a handler."),
}


def prometheus(snapshot: Snapshot) -> str:
    """A snapshot in the text format of Prometheus."""
    return "".join(f"{line}\n" for line in _lines(snapshot))


def _lines(snapshot: Snapshot) -> Iterator[str]:
    server = snapshot["server"]
    for key, (name, said) in GAUGES.items():
        yield from _one(name, "gauge", said, server[key])
    yield from _one("draining", "gauge", "1 while it lets its clients go.", int(server["state"] == "draining"))
    for name, said in COUNTERS.items():
        yield from _one(f"{name}_total", "counter", said, snapshot["totals"][name])
    kinds = [*snapshot["requests"], {"channel": "", "type": "", "label": "_OTHER", **snapshot["other_requests"]}]
    yield from _head("failed_requests_total", "counter", "Requests whose handler failed.")
    for kind in kinds:
        yield f"packetwire_failed_requests_total{{{_labels(kind)}}} {kind['failed']}"
    yield from _head("request_seconds", "histogram", "Seconds from the begin of a handler to its result.")
    for kind in kinds:
        labels = _labels(kind)
        for bound, count in kind["buckets"]:
            yield f'packetwire_request_seconds_bucket{{{labels},le="{bound:g}"}} {count}'
        yield f'packetwire_request_seconds_bucket{{{labels},le="+Inf"}} {kind["count"]}'
        yield f"packetwire_request_seconds_sum{{{labels}}} {kind['seconds']}"
        yield f"packetwire_request_seconds_count{{{labels}}} {kind['count']}"


def _head(name: str, kind: str, said: str) -> Iterator[str]:
    yield f"# HELP packetwire_{name} {said}"
    yield f"# TYPE packetwire_{name} {kind}"


def _one(name: str, kind: str, said: str, value: float) -> Iterator[str]:
    yield from _head(name, kind, said)
    yield f"packetwire_{name} {value}"


def _labels(kind: Snapshot) -> str:
    values = {"method": kind["label"] or "", "type": kind["type"], "channel": kind["channel"]}
    return ",".join(f'{name}="{_escaped(str(value))}"' for name, value in values.items())


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")

"""The exchanges of a report as JSON, for the script of its page: a list for each column, as that is short."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable
from typing import Any

from packetwire.capture import Kind
from packetwire.cli.conversation import shown
from packetwire.cli.reporting.markup import Markup
from packetwire.cli.reporting.model import Body, Exchange, Extra, Outcome, Report
from packetwire.cli.reporting.words import CONTROL_NAMES, ENDS
from packetwire.core.hello import CONTROL_CHANNEL

PREVIEW_BUDGET = 1_200_000
"""Bytes of payloads, at most: beyond that less of each is shown."""
PREVIEWS = (128, 64, 32, 16)
EXACT = 1 << 53
"""Integers from this on are strings, as scripts know them only roughly."""
OUTCOMES = tuple(Outcome)

_Json = dict[str, Any]


def data_of(report: Report, payload_limit: int, room: int) -> Markup:
    """The JSON, in at most `room` bytes: exchanges are left out until it fits."""
    exchanges = report.exchanges
    while True:
        text = _escaped(_values(report, exchanges, payload_limit))
        if len(text) <= room or not exchanges:
            return Markup(text)
        exchanges = exchanges[:: 1 + -(-len(text) // room) // 2] if len(exchanges) > 1 else []


def _escaped(values: _Json) -> str:
    """JSON that cannot end the element in which it stands."""
    text = json.dumps(values, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _values(report: Report, exchanges: list[Exchange], payload_limit: int) -> _Json:
    limit = _preview_limit(exchanges, payload_limit)
    timeline = report.timeline
    start = timeline.start or 0
    texts = _Texts()
    labels = _Texts()
    columns: dict[str, Callable[[Exchange], object]] = {
        "connection": lambda each: each.connection,
        "asker": lambda each: int(each.asker is not Kind.FORTH),
        "channel": lambda each: _exact(each.channel),
        "tag": lambda each: _exact(each.tag),
        "type": lambda each: None if each.is_announced else _exact(each.rq_type),
        "label": lambda each: labels.number_of(_label(report, each)),
        "flags": lambda each: _exact(each.flags),
        "time": lambda each: max(0, each.time - start),
        "end": lambda each: None if each.end is None else max(0, each.end - start),
        "outcome": lambda each: OUTCOMES.index(each.outcome),
        "status": lambda each: texts.number_of(each.status),
        "sent": lambda each: each.request_size,
        "received": lambda each: each.response_size,
        "responseFlags": lambda each: _exact(each.response_flags),
        "request": lambda each: _base64(each.request[:limit]),
        "response": lambda each: _base64(each.response[:limit]),
    }
    return {
        "ends": ENDS,
        "outcomes": OUTCOMES,
        "duration": max(0, timeline.end - start),
        "count": report.exchange_count,
        "preview": limit,
        "columns": {name: [value(each) for each in exchanges] for name, value in columns.items()},
        "labels": labels.all,
        "statuses": texts.all,
        "extras": {
            str(number): _extra(each.extra, start, limit)
            for number, each in enumerate(exchanges)
            if each.extra is not None
        },
        "connections": [
            {
                "number": each.number,
                "text": each.text,
                "begin": max(0, each.begin - start),
                "end": None if each.end is None else max(0, each.end - start),
                "why": each.why,
            }
            for each in report.connections
        ],
        "spans": {
            "width": timeline.width,
            "packets": [counts[: timeline.used] for counts in timeline.packets],
            "bytes": [counts[: timeline.used] for counts in timeline.sizes],
            "failures": timeline.failures[: timeline.used],
            "underWay": timeline.under_way(),
        },
    }


def _preview_limit(exchanges: list[Exchange], payload_limit: int) -> int:
    """Bytes of each payload, so that all of them are within the budget."""
    for limit in (payload_limit, *(each for each in PREVIEWS if each < payload_limit)):
        total = sum(min(len(each.request), limit) + min(len(each.response), limit) for each in exchanges)
        if total <= PREVIEW_BUDGET:
            return limit
    return 0


def _label(report: Report, exchange: Exchange) -> str:
    """The name of its type, if it has one."""
    if exchange.channel == CONTROL_CHANNEL and exchange.rq_type in CONTROL_NAMES:
        return CONTROL_NAMES[exchange.rq_type]
    return report.names.get((exchange.asker, exchange.rq_type), "") if exchange.channel == 0 else ""


def _extra(extra: Extra, start: int, limit: int) -> _Json:
    found: _Json = {}
    if extra.milliseconds_left is not None:
        found["deadline"] = _exact(extra.milliseconds_left)
    if extra.metadata and limit:
        found["metadata"] = {key: shown(value.decode("utf-8", "replace")) for key, value in extra.metadata.items()}
    if extra.cancel is not None:
        found["cancel"] = {
            "time": max(0, extra.cancel.time - start),
            "code": _exact(extra.cancel.code),
            "text": extra.cancel.text if limit else "",
        }
    for name, count in (("progress", extra.progress), ("pieces", extra.pieces)):
        if count:
            found[name] = count
    for name, body in (("up", extra.sent), ("down", extra.received)):
        if body is not None:
            found[name] = _body(body, start)
    return found


def _body(body: Body, start: int) -> _Json:
    return {
        "announced": None if body.announced is None else _exact(body.announced),
        "bytes": body.sent,
        "chunks": body.chunks,
        "first": None if body.first is None else max(0, body.first - start),
        "last": None if body.last is None else max(0, body.last - start),
        "whole": body.is_whole,
        "stopped": body.stopped,
        "waits": body.waits,
        "waited": body.waited,
        "longest": body.longest,
        "shown": [[max(0, since - start), max(0, until - start)] for since, until in body.waits_shown],
        "waiting": None if body.waits_since is None else max(0, body.waits_since - start),
    }


class _Texts:
    """Texts, each of them once."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    @property
    def all(self) -> list[str]:
        return list(self._numbers)

    def number_of(self, text: str) -> int:
        return self._numbers.setdefault(text, len(self._numbers))


def _exact(value: int) -> int | str:
    return value if value < EXACT else str(value)


def _base64(data: bytes) -> str:
    return b64encode(data).decode()

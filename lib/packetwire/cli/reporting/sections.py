"""The sections of a report's page: figures, tables and charts as HTML."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from packetwire.capture import Kind
from packetwire.cli.reporting.charts import Area, Scale, areas, histogram, scale_of, time_axis
from packetwire.cli.reporting.markup import Child, Markup, element, table
from packetwire.cli.reporting.model import (
    Body,
    ConnectionFigures,
    ErrorKey,
    Exchange,
    Outcome,
    Report,
    TypeFigures,
    TypeKey,
)
from packetwire.cli.reporting.timeline import BACK, FORTH
from packetwire.cli.reporting.words import ENDS, NOTHING, counted, duration, key_name, number, rate, size_text

CONNECTIONS = 200
PARTS = {"median": 0.5, "90 %": 0.9, "99 %": 0.99}
HISTOGRAMS = 20
"""Request types with a histogram, at most; those with the most requests."""
BODIES = 100
"""Bodies in the table, at most; those that waited longest."""
OUTSTANDING = 100
YEARS = 1 << 36
"""Seconds within which a time is a date that can be shown."""


def facts(report: Report) -> Markup:
    """The line below the heading."""
    timeline = report.timeline
    if timeline.start is None:
        return element("p", "There is nothing in this capture.", class_="facts")
    began = datetime.fromtimestamp(timeline.start // 10**9 % YEARS, UTC)
    words = [
        f"{began:%Y-%m-%d %H:%M:%S}.{timeline.start % 10**9 // 10**6:03} UTC",
        duration(timeline.end - timeline.start),
        counted(report.connection_count, "connection"),
        counted(sum(report.packets), "packet"),
        f"{size_text(sum(report.sizes))} of payload",
    ]
    return element("p", " · ".join(words), class_="facts")


def sections(report: Report, payload_limit: int) -> Markup:
    """All between the heading and the end."""
    return Markup("".join(_sections(report, payload_limit)))


def _sections(report: Report, payload_limit: int) -> Iterator[Markup]:
    yield from _warnings(report)
    yield _overview(report)
    yield _diagram(payload_limit)
    yield _section("latency", "Latency", *_latency(report))
    yield _section("throughput", "Throughput", *_throughput(report))
    yield _section("bodies", "Bodies", *_bodies(report))
    yield _section("cancels", "Cancels and errors", *_cancels(report, payload_limit))
    yield _section("outstanding", "Outstanding at the end", *_outstanding(report))
    yield _section("ends", "Connections and their ends", *_connections(report))


def _section(name: str, title: str, *children: Child) -> Markup:
    heading = element("h2", title, id=f"{name}-title")
    return element("section", heading, children, id=name, aria_labelledby=f"{name}-title")


def _paragraph(text: str) -> Markup:
    return element("p", text)


def _warnings(report: Report) -> Iterator[Markup]:
    """Notes about all that is not in the page."""
    if report.damage:
        yield _warning(f"The capture could be read only in part: {report.damage}")
    if report.is_sampled:
        yield _warning(
            f"The diagram and the list show a sample, {number(len(report.exchanges))} of "
            f"{number(report.exchange_count)} requests: the first and the last, the slowest of each type, those "
            "that failed, were cancelled, have bodies or no answer (up to 1,000 of each kind), and others at "
            "random. All figures and charts are of all requests."
        )
    if report.outcomes[Outcome.FORGOTTEN]:
        count = counted(report.outcomes[Outcome.FORGOTTEN], "request")
        yield _warning(f"{count} could not be followed to a response, as too many waited at the same time.")


def _warning(text: str) -> Markup:
    return element("p", text, class_="warning", role="note")


def _overview(report: Report) -> Markup:
    seconds = (report.timeline.end - (report.timeline.start or 0)) / 1e9
    failed, cancels, unanswered = report.outcomes[Outcome.FAILED], report.cancels.cancels, report.unanswered
    tiles = [
        _tile("requests", report.exchange_count, rate(report.exchange_count / seconds) if seconds else ""),
        _tile("not ok", failed, _share(failed, report), "bad"),
        _tile("cancelled", cancels, _share(cancels, report), "odd"),
        _tile("no answer", unanswered, _share(unanswered, report), "odd"),
    ]
    for side in FORTH, BACK:
        packets = counted(report.packets[side], "packet")
        tiles.append(_tile(f"{ENDS[side]} sent", size_text(report.sizes[side]), packets))
    if report.fault_count:
        tiles.append(_tile("violations", report.fault_count, "of the protocol", "bad"))
    if report.strays:
        tiles.append(_tile("strays", report.strays, "responses to nothing", "odd"))
    return element("dl", tiles, class_="tiles")


def _tile(what: str, figure: int | str, more: str, kind: str = "") -> Markup:
    words = number(figure) if isinstance(figure, int) else figure
    value = element("dd", words, element("small", more))
    return element("div", element("dt", what), value, class_=f"tile {kind if figure else ''}".strip())


def _share(count: int, report: Report) -> str:
    return f"{count / report.exchange_count:.2%}" if count else "none"


def _diagram(payload_limit: int) -> Markup:
    """The place for what the script draws."""
    without = "" if payload_limit else " This report was made without payloads."
    return _section(
        "diagram",
        "Requests and responses",
        _paragraph(
            f"The {ENDS[0]} is this side of a connection, or the client of a bridge; the {ENDS[1]} is the peer."
            + without
        ),
        element("noscript", _paragraph("The diagram and the list of requests need scripts; the rest does not.")),
        element("div", id="explorer"),
    )


# figures by type


def _by_type(report: Report) -> list[tuple[TypeKey, TypeFigures]]:
    """Those with the most requests first."""
    return sorted(report.types.items(), key=lambda item: (item[0] is None, -item[1].requests, item[0] or ()))


def _latency(report: Report) -> Iterator[Child]:
    by_type = _by_type(report)
    measured = [(key, figures) for key, figures in by_type if figures.latencies.count]
    if not by_type:
        yield _paragraph("There are no requests.")
        return
    if measured:
        scale = scale_of([figures.latencies for _, figures in measured])
        rows = [_histogram(report, key, figures, scale) for key, figures in measured[:HISTOGRAMS]]
        axis = element("div", element("span"), scale.axis(), class_="histogram")
        caption = (
            "Responses by their latency, from the request to the response as they passed where the capture was "
            "made, exact to 3 %. Lines: the median and the 99th percentile."
        )
        yield element("figure", rows, axis, element("figcaption", caption))
    yield table(
        "Latencies by request type",
        ("requests", "of the", "number", "not ok", "cancelled", "no answer", *PARTS, "slowest", "sent", "received"),
        [_type_row(report, key, figures) for key, figures in by_type],
        texts=2,
    )


def _histogram(report: Report, key: TypeKey, figures: TypeFigures, scale: Scale) -> Markup:
    name = key_name(key, report.names)
    middle, late = (duration(figures.latencies.percentile(part)) for part in (0.5, 0.99))
    label = f"Latencies of {name}: median {middle}, 99 % within {late}, {counted(figures.answered, 'response')}"
    drawn = histogram(figures.latencies, scale, label, (0.5, 0.99))
    return element("div", element("span", name), element("div", drawn, class_="plot"), class_="histogram")


def _type_row(report: Report, key: TypeKey, figures: TypeFigures) -> list[Child]:
    latencies = figures.latencies
    name: Child = key_name(key, report.names)
    if key is not None:
        name = element("button", name, type="button", data_search=f"type:{key[2]} channel:{key[1]}", disabled=True)
    return [
        name,
        "both ends" if key is None else ENDS[_side(key[0])],
        *map(number, (figures.requests, figures.failed, figures.cancelled, figures.unanswered)),
        *(duration(latencies.percentile(part)) for part in PARTS.values()),
        duration(latencies.most if latencies.count else None),
        size_text(figures.request_bytes),
        size_text(figures.response_bytes),
    ]


def _side(asker: Kind) -> int:
    return FORTH if asker is Kind.FORTH else BACK


# over time


def _throughput(report: Report) -> Iterator[Child]:
    timeline = report.timeline
    used, seconds = timeline.used, timeline.width / 1e9
    if not sum(report.packets):
        yield _paragraph("There are no packets.")
        return
    whole = used * timeline.width
    packets = [[count / seconds for count in counts[:used]] for counts in timeline.packets]
    sizes = [[count / seconds for count in counts[:used]] for counts in timeline.sizes]
    under_way = timeline.under_way()
    for title, peaks, drawn in (
        ("packets a second", [rate(max(values)) for values in packets], packets),
        ("payload a second", [f"{size_text(max(values))}/s" for values in sizes], sizes),
    ):
        label = f"{title}: at most {peaks[FORTH]} from the {ENDS[FORTH]}, {peaks[BACK]} from the {ENDS[BACK]}"
        yield _chart(label, [Area("forth", drawn[FORTH]), Area("back", drawn[BACK], hangs=True)], whole)
    yield _chart(f"requests under way: at most {number(max(under_way))}", [Area("under-way", under_way)], whole)
    failures = timeline.failures[:used]
    if any(failures):
        most = counted(max(failures), "response")
        yield _chart(f"not ok: at most {most} in {duration(timeline.width)}", [Area("failures", failures)], whole)
    yield _paragraph(f"Each step is {duration(timeline.width)}. Up: the {ENDS[FORTH]}; down: the {ENDS[BACK]}.")


def _chart(label: str, drawn: Sequence[Area], whole: int) -> Markup:
    plot = element("div", areas(label, *drawn), class_="plot tall", data_chart=True)
    return element("figure", element("figcaption", label), plot, time_axis(whole))


# bodies


def _bodies(report: Report) -> Iterator[Child]:
    totals = report.bodies
    if not totals.bodies:
        yield _paragraph("There are no bodies.")
        return
    waits = f"Their senders waited {counted(totals.waits, 'time')} for credit, {duration(totals.waited)} in all"
    longest = f", {duration(totals.longest)} at most" if totals.waits else ""
    waiting = f"; {number(totals.waiting)} still waited at the end" if totals.waiting else ""
    bodies = f"{number(totals.bodies)} {'body' if totals.bodies == 1 else 'bodies'}, {number(totals.whole)} whole"
    sizes = " and ".join(f"{size_text(totals.sizes[side])} from the {ENDS[side]}" for side in (FORTH, BACK))
    yield _paragraph(f"{bodies}: {sizes}. {waits}{longest}{waiting}.")
    rows = [
        (body.waited, each, body, from_side)
        for each in report.exchanges
        if each.extra is not None
        for body, from_side in ((each.extra.sent, _side(each.asker)), (each.extra.received, 1 - _side(each.asker)))
        if body is not None and body.chunks
    ]
    rows.sort(key=lambda row: -row[0])
    yield table(
        "Bodies, those that waited longest first",
        ("of request", "from the", "end", "bytes", "time", "a second", "waits", "waited", "longest wait"),
        [_body_row(report, each, body, side) for _, each, body, side in rows[:BODIES]],
        texts=3,
    )


def _body_row(report: Report, exchange: Exchange, body: Body, side: int) -> list[Child]:
    time = (body.last or 0) - (body.first or 0)
    return [
        _exchange_button(report, exchange),
        ENDS[side],
        _body_end(exchange, body),
        size_text(body.sent),
        duration(time),
        f"{size_text(body.sent * 1e9 / time)}/s" if time > 0 else NOTHING,
        number(body.waits),
        duration(body.waited),
        duration(body.longest),
    ]


def _body_end(exchange: Exchange, body: Body) -> str:
    if body.stopped is not None:
        return f"stopped by its reader, {body.stopped}"
    if body.is_whole:
        return "whole"
    if exchange.outcome is Outcome.UNANSWERED:
        return "waiting for credit" if body.waits_since is not None else "not ended"
    return "given up"


def _exchange_button(report: Report, exchange: Exchange) -> Markup:
    """The name of a request; the script makes the button show it in the diagram."""
    key = (exchange.asker, exchange.channel, exchange.rq_type)
    name = "announced only" if exchange.is_announced else key_name(key, report.names)
    words = f"{name}, tag {exchange.tag}" + (f" on channel {exchange.channel}" if exchange.channel else "")
    search = f"connection:{exchange.connection} channel:{exchange.channel} tag:{exchange.tag}"
    return element("button", words, type="button", data_search=search, disabled=True)


# cancels and errors


def _cancels(report: Report, payload_limit: int) -> Iterator[Child]:
    cancels = report.cancels
    if cancels.cancels:
        yield _paragraph(
            f"{counted(cancels.cancels, 'request')} cancelled: {number(cancels.answered_cancelled)} answered with "
            f"CANCELLED, {number(cancels.answered_ok)} answered ok all the same, "
            f"{number(cancels.answered_otherwise)} answered otherwise, "
            f"{number(cancels.unanswered)} without an answer."
        )
    else:
        yield _paragraph("No request was cancelled.")
    if not report.errors:
        yield _paragraph("No response was not ok.")
        return
    errors = sorted(report.errors.items(), key=lambda item: (item[0] is None, -item[1]))
    head = ["requests", "of the", "status", "text", "number"]
    yield table(
        "Responses that are not ok", head, [_error_row(report, *item, payload_limit) for item in errors], texts=4
    )


def _error_row(report: Report, key: ErrorKey, count: int, payload_limit: int) -> list[Child]:
    if key is None:
        return ["all others", "both ends", "", "", number(count)]
    asker, channel, rq_type, status, text = key
    name = key_name((asker, channel, rq_type), report.names)
    said = text if payload_limit else ("…" if text else "")
    return [name, ENDS[_side(asker)], status or "not said", element("span", said, class_="quoted"), number(count)]


# ends


def _outstanding(report: Report) -> Iterator[Child]:
    if not report.unanswered:
        yield _paragraph("Every request was answered.")
        return
    count, again = counted(report.unanswered, "request"), report.outcomes[Outcome.SUPERSEDED]
    tags = f"; the tags of {number(again)} of them had been used again" if again else ""
    yield _paragraph(f"{count} had no answer when the connection, or the capture, ended{tags}.")
    open_ones = [each for each in report.exchanges if each.outcome in (Outcome.UNANSWERED, Outcome.SUPERSEDED)]
    last = report.timeline.end
    yield table(
        "Requests without an answer, the first of them",
        ("request", "of the", "connection", "at", "had waited", "bytes"),
        [_outstanding_row(report, each, last) for each in open_ones[:OUTSTANDING]],
        texts=2,
    )


def _outstanding_row(report: Report, exchange: Exchange, last: int) -> list[Child]:
    ends = {each.number: each.end for each in report.connections}
    until = exchange.end or ends.get(exchange.connection) or last
    return [
        _exchange_button(report, exchange),
        ENDS[_side(exchange.asker)],
        str(exchange.connection),
        duration(max(0, exchange.time - (report.timeline.start or 0))),
        duration(max(0, until - exchange.time)),
        size_text(exchange.request_size),
    ]


def _connections(report: Report) -> Iterator[Child]:
    if not report.connections:
        yield _paragraph("There are no connections.")
    else:
        shown = report.connections[:CONNECTIONS]
        if len(shown) < report.connection_count:
            yield _paragraph(f"The first {number(len(shown))} of {number(report.connection_count)} connections.")
        yield table(
            "Connections",
            (
                "connection",
                "why it ended",
                "lasted",
                "requests of the first end",
                "of the second end",
                "not ok",
                "no answer",
            ),
            [_connection_row(report, each) for each in shown],
            texts=2,
        )
    if report.faults:
        count = f"{counted(report.fault_count, 'violation')} of the protocol"
        yield _paragraph(
            f"{count}:" if len(report.faults) == report.fault_count else f"{count}, the first of them:"
        )
        yield element("ul", [element("li", each, class_="quoted") for each in report.faults])


def _connection_row(report: Report, connection: ConnectionFigures) -> list[Child]:
    last = report.timeline.end if connection.end is None else connection.end
    speakers = " and ".join(filter(None, connection.software))
    more = [connection.text, f"({speakers})" if speakers else ""]
    remarks = [element("br"), element("small", "; ".join(connection.remarks))] if connection.remarks else []
    return [
        f"{connection.number} {' '.join(filter(None, more))}",
        [element("span", connection.why, class_="quoted"), remarks],
        duration(max(0, last - connection.begin)),
        *map(number, (*connection.requests, connection.failed, connection.unanswered)),
    ]

"""The view of `packetwire top`: a snapshot of a server as lines that fit into a width and a height.

Strategy: each line is made of pieces of text with a style, so that it is the same on a terminal, as plain text and
in a picture. The columns that matter least are left out where there is no room for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

Snapshot = dict[str, Any]
Line = list[tuple[str, str]]
"""Pieces of text, each with a style of rich; "" for none."""

SORTS = ("busy", "age", "memory", "name", "rate")
NARROWEST = 20
GAP = 2
LEAST_NAME = 10
NAME_SHARE = 4
"""The first column of a table has this part of the width, if it needs that, and not less than the least."""
LINES_BESIDE_ROWS = 3
"""Of each table: an empty one, its head, and how many more there are."""


@dataclass(frozen=True)
class Column:
    """A column of a table; of those with a greater `rank` the last are left out first."""

    title: str
    rank: int
    style: str = ""
    is_text: bool = False


REQUESTS = (
    Column("request", 0, "cyan"),
    Column("rate/s", 2),
    Column("now", 1, "bold"),
    Column("p50", 3),
    Column("p99", 1),
    Column("longest", 6),
    Column("failed", 4, "red"),
    Column("count", 5),
)
CLIENTS = (
    Column("client", 0, "cyan"),
    Column("state", 4),
    Column("now", 1, "bold"),
    Column("wait", 2),
    Column("rate/s", 3),
    Column("memory", 1),
    Column("silent", 6),
    Column("rtt", 7),
    Column("age", 5),
)
UNDER_WAY = (Column("under way", 0, "cyan"), Column("since", 0, "bold"), Column("client", 1, is_text=True))


def lines_of(
    snapshot: Snapshot,
    before: Snapshot | None,
    *,
    width: int,
    rows: int | None = None,
    height: int = 0,
    sort: str = "busy",
    title: str = "packetwire top",
) -> list[Line]:
    """A snapshot, beside the one before that, if there is one.

    Each table has at most so many `rows`; None for as many as make about `height` lines.

    Raises KeyError, TypeError, ValueError, AttributeError or OverflowError for what is no snapshot.
    """
    width = max(NARROWEST, width)
    lines = _summary(snapshot, before, width, title)
    tables = (
        (REQUESTS, _requests(snapshot), 0),
        (CLIENTS, _clients(snapshot, sort), int(snapshot["connections_left_out"])),
        (UNDER_WAY, _under_way(snapshot), sum(each["under_way_left_out"] for each in snapshot["connections"])),
    )
    room = height - len(lines) - LINES_BESIDE_ROWS * len(tables)
    shares = _shares(room, [len(cells) for _, cells, _ in tables])
    for (columns, cells, left_out), share in zip(tables, shares, strict=True):
        shown = share if rows is None else rows
        lines += [[], *_table(columns, cells[:shown], width)]
        more = max(0, len(cells) - shown) + left_out
        if more:
            lines.append([(f"and {more} more", "dim")])
    return [_cut([(_plain(text), style) for text, style in line], width) for line in lines]


def text_of(lines: Iterable[Line]) -> str:
    """These lines without styles."""
    return "".join("".join(text for text, _ in line).rstrip() + "\n" for line in lines)


def _shares(room: int, needs: Sequence[int]) -> list[int]:
    """The rows that each table gets of those there is room for: one after the other, as long as it needs more."""
    shares = [1] * len(needs)
    while sum(shares) < room and any(share < need for share, need in zip(shares, needs, strict=True)):
        for number, need in enumerate(needs):
            if shares[number] < need and sum(shares) < room:
                shares[number] += 1
    return shares


# parts


def _summary(snapshot: Snapshot, before: Snapshot | None, width: int, title: str) -> list[Line]:
    server, totals = snapshot["server"], snapshot["totals"]
    state = server["state"]
    if server["drain_left"] is not None:
        state += f", {duration(server['drain_left'])} left"
    facts = [
        ("", str(server["address"])),
        ("pid", str(server["pid"])),
        ("up", duration(server["uptime"])),
        ("clients", f"{server['connections']} of {server['max_connections']}"),
        ("memory", f"{size(server['memory'])} of {size(server['max_memory'])}"),
        ("under way", str(server["under_way"])),
        ("waiting", str(server["waiting"])),
        ("requests", count(totals["requests_received"])),
        ("refused", count(totals["refused"])),
        ("cancelled", count(totals["cancelled"])),
    ]
    seconds = 0.0 if before is None else snapshot["time"] - before["time"]
    if before is not None and seconds > 0 and before["server"]["pid"] == server["pid"]:
        for label, name in ("in", "bytes_received"), ("out", "bytes_sent"):
            facts.append((label, f"{size((totals[name] - before['totals'][name]) / seconds)}/s"))
    style = "bold green" if server["drain_left"] is None else "bold yellow"
    return [[(title, "bold"), ("  ", ""), (state, style)], *_flowing(facts, width)]


def _flowing(facts: Sequence[tuple[str, str]], width: int) -> list[Line]:
    """Labels and values, as many in a line as there is room for."""
    lines: list[Line] = [[]]
    used = 0
    for label, value in facts:
        pieces = [(f"{label} ", "dim"), (_plain(value), "")] if label else [(_plain(value), "")]
        length = sum(len(text) for text, _ in pieces)
        if used and used + GAP + length > width:
            lines.append([])
            used = 0
        if used:
            lines[-1].append((" " * GAP, ""))
            used += GAP
        lines[-1] += pieces
        used += length
    return lines


def _requests(snapshot: Snapshot) -> list[list[str]]:
    kinds = [*snapshot["requests"]]
    others = snapshot["other_requests"]
    rows = [
        [
            _kind(kind),
            rate(kind["rate"]),
            str(kind["under_way"] or ""),
            duration(kind["p50"]),
            duration(kind["p99"]),
            duration(kind["longest"] or None),
            count(kind["failed"]) if kind["failed"] else "",
            count(kind["count"]),
        ]
        for kind in sorted(kinds, key=lambda kind: (-kind["under_way"], -kind["rate"], -kind["count"]))
    ]
    if others["count"]:
        rows.append(
            [
                *("others", rate(others["rate"]), "", duration(others["p50"]), duration(others["p99"])),
                *(duration(others["longest"]), count(others["failed"]), count(others["count"])),
            ]
        )
    return rows


def _clients(snapshot: Snapshot, sort: str) -> list[list[str]]:
    keys = {
        "busy": lambda each: (
            -len(each["under_way"]) - each["under_way_left_out"],
            -each["waiting"],
            -each["rate"],
        ),
        "age": lambda each: -each["age"],
        "memory": lambda each: -each["memory"],
        "name": lambda each: each["name"],
        "rate": lambda each: -each["rate"],
    }
    return [
        [
            _client(each),
            each["state"],
            str(len(each["under_way"]) + each["under_way_left_out"] or ""),
            str(each["waiting"] or ""),
            rate(each["rate"]),
            size(each["memory"]),
            duration(each["silence"]),
            duration(each["rtt"]),
            duration(each["age"]),
        ]
        for each in sorted(snapshot["connections"], key=keys[sort])
    ]


def _under_way(snapshot: Snapshot) -> list[list[str]]:
    running = [
        (each["age"], _kind(each), _client(client))
        for client in snapshot["connections"]
        for each in client["under_way"]
    ]
    running.sort(key=lambda found: -found[0])
    return [[kind, duration(age), client] for age, kind, client in running]


def _client(client: Snapshot) -> str:
    return f"#{client['number']} {client['name'].removeprefix('client ').removeprefix('of ')}"


def _kind(kind: Snapshot) -> str:
    number = f"{kind['channel']}:{kind['type']}" if kind["channel"] else kind["type"]
    return kind["label"] or f"type {number}"


# tables


def _table(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> list[Line]:
    """The lines of a table; its first column is text and gets what is left, the others are as wide as they need."""
    texts = [[_plain(cell) for cell in row] for row in rows]
    widths = [max(map(len, [column.title, *cells])) for column, *cells in zip(columns, *texts, strict=True)]
    shown = sorted(range(len(columns)), key=lambda number: columns[number].rank)
    least = min(widths[0], max(LEAST_NAME, width // NAME_SHARE))
    while len(shown) > 1 and least + sum(widths[number] + GAP for number in shown if number) > width:
        shown.pop()
    others = sorted(number for number in shown if number)
    first = min(widths[0], width - sum(widths[number] + GAP for number in others))
    lines: list[Line] = []
    for number, row in enumerate([[column.title for column in columns], *texts]):
        styles = ["dim"] * len(columns) if number == 0 else [column.style for column in columns]
        line = [(_shortened(row[0], first).ljust(first), styles[0])]
        line += [
            (_aligned(row[each], widths[each], is_text=columns[each].is_text), styles[each]) for each in others
        ]
        lines.append(line)
    return lines


def _aligned(text: str, width: int, *, is_text: bool) -> str:
    return " " * GAP + (text.ljust(width) if is_text else text.rjust(width))


def _cut(line: Line, width: int) -> Line:
    """The line, at most that wide."""
    cut: Line = []
    for text, style in line:
        cut.append((text[:width], style))
        width -= len(text)
        if width <= 0:
            break
    return cut


def _shortened(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _plain(text: str) -> str:
    """Text of the server's, without what would do something to a terminal."""
    return "".join(each if each.isprintable() else "?" for each in str(text))


# numbers


def duration(seconds: float | None) -> str:
    """A time, for people to read."""
    if seconds is None:
        return ""
    if seconds < 1:
        return f"{seconds * 1e6:.0f} µs" if seconds < 1e-3 else f"{seconds * 1e3:.3g} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, left = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"{days}d {hours:02}h" if days else f"{hours}h {minutes:02}m" if hours else f"{minutes}m {left:02}s"


def size(number: float) -> str:
    """A number of bytes, for people to read."""
    for unit in "B", "kB", "MB", "GB":
        if number < 999.5 or unit == "GB":
            break
        number /= 1000
    return f"{number:.0f} {unit}" if unit == "B" or number >= 99.5 else f"{number:.1f} {unit}"


def rate(per_second: float) -> str:
    """A rate, for people to read; nothing if it is next to nothing."""
    if per_second < 0.05:
        return ""
    return f"{per_second:.1f}" if per_second < 99.5 else f"{per_second:,.0f}"


def count(number: int) -> str:
    """A number of things, for people to read."""
    return f"{number:,}"

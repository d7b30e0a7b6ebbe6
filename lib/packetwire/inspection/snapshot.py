"""The state of a server at one moment, as values that JSON can hold; of bounded size, whatever its clients do."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from heapq import nlargest
from typing import Any, Protocol

from packetwire.core.durations import MOST_KINDS, Durations, Measure
from packetwire.core.stats import ConnectionStats
from packetwire.watching import ConnectionWatch, Handling, Watch

FORMAT = 1
"""The version of the form of a snapshot: a later one has more in it, and what there was remains."""
MOST_CONNECTIONS = 256
"""Connections that are told of one by one: those that have most under way, and hold most."""
MOST_UNDER_WAY = 16
"""Requests under way that are told of one by one, of each connection: the oldest."""
MOST_TEXT = 100
"""Characters of a name."""

SUMMED = (
    *("requests_received", "responses_sent", "refused", "cancelled", "requests_sent", "responses_received"),
    *("given_up", "late_responses", "bytes_received", "bytes_sent"),
)
"""The counters that are told for all clients together, of the past as well."""
OF_A_CONNECTION = (*SUMMED, "outstanding", "owed", "bytes_unsent")

NO_STATS = ConnectionStats()
"""Of a client that has no connection yet."""

Snapshot = dict[str, Any]


class Client(Protocol):
    """A client of a server."""

    watch: ConnectionWatch | None

    @property
    def name(self) -> str:
        """Its name in the log."""
        ...

    @property
    def came(self) -> float:
        """The time at which it got its place."""
        ...

    @property
    def state(self) -> str:
        """In a word: "connecting", "open", "draining" or "leaving"."""
        ...

    @property
    def held_bytes(self) -> int:
        """Bytes that are held for it."""
        ...

    def stats(self) -> ConnectionStats | None:
        """The counters of its connection, if it has one."""
        ...


@dataclass(frozen=True, kw_only=True)
class ServerState:
    """The things that a server says of itself."""

    address: str
    clients: Sequence[Client]
    max_connections: int
    max_memory: int
    drain_left: float | None
    """Seconds until clients are cut off, while it drains; None while it serves."""


class Totals:
    """The counters of all clients together, which never go down."""

    def __init__(self) -> None:
        self.clients = 0
        """Clients that have left."""
        self._gone = dict.fromkeys(SUMMED, 0)
        self._told = dict.fromkeys(SUMMED, 0)

    def has_left(self, stats: ConnectionStats | None) -> None:
        """A client is not among those of the server any more."""
        self.clients += 1
        if stats is not None:
            for name in SUMMED:
                self._gone[name] += getattr(stats, name)

    def with_those(self, present: Iterable[ConnectionStats]) -> dict[str, int]:
        """Together with those that are connected."""
        found = dict(self._gone)
        for stats in present:
            for name in SUMMED:
                found[name] += getattr(stats, name)
        # one that has just left may be counted not at all for a moment
        self._told = {name: max(self._told[name], count) for name, count in found.items()}
        return dict(self._told)


def snapshot_of(server: ServerState, watch: Watch, totals: Totals) -> Snapshot:
    """The state of a server now."""
    now = time.monotonic()
    present = [(client, _stats_of(client)) for client in server.clients]
    with watch.lock:
        summed = totals.with_those(stats for _, stats in present)
        gone = totals.clients
        rates = {id(client): client.watch.rate.at(now) for client, _ in present if client.watch is not None}
    running = [handling for client, _ in present for handling in list(_handled(client).values())]
    kinds = _kinds(watch, running)
    others = _measured(watch.measures.others, watch)
    told = nlargest(
        MOST_CONNECTIONS, present, key=lambda each: (len(_handled(each[0])), each[1].owed, each[0].held_bytes)
    )
    return {
        "format": FORMAT,
        "packetwire": sys.modules["packetwire"].__version__,
        "time": time.time(),
        "server": {
            "address": server.address,
            "pid": os.getpid(),
            "uptime": now - watch.began,
            "state": "serving" if server.drain_left is None else "draining",
            "drain_left": server.drain_left,
            "connections": len(server.clients),
            "max_connections": server.max_connections,
            "memory": sum(client.held_bytes for client in server.clients),
            "max_memory": server.max_memory,
            "under_way": len(running),
            "waiting": sum(max(0, stats.owed - len(_handled(client))) for client, stats in present),
        },
        "totals": {"clients": gone + len(server.clients), **summed},
        "requests": sorted(kinds, key=lambda kind: (-kind["rate"], -kind["count"])),
        "other_requests": others,
        "connections": [_connection(client, stats, rates.get(id(client), 0.0), now) for client, stats in told],
        "connections_left_out": len(server.clients) - len(told),
    }


def _stats_of(client: Client) -> ConnectionStats:
    try:
        return client.stats() or NO_STATS
    except RuntimeError:  # it changed while this was counted
        return NO_STATS


def _handled(client: Client) -> dict[int, Handling]:
    return {} if client.watch is None else client.watch.under_way


def _kinds(watch: Watch, running: list[Handling]) -> list[Snapshot]:
    """Each kind of requests, those that have only just begun included."""
    kinds = dict(watch.measures.kinds)
    under_way = Counter(handling.kind for handling in running)
    for handling in running:
        if len(kinds) < MOST_KINDS:
            kinds.setdefault(handling.kind, Measure(handling.label))
    return [
        {
            "channel": channel,
            "type": number,
            "label": _short(measure.label),
            "under_way": under_way[channel, number],
            **_measured(measure, watch),
        }
        for (channel, number), measure in kinds.items()
    ]


def _measured(measure: Measure, watch: Watch) -> Snapshot:
    with watch.lock:  # for each kind anew: handlers that end wait for it
        return _figures(measure, time.monotonic())


def _figures(measure: Measure, now: float) -> Snapshot:
    recent = measure.recent(now)
    return {
        "count": measure.all.count,
        "failed": measure.failed,
        "seconds": measure.all.seconds,
        "longest": measure.all.longest,
        "rate": measure.rate.at(now),
        "p50": recent.percentile(0.5),
        "p99": recent.percentile(0.99),
        "buckets": _buckets(measure.all),
    }


BUCKETS = (1e-4, 1e-3, 5e-3, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0)
"""Seconds: the upper bounds of the buckets that are told."""


def _buckets(durations: Durations) -> list[list[float]]:
    """Each bound, and how many took no longer; of those that are a fifth longer, some may be among these."""
    return [[bound, durations.up_to(bound)] for bound in BUCKETS]


def _connection(client: Client, stats: ConnectionStats, rate: float, now: float) -> Snapshot:
    running = list(_handled(client).values())
    oldest = sorted(running, key=lambda handling: handling.began)[:MOST_UNDER_WAY]
    return {
        "number": 0 if client.watch is None else client.watch.number,
        "name": _short(client.name),
        "state": client.state,
        "age": now - client.came,
        "silence": stats.silence,
        "rtt": None if stats.rtt is None else stats.rtt.smoothed,
        "memory": client.held_bytes,
        "rate": rate,
        "waiting": max(0, stats.owed - len(running)),
        **{field.name: getattr(stats, field.name) for field in fields(stats) if field.name in OF_A_CONNECTION},
        "under_way": [
            {"channel": each.kind[0], "type": each.kind[1], "label": _short(each.label), "age": now - each.began}
            for each in oldest
        ],
        "under_way_left_out": len(running) - len(oldest),
    }


def _short(text: str | None) -> str | None:
    return text if text is None or len(text) <= MOST_TEXT else text[: MOST_TEXT - 1] + "…"

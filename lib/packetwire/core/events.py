"""What the engine tells its face: frozen tuples with names, complete when built.

They are named tuples rather than dataclasses because one is built for each packet, and a frozen
dataclass costs five times as much to build.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from packetwire.errors import ConnectionEnded


class RequestReceived(NamedTuple):
    """The peer asks: answer once, by `ConnectionEngine.respond` with this channel and tag."""

    channel: int
    tag: int
    rq_type: int
    flags: int
    payload: bytes


class ResponseReceived(NamedTuple):
    """The peer answered a request of ours; `waiter` is what the face gave with the request."""

    channel: int
    tag: int
    ok: bool
    flags: int
    payload: bytes
    waiter: Any


class PeerEndedRequests(NamedTuple):
    """The peer sends no more requests (ERQ)."""


class StreamEnded(NamedTuple):
    """Nothing more is received: the last event of a connection.

    `cause` says why. `lost` are the waiters of the requests that were not answered: each must be told.
    `clean` is true if the peer said EOF.
    """

    cause: ConnectionEnded
    lost: tuple[Any, ...]
    clean: bool


Event = RequestReceived | ResponseReceived | PeerEndedRequests | StreamEnded

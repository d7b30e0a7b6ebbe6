"""What the engine tells its face: frozen tuples with names, complete when built.

They are named tuples rather than dataclasses because one is built for each packet, and a frozen
dataclass costs five times as much to build.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from packetwire.errors import ConnectionEnded


class RequestReceived(NamedTuple):
    """The peer asks: it is answered once, under this channel and tag."""

    channel: int
    tag: int
    rq_type: int
    """The request type, from 0."""
    flags: int
    """The user flags, from 0."""
    payload: bytes


class ResponseReceived(NamedTuple):
    """The peer answered a request of ours; `waiter` is what the face gave with the request."""

    channel: int
    tag: int
    """The tag of the request."""
    ok: bool
    flags: int
    """The application flags, from 0."""
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


def without_payload(request: RequestReceived) -> RequestReceived:
    """The same request, for whoever answers it later: its payload is not kept until then."""
    return RequestReceived(*request[:4], b"")


Event = RequestReceived | ResponseReceived | PeerEndedRequests | StreamEnded


def event_text(event: Event) -> str:
    """An event for the log, with the first octets of its payload."""
    if isinstance(event, StreamEnded):
        return f"end: {event.cause}"
    if isinstance(event, RequestReceived):
        return (
            f"request {event.channel}:{event.tag} rq_type={event.rq_type} flags=0x{event.flags:x} "
            f"{event.payload[:32]!r}"
        )
    if isinstance(event, ResponseReceived):
        return f"response {event.channel}:{event.tag} ok={event.ok} flags=0x{event.flags:x} {event.payload[:32]!r}"
    return "end of requests"

"""Events that the engine tells its face: frozen tuples with names, complete when built.

They are named tuples rather than dataclasses because one is built for each packet, and a frozen
dataclass costs five times as much to build.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from packetwire.core.hello import Feature, Hello
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


class PeerCapabilities(NamedTuple):
    """The peer has said what it is and understands."""

    peer: Hello
    features: Feature
    """Understood by both ends."""


class CancelReceived(NamedTuple):
    """The peer gave up a request of its own that has no answer yet.

    It is answered all the same, once: with its result, or with a refusal by `ConnectionEngine.refuse`.
    """

    channel: int
    tag: int
    code: int
    """Why: a `StatusCode`, or one of a later version."""
    text: str


class ProgressReceived(NamedTuple):
    """The peer reports how far a request of ours is; `waiter` is what the face gave with the request."""

    channel: int
    tag: int
    payload: bytes
    waiter: Any


class ControlAnswered(NamedTuple):
    """The peer answered a `ping` or `drain`; `waiter` is what the face gave with it."""

    ok: bool
    payload: bytes
    waiter: Any


class PeerDrains(NamedTuple):
    """The peer wants no more requests: it is about to end the connection."""

    milliseconds: int | None
    """Until it cuts the connection off, if it said so."""
    text: str


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


Event = (
    RequestReceived
    | ResponseReceived
    | PeerEndedRequests
    | PeerCapabilities
    | CancelReceived
    | ProgressReceived
    | ControlAnswered
    | PeerDrains
    | StreamEnded
)


def event_text(event: Event) -> str:
    """An event for the log, with the first bytes of its payload."""
    if isinstance(event, StreamEnded):
        return f"end: {event.cause}"
    if isinstance(event, RequestReceived):
        return (
            f"request {event.channel}:{event.tag} rq_type={event.rq_type} flags=0x{event.flags:x} "
            f"{event.payload[:32]!r}"
        )
    if isinstance(event, ResponseReceived):
        return f"response {event.channel}:{event.tag} ok={event.ok} flags=0x{event.flags:x} {event.payload[:32]!r}"
    if isinstance(event, PeerCapabilities):
        return f"capabilities: {event.peer.software or 'unknown software'}, in common {event.features!r}"
    if isinstance(event, CancelReceived):
        return f"cancel {event.channel}:{event.tag} code={event.code} {event.text!r}"
    if isinstance(event, ProgressReceived):
        return f"progress {event.channel}:{event.tag} {event.payload[:32]!r}"
    if isinstance(event, ControlAnswered):
        return f"control answered ok={event.ok} {event.payload[:32]!r}"
    if isinstance(event, PeerDrains):
        within = "" if event.milliseconds is None else f" within {event.milliseconds} ms"
        return f"drain{within}: {event.text!r}"
    return "end of requests"

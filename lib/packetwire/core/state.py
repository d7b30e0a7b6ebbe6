"""The life of a connection's two directions, in one table that does not know which side is ours.

Each direction is a half. Its sender's steps are acts; an act that is not in the table for the
present half breaks the protocol. The one exception is a request after ERQ, which the receiver answers
"not ok" and lives on (`docs/wire.md`).
"""

from __future__ import annotations

from enum import Enum


class Half(Enum):
    """The state of one direction."""

    OPEN = "open"
    ENDED_REQUESTS = "ended requests"
    ENDED = "ended"


class Act(Enum):
    """A step that the sender of a direction can take."""

    REQUEST = "request"
    RESPONSE = "response"
    ERQ = "ERQ"
    EOF = "EOF"


TRANSITIONS: dict[tuple[Half, Act], Half] = {
    (Half.OPEN, Act.REQUEST): Half.OPEN,
    (Half.OPEN, Act.RESPONSE): Half.OPEN,
    (Half.OPEN, Act.ERQ): Half.ENDED_REQUESTS,
    (Half.OPEN, Act.EOF): Half.ENDED,
    (Half.ENDED_REQUESTS, Act.RESPONSE): Half.ENDED_REQUESTS,
    (Half.ENDED_REQUESTS, Act.ERQ): Half.ENDED_REQUESTS,
    (Half.ENDED_REQUESTS, Act.EOF): Half.ENDED,
}

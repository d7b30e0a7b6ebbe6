"""The life of one request, in one table that does not know which side is ours.

An act is something that a service does for a request; one that is not in `TRANSITIONS` for the present phase is
forbidden to the service that sends it. A client that receives also tolerates what is in `TOLERATED`.
"""

from __future__ import annotations

from enum import Enum

from packetwire.fbsp.constants import ErrorCode, MsgType, State
from packetwire.fbsp.messages import NO_FLAGS, ErrorMessage, FBSPMessage, StateMessage


class Phase(Enum):
    """The phase of a request; `LIVE` are those in which it is under way."""

    __hash__ = object.__hash__  # an enum hashes its name, in ten times the time

    OPEN = "open"
    STREAMING = "replied to, with more to come"
    REPLIED = "replied to"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Act(Enum):
    """Something that a service does for a request."""

    __hash__ = object.__hash__

    REPLY = "REPLY"
    REPLY_MORE = "REPLY with MORE"
    DATA = "DATA"
    DATA_MORE = "DATA with MORE"
    STATE = "STATE"
    LAST_STATE = "STATE that ends a stream"
    ERROR = "ERROR"
    CANCELLED = "ERROR that confirms a CANCEL"


LIVE = frozenset((Phase.OPEN, Phase.STREAMING))
DROPPED = frozenset((Phase.FAILED, Phase.CANCELLED))
"""A message that a service sends in these phases comes too late, through no fault of its handler."""

TRANSITIONS: dict[tuple[Phase, Act], Phase] = {
    (Phase.OPEN, Act.STATE): Phase.OPEN,
    (Phase.OPEN, Act.LAST_STATE): Phase.OPEN,
    (Phase.OPEN, Act.REPLY): Phase.REPLIED,
    (Phase.OPEN, Act.REPLY_MORE): Phase.STREAMING,
    (Phase.OPEN, Act.ERROR): Phase.FAILED,
    (Phase.OPEN, Act.CANCELLED): Phase.CANCELLED,
    (Phase.STREAMING, Act.STATE): Phase.STREAMING,
    (Phase.STREAMING, Act.LAST_STATE): Phase.REPLIED,
    (Phase.STREAMING, Act.DATA_MORE): Phase.STREAMING,
    (Phase.STREAMING, Act.DATA): Phase.REPLIED,
    (Phase.STREAMING, Act.ERROR): Phase.FAILED,
    (Phase.STREAMING, Act.CANCELLED): Phase.CANCELLED,
    # MORE is only recommended, so a stream may follow a REPLY that does not announce it
    (Phase.REPLIED, Act.STATE): Phase.REPLIED,
    (Phase.REPLIED, Act.LAST_STATE): Phase.REPLIED,
    (Phase.REPLIED, Act.DATA): Phase.REPLIED,
    (Phase.REPLIED, Act.DATA_MORE): Phase.REPLIED,
    (Phase.REPLIED, Act.ERROR): Phase.FAILED,
    (Phase.REPLIED, Act.CANCELLED): Phase.CANCELLED,
}

TOLERATED: dict[tuple[Phase, Act], Phase] = {
    (Phase.OPEN, Act.DATA): Phase.OPEN,
    (Phase.OPEN, Act.DATA_MORE): Phase.OPEN,
    (Phase.FAILED, Act.CANCELLED): Phase.CANCELLED,
    (Phase.FAILED, Act.ERROR): Phase.FAILED,
    (Phase.CANCELLED, Act.CANCELLED): Phase.CANCELLED,
    (Phase.CANCELLED, Act.ERROR): Phase.CANCELLED,
}

OF_REQUESTS = frozenset((MsgType.UNKNOWN, MsgType.REQUEST, MsgType.REPLY, MsgType.DATA, MsgType.STATE))
"""An ERROR that relates to one of these ends a request."""


def act_of(msg: FBSPMessage) -> Act | None:
    """The act of this message of a service, for the request with its token; None if it does nothing for it."""
    if msg.msg_type is MsgType.REPLY:
        return Act.REPLY if msg.flags is NO_FLAGS or not msg.has_more() else Act.REPLY_MORE
    if msg.msg_type is MsgType.DATA:
        return Act.DATA_MORE if msg.has_more() else Act.DATA
    if isinstance(msg, StateMessage):
        ends = msg.state in (State.FINISHED, State.ABORTED) and not msg.has_more()
        return Act.LAST_STATE if ends else Act.STATE
    if isinstance(msg, ErrorMessage):
        return _act_of_error(msg)
    return None


def _act_of_error(msg: ErrorMessage) -> Act | None:
    if msg.relates_to in OF_REQUESTS:
        return Act.ERROR
    # the failure of a CANCEL leaves the request as it was
    cancelled = msg.relates_to is MsgType.CANCEL and msg.error_code == ErrorCode.REQUEST_CANCELLED
    return Act.CANCELLED if cancelled else None

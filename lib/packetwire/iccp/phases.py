"""The order of a component's messages, in one table."""

from __future__ import annotations

from enum import Enum
from typing import Final

from packetwire.iccp.messages import MsgType


class Phase(Enum):
    """The phases of a component, as its messages show them."""

    NEW = "not ready"
    READY = "ready"
    FINISHED = "finished"


TRANSITIONS: dict[tuple[Phase, MsgType], Phase] = {
    (Phase.NEW, MsgType.READY): Phase.READY,
    (Phase.NEW, MsgType.ERROR): Phase.NEW,
    (Phase.READY, MsgType.OK): Phase.READY,
    (Phase.READY, MsgType.ERROR): Phase.READY,
    (Phase.READY, MsgType.FINISHED): Phase.FINISHED,
}
"""(phase, message of a component) -> the next phase; anything else is forbidden."""

CONTROLLER_SENDS: Final = frozenset((MsgType.REQUEST, MsgType.STOP))

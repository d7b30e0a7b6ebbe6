"""What both sides of ICCP do alike, and the order of a component's messages in one table."""

from __future__ import annotations

import uuid
from enum import Enum
from typing import ClassVar, Final
from weakref import WeakKeyDictionary

from packetwire.iccp.messages import ICCPMessage, MsgType
from packetwire.iccp.refusals import refuse
from packetwire.messaging.channel import Channel
from packetwire.messaging.message import TZMQMessage
from packetwire.messaging.protocol import Protocol
from packetwire.messaging.session import Session

DEFAULT_MAX_MESSAGE_SIZE: Final = 16 << 20
"""Octets of all frames of a message."""
MAX_FRAMES: Final = 1 << 18
"""Frames of a message: the reference sends the text of an exception as one frame for each character."""


class Phase(Enum):
    """What is known of a component."""

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
"""What a component sends in which phase, and where that leads; all else is forbidden."""

CONTROLLER_SENDS: Final = frozenset((MsgType.REQUEST, MsgType.STOP))


class _ICCP(Protocol):
    """The Internal Component Control Protocol."""

    OID: ClassVar[str] = "1.3.6.1.4.1.53446.1.1.0.1.1"
    UID: ClassVar[uuid.UUID] = uuid.uuid5(uuid.NAMESPACE_OID, OID)
    max_frames: ClassVar[int] = MAX_FRAMES

    def __init__(
        self, *, session_type: type[Session] = Session, max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE
    ) -> None:
        super().__init__(session_type=session_type)
        self.max_message_size = max_message_size
        self._phases: WeakKeyDictionary[Session, Phase] = WeakKeyDictionary()

    @property
    def logging_id(self) -> str:
        """How this side is called in logs."""
        return type(self).__name__

    def message_factory(self, zmsg: TZMQMessage | None = None) -> ICCPMessage:
        """A new message: each is an object of its own."""
        return ICCPMessage()

    def convert_msg(self, zmsg: TZMQMessage) -> ICCPMessage:
        """The message in these frames; raises `InvalidMessageError`."""
        size = sum(map(len, zmsg))
        if size > self.max_message_size:
            raise refuse("too-large", size=size, limit=self.max_message_size)
        if len(zmsg) > MAX_FRAMES:
            raise refuse("too-many-frames", count=len(zmsg), limit=MAX_FRAMES)
        msg = self.message_factory(zmsg)
        msg.from_zmsg(zmsg)
        return msg

    def phase_of(self, session: Session) -> Phase:
        """What is known of the component of a session."""
        return self._phases.get(session, Phase.NEW)

    def session_discarded(self, channel: Channel, session: Session) -> None:
        self._phases.pop(session, None)

    def _create(self, msg_type: MsgType) -> ICCPMessage:
        msg = self.message_factory()
        msg.msg_type = msg_type
        return msg

"""The common part of both sides of ICCP on a channel."""

from __future__ import annotations

import typing
import uuid
from abc import abstractmethod
from typing import ClassVar, Final, Generic, TypeVar
from weakref import WeakKeyDictionary

from packetwire.iccp.messages import DEFAULT_MAX_MESSAGE_SIZE as DEFAULT_MAX_MESSAGE_SIZE
from packetwire.iccp.messages import MAX_FRAMES as MAX_FRAMES
from packetwire.iccp.messages import ICCPMessage, MsgType, check_size
from packetwire.iccp.phases import TRANSITIONS as TRANSITIONS
from packetwire.iccp.phases import Phase as Phase
from packetwire.messaging.channel import Channel
from packetwire.messaging.message import Message, TZMQMessage
from packetwire.messaging.protocol import Protocol
from packetwire.messaging.session import Session

NO_TIME: Final = 0.0
"""The time for cores on a channel, whose conversations have no time limits."""


class Core(typing.Protocol):
    """One conversation, of either side."""

    phase: Phase

    def check_sending(self, msg: ICCPMessage) -> None:
        """Raise `LocalProtocolError` for a message that must not be sent now."""


CoreT = TypeVar("CoreT", bound=Core)


class _ICCP(Protocol, Generic[CoreT]):
    """The Internal Component Control Protocol: a core for each session."""

    OID: ClassVar[str] = "1.3.6.1.4.1.53446.1.1.0.1.1"
    UID: ClassVar[uuid.UUID] = uuid.uuid5(uuid.NAMESPACE_OID, OID)
    max_frames: ClassVar[int] = MAX_FRAMES

    def __init__(
        self, *, session_type: type[Session] = Session, max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE
    ) -> None:
        super().__init__(session_type=session_type)
        self.max_message_size = max_message_size
        self._cores: WeakKeyDictionary[Session, CoreT] = WeakKeyDictionary()

    @property
    def logging_id(self) -> str:
        """The name of this side in logs."""
        return type(self).__name__

    def message_factory(self, zmsg: TZMQMessage | None = None) -> ICCPMessage:
        """A new message: each is an object of its own."""
        return ICCPMessage()

    def convert_msg(self, zmsg: TZMQMessage) -> ICCPMessage:
        """The message in these frames; raises `InvalidMessageError`."""
        check_size(zmsg, self.max_message_size)
        msg = self.message_factory(zmsg)
        msg.from_zmsg(zmsg)
        return msg

    @abstractmethod
    def _new_core(self) -> CoreT:
        """The core of a new session."""

    def _core_of(self, session: Session) -> CoreT:
        """The conversation of a session."""
        core = self._cores.get(session)
        if core is None:
            core = self._cores[session] = self._new_core()
        return core

    def phase_of(self, session: Session) -> Phase:
        """The phase of the component of a session."""
        return self._cores[session].phase if session in self._cores else Phase.NEW

    def before_sending(self, channel: Channel, session: Session, msg: Message) -> bool:
        assert isinstance(msg, ICCPMessage)
        self._core_of(session).check_sending(msg)
        return True

    def session_discarded(self, channel: Channel, session: Session) -> None:
        self._cores.pop(session, None)

    def _create(self, msg_type: MsgType) -> ICCPMessage:
        msg = self.message_factory()
        msg.msg_type = msg_type
        return msg

"""The common part of both sides of FBSP: frames into messages, new messages, and the order of a session."""

from __future__ import annotations

import struct
import uuid
from typing import Any, ClassVar, Final

from packetwire.errors import LocalProtocolError
from packetwire.fbsp.constants import (
    CONTROL_AT,
    HEADER_SIZE,
    REVISION,
    TOKEN_SIZE,
    ErrorCode,
    MsgFlag,
    MsgType,
)
from packetwire.fbsp.lifecycle import TRANSITIONS, Phase, act_of
from packetwire.fbsp.messages import (
    FLAGS,
    MESSAGE_MAP,
    NO_TOKEN,
    PLAIN,
    UNUSUAL_FLAGS,
    APIMessage,
    DataMessage,
    FBSPMessage,
    header_refusal,
    unpack_plain,
)
from packetwire.fbsp.refusals import refuse, type_of
from packetwire.fbsp.session import FBSPSession, PendingRequest
from packetwire.messaging.errors import InvalidMessageError
from packetwire.messaging.message import Message, Token, TZMQMessage, msg_bytes
from packetwire.messaging.protocol import MessageHandler, Protocol
from packetwire.messaging.session import Session

DEFAULT_MAX_MESSAGE_SIZE: Final = 50 << 20
"""Bytes of all frames of a message."""
LEAST_MAX_MESSAGE_SIZE: Final = 1_000_000
"""The specification lets nobody refuse what is smaller."""
MAX_FRAMES: Final = 65536
"""Frames of a message."""


_new: Any = object.__new__


class _FBSP(Protocol):
    """4/FBSP, the Firebird Butler Service Protocol."""

    OID: ClassVar[str] = "1.3.6.1.4.1.53446.1.3.1"
    UID: ClassVar[uuid.UUID] = uuid.uuid5(uuid.NAMESPACE_OID, OID)
    max_frames: ClassVar[int] = MAX_FRAMES
    MESSAGE_MAP: ClassVar[dict[MsgType, type[FBSPMessage]]] = MESSAGE_MAP

    def __init__(
        self,
        *,
        session_type: type[FBSPSession] = FBSPSession,
        max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE,
    ) -> None:
        if max_message_size < LEAST_MAX_MESSAGE_SIZE:
            raise ValueError(f"max_message_size is at least {LEAST_MAX_MESSAGE_SIZE}, not {max_message_size}")
        super().__init__(session_type=session_type)
        self.max_message_size = max_message_size
        is_usual = type(self).message_factory is _FBSP.message_factory and self.MESSAGE_MAP is MESSAGE_MAP
        self._plain = PLAIN if is_usual else {}
        self._classes = {bytes((each << 3 | REVISION,)): made for each, made in self.MESSAGE_MAP.items()}

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "message_factory":
            self._plain = {}  # it makes all messages from now on

    def message_factory(self, zmsg: TZMQMessage | None = None) -> FBSPMessage:
        """An empty message of the class that the control frame asks for; raises `InvalidMessageError`."""
        if not zmsg:
            raise refuse("no-frames")
        header = zmsg[0] if type(zmsg[0]) is bytes else msg_bytes(zmsg[0])
        message_class = self._classes.get(header[CONTROL_AT : CONTROL_AT + 1])
        if message_class is None:
            raise header_refusal(header)
        return message_class()

    def convert_msg(self, zmsg: TZMQMessage) -> FBSPMessage:
        """The message in these frames; raises `InvalidMessageError`."""
        # most messages are made here, and their control frame is read once; others are left to their classes
        size = 0
        for frame in zmsg:
            if type(frame) is not bytes:
                return self._convert(zmsg)
            size += len(frame)
        try:
            beginning, flags, type_data, token = unpack_plain(zmsg[0])
        except (struct.error, IndexError):  # too short or too long; no frame at all
            return self._convert(zmsg)
        kind = self._plain.get(beginning)
        if kind is None or flags & UNUSUAL_FLAGS or size > self.max_message_size or len(zmsg) > MAX_FRAMES:
            return self._convert(zmsg)
        msg_type, message_class = kind
        msg: DataMessage = _new(message_class)  # without its `__init__`, as all that it has is set here
        msg.msg_type = msg_type
        if flags:
            msg.flags = FLAGS[flags]
        msg.type_data = type_data
        msg.token = token
        data = zmsg[1:]
        msg.data = data if type(data) is list else list(data)
        return msg

    def _convert(self, zmsg: TZMQMessage) -> FBSPMessage:
        size = sum(map(len, zmsg))
        if size > self.max_message_size:
            raise refuse("too-large", header_of(zmsg), size=size, limit=self.max_message_size)
        if len(zmsg) > MAX_FRAMES:
            raise refuse("too-many-frames", header_of(zmsg), count=len(zmsg), limit=MAX_FRAMES)
        msg = self.message_factory(zmsg)
        msg.from_zmsg(zmsg)
        return msg

    def unreadable(self, zmsg: TZMQMessage, exc: Exception) -> InvalidMessageError:
        header = header_of(zmsg) if zmsg else b""
        error = super().unreadable(zmsg, exc)
        error.error_code = ErrorCode.INTERNAL_ERROR  # type: ignore[attr-defined]
        error.token = header[HEADER_SIZE - TOKEN_SIZE :] or None  # type: ignore[attr-defined]
        error.relates_to = type_of(header)  # type: ignore[attr-defined]
        return error

    def handler_for(self, msg: Message) -> MessageHandler:
        # the usual way first, because this is done for each message
        return self.handlers.get(msg.msg_type) or super().handler_for(msg)  # type: ignore[attr-defined]

    def create_message_for(
        self,
        message_type: MsgType,
        token: Token = NO_TOKEN,
        type_data: int = 0,
        flags: MsgFlag = MsgFlag.NONE,
    ) -> Any:
        """A new message of a type."""
        msg = self.MESSAGE_MAP[message_type]()
        msg.msg_type = message_type
        msg.token = token
        msg.type_data = type_data
        msg.flags = flags
        return msg

    def create_ack_reply(self, msg: FBSPMessage) -> FBSPMessage:
        """The acknowledgement of a message: its control frame, with other flags."""
        flags = msg.flags & ~MsgFlag.ACK_REQ | MsgFlag.ACK_REPLY
        acknowledgement: FBSPMessage = self.create_message_for(msg.msg_type, msg.token, msg.type_data, flags)
        return acknowledgement

    def create_data_for(self, msg: APIMessage) -> DataMessage:
        """A new DATA message that belongs to a request."""
        data: DataMessage = self.create_message_for(MsgType.DATA, msg.token)
        return data

    def session_discarded(self, channel: Any, session: Session) -> None:
        if isinstance(session, FBSPSession):
            session.close()


def header_of(zmsg: TZMQMessage) -> bytes:
    """The control frame of a message that may be none."""
    return msg_bytes(zmsg[0]) if len(zmsg[0]) == HEADER_SIZE else b""


def next_phase(request: PendingRequest, msg: FBSPMessage) -> Phase:
    """The phase of a request once a message of the service is sent; raises `LocalProtocolError`."""
    act = act_of(msg)
    phase = request.phase if act is None else TRANSITIONS.get((request.phase, act))
    if phase is None:
        raise LocalProtocolError(
            f"{msg.msg_type.name} must not be sent for a request that is {request.phase.value}"
        )
    return phase

"""FBSP on a packet stream: one request class per message type, and the channel that uses them.

A packet request carries one message; the response carries the message that concludes it: WELCOME or ERROR
for HELLO, REPLY or ERROR for REQUEST, ERROR for CANCEL, the acknowledgement for NOOP, DATA and STATE.
"""

from __future__ import annotations

import struct
from collections.abc import Hashable
from typing import ClassVar, Final

from packetwire.fbsp.constants import (
    ERROR_TYPE_MASK,
    FOURCC,
    HEADER_FMT_FULL,
    HEADER_OCTETS,
    MsgFlag,
    MsgType,
)
from packetwire.fbsp.messages import ErrorMessage, FBSPMessage
from packetwire.fbsp.protocol import _FBSP
from packetwire.fbsp.session import FBSPSession
from packetwire.messaging.channel import Session
from packetwire.messaging.message import Message
from packetwire.messaging.packets import PEER, MessageRequest, PacketChannel

_HEADER = struct.Struct(HEADER_FMT_FULL)
_CODEC = _FBSP()
_ACK_REQ, _ACK_REPLY = int(MsgFlag.ACK_REQ), int(MsgFlag.ACK_REPLY)
_HELLO, _WELCOME, _NOOP = int(MsgType.HELLO), int(MsgType.WELCOME), int(MsgType.NOOP)
_REQUEST, _REPLY, _DATA = int(MsgType.REQUEST), int(MsgType.REPLY), int(MsgType.DATA)
_CANCEL, _STATE, _ERROR = int(MsgType.CANCEL), int(MsgType.STATE), int(MsgType.ERROR)

Header = tuple[int, int, int, bytes]
"""(type, flags, type_data, token)"""


class FBSPRequest(MessageRequest):
    """An FBSP message as a packet request."""

    rq_type: ClassVar[int]

    def check(self) -> None:
        header = header_of(self.frames)
        if header is None:
            return  # no message at all: the protocol says so, by an ERROR
        if header[0] != self.rq_type:
            raise ValueError(f"a message of the type {header[0]} came as rq_type {self.rq_type}")
        self.flags = header[1]

    @property
    def message(self) -> FBSPMessage:
        """The message; raises `InvalidMessageError`."""
        return _CODEC.convert_msg(self.frames)

    @classmethod
    def of(cls, msg: FBSPMessage) -> FBSPRequest:
        """The request that carries a message."""
        request = REQUESTS[int(msg.msg_type)](msg.as_zmsg())
        request.flags = int(msg.flags)
        return request


class HelloRequest(FBSPRequest):
    """HELLO; answered by WELCOME or ERROR."""

    rq_type = _HELLO


class WelcomeRequest(FBSPRequest):
    """WELCOME, where it is no answer to HELLO."""

    rq_type = _WELCOME


class NoopRequest(FBSPRequest):
    """NOOP; answered by its acknowledgement."""

    rq_type = _NOOP


class RequestRequest(FBSPRequest):
    """REQUEST, answered by REPLY or ERROR, or its acknowledgement."""

    rq_type = _REQUEST


class ReplyRequest(FBSPRequest):
    """The acknowledgement of a REPLY."""

    rq_type = _REPLY


class DataRequest(FBSPRequest):
    """DATA; answered by its acknowledgement."""

    rq_type = _DATA


class CancelRequest(FBSPRequest):
    """CANCEL; answered by ERROR."""

    rq_type = _CANCEL


class StateRequest(FBSPRequest):
    """STATE; answered by its acknowledgement."""

    rq_type = _STATE


class CloseRequest(FBSPRequest):
    """CLOSE."""

    rq_type = int(MsgType.CLOSE)


class ErrorRequest(FBSPRequest):
    """ERROR, where it is no answer."""

    rq_type = _ERROR


REQUESTS: Final[dict[int, type[FBSPRequest]]] = {
    each.rq_type: each
    for each in (
        HelloRequest,
        WelcomeRequest,
        NoopRequest,
        RequestRequest,
        ReplyRequest,
        DataRequest,
        CancelRequest,
        StateRequest,
        CloseRequest,
        ErrorRequest,
    )
}


def header_of(zmsg: list[bytes]) -> Header | None:
    """What the control frame says; None if there is no such frame."""
    if not zmsg or len(zmsg[0]) != HEADER_OCTETS:
        return None
    fourcc, control, flags, type_data, token = _HEADER.unpack(zmsg[0])
    return (control >> 3, flags, type_data, token) if fourcc == FOURCC else None


class FBSPPacketChannel(PacketChannel):
    """The FBSP peer at the other end of a packet connection."""

    requests = REQUESTS  # type: ignore[assignment]

    def request_of(self, zmsg: list[bytes]) -> tuple[int, int]:
        header = header_of(zmsg)
        assert header is not None
        return header[0], header[1]

    def key_of(self, zmsg: list[bytes]) -> Hashable:
        header = header_of(zmsg)
        if header is None:
            return None
        msg_type, flags, _, token = header
        if flags & _ACK_REPLY:
            return None
        if msg_type in (_HELLO, _REQUEST, _CANCEL):
            return msg_type, token
        acknowledged = flags & _ACK_REQ and msg_type in (_NOOP, _DATA, _STATE)
        return (msg_type, token) if acknowledged else None

    def concluded_by(self, zmsg: list[bytes]) -> Hashable:
        header = header_of(zmsg)
        assert header is not None
        msg_type, flags, type_data, token = header
        if flags & _ACK_REPLY:
            return (msg_type, token) if msg_type in (_NOOP, _DATA, _STATE) else None
        if msg_type == _WELCOME:
            return _HELLO, token
        if msg_type == _REPLY:
            return _REQUEST, token
        if msg_type != _ERROR:
            return None
        related = type_data & ERROR_TYPE_MASK
        key = related, token
        if related in (_HELLO, _REQUEST, _CANCEL, _NOOP, _DATA, _STATE) and self._open.get(key):
            return key
        return (_REQUEST, token) if related in (0, _REPLY, _DATA, _STATE) else None

    def may_repeat(self, key: Hashable) -> bool:
        assert isinstance(key, tuple)
        return key[0] in (_NOOP, _DATA, _STATE)

    def is_awaited(self, key: Hashable) -> bool:
        """A REQUEST that is under way, and DATA that its receiver acknowledges when it likes."""
        assert isinstance(key, tuple)
        session = self.sessions.get(PEER)
        if not isinstance(session, FBSPSession) or session.closed:
            return False
        return key[0] == _DATA or (key[0] == _REQUEST and key[1] in session.requests)

    def send(self, msg: Message, session: Session) -> int:
        error_number = super().send(msg, session)
        if isinstance(msg, ErrorMessage):
            with self.lock:
                self.settle()  # the request that was cancelled, or has failed otherwise
        return error_number

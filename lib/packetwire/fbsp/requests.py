"""FBSP on a packet stream: one request class per message type, and the channel that uses them.

A packet request carries one message; the response carries the message that concludes it: WELCOME or ERROR
for HELLO, REPLY or ERROR for REQUEST, ERROR for CANCEL, the acknowledgement for NOOP, DATA and STATE.
"""

from __future__ import annotations

import struct
from collections.abc import Hashable
from typing import Any, ClassVar, Final, Protocol, runtime_checkable

from packetwire.core.events import RequestReceived, ResponseReceived
from packetwire.fbsp.constants import (
    CONTROL_AT,
    ERROR_TYPE_MASK,
    FLAGS_AT,
    FOURCC,
    HEADER_FMT_FULL,
    HEADER_SIZE,
    REVISION,
    TOKEN_SIZE,
    TYPE_SHIFT,
    MsgFlag,
    MsgType,
)
from packetwire.fbsp.lifecycle import DROPPED, LIVE
from packetwire.fbsp.messages import MESSAGE_MAP, FBSPMessage, WelcomeMessage
from packetwire.fbsp.protocol import _FBSP
from packetwire.fbsp.session import FBSPSession
from packetwire.messaging.message import Message
from packetwire.messaging.multipart import split_frames
from packetwire.messaging.packets import PEER, MessageRequest, PacketChannel
from packetwire.messaging.session import Session

_HEADER = struct.Struct(HEADER_FMT_FULL)
_CODEC = _FBSP()
# plain numbers, because an enum calculates, and hashes, in ten times the time
_ACK_REQ, _ACK_REPLY = int(MsgFlag.ACK_REQ), int(MsgFlag.ACK_REPLY)
_REQUEST, _DATA, _ERROR = int(MsgType.REQUEST), int(MsgType.DATA), int(MsgType.ERROR)

TOKEN_AT: Final = HEADER_SIZE - TOKEN_SIZE
_BEGINNINGS = {int(each): FOURCC + bytes((each << TYPE_SHIFT | REVISION,)) for each in MESSAGE_MAP}
"""rq_type -> how the control frame of such a message begins."""
_PLAIN_REPLY = bytes((HEADER_SIZE,)) + FOURCC + bytes((MsgType.REPLY << TYPE_SHIFT | REVISION, 0))
"""How the payload with a REPLY begins that has no flags."""
_ERROR_CONTROL = bytes((_ERROR << TYPE_SHIFT | REVISION,))
_MAY_END_REQUEST = (MsgType.ERROR, MsgType.REPLY, MsgType.DATA, MsgType.STATE)
_MAY_END_CONTROLS = frozenset(bytes((each << TYPE_SHIFT | REVISION,)) for each in _MAY_END_REQUEST)

ANSWERED: Final = frozenset(map(int, (MsgType.HELLO, MsgType.REQUEST, MsgType.CANCEL)))
"""The types of messages that are always concluded by a message of the other side."""
ACKNOWLEDGED: Final = frozenset(map(int, (MsgType.NOOP, MsgType.DATA, MsgType.STATE)))
"""The types that are concluded by their acknowledgement, if that is asked for."""
ANSWER_TO: Final = {int(MsgType.WELCOME): int(MsgType.HELLO), int(MsgType.REPLY): _REQUEST}
"""Type -> the type that it concludes."""
ENDS_REQUEST: Final = frozenset(map(int, (MsgType.UNKNOWN, MsgType.REPLY, MsgType.DATA, MsgType.STATE)))
"""An ERROR that relates to one of these types concludes the REQUEST with its token."""

Header = tuple[int, int, int, bytes]
"""(type, flags, type_data, token)"""

REQUESTS: Final[dict[int, type[FBSPRequest]]] = {}
"""rq_type -> class."""


class FBSPRequest(MessageRequest):
    """An FBSP message as a packet request: a subclass for each type of message."""

    rq_type: ClassVar[int]

    def __init_subclass__(cls, *, msg_type: MsgType | None = None, **options: Any) -> None:
        super().__init_subclass__(**options)
        if msg_type is not None:
            cls.rq_type = int(msg_type)
            REQUESTS[cls.rq_type] = cls

    def check(self) -> None:
        check_type(self.frames, self.rq_type)
        header = header_of(self.frames)
        if header is not None:
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


class HelloRequest(FBSPRequest, msg_type=MsgType.HELLO):
    """HELLO; answered by WELCOME or ERROR."""


class WelcomeRequest(FBSPRequest, msg_type=MsgType.WELCOME):
    """WELCOME, where it is no answer to HELLO."""


class NoopRequest(FBSPRequest, msg_type=MsgType.NOOP):
    """NOOP; answered by its acknowledgement."""


class RequestRequest(FBSPRequest, msg_type=MsgType.REQUEST):
    """REQUEST, answered by REPLY or ERROR, or its acknowledgement."""


class ReplyRequest(FBSPRequest, msg_type=MsgType.REPLY):
    """The acknowledgement of a REPLY."""


class DataRequest(FBSPRequest, msg_type=MsgType.DATA):
    """DATA; answered by its acknowledgement."""


class CancelRequest(FBSPRequest, msg_type=MsgType.CANCEL):
    """CANCEL; answered by ERROR."""


class StateRequest(FBSPRequest, msg_type=MsgType.STATE):
    """STATE; answered by its acknowledgement."""


class CloseRequest(FBSPRequest, msg_type=MsgType.CLOSE):
    """CLOSE."""


class ErrorRequest(FBSPRequest, msg_type=MsgType.ERROR):
    """ERROR, where it is no answer."""


def check_type(frames: list[bytes], rq_type: int) -> None:
    """Raise ValueError for a message of another type; what is none at all the protocol refuses, by an ERROR."""
    if frames and len(frames[0]) == HEADER_SIZE and frames[0].startswith(FOURCC):
        number = frames[0][CONTROL_AT] >> TYPE_SHIFT
        if number != rq_type:
            raise ValueError(f"a message of the type {number} came as rq_type {rq_type}")


def message_of(payload: bytes) -> FBSPMessage:
    """The message in the payload of a packet; raises ValueError or `InvalidMessageError` if there is none."""
    return _CODEC.convert_msg(split_frames(payload))


def header_of(zmsg: list[bytes]) -> Header | None:
    """The fields of the control frame; None if there is no such frame."""
    if not zmsg or len(zmsg[0]) != HEADER_SIZE:
        return None
    fourcc, control, flags, type_data, token = _HEADER.unpack(zmsg[0])
    return (control >> TYPE_SHIFT, flags, type_data, token) if fourcc == FOURCC else None


@runtime_checkable
class ReplyTaker(Protocol):
    """A protocol that can deal with a REPLY at once, in whatever thread."""

    def take_reply(self, session: FBSPSession, zmsg: list[bytes]) -> bool:
        """True if these frames were a REPLY that somebody waits for, and that needs nothing else."""
        ...


class FBSPPacketChannel(PacketChannel):
    """The FBSP peer at the other end of a packet connection."""

    requests = REQUESTS  # type: ignore[assignment]

    def _frames_of(self, event: RequestReceived) -> list[bytes]:
        frames = split_frames(event.payload)
        if frames and frames[0].startswith(_BEGINNINGS.get(event.rq_type, b"")):
            return frames
        if event.rq_type in REQUESTS:
            check_type(frames, event.rq_type)
        return frames

    def _attach(self) -> None:
        takes_replies = isinstance(self.protocol, ReplyTaker)
        self.connection.attach(self.number, self._take_event, quick=self._take_reply if takes_replies else None)

    def _take_reply(self, event: ResponseReceived) -> bool:
        """Deal with the REPLY of a call, as nearly all responses to a client are: nothing of a user's is called.

        Not while another thread has the lock: it may run what takes long, and this one may read for all.
        """
        payload = event.payload
        if not (event.ok and payload.startswith(_PLAIN_REPLY)) or not self.lock.acquire(blocking=False):
            return False
        try:
            session = self.sessions.get(PEER)
            taker: Any = self.protocol
            try:
                if session is None or not taker.take_reply(session, split_frames(payload)):
                    return False
            except ValueError:
                return False  # the receiver says what is wrong with it
            if self._keys:
                self._forget_answer(event.waiter)
            if self._sleepers:
                self.notify()
            return True
        finally:
            self.lock.release()

    def request_of(self, zmsg: list[bytes]) -> tuple[int, int]:
        control = zmsg[0]
        return control[CONTROL_AT] >> TYPE_SHIFT, control[FLAGS_AT]

    def key_of(self, zmsg: list[bytes]) -> Hashable:
        header = zmsg[0] if zmsg else b""
        if len(header) != HEADER_SIZE or not header.startswith(FOURCC):
            return None
        msg_type, flags = header[CONTROL_AT] >> TYPE_SHIFT, header[FLAGS_AT]
        if flags & _ACK_REPLY:
            return None
        awaited = msg_type in ANSWERED or (flags & _ACK_REQ and msg_type in ACKNOWLEDGED)
        return (msg_type, header[TOKEN_AT:]) if awaited else None

    def concluded_by(self, zmsg: list[bytes]) -> Hashable:
        header = zmsg[0]
        msg_type, flags, token = header[CONTROL_AT] >> TYPE_SHIFT, header[FLAGS_AT], header[TOKEN_AT:]
        if flags & _ACK_REPLY:
            return (msg_type, token) if msg_type in ACKNOWLEDGED else None
        if msg_type != _ERROR:
            concluded = ANSWER_TO.get(msg_type)
            return None if concluded is None else (concluded, token)
        related = header[TOKEN_AT - 1] & ERROR_TYPE_MASK
        if (related in ANSWERED or related in ACKNOWLEDGED) and self._open.get((related, token)):
            return related, token
        return (_REQUEST, token) if related in ENDS_REQUEST else None

    def may_repeat(self, key: Hashable) -> bool:
        assert isinstance(key, tuple)
        return key[0] in ACKNOWLEDGED

    def is_awaited(self, key: Hashable) -> bool:
        """A REQUEST that is under way, and DATA that its receiver acknowledges when it likes.

        Once its request has ended, what a service has not acknowledged it will not, and neither will a client if
        the request has failed. An acknowledgement that comes all the same is a packet request of its own.
        """
        assert isinstance(key, tuple)
        msg_type, token = key
        session = self.sessions.get(PEER)
        if not isinstance(session, FBSPSession) or session.closed:
            return False
        if msg_type != _DATA:
            return msg_type == _REQUEST and token in session.requests
        request = session.find(token)
        if request is None or token == session.hello_token:
            return True
        is_client = isinstance(session.greeting, WelcomeMessage)
        return request.phase not in DROPPED if is_client else request.phase in LIVE

    def send(self, msg: Message, session: Session) -> int:
        error_number = self._send_by(None, msg, session)
        if self._open and isinstance(msg, FBSPMessage) and msg.msg_type in _MAY_END_REQUEST:
            with self.lock:
                self.settle()
        return error_number

    def flush(self) -> int:
        if not self._open:
            return super().flush()
        ends = any(zmsg[0][CONTROL_AT : CONTROL_AT + 1] in _MAY_END_CONTROLS for _, zmsg, _ in self.outbox)
        error_number = super().flush()
        if ends and self._open:
            self.settle()
        return error_number

    def _handle(self, frames: list[bytes]) -> None:
        result = self.deliver(PEER, frames)
        if self.receives:
            self._results.append(result)
        if self._open and frames and frames[0][CONTROL_AT : CONTROL_AT + 1] == _ERROR_CONTROL:
            self.settle()

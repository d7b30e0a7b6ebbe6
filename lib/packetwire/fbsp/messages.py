"""The messages of FBSP.

Strategy: parsing is validating, so a message that came from frames is a valid one; what depends on the
session is not looked at here. Messages can be changed until they are sent; what cannot be encoded raises
`LocalProtocolError` then. The frames of the caller are never changed.
"""

from __future__ import annotations

import struct
import traceback
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar, Final, Self

from packetwire.error_text import ERROR_TEXT_LIMIT, error_text
from packetwire.errors import LocalProtocolError
from packetwire.fbsp.constants import (
    ERROR_CODE_SHIFT,
    ERROR_TYPE_MASK,
    FOURCC,
    HEADER_FMT_FULL,
    HEADER_SIZE,
    MAX_ERROR_CODE,
    PROTO_CANCEL_REQ,
    PROTO_ERROR,
    PROTO_HELLO,
    PROTO_STATE_INFO,
    PROTO_WELCOME,
    REVISION,
    TOKEN_SIZE,
    VERSION_MASK,
    ErrorCode,
    MsgFlag,
    MsgType,
    State,
)
from packetwire.fbsp.refusals import refuse
from packetwire.messaging.errors import InvalidMessageError, StopError
from packetwire.messaging.message import Message, Token, TZMQMessage, msg_bytes
from packetwire.messaging.protobuf import ProtoMessage, create_message, fill_message
from packetwire.messaging.sentinels import ANY

MAX_CAUSES = 16
"""Exceptions of one chain that an ERROR message tells of."""

NO_TOKEN: Token = bytes(TOKEN_SIZE)

_HEADER = struct.Struct(HEADER_FMT_FULL)
_pack, _unpack = _HEADER.pack, _HEADER.unpack
# plain numbers and tuples, because an IntFlag calculates, and an IntEnum hashes, in ten times the time
_ACK_REQ, _ACK_REPLY, _MORE = int(MsgFlag.ACK_REQ), int(MsgFlag.ACK_REPLY), int(MsgFlag.MORE)
FLAGS = tuple(MsgFlag(number) for number in range(8))
NO_FLAGS: Final = MsgFlag.NONE
"""Asked for by `is` first, as most messages have none, and a method takes longer."""
UNUSUAL_FLAGS = 0xFF & ~(_ACK_REQ | _MORE)
_TYPES = {int(each): each for each in MsgType if each is not MsgType.UNKNOWN}
_TYPE_OF_CONTROL = {number << 3 | REVISION: each for number, each in _TYPES.items()}
_STATES = {int(each): each for each in State}
_ERROR_CODES = {int(each): each for each in ErrorCode}
_WITHOUT_TYPE_DATA = (MsgType.HELLO, MsgType.WELCOME, MsgType.CANCEL, MsgType.CLOSE)


_CONTROLS = {each: int(each) << 3 | REVISION for each in MsgType}


def plain_header(msg_type: MsgType, type_data: int, token: Token) -> bytes:
    """The control frame of a message without flags."""
    if len(token) != TOKEN_SIZE:
        raise LocalProtocolError(f"a token has 8 bytes, not {len(token)}")
    return _pack(FOURCC, _CONTROLS[msg_type], 0, type_data, token)


class FBSPMessage(Message):
    """A message without data frames (NOOP, CLOSE), and what all messages have."""

    types: ClassVar[tuple[MsgType, ...]] = (MsgType.NOOP, MsgType.CLOSE)
    """The types that messages of this class can have."""

    msg_type: MsgType = MsgType.UNKNOWN
    type_data: int = 0
    """16 bits whose meaning is that of the type: the call of a REQUEST, the code of an ERROR."""
    flags: MsgFlag = MsgFlag.NONE
    token: Token = NO_TOKEN
    """Eight bytes: which request it belongs to, or what it answers."""

    def __repr__(self) -> str:
        return f"{type(self).__qualname__}[{self.msg_type.name}]"

    __str__ = __repr__

    def from_zmsg(self, zmsg: TZMQMessage) -> None:
        if not zmsg:
            raise refuse("no-frames")
        header, *data = [frame if type(frame) is bytes else msg_bytes(frame) for frame in zmsg]
        self._set_hdr(header)
        if self.msg_type not in self.types:
            raise refuse("class", header, name=self.msg_type.name, other=type(self).__name__)
        if int(self.flags) & _ACK_REPLY:
            if data:
                raise refuse("acknowledgement-with-data", header, count=len(data))
            self._clear_data()
            return
        self._unpack_data(data)
        self._check_content(header)

    def as_zmsg(self) -> list[bytes]:
        if self.flags is not NO_FLAGS and int(self.flags) & _ACK_REPLY:
            return [self.get_header()]
        return [self.get_header(), *self._pack_data()]

    def get_header(self) -> bytes:
        """The control frame; raises `LocalProtocolError` for what does not fit into it."""
        if len(self.token) != TOKEN_SIZE:
            raise LocalProtocolError(f"a token has 8 bytes, not {len(self.token)}")
        try:
            return _pack(FOURCC, self.msg_type << 3 | REVISION, self.flags, self.type_data, self.token)
        except struct.error as error:
            raise LocalProtocolError(
                f"type_data {self.type_data!r} or flags {self.flags!r} cannot be sent: {error}"
            ) from None

    def clear(self) -> None:
        """Drop all but the type of the message."""
        self.type_data = 0
        self.flags = MsgFlag.NONE
        self.token = NO_TOKEN
        self._clear_data()

    def copy(self) -> Self:
        message = type(self)()
        message.msg_type = self.msg_type
        message.type_data = self.type_data
        message.flags = self.flags
        message.token = self.token
        message._unpack_data(list(self._pack_data()))
        return message

    def get_keys(self) -> Iterable[Any]:
        return (self.msg_type, ANY)

    def has_more(self) -> bool:
        """True if MORE is set."""
        return self.flags is not NO_FLAGS and bool(int(self.flags) & _MORE)

    def has_ack_req(self) -> bool:
        """True if an acknowledgement is asked for."""
        return self.flags is not NO_FLAGS and bool(int(self.flags) & _ACK_REQ)

    def has_ack_reply(self) -> bool:
        """True if this is an acknowledgement."""
        return self.flags is not NO_FLAGS and bool(int(self.flags) & _ACK_REPLY)

    def set_flag(self, flag: MsgFlag) -> None:
        """Set a flag."""
        self.flags |= flag

    def clear_flag(self, flag: MsgFlag) -> None:
        """Clear a flag."""
        self.flags &= ~flag

    def _set_hdr(self, header: bytes) -> None:
        """Take over a control frame; raises `InvalidMessageError`."""
        if len(header) == HEADER_SIZE:
            fourcc, control, flags, type_data, token = _unpack(header)
            msg_type = _TYPE_OF_CONTROL.get(control)
            if fourcc == FOURCC and msg_type is not None and flags < len(FLAGS):
                self.msg_type = msg_type
                self.flags = FLAGS[flags]
                self.type_data = type_data
                self.token = token
                return
        raise header_refusal(header)

    def _unpack_data(self, data: list[bytes]) -> None:
        """Replace the content by that of the data frames; raises `InvalidMessageError`."""
        self._expect_frames(data, 0)

    def _check_content(self, header: bytes) -> None:
        """Raise `InvalidMessageError` for a content that a message must not arrive with."""
        if self.type_data and self.msg_type in _WITHOUT_TYPE_DATA:
            raise refuse("type-data", header, name=self.msg_type.name, type_data=self.type_data)

    def _pack_data(self) -> list[bytes]:
        """The data frames; the list may be the message's own."""
        return []

    def _clear_data(self) -> None:
        """Drop the content of the data frames."""

    def _expect_frames(self, data: Sequence[object], expected: int) -> None:
        if len(data) != expected:
            header = self.get_header()
            raise refuse("data-frames", header, name=self.msg_type.name, count=len(data), expected=expected)

    def _fill(self, message: ProtoMessage, frame: bytes, number: int = 1) -> None:
        try:
            fill_message(message, frame)
        except ValueError as error:
            header = self.get_header()
            raise refuse(
                "protobuf", header, name=self.msg_type.name, number=number, reason=error
            ) from error.__cause__


def header_refusal(header: bytes) -> InvalidMessageError:
    """The refusal of a control frame, which says what is wrong with it."""
    if len(header) != HEADER_SIZE:
        return refuse("header-size", header, size=len(header))
    fourcc, control, flags, _, _ = _unpack(header)
    if fourcc != FOURCC:
        return refuse("fourcc", header, fourcc=fourcc)
    if control & VERSION_MASK != REVISION:
        return refuse("version", header, version=control & VERSION_MASK)
    if control not in _TYPE_OF_CONTROL:
        return refuse("type", header, number=control >> 3)
    return refuse("flags", header, flags=flags)


class _ProtoMessage(FBSPMessage):
    """A message with one data frame, which is protobuf."""

    proto_name: ClassVar[str]
    attribute: ClassVar[str]

    def __init__(self) -> None:
        setattr(self, self.attribute, create_message(self.proto_name))

    def _unpack_data(self, data: list[bytes]) -> None:
        self._expect_frames(data, 1)
        self._fill(getattr(self, self.attribute), data[0])

    def _pack_data(self) -> list[bytes]:
        return [getattr(self, self.attribute).SerializeToString(deterministic=True)]

    def _clear_data(self) -> None:
        getattr(self, self.attribute).Clear()


class HandshakeMessage(_ProtoMessage):
    """HELLO or WELCOME: who the peer is, in `data`."""

    attribute = "data"
    data: ProtoMessage


class HelloMessage(HandshakeMessage):
    """The client asks to begin a session: `data` is a FBSPHelloDataframe."""

    types: ClassVar[tuple[MsgType, ...]] = (MsgType.HELLO,)
    proto_name = PROTO_HELLO


class WelcomeMessage(HandshakeMessage):
    """The service accepts the client: `data` is a FBSPWelcomeDataframe."""

    types: ClassVar[tuple[MsgType, ...]] = (MsgType.WELCOME,)
    proto_name = PROTO_WELCOME


class CancelMessage(_ProtoMessage):
    """The client withdraws a request: `request` is a FBSPCancelRequests with its token."""

    types: ClassVar[tuple[MsgType, ...]] = (MsgType.CANCEL,)
    proto_name = PROTO_CANCEL_REQ
    attribute = "request"
    request: ProtoMessage

    def _check_content(self, header: bytes) -> None:
        super()._check_content(header)
        if len(self.request.token) != TOKEN_SIZE:
            raise refuse("cancel-token", header, size=len(self.request.token))


class DataMessage(FBSPMessage):
    """Data frames of any content, in `data`."""

    types: ClassVar[tuple[MsgType, ...]] = (MsgType.DATA,)

    def __init__(self) -> None:
        self.data: list[bytes] = []

    def _unpack_data(self, data: list[bytes]) -> None:
        self.data = data

    def _check_content(self, header: bytes) -> None:
        """Any content will do."""

    def _pack_data(self) -> list[bytes]:
        for frame in self.data:
            if type(frame) is not bytes:
                return [msg_bytes(each) for each in self.data]
        return self.data

    def _clear_data(self) -> None:
        self.data = []


class APIMessage(DataMessage):
    """REQUEST or REPLY: data frames of any content, and in `type_data` the call that they belong to."""

    types: ClassVar[tuple[MsgType, ...]] = (MsgType.REQUEST, MsgType.REPLY)

    @property
    def interface_id(self) -> int:
        """The number of the interface."""
        return self.type_data >> 8

    @property
    def api_code(self) -> int:
        """The number of the operation in its interface."""
        return self.type_data & 0xFF

    @property
    def request_code(self) -> int:
        """Both numbers in one."""
        return self.type_data


class StateMessage(_ProtoMessage, APIMessage):
    """The state of a request: `state_info` is a FBSPStateInformation."""

    types: ClassVar[tuple[MsgType, ...]] = (MsgType.STATE,)
    proto_name = PROTO_STATE_INFO
    attribute = "state_info"
    state_info: ProtoMessage

    def __init__(self) -> None:
        super().__init__()
        self.data = []

    @property
    def state(self) -> State:
        """The state; `UNKNOWN_STATE` also for a number that is none of ours, which `state_info` keeps."""
        return _STATES.get(self.state_info.state, State.UNKNOWN_STATE)

    @state.setter
    def state(self, value: State) -> None:
        self.state_info.state = value


class ErrorMessage(FBSPMessage):
    """Something was refused or has failed: `errors` are ErrorDescriptions, from the effect to the cause."""

    types: ClassVar[tuple[MsgType, ...]] = (MsgType.ERROR,)

    def __init__(self) -> None:
        self.errors: list[ProtoMessage] = []

    @property
    def error_code(self) -> ErrorCode | int:
        """The code of the error: a number if it has no name."""
        number = self.type_data >> ERROR_CODE_SHIFT
        return _ERROR_CODES.get(number, number)

    @error_code.setter
    def error_code(self, value: int) -> None:
        if not 0 < value <= MAX_ERROR_CODE:
            raise LocalProtocolError(f"the code of an error is a number from 1 to {MAX_ERROR_CODE}, not {value}")
        self.type_data = value << ERROR_CODE_SHIFT | self.type_data & ERROR_TYPE_MASK

    @property
    def relates_to(self) -> MsgType:
        """The type of the message in error; `UNKNOWN` for none, and for a number that is no type."""
        return _TYPES.get(self.type_data & ERROR_TYPE_MASK, MsgType.UNKNOWN)

    @relates_to.setter
    def relates_to(self, value: MsgType) -> None:
        self.type_data = self.type_data & ~ERROR_TYPE_MASK | value

    def add_error(self) -> ProtoMessage:
        """A new ErrorDescription, to be filled in, at the end of `errors`."""
        description = create_message(PROTO_ERROR)
        self.errors.append(description)
        return description

    def note_exception(self, exc: BaseException, *, detail: str = "message") -> None:
        """Describe an exception and its causes.

        `detail` is how much the peer is told of what is no `StopError`: "none", "message" (type and
        text) or "traceback".
        """
        for each in chain_of(exc):
            description = self.add_error()
            code = getattr(each, "code", None)
            if isinstance(code, int) and 0 < code < 1 << 64:
                description.code = code
            if isinstance(each, StopError):
                description.description = sendable(text_of(each))
            elif detail == "none":
                description.description = error_text(each, detail).decode()
            else:
                description.description = sendable(text_of(each)) or type(each).__name__
                describe_kind(description, each, detail)

    def _unpack_data(self, data: list[bytes]) -> None:
        self.errors = []
        for number, frame in enumerate(data, 1):
            self._fill(self.add_error(), frame, number)

    def _check_content(self, header: bytes) -> None:
        if not self.type_data >> ERROR_CODE_SHIFT:
            raise refuse("error-code", header)

    def _pack_data(self) -> list[bytes]:
        return [description.SerializeToString(deterministic=True) for description in self.errors]

    def _clear_data(self) -> None:
        self.errors = []


def chain_of(exc: BaseException) -> Iterator[BaseException]:
    """An exception and its causes: each once, and not more than a message should hold."""
    seen: list[BaseException] = []
    cause: BaseException | None = exc
    while cause is not None and not any(cause is each for each in seen) and len(seen) < MAX_CAUSES:
        seen.append(cause)
        yield cause
        cause = cause.__cause__


def describe_kind(description: ProtoMessage, exc: BaseException, detail: str) -> None:
    """Say what kind of exception it was: by its traceback if the peer may see that, else by its type."""
    if detail == "traceback":
        lines = traceback.format_exception(type(exc), exc, exc.__traceback__, chain=False)
        description.annotation["traceback"] = sendable("".join(lines))
    else:
        description.annotation["exception"] = type(exc).__qualname__


def text_of(exc: BaseException) -> str:
    """The text of an exception, even of one that cannot describe itself."""
    try:
        return str(exc)
    except Exception:
        return type(exc).__name__


def sendable(text: str) -> str:
    """Text as it can be sent: of a bounded length, and valid as UTF-8."""
    return text[:ERROR_TEXT_LIMIT].encode("utf-8", errors="replace").decode()


MESSAGE_MAP: dict[MsgType, type[FBSPMessage]] = {
    msg_type: each
    for each in (
        HelloMessage,
        WelcomeMessage,
        FBSPMessage,
        APIMessage,
        DataMessage,
        CancelMessage,
        StateMessage,
        ErrorMessage,
    )
    for msg_type in each.types
}
"""Type -> the class of its messages."""

PLAIN: Final = {
    FOURCC + bytes((each << 3 | REVISION,)): (each, MESSAGE_MAP[each])
    for each in (MsgType.REQUEST, MsgType.REPLY, MsgType.DATA)
}
"""The beginning of a control frame -> type and class, of the messages whose data frames may be anything."""
unpack_plain: Final = struct.Struct("!5sBH8s").unpack
"""Makes that beginning of a control frame, its flags, `type_data` and token."""

"""The messages of ICCP.

Strategy: parsing is validating, so a message that came from frames is a valid one. One deviation is accepted
because the reference sends it: a CONFIGURE whose second frame, the code of the request, is missing.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from enum import Enum, IntEnum
from typing import Final, Self

from packetwire.errors import LocalProtocolError
from packetwire.iccp.config import PROTO_CONFIG
from packetwire.iccp.refusals import refuse
from packetwire.messaging.descriptors import PROTO_PEER, PeerDescriptor
from packetwire.messaging.message import Message, TZMQMessage, msg_bytes
from packetwire.messaging.protobuf import PROTO_STRUCT, ProtoMessage, create_message, dict2struct, struct2dict
from packetwire.messaging.sentinels import ANY

DEFAULT_MAX_MESSAGE_SIZE: Final = 16 << 20
"""Bytes of all frames of a message."""
MAX_FRAMES: Final = 1 << 18
"""Frames of a message: the reference sends the text of an exception as one frame for each character."""
TYPE_SIZE = 2
QUOTED_BYTES = 16


class MsgType(IntEnum):
    """The types of messages."""

    READY = 1
    REQUEST = 2
    OK = 3
    ERROR = 4
    STOP = 5
    FINISHED = 6


class Request(Enum):
    """The requests of a controller."""

    CONFIGURE = b"CONF"


class Outcome(Enum):
    """The outcome of a component's work."""

    UNKNOWN = "UNKNOWN"
    OK = "OK"
    ERROR = "ERROR"


_TYPES = {int(each): each for each in MsgType}
_OUTCOMES = {each.value.encode(): each for each in Outcome}
_REQUESTS = {each.value: each for each in Request}
_FRAMES = {MsgType.READY: 3, MsgType.OK: 1, MsgType.ERROR: 2, MsgType.STOP: 1}


class ICCPMessage(Message):
    """A message; which attributes count depends on `msg_type`."""

    def __init__(self) -> None:
        self.msg_type: MsgType | None = None
        self.peer: PeerDescriptor | None = None
        """Of READY: who the component is."""
        self.endpoints: dict[str, list[str]] = {}
        """Of READY: the addresses of each of its endpoints."""
        self.request: Request | None = None
        """Of REQUEST: the request."""
        self.config: ProtoMessage = None
        """Of REQUEST CONFIGURE: a ConfigProto."""
        self.error = ""
        """Of ERROR: the failure."""
        self.outcome = Outcome.UNKNOWN
        """Of FINISHED: how the component has ended."""
        self.details: list[str] = []
        """Of FINISHED: lines of text about it."""

    def __repr__(self) -> str:
        return f"{type(self).__qualname__}[{'NONE' if self.msg_type is None else self.msg_type.name}]"

    __str__ = __repr__

    def get_keys(self) -> Iterable[Hashable]:
        return (self.msg_type, ANY)

    def clear(self) -> None:
        """Forget everything, the type too."""
        vars(self).update(vars(type(self)()))

    def copy(self) -> Self:
        message = type(self)()
        vars(message).update(vars(self))
        message.endpoints = {name: list(addresses) for name, addresses in self.endpoints.items()}
        message.details = list(self.details)
        if self.config is not None:
            message.config = create_message(PROTO_CONFIG)
            message.config.CopyFrom(self.config)
        return message

    def from_zmsg(self, zmsg: TZMQMessage) -> None:
        frames = [msg_bytes(frame) for frame in zmsg]
        self.clear()
        self.msg_type = type_of(frames)
        expected = _FRAMES.get(self.msg_type)
        if expected is not None and len(frames) != expected:
            raise refuse("frames", name=self.msg_type.name, count=len(frames), expected=expected)
        if self.msg_type is MsgType.READY:
            self.peer = read_peer(frames[1])
            self.endpoints = read_endpoints(frames[2])
        elif self.msg_type is MsgType.REQUEST:
            self._read_request(frames)
        elif self.msg_type is MsgType.ERROR:
            self.error = read_text(frames[1])
        elif self.msg_type is MsgType.FINISHED:
            self._read_end(frames)

    def _read_request(self, frames: list[bytes]) -> None:
        if not 2 <= len(frames) <= 3 or frames[1:] == [Request.CONFIGURE.value]:
            raise refuse("frames", name="REQUEST", count=len(frames), expected=3)
        if len(frames) == 3 and frames[1] not in _REQUESTS:
            raise refuse("request", request=frames[1][:QUOTED_BYTES])
        self.request = _REQUESTS[frames[1]] if len(frames) == 3 else Request.CONFIGURE
        self.config = read_proto("config", PROTO_CONFIG, frames[-1])

    def _read_end(self, frames: list[bytes]) -> None:
        if len(frames) < 2:
            raise refuse("frames", name="FINISHED", count=len(frames), expected="2 or more")
        outcome = _OUTCOMES.get(frames[1])
        if outcome is None:
            raise refuse("outcome", outcome=frames[1][:QUOTED_BYTES])
        self.outcome = outcome
        self.details = [frame.decode(errors="replace") for frame in frames[2:]]

    def as_zmsg(self) -> list[bytes]:
        if self.msg_type is None:
            raise LocalProtocolError("a message without a type cannot be sent")
        return [self.msg_type.to_bytes(TYPE_SIZE, "big"), *self._data_frames()]

    def _data_frames(self) -> list[bytes]:
        if self.msg_type is MsgType.READY:
            if self.peer is None:
                raise LocalProtocolError("READY needs a peer")
            endpoints = {name: [str(each) for each in addresses] for name, addresses in self.endpoints.items()}
            return [serialized(self.peer.as_proto()), serialized(dict2struct(endpoints))]
        if self.msg_type is MsgType.REQUEST:
            if self.request is not Request.CONFIGURE or self.config is None:
                raise LocalProtocolError("REQUEST needs a request and a configuration")
            return [self.request.value, serialized(self.config)]
        if self.msg_type is MsgType.ERROR:
            return [self.error.encode(errors="replace")]
        if self.msg_type is MsgType.FINISHED:
            return [self.outcome.value.encode(), *(line.encode(errors="replace") for line in self.details)]
        return []


def message(msg_type: MsgType) -> ICCPMessage:
    """A new message of a type."""
    msg = ICCPMessage()
    msg.msg_type = msg_type
    return msg


def check_size(frames: TZMQMessage, max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE) -> None:
    """Raise `InvalidMessageError` for frames that are too large, or too many."""
    size = sum(map(len, frames))
    if size > max_message_size:
        raise refuse("too-large", size=size, limit=max_message_size)
    if len(frames) > MAX_FRAMES:
        raise refuse("too-many-frames", count=len(frames), limit=MAX_FRAMES)


def type_of(frames: list[bytes]) -> MsgType:
    """The type of a message; raises `InvalidMessageError`."""
    if not frames:
        raise refuse("no-frames")
    if len(frames[0]) != TYPE_SIZE:
        raise refuse("type-size", size=len(frames[0]))
    number = int.from_bytes(frames[0], "big")
    if number not in _TYPES:
        raise refuse("type", number=number)
    return _TYPES[number]


def read_proto(code: str, name: str, frame: bytes) -> ProtoMessage:
    """A protobuf message; raises `InvalidMessageError` with `code`."""
    try:
        return create_message(name, frame)
    except ValueError as error:
        raise refuse(code, reason=error) from None


def read_peer(frame: bytes) -> PeerDescriptor:
    """The description of a component; raises `InvalidMessageError`."""
    proto = read_proto("peer", PROTO_PEER, frame)
    try:
        return PeerDescriptor.from_proto(proto)
    except ValueError as error:
        raise refuse("peer", reason=error) from None


def read_endpoints(frame: bytes) -> dict[str, list[str]]:
    """Name -> addresses; raises `InvalidMessageError` if the Struct holds anything else."""
    endpoints = struct2dict(read_proto("endpoints", PROTO_STRUCT, frame))
    for name, addresses in endpoints.items():
        if not isinstance(addresses, list) or not all(isinstance(each, str) for each in addresses):
            raise refuse("endpoints", reason=f"{name[:80]!r} is not a list of addresses")
    return endpoints


def read_text(frame: bytes) -> str:
    """The text of an ERROR; raises `InvalidMessageError`."""
    try:
        return frame.decode()
    except UnicodeDecodeError as error:
        raise refuse("error-text", reason=error) from None


def serialized(proto: ProtoMessage) -> bytes:
    """A protobuf message as bytes, the same each time."""
    data: bytes = proto.SerializeToString(deterministic=True)
    return data

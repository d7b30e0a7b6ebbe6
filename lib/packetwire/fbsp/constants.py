"""The numbers of FBSP."""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import Final

HEADER_FMT_FULL: Final = "!4sBBH8s"
"""The control frame, as the struct module writes it."""
HEADER_FMT: Final = "!4xBBH8s"
"""The same without the four bytes that identify the protocol."""
FOURCC: Final = b"FBSP"
"""The bytes with which a control frame begins."""
REVISION: Final = 1
"""The version of the protocol that is spoken here."""
VERSION_MASK: Final = 7
"""The bits of the version in the byte that it shares with the type."""
ERROR_TYPE_MASK: Final = 31
"""The bits of the `MsgType` that an ERROR relates to, in its type_data; its code is above them."""
ERROR_CODE_SHIFT: Final = 5
HEADER_SIZE: Final = 16
CONTROL_AT: Final = 4
"""The position of the byte with type and version in the control frame."""
TYPE_SHIFT: Final = 3
FLAGS_AT: Final = 5
TOKEN_SIZE: Final = 8
MAX_ERROR_CODE: Final = 2047

PROTO_HELLO: Final = "firebird.butler.FBSPHelloDataframe"
"""The protobuf message in a HELLO."""
PROTO_WELCOME: Final = "firebird.butler.FBSPWelcomeDataframe"
"""The protobuf message in a WELCOME."""
PROTO_CANCEL_REQ: Final = "firebird.butler.FBSPCancelRequests"
"""The protobuf message in a CANCEL."""
PROTO_STATE_INFO: Final = "firebird.butler.FBSPStateInformation"
"""The protobuf message in a STATE."""
PROTO_ERROR: Final = "firebird.butler.ErrorDescription"
"""The protobuf message in an ERROR, one for each exception of a chain."""


class MsgType(IntEnum):
    """The type of a message."""

    __hash__ = int.__hash__  # an enum hashes its name, in ten times the time

    UNKNOWN = 0
    """Not a valid type: in an ERROR it says that the error relates to no message."""
    HELLO = 1
    WELCOME = 2
    NOOP = 3
    REQUEST = 4
    REPLY = 5
    DATA = 6
    CANCEL = 7
    STATE = 8
    CLOSE = 9
    ERROR = 31


class MsgFlag(IntFlag):
    """The flags of a message."""

    NONE = 0
    ACK_REQ = 1
    """The receiver is asked to acknowledge."""
    ACK_REPLY = 2
    """This is the acknowledgement."""
    MORE = 4
    """More messages of the same stream follow."""


class State(IntEnum):
    """The state of the work on a request."""

    UNKNOWN_STATE = 0
    READY = 1
    RUNNING = 2
    WAITING = 3
    SUSPENDED = 4
    FINISHED = 5
    ABORTED = 6
    CREATED = READY
    BLOCKED = WAITING
    STOPPED = SUSPENDED
    TERMINATED = ABORTED


class ErrorCode(IntEnum):
    """Why something was refused or failed; numbers from 1 to 2047 that have no name here are legal."""

    INVALID_MESSAGE = 1
    PROTOCOL_VIOLATION = 2
    BAD_REQUEST = 3
    NOT_IMPLEMENTED = 4
    ERROR = 5
    INTERNAL_ERROR = 6
    REQUEST_TIMEOUT = 7
    TOO_MANY_REQUESTS = 8
    FAILED_DEPENDENCY = 9
    FORBIDDEN = 10
    UNAUTHORIZED = 11
    NOT_FOUND = 12
    GONE = 13
    CONFLICT = 14
    PAYLOAD_TOO_LARGE = 15
    INSUFFICIENT_STORAGE = 16
    REQUEST_CANCELLED = 17
    SERVICE_UNAVAILABLE = 2000
    FBSP_VERSION_NOT_SUPPORTED = 2001


ACKNOWLEDGED: Final = frozenset((MsgType.NOOP, MsgType.REQUEST, MsgType.REPLY, MsgType.DATA, MsgType.STATE))
"""The messages on which ACK_REQ counts."""
CLIENT_SENDS: Final = frozenset(
    (MsgType.HELLO, MsgType.NOOP, MsgType.REQUEST, MsgType.CANCEL, MsgType.DATA, MsgType.CLOSE)
)
"""The messages that a client sends, acknowledgements excepted."""
SERVICE_SENDS: Final = frozenset(
    (MsgType.ERROR, MsgType.WELCOME, MsgType.NOOP, MsgType.REPLY, MsgType.DATA, MsgType.STATE, MsgType.CLOSE)
)
"""The messages that a service sends, acknowledgements excepted."""


def bb2h(value_hi: int, value_lo: int) -> int:
    """A 16-bit number of its high and its low byte; raises ValueError for what is no byte."""
    for value in (value_hi, value_lo):
        if not 0 <= value <= 255:
            raise ValueError(f"{value} does not fit into a byte")
    return value_hi << 8 | value_lo

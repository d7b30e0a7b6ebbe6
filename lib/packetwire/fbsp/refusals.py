"""Every reason to refuse what a peer sends, in two tables: key -> the code of the ERROR, and what is said.

`INVALID` holds what is wrong with frames whatever came before, `VIOLATIONS` what is wrong at this point of
a session, or with this service. All refusals are made by `refuse` and `violation`, so a test can walk the
tables and see each of them reached.
"""

from __future__ import annotations

from packetwire.fbsp.constants import HEADER_SIZE, ErrorCode, MsgType
from packetwire.messaging.errors import InvalidMessageError, StopError

Table = dict[str, tuple[ErrorCode, str]]

INVALID: Table = {
    "no-frames": (ErrorCode.INVALID_MESSAGE, "a message without frames"),
    "header-size": (ErrorCode.INVALID_MESSAGE, "a control frame of {size} bytes, not 16"),
    "fourcc": (ErrorCode.INVALID_MESSAGE, "the control frame begins with {fourcc!r}, not with b'FBSP'"),
    "version": (ErrorCode.FBSP_VERSION_NOT_SUPPORTED, "version {version} of FBSP is not spoken here, version 1 is"),
    "type": (ErrorCode.INVALID_MESSAGE, "there is no message type {number}"),
    "class": (ErrorCode.INVALID_MESSAGE, "a {name} message was given to a {other}"),
    "flags": (ErrorCode.INVALID_MESSAGE, "the flags are 0x{flags:02x}, those above 0x07 have no meaning"),
    "type-data": (ErrorCode.INVALID_MESSAGE, "type_data of a {name} message is {type_data}, not 0"),
    "error-code": (ErrorCode.INVALID_MESSAGE, "an ERROR message with the code 0"),
    "acknowledgement-with-data": (ErrorCode.INVALID_MESSAGE, "an acknowledgement with {count} data frames"),
    "data-frames": (ErrorCode.INVALID_MESSAGE, "a {name} message with {count} data frames, not {expected}"),
    "protobuf": (ErrorCode.INVALID_MESSAGE, "data frame {number} of a {name} message is broken: {reason}"),
    "cancel-token": (ErrorCode.INVALID_MESSAGE, "the token of the request to cancel has {size} bytes, not 8"),
    "too-large": (ErrorCode.PAYLOAD_TOO_LARGE, "a message of {size} bytes, the limit is {limit}"),
    "too-many-frames": (ErrorCode.PAYLOAD_TOO_LARGE, "a message of {count} frames, the limit is {limit}"),
}

VIOLATIONS: Table = {
    "hello-expected": (ErrorCode.PROTOCOL_VIOLATION, "expecting HELLO, not {name}"),
    "incomplete": (ErrorCode.INVALID_MESSAGE, "{name}: {missing}"),
    "identity-connected": (ErrorCode.CONFLICT, "the peer {uid} is connected over another route"),
    "too-many-sessions": (ErrorCode.SERVICE_UNAVAILABLE, "there are {limit} sessions already"),
    "wrong-side": (ErrorCode.PROTOCOL_VIOLATION, "unexpected message: {name}"),
    "wrong-acknowledgement": (ErrorCode.PROTOCOL_VIOLATION, "an acknowledgement of {name}, which asks for none"),
    "token-in-use": (ErrorCode.PROTOCOL_VIOLATION, "the token {token} belongs to a request without an answer"),
    "too-many-requests": (ErrorCode.TOO_MANY_REQUESTS, "there are {limit} requests without an answer"),
    "no-such-call": (ErrorCode.BAD_REQUEST, "there is no call {api_code} of interface {interface_id}"),
    "no-handler": (ErrorCode.NOT_IMPLEMENTED, "{call} is not implemented"),
    "no-such-request": (ErrorCode.NOT_FOUND, "there is no request {token} under way"),
    "not-cancellable": (ErrorCode.NOT_IMPLEMENTED, "requests cannot be cancelled"),
    "unexpected-data": (ErrorCode.PROTOCOL_VIOLATION, "unexpected DATA message"),
    "welcome-expected": (ErrorCode.PROTOCOL_VIOLATION, "expecting WELCOME, not {name}"),
    "not-our-hello": (ErrorCode.PROTOCOL_VIOLATION, "WELCOME with the token {token}, which no HELLO had"),
    "never-asked": (ErrorCode.PROTOCOL_VIOLATION, "{name} with the token {token}, which no request had"),
    "wrong-call": (ErrorCode.PROTOCOL_VIOLATION, "{name} for call 0x{type_data:04x} answers call 0x{expected:04x}"),
    "out-of-order": (ErrorCode.PROTOCOL_VIOLATION, "{name} for a request that is {phase}"),
    "no-reply-handler": (ErrorCode.NOT_IMPLEMENTED, "there is no handler for replies to call 0x{type_data:04x}"),
}


def refuse(code: str, header: bytes = b"", **values: object) -> InvalidMessageError:
    """The exception for frames that are no message.

    Its `error_code`, `token` and `relates_to` are what an ERROR message says about them; the token is None
    if the control frame has none.
    """
    error_code, text = INVALID[code]
    return InvalidMessageError(
        text.format(**values),
        code,
        error_code=error_code,
        token=header[8:] if len(header) == HEADER_SIZE else None,
        relates_to=type_of(header),
    )


def violation(rule: str, **values: object) -> StopError:
    """The exception for a message that breaks a rule at this point; `rule` is kept in it."""
    error_code, text = VIOLATIONS[rule]
    return StopError(text.format(**values), code=error_code, rule=rule)


def type_of(header: bytes) -> MsgType:
    """The type of message that a control frame names, whatever else is wrong with it."""
    try:
        return MsgType(header[4] >> 3)
    except (IndexError, ValueError):
        return MsgType.UNKNOWN

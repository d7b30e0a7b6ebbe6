"""Frames: what is said about a request before, while and after it is on its way, on a channel of their own.

A frame is a request packet that is never answered. Its tag is that of the request it is about, and its user flags
say which request that is. So an ordinary request is the same with and without them. `docs/wire.md` is the
specification.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

from packetwire.core.fields import (
    Field,
    FieldError,
    decode_fields,
    encode_fields,
    first_of_each,
    integer_of,
    metadata_fields,
    metadata_of,
)
from packetwire.core.hello import Feature
from packetwire.core.packet import FLAG_REQUEST, head_tail, packet_head
from packetwire.core.refusals import refuse
from packetwire.core.varint import decode_varint, encode_varint
from packetwire.errors import RemoteProtocolError

FRAME_CHANNEL = 2
MAX_META_SIZE = 8192
"""Bytes of all fields of a META frame together."""
TRACE_CONTEXT_SIZE = 26
REQUEST_NUMBER_SIZE = 8


class FrameType(IntEnum):
    """The meaning of a frame; the request type of its packet."""

    META = 0
    """Fields that come before their request."""
    PIECE = 1
    """Bytes that stand before the payload of a request or response that is still to come."""
    DATA = 2
    """Bytes of a body."""
    END = 3
    """The request's body is whole."""
    CREDIT = 4
    """So many bytes more of a body may be sent."""
    CANCEL = 5
    PROGRESS = 6
    STOP = 7
    """The reader wants no more of a body; its request goes on."""


class Frame(NamedTuple):
    """One frame."""

    kind: FrameType
    channel: int
    """That of the request it is about."""
    tag: int
    of_receiver: bool
    """True if the request is one of the frame's receiver, false if of its sender."""
    payload: bytes


class Rule(NamedTuple):
    """Which frames there are."""

    of_sender: bool
    """True if it may be about a request of its sender."""
    of_receiver: bool
    """True if it may be about a request of its receiver."""
    feature: Feature
    """The feature that both ends must understand."""


RULES = {
    FrameType.META: Rule(True, False, Feature.META),
    FrameType.PIECE: Rule(True, True, Feature.PIECES),
    FrameType.DATA: Rule(True, True, Feature.BODIES),
    FrameType.END: Rule(True, False, Feature.BODIES),
    FrameType.CREDIT: Rule(True, True, Feature.BODIES),
    FrameType.CANCEL: Rule(True, False, Feature.CANCEL),
    FrameType.PROGRESS: Rule(False, True, Feature.PROGRESS),
    FrameType.STOP: Rule(True, True, Feature.BODIES),
}


def encode_frame(
    kind: FrameType, channel: int, tag: int, payload: bytes = b"", *, of_receiver: bool = False
) -> bytes:
    """The packet of a frame."""
    return frame_head(kind, channel, tag, len(payload), of_receiver=of_receiver) + payload


def frame_head(kind: FrameType, channel: int, tag: int, size: int, *, of_receiver: bool) -> bytes:
    """The bytes of a frame before its payload, which has `size` bytes."""
    tail = head_tail(FRAME_CHANNEL, (channel << 1 | of_receiver) << 2 | FLAG_REQUEST, kind + 1)
    return packet_head(tag, tail, size)


def decode_frame(tag: int, flags: int, kind: int, payload: bytes) -> Frame:
    """The frame that a request packet on `FRAME_CHANNEL` with these fields is.

    Raises `RemoteProtocolError` ("bad-frame") for an unknown type, or one that cannot be about such a request.
    """
    of_receiver = flags & 1 == 1
    rule = RULES.get(kind)  # type: ignore[call-overload]
    if rule is None:
        raise refuse("bad-frame", problem=f"its type is {kind}", tag=tag)
    if not (rule.of_receiver if of_receiver else rule.of_sender):
        whose = "its receiver" if of_receiver else "its sender"
        raise refuse("bad-frame", problem=f"{FrameType(kind).name} about a request of {whose}", tag=tag)
    return Frame(FrameType(kind), flags >> 1, tag, of_receiver, payload)


def encode_reason(code: int, text: str = "") -> bytes:
    """The payload of CANCEL and STOP."""
    return encode_varint(code) + text.encode(errors="replace")


def decode_reason(frame: Frame) -> tuple[int, str]:
    """(code, text) of CANCEL and STOP; raises `RemoteProtocolError` ("bad-frame") if there is no code."""
    try:
        code, end = decode_varint(frame.payload, 0, len(frame.payload))
    except RemoteProtocolError:  # which would tell of a place in the stream
        raise refuse("bad-frame", problem=f"the code of {frame.kind.name} is too long", tag=frame.tag) from None
    if end < 0:
        raise refuse("bad-frame", problem=f"{frame.kind.name} without a code", tag=frame.tag)
    return code, frame.payload[end:].decode(errors="replace")


@dataclass(frozen=True, kw_only=True, slots=True)
class Meta:
    """The metadata of a request, as META has it."""

    milliseconds_left: int | None = None
    """Until its deadline, when it was made."""
    has_body: bool = False
    body_size: int | None = None
    """Bytes of the body, if that is known."""
    response_credit: int | None = None
    """The first credit of the response body that the caller takes; None if it takes none."""
    progress_interval: int | None = None
    """The caller wants progress, at least so many milliseconds apart; None if it wants none."""
    trace_context: bytes | None = None
    trace_state: bytes | None = None
    request_id: tuple[bytes, int] | None = None
    """(8 bytes, attempt)"""
    takes_typed_errors: bool = False
    metadata: Mapping[str, bytes] = field(default_factory=dict)


def encode_meta(meta: Meta) -> bytes:
    """The payload of a META frame."""
    fields: list[Field] = []
    if meta.milliseconds_left is not None:
        fields.append((1, encode_varint(meta.milliseconds_left)))
    if meta.has_body:
        fields.append((2, b"" if meta.body_size is None else encode_varint(meta.body_size)))
    if meta.response_credit is not None:
        fields.append((3, encode_varint(meta.response_credit)))
    if meta.progress_interval is not None:
        fields.append((4, encode_varint(meta.progress_interval)))
    if meta.trace_context is not None:
        fields.append((5, meta.trace_context))
    if meta.trace_state is not None:
        fields.append((6, meta.trace_state))
    if meta.request_id is not None:
        number, attempt = meta.request_id
        fields.append((7, number + encode_varint(attempt)))
    if meta.takes_typed_errors:
        fields.append((8, b""))
    return encode_fields(fields + metadata_fields(meta.metadata))


def decode_meta(frame: Frame) -> Meta:
    """The metadata in a META frame; raises `RemoteProtocolError` ("bad-frame") if its fields are malformed."""
    try:
        return _meta_of(decode_fields(frame.payload, MAX_META_SIZE))
    except FieldError as error:
        raise refuse("bad-frame", problem=f"META: {error}", tag=frame.tag) from None


def _meta_of(fields: list[Field]) -> Meta:
    values = first_of_each(fields)
    said: dict[str, object] = {"has_body": 2 in values, "takes_typed_errors": 8 in values}
    for number, name in ((1, "milliseconds_left"), (3, "response_credit"), (4, "progress_interval")):
        if number in values:
            said[name] = integer_of(number, values[number])
    if values.get(2):
        said["body_size"] = integer_of(2, values[2])
    if 5 in values:
        if len(values[5]) != TRACE_CONTEXT_SIZE:
            raise FieldError(f"field 5 must have {TRACE_CONTEXT_SIZE} bytes, it has {len(values[5])}")
        said["trace_context"] = values[5]
    if 6 in values:
        said["trace_state"] = values[6]
    if 7 in values:
        counter, attempt = values[7][:REQUEST_NUMBER_SIZE], values[7][REQUEST_NUMBER_SIZE:]
        said["request_id"] = counter, integer_of(7, attempt)
    return Meta(**said, metadata=metadata_of(fields))  # type: ignore[arg-type]

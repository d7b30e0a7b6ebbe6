"""Frames and status codes: examples of docs/wire.md, round trips, and everything that is malformed."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packetwire import Packet, RemoteProtocolError
from packetwire.core.fields import encode_fields
from packetwire.core.frames import (
    FRAME_CHANNEL,
    MAX_META_SIZE,
    RULES,
    Frame,
    FrameType,
    Meta,
    decode_frame,
    decode_meta,
    decode_reason,
    encode_frame,
    encode_meta,
    encode_reason,
)
from packetwire.core.statuses import UNKNOWN_STATUS, StatusCode, flags_of, status_of
from packetwire.core.varint import MAX_UINT, encode_varint

EXAMPLES = [
    ("08 07 03 02 01 01 02 93 44", Frame(FrameType.META, 0, 7, False, bytes.fromhex("01029344"))),
    ("07 07 03 02 02 61 62 63", Frame(FrameType.PIECE, 0, 7, False, b"abc")),
    ("04 07 03 02 02", Frame(FrameType.PIECE, 0, 7, False, b"")),
    ("07 07 07 02 03 61 62 63", Frame(FrameType.DATA, 0, 7, True, b"abc")),
    ("04 07 03 02 04", Frame(FrameType.END, 0, 7, False, b"")),
    ("07 07 07 02 05 88 80 00", Frame(FrameType.CREDIT, 0, 7, True, encode_varint(131072))),
    ("05 07 03 02 06 01", Frame(FrameType.CANCEL, 0, 7, False, encode_reason(1))),
    ("07 82 2c 81 03 02 06 01", Frame(FrameType.CANCEL, 16, 300, False, encode_reason(1))),
    ("05 07 07 02 07 78", Frame(FrameType.PROGRESS, 0, 7, True, b"x")),
    ("05 07 03 02 08 01", Frame(FrameType.STOP, 0, 7, False, encode_reason(1))),
]


def frame_of(data: bytes) -> Frame:
    packet = Packet.from_bytes(data)
    assert packet.is_request
    assert packet.channel == FRAME_CHANNEL
    assert packet.rq_type is not None
    return decode_frame(packet.tag, packet.flags, packet.rq_type - 1, packet.payload)


@pytest.mark.parametrize(("data", "frame"), EXAMPLES)
def test_the_examples_of_the_specification(data: str, frame: Frame) -> None:
    assert frame_of(bytes.fromhex(data)) == frame
    encoded = encode_frame(frame.kind, frame.channel, frame.tag, frame.payload, of_receiver=frame.of_receiver)
    assert encoded == bytes.fromhex(data)


@given(
    st.sampled_from(FrameType),
    st.integers(0, 2**59 - 1),
    st.integers(0, MAX_UINT),
    st.booleans(),
    st.binary(max_size=50),
)
def test_what_is_encoded_is_decoded(
    kind: FrameType, channel: int, tag: int, of_receiver: bool, payload: bytes
) -> None:
    data = encode_frame(kind, channel, tag, payload, of_receiver=of_receiver)
    rule = RULES[kind]
    if rule.of_receiver if of_receiver else rule.of_sender:
        assert frame_of(data) == (kind, channel, tag, of_receiver, payload)
        return
    with pytest.raises(RemoteProtocolError, match=f"{kind.name} about a request of its") as caught:
        frame_of(data)
    assert caught.value.code == "bad-frame"


def test_an_unknown_type() -> None:
    with pytest.raises(RemoteProtocolError, match="its type is 8") as caught:
        decode_frame(7, 0, 8, b"")
    assert caught.value.code == "bad-frame"


def test_reasons() -> None:
    frame = Frame(FrameType.CANCEL, 0, 7, False, encode_reason(StatusCode.CANCELLED, "no more é"))
    assert decode_reason(frame) == (1, "no more é")
    for payload in (b"", b"\x81"):
        with pytest.raises(RemoteProtocolError, match="STOP without a code"):
            decode_reason(Frame(FrameType.STOP, 0, 7, False, payload))
    with pytest.raises(RemoteProtocolError, match="the code of CANCEL is too long") as caught:
        decode_reason(Frame(FrameType.CANCEL, 0, 7, False, b"\x80" * 9))
    assert caught.value.code == "bad-frame"


metas = st.builds(
    Meta,
    milliseconds_left=st.one_of(st.none(), st.integers(0, MAX_UINT)),
    response_credit=st.one_of(st.none(), st.integers(0, MAX_UINT)),
    progress_interval=st.one_of(st.none(), st.integers(0, MAX_UINT)),
    has_body=st.just(True),
    body_size=st.one_of(st.none(), st.integers(0, MAX_UINT)),
    trace_context=st.one_of(st.none(), st.binary(min_size=26, max_size=26)),
    trace_state=st.one_of(st.none(), st.binary(max_size=50)),
    request_id=st.one_of(st.none(), st.tuples(st.binary(min_size=8, max_size=8), st.integers(0, MAX_UINT))),
    takes_typed_errors=st.booleans(),
    metadata=st.dictionaries(st.text(max_size=20), st.binary(max_size=20), max_size=4),
)


def meta_frame(payload: bytes) -> Frame:
    return Frame(FrameType.META, 0, 7, False, payload)


@given(metas)
def test_meta_round_trips(meta: Meta) -> None:
    assert decode_meta(meta_frame(encode_meta(meta))) == meta


def test_meta_says_nothing_by_default() -> None:
    assert encode_meta(Meta()) == b""
    assert decode_meta(meta_frame(b"")) == Meta()
    assert encode_meta(Meta(milliseconds_left=2500)) == bytes.fromhex("01029344")


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (bytes.fromhex("0100"), "META: field 1 is incomplete"),
        (encode_fields([(5, b"short")]), "META: field 5 must have 26 bytes, it has 5"),
        (encode_fields([(7, bytes(8))]), "META: field 7 is incomplete"),
        (encode_fields([(7, bytes(4))]), "META: field 7 is incomplete"),
        (encode_fields([(99, bytes(MAX_META_SIZE))]), f"the limit is {MAX_META_SIZE}"),
    ],
)
def test_malformed_meta(payload: bytes, text: str) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        decode_meta(meta_frame(payload))
    assert caught.value.code == "bad-frame"
    assert text in str(caught.value)


@given(st.binary(max_size=60))
def test_any_bytes_are_meta_or_refused(payload: bytes) -> None:
    with suppress(RemoteProtocolError):
        meta = decode_meta(meta_frame(payload))
        assert decode_meta(meta_frame(encode_meta(meta))) == meta


# status codes


@pytest.mark.parametrize("code", [code for code in StatusCode if code])
@pytest.mark.parametrize("begun", [True, False])
def test_status_codes(code: StatusCode, begun: bool) -> None:
    assert status_of(flags_of(code, begun=begun)) == (code, begun)


@pytest.mark.parametrize(
    ("flags", "status"),
    [
        (0, (StatusCode.NONE, None)),
        (16, (StatusCode.NONE, False)),
        (1, (StatusCode.CANCELLED, True)),
        (17, (StatusCode.CANCELLED, False)),
        (9, (StatusCode.NONE, None)),
        (32, (StatusCode.NONE, None)),
        (2**60 - 1, (StatusCode.NONE, None)),
    ],
)
def test_what_flags_say(flags: int, status: tuple[StatusCode, bool | None]) -> None:
    assert status_of(flags) == status


def test_what_the_flags_of_others_say() -> None:
    assert status_of(5 + 32) is UNKNOWN_STATUS
    assert UNKNOWN_STATUS == (StatusCode.NONE, None)

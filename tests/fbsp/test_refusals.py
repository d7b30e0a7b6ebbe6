"""Every way to refuse frames: each is reached, there is no other, and damaged messages end in one of them."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packetwire.fbsp import (
    APIMessage,
    ErrorCode,
    FBSPMessage,
    HelloMessage,
    InvalidMessageError,
    MsgType,
    StateMessage,
)
from packetwire.fbsp.protocol import _FBSP, DEFAULT_MAX_MESSAGE_SIZE, LEAST_MAX_MESSAGE_SIZE, MAX_FRAMES
from packetwire.fbsp.refusals import INVALID

from .fake import CODEC, TOKEN, cancel, hello, make, request, welcome
from .mutations import EXPECTED, GOLDEN, damage, run

BROKEN_PROTOBUF = b"\x0a\x7f"
SMALL = _FBSP(max_message_size=LEAST_MAX_MESSAGE_SIZE)


def frames(header: str, *data: bytes) -> list[bytes]:
    return [bytes.fromhex(header) + TOKEN, *data]


BROKEN: dict[str, list[tuple[list[bytes], str]]] = {
    "no-frames": [([], "without frames")],
    "header-size": [
        ([b""], "of 0 bytes"),
        ([b"FBSP"], "of 4 bytes"),
        (frames("46425350 21 00 0101 ff"), "of 17 bytes"),
    ],
    "fourcc": [(frames("46425351 21 00 0101"), "b'FBSQ'")],
    "version": [(frames("46425350 20 00 0101"), "version 0"), (frames("46425350 27 00 0101"), "version 7")],
    "type": [
        (frames(f"46425350 {number << 3 | 1:02x} 00 0000"), f"no message type {number}")
        for number in (0, *range(10, 31))
    ],
    "flags": [(frames("46425350 21 08 0101"), "0x08"), (frames("46425350 21 80 0101"), "0x80")],
    "type-data": [
        (frames("46425350 09 00 0001", hello().as_zmsg()[1]), "type_data of a HELLO message is 1"),
        (frames("46425350 11 00 0100", b""), "a WELCOME"),
        (frames("46425350 39 00 0001", cancel().as_zmsg()[1]), "a CANCEL"),
        (frames("46425350 49 00 0001"), "a CLOSE"),
    ],
    "error-code": [(frames("46425350 f9 00 0004"), "the code 0")],
    "acknowledgement-with-data": [
        (frames("46425350 21 02 0101", b"x"), "with 1 data frames"),
        (frames("46425350 19 02 0000", b"", b""), "with 2 data frames"),
    ],
    "data-frames": [
        (frames("46425350 09 00 0000"), "HELLO message with 0 data frames, not 1"),
        (frames("46425350 11 00 0000", b"", b""), "WELCOME message with 2 data frames, not 1"),
        (frames("46425350 19 00 0000", b""), "NOOP message with 1 data frames, not 0"),
        (frames("46425350 39 00 0000"), "CANCEL message with 0"),
        (frames("46425350 41 00 0101", b"", b""), "STATE message with 2"),
        (frames("46425350 49 00 0000", b"x"), "CLOSE message with 1"),
    ],
    "protobuf": [
        (frames("46425350 09 00 0000", BROKEN_PROTOBUF), "data frame 1 of a HELLO"),
        (frames("46425350 11 00 0000", BROKEN_PROTOBUF), "a WELCOME"),
        (frames("46425350 39 00 0000", BROKEN_PROTOBUF), "a CANCEL"),
        (frames("46425350 41 00 0101", BROKEN_PROTOBUF), "a STATE"),
        (frames("46425350 f9 00 0064", b"\x12\x03bad", BROKEN_PROTOBUF), "data frame 2 of a ERROR"),
        (frames("46425350 f9 00 0064", b"\x12\x01\xff"), "a ERROR"),
        (frames("46425350 f9 00 0064", b"\x1a\x02" * 200 + b"\x08"), "a ERROR"),
    ],
    "cancel-token": [
        (frames("46425350 39 00 0000", b""), "has 0 bytes"),
        (frames("46425350 39 00 0000", b"\x0a\x07" + b"x" * 7), "has 7 bytes"),
        (frames("46425350 39 00 0000", b"\x0a\x09" + b"x" * 9), "has 9 bytes"),
    ],
    "too-large": [
        (frames("46425350 21 00 0101", bytes(LEAST_MAX_MESSAGE_SIZE - 15)), "1000001 bytes, the limit is 1000000"),
        (frames("46425350 19 00 0000", bytes(LEAST_MAX_MESSAGE_SIZE)), "1000016 bytes"),
        ([bytes(LEAST_MAX_MESSAGE_SIZE + 1)], "1000001 bytes"),
    ],
    "too-many-frames": [(frames("46425350 21 00 0101", *[b""] * MAX_FRAMES), "65537 frames, the limit is 65536")],
}
"""code -> frames that break this rule, and what must be said about them; `class` has a test of its own."""


def test_all_reasons_are_known() -> None:
    assert {*BROKEN, "class"} == set(INVALID)


@pytest.mark.parametrize(
    ("code", "broken", "text"),
    [(code, broken, text) for code, cases in BROKEN.items() for broken, text in cases],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_a_broken_message_is_refused(code: str, broken: list[bytes], text: str) -> None:
    given_frames = list(broken)
    with pytest.raises(InvalidMessageError, match=text) as caught:
        SMALL.convert_msg(broken)
    assert caught.value.code == code
    error: Any = caught.value
    assert error.error_code is INVALID[code][0]
    whole = bool(broken) and len(broken[0]) == 16
    assert error.token == (TOKEN if whole else None)
    assert error.relates_to in MsgType
    assert not SMALL.is_valid(broken)
    with pytest.raises(InvalidMessageError, match=text):
        SMALL.validate(broken)
    assert broken == given_frames, "the caller's list is as it was"


def test_the_code_that_says_why() -> None:
    codes = {code: error_code for code, (error_code, _) in INVALID.items()}
    assert codes.pop("version") is ErrorCode.FBSP_VERSION_NOT_SUPPORTED
    assert codes.pop("too-large") is codes.pop("too-many-frames") is ErrorCode.PAYLOAD_TOO_LARGE
    assert set(codes.values()) == {ErrorCode.INVALID_MESSAGE}


@pytest.mark.parametrize(
    ("empty", "other"),
    [
        (HelloMessage(), welcome()),
        (FBSPMessage(), request()),
        (APIMessage(), make(MsgType.STATE)),
        (APIMessage(), make(MsgType.DATA)),
        (StateMessage(), request()),
    ],
    ids=str,
)
def test_a_message_of_another_class(empty: FBSPMessage, other: FBSPMessage) -> None:
    with pytest.raises(InvalidMessageError, match=f"given to a {type(empty).__name__}") as caught:
        empty.from_zmsg(other.as_zmsg())
    assert caught.value.code == "class"


def test_a_message_of_the_largest_size_is_read() -> None:
    largest = frames("46425350 21 00 0101", bytes(LEAST_MAX_MESSAGE_SIZE - 16))
    assert SMALL.convert_msg(largest).as_zmsg() == largest
    assert _FBSP().max_message_size == DEFAULT_MAX_MESSAGE_SIZE == 50 << 20
    many = frames("46425350 21 00 0101", *[b""] * (MAX_FRAMES - 1))
    assert len(SMALL.convert_msg(many).as_zmsg()) == MAX_FRAMES
    with pytest.raises(ValueError, match="at least 1000000"):
        _FBSP(max_message_size=LEAST_MAX_MESSAGE_SIZE - 1)


def test_a_message_can_be_read_into_one_that_has_content() -> None:
    msg = make(MsgType.REQUEST, TOKEN, 0x0101, data=[b"old"])
    msg.from_zmsg(request(data=[b"new"]).as_zmsg())
    assert msg.data == [b"new"]
    msg.from_zmsg(frames("46425350 21 02 0101"))
    assert msg.data == []


def read_or_refused(zmsg: list[bytes]) -> FBSPMessage | None:
    """The message, or None if it was refused for one of the reasons in the table; nothing else may be raised."""
    try:
        return CODEC.convert_msg(zmsg)
    except InvalidMessageError as refusal:
        error = refusal
    assert error.code in INVALID
    return None


@given(st.sampled_from(GOLDEN), st.randoms(use_true_random=False))
def test_a_damaged_message_is_read_or_refused(zmsg: list[bytes], random: Random) -> None:
    broken = damage(zmsg, random)
    msg = read_or_refused(broken)
    if msg is None:
        return
    again = CODEC.convert_msg(msg.as_zmsg())
    assert again.as_zmsg() == msg.as_zmsg()
    repr(msg)
    for name in ("state", "error_code", "relates_to", "interface_id"):
        getattr(msg, name, None)


@given(st.lists(st.binary(max_size=40), max_size=4))
def test_bytes_of_any_kind_are_read_or_refused(zmsg: list[bytes]) -> None:
    for broken in (zmsg, [b"FBSP" + frame[4:16].ljust(12, b"\x01") for frame in zmsg]):
        read_or_refused(broken)


def test_every_refusal_is_reached_by_mutations() -> None:
    """A bounded number of them, always the same; `python -m fbsp.mutations` says more."""
    count = run(24000, 1)
    assert set(count) == EXPECTED

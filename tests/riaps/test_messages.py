"""The messages: golden ones, all that can be made, and any frames at all."""

from __future__ import annotations

import copy
import pickle
import struct
from typing import Any

import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st

from packetwire import PacketwireError
from packetwire.riaps import (
    ANN,
    RTC,
    Authority,
    Control,
    GroupMessage,
    Heartbeat,
    MemberLeft,
    PortError,
    Vote,
    VoteRequest,
    parse_control,
)

from .peers import GOLDEN, frames_of

OWN_ID = bytes(range(16))
CANDIDATE = b"candidate-id-016"

BROKEN = ("recv-timed-4frames", "recv-timed-1frame", "recv-timed-badtime")
"""What the reference returns in part, or breaks on."""

SENT = [item for item in GOLDEN if "frames" in item and item["id"] not in BROKEN]
THROUGH_ROUTER = [item for item in GOLDEN if "router_frames" in item]
VOTES = [item for item in GOLDEN if item["id"].startswith("capnp")]


def test_the_golden_items_are_all_here() -> None:
    assert len(SENT) + len(BROKEN) + len(VOTES) == len(GOLDEN) == 34
    assert len(THROUGH_ROUTER) == 3


@pytest.mark.parametrize("item", SENT, ids=lambda item: item["id"])
def test_golden_messages(item: dict[str, Any]) -> None:
    frames = frames_of(item)
    message = GroupMessage.parse(frames)
    assert (message.command, message.payload) == (frames[0], frames[1])
    assert message.send_time == item.get("time")
    assert message.identity is None
    assert message.encode() == frames
    assert GroupMessage(frames[0], frames[1], item.get("time")) == message


@pytest.mark.parametrize("item", THROUGH_ROUTER, ids=lambda item: item["id"])
def test_golden_messages_with_an_identity(item: dict[str, Any]) -> None:
    frames = [bytes.fromhex(frame) for frame in item["router_frames"]]
    message = GroupMessage.parse(frames, addressed=True)
    assert message.identity == frames[0]
    assert message.encode() == frames
    assert list(message) == frames_of(item), "as a sequence it has no identity"


@pytest.mark.parametrize("name", BROKEN)
def test_golden_messages_that_are_none(name: str) -> None:
    (item,) = (item for item in GOLDEN if item["id"] == name)
    with pytest.raises(PortError) as caught:
        GroupMessage.parse(frames_of(item))
    assert caught.value.errno == PortError.EFAULT


@pytest.mark.parametrize("item", VOTES, ids=lambda item: item["id"])
def test_golden_group_votes_are_opaque(item: dict[str, Any]) -> None:
    payload = bytes.fromhex(item["payload"])
    message = GroupMessage.parse([RTC if "rtc" in item["id"] else ANN, payload])
    assert message.payload == payload
    assert parse_control(message) is None


@pytest.mark.parametrize(
    ("name", "control"),
    [
        ("coord-tic", Heartbeat(OWN_ID)),
        ("coord-req", VoteRequest(7, OWN_ID)),
        ("coord-vot-yes", Vote(7, CANDIDATE, True, OWN_ID)),
        ("coord-vot-no", Vote(7, CANDIDATE, False, OWN_ID)),
    ],
)
def test_golden_control_messages(name: str, control: Control) -> None:
    (item,) = (item for item in GOLDEN if item["id"] == name)
    frames = frames_of(item)
    assert parse_control(GroupMessage.parse(frames)) == control
    assert [control.command, control.encode()] == frames


@pytest.mark.parametrize(
    ("control", "payload"),
    [
        (
            Authority(7, OWN_ID, "192.168.1.2", 5555),
            b"\0\0\0\7" + OWN_ID + b"\xc0\xa8\1\2" + b"\0\0\x15\xb3",
        ),
        (Authority(1 << 31, OWN_ID, "0.0.0.0", 0), b"\x80\0\0\0" + OWN_ID + bytes(8)),
        (MemberLeft(OWN_ID), OWN_ID),
    ],
)
def test_control_messages_by_their_layout(control: Control, payload: bytes) -> None:
    assert control.encode() == payload
    assert parse_control(GroupMessage(control.command, payload)) == control


def test_a_leader_at_port_0_is_none() -> None:
    assert not Authority(1, OWN_ID, "127.0.0.1", 0).has_leader
    assert Authority(1, OWN_ID, "127.0.0.1", 1).has_leader


@pytest.mark.parametrize(
    ("command", "payload", "said"),
    [
        (b"tic", b"", "tic has 16 bytes, got 0"),
        (b"tic", bytes(17), "tic has 16 bytes, got 17"),
        (b"mlt", bytes(15), "mlt has 16 bytes, got 15"),
        (b"req", bytes(19), "req has 20 bytes, got 19"),
        (b"vot", bytes(41), "vot has 40 bytes, got 41"),
        (b"vot", struct.pack("!L16sL16s", 1, OWN_ID, 2, OWN_ID), "a vote is 1 or 0, got 2"),
        (b"ldr", bytes(27), "ldr has 28 bytes, got 27"),
        (b"ldr", struct.pack("!L16sLL", 1, OWN_ID, 1, 65536), "up to 65535, got 65536"),
    ],
)
def test_malformed_control_messages(command: bytes, payload: bytes, said: str) -> None:
    with pytest.raises(PortError, match=said) as caught:
        parse_control(GroupMessage(command, payload))
    assert caught.value.errno == PortError.EFAULT


@pytest.mark.parametrize(
    ("frames", "addressed", "said"),
    [
        ([], False, "but this has 0"),
        ([b"msg"], False, "but this has 1"),
        ([b"msg", b"", bytes(8), b""], False, "but this has 4"),
        ([b"ms", b""], False, "a command has 3 bytes, got 2"),
        ([b"msgs", b""], False, "a command has 3 bytes, got 4"),
        ([b"", b""], False, "a command has 3 bytes, got 0"),
        ([b"msg", b"", b"1234567"], False, "8 bytes, got 7"),
        ([b"msg", b"", b"123456789"], False, "8 bytes, got 9"),
        ([b"msg", b"", struct.pack("<d", float("nan"))], False, "finite"),
        ([b"msg", b"", struct.pack("<d", float("inf"))], False, "finite"),
        ([], True, "no frames"),
        ([b"me"], True, "but this has 0"),
        ([b"me", b"mtl"], True, "but this has 1"),
        ([b"", b"mtl", b""], True, "1 to 255 bytes, got 0"),
        ([bytes(256), b"mtl", b""], True, "1 to 255 bytes, got 256"),
    ],
)
def test_frames_that_are_no_message(frames: list[bytes], addressed: bool, said: str) -> None:
    with pytest.raises(PortError, match=said) as caught:
        GroupMessage.parse(frames, addressed=addressed)
    assert caught.value.errno == PortError.EFAULT


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (("msg", b""), "the command must be bytes, not str"),
        ((b"msg", "text"), "the payload must be bytes, not str"),
        ((b"msg", 5), "the payload must be bytes, not int"),
        ((b"msg", b"", 1), "finite float"),
        ((b"msg", b"", True), "finite float"),
        ((b"msg", b"", None, "me"), "the identity must be bytes, not str"),
    ],
)
def test_messages_that_cannot_be_made(fields: Any, said: str) -> None:
    with pytest.raises(PortError, match=said):
        GroupMessage(*fields)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Heartbeat(b"short"), "the id of the member must be 16 bytes"),
        (lambda: MemberLeft(bytearray(16)), "the id of the member must be 16 bytes"),
        (lambda: VoteRequest(-1, OWN_ID), "32 bits"),
        (lambda: VoteRequest(1 << 32, OWN_ID), "32 bits"),
        (lambda: Vote(1, OWN_ID, 1, OWN_ID), "True or False"),
        (lambda: Vote(1, OWN_ID, True, b""), "the id of the voter"),
        (lambda: Authority(1, OWN_ID, "::1", 5), "IPv4"),
        (lambda: Authority(1, OWN_ID, "localhost", 5), "IPv4"),
        (lambda: Authority(1, OWN_ID, "127.0.0.1", -1), "up to 65535"),
    ],
)
def test_control_messages_that_cannot_be_made(make: Any, said: str) -> None:
    with pytest.raises(PortError, match=said):
        make()


def test_messages_cannot_be_changed() -> None:
    message = GroupMessage(b"msg", b"payload")
    with pytest.raises(AttributeError):
        message.payload = b"other"  # type: ignore[misc]
    assert {message: 1}[GroupMessage(b"msg", b"payload")] == 1


def test_a_payload_is_a_copy() -> None:
    payload = bytearray(b"payload")
    message = GroupMessage(b"msg", memoryview(payload))  # type: ignore[arg-type]
    payload[:] = b"changed"
    assert message.payload == b"payload"
    assert isinstance(message.payload, bytes)
    framed = GroupMessage(b"mlt", zmq.Frame(OWN_ID))  # type: ignore[arg-type]
    assert framed.payload == OWN_ID


def test_a_message_is_a_sequence_of_frames_as_in_the_reference() -> None:
    untimed, timed = GroupMessage(b"msg", b"x"), GroupMessage(b"msg", b"x", 1.0, b"me")
    assert (untimed[0], untimed[1], len(untimed)) == (b"msg", b"x", 2)
    assert (timed[2], len(timed)) == (struct.pack("<d", 1.0), 3)
    command, payload, *rest = timed
    assert (command, payload, len(rest)) == (b"msg", b"x", 1)
    with pytest.raises(IndexError):
        untimed[2]


def test_errors_survive_copies() -> None:
    error = PortError("text", 5)
    for other in copy.copy(error), pickle.loads(pickle.dumps(error)):
        assert (str(other), other.errno, type(other)) == ("text", 5, PortError)
    assert isinstance(error, PacketwireError)


MESSAGES = st.builds(
    GroupMessage,
    st.binary(min_size=3, max_size=3),
    st.binary(max_size=100),
    st.none() | st.floats(allow_nan=False, allow_infinity=False),
    st.none() | st.binary(min_size=1, max_size=255),
)
TERMS = st.integers(0, (1 << 32) - 1)
IDS = st.binary(min_size=16, max_size=16)
CONTROLS = st.one_of(
    st.builds(Heartbeat, IDS),
    st.builds(MemberLeft, IDS),
    st.builds(VoteRequest, TERMS, IDS),
    st.builds(Vote, TERMS, IDS, st.booleans(), IDS),
    st.builds(Authority, TERMS, IDS, st.ip_addresses(v=4).map(str), st.integers(0, 65535)),
)
FRAMES = st.lists(st.binary(max_size=30) | st.sampled_from([b"msg", b"mtl", b"ldr", b"tic", bytes(8)]), max_size=6)


@settings(max_examples=100, deadline=None)
@given(MESSAGES)
def test_what_is_encoded_parses_as_what_it_was(message: GroupMessage) -> None:
    assert GroupMessage.parse(message.encode(), addressed=message.identity is not None) == message


@settings(max_examples=100, deadline=None)
@given(CONTROLS)
def test_controls_parse_as_what_they_were(control: Control) -> None:
    assert parse_control(GroupMessage(control.command, control.encode())) == control


@settings(max_examples=100, deadline=None)
@given(FRAMES, st.booleans())
def test_of_any_frames_come_a_message_or_a_port_error(frames: list[bytes], addressed: bool) -> None:
    try:
        message = GroupMessage.parse(frames, addressed=addressed)
    except PortError:
        return
    assert message.encode() == frames


@settings(max_examples=100, deadline=None)
@given(st.sampled_from([b"tic", b"req", b"vot", b"ldr", b"mlt"]), st.sampled_from([16, 20, 28, 40]), st.data())
def test_of_any_payload_comes_a_control_or_a_port_error(command: bytes, size: int, data: st.DataObject) -> None:
    payload = data.draw(st.binary(min_size=size, max_size=size) | st.binary(max_size=50))
    try:
        control = parse_control(GroupMessage(command, payload))
    except PortError:
        return
    assert control is not None
    assert control.encode() == payload

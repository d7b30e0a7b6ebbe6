"""Messages: recorded ones, any others, and every way to refuse frames."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packetwire import LocalProtocolError, iccp
from packetwire.iccp import (
    Config,
    ICCPController,
    ICCPMessage,
    InvalidMessageError,
    MsgType,
    Outcome,
    PeerDescriptor,
    Request,
)
from packetwire.iccp.config import config_proto
from packetwire.iccp.protocol import MAX_FRAMES
from packetwire.iccp.refusals import INVALID

from .fake import CODEC, PEER, make

ITEMS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[2] / "fixtures" / "iccp_messages.json").read_text()
)["items"]


def frames_of(item: dict[str, Any]) -> list[bytes]:
    return [bytes.fromhex(frame) for frame in item["frames"]]


def fields(msg: ICCPMessage) -> dict[str, Any]:
    return dict(vars(msg))


@pytest.mark.parametrize("item", ITEMS, ids=lambda item: item["id"])
def test_a_recorded_message_is_read_and_written(item: dict[str, Any]) -> None:
    frames = frames_of(item)
    assert CODEC.is_valid(frames)
    msg = CODEC.convert_msg(frames)
    assert frames == frames_of(item), "the caller's list is as it was"
    assert msg.msg_type == item["msg_type"]
    if "BUG" in item["id"]:
        (fixed,) = (other for other in ITEMS if other["id"] == item["id"].replace("BUG", "fixed"))
        written, expected = msg.as_zmsg(), frames_of(fixed)
    else:
        written, expected = msg.as_zmsg(), frames
    assert fields(CODEC.convert_msg(written)) == fields(msg)
    if item["byte_exact"] or written == expected:
        assert written == expected
    else:
        assert [sorted(frame) for frame in written] == [sorted(frame) for frame in expected]
    check_content(msg, item)


def check_content(msg: ICCPMessage, item: dict[str, Any]) -> None:
    for name in ("endpoints", "error", "details"):
        if name in item:
            assert getattr(msg, name) == item[name]
    if "outcome" in item:
        assert msg.outcome.value == item["outcome"]
    if "peer" in item:
        assert msg.peer == PEER
        assert (msg.peer.host, msg.peer.pid, msg.peer.uid.hex) == (  # type: ignore[union-attr]
            item["peer"]["host"],
            item["peer"]["pid"],
            item["peer"]["uid"],
        )
    if msg.msg_type is MsgType.REQUEST:
        assert msg.request is Request.CONFIGURE
        assert Config.from_proto(msg.config).as_dict() == {"num": 42, "text": "hello"}


def test_each_type_is_among_them() -> None:
    assert {item["msg_type"] for item in ITEMS} == set(MsgType)
    assert any("BUG" in item["id"] for item in ITEMS)


def test_a_configuration_has_the_octets_of_the_reference() -> None:
    (item,) = (item for item in ITEMS if item["id"].endswith("-fixed"))
    assert ICCPController().request_config_msg({"num": 42, "text": "hello"}).as_zmsg() == frames_of(item)


def test_an_empty_configuration_of_the_reference() -> None:
    msg = CODEC.convert_msg([b"\0\2", b""])
    assert msg.as_zmsg() == [b"\0\2", b"CONF", b""]


def test_numbers_come_back_as_floats() -> None:
    msg = make(MsgType.READY, peer=PEER.replace(supplement={"n": 1}))
    again = CODEC.convert_msg(msg.as_zmsg())
    assert again.peer is not None
    assert again.peer.supplement == {"n": 1.0}


text = st.text(max_size=20)
scalars = st.one_of(
    st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(allow_nan=False), text, st.binary(max_size=20)
)
configs = st.recursive(
    st.dictionaries(text, scalars, max_size=3), lambda inner: st.dictionaries(text, scalars | inner, max_size=3)
)
peers = st.builds(PeerDescriptor, st.uuids(), st.integers(0, 2**32 - 1), text)
messages = st.one_of(
    st.builds(
        lambda peer, endpoints: make(MsgType.READY, peer=peer, endpoints=endpoints),
        peers,
        st.dictionaries(text, st.lists(text, max_size=3), max_size=3),
    ),
    st.builds(
        lambda config: make(MsgType.REQUEST, request=Request.CONFIGURE, config=config_proto(config)), configs
    ),
    st.just(MsgType.OK).map(make),
    st.just(MsgType.STOP).map(make),
    st.builds(lambda error: make(MsgType.ERROR, error=error), text),
    st.builds(
        lambda outcome, details: make(MsgType.FINISHED, outcome=outcome, details=details),
        st.sampled_from(Outcome),
        st.lists(text, max_size=5),
    ),
)


@given(messages)
def test_what_was_written_is_read(msg: ICCPMessage) -> None:
    frames = msg.as_zmsg()
    again = CODEC.convert_msg(frames)
    assert fields(again) == fields(msg)
    assert again.as_zmsg() == frames
    assert CODEC.convert_msg([memoryview(frame) for frame in frames]).as_zmsg() == frames


@given(messages)
def test_a_copy_is_a_message_of_its_own(msg: ICCPMessage) -> None:
    copy = msg.copy()
    before = msg.as_zmsg()
    assert fields(copy) == fields(msg)
    for content in (copy.endpoints, copy.details):
        content.clear()
    for addresses in copy.endpoints.values():
        addresses.append("x")
    if copy.config is not None:
        copy.config.Clear()
    assert msg.as_zmsg() == before
    msg.clear()
    assert fields(msg) == fields(ICCPMessage())
    assert msg.endpoints is not ICCPMessage().endpoints


PEER_FRAME, ENDPOINTS_FRAME = make(MsgType.READY, peer=PEER, endpoints={"x": ["y"]}).as_zmsg()[1:]

BROKEN: dict[str, list[tuple[list[bytes], str]]] = {
    "no-frames": [([], "without frames")],
    "type-size": [([b""], "0 bytes"), ([b"\1"], "1 bytes"), ([b"\0\0\3"], "3 bytes")],
    "type": [([b"\0\0"], "type 0"), ([b"\0\7"], "type 7"), ([b"\1\3"], "type 259")],
    "frames": [
        ([b"\0\1", PEER_FRAME], "READY message of 2 frames, not 3"),
        ([b"\0\1", PEER_FRAME, b"", b""], "READY message of 4"),
        ([b"\0\2"], "REQUEST message of 1 frames, not 3"),
        ([b"\0\2", b"CONF"], "REQUEST message of 2 frames, not 3"),
        ([b"\0\2", b"CONF", b"", b""], "REQUEST message of 4 frames"),
        ([b"\0\3", b""], "OK message of 2 frames, not 1"),
        ([b"\0\4"], "ERROR message of 1"),
        ([b"\0\4", b"a", b"b"], "ERROR message of 3"),
        ([b"\0\5", b""], "STOP message of 2"),
        ([b"\0\6"], "FINISHED message of 1 frames, not 2 or more"),
    ],
    "peer": [
        ([b"\0\1", b"\x0a\x7f", ENDPOINTS_FRAME], "the component is broken"),
        ([b"\0\1", b"", ENDPOINTS_FRAME], "uid is missing"),
        ([b"\0\1", b"\x0a\x02ab", ENDPOINTS_FRAME], "uid has 2 bytes"),
    ],
    "endpoints": [
        ([b"\0\1", PEER_FRAME, b"\x0a\x7f"], "the endpoints are broken"),
        ([b"\0\1", PEER_FRAME, b"\x0a\x05\x0a\x01x\x12\x00"], "'x' is not a list of addresses"),
        ([b"\0\1", PEER_FRAME, bytes.fromhex("0a0b0a0178120632040a022001")], "'x' is not a list of addresses"),
    ],
    "request": [([b"\0\2", b"NONE", b""], "no request b'NONE'"), ([b"\0\2", b"x" * 99, b""], "b'x{16}'$")],
    "config": [
        ([b"\0\2", b"CONF", b"\x0a\x7f"], "configuration is broken"),
        ([b"\0\2", b"\x0a\x7f"], "configuration"),
    ],
    "error-text": [([b"\0\4", b"\xff"], "not UTF-8")],
    "outcome": [([b"\0\6", b""], "no outcome b''"), ([b"\0\6", b"GOOD", b"x"], "no outcome b'GOOD'")],
    "too-large": [([b"\0\4", bytes(999)], "1001 bytes, the limit is 1000")],
    "too-many-frames": [([b"\0\6", b"OK", *[b""] * (MAX_FRAMES - 1)], "262145 frames, the limit is 262144")],
}
"""code -> frames that break this rule, and what must be said about them."""

SMALL = ICCPController(max_message_size=1000)


def test_all_reasons_are_known() -> None:
    of_packets = {"packet"}  # tried in test_carriers.py
    assert set(BROKEN) | of_packets == set(INVALID)


@pytest.mark.parametrize(
    ("code", "broken", "said"),
    [(code, broken, said) for code, cases in BROKEN.items() for broken, said in cases],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_a_broken_message_is_refused(code: str, broken: list[bytes], said: str) -> None:
    with pytest.raises(InvalidMessageError, match=said) as caught:
        SMALL.convert_msg(broken)
    assert caught.value.code == code
    assert not SMALL.is_valid(broken)


def test_the_text_of_an_exception_as_one_frame_for_each_character() -> None:
    told = repr(ValueError("x" * 10_000))
    msg = CODEC.convert_msg([b"\0\6", b"ERROR", *(character.encode() for character in told)])
    assert "".join(msg.details) == told
    assert CODEC.convert_msg([b"\0\6", b"OK", b"\xff"]).details == ["\ufffd"]


def test_what_cannot_be_sent() -> None:
    for msg, said in (
        (ICCPMessage(), "without a type"),
        (make(MsgType.READY), "needs a peer"),
        (make(MsgType.REQUEST), "needs a request"),
        (make(MsgType.REQUEST, request=Request.CONFIGURE), "and a configuration"),
    ):
        with pytest.raises(LocalProtocolError, match=said):
            msg.as_zmsg()
    assert make(MsgType.ERROR, error="a\udc80").as_zmsg() == [b"\0\4", b"a?"]


def test_messages_show_what_they_are() -> None:
    assert str(make(MsgType.OK)) == repr(make(MsgType.OK)) == "ICCPMessage[OK]"
    assert str(ICCPMessage()) == "ICCPMessage[NONE]"


def test_each_message_is_an_object_of_its_own() -> None:
    assert CODEC.message_factory() is not CODEC.message_factory()
    assert CODEC.stop_msg() is not CODEC.stop_msg()


def read_or_refused(zmsg: list[bytes]) -> ICCPMessage | None:
    """The message, or None if it was refused for one of the reasons in the table; nothing else may be raised."""
    try:
        return CODEC.convert_msg(zmsg)
    except InvalidMessageError as refusal:
        error = refusal
    assert error.code in INVALID
    return None


@given(st.sampled_from(ITEMS), st.randoms(use_true_random=False))
def test_a_damaged_message_is_read_or_refused(item: dict[str, Any], random: Random) -> None:
    frames = frames_of(item)
    number = random.randrange(len(frames))
    frame = bytearray(frames[number])
    if frame and random.random() < 0.7:
        frame[random.randrange(len(frame))] = random.randrange(256)
    else:
        frame += random.randbytes(random.randrange(8))
    frames[number] = bytes(frame[: random.randrange(len(frame) + 1)] if random.random() < 0.3 else frame)
    if random.random() < 0.2:
        random.shuffle(frames)
    if random.random() < 0.2:
        del frames[random.randrange(len(frames))]
    msg = read_or_refused(frames)
    if msg is not None:
        again = CODEC.convert_msg(msg.as_zmsg())
        assert again.as_zmsg() == msg.as_zmsg()


@given(st.sampled_from(MsgType), st.lists(st.binary(max_size=30), max_size=4))
def test_octets_of_any_kind_are_read_or_refused(msg_type: MsgType, zmsg: list[bytes]) -> None:
    read_or_refused(zmsg)
    read_or_refused([msg_type.to_bytes(2, "big"), *zmsg])


def test_the_public_names() -> None:
    assert len(set(iccp.__all__)) == len(iccp.__all__)
    for name in iccp.__all__:
        assert getattr(iccp, name) is not None
    assert str(ICCPController.UID) == "9b7ac9a3-d684-5955-b0ae-2f69e8666868"
    assert ICCPController.OID == "1.3.6.1.4.1.53446.1.1.0.1.1"
    assert ICCPController().logging_id == "ICCPController"

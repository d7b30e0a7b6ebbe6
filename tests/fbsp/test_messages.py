"""Messages as objects: what can be set, what comes back, and what cannot be sent."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packetwire import LocalProtocolError, fbsp
from packetwire.fbsp import (
    APIMessage,
    ErrorCode,
    ErrorMessage,
    FBSPMessage,
    MsgFlag,
    MsgType,
    State,
    StateMessage,
    StopError,
    bb2h,
)
from packetwire.fbsp.messages import MAX_CAUSES
from packetwire.messaging.errors import InvalidMessageError

from .fake import CODEC, TOKEN, cancel, hello, make, welcome

TYPES = [each for each in MsgType if each is not MsgType.UNKNOWN]
CALLS = (MsgType.REQUEST, MsgType.REPLY, MsgType.STATE)

tokens = st.binary(min_size=8, max_size=8)
flags = st.integers(0, 7).map(MsgFlag)
octets = st.binary(max_size=64)


@st.composite
def messages(draw: st.DrawFn) -> FBSPMessage:
    msg: Any = make(draw(st.sampled_from(TYPES)), draw(tokens), flags=draw(flags))
    if msg.msg_type in (*CALLS, MsgType.NOOP, MsgType.DATA):
        msg.type_data = draw(st.integers(0, 0xFFFF))
    if isinstance(msg, StateMessage):
        msg.state = draw(st.sampled_from(State))
    elif hasattr(msg, "data") and isinstance(msg.data, list):
        msg.data = draw(st.lists(octets, max_size=5))
    elif msg.msg_type is MsgType.CANCEL:
        msg.request.token = draw(tokens)
    elif isinstance(msg, ErrorMessage):
        msg.error_code = draw(st.integers(1, 2047))
        msg.relates_to = draw(st.sampled_from(MsgType))
        for text in draw(st.lists(st.text(max_size=20), max_size=3)):
            error = msg.add_error()
            error.description = text
            error.code = draw(st.integers(0, 2**64 - 1))
            error.context.update({"b": 1, "a": {"list": [None, True, text]}})
    elif msg.msg_type is MsgType.HELLO:
        msg.data.CopyFrom(hello().data)
        msg.data.instance.pid = draw(st.integers(0, 2**32 - 1))
    elif msg.msg_type is MsgType.WELCOME:
        msg.data.CopyFrom(welcome().data)
    return msg


def fields(msg: Any) -> dict[str, Any]:
    """What a message is made of; an acknowledgement has no content."""
    found = {name: getattr(msg, name) for name in ("msg_type", "type_data", "flags", "token")}
    if not msg.has_ack_reply():
        found |= {name: getattr(msg, name, None) for name in ("request", "errors", "state_info")}
        if not isinstance(msg, StateMessage):
            found["data"] = getattr(msg, "data", None)
    return found


@given(messages())
def test_what_was_written_is_read(msg: FBSPMessage) -> None:
    frames = msg.as_zmsg()
    again = CODEC.convert_msg(frames)
    assert type(again) is type(msg)
    assert fields(again) == fields(msg)
    assert again.as_zmsg() == frames


@given(messages())
def test_a_copy_is_a_message_of_its_own(msg: FBSPMessage) -> None:
    copy = msg.copy()
    before = fields(msg)
    assert fields(copy) == before
    assert type(copy) is type(msg)
    copy.clear()
    assert fields(msg) == before


@pytest.mark.parametrize("msg_type", TYPES)
def test_clear_leaves_the_type_only(msg_type: MsgType) -> None:
    msg = make(msg_type, TOKEN, 0xFFFF, MsgFlag.MORE)
    empty = fields(make(msg_type, bytes(8)))
    if hasattr(msg, "data") and isinstance(msg.data, list):
        msg.data.append(b"x")
    msg.clear()
    assert fields(msg) == empty


@given(messages())
def test_other_kinds_of_bytes_are_the_same_message(msg: FBSPMessage) -> None:
    frames = msg.as_zmsg()
    for kind in (bytearray, memoryview):
        assert CODEC.convert_msg([kind(frame) for frame in frames]).as_zmsg() == frames
    assert CODEC.convert_msg(tuple(frames)).as_zmsg() == frames


@given(messages(), st.sampled_from(["", "flags", "short", "long", "version", "other"]))
def test_the_short_way_reads_what_the_long_way_reads(msg: FBSPMessage, damage: str) -> None:
    zmsg = msg.as_zmsg()
    header = zmsg[0]
    zmsg[0] = {
        "": header,
        "flags": header[:5] + b"\x08" + header[6:],
        "short": header[:-1],
        "long": header + b"x",
        "version": header[:4] + bytes((header[4] ^ 3,)) + header[5:],
        "other": b"XXXX" + header[4:],
    }[damage]
    before = list(zmsg)
    assert told(CODEC.convert_msg, zmsg) == told(CODEC._convert, zmsg)
    assert zmsg == before


def told(convert: Any, zmsg: list[bytes]) -> Any:
    try:
        msg = convert(zmsg)
    except InvalidMessageError as error:
        return error.code, vars(error)
    return type(msg), msg.msg_type, msg.flags, msg.type_data, msg.token, msg.as_zmsg()


def test_a_factory_that_is_assigned_makes_all_messages() -> None:
    class Mine(APIMessage):
        """A class of one's own."""

    codec = fbsp.FBSPClient()
    codec.message_factory = lambda zmsg=None: Mine()  # type: ignore[method-assign, misc]
    assert type(codec.convert_msg(make(MsgType.REQUEST, TOKEN, data=[b"1"]).as_zmsg())) is Mine


def test_the_data_of_a_message_is_not_that_of_its_frames() -> None:
    zmsg = make(MsgType.DATA, TOKEN, data=[b"1"]).as_zmsg()
    msg: Any = CODEC.convert_msg(zmsg)
    copy, frames = msg.copy(), msg.as_zmsg()
    msg.data.append(b"2")
    assert (zmsg[1:], copy.data, frames[1:]) == ([b"1"], [b"1"], [b"1"])


def test_flags() -> None:
    msg = make(MsgType.NOOP)
    assert (msg.has_more(), msg.has_ack_req(), msg.has_ack_reply()) == (False, False, False)
    msg.set_flag(MsgFlag.MORE)
    msg.set_flag(MsgFlag.ACK_REQ)
    assert msg.has_more()
    assert msg.has_ack_req()
    msg.clear_flag(MsgFlag.MORE)
    assert msg.flags is MsgFlag.ACK_REQ
    msg.set_flag(MsgFlag.ACK_REPLY)
    assert msg.has_ack_reply()


def test_request_codes() -> None:
    msg: APIMessage = make(MsgType.REQUEST, TOKEN, bb2h(3, 7))
    assert (msg.interface_id, msg.api_code, msg.request_code) == (3, 7, 0x0307)
    assert (bb2h(0, 0), bb2h(255, 255)) == (0, 65535)
    for wrong in ((256, 0), (0, 256), (-1, 0), (0, -1)):
        with pytest.raises(ValueError, match="does not fit into a byte"):
            bb2h(*wrong)


def test_states_without_a_name_survive() -> None:
    msg: StateMessage = make(MsgType.STATE)
    msg.state_info.state = 77
    again: Any = CODEC.convert_msg(msg.as_zmsg())
    assert (again.state, again.state_info.state) == (State.UNKNOWN_STATE, 77)
    msg.state = State.TERMINATED
    assert msg.state is State.ABORTED


def test_error_codes() -> None:
    msg: ErrorMessage = make(MsgType.ERROR)
    msg.error_code = ErrorCode.GONE
    msg.relates_to = MsgType.DATA
    assert (msg.error_code, msg.relates_to, msg.type_data) == (ErrorCode.GONE, MsgType.DATA, 13 << 5 | 6)
    msg.error_code = 999
    again: Any = CODEC.convert_msg(msg.as_zmsg())
    assert (again.error_code, again.relates_to) == (999, MsgType.DATA)
    for wrong in (0, -1, 2048):
        with pytest.raises(LocalProtocolError, match="a number from 1 to 2047"):
            msg.error_code = wrong
    msg.type_data = 5 << 5 | 17
    again = CODEC.convert_msg(msg.as_zmsg())
    assert (again.relates_to, again.as_zmsg()) == (MsgType.UNKNOWN, msg.as_zmsg())


def noted(exc: BaseException, detail: str = "message") -> list[Any]:
    msg: ErrorMessage = make(MsgType.ERROR)
    msg.error_code = 1
    msg.note_exception(exc, detail=detail)
    again: Any = CODEC.convert_msg(msg.as_zmsg())
    assert again.errors == msg.errors
    return msg.errors


def raised(exc: Exception, cause: Exception | None = None) -> Exception:
    try:
        raise exc from cause
    except Exception as error:
        return error


def test_an_exception_is_told_with_its_causes() -> None:
    first, second = noted(raised(ValueError("boom"), StopError("why", code=7)))
    assert (first.code, first.description, dict(first.annotation)) == (0, "boom", {"exception": "ValueError"})
    assert (second.code, second.description, dict(second.annotation)) == (7, "why", {})


def test_how_much_is_told_of_an_exception() -> None:
    (message,) = noted(raised(KeyError()))
    assert (message.description, dict(message.annotation)) == ("KeyError", {"exception": "KeyError"})
    (nothing,) = noted(raised(ValueError("secret")), "none")
    assert (nothing.description, dict(nothing.annotation)) == ("the request failed", {})
    (all_of_it,) = noted(raised(ValueError("boom")), "traceback")
    assert all_of_it.description == "boom"
    assert "in raised\n" in all_of_it.annotation["traceback"]
    (refusal,) = noted(raised(StopError("no", code=3)), "traceback")
    assert (refusal.code, refusal.description, dict(refusal.annotation)) == (3, "no", {})


def test_what_is_told_of_exceptions_is_bounded() -> None:
    one, other = ValueError("1"), ValueError("2")
    one.__cause__, other.__cause__ = other, one
    assert [each.description for each in noted(one)] == ["1", "2"]
    last = ValueError("0")
    for number in range(MAX_CAUSES + 5):
        last = raised(ValueError(str(number)), last)  # type: ignore[assignment]
    assert len(noted(last)) == MAX_CAUSES
    (long,) = noted(ValueError("x" * 100_000))
    assert len(long.description) == 16384
    (odd,) = noted(ValueError("a\udc80b"))
    assert odd.description == "a?b"
    (coded,) = noted(SystemExit("text as code"))
    assert coded.code == 0
    (huge,) = noted(StopError("x", code=1 << 64))
    assert huge.code == 0


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"token": b"short"}, "a token has 8 bytes, not 5"),
        ({"token": b"much too long"}, "not 13"),
        ({"type_data": -1}, "type_data -1"),
        ({"type_data": 1 << 16}, "type_data 65536"),
        ({"flags": 256}, "cannot be sent"),
    ],
)
def test_what_cannot_be_sent(change: dict[str, Any], text: str) -> None:
    msg = make(MsgType.NOOP)
    vars(msg).update(change)
    with pytest.raises(LocalProtocolError, match=text):
        msg.as_zmsg()


def test_data_frames_are_bytes() -> None:
    msg = make(MsgType.DATA)
    msg.data = [b"a", bytearray(b"b")]
    assert msg.as_zmsg()[1:] == [b"a", b"b"]
    msg.data = ["text"]
    with pytest.raises(TypeError, match="a frame holds bytes"):
        msg.as_zmsg()


def test_messages_show_what_they_are() -> None:
    assert str(hello()) == repr(hello()) == "HelloMessage[HELLO]"
    assert str(cancel()) == "CancelMessage[CANCEL]"
    assert str(FBSPMessage()) == "FBSPMessage[UNKNOWN]"


def test_the_public_names() -> None:
    assert len(set(fbsp.__all__)) == len(fbsp.__all__)
    for name in fbsp.__all__:
        assert getattr(fbsp, name) is not None
    assert (fbsp.HEADER_FMT_FULL, fbsp.HEADER_FMT, fbsp.FOURCC) == ("!4sBBH8s", "!4xBBH8s", b"FBSP")
    assert (fbsp.VERSION_MASK, fbsp.ERROR_TYPE_MASK) == (7, 31)
    assert fbsp.PROTO_HELLO == "firebird.butler.FBSPHelloDataframe"
    assert fbsp.FBSPService.OID == "1.3.6.1.4.1.53446.1.3.1"
    assert str(fbsp.FBSPService.UID) == "98bd50a9-5863-551d-b19a-a76e2b2ee4d4"
    assert set(fbsp.FBSPService.MESSAGE_MAP) == set(TYPES)

"""All that was recorded of the reference is read, and written again as it was."""

from __future__ import annotations

import uuid
from collections import Counter
from typing import Any

import pytest

from packetwire.fbsp import (
    AgentDescriptor,
    ErrorMessage,
    FBSPClient,
    MsgFlag,
    MsgType,
    PeerDescriptor,
    StateMessage,
)
from packetwire.messaging import INVALID, TIMEOUT

from .fake import CODEC, ROUTE, FakeChannel, make
from .golden import CONVERSATION, MESSAGES, frames_of

TRIMMED = bytes.fromhex("a0a000000000004a")
"""The token of a request whose answers were recorded, and itself not."""


@pytest.mark.parametrize("item", MESSAGES, ids=lambda item: item["id"])
def test_a_message_is_read_and_written(item: dict[str, Any]) -> None:
    assert item["byte_exact"]
    frames = frames_of(item)
    assert CODEC.is_valid(frames)
    msg: Any = CODEC.convert_msg(frames)
    assert frames == frames_of(item), "the caller's list is as it was"
    assert msg.as_zmsg() == frames
    assert msg.copy().as_zmsg() == frames
    assert (msg.msg_type.name, msg.type_data) == (item["msg_type"], item["type_data"])
    assert (msg.token, msg.flags) == (bytes.fromhex(item["token"]), item["flags"])
    check_content(msg, item)


def check_content(msg: Any, item: dict[str, Any]) -> None:
    """Compare the fields that the item names; an acknowledgement has lost those of its data frames."""
    header = {"interface_id": "interface_id", "api_code": "api_code", "error_code": "error_code"}
    for name in header.keys() & item.keys():
        assert getattr(msg, name) == item[name]
    if "relates_to" in item:
        assert msg.relates_to == item["relates_to"]
    if msg.has_ack_reply():
        return
    if "data" in item:
        assert [frame.hex() for frame in msg.data] == item["data"]
    if "state" in item:
        assert msg.state == item["state"]
    if "cancel_token" in item:
        assert msg.request.token.hex() == item["cancel_token"]
    if "errors" in item:
        assert [[each.code, each.description] for each in msg.errors] == item["errors"]
    if "api" in item:
        assert [[each.number, each.uid.hex()] for each in msg.data.api] == item["api"]


def test_each_type_is_among_them() -> None:
    types = Counter(item["msg_type"] for item in MESSAGES)
    assert types.keys() == {each.name for each in MsgType} - {"UNKNOWN"}


def test_what_is_acknowledged_is_acknowledged_as_recorded() -> None:
    recorded = [item for item in MESSAGES if item["id"].startswith("ACKREPLY")]
    assert recorded
    for item in recorded:
        flags = MsgFlag(item["ack_of_flags"])
        msg = CODEC.create_message_for(
            MsgType[item["msg_type"]], bytes.fromhex(item["token"]), item["type_data"], flags
        )
        assert CODEC.create_ack_reply(msg).as_zmsg() == frames_of(item)


@pytest.mark.parametrize(("direction", "frames"), CONVERSATION, ids=range(len(CONVERSATION)))
def test_a_conversation_is_read_and_written(direction: str, frames: list[bytes]) -> None:
    assert CODEC.convert_msg(frames).as_zmsg() == frames


def test_a_client_takes_all_that_a_service_of_the_reference_says() -> None:
    """Our client says what the reference's did, as far as the protocol lets it, and refuses nothing it hears."""
    client = FBSPClient()
    channel = FakeChannel(client)
    session: Any = channel.create_session(ROUTE)
    refused: list[Exception] = []
    client.on_exception = lambda channel, session, msg, exc: refused.append(exc)
    heard = Counter[str]()
    for direction, frames in CONVERSATION:
        msg = client.convert_msg(frames)
        if msg.token == TRIMMED and session.find(TRIMMED) is None:
            channel.send(make(MsgType.REQUEST, TRIMMED, msg.type_data), session)
            channel.sent.clear()
        if direction == "send":
            result = channel.deliver(ROUTE, frames)
            assert result is not INVALID, (msg, refused)
            heard[msg.msg_type.name] += 1
        elif msg.msg_type is not MsgType.WELCOME:
            channel.send(msg, session)
            assert channel.sent.pop() == (ROUTE, frames)
    assert refused == []
    assert heard.keys() == {"WELCOME", "NOOP", "REQUEST", "REPLY", "STATE", "ERROR", "DATA"}
    assert channel.receive() is TIMEOUT
    assert session.requests == {}


def test_hello_has_the_bytes_of_the_reference() -> None:
    direction, frames = CONVERSATION[0]
    assert direction == "recv"
    recorded: Any = CODEC.convert_msg(frames)
    client = FBSPClient()
    channel = FakeChannel(client)
    session: Any = channel.create_session(ROUTE)
    agent = AgentDescriptor.from_proto(recorded.data.client)
    peer = PeerDescriptor.from_proto(recorded.data.instance)
    assert (peer.uid, peer.pid, peer.host) == (uuid.UUID(int=0x44), 4343, "cli-host")
    plain = AgentDescriptor(agent.uid, agent.name, agent.version, agent.vendor_uid, agent.classification)
    assert plain == agent, "the platform is the one by default"
    client.send_hello(channel, session, agent, peer, recorded.token)
    assert channel.sent == [(ROUTE, frames)]


def test_an_error_has_the_bytes_of_the_reference() -> None:
    (item,) = (item for item in MESSAGES if item["id"] == "ERROR-exc-0000000000000000")
    recorded: Any = CODEC.convert_msg(frames_of(item))
    error = ValueError("boom")
    error.__cause__ = type("StopError", (Exception,), {"code": 7})("why")
    msg: ErrorMessage = CODEC.create_message_for(MsgType.ERROR)
    msg.error_code = recorded.error_code
    msg.relates_to = recorded.relates_to
    msg.note_exception(error, detail="traceback")
    assert msg.errors[0].annotation["traceback"] == "ValueError: boom\n"
    del msg.errors[1].annotation["traceback"]
    msg.errors[1].ClearField("annotation")
    assert msg.as_zmsg() == frames_of(item)


def test_states_have_the_bytes_of_the_reference() -> None:
    for item in MESSAGES:
        if item["msg_type"] == "STATE" and "state" in item:
            flags = MsgFlag(item["flags"])
            msg: StateMessage = CODEC.create_message_for(MsgType.STATE, bytes.fromhex(item["token"]), 3, flags)
            msg.state = item["state"]
            assert msg.as_zmsg() == frames_of(item)

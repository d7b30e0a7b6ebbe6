"""Messages: recorded ones, what is ignored in them and what is refused, and what we write."""

from __future__ import annotations

import json
import pickle
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from packetwire.errors import LocalProtocolError
from packetwire.hololinked import (
    EventMessage,
    InvalidMessage,
    OperationFailed,
    OperationTimeout,
    PayloadError,
    PreserializedData,
    RequestMessage,
    ResponseMessage,
    SerializableData,
    SerializableNone,
    Serializers,
    ServerExecutionContext,
    ThingExecutionContext,
)

from .golden import ITEMS, by_id, frames_of, kind_of

REQUEST = by_id("request-op-obj-empty-dflt")
RESPONSE = by_id("response-reply-obj-bin")
EVENT = by_id("event-obj-bin")


def with_header(frames: list[bytes], **changes: Any) -> list[bytes]:
    """The message with other keys in its header; None takes one away."""
    header = json.loads(frames[2]) | changes
    kept = {key: value for key, value in header.items() if value is not ...}
    return [*frames[:2], json.dumps(kept).encode(), *frames[3:]]


@pytest.mark.parametrize("item", ITEMS, ids=lambda item: item["id"])
def test_recorded_messages_are_read_and_written(item: dict[str, Any]) -> None:
    frames = frames_of(item)
    message = kind_of(item)(frames)
    assert message.byte_array == frames
    assert message.header.json().keys() == json.loads(frames[2]).keys()
    for key in ("messageType", "messageID", "senderID"):
        assert message.header[key] == json.loads(frames[2])[key]
    assert message.payload.deserialize() == json.loads(frames[3])
    assert message.preserialized_payload.as_bytes() == message.preserialized_payload.octets() == frames[4]


@pytest.mark.parametrize("item", ITEMS, ids=lambda item: item["id"])
def test_recorded_messages_are_what_we_make(item: dict[str, Any]) -> None:
    frames = frames_of(item)
    header = json.loads(frames[2])
    payload = SerializableData(json.loads(frames[3]), content_type=header["payloadContentType"])
    data = PreserializedData(frames[4], header["preencodedPayloadContentType"])
    made: Any
    if kind_of(item) is EventMessage:
        made = EventMessage.craft_from_arguments(
            header["eventID"], header["senderID"], payload=payload, preserialized_payload=data
        )
    elif kind_of(item) is ResponseMessage:
        made = ResponseMessage.craft_from_arguments(
            header["receiverID"], header["senderID"], header["messageType"], header["messageID"], payload, data
        )
    elif header["messageType"] == "OPERATION":
        made = RequestMessage.craft_from_arguments(
            *(header[key] for key in ("receiverID", "senderID", "thingID", "objekt", "operation")),
            payload,
            data,
            header["serverExecutionContext"],
            header["thingExecutionContext"],
        )
    else:
        made = RequestMessage.craft_with_message_type("cli", "srv", header["messageType"])
    assert made.id
    made.header.messageID = header["messageID"]
    assert made.byte_array == frames


def test_a_response_belongs_to_its_request() -> None:
    request = RequestMessage(by_id("request-op-int-bin-dflt"))
    reply = ResponseMessage.craft_reply_from_request(
        request, SerializableNone, PreserializedData(b"\0\1\xff", "unknown")
    )
    assert (reply.id, reply.receiver_id, reply.sender_id, reply.type) == (request.id, "cli", "srv", "REPLY")
    assert reply.address == b"cli"
    received = RequestMessage(REQUEST, route=b"\1anything")
    timeout = ResponseMessage.craft_with_message_type(received, "TIMEOUT", SerializableData("invokation"))
    assert timeout.address == b"\1anything", "the socket that asked, whatever it calls itself"
    assert timeout.payload.serialize() == b'"invokation"'


def test_ids_are_unique() -> None:
    ids = {RequestMessage.craft_with_message_type("a", "b").id for _ in range(1000)}
    assert len(ids) == 1000


def test_the_parts_of_a_request() -> None:
    request = RequestMessage(by_id("request-op-int-empty-ctx"))
    assert (request.thing_id, request.objekt, request.operation) == ("thing", "prop", "readProperty")
    assert request.qualified_operation == "thing.prop.readProperty"
    assert request.server_execution_context == ServerExecutionContext(1.5, 10, True)
    assert request.thing_execution_context == ThingExecutionContext(True)
    assert request.body == [request.payload, request.preserialized_payload]
    assert "readProperty" in str(request)
    with pytest.raises(KeyError):
        request.header["json"]
    context = request.server_execution_context
    assert context["oneway"] is context.get("oneway") is True
    assert context.get("invokation_timeout", "none") == "none"
    assert context.json() == {"invokationTimeout": 1.5, "executionTimeout": 10, "oneway": True}


@pytest.mark.parametrize("frames", [REQUEST, RESPONSE, EVENT], ids=["request", "response", "event"])
def test_unknown_keys_are_ignored(frames: list[bytes]) -> None:
    kind: Any = {id(REQUEST): RequestMessage, id(RESPONSE): ResponseMessage, id(EVENT): EventMessage}[id(frames)]
    message = kind(with_header(frames, new={"of": ["what", 5]}))
    assert message.byte_array == frames, "and not sent on"


def test_contexts_as_the_references_proxies_write_them() -> None:
    times = {"invokation_timeout": 1.5, "execution_timeout": None, "oneway": True}
    request = RequestMessage(
        with_header(REQUEST, serverExecutionContext=times, thingExecutionContext={"fetch_execution_logs": True})
    )
    assert request.server_execution_context == ServerExecutionContext(1.5, None, True)
    assert request.thing_execution_context.fetchExecutionLogs
    assert b'"invokationTimeout":1.5,"executionTimeout":null,"oneway":true}' in request.byte_array[2]
    for name in ("invocation_timeout", "invocationTimeout", "invokation_timeout", "invokationTimeout"):
        for seconds in (0, 1.5, None):
            read = RequestMessage(with_header(REQUEST, serverExecutionContext={name: seconds}))
            assert read.server_execution_context == ServerExecutionContext(seconds), name
            made = RequestMessage.craft_from_arguments(
                "a", "b", "", "", "", server_execution_context={name: seconds}
            )
            assert made.server_execution_context == ServerExecutionContext(seconds), name
    both = {"invokation_timeout": 1, "invocation_timeout": 2, "invokationTimeout": 3}
    assert RequestMessage(with_header(REQUEST, serverExecutionContext=both)).server_execution_context == (
        ServerExecutionContext(1)
    )
    left_out = RequestMessage(with_header(REQUEST, serverExecutionContext=..., thingExecutionContext=...))
    assert left_out.byte_array == REQUEST


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        ([], "5 frames, this one 0"),
        (REQUEST[:1], "5 frames, this one 1"),
        (REQUEST[:4], "5 frames, this one 4"),
        ([*REQUEST, b""], "5 frames, this one 6"),
        ([REQUEST[0], b"x", *REQUEST[2:]], "second frame must be empty"),
        ([*REQUEST[:2], b"", *REQUEST[3:]], "truncated"),
        ([*REQUEST[:2], b"{", *REQUEST[3:]], "truncated"),
        ([*REQUEST[:2], b"[]", *REQUEST[3:]], "Expected `object`, got `array`"),
        ([*REQUEST[:2], b"\xff{}", *REQUEST[3:]], "malformed"),
        ([*REQUEST[:2], b'{"messageType":"\xff"}', *REQUEST[3:]], "Invalid|utf-8"),
        ([*REQUEST[:2], b'{"x":' + b"[" * 60000, *REQUEST[3:]], "refused"),
        ([*REQUEST[:2], b" " * 65537, *REQUEST[3:]], "a header has at most 65536 bytes"),
        (with_header(REQUEST, messageID=...), "missing required field `messageID`"),
        (with_header(REQUEST, messageID=5), "Expected `str`, got `int`"),
        (with_header(REQUEST, messageType="REPLY"), "Invalid enum value 'REPLY'"),
        (with_header(REQUEST, senderID=None), "Expected `str`, got `null`"),
        (with_header(REQUEST, serverExecutionContext=[5, 5, False]), "got `array`"),
        (with_header(REQUEST, serverExecutionContext={"oneway": 1}), "Expected `bool`"),
        (with_header(REQUEST, serverExecutionContext={"invokationTimeout": "5"}), "got `str`"),
        (with_header(REQUEST, serverExecutionContext={"executionTimeout": -1}), ">= 0"),
        (with_header(REQUEST, serverExecutionContext={"execution_timeout": -0.5}), ">= 0"),
        (with_header(REQUEST, serverExecutionContext={"invocation_timeout": -1}), ">= 0"),
    ],
)
def test_what_is_no_request_is_refused_with_the_reason(frames: list[bytes], reason: str) -> None:
    with pytest.raises(InvalidMessage, match=reason):
        RequestMessage(frames)


def test_a_refusal_tells_the_id_if_it_can() -> None:
    with pytest.raises(InvalidMessage) as refused:
        RequestMessage(with_header(REQUEST, messageType="NOTHING"))
    assert refused.value.message_id == json.loads(REQUEST[2])["messageID"]
    with pytest.raises(InvalidMessage) as refused:
        RequestMessage([*REQUEST[:2], b"{", *REQUEST[3:]])
    assert refused.value.message_id == ""
    copy = pickle.loads(pickle.dumps(refused.value))
    assert (copy.args, copy.message_id) == (refused.value.args, "")


@given(st.lists(st.binary(max_size=200), max_size=7))
def test_no_bytes_do_anything_but_be_refused(frames: list[bytes]) -> None:
    for kind in (RequestMessage, ResponseMessage, EventMessage):
        with pytest.raises(InvalidMessage):
            kind(frames)


@given(st.data())
def test_a_damaged_header_is_read_or_refused(data: st.DataObject) -> None:
    header = bytearray(REQUEST[2])
    for _ in range(data.draw(st.integers(1, 4))):
        header[data.draw(st.integers(0, len(header) - 1))] = data.draw(st.integers(0, 255))
    try:
        message = RequestMessage([*REQUEST[:2], bytes(header), *REQUEST[3:]])
    except InvalidMessage:
        return
    assert RequestMessage(message.byte_array).header == message.header


@pytest.mark.parametrize("name", ["", "\0zero", "x" * 256, "\ud800"])
def test_what_cannot_be_an_id_is_not_sent(name: str) -> None:
    with pytest.raises(LocalProtocolError):
        RequestMessage.craft_with_message_type("me", name)


def test_a_message_has_a_type_of_its_kind() -> None:
    with pytest.raises(LocalProtocolError):
        RequestMessage.craft_with_message_type("a", "b", "REPLY")
    with pytest.raises(LocalProtocolError):
        ResponseMessage.craft_from_arguments("a", "b", "OPERATION")
    with pytest.raises(LocalProtocolError):
        EventMessage.craft_from_arguments("a", "b", "REPLY")


@pytest.mark.parametrize(
    "context",
    [
        {"invokationTimeout": -1},
        {"invocation_timeout": -1},
        {"oneway": "yes"},
        5,
        ServerExecutionContext(-1),
        ServerExecutionContext(1, -0.5),
        ServerExecutionContext(float("nan")),
        ServerExecutionContext("5"),  # type: ignore[arg-type]
    ],
)
def test_a_context_that_is_none_is_not_sent(context: Any) -> None:
    with pytest.raises(LocalProtocolError):
        RequestMessage.craft_from_arguments("a", "b", "", "", "", server_execution_context=context)


# payloads


@pytest.mark.parametrize(
    ("content_type", "value", "data"),
    [
        ("application/json", {"é": [1, None]}, '{"é":[1,null]}'.encode()),
        ("text/plain", "é", "é".encode()),
        ("application/octet-stream", b"\0\xff", b"\0\xff"),
        (None, 5, b"5"),
    ],
)
def test_serializers_that_are_there(content_type: str, value: Any, data: bytes) -> None:
    assert SerializableData(value, content_type=content_type).serialize() == data
    assert SerializableData(data, content_type=content_type).deserialize() == value


@pytest.mark.parametrize("content_type", ["application/x-pickle", "application/msgpack", "unknown", ""])
def test_others_are_not_there(content_type: str) -> None:
    data = SerializableData(5, content_type=content_type or "?")
    with pytest.raises(PayloadError, match="no serializer is registered"):
        data.serialize()
    with pytest.raises(PayloadError, match="no serializer is registered"):
        SerializableData(b"5", content_type=content_type or "?").deserialize()


def test_others_are_registered_by_the_program() -> None:
    class Msgpack:
        content_type = "application/msgpack"
        dumps = staticmethod(msgspec.msgpack.encode)
        loads = staticmethod(msgspec.msgpack.decode)

    Serializers.register(Msgpack())
    try:
        data = SerializableData({"a": 5}, content_type="application/msgpack").serialize()
        assert SerializableData(data, content_type="application/msgpack").deserialize() == {"a": 5}
        with pytest.raises(ValueError, match="registered already"):
            Serializers.register(Msgpack())
        Serializers.register(Msgpack(), override=True)
    finally:
        Serializers.unregister("application/msgpack")
    assert SerializableData([1], Msgpack()).serialize() == b"\x91\1", "or given with the value"


@pytest.mark.parametrize(
    ("data", "content_type"),
    [(b"{", "application/json"), (b"\xff", "text/plain"), (b"[" * 100000, "application/json")],
)
def test_bytes_of_another_type(data: bytes, content_type: str) -> None:
    with pytest.raises(PayloadError, match=f"the payload is not {content_type}"):
        SerializableData(data, content_type=content_type).deserialize()


@pytest.mark.parametrize(
    ("value", "content_type"), [(object(), "application/json"), (5, "text/plain"), (5, "application/octet-stream")]
)
def test_values_of_another_type(value: Any, content_type: str) -> None:
    with pytest.raises(PayloadError, match=f"the payload is not {content_type}"):
        SerializableData(value, content_type=content_type).serialize()


def test_a_payload_is_read_once() -> None:
    data = SerializableData(b"[1]")
    assert data.deserialize() is data.deserialize()


# results


def response(kind: str, payload: Any, data: bytes = b"") -> ResponseMessage:
    made = ResponseMessage.craft_from_arguments(
        "c", "s", kind, "1", SerializableData(payload), PreserializedData(data)
    )
    return ResponseMessage(made.byte_array)


def test_the_result_of_a_response() -> None:
    assert response("REPLY", [1]).result() == [1]
    assert response("REPLY", None, b"x").result() == b"x"
    assert response("REPLY", 5, b"x").result() == (5, b"x")
    with pytest.raises(OperationTimeout, match="invokation") as timeout:
        response("TIMEOUT", "invokation").result()
    assert timeout.value.message == "invokation"
    assert isinstance(timeout.value, TimeoutError)
    assert isinstance(pickle.loads(pickle.dumps(timeout.value)), OperationTimeout)


TOLD = {"message": "no", "type": "KeyError", "traceback": ["line"], "notes": ["n"]}


@pytest.mark.parametrize("payload", [TOLD, {"exception": TOLD}])
def test_the_exception_of_a_response(payload: Any) -> None:
    for kind in ("EXCEPTION", "INVALID_MESSAGE"):
        with pytest.raises(OperationFailed, match="^KeyError: no$") as failure:
            response(kind, payload).result()
        error = failure.value
        assert (error.type, error.message, error.traceback, error.notes) == ("KeyError", "no", ["line"], ["n"])
        assert pickle.loads(pickle.dumps(error)).notes == ["n"]


@pytest.mark.parametrize("payload", [None, "text", [], {}, {"exception": 5}, {"traceback": 5, "type": None}])
def test_an_exception_that_says_little(payload: Any) -> None:
    with pytest.raises(OperationFailed):
        response("EXCEPTION", payload).result()

"""What a server does, without a socket and a clock: order, timeouts, bounds, refusals, the end."""

from __future__ import annotations

import json
from typing import Any

import pytest

from packetwire.errors import LimitExceeded
from packetwire.hololinked import (
    PayloadError,
    PreserializedData,
    RequestMessage,
    ResponseMessage,
    SerializableData,
    ServerExecutionContext,
)
from packetwire.hololinked.servercore import ServerCore

SERVER = "server"


def request(sender: str = "client", value: Any = None, *, route: bytes | None = None, **times: Any) -> list[bytes]:
    """A request as the server's ROUTER receives it."""
    message = RequestMessage.craft_from_arguments(
        SERVER, sender, "thing", "object", "do", SerializableData(value), server_execution_context=times
    )
    return [route or sender.encode(), *message.byte_array[1:]]


def plain(kind: str, sender: str = "client") -> list[bytes]:
    return [sender.encode(), *RequestMessage.craft_with_message_type(sender, SERVER, kind).byte_array[1:]]


def answers(core: ServerCore) -> list[tuple[str, Any]]:
    """What is to be sent, by type and payload."""
    told = [ResponseMessage(frames) for frames in core.outbox]
    core.outbox.clear()
    return [(message.type, message.payload.deserialize()) for message in told]


def assert_nothing_left(core: ServerCore) -> None:
    assert core.pending == core.waiting == 0
    assert core.next_deadline() is None
    assert not core._per_client
    assert not core.outbox


def take(core: ServerCore, now: float = 0.0) -> RequestMessage:
    taken = core.take(now)
    assert taken is not None
    return taken


def test_requests_come_out_in_their_order_and_are_answered_once() -> None:
    core = ServerCore(SERVER)
    for number in range(3):
        core.receive(request(value=number), 0)
    taken = [take(core) for _ in range(3)]
    assert [each.payload.deserialize() for each in taken] == [0, 1, 2]
    assert core.take(0) is None
    for each in reversed(taken):
        assert core.respond(each, payload=SerializableData(each.payload.deserialize()))
        assert not core.respond(each)
        assert not core.failed(each, ValueError())
        assert not core.timed_out(each, "execution")
    assert answers(core) == [("REPLY", 2), ("REPLY", 1), ("REPLY", 0)]
    assert_nothing_left(core)


def test_the_answer_goes_to_the_socket_that_asked() -> None:
    core = ServerCore(SERVER)
    core.receive(request("somebody else", route=b"\1\2\3"), 0)
    core.respond(take(core))
    (frames,) = core.outbox
    assert frames[0] == b"\1\2\3"
    header = json.loads(frames[2])
    assert (header["receiverID"], header["senderID"]) == ("somebody else", SERVER)


@pytest.mark.parametrize("sender", ["\ud800", "", "x" * 300])
def test_the_name_of_a_sender_does_no_harm(sender: str) -> None:
    frames = request()
    header = json.loads(frames[2]) | {"senderID": sender}
    frames[2] = json.dumps(header).encode()
    core = ServerCore(SERVER)
    core.receive(frames, 0)
    if (taken := core.take(0)) is not None:
        core.respond(taken)
    assert [frames[0] for frames in core.outbox] == [b"client"]
    core.outbox.clear()
    assert_nothing_left(core)


def test_a_handshake_is_answered_at_once() -> None:
    core = ServerCore(SERVER)
    core.receive(plain("HANDSHAKE"), 0)
    assert answers(core) == [("HANDSHAKE", None)]
    assert_nothing_left(core)


# timeouts


def test_the_invokation_timeout() -> None:
    core = ServerCore(SERVER)
    core.receive(request(invokationTimeout=2, executionTimeout=9), 10)
    core.receive(request(invokationTimeout=1), 10)
    assert core.next_deadline() == 11
    core.expire(10.9)
    assert not core.outbox
    core.expire(11)
    assert answers(core) == [("TIMEOUT", "invokation")]
    assert core.next_deadline() == 12
    late = take(core, 11.5)
    assert core.next_deadline() == 20.5, "from now on the execution counts"
    core.respond(late)
    assert answers(core) == [("REPLY", None)]
    assert_nothing_left(core)


def test_the_execution_timeout() -> None:
    core = ServerCore(SERVER)
    core.receive(request(executionTimeout=1.5), 0)
    taken = take(core, 1)
    core.expire(2.5)
    assert answers(core) == [("TIMEOUT", "execution")]
    assert not core.respond(taken), "it is too late"
    assert_nothing_left(core)


def test_what_is_out_of_time_is_not_taken() -> None:
    core = ServerCore(SERVER)
    core.receive(request(invokationTimeout=0), 5)
    assert core.take(5) is None
    assert answers(core) == [("TIMEOUT", "invokation")]
    assert_nothing_left(core)


def test_no_timeout() -> None:
    core = ServerCore(SERVER)
    core.receive(request(invokationTimeout=None, executionTimeout=None), 0)
    assert core.next_deadline() is None
    taken = take(core, 1e9)
    assert core.next_deadline() is None
    assert core.respond(taken)


@pytest.mark.parametrize("then", ["respond", "fail", "time out", "let it wait"])
def test_one_way_means_no_answer(then: str) -> None:
    core = ServerCore(SERVER)
    core.receive(request(oneway=True, invokationTimeout=1), 0)
    if then == "let it wait":
        core.expire(2)
    else:
        taken = take(core)
        assert core.pending == 0, "it is done with"
        assert not {"respond": core.respond, "fail": lambda each: core.failed(each, ValueError())}.get(
            then, lambda each: core.timed_out(each, "execution")
        )(taken)
    assert_nothing_left(core)


# refusals


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        ([b"client"], "5 frames, this one 1"),
        (request()[:4], "5 frames, this one 4"),
        ([*request(), b"6"], "5 frames, this one 6"),
        ([*request()[:2], b"{]", b"", b""], "malformed"),
        ([*request()[:3], b"{", b""], "the payload is not application/json"),
        (
            [*request()[:2], request()[2].replace(b"application/json", b"application/x-pickle"), b"x", b""],
            "no serializer",
        ),
        (request(value="x" * 2000), "at most 1000 bytes"),
    ],
    ids=["one", "four", "six", "json", "payload", "type", "size"],
)
def test_what_is_refused_is_answered(frames: list[bytes], reason: str) -> None:
    core = ServerCore(SERVER, max_message_size=1000)
    core.receive(frames, 0)
    ((kind, told),) = answers(core)
    assert kind == "INVALID_MESSAGE"
    assert reason in told["exception"]["message"]
    assert told["exception"]["traceback"], "clients of the reference take its first line"
    assert core.refused == 1
    assert_nothing_left(core)


def test_the_refusal_has_the_id_of_what_it_refuses() -> None:
    core = ServerCore(SERVER)
    frames = request()[:4]
    core.receive(frames, 0)
    assert ResponseMessage(core.outbox[0]).id == json.loads(frames[2])["messageID"]


@pytest.mark.parametrize("kind", ["REPLY", "TIMEOUT", "EXCEPTION", "INVALID_MESSAGE"])
def test_a_response_is_never_answered(kind: str) -> None:
    """Otherwise two servers could go on for ever."""
    core = ServerCore(SERVER)
    core.receive(ResponseMessage.craft_from_arguments("a", "b", kind).byte_array, 0)
    assert core.refused == 1
    assert_nothing_left(core)


@pytest.mark.parametrize("content_type", ["unknown", "", None])
def test_an_empty_payload_of_an_unknown_type_is_none(content_type: str | None) -> None:
    frames = request()
    frames[2] = json.dumps(json.loads(frames[2]) | {"payloadContentType": content_type}).encode()
    frames[3] = b""
    core = ServerCore(SERVER)
    core.receive(frames, 0)
    assert take(core).payload.deserialize() is None


def test_an_empty_payload_of_a_known_type_has_to_be_of_it() -> None:
    """Or what takes the requests would fail there, and end."""
    frames = request()
    header = json.loads(frames[2])
    frames[3] = b""
    core = ServerCore(SERVER)
    core.receive(frames, 0)
    ((kind, told),) = answers(core)
    assert kind == "INVALID_MESSAGE"
    assert "the payload is not" in told["exception"]["message"]
    assert_nothing_left(core)
    for allowed in ("text/plain", "application/octet-stream"):
        frames[2] = json.dumps(header | {"payloadContentType": allowed}).encode()
        core.receive(frames, 0)
        assert not take(core).payload.deserialize()


# bounds


@pytest.mark.parametrize(
    ("bounds", "senders", "reason"),
    [
        ({"max_pending_per_client": 3}, ["a"] * 4, "the client has 3 requests"),
        ({"max_clients": 3}, ["a", "b", "a", "c", "d"], "requests of 3 clients"),
        ({"max_pending": 3}, ["a", "b", "c", "a"], "the server has 3 requests"),
    ],
)
def test_too_many_requests(bounds: dict[str, int], senders: list[str], reason: str) -> None:
    core = ServerCore(SERVER, **bounds)  # type: ignore[arg-type]
    for sender in senders:
        core.receive(request(sender), 0)
    ((kind, told),) = answers(core)
    assert (kind, told["type"]) == ("EXCEPTION", "LimitExceeded")
    assert reason in told["message"]
    assert core.pending == len(senders) - 1
    while (taken := core.take(0)) is not None:
        core.respond(taken)
    core.outbox.clear()
    core.receive(request(senders[-1]), 0)
    assert core.pending == 1, "there is room again"


def test_a_reply_that_is_too_long_is_not_sent() -> None:
    core = ServerCore(SERVER, max_message_size=1000)
    core.receive(request(), 0)
    taken = take(core)
    with pytest.raises(LimitExceeded):
        core.respond(taken, preserialized_payload=PreserializedData(bytes(1000)))
    with pytest.raises(PayloadError):
        core.respond(taken, payload=SerializableData(object()))
    assert core.failed(taken, ValueError("sorry"))
    assert [kind for kind, _ in answers(core)] == ["EXCEPTION"]
    assert_nothing_left(core)


# what is told of an exception


@pytest.mark.parametrize(
    ("detail", "told"),
    [
        ("none", ("Exception", "the operation failed")),
        ("message", ("KeyError", "'secret'")),
        ("traceback", ("KeyError", "'secret'")),
    ],
)
def test_what_is_told_of_an_exception(detail: str, told: tuple[str, str]) -> None:
    core = ServerCore(SERVER, error_detail=detail)
    core.receive(request(), 0)
    try:
        raise KeyError("secret")
    except KeyError as error:
        error.add_note("by the way")
        core.failed(take(core), error)
    ((kind, payload),) = answers(core)
    assert kind == "EXCEPTION"
    assert list(payload) == ["message", "type", "traceback", "notes"]
    assert (payload["type"], payload["message"]) == told
    assert payload["notes"] == (None if detail == "none" else ["by the way"])
    assert (__file__ in "".join(payload["traceback"])) == (detail == "traceback")
    assert ("secret" in str(payload)) == (detail != "none")


def test_another_detail_is_an_error() -> None:
    with pytest.raises(ValueError, match="error_detail"):
        ServerCore(SERVER, error_detail="all")


# EXIT


def test_exit_is_not_allowed() -> None:
    core = ServerCore(SERVER)
    core.receive(plain("EXIT"), 0)
    ((kind, told),) = answers(core)
    assert (kind, told["type"]) == ("EXCEPTION", "PermissionError")
    assert not core.exiting
    core.receive(request(), 0)
    assert core.take(0) is not None


def test_exit_waits_for_what_came_before() -> None:
    core = ServerCore(SERVER, allow_exit=True)
    core.receive(request(value=1), 0)
    core.receive(request(value=2), 0)
    first = take(core)
    core.receive(plain("EXIT"), 0)
    assert core.exiting
    core.receive(request(value=3), 0)
    ((kind, told),) = answers(core)
    assert (kind, told["message"]) == ("EXCEPTION", "the server is about to exit")
    second = take(core)
    core.respond(second)
    assert answers(core) == [("REPLY", None)]
    core.respond(first)
    assert answers(core) == [("REPLY", None), ("REPLY", None)], "the last one is for EXIT"
    assert_nothing_left(core)


def test_exit_of_an_idle_server() -> None:
    core = ServerCore(SERVER, allow_exit=True)
    core.receive(plain("EXIT"), 0)
    assert answers(core) == [("REPLY", None)]


def test_a_request_that_was_made_by_the_program() -> None:
    core = ServerCore(SERVER)
    own = RequestMessage.craft_from_arguments(
        SERVER, "client", "", "", "", server_execution_context=ServerExecutionContext()
    )
    assert not core.respond(own)
    assert core.invalid(own, ValueError("no"))
    assert [kind for kind, _ in answers(core)] == ["INVALID_MESSAGE"]

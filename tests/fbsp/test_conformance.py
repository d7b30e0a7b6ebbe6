"""The rules of the specification, by their numbers in docs/fbsp.md: at a service, and at a client."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from packetwire import LocalProtocolError
from packetwire.fbsp import (
    ErrorCode,
    FBSPClient,
    FBSPEventClient,
    MsgFlag,
    MsgType,
    ServiceError,
    State,
    StopError,
)
from packetwire.fbsp.protocol import LEAST_MAX_MESSAGE_SIZE
from packetwire.messaging import INVALID

from .carriers import SERVICES
from .fake import (
    CARRIER,
    HELLO_TOKEN,
    OTHER_PEER,
    OTHER_ROUTE,
    OTHER_TOKEN,
    ROUTE,
    TOKEN,
    Asking,
    CountAPI,
    EchoAPI,
    Serving,
    call,
    cancel,
    hello,
    make,
    request,
    welcome,
)
from .passing import GATEWAY

pytestmark = pytest.mark.usefixtures("carrier")

MORE, ACK_REQ, ACK_REPLY = MsgFlag.MORE, MsgFlag.ACK_REQ, MsgFlag.ACK_REPLY
ECHO, LATER = call(EchoAPI.ECHO), call(EchoAPI.LATER)
CLIENT_SENDS = ("HELLO", "NOOP", "REQUEST", "CANCEL", "DATA", "CLOSE")
SERVICE_SENDS = ("ERROR", "WELCOME", "NOOP", "REPLY", "DATA", "STATE", "CLOSE")
ACKNOWLEDGED = ("NOOP", "REQUEST", "REPLY", "DATA", "STATE")
ALL = [each for each in MsgType if each is not MsgType.UNKNOWN]


@pytest.fixture(params=["none", *SERVICES, GATEWAY])
def carrier(request: pytest.FixtureRequest) -> Iterator[str]:
    """As elsewhere, and with a gateway between a service and its clients."""
    with CARRIER.named(request.param):
        yield request.param


@pytest.fixture
def serving(carrier: str) -> Serving:
    serving = Serving()
    serving.connect()
    return serving


@pytest.fixture(params=[FBSPClient, FBSPEventClient], ids=["raw", "events"])
def asking(carrier: str, request: pytest.FixtureRequest) -> Asking:
    asking = Asking(request.param)
    asking.connect()
    return asking


def error_of(answers: list[Any]) -> tuple[int, MsgType, bytes]:
    """The code of the one answer, which is an ERROR; what it relates to; its token."""
    (error,) = answers
    assert error.msg_type is MsgType.ERROR
    return error.error_code, error.relates_to, error.token


def error(
    code: int = ErrorCode.ERROR,
    relates_to: MsgType = MsgType.REQUEST,
    token: bytes = TOKEN,
    flags: MsgFlag = MsgFlag.NONE,
) -> Any:
    msg = make(MsgType.ERROR, token, flags=flags)
    msg.error_code = code
    msg.relates_to = relates_to
    return msg


def state(
    value: State = State.RUNNING, flags: MsgFlag = MsgFlag.NONE, code: int = ECHO, token: bytes = TOKEN
) -> Any:
    msg = make(MsgType.STATE, token, code, flags)
    msg.state = value
    return msg


def reply(flags: MsgFlag = MsgFlag.NONE, code: int = ECHO, token: bytes = TOKEN) -> Any:
    return make(MsgType.REPLY, token, code, flags, [b"r"])


def data(flags: MsgFlag = MsgFlag.NONE, token: bytes = TOKEN) -> Any:
    return make(MsgType.DATA, token, 0, flags, [b"d"])


def any_message(msg_type: MsgType, flags: MsgFlag = MsgFlag.NONE) -> Any:
    """A message of a type that is right in itself."""
    made = {
        MsgType.HELLO: hello,
        MsgType.WELCOME: welcome,
        MsgType.CANCEL: cancel,
        MsgType.ERROR: error,
        MsgType.STATE: state,
    }.get(msg_type, lambda: make(msg_type, TOKEN, ECHO if msg_type in (MsgType.REQUEST, MsgType.REPLY) else 0))()
    made.flags = flags
    return made


# Connection


@pytest.mark.parametrize("msg_type", [each for each in ALL if each.name not in ("HELLO", "CLOSE", "ERROR")])
def test_1_service_takes_only_hello_first(msg_type: MsgType) -> None:
    serving = Serving()
    msg = any_message(msg_type)
    assert error_of(serving.say(msg)) == (ErrorCode.PROTOCOL_VIOLATION, msg_type, msg.token)
    assert serving.channel.sessions == {}


@pytest.mark.parametrize("msg_type", ALL)
def test_1_service_is_not_answered_by_a_stranger(msg_type: MsgType) -> None:
    """What is left of a session that has ended asks for no answer, and begins no session."""
    serving = Serving()
    assert serving.say(any_message(msg_type, ACK_REPLY)) == []
    assert serving.say(make(MsgType.CLOSE)) == []
    assert serving.say(error()) == []
    assert serving.channel.sessions == {}


def test_1_client_begins_with_hello() -> None:
    asking = Asking()
    for msg in (request(), make(MsgType.NOOP), data(), cancel()):
        with pytest.raises(LocalProtocolError, match="before the service has answered HELLO"):
            asking.send(msg)
    assert [each.msg_type for each in asking.send(hello())] == [MsgType.HELLO]


def test_2_service_answers_hello_by_welcome() -> None:
    serving = Serving()
    (answer,) = serving.say(hello())
    assert (answer.msg_type, answer.token) == (MsgType.WELCOME, HELLO_TOKEN)
    assert answer.data == serving.service.welcome_df
    assert serving.session().greeting.msg_type is MsgType.HELLO


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (StopError("no", code=ErrorCode.FORBIDDEN), ErrorCode.FORBIDDEN),
        (StopError("no"), ErrorCode.ERROR),
        (StopError("no", code=5000), ErrorCode.INTERNAL_ERROR),
        (ValueError("oh"), ErrorCode.INTERNAL_ERROR),
    ],
)
def test_2_service_refuses_by_error(raised: Exception, code: ErrorCode) -> None:
    serving = Serving()

    def refuse(channel: Any, msg: Any) -> None:
        raise raised

    serving.service.on_accept_client = refuse
    assert error_of(serving.say(hello())) == (code, MsgType.HELLO, HELLO_TOKEN)
    assert serving.channel.sessions == {}
    serving.service.on_accept_client = None
    serving.connect()


def test_2_client_is_refused_and_may_try_again() -> None:
    asking = Asking()
    asking.send(hello())
    refusal = error(ErrorCode.FORBIDDEN, MsgType.HELLO, HELLO_TOKEN)
    assert asking.hear(refusal).error_code is ErrorCode.FORBIDDEN
    with pytest.raises(LocalProtocolError):
        asking.send(request())
    asking.connect()
    asking.ask()


def test_3_client_asks_after_welcome_only() -> None:
    asking = Asking()
    asking.send(hello())
    with pytest.raises(LocalProtocolError):
        asking.send(request())
    assert asking.hear(reply()) is INVALID
    assert "expecting WELCOME, not REPLY" in str(asking.refused[0])
    assert asking.hear(welcome()).msg_type is MsgType.WELCOME
    assert [each.msg_type for each in asking.send(request())] == [MsgType.REQUEST]


def test_4_service_sends_nothing_after_close(serving: Serving) -> None:
    serving.say(request(EchoAPI.LATER))
    session = serving.session()
    assert serving.say(make(MsgType.CLOSE, HELLO_TOKEN)) == []
    assert serving.channel.sessions == {}
    (closed,) = serving.events
    assert (closed[0], closed[1].msg_type, closed[2]) == ("on_session_closed", MsgType.CLOSE, None)
    serving.channel.send(reply(code=LATER), session)
    assert serving.take() == []


def test_4_service_closes(serving: Serving) -> None:
    serving.connect(OTHER_PEER, OTHER_ROUTE)
    serving.service.close(serving.channel)
    for route in (ROUTE, OTHER_ROUTE):
        (msg,) = serving.take(route)
        assert (msg.msg_type, msg.token) == (MsgType.CLOSE, HELLO_TOKEN)
    assert serving.channel.sessions == {}
    assert [(name, msg.msg_type) for name, msg, _ in serving.events] == [("on_session_closed", MsgType.HELLO)] * 2
    serving.connect()


def test_4_client_sends_nothing_after_close(asking: Asking) -> None:
    assert asking.hear(make(MsgType.CLOSE, HELLO_TOKEN)) is not INVALID
    assert asking.channel.sessions == {}
    assert asking.send(make(MsgType.NOOP, flags=ACK_REPLY)) == []
    with pytest.raises(LocalProtocolError, match="the session is closed"):
        asking.send(request())


def test_4_client_closes(asking: Asking) -> None:
    asking.client.send_close(asking.channel, asking.session)
    (msg,) = asking.take()
    assert (msg.msg_type, msg.token) == (MsgType.CLOSE, HELLO_TOKEN)
    assert asking.channel.sessions == {}
    asking.client.send_close(asking.channel, asking.session)
    assert asking.take() == []


def test_5_service_ends_a_session_with_its_link(serving: Serving) -> None:
    cause = OSError("lost")
    session = serving.session()
    serving.channel.lose_session(session, cause)
    (closed,) = serving.events
    assert (closed[0], closed[1], closed[2]) == ("on_session_closed", session.greeting, cause)
    serving.connect()


def test_5_client_ends_a_session_with_its_link() -> None:
    asking = Asking(FBSPEventClient)
    asking.connect()
    told: list[Any] = []
    asking.client.on_session_closed = lambda *args: told.append(args[2:])  # type: ignore[attr-defined]
    cause = OSError("lost")
    greeting = asking.session.greeting
    asking.channel.lose_session(asking.session, cause)
    assert told == [(greeting, cause)]
    with pytest.raises(LocalProtocolError):
        asking.send(request())


# Identity


def test_6_service_refuses_an_identity_on_another_route(serving: Serving) -> None:
    code, related, token = error_of(serving.say(hello(token=OTHER_TOKEN), OTHER_ROUTE))
    assert (code, related, token) == (ErrorCode.CONFLICT, MsgType.HELLO, OTHER_TOKEN)
    assert list(serving.channel.sessions) == [ROUTE]
    serving.say(make(MsgType.CLOSE, HELLO_TOKEN))
    serving.connect(route=OTHER_ROUTE)


def test_6_service_answers_a_repeated_hello(serving: Serving) -> None:
    serving.say(request(EchoAPI.LATER))
    session = serving.session()
    (again,) = serving.say(hello(token=OTHER_TOKEN))
    assert (again.msg_type, again.token) == (MsgType.WELCOME, OTHER_TOKEN)
    assert serving.session() is session
    assert [each.msg_type for each in serving.send(reply(code=LATER))] == [MsgType.REPLY]


def test_6_service_lets_another_client_have_the_route(serving: Serving) -> None:
    former = serving.session()
    (answer,) = serving.say(hello(OTHER_PEER))
    assert answer.msg_type is MsgType.WELCOME
    assert former.closed
    assert serving.session().partner_uid == OTHER_PEER.uid
    assert serving.events[0][0] == "on_session_closed"
    serving.connect(route=OTHER_ROUTE)


def test_6_client_knows_the_service(asking: Asking) -> None:
    assert asking.session.partner_uid == uuid.UUID(int=1)
    asking.send(hello())
    assert asking.hear(welcome()) is not INVALID


# Header


@pytest.mark.parametrize("number", [0, *range(10, 31)])
def test_7_invalid_types(serving: Serving, asking: Asking, number: int) -> None:
    frames = [b"FBSP" + bytes((number << 3 | 1, 0, 0, 0)) + TOKEN]
    assert error_of(serving.say(frames)) == (ErrorCode.INVALID_MESSAGE, MsgType.UNKNOWN, TOKEN)
    assert serving.events[-1][0] == "on_invalid_msg"
    assert asking.hear(frames) is INVALID
    assert f"no message type {number}" in str(asking.refused[0])
    assert serving.say(request()), "the session lives on"
    asking.ask()


@pytest.mark.parametrize("msg_type", [each for each in ALL if each.name not in CLIENT_SENDS])
def test_8_service_refuses_what_a_client_does_not_send(serving: Serving, msg_type: MsgType) -> None:
    msg = any_message(msg_type)
    answers = serving.say(msg)
    if msg_type is MsgType.ERROR:
        assert answers == [], "an ERROR is never answered by an ERROR"
    else:
        assert error_of(answers) == (ErrorCode.PROTOCOL_VIOLATION, msg_type, msg.token)
    assert serving.events[-1][0] == "on_exception"


@pytest.mark.parametrize("msg_type", [each for each in ALL if each.name not in SERVICE_SENDS])
def test_8_client_refuses_what_a_service_does_not_send(asking: Asking, msg_type: MsgType) -> None:
    assert asking.hear(any_message(msg_type)) is INVALID
    assert asking.take() == []


@pytest.mark.parametrize("msg_type", [each for each in ALL if each.name not in SERVICE_SENDS])
def test_8_service_does_not_send_it(serving: Serving, msg_type: MsgType) -> None:
    with pytest.raises(LocalProtocolError, match=f"a service does not send {msg_type.name}"):
        serving.send(any_message(msg_type))


@pytest.mark.parametrize("msg_type", [each for each in ALL if each.name not in CLIENT_SENDS])
def test_8_client_does_not_send_it(asking: Asking, msg_type: MsgType) -> None:
    with pytest.raises(LocalProtocolError, match=f"a client does not send {msg_type.name}"):
        asking.send(any_message(msg_type))


# Token


def test_9_service_returns_the_token(serving: Serving) -> None:
    serving.say(request(EchoAPI.LATER, OTHER_TOKEN))
    (kept,) = serving.kept
    service = serving.service
    for msg in (
        service.create_reply_for(kept),
        service.create_state_for(kept, State.RUNNING),
        service.create_error_for(kept, ErrorCode.GONE),
        service.create_data_for(kept),
        service.create_ack_reply(kept),
    ):
        assert msg.token == OTHER_TOKEN
    assert (
        service.create_reply_for(kept).type_data == service.create_state_for(kept, State.READY).type_data == LATER
    )


def test_9_service_refuses_a_token_in_use(serving: Serving) -> None:
    serving.say(request(EchoAPI.LATER))
    assert error_of(serving.say(request(EchoAPI.LATER))) == (
        ErrorCode.PROTOCOL_VIOLATION,
        MsgType.REQUEST,
        HELLO_TOKEN,
    )
    assert len(serving.kept) == 1
    assert [each.msg_type for each in serving.send(reply(code=LATER))] == [MsgType.REPLY], "the first goes on"
    assert [each.msg_type for each in serving.say(request())] == [MsgType.REPLY], "the token is free again"


def test_9_client_uses_a_token_once_at_a_time(asking: Asking) -> None:
    asking.ask()
    with pytest.raises(LocalProtocolError, match="belongs to a request"):
        asking.ask(EchoAPI.LATER)
    asking.ask(EchoAPI.LATER, OTHER_TOKEN)
    asking.hear(reply())
    asking.ask()


def test_9_client_refuses_answers_to_no_request(asking: Asking) -> None:
    for msg in (reply(), state()):
        assert asking.hear(msg) is INVALID
        assert "which no request had" in str(asking.refused.pop())
    asking.send(hello(token=OTHER_TOKEN))
    assert asking.hear(welcome()) is INVALID
    assert "which no HELLO had" in str(asking.refused.pop())


# HELLO and WELCOME

MANDATORY = ("uid", "pid", "host")
OF_AGENTS = ("uid", "name", "version", "vendor.uid", "platform.uid", "platform.version")


def without(msg: Any, path: str) -> Any:
    """The message without one field."""
    where, _, field = path.rpartition(".")
    part = msg.data
    for name in where.split("."):
        part = getattr(part, name)
    part.ClearField(field)
    return msg


@pytest.mark.parametrize(
    "path", [f"instance.{field}" for field in MANDATORY] + [f"client.{field}" for field in OF_AGENTS]
)
def test_10_service_refuses_an_incomplete_hello(path: str) -> None:
    serving = Serving()
    (answer,) = serving.say(without(hello(), path))
    assert error_of([answer]) == (ErrorCode.INVALID_MESSAGE, MsgType.HELLO, HELLO_TOKEN)
    assert answer.errors[0].description == f"HELLO: {path} is missing"
    assert serving.channel.sessions == {}


def test_10_service_refuses_an_incomplete_hello_that_is_repeated(serving: Serving) -> None:
    answers = serving.say(without(hello(), "client.name"))
    assert error_of(answers) == (ErrorCode.INVALID_MESSAGE, MsgType.HELLO, HELLO_TOKEN)
    assert serving.say(request())


@pytest.mark.parametrize(
    "path", [f"instance.{field}" for field in MANDATORY] + [f"service.{field}" for field in OF_AGENTS]
)
def test_10_client_refuses_an_incomplete_welcome(path: str) -> None:
    asking = Asking()
    asking.send(hello())
    assert asking.hear(without(welcome(), path)) is INVALID
    assert str(asking.refused[0]) == f"WELCOME: {path} is missing"
    assert asking.session.greeting is None
    assert asking.hear(welcome()) is not INVALID


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda api: api.pop() and api.pop(), "api is missing"),
        (lambda api: setattr(api[0], "uid", b"short"), "api.uid has 5 bytes, not 16"),
        (lambda api: setattr(api[0], "number", 256), "api.number is 256"),
        (lambda api: setattr(api[0], "number", 2), "two interfaces have the same number"),
    ],
)
def test_10_client_refuses_interfaces_that_it_cannot_use(spoil: Any, text: str) -> None:
    asking = Asking()
    asking.send(hello())
    msg = welcome()
    spoil(msg.data.api)
    assert asking.hear(msg) is INVALID
    assert str(asking.refused[0]) == f"WELCOME: {text}"


def test_10_what_we_say_is_complete() -> None:
    """A HELLO or WELCOME of ours is taken by the other side, which checks it."""
    serving, asking = Serving(), Asking()
    asking.send(hello())
    (answer,) = serving.say(hello())
    assert asking.hear(answer) is not INVALID
    assert {uuid.UUID(bytes=each.uid) for each in answer.data.api} == {EchoAPI.get_uid(), CountAPI.get_uid()}


# NOOP


def test_11_noop(serving: Serving, asking: Asking) -> None:
    assert serving.say(make(MsgType.NOOP, TOKEN, 77)) == []
    (answer,) = serving.say(make(MsgType.NOOP, TOKEN, 77, ACK_REQ))
    assert answer.as_zmsg() == make(MsgType.NOOP, TOKEN, 77, ACK_REPLY).as_zmsg()
    assert serving.events == [("on_noop",)] * 2
    asking.hear(make(MsgType.NOOP, HELLO_TOKEN, 78))
    assert asking.take() == []
    asking.hear(make(MsgType.NOOP, HELLO_TOKEN, 78, ACK_REQ))
    (answer,) = asking.take()
    assert answer.as_zmsg() == make(MsgType.NOOP, HELLO_TOKEN, 78, ACK_REPLY).as_zmsg()
    with_data = [*make(MsgType.NOOP).as_zmsg(), b""]
    assert error_of(serving.say(with_data))[0] is ErrorCode.INVALID_MESSAGE
    assert asking.hear(with_data) is INVALID


# REQUEST and REPLY


def test_12_service_answers_by_reply_or_error(serving: Serving) -> None:
    (answer,) = serving.say(request(data=[b"a", b"", b"b"]))
    assert (answer.msg_type, answer.token, answer.type_data) == (MsgType.REPLY, TOKEN, ECHO)
    assert answer.data == [b"a", b"", b"b"]

    def fail(channel: Any, session: Any, msg: Any, protocol: Any) -> None:
        raise StopError("full", code=ErrorCode.INSUFFICIENT_STORAGE)

    serving.service.register_api_handler(EchoAPI.ECHO, fail)
    (answer,) = serving.say(request())
    assert error_of([answer]) == (ErrorCode.INSUFFICIENT_STORAGE, MsgType.REQUEST, TOKEN)
    assert [(each.code, each.description) for each in answer.errors] == [(16, "full")]


@pytest.mark.parametrize("detail", ["none", "message", "traceback"])
def test_12_what_a_client_is_told_of_a_fault(detail: str, caplog: pytest.LogCaptureFixture) -> None:
    serving = Serving(error_detail=detail)
    serving.connect()

    def fail(channel: Any, session: Any, msg: Any, protocol: Any) -> None:
        raise ValueError("boom")

    serving.service.register_api_handler(EchoAPI.ECHO, fail)
    (answer,) = serving.say(request())
    assert answer.error_code is ErrorCode.INTERNAL_ERROR
    (told,) = answer.errors
    assert told.description == ("the request failed" if detail == "none" else "boom")
    assert list(told.annotation) == {"none": [], "message": ["exception"], "traceback": ["traceback"]}[detail]
    (record,) = caplog.records
    assert record.exc_info


def test_12_client_gets_reply_or_error(asking: Asking) -> None:
    asking.ask()
    assert asking.hear(reply()) is not INVALID
    asking.ask(token=OTHER_TOKEN)
    assert asking.hear(error(token=OTHER_TOKEN)) is not INVALID
    assert asking.session.requests == {}


def test_13_service_replies_once(serving: Serving) -> None:
    serving.say(request(EchoAPI.LATER))
    serving.send(reply(code=LATER))
    with pytest.raises(LocalProtocolError, match="REPLY must not be sent for a request that is replied to"):
        serving.send(reply(code=LATER))
    with pytest.raises(LocalProtocolError, match="which no request has"):
        serving.send(reply(token=OTHER_TOKEN))


def test_13_service_replies_to_the_call_that_was_asked(serving: Serving) -> None:
    serving.say(request(EchoAPI.LATER))
    with pytest.raises(LocalProtocolError, match="REPLY for call 0x0101, the request was 0x0102"):
        serving.send(reply(code=ECHO))


def test_13_service_sends_data_after_the_reply_only(serving: Serving) -> None:
    serving.say(request(EchoAPI.LATER))
    with pytest.raises(LocalProtocolError, match="DATA must not be sent for a request that is open"):
        serving.send(data())
    serving.send(state(code=LATER))
    serving.send(reply(MORE, LATER))
    assert serving.send(data(MORE))
    assert serving.send(state(code=LATER))
    assert serving.send(data())
    with pytest.raises(LocalProtocolError, match="with the token"):
        serving.send(data(token=OTHER_TOKEN))
    assert serving.send(data(token=HELLO_TOKEN)), "DATA that belongs to no request"


def test_13_client_refuses_a_second_reply(asking: Asking) -> None:
    asking.ask()
    assert asking.hear(reply()) is not INVALID
    assert asking.hear(reply()) is INVALID
    assert str(asking.refused[0]) == "REPLY for a request that is replied to"


def test_13_client_refuses_a_reply_to_another_call(asking: Asking) -> None:
    asking.ask()
    for msg in (reply(code=LATER), state(code=LATER)):
        assert asking.hear(msg) is INVALID
        assert "for call 0x0102 answers call 0x0101" in str(asking.refused.pop())
    assert TOKEN in asking.session.requests


def test_13_client_takes_data_and_state_in_either_order(asking: Asking) -> None:
    asking.ask()
    for msg in (data(MORE), state(), reply(MORE), state(), data(MORE), data(), state(State.FINISHED), data()):
        assert asking.hear(msg) is not INVALID, asking.refused


def test_14_an_error_ends_the_request(serving: Serving, asking: Asking) -> None:
    serving.say(request(EchoAPI.LATER))
    serving.service.send_error(serving.channel, serving.session(), serving.kept[0], ErrorCode.GONE)
    assert error_of(serving.take()) == (ErrorCode.GONE, MsgType.REQUEST, TOKEN)
    for late in (
        reply(code=LATER),
        state(code=LATER),
        data(),
        error(),
        serving.service.create_ack_reply(request()),
    ):
        assert serving.send(late) == []
    asking.ask()
    assert asking.hear(error()) is not INVALID
    for late in (reply(), state(), data()):
        assert asking.hear(late) is INVALID
        assert "for a request that is failed" in str(asking.refused.pop())
    asking.ask()


def test_14_an_error_about_something_else_does_not(serving: Serving, asking: Asking) -> None:
    serving.say(request(EchoAPI.LATER))
    serving.service.send_error(serving.channel, serving.session(), make(MsgType.NOOP), ErrorCode.ERROR)
    serving.take()
    assert serving.send(reply(code=LATER))
    asking.ask()
    assert asking.hear(error(relates_to=MsgType.NOOP)) is not INVALID
    assert TOKEN in asking.session.requests


@pytest.mark.parametrize(
    ("last", "ends"),
    [
        (data(), True),
        (data(MORE), False),
        (state(State.FINISHED, code=LATER), True),
        (state(State.ABORTED, code=LATER), True),
        (state(State.FINISHED, MORE, LATER), False),
        (state(State.RUNNING, code=LATER), False),
        (error(), True),
    ],
    ids=["DATA", "DATA with MORE", "FINISHED", "ABORTED", "FINISHED with MORE", "RUNNING", "ERROR"],
)
def test_15_the_end_of_a_stream(serving: Serving, asking: Asking, last: Any, ends: bool) -> None:
    serving.say(request(EchoAPI.LATER))
    serving.send(reply(MORE, LATER))
    assert serving.send(last)
    assert (serving.session().requests == {}) is ends
    asking.ask(EchoAPI.LATER)
    asking.hear(reply(MORE, LATER))
    asking.hear(last)
    assert (asking.session.requests == {}) is ends


def test_15_a_stream_without_more(serving: Serving) -> None:
    """MORE is only recommended: what an interface sends after a REPLY without it is let through."""
    serving.say(request(EchoAPI.LATER))
    serving.send(reply(code=LATER))
    assert [len(serving.send(msg)) for msg in (data(), data(), state(State.FINISHED, code=LATER))] == [1, 1, 1]


def test_16_requests_run_side_by_side(serving: Serving, asking: Asking) -> None:
    serving.say(request(EchoAPI.LATER))
    assert [each.token for each in serving.say(request(EchoAPI.ECHO, OTHER_TOKEN))] == [OTHER_TOKEN]
    assert [each.token for each in serving.send(reply(code=LATER))] == [TOKEN]
    asking.ask()
    asking.ask(EchoAPI.LATER, OTHER_TOKEN)
    asking.hear(reply(code=LATER, token=OTHER_TOKEN))
    assert list(asking.session.requests) == [TOKEN]


def test_16_service_bounds_them() -> None:
    serving = Serving(max_requests=2)
    serving.connect()
    serving.say(request(EchoAPI.LATER, b"token--1"))
    serving.say(request(EchoAPI.LATER, b"token--2"))
    refused = error_of(serving.say(request(EchoAPI.LATER, b"token--3")))
    assert refused == (ErrorCode.TOO_MANY_REQUESTS, MsgType.REQUEST, b"token--3")
    serving.send(reply(code=LATER, token=b"token--1"))
    assert serving.say(request(EchoAPI.ECHO, b"token--3"))[0].msg_type is MsgType.REPLY


def test_17_data_of_the_client(serving: Serving, asking: Asking) -> None:
    assert error_of(serving.say(data())) == (ErrorCode.PROTOCOL_VIOLATION, MsgType.DATA, TOKEN)
    got: list[Any] = []
    serving.service.on_data = lambda channel, session, msg: got.append((msg.token, msg.data))
    serving.say(request(EchoAPI.LATER))
    for msg in (data(MORE), data(), data(token=OTHER_TOKEN)):
        assert serving.say(msg) == []
    assert got == [(TOKEN, [b"d"]), (TOKEN, [b"d"]), (OTHER_TOKEN, [b"d"])]
    asking.ask()
    assert [len(asking.send(msg)) for msg in (data(MORE), data(token=OTHER_TOKEN))] == [1, 1]


# CANCEL


def stopping(serving: Serving, raised: Exception | None = None) -> list[bytes]:
    """Let the service cancel, or fail to; the tokens that it was asked for."""
    stopped: list[bytes] = []

    def on_cancel(channel: Any, session: Any, msg: Any) -> None:
        stopped.append(msg.request.token)
        if raised is not None:
            raise raised

    serving.service.on_cancel = on_cancel
    return stopped


@pytest.mark.parametrize("raised", [None, StopError("cancelled", code=ErrorCode.REQUEST_CANCELLED)])
def test_18_service_sends_nothing_for_a_cancelled_request(serving: Serving, raised: Exception | None) -> None:
    stopped = stopping(serving, raised)
    serving.say(request(EchoAPI.LATER, flags=ACK_REQ))
    assert error_of(serving.say(cancel())) == (ErrorCode.REQUEST_CANCELLED, MsgType.CANCEL, OTHER_TOKEN)
    assert stopped == [TOKEN]
    kept = serving.kept[0]
    for late in (reply(code=LATER), state(code=LATER), data(), error(), serving.service.create_ack_reply(kept)):
        assert serving.send(late) == []
    assert serving.say(request(EchoAPI.ECHO))[0].msg_type is MsgType.REPLY, "the token is free again"


def test_18_a_cancel_may_have_the_token_of_its_request(serving: Serving) -> None:
    stopping(serving)
    serving.say(request(EchoAPI.LATER))
    assert error_of(serving.say(cancel(TOKEN, TOKEN))) == (ErrorCode.REQUEST_CANCELLED, MsgType.CANCEL, TOKEN)
    assert serving.send(reply(code=LATER)) == []
    assert error_of(serving.say(cancel(TOKEN, TOKEN))) == (ErrorCode.NOT_FOUND, MsgType.CANCEL, TOKEN)


@pytest.mark.parametrize("token", [TOKEN, OTHER_TOKEN])
def test_18_client_takes_the_confirmation_under_either_token(asking: Asking, token: bytes) -> None:
    asking.ask()
    asking.send(cancel())
    assert asking.hear(error(ErrorCode.REQUEST_CANCELLED, MsgType.CANCEL, token)) is not INVALID
    assert asking.session.requests == {}
    assert asking.hear(reply()) is INVALID
    assert "a request that is cancelled" in str(asking.refused[0])


def test_18_a_reply_may_overtake_the_cancel(asking: Asking) -> None:
    asking.ask()
    asking.send(cancel())
    assert asking.hear(reply()) is not INVALID
    assert asking.hear(error(ErrorCode.NOT_FOUND, MsgType.CANCEL, OTHER_TOKEN)) is not INVALID


def test_19_service_answers_every_cancel(serving: Serving) -> None:
    serving.say(request(EchoAPI.LATER))
    assert error_of(serving.say(cancel())) == (ErrorCode.NOT_IMPLEMENTED, MsgType.CANCEL, OTHER_TOKEN)
    stopping(serving, StopError("too late", code=ErrorCode.CONFLICT))
    assert error_of(serving.say(cancel())) == (ErrorCode.CONFLICT, MsgType.CANCEL, OTHER_TOKEN)
    assert serving.send(state(code=LATER)), "it goes on"
    stopped = stopping(serving)
    answer = error_of(serving.say(cancel(b"no--such")))
    assert answer == (ErrorCode.NOT_FOUND, MsgType.CANCEL, OTHER_TOKEN)
    assert stopped == []
    assert serving.send(reply(code=LATER))


def test_19_service_does_not_cancel_what_ends_meanwhile(serving: Serving) -> None:
    def answer_first(channel: Any, session: Any, msg: Any) -> None:
        channel.send(reply(code=LATER), session)

    serving.service.on_cancel = answer_first
    serving.say(request(EchoAPI.LATER))
    answer, refusal = serving.say(cancel())
    assert answer.msg_type is MsgType.REPLY
    assert error_of([refusal])[0] is ErrorCode.NOT_FOUND


def test_19_a_failed_cancel_leaves_the_request(asking: Asking) -> None:
    asking.ask()
    asking.send(cancel())
    for token in (OTHER_TOKEN, TOKEN):
        asking.hear(error(ErrorCode.NOT_IMPLEMENTED, MsgType.CANCEL, token))
        assert TOKEN in asking.session.requests
    assert asking.session.cancels == {}


# STATE


def test_20_state_belongs_to_a_request(serving: Serving, asking: Asking) -> None:
    with pytest.raises(LocalProtocolError, match="which no request has"):
        serving.send(state(token=HELLO_TOKEN))
    serving.say(request(EchoAPI.LATER))
    with pytest.raises(LocalProtocolError, match="STATE for call 0x0101"):
        serving.send(state(code=ECHO))
    assert serving.send(state(code=LATER))[0].state is State.RUNNING
    assert asking.hear(state(token=HELLO_TOKEN)) is INVALID
    asking.ask()
    assert asking.hear(state()) is not INVALID


# ERROR


def test_21_errors_are_not_answered(serving: Serving, asking: Asking) -> None:
    assert serving.say(error()) == []
    broken = [*error().as_zmsg(), b"\x0a\x7f"]
    assert serving.say(broken) == []
    for msg in (error(relates_to=MsgType.UNKNOWN, token=HELLO_TOKEN), broken, reply(), request()):
        asking.hear(msg)
        assert asking.take() == []


def test_21_an_error_without_relation_is_taken(asking: Asking) -> None:
    asking.ask()
    asking.hear(error(relates_to=MsgType.UNKNOWN, token=HELLO_TOKEN))
    assert TOKEN in asking.session.requests
    asking.hear(error(relates_to=MsgType.UNKNOWN))
    assert asking.session.requests == {}
    assert asking.refused == []


# Flags


@pytest.mark.parametrize("msg_type", [each for each in ALL if each.name in CLIENT_SENDS])
def test_22_service_acknowledges_what_counts(serving: Serving, msg_type: MsgType) -> None:
    msg = any_message(msg_type, ACK_REQ)
    acknowledged = [each for each in serving.say(msg) if each.has_ack_reply()]
    # DATA is acknowledged by its handler, here there is none
    assert bool(acknowledged) is (msg_type in (MsgType.NOOP, MsgType.REQUEST))


@pytest.mark.parametrize("msg_type", [each for each in ALL if each.name in SERVICE_SENDS])
def test_22_client_acknowledges_what_counts(msg_type: MsgType) -> None:
    asking = Asking(FBSPEventClient)
    asking.connect()
    asking.ask()
    asking.hear(any_message(msg_type, ACK_REQ))
    acknowledged = [each for each in asking.take() if each.has_ack_reply()]
    assert bool(acknowledged) is (msg_type.name in ACKNOWLEDGED)


@pytest.mark.parametrize("msg_type", ALL)
def test_22_acknowledgements_of_what_does_not_count(serving: Serving, asking: Asking, msg_type: MsgType) -> None:
    msg = make(msg_type, TOKEN, flags=ACK_REPLY)
    if msg_type.name not in ACKNOWLEDGED:
        for side in (serving, asking):
            with pytest.raises(LocalProtocolError, match="is not acknowledged"):
                side.send(msg)  # type: ignore[attr-defined]
    of_service = msg_type.name in ACKNOWLEDGED and msg_type.name in SERVICE_SENDS
    of_client = msg_type.name in ACKNOWLEDGED and msg_type.name in CLIENT_SENDS
    serving.say(msg)
    assert [each[0] for each in serving.events] == ["on_ack_received" if of_service else "on_exception"]
    assert (asking.hear(msg) is INVALID) is not of_client


@pytest.mark.parametrize("flags", [ACK_REQ, ACK_REQ | MORE])
@pytest.mark.parametrize("msg_type", ALL)
def test_23_an_acknowledgement_is_the_header_alone(serving: Serving, msg_type: MsgType, flags: MsgFlag) -> None:
    msg = any_message(msg_type, flags)
    frames = serving.service.create_ack_reply(msg).as_zmsg()
    header = bytearray(msg.get_header())
    header[5] = header[5] & ~ACK_REQ | ACK_REPLY
    assert frames == [bytes(header)]
    assert serving.service.convert_msg(frames).has_more() is bool(flags & MORE)


def test_24_requests_are_acknowledged_before_they_are_answered(serving: Serving) -> None:
    (acknowledgement, answer) = serving.say(request(flags=ACK_REQ | MORE, data=[b"x"]))
    assert acknowledgement.as_zmsg() == make(MsgType.REQUEST, TOKEN, ECHO, ACK_REPLY | MORE).as_zmsg()
    assert answer.msg_type is MsgType.REPLY
    assert [each.msg_type for each in serving.say(request())] == [MsgType.REPLY]


def test_24_a_handler_acknowledges_once(serving: Serving) -> None:
    assert serving.say(request(EchoAPI.LATER, flags=ACK_REQ)) == []
    acknowledgement = serving.service.create_ack_reply(serving.kept[0])
    assert len(serving.send(acknowledgement)) == 1
    with pytest.raises(LocalProtocolError, match="no acknowledgement of this request is owed"):
        serving.send(acknowledgement)
    assert [each.msg_type for each in serving.send(state(code=LATER))] == [MsgType.STATE]
    serving.say(request(EchoAPI.LATER, OTHER_TOKEN))
    with pytest.raises(LocalProtocolError, match="is owed"):
        serving.send(serving.service.create_ack_reply(serving.kept[1]))


@pytest.mark.parametrize("carrier", ["none"], indirect=True)
def test_24_what_could_not_be_sent_is_owed_still(serving: Serving) -> None:
    serving.say(request(EchoAPI.LATER, flags=ACK_REQ))
    serving.channel.error_number = 11
    assert serving.channel.send(reply(code=LATER), serving.session()) == 11
    serving.channel.error_number = 0
    assert [each.has_ack_reply() for each in serving.send(reply(code=LATER))] == [True, False]


def test_24_client_acknowledges_state_at_once() -> None:
    for kind in (FBSPClient, FBSPEventClient):
        asking = Asking(kind)
        asking.connect()
        asking.ask()
        asking.hear(state(flags=ACK_REQ))
        assert [each.as_zmsg() for each in asking.take()] == [make(MsgType.STATE, TOKEN, ECHO, ACK_REPLY).as_zmsg()]


def test_24_data_is_acknowledged_by_its_handler(serving: Serving) -> None:
    serving.service.on_data = lambda channel, session, msg: channel.send(
        serving.service.create_ack_reply(msg), session
    )
    (answer,) = serving.say(data(ACK_REQ | MORE))
    assert answer.as_zmsg() == make(MsgType.DATA, TOKEN, 0, ACK_REPLY | MORE).as_zmsg()


def test_25_an_error_instead_of_an_acknowledgement(serving: Serving) -> None:
    assert error_of(serving.say(request(EchoAPI.UNHANDLED, flags=ACK_REQ)))[0] is ErrorCode.NOT_IMPLEMENTED
    serving.say(request(EchoAPI.LATER, flags=ACK_REQ))
    serving.service.send_error(serving.channel, serving.session(), serving.kept[0], ErrorCode.GONE)
    assert error_of(serving.take())[0] is ErrorCode.GONE


def test_26_more_is_ignored_elsewhere(serving: Serving, asking: Asking) -> None:
    assert serving.say(hello_with(MORE))[0].msg_type is MsgType.WELCOME
    assert serving.say(make(MsgType.NOOP, flags=MORE)) == []
    assert serving.say(request(flags=MORE))[0].msg_type is MsgType.REPLY
    assert error_of(serving.say(cancel_with(MORE)))[0] is ErrorCode.NOT_IMPLEMENTED
    assert serving.say(make(MsgType.CLOSE, HELLO_TOKEN, flags=MORE)) == []
    assert serving.channel.sessions == {}
    asking.ask()
    asking.hear(error(flags=MORE))
    assert asking.session.requests == {}


def hello_with(flags: MsgFlag) -> Any:
    msg = hello()
    msg.flags = flags
    return msg


def cancel_with(flags: MsgFlag) -> Any:
    msg = cancel()
    msg.flags = flags
    return msg


# Version


@pytest.mark.parametrize("version", [0, 2, 7])
def test_27_other_versions(serving: Serving, asking: Asking, version: int) -> None:
    header, content = hello().as_zmsg()
    frames = [header[:4] + bytes((MsgType.HELLO << 3 | version,)) + header[5:], content]
    for route in (ROUTE, OTHER_ROUTE):
        (answer,) = serving.say(frames, route)
        assert error_of([answer]) == (ErrorCode.FBSP_VERSION_NOT_SUPPORTED, MsgType.HELLO, HELLO_TOKEN)
        assert answer.as_zmsg()[0][4] & 7 == 1
    assert list(serving.channel.sessions) == [ROUTE]
    assert asking.hear([b"FBSP" + bytes((MsgType.NOOP << 3 | version,)) + bytes(11)]) is INVALID


# API


def test_28_interfaces_have_numbers_from_1() -> None:
    numbers = [each.number for each in Serving().service.welcome_df.api]
    assert numbers == [1, 2]


def test_28_client_uses_the_announced_numbers(asking: Asking) -> None:
    msg = welcome()
    msg.data.api[0].number, msg.data.api[1].number = 0, 200
    asking.send(hello())
    asking.hear(msg)
    assert asking.client.has_api(EchoAPI)
    made = asking.client.create_request_for(asking.session, EchoAPI.LATER, TOKEN)
    assert (made.interface_id, made.api_code) == (0, 2)
    made = asking.client.create_request_for(asking.session, CountAPI.COUNT, OTHER_TOKEN)
    assert (made.interface_id, made.api_code) == (200, 1)
    for wrong in (0x0101, 0xC800):
        with pytest.raises(LocalProtocolError, match="announced no interface|numbered from 1"):
            asking.send(make(MsgType.REQUEST, TOKEN, wrong))
    msg.data.api.pop()
    asking.send(hello())
    asking.hear(msg)
    assert not asking.client.has_api(CountAPI)
    with pytest.raises(ServiceError, match="does not have the interface CountAPI"):
        asking.client.create_request_for(asking.session, CountAPI.COUNT, TOKEN)


@pytest.mark.parametrize("code", [0x0001, 0x0100, 0x0104, 0x01FE, 0x0202, 0x0301, 0xFFFF])
def test_29_an_unknown_call(serving: Serving, code: int) -> None:
    answers = serving.say(make(MsgType.REQUEST, TOKEN, code))
    assert error_of(answers) == (ErrorCode.BAD_REQUEST, MsgType.REQUEST, TOKEN)


def test_29_a_call_without_a_handler(serving: Serving) -> None:
    (answer,) = serving.say(request(EchoAPI.UNHANDLED))
    assert error_of([answer]) == (ErrorCode.NOT_IMPLEMENTED, MsgType.REQUEST, TOKEN)
    assert answer.errors[0].description == "EchoAPI.UNHANDLED is not implemented"


@pytest.mark.parametrize("refused", [make(MsgType.REQUEST, TOKEN, 0x0104), request(EchoAPI.UNHANDLED)])
def test_29_a_refusal_is_told_under_a_token_that_was_used_before(serving: Serving, refused: Any) -> None:
    assert serving.say(request())[0].msg_type is MsgType.REPLY
    for _ in range(2):
        assert error_of(serving.say(refused))[1:] == (MsgType.REQUEST, TOKEN)


def test_29_client_learns_of_it(asking: Asking) -> None:
    msg = error(ErrorCode.BAD_REQUEST)
    for text, code in (("no such call", 0), ("cause", 7)):
        told = msg.add_error()
        told.description, told.code = text, code
    failure = asking.client.exception_for(msg)
    assert str(failure) == "BAD_REQUEST, relates to REQUEST\n#0 : no such call\n#7 : cause"
    assert (failure.code, failure.relates_to) == (  # type: ignore[attr-defined]
        ErrorCode.BAD_REQUEST,
        MsgType.REQUEST,
    )
    assert isinstance(failure.__cause__, ServiceError)
    assert (str(failure.__cause__), failure.__cause__.code) == ("cause", 7)
    assert str(asking.client.exception_for(error(999, MsgType.UNKNOWN))) == "999, relates to UNKNOWN"


# Sizes


def test_30_a_message_that_is_too_large() -> None:
    serving = Serving(max_message_size=LEAST_MAX_MESSAGE_SIZE)
    serving.connect()
    (answer,) = serving.say(request(data=[bytes(LEAST_MAX_MESSAGE_SIZE - 16)]))
    assert answer.msg_type is MsgType.REPLY
    answers = serving.say(request(data=[bytes(LEAST_MAX_MESSAGE_SIZE - 15)]))
    assert error_of(answers) == (ErrorCode.PAYLOAD_TOO_LARGE, MsgType.REQUEST, TOKEN)
    asking = Asking()
    asking.client.max_message_size = LEAST_MAX_MESSAGE_SIZE
    asking.connect()
    asking.ask()
    msg = reply()
    msg.data = [bytes(LEAST_MAX_MESSAGE_SIZE - 15)]
    assert asking.hear(msg) is INVALID
    assert "the limit is 1000000" in str(asking.refused[0])
    assert asking.hear(reply()).msg_type is MsgType.REPLY
    assert serving.say(request())[0].msg_type is MsgType.REPLY


def test_30_the_limits_are_of_each_side() -> None:
    with pytest.raises(ValueError, match="at least 1000000"):
        Serving(max_message_size=999_999)
    with pytest.raises(ValueError, match="at least 1000000"):
        FBSPClient(max_message_size=999_999)

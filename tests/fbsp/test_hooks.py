"""Whatever hook of a program raises, the peer has an answer, and the next one is served."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from packetwire.fbsp import ErrorCode, FBSPEventClient, MsgFlag, MsgType, StopError
from packetwire.messaging import INVALID, Session

from .fake import HELLO_TOKEN, TOKEN, Asking, EchoAPI, Serving, cancel, hello, make, request, welcome

pytestmark = [pytest.mark.usefixtures("carrier"), pytest.mark.timeout(60)]


class Unprintable(Exception):
    """Cannot say what it is."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


def fail(*args: Any) -> Any:
    raise ZeroDivisionError("a hook failed")


def error_of(answers: list[Any]) -> tuple[int, MsgType, bytes]:
    """The code of the one answer, which is an ERROR; what it relates to; its token."""
    (error,) = answers
    assert error.msg_type is MsgType.ERROR
    return error.error_code, error.relates_to, error.token


def answers_to_fault(serving: Serving, msg: Any, *, has_session: bool = True) -> None:
    answers = serving.say(msg)
    assert error_of(answers) == (ErrorCode.INTERNAL_ERROR, msg.msg_type, msg.token)
    assert (serving.session() is not None) is has_session


# The beginning of a session

HOOKS_OF_A_SESSION = [
    "initialize_session",
    "accept_new_session",
    "message_factory",
    "before_handling",
    "before_sending",
    "on_accept_client",
    "handle_exception",
]


@pytest.mark.parametrize("hook", HOOKS_OF_A_SESSION)
def test_a_hook_that_fails_for_hello(hook: str) -> None:
    serving = Serving()
    if hook == "handle_exception":
        serving.service.initialize_session = fail  # type: ignore[method-assign]
    if hook == "message_factory":
        serving.connect()
    setattr(serving.service, hook, fail)
    answers_to_fault(serving, hello(), has_session=hook == "message_factory")
    if hook == "on_accept_client":
        serving.service.on_accept_client = None
    else:
        vars(serving.service).pop(hook)
        vars(serving.service).pop("initialize_session", None)
    serving.connect()
    assert [each.msg_type for each in serving.say(request())] == [MsgType.REPLY]


@pytest.mark.parametrize(
    "told", [SystemExit(3), Unprintable(), StopError("no", code="text"), StopError("no", code=0)]
)
def test_whatever_it_raises(told: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    serving = Serving()

    def raise_it(session: Session) -> None:
        raise told

    serving.service.initialize_session = raise_it  # type: ignore[method-assign]
    answers_to_fault(serving, hello(), has_session=False)
    name, exc = serving.events[-1][0], serving.events[-1][-1]
    assert name == "on_exception"
    assert told in (exc, exc.__cause__)


def test_the_reason_that_a_hook_gives_is_told() -> None:
    serving = Serving()

    def refuse(channel: Any, routing_id: bytes, msg: Any) -> bool:
        raise StopError("not today", code=ErrorCode.FORBIDDEN)

    serving.service.accept_new_session = refuse  # type: ignore[method-assign]
    (error,) = serving.say(hello())
    assert (error.error_code, error.relates_to) == (ErrorCode.FORBIDDEN, MsgType.HELLO)
    assert [each.description for each in error.errors] == ["not today"]


def test_a_session_class_that_cannot_be_made() -> None:
    serving = Serving()
    serving.connect()
    serving.say(make(MsgType.CLOSE, HELLO_TOKEN))
    channel = serving.channel if not hasattr(serving.channel, "channel") else serving.channel.channel
    channels = (
        [each for each, _ in serving.channel.ends.values()] if hasattr(serving.channel, "ends") else [channel]
    )
    for each in channels:
        each.session_type = fail
    answers_to_fault(serving, hello(), has_session=False)


def test_a_channel_that_cannot_make_a_session_after_all() -> None:
    """It has made one, and then failed: nothing of it is left."""
    serving = Serving()
    serving.connect()
    serving.say(make(MsgType.CLOSE, HELLO_TOKEN))
    channel = serving.channel if not hasattr(serving.channel, "channel") else serving.channel.channel
    channels = (
        [each for each, _ in serving.channel.ends.values()] if hasattr(serving.channel, "ends") else [channel]
    )
    for each in channels:

        def make_and_fail(route: bytes, create: Any = each.create_session) -> Session:
            create(route)
            return fail()  # type: ignore[no-any-return]

        each.create_session = make_and_fail
    answers_to_fault(serving, hello(), has_session=False)


def test_another_client_on_the_route_that_gets_no_session() -> None:
    from .fake import OTHER_PEER

    serving = Serving()
    serving.connect()
    serving.service.initialize_session = fail  # type: ignore[method-assign]
    answers_to_fault(serving, hello(OTHER_PEER), has_session=False)


def test_a_welcome_that_was_sent_is_not_followed_by_two_errors() -> None:
    serving = Serving()
    serving.service.after_sending = fail  # type: ignore[method-assign]
    answers = [each.msg_type for each in serving.say(hello())]
    assert answers == [MsgType.WELCOME, MsgType.ERROR]


# Requests


@pytest.mark.parametrize("hook", ["before_handling", "before_sending", "handle_exception", "on_exception"])
def test_a_hook_that_fails_for_a_request(hook: str) -> None:
    serving = Serving()
    serving.connect()
    serving.service.api_handlers.clear()
    serving.service.register_api_handler(EchoAPI.ECHO, lambda channel, session, msg, protocol: fail())
    if hook == "before_sending":
        serving.service.register_api_handler(EchoAPI.ECHO, serving.echo)
    setattr(serving.service, hook, fail)
    answers_to_fault(serving, request())
    assert serving.session().requests == {}


@pytest.mark.parametrize("raised", [SystemExit(3), GeneratorExit(), Unprintable(), StopError("no", code=object())])
def test_whatever_a_handler_raises(raised: BaseException) -> None:
    serving = Serving()
    serving.connect()

    def handler(channel: Any, session: Any, msg: Any, protocol: Any) -> None:
        raise raised

    serving.service.register_api_handler(EchoAPI.LATER, handler)
    for _ in range(3):
        answers_to_fault(serving, request(EchoAPI.LATER))
    assert [each.msg_type for each in serving.say(request())] == [MsgType.REPLY]


def test_exceptions_that_say_that_they_are_equal_are_told_once_each() -> None:
    class Equal(Exception):
        def __eq__(self, other: object) -> bool:
            return fail()  # type: ignore[no-any-return]

        __hash__ = None  # type: ignore[assignment]

    serving = Serving()
    serving.connect()

    def handler(channel: Any, session: Any, msg: Any, protocol: Any) -> None:
        raise Equal("first") from Equal("second")

    serving.service.register_api_handler(EchoAPI.LATER, handler)
    (error,) = serving.say(request(EchoAPI.LATER))
    assert [each.description for each in error.errors] == ["first", "second"]


@pytest.mark.parametrize(
    ("event", "msg", "answers"),
    [
        ("on_noop", make(MsgType.NOOP), 1),
        ("on_noop", make(MsgType.NOOP, flags=MsgFlag.ACK_REQ), 2),
        ("on_data", make(MsgType.DATA), 1),
        ("on_cancel", cancel(), 1),
    ],
    ids=["NOOP", "NOOP that is acknowledged", "DATA", "CANCEL"],
)
def test_an_event_that_fails(event: str, msg: Any, answers: int) -> None:
    serving = Serving()
    serving.connect()
    serving.say(request(EchoAPI.LATER))
    setattr(serving.service, event, fail)
    told = serving.say(msg)
    assert len(told) == answers
    assert error_of(told[-1:]) == (ErrorCode.INTERNAL_ERROR, msg.msg_type, msg.token)
    assert TOKEN in serving.session().requests or event == "on_data"


@pytest.mark.parametrize("hook", ["handle_invalid_msg", "on_invalid_msg", "before_sending"])
def test_a_hook_that_fails_for_what_is_no_message(hook: str) -> None:
    serving = Serving()
    serving.connect()
    setattr(serving.service, hook, fail)
    frames = [b"FBSP" + bytes((10 << 3 | 1, 0, 0, 0)) + TOKEN]
    assert error_of(serving.say(frames)) == (ErrorCode.INVALID_MESSAGE, MsgType.UNKNOWN, TOKEN)


def test_a_hook_that_fails_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    serving = Serving()
    serving.connect()
    serving.service.session_discarded = fail  # type: ignore[method-assign]
    serving.say(make(MsgType.CLOSE, HELLO_TOKEN))
    assert serving.channel.sessions == {}
    assert "session_discarded failed" in caplog.text


@pytest.mark.parametrize("carrier", ["none", "zmq", "packets"], indirect=True)
def test_ctrl_c_in_a_handler_is_answered_and_meant_for_the_program(carrier: str) -> None:
    serving = Serving()
    serving.connect()

    def handler(channel: Any, session: Any, msg: Any, protocol: Any) -> None:
        raise KeyboardInterrupt

    serving.service.register_api_handler(EchoAPI.LATER, handler)
    if carrier == "none":  # this is the main thread
        with pytest.raises(KeyboardInterrupt):
            serving.say(request(EchoAPI.LATER))
        told = serving.take()
    else:
        told = serving.say(request(EchoAPI.LATER))
    assert error_of(told) == (ErrorCode.INTERNAL_ERROR, MsgType.REQUEST, TOKEN)
    assert [each.msg_type for each in serving.say(request())] == [MsgType.REPLY]


# A client has no message to complain with: what fails goes to `on_exception`, and the session lives on

HOOKS_OF_A_CLIENT: dict[str, Callable[[], Any]] = {
    "before_handling": lambda: make(MsgType.NOOP),
    "message_factory": lambda: make(MsgType.NOOP),
    "on_noop": lambda: make(MsgType.NOOP),
    "on_data": lambda: make(MsgType.DATA),
    "on_service_connected": welcome,
}


@pytest.mark.parametrize("hook", HOOKS_OF_A_CLIENT)
def test_a_hook_that_fails_at_a_client(hook: str) -> None:
    asking = Asking(FBSPEventClient)
    asking.connect()
    former = getattr(asking.client, hook)
    setattr(asking.client, hook, fail)
    assert asking.hear(HOOKS_OF_A_CLIENT[hook]()) is INVALID
    (refused,) = asking.refused
    assert isinstance(refused if hook != "message_factory" else refused.__cause__, ZeroDivisionError)
    setattr(asking.client, hook, None if hook.startswith("on_") else former)
    asking.ask()
    assert asking.hear(make(MsgType.REPLY, TOKEN, 0x0101)) is not INVALID

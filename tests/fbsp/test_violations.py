"""Every rule of a session that a peer can break: each is reached, and the table of the life of a request."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packetwire import LocalProtocolError
from packetwire.fbsp import (
    ButlerInterface,
    ErrorCode,
    FBSPEventClient,
    MsgFlag,
    MsgType,
    State,
    StopError,
)
from packetwire.fbsp.lifecycle import DROPPED, LIVE, TOLERATED, TRANSITIONS, Act, Phase, act_of
from packetwire.fbsp.refusals import VIOLATIONS, violation
from packetwire.fbsp.session import ENDED_KEPT, FBSPSession, PendingRequest
from packetwire.messaging import INVALID

from .fake import (
    CODEC,
    HELLO_TOKEN,
    OTHER_PEER,
    OTHER_ROUTE,
    TOKEN,
    Asking,
    CountAPI,
    EchoAPI,
    FakeChannel,
    Serving,
    call,
    cancel,
    hello,
    make,
    request,
    welcome,
)
from .mutations import GOLDEN, damage


def served(*messages: Any, route: bytes = OTHER_ROUTE, connected: bool = True, **kwargs: Any) -> Serving:
    serving = Serving(**kwargs)
    if connected:
        serving.connect()
    for msg in messages:
        serving.say(msg)
    return serving


def heard(*messages: Any, asked: bool = False, connected: bool = True) -> Asking:
    asking = Asking(FBSPEventClient)
    if connected:
        asking.connect()
    else:
        asking.send(hello())
    if asked:
        asking.ask()
    for msg in messages:
        asking.hear(msg)
    return asking


def later(token: bytes) -> Any:
    return request(EchoAPI.LATER, token)


def cancelling() -> Serving:
    serving = served()
    serving.service.on_cancel = lambda channel, session, msg: None
    return serving


def unhandled_reply() -> Asking:
    asking = heard()
    asking.ask(CountAPI.COUNT)
    asking.hear(make(MsgType.REPLY, TOKEN, call(CountAPI.COUNT), MsgFlag.ACK_REQ))
    assert [each.has_ack_reply() for each in asking.take()] == [True]
    return asking


BY_SERVICE: dict[str, Callable[[], list[Any]]] = {
    "hello-expected": lambda: served(connected=False).say(request()),
    "incomplete": lambda: served(connected=False).say(make(MsgType.HELLO)),
    "identity-connected": lambda: served().say(hello(), OTHER_ROUTE),
    "too-many-sessions": lambda: served(max_sessions=1).say(hello(OTHER_PEER), OTHER_ROUTE),
    "wrong-side": lambda: served().say(welcome()),
    "wrong-acknowledgement": lambda: served().say(make(MsgType.HELLO, flags=MsgFlag.ACK_REPLY)),
    "token-in-use": lambda: served(later(TOKEN)).say(request()),
    "too-many-requests": lambda: served(later(TOKEN), max_requests=1).say(later(b"another-")),
    "no-such-call": lambda: served().say(make(MsgType.REQUEST, TOKEN, 0x0909)),
    "no-handler": lambda: served().say(request(EchoAPI.UNHANDLED)),
    "no-such-request": lambda: cancelling().say(cancel()),
    "not-cancellable": lambda: served(later(TOKEN)).say(cancel()),
    "unexpected-data": lambda: served().say(make(MsgType.DATA)),
}
"""rule -> what the service answers when it is broken."""

BY_CLIENT: dict[str, Callable[[], Asking]] = {
    "incomplete": lambda: heard(make(MsgType.WELCOME, HELLO_TOKEN), connected=False),
    "wrong-side": lambda: heard(hello()),
    "wrong-acknowledgement": lambda: heard(make(MsgType.REPLY, flags=MsgFlag.ACK_REPLY)),
    "welcome-expected": lambda: heard(make(MsgType.NOOP), connected=False),
    "not-our-hello": lambda: heard(welcome(b"another-")),
    "never-asked": lambda: heard(make(MsgType.REPLY, TOKEN, 0x0101)),
    "wrong-call": lambda: heard(make(MsgType.REPLY, TOKEN, 0x0102), asked=True),
    "out-of-order": lambda: heard(*[make(MsgType.REPLY, TOKEN, 0x0101)] * 2, asked=True),
    "no-reply-handler": unhandled_reply,
}
"""rule -> a client that has heard it broken."""


def test_all_rules_are_known() -> None:
    assert {*BY_SERVICE, *BY_CLIENT} == set(VIOLATIONS)


@pytest.mark.usefixtures("carrier")
@pytest.mark.parametrize("rule", BY_SERVICE)
def test_a_service_refuses_by_an_error(rule: str) -> None:
    (answer,) = BY_SERVICE[rule]()
    code, text = VIOLATIONS[rule]
    assert answer.msg_type is MsgType.ERROR
    assert answer.error_code is code
    (told,) = answer.errors
    assert told.code == code
    beginning = text.partition("{")[0]
    assert told.description.startswith(beginning)


@pytest.mark.usefixtures("carrier")
@pytest.mark.parametrize("rule", BY_CLIENT)
def test_a_client_refuses_by_its_event(rule: str) -> None:
    asking = BY_CLIENT[rule]()
    (error,) = asking.refused
    assert isinstance(error, StopError)
    assert error.rule == rule  # type: ignore[attr-defined]
    assert error.code is VIOLATIONS[rule][0]
    assert asking.take() == []


def test_a_violation_says_which_rule() -> None:
    error = violation("too-many-sessions", limit=3)
    assert (str(error), error.code) == ("there are 3 sessions already", ErrorCode.SERVICE_UNAVAILABLE)


# The life of a request


def message_of(act: Act) -> Any:
    """A message of a service that is this act, for the request with TOKEN."""
    more = MsgFlag.MORE if act in (Act.REPLY_MORE, Act.DATA_MORE) else MsgFlag.NONE
    if act in (Act.REPLY, Act.REPLY_MORE):
        return make(MsgType.REPLY, TOKEN, 0x0102, more)
    if act in (Act.DATA, Act.DATA_MORE):
        return make(MsgType.DATA, TOKEN, flags=more)
    if act in (Act.STATE, Act.LAST_STATE):
        msg = make(MsgType.STATE, TOKEN, 0x0102)
        msg.state = State.RUNNING if act is Act.STATE else State.FINISHED
        return msg
    msg = make(MsgType.ERROR, TOKEN)
    msg.error_code = ErrorCode.REQUEST_CANCELLED
    msg.relates_to = MsgType.REQUEST if act is Act.ERROR else MsgType.CANCEL
    return msg


def test_messages_are_acts() -> None:
    for act in Act:
        assert act_of(message_of(act)) is act
    for other in (make(MsgType.NOOP), make(MsgType.CLOSE), welcome()):
        assert act_of(other) is None


def test_the_table_of_what_may_follow() -> None:
    assert not TRANSITIONS.keys() & TOLERATED.keys()
    assert {phase for phase, _ in TRANSITIONS} == {*LIVE, Phase.REPLIED}
    assert {phase for phase, _ in TRANSITIONS if phase in DROPPED} == set()
    for (before, act), after in {**TRANSITIONS, **TOLERATED}.items():
        assert act not in (Act.REPLY, Act.REPLY_MORE) or before is Phase.OPEN, "one REPLY"
        assert before in LIVE or after not in LIVE, "what has ended does not begin again"


@pytest.mark.parametrize("act", [each for each in Act if each not in (Act.CANCELLED, Act.ERROR)])
@pytest.mark.parametrize("phase", Phase)
def test_what_a_service_sends_in_each_phase(phase: Phase, act: Act) -> None:
    serving = served(later(TOKEN))
    serving.session().advance(serving.session().requests[TOKEN], phase)
    after = TRANSITIONS.get((phase, act))
    if phase in DROPPED:
        assert serving.send(message_of(act)) == []
    elif after is None:
        with pytest.raises(LocalProtocolError):
            serving.send(message_of(act))
        assert serving.session().find(TOKEN).phase is phase
    else:
        assert len(serving.send(message_of(act))) == 1
        assert serving.session().find(TOKEN).phase is after


@pytest.mark.parametrize("act", Act)
@pytest.mark.parametrize("phase", Phase)
def test_what_a_client_takes_in_each_phase(phase: Phase, act: Act) -> None:
    asking = heard()
    asking.ask(EchoAPI.LATER)
    asking.session.advance(asking.session.requests[TOKEN], phase)
    after = TRANSITIONS.get((phase, act)) or TOLERATED.get((phase, act))
    assert (asking.hear(message_of(act)) is INVALID) is (after is None)
    assert asking.session.find(TOKEN).phase is (after or phase)


@given(st.lists(st.sampled_from(Act), max_size=12))
def test_what_our_service_sends_our_client_takes(acts: list[Act]) -> None:
    """Whatever handlers try to send, what leaves is in order."""
    serving, asking = served(later(TOKEN)), heard()
    asking.ask(EchoAPI.LATER)
    for act in acts:
        try:
            sent = serving.send(message_of(act))
        except LocalProtocolError:
            continue
        for msg in sent:
            assert asking.hear(msg) is not INVALID, (acts, asking.refused)
    live = serving.session().requests.keys()
    assert asking.session.requests.keys() == live


def test_ended_requests_are_remembered_for_a_while() -> None:
    session = FBSPSession()
    for number in range(ENDED_KEPT + 1):
        pending = PendingRequest(b"%08d" % number, 1)
        session.begin(pending)
        session.advance(pending, Phase.REPLIED)
        session.advance(pending, Phase.FAILED)
    assert session.requests == {}
    assert session.find(b"%08d" % 0) is None
    for number in (1, ENDED_KEPT):
        found = session.find(b"%08d" % number)
        assert found is not None
        assert found.phase is Phase.FAILED
    session.forget(b"%08d" % 1)
    assert session.find(b"%08d" % 1) is None
    session.close()
    assert session.find(b"%08d" % ENDED_KEPT) is None


# What else a service and its clients do


def test_sessions_of_several_channels_are_one_service() -> None:
    serving = served()
    other = FakeChannel(serving.service)
    other.deliver(OTHER_ROUTE, hello().as_zmsg())
    (refusal,) = map(CODEC.convert_msg, other.take_frames(OTHER_ROUTE))
    assert refusal.error_code is ErrorCode.CONFLICT
    other.deliver(OTHER_ROUTE, hello(OTHER_PEER).as_zmsg())
    (accepted,) = map(CODEC.convert_msg, other.take_frames(OTHER_ROUTE))
    assert accepted.msg_type is MsgType.WELCOME


def test_an_api_handler_is_checked_when_it_is_registered() -> None:
    serving, asking = Serving(), Asking(FBSPEventClient)
    for register in (serving.service.register_api_handler, asking.client.register_api_handler):  # type: ignore[attr-defined]
        with pytest.raises(TypeError, match=r"is called with \(channel, session, msg, protocol\)"):
            register(EchoAPI.ECHO, lambda msg: None)


def test_a_handler_of_an_interface_that_the_service_does_not_have() -> None:
    class OtherAPI(ButlerInterface):
        CALL = 1

        @classmethod
        def get_uid(cls) -> uuid.UUID:
            return uuid.UUID(int=99)

    with pytest.raises(ValueError, match="does not have the interface OtherAPI"):
        Serving().service.register_api_handler(OtherAPI.CALL, lambda channel, session, msg, protocol: None)


def test_an_event_client_gives_each_message_to_its_event() -> None:
    asking = heard(connected=False)
    told: list[Any] = []
    for name in ("on_service_connected", "on_noop", "on_data", "on_error", "on_state", "on_ack_received"):
        setattr(asking.client, name, lambda *args, name=name: told.append((name, *args[2:])))
    asking.client.on_session_closed = lambda *args: told.append(("on_session_closed", *args[2:]))  # type: ignore[attr-defined]
    asking.hear(welcome())
    asking.ask(EchoAPI.LATER)
    asking.hear(make(MsgType.REQUEST, TOKEN, 0x0102, MsgFlag.ACK_REPLY))
    asking.hear(make(MsgType.NOOP, HELLO_TOKEN))
    asking.hear(make(MsgType.NOOP, HELLO_TOKEN, flags=MsgFlag.ACK_REPLY))
    asking.hear(message_of(Act.STATE))
    asking.hear(message_of(Act.REPLY_MORE))
    asking.hear(message_of(Act.DATA))
    asking.hear(make(MsgType.DATA, TOKEN, flags=MsgFlag.ACK_REPLY))
    asking.hear(message_of(Act.ERROR))
    asking.hear(make(MsgType.CLOSE, HELLO_TOKEN))
    assert [name for name, *_ in told] == [
        "on_service_connected",
        "on_ack_received",
        "on_noop",
        "on_ack_received",
        "on_state",
        "on_data",
        "on_ack_received",
        "on_error",
        "on_session_closed",
    ]
    assert told[0][2] is asking.client
    assert asking.refused == []


def test_a_failing_close_handler_does_not_keep_the_session(caplog: pytest.LogCaptureFixture) -> None:
    serving, asking = served(), heard()
    serving.service.on_session_closed = lambda channel, session, msg, exc: 1 / 0
    serving.say(make(MsgType.CLOSE, HELLO_TOKEN))
    assert serving.channel.sessions == {}
    serving.connect()
    serving.service.send_close(serving.channel, serving.session())
    assert serving.channel.sessions == {}
    asking.client.on_session_closed = lambda channel, session, msg, exc: 1 / 0  # type: ignore[attr-defined]
    asking.hear(make(MsgType.CLOSE, HELLO_TOKEN))
    assert asking.channel.sessions == {}
    assert len(caplog.records) == 3


def test_a_service_closes_the_other_sessions_if_one_fails() -> None:
    serving = served()
    serving.connect(OTHER_PEER, OTHER_ROUTE)
    first = serving.session()
    transmit = serving.channel._transmit

    def failing(zmsg: list[bytes], session: Any) -> int:
        if session is first:
            raise OSError("gone")
        return transmit(zmsg, session)

    serving.channel._transmit = failing  # type: ignore[method-assign]
    serving.service.close(serving.channel)
    assert [each.msg_type for each in serving.take(OTHER_ROUTE)] == [MsgType.CLOSE]


@given(st.sampled_from(GOLDEN), st.randoms(use_true_random=False))
def test_a_damaged_message_leaves_service_and_client_alive(zmsg: list[bytes], random: Random) -> None:
    broken = damage(zmsg, random)
    serving, asking = served(later(TOKEN)), heard()
    serving.connect(OTHER_PEER, OTHER_ROUTE)
    asking.ask(EchoAPI.LATER)
    for answer in serving.say(broken):
        assert CODEC.is_valid(answer.as_zmsg())
    asking.hear(broken)
    serving.channel.deliver(OTHER_ROUTE, request(EchoAPI.ECHO).as_zmsg())
    assert [each.msg_type for each in serving.take(OTHER_ROUTE)] == [MsgType.REPLY]
    if not asking.session.closed:
        asking.ask(token=b"yet-more")
        assert asking.hear(make(MsgType.REPLY, b"yet-more", 0x0101)) is not INVALID


DAMAGED = st.lists(st.binary(max_size=24), max_size=3)


@given(DAMAGED)
def test_other_sessions_notice_nothing_of_garbage(zmsg: list[bytes]) -> None:
    serving = served()
    serving.connect(OTHER_PEER, OTHER_ROUTE)
    for frames in (zmsg, [b"FBSP" + zmsg[0][4:16].ljust(12, b"\x02"), *zmsg[1:]] if zmsg else []):
        for answer in serving.say(frames):
            assert CODEC.is_valid(answer.as_zmsg())
        serving.channel.deliver(OTHER_ROUTE, request(EchoAPI.ECHO).as_zmsg())
        assert [each.msg_type for each in serving.take(OTHER_ROUTE)] == [MsgType.REPLY]

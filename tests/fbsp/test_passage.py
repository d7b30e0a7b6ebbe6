"""Both sides of a gateway between the cores of a client and a service, joined by nothing but their outboxes."""

from __future__ import annotations

from typing import Any

import pytest

from packetwire.errors import ConnectionEnded
from packetwire.fbsp import (
    ErrorCode,
    FBSPSession,
    MsgFlag,
    MsgType,
    ServiceError,
    Stream,
    operation,
)
from packetwire.fbsp.callstate import CallState
from packetwire.fbsp.clientcore import ClientCore
from packetwire.fbsp.operations import Reply, RequestState, operations_of
from packetwire.fbsp.passage import ClientSession, FrontProtocol
from packetwire.fbsp.servicecore import ServiceCore
from packetwire.messaging import Channel
from packetwire.messaging.mailbox import Mailbox

from .fake import CLIENT, CLIENT_PEER, ROUTE, SERVICE, SERVICE_PEER, TOKEN, CountAPI, EchoAPI
from .passing import Passing


class Operations:
    @operation(EchoAPI.ECHO)
    def echo(self, request: RequestState) -> list[bytes]:
        return request.data

    @operation(CountAPI.COUNT)
    def count(self, request: RequestState) -> Stream:
        return Stream([])


class Joined:
    """Client, gateway and service."""

    def __init__(self) -> None:
        self.client: ClientCore[CallState] = ClientCore(Mailbox, agent=CLIENT, peer=CLIENT_PEER)
        self.service: ServiceCore[RequestState] = ServiceCore(SERVICE, SERVICE_PEER, operations_of(Operations))
        self.passages: list[Passing] = []
        self.front = Mailbox(FrontProtocol(self.begin, SERVICE_PEER, max_requests=3))
        session = self.client.channel.create_session(b"")
        assert isinstance(session, FBSPSession)
        self.client.hello(session, 0, 10)
        self.pass_on()

    def begin(self, channel: Channel, session: ClientSession) -> Passing:
        self.passages.append(Passing(self.front, session))
        return self.passages[-1]

    @property
    def passage(self) -> Passing:
        return self.passages[-1]

    @property
    def session(self) -> ClientSession:
        return self.passage.session

    def pass_on(self) -> None:
        """Bring each message to its end, until there are none."""
        client: Any = self.client.channel
        service: Any = self.service.channel
        passed = True
        while passed:
            passed = False
            back = [each.channel for each in self.passages]
            ways = [(client, lambda frames: self.front.deliver(ROUTE, frames))]
            ways += [(each, lambda frames: self.service.receive(ROUTE, frames, 0)) for each in back]
            ways.append((service, lambda frames: self.passage.channel.deliver(ROUTE, frames)))
            ways.append((self.front, lambda frames: self.client.receive(frames, 0)))
            for mailbox, deliver in ways:
                for _, frames in mailbox.take():
                    passed = True
                    deliver(frames)

    def ask(self, code: Any, *frames: bytes, **options: Any) -> tuple[CallState, RequestState]:
        call = self.client.ask(code, frames, **options)
        self.pass_on()
        taken = self.service.take()
        assert taken is not None
        return call, taken[0]


@pytest.fixture
def joined() -> Joined:
    return Joined()


def test_the_service_is_the_one_behind(joined: Joined) -> None:
    joined.client.check_greeted()
    assert joined.client.service == SERVICE.agent
    assert joined.session.welcomed
    assert next(iter(joined.service.channel.sessions.values())).partner_uid == CLIENT_PEER.uid  # type: ignore[attr-defined]


def test_both_sides_know_which_requests_are_under_way(joined: Joined) -> None:
    sides = [joined.session, joined.passage.service_session]
    call, request = joined.ask(EchoAPI.ECHO, b"x")
    assert [list(side.requests) for side in sides] == [[call.token]] * 2
    request.answer(request.data)
    joined.pass_on()
    assert call.outcome() == [b"x"]
    assert [list(side.requests) for side in sides] == [[], []]
    call, request = joined.ask(CountAPI.COUNT)
    reply = Reply(request, [b"head"])
    reply.add([b"1"])
    joined.pass_on()
    assert [list(side.requests) for side in sides] == [[call.token]] * 2
    reply.finish()
    joined.pass_on()
    assert [list(side.requests) for side in sides] == [[], []]


def test_a_request_that_is_cancelled(joined: Joined) -> None:
    call, request = joined.ask(EchoAPI.ECHO)
    joined.client.cancel(call)
    joined.pass_on()
    assert request.cancelled
    with pytest.raises(ServiceError) as caught:
        call.outcome()
    assert caught.value.code is ErrorCode.REQUEST_CANCELLED
    assert (joined.session.requests, joined.session.cancels) == ({}, {})


def test_cancels_without_an_answer_are_bounded(joined: Joined) -> None:
    say = joined.client.protocol.create_message_for
    refused: list[Any] = []
    joined.passage.forth = lambda msg: None  # type: ignore[method-assign]
    for number in range(4):
        cancel = say(MsgType.CANCEL, b"cancel-%d" % number)
        cancel.request.token = TOKEN
        joined.front.deliver(ROUTE, cancel.as_zmsg())
        refused += joined.front.take()
    assert len(joined.session.cancels) == 3
    ((_, frames),) = refused
    assert joined.client.protocol.convert_msg(frames).error_code is ErrorCode.TOO_MANY_REQUESTS  # type: ignore[attr-defined]


def test_acknowledgements_go_all_the_way(joined: Joined) -> None:
    _, token = joined.client.ping()
    joined.pass_on()
    joined.client.check_ponged(token, None)
    call, request = joined.ask(EchoAPI.ECHO, flags=MsgFlag.ACK_REQ)
    assert not call.acknowledged
    request.acknowledge(request.msg)
    joined.pass_on()
    assert call.acknowledged


def test_either_side_leaves(joined: Joined) -> None:
    joined.client.close()
    joined.pass_on()
    assert joined.service.channel.sessions == {}
    joined = Joined()
    call, _ = joined.ask(EchoAPI.ECHO)
    joined.service.protocol.close(joined.service.channel)
    joined.pass_on()
    with pytest.raises(ConnectionEnded, match="the service has closed"):
        call.outcome()
    assert (joined.front.sessions, joined.passage.channel.sessions) == ({}, {})


def test_what_a_service_must_not_say_goes_no_further(joined: Joined) -> None:
    for msg_type in MsgType.HELLO, MsgType.REQUEST, MsgType.CANCEL, MsgType.REPLY:
        joined.passage.channel.deliver(ROUTE, joined.service.protocol.create_message_for(msg_type).as_zmsg())
    assert not joined.front.take()

"""The cores of a client and a service, joined by nothing but what is in their outboxes, with all else forbidden."""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from packetwire.errors import ConnectionEnded, RequestTimeout
from packetwire.fbsp import ErrorCode, FBSPSession, MsgFlag, MsgType, ServiceError, State, Stream, operation
from packetwire.fbsp.callstate import CallState
from packetwire.fbsp.clientcore import ClientCore
from packetwire.fbsp.operations import Reply, RequestState, operations_of
from packetwire.fbsp.servicecore import ServiceCore
from packetwire.messaging.errors import StopError
from packetwire.messaging.mailbox import Mailbox

from .fake import CLIENT, CLIENT_PEER, ROUTE, SERVICE, SERVICE_PEER, CountAPI, EchoAPI


class Operations:
    """Of the service here; they are performed where a test says so."""

    @operation(EchoAPI.ECHO)
    def echo(self, request: RequestState) -> list[bytes]:
        return request.data

    @operation(EchoAPI.LATER)
    def later(self, request: RequestState) -> None:
        raise AssertionError("performed by the tests themselves")

    @operation(CountAPI.COUNT)
    def count(self, request: RequestState) -> Stream:
        return Stream((b"%d" % number for number in range(3)), b"head")


class Joined:
    """A client and a service; time is what a test says it is."""

    def __init__(self, **service: Any) -> None:
        self.now = 1000.0
        self.client: ClientCore[CallState] = ClientCore(Mailbox, agent=CLIENT, peer=CLIENT_PEER)
        self.closed: list[Exception | None] = []
        self.service: ServiceCore[RequestState] = ServiceCore(
            SERVICE,
            SERVICE_PEER,
            operations_of(Operations),
            session_closed=lambda session, exc: self.closed.append(exc),
            **service,
        )
        session = self.client.channel.create_session(b"")
        assert isinstance(session, FBSPSession)
        self.client.hello(session, self.now, 10)

    def pass_on(self) -> None:
        """Bring each message to its end, until there are none."""
        sides: Any = self.client.channel, self.service.channel
        while any(side.outbox for side in sides):
            for _, frames in sides[0].take():
                self.service.receive(ROUTE, frames, self.now)
            for route, frames in sides[1].take():
                assert route == ROUTE
                self.client.receive(frames, self.now)

    def connect(self) -> None:
        self.pass_on()
        self.client.check_greeted()

    def take(self) -> RequestState:
        """The next request that the service is to perform."""
        self.pass_on()
        taken = self.service.take()
        assert taken is not None
        return taken[0]

    def ask(self, code: Any, *frames: bytes, **options: Any) -> tuple[CallState, RequestState]:
        call = self.client.ask(code, frames, **options)
        return call, self.take()


def refuse(*args: Any, **kwargs: Any) -> Any:
    raise AssertionError("a core does no input or output, and knows neither locks, threads nor the time")


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> Iterator[Joined]:
    pair = Joined(upload_wait=60)
    with monkeypatch.context() as forbidden:
        for module, names in (
            (threading, ("Lock", "RLock", "Condition", "Event", "Thread", "get_ident")),
            (time, ("monotonic", "time", "sleep", "perf_counter")),
            (socket, ("socket", "create_connection", "socketpair")),
            (select, ("select", "poll")),
            (os, ("read", "write", "open", "pipe", "fork")),
        ):
            for name in names:
                forbidden.setattr(module, name, refuse)
        pair.connect()
        yield pair


def test_who_the_service_is(joined: Joined) -> None:
    assert joined.client.service.name == "service"
    assert sorted(joined.client.interfaces.values()) == [1, 2]


def test_a_call(joined: Joined) -> None:
    call, request = joined.ask(EchoAPI.ECHO, b"1", b"2")
    assert not call.has_result()
    request.answer(request.data)
    joined.service.forget(request)
    joined.pass_on()
    assert call.outcome() == [b"1", b"2"]
    assert (joined.client.calls, sum(map(len, joined.service.requests.values()))) == ({}, 0)
    assert joined.service.take() is None


def test_a_call_that_fails(joined: Joined) -> None:
    call, request = joined.ask(EchoAPI.LATER)
    joined.service.fail(request, StopError("not today", code=ErrorCode.GONE))
    joined.pass_on()
    with pytest.raises(ServiceError, match="not today"):
        call.outcome()


def test_a_stream(joined: Joined) -> None:
    states: list[State] = []
    call, request = joined.ask(CountAPI.COUNT, on_state=states.append)
    request.report(State.RUNNING)
    reply = Reply(request, [b"head"])
    assert all(reply.add(item) for item in (b"1", b"2"))
    reply.finish()
    joined.pass_on()
    taken = []
    while (msg := call.take_data()) is not None:
        joined.client.acknowledge(msg)
        taken.append(msg.data)
    assert (states, call.outcome(), taken) == ([State.RUNNING], [b"head"], [[b"1"], [b"2"]])


def test_what_the_client_uploads_is_acknowledged_when_it_is_taken(joined: Joined) -> None:
    call, request = joined.ask(EchoAPI.LATER, flags=MsgFlag.MORE)
    taken = joined.client.upload(call, (b"part",), more=False, acknowledge=True)
    joined.pass_on()
    assert request.has_upload()
    assert not taken()
    msg = request.next_upload()
    request.acknowledge(msg)
    joined.pass_on()
    assert msg.data == [b"part"]
    assert taken()


def test_a_call_is_withdrawn_when_its_time_is_up(joined: Joined) -> None:
    call = joined.client.ask(EchoAPI.LATER, (), deadline=joined.now + 2, timeout=2)
    request = joined.take()
    assert joined.client.next_deadline() == joined.now + 2
    joined.client.expire(joined.now + 1.9)
    assert not call.over
    joined.client.expire(joined.now + 2)
    with pytest.raises(RequestTimeout, match="nothing within 2 s"):
        call.outcome()
    joined.pass_on()
    assert request.cancelled
    assert joined.client.next_deadline() is None
    assert joined.client.calls == joined.client.cancels == {}


def test_what_comes_late_ends_what_is_overdue_first(joined: Joined) -> None:
    call, request = joined.ask(EchoAPI.LATER, deadline=joined.now + 2, timeout=2)
    request.answer(b"too late")
    joined.now += 3
    joined.pass_on()
    with pytest.raises(RequestTimeout):
        call.outcome()


def test_the_first_upload_that_was_not_announced_has_a_time_limit(joined: Joined) -> None:
    _, request = joined.ask(EchoAPI.LATER)
    assert joined.service.next_deadline() is None
    assert request.expect_upload(joined.now, None) == 60
    assert joined.service.next_deadline() == joined.now + 60
    joined.service.expire(joined.now + 59)
    assert not request.has_upload()
    joined.service.expire(joined.now + 60)
    assert request.has_upload()
    with pytest.raises(StopError, match="no DATA within 60 s; the request has announced none"):
        request.next_upload()
    assert joined.service.next_deadline() is None


def test_an_announced_upload_has_none(joined: Joined) -> None:
    _, request = joined.ask(EchoAPI.LATER, flags=MsgFlag.MORE)
    assert request.expect_upload(joined.now, None) is None
    assert joined.service.next_deadline() is None


def test_cancel(joined: Joined) -> None:
    call, request = joined.ask(EchoAPI.LATER)
    token = joined.client.cancel(call)
    joined.pass_on()
    assert request.cancelled
    assert call.is_cancel_answered()
    assert call.was_cancelled()
    joined.client.forget_cancel(token)
    request.answer(b"nobody gets this")
    joined.pass_on()
    assert call.reply is None


def test_a_request_that_was_cancelled_is_not_begun(joined: Joined) -> None:
    call = joined.client.ask(EchoAPI.LATER, ())
    joined.pass_on()
    joined.client.abandon(call)
    joined.pass_on()
    assert joined.service.take() is None


def test_ping(joined: Joined) -> None:
    kind, token = joined.client.ping()
    assert kind == MsgType.NOOP
    assert not joined.client.is_ponged(token)
    joined.pass_on()
    assert joined.client.is_ponged(token)
    joined.client.check_ponged(token, None)
    assert joined.client.pongs == {}


def test_an_acknowledgement_that_nobody_waits_for_is_not_kept(joined: Joined) -> None:
    noop = joined.client.protocol.create_message_for(MsgType.NOOP, b"whatever", flags=MsgFlag.ACK_REPLY)
    joined.client.receive(noop.as_zmsg(), joined.now)
    assert joined.client.pongs == {}


def test_the_client_closes(joined: Joined) -> None:
    call, request = joined.ask(EchoAPI.LATER)
    assert joined.client.close()
    assert not joined.client.close()
    joined.pass_on()
    assert request.cancelled
    assert joined.closed == [None]
    with pytest.raises(ConnectionEnded, match="the client was closed"):
        call.outcome()


def test_the_service_closes(joined: Joined) -> None:
    call, request = joined.ask(EchoAPI.LATER)
    joined.service.protocol.close(joined.service.channel)
    joined.pass_on()
    assert request.cancelled
    with pytest.raises(ConnectionEnded, match="the service has closed the session"):
        call.outcome()
    with pytest.raises(ConnectionEnded):
        joined.client.ask(EchoAPI.ECHO, ())


def test_a_service_that_does_not_answer_hello() -> None:
    joined = Joined()
    assert joined.client.next_deadline() == joined.now + 10
    joined.client.expire(joined.now + 10)
    assert joined.client.is_greeted()
    with pytest.raises(RequestTimeout, match="did not answer HELLO within 10 s"):
        joined.client.check_greeted()
    assert joined.client.next_deadline() is None

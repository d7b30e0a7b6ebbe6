"""FBSP on packets is attached to its channel: one message at a time, in the order of the wire, whoever sends."""

from __future__ import annotations

import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest

from packetwire import ConnectionEnded, LocalProtocolError, PacketConnection, RequestReceived, StreamEnded
from packetwire.fbsp import (
    ButlerInterface,
    MsgFlag,
    MsgType,
    Request,
    Service,
    ServiceClient,
    State,
    Stream,
    operation,
)
from packetwire.fbsp.requests import FBSPPacketChannel
from packetwire.messaging.packets import Owed

from .fake import CLIENT, SERVICE

WAIT = 20


class Calls(ButlerInterface):
    ECHO = 1
    STREAM = 2
    HANDED_ON = 3
    STATES = 4
    WHERE = 5

    @classmethod
    def get_uid(cls) -> uuid.UUID:
        return uuid.UUID(int=79)


class Sample(Service):
    agent = SERVICE.agent

    @operation(Calls.ECHO, inline=True)
    def echo(self, request: Request) -> Any:
        return request.data

    @operation(Calls.STREAM, inline=True)
    def stream(self, request: Request) -> Any:
        return Stream([b"%d" % number for number in range(int(request.data[0]))], reply="head")

    @operation(Calls.HANDED_ON, inline=True)
    def handed_on(self, request: Request) -> Any:
        """The REPLY is sent here, and DATA by another thread, which need not wait until this one has returned."""
        reply = request.protocol.create_reply_for(request.msg)
        reply.set_flag(MsgFlag.MORE)
        request.channel.send(reply, request.session)
        data = request.protocol.create_data_for(request.msg)
        data.data = [b"behind"]
        threading.Thread(target=request.channel.send, args=(data, request.session)).start()
        request.cancel()  # there is nothing more to be sent

    @operation(Calls.STATES, inline=True)
    def states(self, request: Request) -> Any:
        for state in (State.RUNNING, State.SUSPENDED):
            request.report(state)
        return None

    @operation(Calls.WHERE)
    def where(self, request: Request) -> Any:
        return threading.current_thread().name


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def client(opened: ExitStack) -> ServiceClient:
    theirs, ours = socket.socketpair()
    opened.enter_context(theirs)
    opened.enter_context(ours)
    service = opened.enter_context(Sample())
    conn = PacketConnection(ours)
    service.serve_on(conn)
    opened.enter_context(conn)
    return opened.enter_context(ServiceClient.on(PacketConnection(theirs), agent=CLIENT))


def test_a_stream_of_an_inline_operation_comes_behind_its_reply(client: ServiceClient) -> None:
    call = client.start(Calls.STREAM, "100")
    assert [data for (data,) in call.stream(WAIT)] == [b"%d" % number for number in range(100)]
    assert call.result(WAIT) == [b"head"]


def test_what_another_thread_sends_behind_a_reply_comes_behind_it(client: ServiceClient) -> None:
    call = client.start(Calls.HANDED_ON)
    assert list(call.stream(WAIT)) == [[b"behind"]]
    assert call.result(WAIT) == []


@pytest.mark.usefixtures("plain_streams")
def test_observers_stay_observers(opened: ExitStack) -> None:
    theirs, ours = socket.socketpair()
    opened.enter_context(theirs)
    opened.enter_context(ours)
    seen: list[Any] = []
    conn = PacketConnection(ours, on_event=seen.append)
    observer = conn.on_event
    opened.enter_context(Sample()).serve_on(conn)
    assert conn.on_event is observer
    opened.enter_context(conn)
    with ServiceClient.on(PacketConnection(theirs), agent=CLIENT) as client:
        assert client.call(Calls.ECHO, b"1", timeout=WAIT) == [b"1"]
    assert [type(event).__name__ for event in seen][:2] == ["RequestReceived", "RequestReceived"]


def test_a_channel_is_served_once_and_again_when_that_was_closed(opened: ExitStack) -> None:
    theirs, ours = socket.socketpair()
    opened.enter_context(theirs)
    opened.enter_context(ours)
    conn, peer = PacketConnection(ours), PacketConnection(theirs)
    service = opened.enter_context(Sample())
    first = service.serve_on(conn)
    with pytest.raises(LocalProtocolError, match="channel 0 is served already"):
        service.serve_on(conn)
    first.close()
    service.serve_on(conn)
    opened.enter_context(conn)
    with ServiceClient.on(peer, agent=CLIENT) as client:
        assert client.call(Calls.ECHO, b"1", timeout=WAIT) == [b"1"]


def test_channel_0_of_a_connection_with_a_handler_is_served_already(opened: ExitStack) -> None:
    theirs, ours = socket.socketpair()
    opened.enter_context(theirs)
    opened.enter_context(ours)
    conn = PacketConnection(ours, request_handler=lambda rq_type, flags, payload: None)
    with pytest.raises(LocalProtocolError, match="channel 0 is served by the request_handler already"):
        ServiceClient.on(conn, agent=CLIENT)
    ServiceClient.on(conn, channel=16, agent=CLIENT)


class Failing(FBSPPacketChannel):
    """A channel with a fault of its own."""

    def deliver(self, routing_id: bytes, zmsg: Any) -> Any:
        raise RuntimeError("this fault")


def test_an_exception_of_the_channel_is_answered_like_a_handlers(opened: ExitStack) -> None:
    theirs, ours = socket.socketpair()
    opened.enter_context(theirs)
    opened.enter_context(ours)
    conn = PacketConnection(ours)
    failing = Failing(Sample().protocol, conn)
    opened.enter_context(conn)
    peer = opened.enter_context(PacketConnection(theirs))
    message = b"\x10FBSP" + bytes((int(MsgType.REQUEST) << 3 | 1, 0, 0, 0)) + b"12345678"
    ok, _, payload = peer(int(MsgType.REQUEST), message, timeout=WAIT)
    assert (ok, payload) == (False, b"RuntimeError: this fault")
    assert failing._open == {}


def test_an_answer_is_there_at_once_or_later(opened: ExitStack) -> None:
    theirs, ours = socket.socketpair()
    opened.enter_context(theirs)
    opened.enter_context(ours)
    channel = FBSPPacketChannel(Sample().protocol, PacketConnection(ours))
    passed_on: list[bytes] = []
    early, late = Owed(channel), Owed(channel)
    early.respond(b"early")
    assert channel.unannounced is early
    early.add_done_callback(lambda answer: passed_on.append(answer.result()))
    assert channel.unannounced is None
    late.add_done_callback(lambda answer: passed_on.append(answer.result()))
    late.respond(b"late")
    assert passed_on == [b"early", b"late"]


def test_who_waits_for_a_reply_reads_it(client: ServiceClient, monkeypatch: pytest.MonkeyPatch) -> None:
    taken_by: list[int] = []
    take_reply = client.protocol.take_reply

    def note(*reply: Any) -> bool:
        taken_by.append(threading.get_ident())
        return take_reply(*reply)

    monkeypatch.setattr(client.protocol, "take_reply", note)
    for _ in range(100):
        assert client.call(Calls.ECHO, b"1", timeout=WAIT) == [b"1"]
    assert threading.get_ident() in taken_by


def test_on_state_is_not_called_by_who_waits(client: ServiceClient) -> None:
    """It is a function of the user's: it may want a lock that the caller holds."""
    callers_lock = threading.RLock()
    states: list[State] = []

    def on_state(state: State) -> None:
        with callers_lock:
            states.append(state)
        assert threading.get_ident() != caller

    caller = threading.get_ident()
    for _ in range(50):
        states.clear()
        asked = client.start(Calls.STATES, on_state=on_state)
        asked.result(WAIT)
        assert states == [State.RUNNING, State.SUSPENDED], "the reply comes behind what was said before"


class Both:
    """Two connections to each other; that of the caller has what is given attached to channel 16."""

    def __init__(self, opened: ExitStack, quick: Any) -> None:
        theirs, ours = socket.socketpair()
        opened.enter_context(theirs)
        opened.enter_context(ours)
        self.seen: list[tuple[str, bool]] = []
        self.told: Callable[[], object] = int
        self.asks_back = True
        self.caller = threading.get_ident()
        self.conn = PacketConnection(ours)
        self.peer = PacketConnection(theirs, channels={16: self.answer})
        self.conn.attach(16, self.receive, quick=quick)
        opened.enter_context(self.conn)
        opened.enter_context(self.peer)

    def answer(self, rq_type: int, flags: int, payload: bytes) -> bytes:
        if self.asks_back:
            self.peer.submit(7, channel=16)
        return b"answer"

    def receive(self, event: Any) -> bytes | None:
        self.seen.append((type(event).__name__, threading.get_ident() == self.caller))
        if isinstance(event, StreamEnded):
            self.told()
        return b"" if isinstance(event, RequestReceived) else None


@pytest.mark.usefixtures("plain_streams")
@pytest.mark.parametrize("takes", [True, False])
def test_a_caller_reads_but_runs_no_receiver(opened: ExitStack, takes: bool) -> None:
    both = Both(opened, lambda event: takes)
    for number in range(1, 101):
        assert both.conn(1, channel=16, timeout=WAIT) == (True, 0, b"answer")
        while both.peer.outstanding:
            assert both.conn(1, channel=17, timeout=WAIT) == (False, 0, b"channel 17 is not served")
        requests = [each for each in both.seen if each[0] == "RequestReceived"]
        assert len(requests) == number
    assert not any(by_caller for _, by_caller in both.seen)


def test_the_end_is_told_behind_what_came_before(opened: ExitStack) -> None:
    both = Both(opened, lambda event: True)
    assert both.conn(1, channel=16, timeout=WAIT) == (True, 0, b"answer")
    both.peer.close()
    assert both.conn.join_recv(WAIT)
    both.conn.close()
    names = [name for name, _ in both.seen]
    assert names[-1] == "StreamEnded"
    assert names.index("RequestReceived") < names.index("StreamEnded")


def test_an_end_that_another_thread_brings_while_something_is_quick(opened: ExitStack) -> None:
    told = threading.Event()

    def quick(event: Any) -> bool:
        ending = threading.Thread(target=both.conn._driver.abort, args=(ConnectionEnded("given up"),))
        ending.start()
        ending.join(WAIT)
        assert not ending.is_alive()
        return True

    both = Both(opened, quick)
    both.told, both.asks_back = told.set, False
    with suppress(ConnectionEnded):
        both.conn(1, channel=16, timeout=WAIT)
    assert told.wait(WAIT), "the receiver never hears of the end"
    assert both.seen[-1] == ("StreamEnded", False)


def test_operations_run_in_the_threads_of_the_connection(client: ServiceClient) -> None:
    (name,) = client.call(Calls.WHERE, timeout=WAIT)
    assert name.endswith(b"-worker")


def test_a_job_runs_as_a_handler_does(opened: ExitStack, caplog: pytest.LogCaptureFixture) -> None:
    theirs, ours = socket.socketpair()
    opened.enter_context(theirs)
    opened.enter_context(ours)
    conn = PacketConnection(ours, handlers=2, close_timeout=0.0)
    assert not conn.run_job(lambda: None), "it is not open yet"
    begun, go_on, done = threading.Semaphore(0), threading.Event(), threading.Semaphore(0)

    def job() -> None:
        begun.release()
        go_on.wait(WAIT)
        done.release()

    with conn:
        assert all(conn.run_job(job) for _ in range(3))
        assert begun.acquire(timeout=WAIT)
        assert begun.acquire(timeout=WAIT)
        assert not begun.acquire(blocking=False), "as many at once as there may be handlers"
        go_on.set()
        assert all(done.acquire(timeout=WAIT) for _ in range(3))
        assert conn.run_job(lambda: 1 / 0)
        assert conn.run_job(done.release)
        assert done.acquire(timeout=WAIT)
    assert not conn.run_job(job)
    assert "a job failed" in caplog.text


def test_closing_a_service_waits_for_operations_in_a_connection(opened: ExitStack) -> None:
    theirs, ours = socket.socketpair()
    opened.enter_context(theirs)
    opened.enter_context(ours)
    begun, ended = threading.Event(), threading.Event()

    class Slow(Service):
        agent = SERVICE.agent

        @operation(Calls.ECHO)
        def echo(self, request: Request) -> None:
            begun.set()
            try:
                list(request.uploads(WAIT))  # until the request is cancelled
            finally:
                ended.set()

    service, conn = Slow(), PacketConnection(ours)
    service.serve_on(conn)
    opened.enter_context(conn)
    client = opened.enter_context(ServiceClient.on(PacketConnection(theirs), agent=CLIENT))
    client.start(Calls.ECHO)
    assert begun.wait(WAIT)
    service.close(WAIT)
    assert ended.is_set()

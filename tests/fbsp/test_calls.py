"""Services as classes and clients whose calls return: the same service object on ZMQ and on packets at once."""

from __future__ import annotations

import errno
import math
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from packetwire import ConnectionEnded, LocalProtocolError, PacketConnection, RequestTimeout
from packetwire.fbsp import (
    ButlerInterface,
    Call,
    ClientError,
    ErrorCode,
    MsgType,
    Request,
    Service,
    ServiceClient,
    ServiceError,
    State,
    StopError,
    Stream,
    operation,
)

from .fake import CLIENT, SERVICE

WAIT = 20


class Calls(ButlerInterface):
    ECHO = 1
    QUICK = 2
    NOTHING = 3
    COUNT = 4
    SUM = 5
    FAIL = 6
    WAIT = 7
    WRONG = 8
    ABSENT = 9
    WHO = 10
    HEADED = 11
    ENDLESS = 12
    STATES = 13
    QUIT = 14
    BROKEN = 15

    @classmethod
    def get_uid(cls) -> uuid.UUID:
        return uuid.UUID(int=77)


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class More(ButlerInterface):
    UPPER = 1

    @classmethod
    def get_uid(cls) -> uuid.UUID:
        return uuid.UUID(int=78)


class Sample(Service):
    agent = SERVICE.agent
    interfaces = (More, Calls)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.waiting = threading.Semaphore(0)
        self.stopped = threading.Semaphore(0)
        self.go_on = threading.Event()
        self.item: Any = b"more"
        self.upload_timeout: float | None = WAIT
        self.ended: list[Any] = []
        self.running = self.most = 0
        self.counting = threading.Lock()

    @operation(Calls.ECHO)
    def echo(self, request: Request) -> Any:
        return request.data

    @operation(Calls.QUICK, inline=True)
    def quick(self, request: Request) -> Any:
        return bytearray(request.data[0])

    @operation(More.UPPER)
    def upper(self, request: Request) -> str:
        return request.data[0].decode().upper()

    @operation(Calls.NOTHING)
    def nothing(self, request: Request) -> None:
        return None

    @operation(Calls.COUNT)
    def count(self, request: Request) -> Any:
        return (b"%d" % number for number in range(int(request.data[0])))

    @operation(Calls.HEADED)
    def headed(self, request: Request) -> Any:
        return Stream([b"1", [b"2", b"3"]], reply="head")

    @operation(Calls.ENDLESS)
    def endless(self, request: Request) -> Any:
        try:
            while True:
                yield self.item
        finally:
            self.stopped.release()

    @operation(Calls.SUM)
    def sum(self, request: Request) -> str:
        return str(sum(int(frame) for frames in request.uploads(self.upload_timeout) for frame in frames))

    @operation(Calls.FAIL)
    def fail(self, request: Request) -> None:
        try:
            raise KeyError("root")
        except KeyError as error:
            raise StopError("refused", code=ErrorCode.CONFLICT) from error

    @operation(Calls.WAIT)
    def wait(self, request: Request) -> str:
        with self.counting:
            self.running += 1
            self.most = max(self.most, self.running)
        self.waiting.release()
        try:
            assert self.go_on.wait(WAIT)
            request.check()
        finally:
            with self.counting:
                self.running -= 1
            self.stopped.release()
        return "done"

    @operation(Calls.STATES)
    def states(self, request: Request) -> bytes:
        for state in (State.READY, State.RUNNING, State.FINISHED):
            request.report(state)
        return b""

    @operation(Calls.WRONG)
    def wrong(self, request: Request) -> object:
        return 1.5

    @operation(Calls.QUIT)
    def quit(self, request: Request) -> None:
        raise SystemExit(3)

    @operation(Calls.BROKEN)
    def broken(self, request: Request) -> None:
        raise Unprintable

    @operation(Calls.WHO)
    def who(self, request: Request) -> list[str]:
        return [request.client.name, request.peer.host]

    def session_closed(self, session: Any, exc: Exception | None) -> None:
        self.ended.append(exc)


class Serving:
    """A service on all carriers at once, and clients of it."""

    def __init__(self, opened: ExitStack, address: str, **kwargs: Any) -> None:
        self.opened = opened
        self.service = opened.enter_context(Sample(**kwargs))
        self.address = self.service.serve(address, linger=0).address

    def on_zmq(self, **kwargs: Any) -> ServiceClient:
        return self.opened.enter_context(ServiceClient.connect(self.address, agent=CLIENT, **kwargs))

    def on_packets(self, **kwargs: Any) -> ServiceClient:
        theirs, ours = socket.socketpair()
        self.opened.enter_context(theirs)
        self.opened.enter_context(ours)
        conn = PacketConnection(ours)
        self.service.serve_on(conn)
        self.opened.enter_context(conn)
        return self.opened.enter_context(ServiceClient.on(PacketConnection(theirs), agent=CLIENT, **kwargs))


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


@pytest.fixture
def serving(opened: ExitStack, tmp_path: Any) -> Iterator[Serving]:
    serving = Serving(opened, f"ipc://{tmp_path}/service")
    yield serving
    serving.service.go_on.set()


@pytest.fixture(params=["on_zmq", "on_packets"])
def connect(serving: Serving, request: pytest.FixtureRequest) -> Callable[..., ServiceClient]:
    connect: Callable[..., ServiceClient] = getattr(serving, request.param)
    return connect


@pytest.fixture
def client(connect: Callable[..., ServiceClient]) -> ServiceClient:
    return connect()


@pytest.mark.parametrize("frames", [[], [b""], [b"a", b"", bytes(100000)]])
def test_a_call_returns_the_frames_of_the_reply(client: ServiceClient, frames: list[bytes]) -> None:
    assert client.call(Calls.ECHO, *frames, timeout=WAIT) == frames


@pytest.mark.parametrize("timeout", [math.inf, 1e10, 25 * 86_400.0])
def test_a_long_time_limit_is_none(connect: Callable[..., ServiceClient], timeout: float) -> None:
    client = connect(timeout=timeout)
    assert client.call(Calls.ECHO, b"x", timeout=timeout) == [b"x"]
    assert client.start(Calls.ECHO, b"x").result(timeout) == [b"x"]
    assert client.ping(timeout) >= 0
    assert list(client.start(Calls.COUNT, b"3", stream=True).stream(timeout)) == [[b"0"], [b"1"], [b"2"]]


@pytest.mark.parametrize(("timeout", "error"), [(math.nan, LocalProtocolError), ("5", TypeError)])
def test_a_wrong_time_limit_is_told_before_anything_is_sent(
    client: ServiceClient, timeout: Any, error: type[Exception]
) -> None:
    with pytest.raises(error, match="timeout must be a number of seconds"):
        client.call(Calls.WAIT, timeout=timeout)
    with pytest.raises(error, match="timeout must be a number of seconds"):
        client.ping(timeout)
    assert client.call(Calls.ECHO, b"x", timeout=WAIT) == [b"x"]


def test_what_an_operation_may_return(client: ServiceClient) -> None:
    assert client.call(Calls.QUICK, bytearray(b"x"), timeout=WAIT) == [b"x"]
    assert client.call(More.UPPER, "grüße", timeout=WAIT) == ["GRÜSSE".encode()]
    assert client.call(Calls.NOTHING, timeout=WAIT) == []
    assert client.call(Calls.WHO, timeout=WAIT) == [b"client", client.peer.host.encode()]


def test_who_the_service_is(client: ServiceClient) -> None:
    assert client.service == SERVICE.agent
    assert client.service_peer.pid > 0
    assert client.protocol.has_api(Calls)


def test_errors_have_code_description_and_causes(client: ServiceClient, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ServiceError, match="refused") as caught:
        client.call(Calls.FAIL, timeout=WAIT)
    assert caught.value.code is ErrorCode.CONFLICT
    assert isinstance(caught.value.__cause__, ServiceError)
    assert str(caught.value.__cause__) == "'root'"
    with pytest.raises(ServiceError, match="a frame is bytes-like or str, not float") as caught:
        client.call(Calls.WRONG, timeout=WAIT)
    assert caught.value.code is ErrorCode.INTERNAL_ERROR
    with pytest.raises(ServiceError, match=r"Calls.ABSENT is not implemented") as caught:
        client.call(Calls.ABSENT, timeout=WAIT)
    assert caught.value.code is ErrorCode.NOT_IMPLEMENTED
    assert client.call(Calls.ECHO, timeout=WAIT) == []


@pytest.mark.parametrize("count", [0, 1, 2, 500])
def test_a_stream_is_an_iterator(client: ServiceClient, count: int) -> None:
    call = client.start(Calls.COUNT, str(count))
    assert [int(frame) for (frame,) in call] == list(range(count))
    assert call.result(WAIT) == []
    assert call.over


def test_a_stream_may_have_a_reply_of_its_own(client: ServiceClient) -> None:
    call = client.start(Calls.HEADED)
    assert call.result(WAIT) == [b"head"]
    assert list(call.stream(WAIT)) == [[b"1"], [b"2", b"3"]]


def test_states_are_reported(client: ServiceClient) -> None:
    states: list[State] = []
    call = client.start(Calls.STATES, on_state=states.append)
    call.result(WAIT)
    assert states == [State.READY, State.RUNNING, State.FINISHED]
    assert call.state is State.FINISHED


@pytest.mark.parametrize("acknowledge", [False, True])
def test_data_is_sent_to_the_service(client: ServiceClient, acknowledge: bool) -> None:
    call = client.start(Calls.SUM, more=True, acknowledge=acknowledge)
    for number in range(100):
        call.send(str(number), "1", more=number < 99, acknowledge=acknowledge, timeout=WAIT)
    assert call.result(WAIT) == [b"5050"]
    assert call.acknowledged is acknowledge


def test_data_for_nothing_is_refused(client: ServiceClient) -> None:
    call = client.start(Calls.ECHO)
    call.result(WAIT)
    call.send("late")
    assert client.call(Calls.ECHO, timeout=WAIT) == []


def test_a_request_is_acknowledged_before_the_work(client: ServiceClient, serving: Serving) -> None:
    call = client.start(Calls.WAIT, acknowledge=True)
    call.wait_acknowledged(WAIT)
    assert call.reply is None
    serving.service.go_on.set()
    assert call.result(WAIT) == [b"done"]


def test_a_call_is_cancelled(client: ServiceClient, serving: Serving) -> None:
    call = client.start(Calls.WAIT)
    assert serving.service.waiting.acquire(timeout=WAIT)
    assert call.cancel(WAIT)
    with pytest.raises(ServiceError) as caught:
        call.result(WAIT)
    assert caught.value.code is ErrorCode.REQUEST_CANCELLED
    serving.service.go_on.set()
    assert serving.service.stopped.acquire(timeout=WAIT)
    assert not call.cancel(WAIT), "it has ended"
    assert client.call(Calls.ECHO, timeout=WAIT) == []


def test_an_endless_stream_is_cancelled(client: ServiceClient, serving: Serving) -> None:
    call = client.start(Calls.ENDLESS)
    received = 0
    with pytest.raises(ServiceError, match="REQUEST_CANCELLED"):
        for _ in call:
            received += 1
            if received == 10:
                assert call.cancel(WAIT)
    assert serving.service.stopped.acquire(timeout=WAIT)


def test_a_timeout_withdraws_the_request(client: ServiceClient, serving: Serving) -> None:
    with pytest.raises(RequestTimeout):
        client.call(Calls.WAIT, timeout=0.05)
    assert client.core.calls == {}
    assert client.call(Calls.ECHO, b"x", timeout=WAIT) == [b"x"]
    serving.service.go_on.set()
    assert serving.service.stopped.acquire(timeout=WAIT)
    assert client.call(Calls.ECHO, b"y", timeout=WAIT) == [b"y"]


def test_a_result_can_be_asked_for_again(client: ServiceClient, serving: Serving) -> None:
    call = client.start(Calls.WAIT)
    with pytest.raises(RequestTimeout):
        call.result(0.01)
    serving.service.go_on.set()
    assert call.result(WAIT) == call.result(WAIT) == [b"done"]


def test_a_timeout_says_how_long_it_was(client: ServiceClient, serving: Serving) -> None:
    with pytest.raises(RequestTimeout, match=r"^Calls.WAIT: nothing within 0\.05 s$"):
        client.call(Calls.WAIT, timeout=0.05)
    serving.service.go_on.set()


def test_a_request_for_which_there_is_no_room(client: ServiceClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time for it is that of the caller, and the session lives on."""
    with monkeypatch.context() as patched:
        patched.setattr(client.channel, "_transmit", lambda zmsg, session: errno.EAGAIN)
        if hasattr(client.channel, "connection"):

            def full(*request: Any, **options: Any) -> None:
                raise RequestTimeout("no room")

            patched.setattr(type(client.channel.connection), "__call__", full)
        with pytest.raises(RequestTimeout, match=r"Calls.ECHO: .* within 0\.05 s"):
            client.call(Calls.ECHO, timeout=0.05)
    assert client.core.calls == {}
    assert client.call(Calls.ECHO, b"x", timeout=WAIT) == [b"x"]


# What does not fit together: how it was asked, and what the service does


@pytest.mark.parametrize("kind", ["on_zmq", "on_packets"])
def test_a_stream_that_was_not_expected(opened: ExitStack, tmp_path: Path, kind: str) -> None:
    """It is withdrawn, so that all threads of the service are there for the next one."""
    threads = 2  # a connection has four handlers
    serving = Serving(opened, f"ipc://{tmp_path}/service", threads=threads)
    client: ServiceClient = getattr(serving, kind)()
    for _ in range(5):
        with pytest.raises(ClientError, match=r"Calls.ENDLESS answers by a stream: ask with start\(\)"):
            client.call(Calls.ENDLESS, timeout=WAIT)
        assert serving.service.stopped.acquire(timeout=WAIT)
    assert client.core.calls == {}
    assert client.call(Calls.ECHO, b"x", timeout=WAIT) == [b"x"]


@pytest.mark.parametrize("operation", [Calls.COUNT, Calls.HEADED])
def test_a_short_stream_that_was_not_expected(client: ServiceClient, operation: Calls) -> None:
    with pytest.raises(ClientError, match="answers by a stream"):
        client.call(operation, "3", timeout=WAIT)
    assert client.core.calls == {}
    assert client.call(Calls.COUNT, "0", timeout=WAIT) == [], "nothing is lost"


def test_a_reply_where_a_stream_was_expected(client: ServiceClient) -> None:
    with pytest.raises(ClientError, match=r"Calls.ECHO has answered by a reply, not by a stream"):
        list(client.start(Calls.ECHO, "x").stream(WAIT))
    assert list(client.start(Calls.NOTHING).stream(WAIT)) == []
    call = client.start(Calls.ECHO, "x")
    assert call.result(WAIT) == [b"x"]
    assert list(call.stream(WAIT)) == []


def test_a_reply_where_an_unannounced_stream_was_expected(client: ServiceClient) -> None:
    call = client.start(Calls.ECHO, "x", stream=True)
    with pytest.raises(RequestTimeout, match=r"nothing within 0\.05 s; it has replied without announcing DATA"):
        list(call.stream(0.05))
    client.abandon(call)
    with pytest.raises(ClientError, match="was withdrawn"):
        list(call.stream(WAIT))


def test_data_that_an_operation_does_not_take(client: ServiceClient, serving: Serving) -> None:
    call = client.start(Calls.WAIT, more=True)
    assert serving.service.waiting.acquire(timeout=WAIT)
    threading.Timer(0.05, serving.service.go_on.set).start()
    with pytest.raises(ClientError, match=r"Calls.WAIT has ended without taking the DATA"):
        call.send("x", acknowledge=True, timeout=WAIT)
    with pytest.raises(ClientError, match=r"without taking the DATA"):
        call.send("late", acknowledge=True, timeout=WAIT)
    assert call.result(WAIT) == [b"done"]
    client.ping(WAIT)
    for channel in serving.service._on_connections:
        assert not channel._open, "no packet request is left without an answer"  # type: ignore[attr-defined]


def test_an_upload_that_does_not_come(opened: ExitStack, tmp_path: Path) -> None:
    serving = Serving(opened, f"ipc://{tmp_path}/service", upload_wait=0.05, threads=1)
    serving.service.upload_timeout = None
    for client in (serving.on_zmq(), serving.on_packets()):
        with pytest.raises(ServiceError, match=r"no DATA within 0\.05 s; the request has announced none") as caught:
            client.call(Calls.SUM, timeout=WAIT)
        assert caught.value.code is ErrorCode.REQUEST_TIMEOUT
        assert client.call(Calls.ECHO, b"x", timeout=WAIT) == [b"x"]
        announced = client.start(Calls.SUM, more=True)
        with pytest.raises(RequestTimeout):
            announced.result(0.1)
        announced.send("1")
        assert announced.result(WAIT) == [b"1"]


# Whatever an operation or a callback raises


@pytest.mark.parametrize("operation", [Calls.QUIT, Calls.BROKEN])
def test_an_operation_that_raises_anything(client: ServiceClient, operation: Calls) -> None:
    """Its thread is there for the next one."""
    for _ in range(10):
        with pytest.raises(ServiceError, match="SystemExit: 3|Unprintable") as caught:
            client.call(operation, timeout=WAIT)
        assert caught.value.code is ErrorCode.INTERNAL_ERROR
    assert client.call(Calls.ECHO, b"x", timeout=WAIT) == [b"x"]


def test_a_callback_that_fails(client: ServiceClient, caplog: pytest.LogCaptureFixture) -> None:
    def fail(state: State) -> None:
        raise ZeroDivisionError

    call = client.start(Calls.STATES, on_state=fail)
    assert call.result(WAIT) == [b""]
    assert call.state is State.FINISHED
    assert caplog.text.count("on_state failed") == 3


def test_a_session_that_cannot_be_begun(serving: Serving, connect: Callable[..., ServiceClient]) -> None:
    def fail(session: Any) -> None:
        raise ZeroDivisionError("no session")

    serving.service.protocol.initialize_session = fail  # type: ignore[method-assign]
    with pytest.raises(ServiceError, match="no session") as caught:
        connect(timeout=WAIT)
    assert caught.value.code is ErrorCode.INTERNAL_ERROR
    assert caught.value.relates_to is MsgType.HELLO  # type: ignore[attr-defined]
    del serving.service.protocol.initialize_session
    assert connect().call(Calls.ECHO, timeout=WAIT) == []


def test_ping(client: ServiceClient) -> None:
    assert client.ping(WAIT) >= 0
    assert client.core.pongs == {}


def test_the_service_closes(client: ServiceClient, serving: Serving) -> None:
    call = client.start(Calls.WAIT)
    assert serving.service.waiting.acquire(timeout=WAIT)
    assert client.session is not None
    channel = next(each for each in all_channels(serving) if each.sessions)
    serving.service.protocol.close(channel)
    with pytest.raises(ConnectionEnded, match="the service has closed the session"):
        call.result(WAIT)
    with pytest.raises(ConnectionEnded):
        client.call(Calls.ECHO, timeout=WAIT)
    with pytest.raises(ConnectionEnded):
        client.ping(WAIT)
    assert serving.service.ended == [None]


def all_channels(serving: Serving) -> list[Any]:
    sessions = list(serving.service.protocol._partners.values())
    assert sessions
    found = list(serving.service._channels)
    found += [request.channel for each in serving.service.core.requests.values() for request in each.values()]
    return found


def test_a_service_that_closes_tells_its_clients(serving: Serving, tmp_path: Path) -> None:
    serving.address = serving.service.serve(f"ipc://{tmp_path}/lingers", linger=WAIT).address
    clients = [serving.on_zmq(), serving.on_packets()]
    calls = [client.start(Calls.SUM, more=True) for client in clients]
    for client in clients:
        client.ping(WAIT)
    serving.service.close()
    for client, call in zip(clients, calls, strict=True):
        with pytest.raises(ConnectionEnded, match="the service has closed the session"):
            call.result(WAIT)
        with pytest.raises(ConnectionEnded):
            client.call(Calls.ECHO, timeout=WAIT)
    assert serving.service.core.requests == {}


def test_a_service_that_was_closed_takes_no_new_client(serving: Serving, opened: ExitStack) -> None:
    theirs, ours = socket.socketpair()
    opened.enter_context(theirs)
    opened.enter_context(ours)
    conn = PacketConnection(ours)
    serving.service.serve_on(conn)
    opened.enter_context(conn)
    serving.service.close()
    client = ServiceClient.on(PacketConnection(theirs), agent=CLIENT, timeout=WAIT)
    with pytest.raises(ConnectionEnded, match="the channel is closed"):
        client.__enter__()


def test_a_client_is_closed_while_others_wait(client: ServiceClient, serving: Serving) -> None:
    calls = [client.start(Calls.WAIT) for _ in range(3)]
    ended: list[Exception] = []

    def wait(call: Call) -> None:
        try:
            call.result(WAIT)
        except ConnectionEnded as error:
            ended.append(error)

    threads = [threading.Thread(target=wait, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for _ in calls:
        assert serving.service.waiting.acquire(timeout=WAIT)
    client.close()
    for thread in threads:
        thread.join(WAIT)
    assert len(ended) == len(calls)


def test_the_client_closes(client: ServiceClient, serving: Serving) -> None:
    call = client.start(Calls.WAIT)
    assert serving.service.waiting.acquire(timeout=WAIT)
    client.close()
    client.close()
    with pytest.raises(ConnectionEnded, match="the client was closed"):
        call.result(WAIT)
    with pytest.raises(ConnectionEnded):
        client.call(Calls.ECHO)
    serving.service.go_on.set()
    assert serving.service.stopped.acquire(timeout=WAIT)
    while not serving.service.ended:
        pass
    assert serving.service.ended == [None]
    assert serving.service.core.requests == {}


def test_many_threads_call_at_once(client: ServiceClient) -> None:
    results: dict[int, list[Any]] = {}

    def work(name: int) -> None:
        results[name] = [
            client.call(Calls.QUICK if number % 2 else Calls.ECHO, b"%d" % number, timeout=WAIT)
            for number in range(100)
        ]

    threads = [threading.Thread(target=work, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT * 3)
    assert results == {name: [[b"%d" % number] for number in range(100)] for name in range(8)}


def test_the_same_service_on_both_carriers_at_once(serving: Serving) -> None:
    clients = [serving.on_zmq(), serving.on_packets(), serving.on_zmq(), serving.on_packets()]
    calls = [client.start(Calls.ECHO, b"%d" % number) for number, client in enumerate(clients)]
    assert [call.result(WAIT) for call in calls] == [[b"%d" % number] for number in range(4)]
    assert len(serving.service.protocol._partners) == 4


def test_one_identity_on_one_route_of_all_carriers(serving: Serving) -> None:
    first = serving.on_zmq()
    with pytest.raises(ServiceError, match="connected over another route") as caught:
        serving.on_packets(peer=first.peer)
    assert caught.value.code is ErrorCode.CONFLICT
    first.close()
    while serving.service.protocol._partners:
        pass
    serving.on_packets(peer=first.peer)


def test_a_refused_client(serving: Serving, connect: Callable[..., ServiceClient]) -> None:
    def refuse(channel: Any, msg: Any) -> None:
        raise StopError("not you", code=ErrorCode.FORBIDDEN)

    serving.service.protocol.on_accept_client = refuse
    with pytest.raises(ServiceError, match="not you") as caught:
        connect()
    assert caught.value.code is ErrorCode.FORBIDDEN


def test_nobody_is_there(opened: ExitStack, tmp_path: Any) -> None:
    client = ServiceClient.connect(f"ipc://{tmp_path}/nothing", agent=CLIENT, timeout=0.1, channel={"linger": 0})
    with pytest.raises(RequestTimeout, match="no link to"):
        client.__enter__()
    ours, theirs = socket.socketpair()
    opened.enter_context(ours)
    opened.enter_context(theirs)
    client = ServiceClient.on(PacketConnection(ours, close_timeout=0.1), agent=CLIENT, timeout=0.1)
    with pytest.raises(RequestTimeout, match="did not answer HELLO"):
        client.__enter__()


def test_a_client_that_is_not_open(opened: ExitStack, tmp_path: Any) -> None:
    client = ServiceClient.connect(f"ipc://{tmp_path}/nothing", agent=CLIENT)
    for use in (lambda: client.call(Calls.ECHO), client.ping, lambda: client.service):
        with pytest.raises(ClientError, match="not connected"):
            use()
    client.channel.close()


def test_more_data_than_may_be_kept(serving: Serving, connect: Callable[..., ServiceClient]) -> None:
    client = connect(max_buffered=1000)
    call = client.start(Calls.ENDLESS)
    assert serving.service.stopped.acquire(timeout=WAIT)
    with pytest.raises(ServiceError) as caught:
        list(call)
    assert caught.value.code is ErrorCode.INSUFFICIENT_STORAGE
    assert client.call(Calls.ECHO, timeout=WAIT) == []


@pytest.mark.parametrize("carrier", ["on_zmq", "on_packets"])
def test_empty_data_takes_room_too(opened: ExitStack, tmp_path: Path, carrier: str) -> None:
    """Of which there could be any amount, if only the bytes in it were counted."""
    serving = Serving(opened, f"ipc://{tmp_path}/service", max_upload=1000)
    client = getattr(serving, carrier)(max_buffered=1000)
    serving.service.item = []
    call = client.start(Calls.ENDLESS)
    assert serving.service.stopped.acquire(timeout=WAIT)
    with pytest.raises(ServiceError, match="more than 1000 bytes of DATA wait") as caught:
        list(call.stream(WAIT))
    assert caught.value.code is ErrorCode.INSUFFICIENT_STORAGE
    call = client.start(Calls.WAIT, more=True)
    assert serving.service.waiting.acquire(timeout=WAIT)
    for _ in range(11):
        call.send(more=True)
    with pytest.raises(ServiceError) as caught:
        call.result(WAIT)
    assert caught.value.code is ErrorCode.PAYLOAD_TOO_LARGE
    serving.service.go_on.set()


def test_an_upload_that_nobody_takes(opened: ExitStack, tmp_path: Any) -> None:
    serving = Serving(opened, f"ipc://{tmp_path}/service", max_upload=1000)
    for client in (serving.on_zmq(), serving.on_packets()):
        call = client.start(Calls.WAIT)
        assert serving.service.waiting.acquire(timeout=WAIT)
        for _ in range(11):
            call.send(bytes(100), more=True)
        with pytest.raises(ServiceError) as caught:
            call.result(WAIT)
        assert caught.value.code is ErrorCode.PAYLOAD_TOO_LARGE
    serving.service.go_on.set()


def test_a_call_from_the_thread_that_reads(client: ServiceClient) -> None:
    caught: list[Exception] = []

    def on_state(state: State) -> None:
        try:
            client.call(Calls.ECHO)
        except LocalProtocolError as error:
            caught.append(error)

    client.start(Calls.STATES, on_state=on_state).result(WAIT)
    assert len(caught) == 3


def test_a_client_over_the_pipes_of_a_child(opened: ExitStack, tmp_path: Any) -> None:
    import sys

    program = tmp_path / "service.py"
    program.write_text(
        "import uuid\n"
        "from packetwire import PacketConnection, stdio\n"
        "from packetwire.fbsp import AgentDescriptor, ButlerInterface\n"
        "from packetwire.fbsp import Service, operation\n"
        "class Calls(ButlerInterface):\n"
        "    ECHO = 1\n"
        "    @classmethod\n"
        "    def get_uid(cls): return uuid.UUID(int=77)\n"
        "class Echo(Service):\n"
        "    agent = AgentDescriptor(uuid.UUID(int=1), 'echo', '1', uuid.UUID(int=2), 'test')\n"
        "    @operation(Calls.ECHO)\n"
        "    def echo(self, request): return request.data\n"
        "with Echo() as service:\n"
        "    conn = PacketConnection(stdio())\n"
        "    service.serve_on(conn)\n"
        "    with conn: conn.join_recv()\n"
    )
    conn = PacketConnection.spawn([sys.executable, str(program)])
    with ServiceClient.on(conn, agent=CLIENT) as client:
        assert client.service.name == "echo"
        assert client.call(Calls.ECHO, b"x", timeout=WAIT) == [b"x"]
    assert conn.closed


def test_calls_have_names_in_errors(client: ServiceClient, serving: Serving) -> None:
    call: Call = client.start(Calls.WAIT)
    with pytest.raises(RequestTimeout, match=r"Calls.WAIT"):
        call.result(0.0)
    serving.service.go_on.set()

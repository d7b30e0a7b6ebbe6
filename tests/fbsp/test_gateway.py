"""Gateways: our client and our service, with a ZMQ endpoint on the one side and a packet stream on the other."""

from __future__ import annotations

import queue
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import zmq

from packetwire import ConnectionEnded, LocalProtocolError, Packet, PacketConnection, connect_to, serve
from packetwire.fbsp import (
    ErrorCode,
    FBSPClient,
    MsgFlag,
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
from packetwire.fbsp.gateway import Gateway
from packetwire.messaging.multipart import join_frames, split_frames

from .fake import CLIENT, CLIENT_PEER, CODEC, OTHER_TOKEN, SERVICE, TOKEN, CountAPI, EchoAPI

pytestmark = pytest.mark.timeout(60)

WAIT = 20
HELLO = FBSPClient().hello_message(CLIENT, CLIENT_PEER)


class Behind(Service):
    agent = SERVICE.agent
    interfaces = (EchoAPI, CountAPI)

    def __init__(self) -> None:
        super().__init__()
        self.began = threading.Semaphore(0)
        self.stopped = threading.Semaphore(0)
        self.closed = threading.Semaphore(0)

    @operation(EchoAPI.ECHO)
    def echo(self, request: Request) -> Any:
        if request.data == [b"fail"]:
            raise StopError("refused", code=ErrorCode.CONFLICT) from KeyError("root")
        return request.data

    @operation(EchoAPI.LATER)
    def later(self, request: Request) -> str:
        """The sum of what is uploaded."""
        request.report(State.RUNNING)
        self.began.release()
        try:
            return str(sum(int(frame) for frames in request.uploads(WAIT) for frame in frames))
        finally:
            self.stopped.release()

    @operation(CountAPI.COUNT)
    def count(self, request: Request) -> Any:
        count, *more = request.data
        return Stream(([b"%d" % number, *more] for number in range(int(count))), b"head")

    def session_closed(self, session: Any, exc: Exception | None) -> None:
        self.closed.release()


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    threads = set(threading.enumerate())
    with ExitStack() as opened:
        yield opened
    for each in set(threading.enumerate()) - threads:
        each.join(WAIT)
        assert not each.is_alive()


class Ends:
    """A service behind a gateway, and clients in front of it."""

    def __init__(self, opened: ExitStack, folder: Path, front: str, back: str) -> None:
        self.opened, self.folder = opened, folder
        self.service = opened.enter_context(Behind())
        if back == "zmq":
            self.b = self.service.serve(f"ipc://{folder}/service", linger=0).address
        else:
            self.b = f"unix:{folder}/service"
            opened.enter_context(serve(self.b, self.serve_on))
        self.a = f"ipc://{folder}/gateway" if front == "zmq" else f"unix:{folder}/gateway"

    def serve_on(self, recv_send: Any) -> PacketConnection:
        conn = PacketConnection(recv_send)
        self.service.serve_on(conn)
        return conn

    def gateway(self, **options: Any) -> Gateway:
        return self.opened.enter_context(Gateway(self.a, self.b, **options))

    def client(self) -> ServiceClient:
        if self.a.startswith("ipc"):
            client = ServiceClient.connect(self.a, agent=CLIENT, channel={"linger": 0})
        else:
            client = ServiceClient.on(PacketConnection(connect_to(self.a)), agent=CLIENT)
        return self.opened.enter_context(client)


@pytest.fixture(params=["zmq-packets", "packets-zmq"])
def ends(request: pytest.FixtureRequest, opened: ExitStack, tmp_path: Path) -> Ends:
    return Ends(opened, tmp_path, *request.param.split("-"))


@pytest.fixture
def client(ends: Ends) -> ServiceClient:
    ends.gateway()
    return ends.client()


def test_calls_streams_states_and_errors(client: ServiceClient) -> None:
    assert client.service == SERVICE.agent
    assert sorted(client.interfaces.values()) == [1, 2]
    assert client.call(EchoAPI.ECHO, b"", b"x" * 300_000, timeout=WAIT) == [b"", b"x" * 300_000]
    counted = client.start(CountAPI.COUNT, b"100")
    assert counted.result(WAIT) == [b"head"]
    assert [int(frame) for (frame,) in counted.stream(WAIT)] == list(range(100))
    with pytest.raises(ServiceError, match="refused") as caught:
        client.call(EchoAPI.ECHO, b"fail", timeout=WAIT)
    assert caught.value.code is ErrorCode.CONFLICT
    assert str(caught.value.__cause__) == "'root'"
    with pytest.raises(ServiceError, match="not implemented"):
        client.call(EchoAPI.UNHANDLED, timeout=WAIT)
    assert client.ping(WAIT) > 0


def test_an_upload_with_acknowledgements(client: ServiceClient) -> None:
    states: list[State] = []
    call = client.start(EchoAPI.LATER, on_state=states.append, more=True, acknowledge=True)
    call.wait_acknowledged(WAIT)
    for number in range(20):
        call.send(str(number), more=number < 19, acknowledge=True, timeout=WAIT)
    assert call.result(WAIT) == [b"190"]
    assert states == [State.RUNNING]


def test_cancel(client: ServiceClient, ends: Ends) -> None:
    call = client.start(EchoAPI.LATER)
    assert ends.service.began.acquire(timeout=WAIT)
    assert call.cancel(WAIT)
    assert ends.service.stopped.acquire(timeout=WAIT)
    with pytest.raises(ServiceError) as caught:
        call.result(WAIT)
    assert caught.value.code is ErrorCode.REQUEST_CANCELLED
    assert client.call(EchoAPI.ECHO, b"x", timeout=WAIT) == [b"x"]


def test_each_client_has_a_session_of_its_own(ends: Ends) -> None:
    ends.gateway()
    clients = [ends.client() for _ in range(3)]
    calls = [(client, client.start(EchoAPI.LATER, more=True)) for client in clients]  # with the same tokens
    for number, (_, call) in enumerate(calls):
        call.send(str(number))
    assert [call.result(WAIT) for _, call in calls] == [[b"0"], [b"1"], [b"2"]]
    waiting = [client.start(EchoAPI.LATER) for client in clients]
    for _ in range(3):
        assert ends.service.began.acquire(timeout=WAIT)
    clients[1].close()
    assert ends.service.closed.acquire(timeout=WAIT)
    assert waiting[0].cancel(WAIT)
    assert waiting[2].cancel(WAIT)


def test_what_the_service_asks_to_have_acknowledged(client: ServiceClient, ends: Ends) -> None:
    service, heard = ends.service, queue.Queue[MsgType]()
    service.protocol.on_ack_received = lambda channel, session, msg: heard.put(msg.msg_type)
    for channel in [*service._channels, *service._on_connections]:
        for session in channel.sessions.values():
            noop = service.protocol.create_message_for(MsgType.NOOP, HELLO.token, flags=MsgFlag.ACK_REQ)
            channel.send(noop, session)
    assert heard.get(timeout=WAIT) is MsgType.NOOP


def test_the_client_says_close(client: ServiceClient, ends: Ends) -> None:
    client.close()
    assert ends.service.closed.acquire(timeout=WAIT)


def test_the_service_says_close(client: ServiceClient, ends: Ends) -> None:
    call = client.start(EchoAPI.LATER)
    assert ends.service.began.acquire(timeout=WAIT)
    ends.service.close()
    with pytest.raises(ConnectionEnded, match="the service has closed"):
        call.result(WAIT)


def test_the_gateway_is_closed(ends: Ends) -> None:
    gateway = ends.gateway()
    assert not gateway.wait(0)
    call = ends.client().start(EchoAPI.LATER)
    assert ends.service.began.acquire(timeout=WAIT)
    assert gateway.clients == 1
    gateway.close()
    assert gateway.wait(WAIT)
    with pytest.raises(ConnectionEnded, match="the service has closed"):
        call.result(WAIT)
    assert ends.service.closed.acquire(timeout=WAIT)
    assert gateway.clients == 0


def test_the_link_to_the_client_is_lost(ends: Ends) -> None:
    """On ZMQ a client is missed when it has been silent, and is probed."""
    gateway = ends.gateway()
    client = ends.client()
    client.start(EchoAPI.LATER)
    assert ends.service.began.acquire(timeout=WAIT)
    if gateway._router is not None:
        gateway._router.idle_limit = 0.05
        client.channel.close()
    else:
        client.channel.connection.close(0)  # type: ignore[attr-defined]
    assert ends.service.closed.acquire(timeout=WAIT)
    assert ends.client().ping(WAIT) > 0


def test_nobody_is_behind_it(ends: Ends) -> None:
    ends.b += "-of-somebody-else"
    ends.gateway(timeout=0.1)
    with pytest.raises(ServiceError) as caught:
        ends.client()
    assert caught.value.code is ErrorCode.SERVICE_UNAVAILABLE


def test_the_service_refuses_a_client(ends: Ends) -> None:
    ends.gateway()

    def refuse(channel: Any, msg: Any) -> None:
        raise StopError("not you", code=ErrorCode.FORBIDDEN)

    ends.service.protocol.on_accept_client = refuse
    with pytest.raises(ServiceError, match="not you") as caught:
        ends.client()
    assert caught.value.code is ErrorCode.FORBIDDEN
    ends.service.protocol.on_accept_client = None
    assert ends.client().ping(WAIT) > 0


def test_the_link_to_the_service_is_lost(opened: ExitStack, tmp_path: Path) -> None:
    ends = Ends(opened, tmp_path, "zmq", "packets")
    ends.gateway()
    call = ends.client().start(EchoAPI.LATER)
    assert ends.service.began.acquire(timeout=WAIT)
    for channel in list(ends.service._on_connections):
        channel.connection.close(0)  # type: ignore[attr-defined]
    with pytest.raises(ConnectionEnded):
        call.result(WAIT)
    assert ends.client().ping(WAIT) > 0


# bounds


def test_a_client_that_is_too_many(opened: ExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ends = Ends(opened, tmp_path, "zmq", "packets")
    ends.gateway(max_clients=1)
    first = ends.client()
    with pytest.raises(ServiceError, match="there are 1 sessions already") as caught:
        ends.client()
    assert caught.value.code is ErrorCode.SERVICE_UNAVAILABLE
    monkeypatch.setattr("packetwire.fbsp.gateway.IDLE_SECONDS", -1.0)
    busy = first.start(EchoAPI.LATER)
    assert ends.service.began.acquire(timeout=WAIT)
    with pytest.raises(ServiceError, match="there are 1 sessions already"):
        ends.client()
    assert busy.cancel(WAIT)
    assert ends.client().ping(WAIT) > 0
    with pytest.raises(ConnectionEnded, match="the service has closed"):
        first.ping(WAIT)


@pytest.fixture
def raw(opened: ExitStack) -> zmq.Socket[bytes]:
    """A client without any rules."""
    context = opened.enter_context(zmq.Context())
    sock = opened.enter_context(context.socket(zmq.DEALER))
    sock.linger, sock.rcvtimeo = 0, WAIT * 1000
    return sock


def received(sock: zmq.Socket[bytes]) -> Any:
    return CODEC.convert_msg(sock.recv_multipart())


@pytest.fixture
def waiting(opened: ExitStack, tmp_path: Path) -> Iterator[Ends]:
    """A gateway that does not come to connect to its service."""
    ends = Ends(opened, tmp_path, "zmq", "packets")
    gateway, go_on = ends.gateway(max_clients=1, max_waiting=100_000), threading.Event()
    connect = gateway.connect

    def wait_and_connect(protocol: Any) -> Any:
        assert go_on.wait(WAIT)
        return connect(protocol)

    gateway.connect = wait_and_connect  # type: ignore[method-assign]
    yield ends
    go_on.set()


def test_a_client_of_whom_too_much_waits(raw: zmq.Socket[bytes], waiting: Ends) -> None:
    raw.connect(waiting.a)
    raw.send_multipart(HELLO.as_zmsg())
    for _ in range(300):
        raw.send_multipart(CODEC.create_message_for(MsgType.NOOP).as_zmsg())
    error = received(raw)
    assert (error.relates_to, error.error_code) == (MsgType.HELLO, ErrorCode.SERVICE_UNAVAILABLE)
    assert "bytes of a client wait" in error.errors[0].description


def test_a_client_that_comes_and_goes(raw: zmq.Socket[bytes], waiting: Ends) -> None:
    """Each time a connection is made, which takes its time."""
    raw.connect(waiting.a)
    for _ in range(3):
        raw.send_multipart(HELLO.as_zmsg())
        raw.send_multipart(CODEC.create_message_for(MsgType.CLOSE).as_zmsg())
    error = received(raw)
    assert (error.relates_to, error.error_code) == (MsgType.HELLO, ErrorCode.SERVICE_UNAVAILABLE)
    assert "too many connections" in error.errors[0].description


def in_packet(msg: Any, tag: int) -> bytes:
    """The packet request that carries a message."""
    payload = join_frames(msg.as_zmsg())
    return bytes(Packet(is_request=True, tag=tag, rq_type=msg.msg_type + 1, flags=int(msg.flags), payload=payload))


def test_a_client_that_takes_nothing_hinders_nobody(ends: Ends, raw: zmq.Socket[bytes]) -> None:
    gateway, much = ends.gateway(), CODEC.create_message_for(MsgType.REQUEST, TOKEN, 0x201)
    much.data = [b"20000", bytes(100_000)]
    other = ends.client()
    with ExitStack() as opened:
        if gateway._router is not None:
            gateway._router.patience = 0.2
            raw.rcvhwm = 1
            raw.connect(ends.a)
            raw.send_multipart(HELLO.as_zmsg())
            raw.send_multipart(much.as_zmsg())
        else:
            sock = opened.enter_context(socket.socket(socket.AF_UNIX))
            sock.connect(ends.a.removeprefix("unix:"))
            sock.sendall(in_packet(HELLO, 2))
            while len(gateway._channels) < 2:
                pass
            for channel in gateway._channels:
                channel.patience = 0.2
            sock.sendall(in_packet(much, 3))
        assert not ends.service.closed.acquire(blocking=False)
        assert other.call(EchoAPI.ECHO, b"x", timeout=WAIT) == [b"x"]
        assert ends.service.closed.acquire(timeout=WAIT)
        assert other.call(EchoAPI.ECHO, b"x", timeout=WAIT) == [b"x"]
        while gateway.clients > 1:  # its connection ends a moment later
            pass


# rules


def test_what_is_no_message_goes_no_further(raw: zmq.Socket[bytes], opened: ExitStack, tmp_path: Path) -> None:
    ends = Ends(opened, tmp_path, "zmq", "packets")
    ends.gateway()
    raw.connect(ends.a)
    for frames, code in (
        ([b"nonsense"], ErrorCode.INVALID_MESSAGE),
        (CODEC.create_message_for(MsgType.REQUEST, TOKEN, 0x101).as_zmsg(), ErrorCode.PROTOCOL_VIOLATION),
    ):
        raw.send_multipart(frames)
        assert received(raw).error_code == code
    raw.send_multipart(HELLO.as_zmsg())
    assert received(raw).msg_type is MsgType.WELCOME
    later = CODEC.create_message_for(MsgType.REQUEST, TOKEN, 0x102).as_zmsg()
    raw.send_multipart(later)
    assert received(raw).msg_type is MsgType.STATE
    raw.send_multipart(later)
    error = received(raw)
    assert (error.error_code, error.errors[0].description) == (
        ErrorCode.PROTOCOL_VIOLATION,
        f"the token {TOKEN.hex()} belongs to a request without an answer",
    )
    raw.send_multipart(HELLO.as_zmsg())
    assert received(raw).msg_type is MsgType.WELCOME
    for msg_type in MsgType.STATE, MsgType.REPLY, MsgType.WELCOME:
        raw.send_multipart(CODEC.create_message_for(msg_type, TOKEN).as_zmsg())
        assert received(raw).error_code == ErrorCode.PROTOCOL_VIOLATION


def test_a_packet_response_has_the_message_that_concludes_its_request(opened: ExitStack, tmp_path: Path) -> None:
    ends = Ends(opened, tmp_path, "packets", "zmq")
    ends.gateway()
    conn = opened.enter_context(PacketConnection(connect_to(ends.a)))
    conn.attach(0, lambda event: b"")

    def ask(msg: Any) -> Any:
        return conn.submit(int(msg.msg_type), int(msg.flags), join_frames(msg.as_zmsg()))

    def answer(asked: Any) -> Any:
        return CODEC.convert_msg(split_frames(asked()[-1]))

    assert answer(ask(HELLO)).msg_type is MsgType.WELCOME
    noop = answer(ask(CODEC.create_message_for(MsgType.NOOP, TOKEN, flags=MsgFlag.ACK_REQ)))
    assert (noop.msg_type, noop.flags) == (MsgType.NOOP, MsgFlag.ACK_REPLY)
    later = ask(CODEC.create_message_for(MsgType.REQUEST, TOKEN, 0x102))
    assert ends.service.began.acquire(timeout=WAIT)
    cancel = CODEC.create_message_for(MsgType.CANCEL, OTHER_TOKEN)
    cancel.request.token = TOKEN
    error = answer(ask(cancel))
    assert (error.relates_to, error.error_code) == (MsgType.CANCEL, ErrorCode.REQUEST_CANCELLED)
    assert later()[-1] == b"", "a request that is cancelled is answered by nothing"


@pytest.mark.parametrize(
    ("a", "b", "options", "text"),
    [
        ("ipc://a", "unix:b", {"allow_uids": [1]}, "ipc://a has no use for allow_uids"),
        ("unix:a", "ipc://b", {"server_name": "x"}, "ipc://b has no use for server_name"),
        ("unix:a", "unix:b", {"server_name": "x"}, "unix:b has no use for an ssl_context or a server_name"),
        ("exec:true", "ipc://b", {}, "exec:true"),
        ("nothing", "ipc://b", {}, "nothing"),
        ("ipc://a", "unix:b", {"max_clients": 0}, "max_clients"),
    ],
)
def test_what_makes_no_sense(a: str, b: str, options: dict[str, Any], text: str) -> None:
    with pytest.raises(LocalProtocolError, match=re.escape(text)):
        Gateway(a, b, **options)


def test_an_endpoint_that_cannot_be_listened_at(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nowhere"):
        Gateway(f"ipc://{tmp_path}/nowhere/socket", "exec:true")

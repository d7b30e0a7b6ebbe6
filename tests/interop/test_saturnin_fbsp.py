"""Live Saturnin 0.10.0, both ways: its service and our client, our service and its two clients.

Through a gateway our end is on a packet stream.
"""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from saturnin_process import SaturninPeer

from packetwire import ConnectionEnded, PacketConnection, connect_to, serve
from packetwire.fbsp import (
    VENDOR_UID,
    AgentDescriptor,
    AsyncRequest,
    AsyncService,
    AsyncServiceClient,
    ButlerInterface,
    ErrorCode,
    MsgFlag,
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
from packetwire.messaging.shared import SharedChannel

pytestmark = pytest.mark.timeout(120)

WAIT = 30
ACK_REQ, ACK_REPLY, MORE = int(MsgFlag.ACK_REQ), int(MsgFlag.ACK_REPLY), int(MsgFlag.MORE)
TOKEN, OTHER = "01" * 8, "02" * 8


class Calls(ButlerInterface):
    ECHO = 1
    STREAM = 2
    STATES = 3
    SUM = 4
    FAIL = 5
    SLOW = 6
    ACKNOWLEDGED = 7

    @classmethod
    def get_uid(cls) -> uuid.UUID:
        return uuid.UUID(int=0x5A7)


def agent(name: str) -> AgentDescriptor:
    return AgentDescriptor(uuid.UUID(int=0x33), name, "1.0", VENDOR_UID, "test/peer")


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    """After the test the threads are what they were; descriptors ZMQ closes in its own time."""
    threads = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) - threads == set()


@pytest.fixture(params=["ipc", "tcp", "gateway"])
def way(request: pytest.FixtureRequest) -> str:
    way: str = request.param
    return way


@pytest.fixture
def address(way: str, tmp_path: Path) -> str:
    return "tcp://127.0.0.1:*" if way == "tcp" else f"ipc://{tmp_path}/service"


# Saturnin's service, our client


@pytest.fixture
def service(saturnin: Path, address: str) -> Iterator[SaturninPeer]:
    with SaturninPeer(saturnin, "service", address) as service:
        yield service


@pytest.fixture
def client(service: SaturninPeer, way: str, tmp_path: Path) -> Iterator[ServiceClient]:
    with ExitStack() as opened:
        if way == "gateway":
            gateway = opened.enter_context(Gateway(f"unix:{tmp_path}/gateway", service.address))
            conn = PacketConnection(connect_to(str(gateway.address)))
            client = ServiceClient.on(conn, agent=agent("our-client"))
        else:
            client = ServiceClient.connect(service.address, agent=agent("our-client"), channel={"linger": 0})
        yield opened.enter_context(client)


def wait_for_events(service: SaturninPeer, *expected: list[str]) -> None:
    """Wait until it has noted so many events, which are to be these."""
    while len(events := service.ask("events")) < len(expected):
        pass
    assert events == list(expected)


def test_welcome(client: ServiceClient) -> None:
    assert client.service.name == "saturnin-service"
    assert client.service_peer.host == "svc-host"
    assert client.protocol.has_api(Calls)


def test_noop(client: ServiceClient, service: SaturninPeer) -> None:
    assert client.ping(WAIT) >= 0
    service.ask("noop")
    assert client.ping(WAIT) >= 0
    wait_for_events(service, ["acknowledged", "NOOP"])


@pytest.mark.parametrize("frames", [[], [b""], [b"a", b"", bytes(range(256)) * 1000]])
def test_request_and_reply(client: ServiceClient, frames: list[bytes]) -> None:
    assert client.call(Calls.ECHO, *frames, timeout=WAIT) == frames


def test_acknowledgements_both_ways(client: ServiceClient, service: SaturninPeer) -> None:
    call = client.start(Calls.ECHO, b"x", acknowledge=True)
    call.wait_acknowledged(WAIT)
    assert call.acknowledged
    assert call.result(WAIT) == [b"x"]
    assert client.call(Calls.ACKNOWLEDGED, b"y", timeout=WAIT) == [b"y"]
    wait_for_events(service, ["acknowledged", "REPLY"])


def test_a_stream_of_its(client: ServiceClient, service: SaturninPeer) -> None:
    call = client.start(Calls.STREAM)
    assert list(call.stream(WAIT)) == [[b"0"], [b"1"], [b"2"]]
    wait_for_events(service, *[["acknowledged", "DATA"]] * 3)


def test_states_of_its(client: ServiceClient, service: SaturninPeer) -> None:
    states: list[State] = []
    client.start(Calls.STATES, on_state=states.append).result(WAIT)
    assert states == [State.READY, State.RUNNING, State.FINISHED]
    wait_for_events(service, *[["acknowledged", "STATE"]] * 3)


def test_an_upload_to_it(client: ServiceClient) -> None:
    call = client.start(Calls.SUM, more=True)
    for number in range(20):
        call.send(str(number), "1", more=number < 19, acknowledge=True, timeout=WAIT)
    assert call.result(WAIT) == [b"210"]


def test_an_error_of_its_with_causes(client: ServiceClient) -> None:
    with pytest.raises(ServiceError, match="refused") as caught:
        client.call(Calls.FAIL, timeout=WAIT)
    assert caught.value.code is ErrorCode.CONFLICT
    assert "root" in str(caught.value.__cause__)


def test_cancel_at_its(client: ServiceClient) -> None:
    call = client.start(Calls.SLOW, acknowledge=True)
    call.wait_acknowledged(WAIT)
    assert call.cancel(WAIT)
    with pytest.raises(ServiceError) as caught:
        call.result(WAIT)
    assert caught.value.code is ErrorCode.REQUEST_CANCELLED
    assert client.call(Calls.ECHO, b"x", timeout=WAIT) == [b"x"]


def test_its_close(client: ServiceClient, service: SaturninPeer) -> None:
    call = client.start(Calls.SLOW)
    client.ping(WAIT)
    service.ask("close")
    with pytest.raises(ConnectionEnded, match="the service has closed"):
        call.result(WAIT)


def test_our_close(client: ServiceClient, service: SaturninPeer) -> None:
    client.close()
    wait_for_events(service, ["closed", "CLOSE"])


# our service, Saturnin's clients


class Ours(Service):
    agent = agent("our-service")
    interfaces = (Calls,)

    def __init__(self) -> None:
        super().__init__()
        self.address = ""
        self.acknowledged: list[str] = []
        self.stopped = threading.Event()
        self.closed = threading.Event()
        self.protocol.on_ack_received = lambda channel, session, msg: self.acknowledged.append(msg.msg_type.name)
        self.protocol.register_api_handler(Calls.ACKNOWLEDGED, ask_for_acknowledgements)

    @operation(Calls.ECHO)
    def echo(self, request: Request) -> list[bytes]:
        return request.data

    @operation(Calls.STREAM)
    def stream(self, request: Request) -> Stream:
        return Stream([b"0", b"1", b"2"])

    @operation(Calls.STATES)
    def states(self, request: Request) -> None:
        for state in (State.READY, State.RUNNING, State.FINISHED):
            msg = request.protocol.create_state_for(request.msg, state)
            msg.flags = MsgFlag.ACK_REQ
            request.channel.send(msg, request.session)

    @operation(Calls.SUM)
    def sum(self, request: Request) -> str:
        return str(sum(int(frame) for frames in request.uploads(WAIT) for frame in frames))

    @operation(Calls.FAIL)
    def fail(self, request: Request) -> None:
        try:
            raise KeyError("root")
        except KeyError as error:
            raise StopError("refused", code=ErrorCode.CONFLICT) from error

    @operation(Calls.SLOW)
    def slow(self, request: Request) -> None:
        try:
            list(request.uploads(WAIT))
        finally:
            self.stopped.set()

    def session_closed(self, session: Any, exc: Exception | None) -> None:
        self.closed.set()

    def serve_packets(self, recv_send: Any) -> PacketConnection:
        conn = PacketConnection(recv_send)
        self.serve_on(conn)
        return conn

    def channels(self) -> list[SharedChannel]:
        return [*self._channels, *self._on_connections]


def ask_for_acknowledgements(channel: Any, session: Any, msg: Any, protocol: Any) -> None:
    """A REPLY and DATA that the client shall acknowledge."""
    reply = protocol.create_reply_for(msg)
    reply.flags = MsgFlag.ACK_REQ | MsgFlag.MORE
    channel.send(reply, session)
    data = protocol.create_data_for(msg)
    data.data = msg.data
    data.flags = MsgFlag.ACK_REQ
    channel.send(data, session)


Connect = Callable[[str], SaturninPeer]


@pytest.fixture
def ours(address: str, way: str, tmp_path: Path) -> Iterator[Ours]:
    with ExitStack() as opened:
        ours = opened.enter_context(Ours())
        if way == "gateway":
            server = opened.enter_context(serve(f"unix:{tmp_path}/packets", ours.serve_packets))
            ours.address = str(opened.enter_context(Gateway(address, server.address)).address)
        else:
            ours.address = ours.serve(address).address
        yield ours


@pytest.fixture
def connect(saturnin: Path, ours: Ours) -> Iterator[Connect]:
    with ExitStack() as opened:

        def connect(kind: str) -> SaturninPeer:
            peer = opened.enter_context(SaturninPeer(saturnin, kind, ours.address))
            peer.ask("hello")
            return peer

        yield connect


@pytest.fixture
def raw(connect: Connect) -> SaturninPeer:
    peer = connect("raw")
    assert (welcome := peer.receive())["type"] == "WELCOME"
    assert welcome["name"] == "our-service"
    return peer


def brief(msg: Any) -> tuple[str, int, Any]:
    return msg["type"], msg["flags"], msg.get("data")


def test_its_raw_client(raw: SaturninPeer, ours: Ours) -> None:
    raw.ask("noop", 78, ACK_REQ)
    assert raw.receive() is None, "a raw client of Saturnin does not see it"
    raw.ask("request", "ECHO", TOKEN, ["a", "", "b"], ACK_REQ)
    assert brief(raw.receive())[:2] == ("REQUEST", ACK_REPLY)
    assert brief(raw.receive()) == ("REPLY", 0, ["a", "", "b"])
    raw.ask("request", "STREAM", TOKEN, [], 0)
    assert [brief(raw.receive()) for _ in range(4)] == [
        ("REPLY", MORE, []),
        ("DATA", MORE, ["0"]),
        ("DATA", MORE, ["1"]),
        ("DATA", 0, ["2"]),
    ]
    raw.ask("request", "STATES", TOKEN, [], 0)
    assert [raw.receive()["state"] for _ in range(3)] == [1, 2, 5]
    assert raw.receive()["type"] == "REPLY"


def test_an_upload_of_its(raw: SaturninPeer) -> None:
    raw.ask("request", "SUM", TOKEN, [], MORE)
    for number in range(10):
        raw.ask("data", TOKEN, [str(number)], ACK_REQ | (MORE if number < 9 else 0))
        assert brief(raw.receive())[:2] == ("DATA", ACK_REPLY | (MORE if number < 9 else 0))
    assert brief(raw.receive()) == ("REPLY", 0, ["45"])


def test_an_error_for_it_with_causes(raw: SaturninPeer) -> None:
    raw.ask("request", "FAIL", TOKEN, [], 0)
    error = raw.receive()
    assert (error["type"], error["code"], error["relates_to"]) == ("ERROR", ErrorCode.CONFLICT, "REQUEST")
    assert error["errors"] == ["refused", "'root'"]


def test_cancel_of_its(raw: SaturninPeer, ours: Ours) -> None:
    raw.ask("request", "SLOW", TOKEN, [], ACK_REQ)
    assert brief(raw.receive())[:2] == ("REQUEST", ACK_REPLY)
    raw.ask("cancel", OTHER, TOKEN)
    error = raw.receive()
    assert (error["code"], error["relates_to"], error["token"]) == (ErrorCode.REQUEST_CANCELLED, "CANCEL", OTHER)
    assert ours.stopped.wait(WAIT)


def test_acknowledgements_of_its(raw: SaturninPeer, ours: Ours) -> None:
    raw.ask("request", "ACKNOWLEDGED", TOKEN, ["x"], 0)
    assert brief(raw.receive()) == ("REPLY", ACK_REQ | MORE, [])
    raw.ask("acknowledge")
    assert brief(raw.receive()) == ("DATA", ACK_REQ, ["x"])
    raw.ask("acknowledge")
    raw.ask("request", "ECHO", OTHER, [], 0)
    assert brief(raw.receive())[0] == "REPLY", "what it has said before was heard"
    assert ours.acknowledged == ["REPLY", "DATA"]


def test_cancel_and_upload_of_its_event_client(connect: Connect, ours: Ours) -> None:
    peer = connect("event")
    peer.ask("events", 1)
    peer.ask("request", "SUM", TOKEN, [], MORE)
    for number in range(4):
        peer.ask("data", TOKEN, [str(number)], ACK_REQ | (MORE if number < 3 else 0))
    events = peer.ask("events", 5)
    assert sorted(event[0] for event in events) == ["on_ack_received"] * 4 + ["reply"]
    assert events[-1][1]["data"] == ["6"]
    peer.ask("request", "SLOW", TOKEN, [], ACK_REQ)
    assert [event[0] for event in peer.ask("events", 1)] == ["on_ack_received"]
    peer.ask("cancel", OTHER, TOKEN)
    ((name, error),) = peer.ask("events", 1)
    assert (name, error["code"], error["relates_to"]) == ("on_error", ErrorCode.REQUEST_CANCELLED, "CANCEL")
    assert ours.stopped.wait(WAIT)
    peer.ask("request", "ACKNOWLEDGED", OTHER, ["y"], 0)
    assert [event[0] for event in peer.ask("events", 2)] == ["reply", "on_data"]
    peer.ask("request", "ECHO", TOKEN, [], 0)
    peer.ask("events", 1)
    assert ours.acknowledged == ["REPLY", "DATA"]


@pytest.mark.parametrize("kind", ["raw", "event"])
def test_close_of_its(connect: Connect, ours: Ours, kind: str) -> None:
    peer = connect(kind)
    if kind == "raw":
        assert peer.receive()["type"] == "WELCOME"
    else:
        assert [event[0] for event in peer.ask("events", 1)] == ["on_service_connected"]
    peer.ask("close")
    assert ours.closed.wait(WAIT)


def test_close_for_it(raw: SaturninPeer, ours: Ours) -> None:
    for channel in ours.channels():
        ours.protocol.close(channel)
    assert raw.receive()["type"] == "CLOSE"


def test_its_event_client(connect: Connect, ours: Ours) -> None:
    peer = connect("event")
    assert [event[0] for event in peer.ask("events", 1)] == ["on_service_connected"]
    peer.ask("noop", 5, ACK_REQ)
    assert [event[0] for event in peer.ask("events", 1)] == ["on_ack_received"]
    peer.ask("request", "ECHO", TOKEN, ["x"], ACK_REQ)
    acknowledged, reply = peer.ask("events", 2)
    assert (acknowledged[0], reply[0], reply[1]["data"]) == ("on_ack_received", "reply", ["x"])
    peer.ask("request", "STATES", TOKEN, [], 0)
    assert [event[0] for event in peer.ask("events", 4)] == ["on_state"] * 3 + ["reply"]
    peer.ask("request", "STREAM", TOKEN, [], 0)
    assert [event[0] for event in peer.ask("events", 4)] == ["reply"] + ["on_data"] * 3
    peer.ask("request", "FAIL", TOKEN, [], 0)
    ((name, error),) = peer.ask("events", 1)
    assert (name, error["errors"]) == ("on_error", ["refused", "'root'"])
    for channel in ours.channels():
        for session in channel.sessions.values():
            channel.send(ours.protocol.create_message_for(3, bytes(8), 9, MsgFlag.ACK_REQ), session)  # type: ignore[arg-type]
    assert [event[0] for event in peer.ask("events", 1)] == ["on_noop"]
    peer.ask("noop", 6, ACK_REQ)
    peer.ask("events", 1)
    assert ours.acknowledged == ["STATE"] * 3 + ["NOOP"]
    for channel in ours.channels():
        ours.protocol.close(channel)
    assert [event[0] for event in peer.ask("events", 1)] == ["on_session_closed"]


# in an event loop


@pytest.mark.parametrize("way", ["ipc", "tcp"])
def test_our_client_in_a_loop(service: SaturninPeer) -> None:
    async def main() -> None:
        client = AsyncServiceClient.connect(service.address, agent=agent("our-client"), channel={"linger": 0})
        async with client:
            assert await client.ping(WAIT) >= 0
            assert await client.call(Calls.ECHO, b"x", timeout=WAIT) == [b"x"]
            streamed = await client.start(Calls.STREAM)
            assert [frames async for frames in streamed.stream(WAIT)] == [[b"0"], [b"1"], [b"2"]]
            states: list[State] = []
            await (await client.start(Calls.STATES, on_state=states.append)).result(WAIT)
            assert states == [State.READY, State.RUNNING, State.FINISHED]
            call = await client.start(Calls.SUM, more=True)
            for number in range(20):
                await call.send(str(number), more=number < 19, acknowledge=True, timeout=WAIT)
            assert await call.result(WAIT) == [b"190"]
            with pytest.raises(ServiceError) as caught:
                await client.call(Calls.FAIL, timeout=WAIT)
            assert caught.value.code is ErrorCode.CONFLICT
            call = await client.start(Calls.SLOW, acknowledge=True)
            await call.wait_acknowledged(WAIT)
            assert await call.cancel(WAIT)

    asyncio.run(main())


class OursInALoop(AsyncService):
    agent = agent("our-service")
    interfaces = (Calls,)

    @operation(Calls.ECHO)
    async def echo(self, request: AsyncRequest) -> list[bytes]:
        return request.data

    @operation(Calls.STREAM)
    def stream(self, request: AsyncRequest) -> Stream:
        return Stream([b"0", b"1", b"2"])

    @operation(Calls.SUM)
    async def sum(self, request: AsyncRequest) -> str:
        return str(sum([int(frame) async for frames in request.uploads(WAIT) for frame in frames]))

    @operation(Calls.SLOW)
    async def slow(self, request: AsyncRequest) -> None:
        await asyncio.get_running_loop().create_future()


@pytest.mark.parametrize("way", ["ipc", "tcp"])
def test_our_service_in_a_loop(saturnin: Path, address: str) -> None:
    async def main() -> None:
        async with OursInALoop() as service:
            bound = service.serve(address, linger=0).address
            await asyncio.to_thread(its_client, SaturninPeer(saturnin, "raw", bound))

    asyncio.run(main())


def its_client(raw: SaturninPeer) -> None:
    with raw:
        raw.ask("hello")
        assert raw.receive()["name"] == "our-service"
        raw.ask("request", "ECHO", TOKEN, ["a", ""], ACK_REQ)
        assert brief(raw.receive())[:2] == ("REQUEST", ACK_REPLY)
        assert brief(raw.receive()) == ("REPLY", 0, ["a", ""])
        raw.ask("request", "STREAM", TOKEN, [], 0)
        assert [brief(raw.receive())[:2] for _ in range(4)] == [
            ("REPLY", MORE),
            ("DATA", MORE),
            ("DATA", MORE),
            ("DATA", 0),
        ]
        raw.ask("request", "SUM", TOKEN, [], MORE)
        for number in range(10):
            raw.ask("data", TOKEN, [str(number)], MORE if number < 9 else 0)
        assert brief(raw.receive()) == ("REPLY", 0, ["45"])
        raw.ask("request", "SLOW", TOKEN, [], 0)
        raw.ask("cancel", OTHER, TOKEN)
        assert raw.receive()["code"] == ErrorCode.REQUEST_CANCELLED
        raw.ask("close")

"""Where brokers are found, who may come in, and that sockets end."""

from __future__ import annotations

import os
import socket
import stat
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest
import zmq
import zmq.asyncio

from packetwire.errors import ConnectionEnded, LocalProtocolError
from packetwire.hololinked import (
    ZMQ_TRANSPORTS,
    AsyncEventConsumer,
    AsyncZMQClient,
    AsyncZMQServer,
    BaseAsyncZMQ,
    BaseSyncZMQ,
    BaseZMQ,
    BaseZMQClient,
    BaseZMQServer,
    EventConsumer,
    EventPublisher,
    HandshakeFailed,
    SyncZMQClient,
    sockets,
)
from packetwire.hololinked.sockets import endpoint_of, ipc_path
from packetwire.streams.curve import CurveClient, CurveServer, curve_keys

from .conftest import Connect
from .running import SERVER_ID, RunningServer

pytestmark = pytest.mark.timeout(110)


@pytest.fixture(autouse=True)
def _own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers that are found by their names are found there."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def test_the_bases_are_those_of_the_reference() -> None:
    assert issubclass(AsyncZMQServer, BaseZMQServer)
    assert issubclass(AsyncZMQServer, BaseAsyncZMQ)
    assert issubclass(SyncZMQClient, BaseZMQClient)
    assert issubclass(SyncZMQClient, BaseSyncZMQ)
    assert issubclass(AsyncZMQClient, BaseZMQClient)
    assert issubclass(AsyncZMQClient, BaseAsyncZMQ)
    assert issubclass(EventPublisher, BaseSyncZMQ)
    assert issubclass(EventConsumer, BaseSyncZMQ)
    assert issubclass(AsyncEventConsumer, BaseAsyncZMQ)
    assert all(issubclass(each, BaseZMQ) for each in (BaseZMQServer, BaseZMQClient, BaseSyncZMQ, BaseAsyncZMQ))


@pytest.mark.parametrize(
    ("access_point", "endpoint"),
    [
        ("IPC", "ipc://{tmp}/hololinked/a/b.ipc"),
        ("ipc", "ipc://{tmp}/hololinked/a/b.ipc"),
        (ZMQ_TRANSPORTS.IPC, "ipc://{tmp}/hololinked/a/b.ipc"),
        ("ipc:///run/x.ipc", "ipc:///run/x.ipc"),
        ("ipc:///run/x", "ipc:///run/x.ipc"),
        ("INPROC", "inproc://a/b"),
        ("inproc://elsewhere", "inproc://elsewhere"),
        ("TCP", ""),
        (ZMQ_TRANSPORTS.TCP, ""),
        ("tcp://127.0.0.1:5600", "tcp://127.0.0.1:5600"),
    ],
)
def test_where_a_server_is(access_point: str, endpoint: str, tmp_path: Path) -> None:
    assert endpoint_of("a/b", access_point) == endpoint.format(tmp=tmp_path)


@pytest.mark.parametrize("access_point", ["UDP", "http://x", "", "pgm://x"])
def test_there_are_no_others(access_point: str) -> None:
    with pytest.raises(NotImplementedError, match="TCP, IPC and INPROC"):
        endpoint_of("a", access_point)


@pytest.mark.parametrize("name", ["../a", "a/../../b", "..", "/", "", "a\0b"])
def test_a_name_does_not_leave_its_directory(name: str) -> None:
    with pytest.raises(LocalProtocolError):
        ipc_path(name)


@pytest.mark.parametrize("transport", list(ZMQ_TRANSPORTS))
@pytest.mark.parametrize("how", ["transport", "access_point"])
def test_get_socket(transport: str, how: str) -> None:
    context: zmq.Context[Any] = zmq.Context()
    named: dict[str, Any] = {how: transport}
    server, address = BaseZMQ.get_socket(id="s", node_type="server", context=context, **named)
    assert address.startswith(f"{transport.lower()}://")
    client, same = BaseZMQ.get_socket(
        socket_id="c", server_id="s", node_type="client", context=context, socket_address=address
    )
    assert same == address
    assert (server.routing_id, client.routing_id) == (b"s", b"c")
    assert server.type == client.type == zmq.ROUTER
    server.close(0)
    client.close(0)
    context.term()


def test_get_socket_refuses() -> None:
    context: zmq.Context[Any] = zmq.Context()
    for error, options in [
        (RuntimeError, {"id": "c", "node_type": "client", "transport": "TCP"}),
        (ValueError, {"id": "c", "node_type": "friend"}),
        (ValueError, {"node_type": "server"}),
        (NotImplementedError, {"id": "s", "node_type": "server", "transport": "UDP"}),
        (LocalProtocolError, {"id": "x" * 256, "node_type": "server", "transport": "INPROC"}),
        (OSError, {"id": "s", "node_type": "server", "access_point": "tcp://256.0.0.1:5"}),
        (OSError, {"id": "s" * 200, "node_type": "server", "transport": "IPC"}),
    ]:
        with pytest.raises(error):  # type: ignore[call-overload]
            BaseZMQ.get_socket(context=context, **options)
    context.term()  # waits if a socket is left


def test_sockets_of_both_faces() -> None:
    for kind, expected in ((BaseSyncZMQ, zmq.Socket), (BaseAsyncZMQ, zmq.asyncio.Socket)):
        with kind("a broker") as broker:
            assert broker.closed
            broker.create_socket(transport="INPROC", socket_type=zmq.PUB)
            assert type(broker.socket) is expected
            assert broker.socket_address == "inproc://a broker"
            with pytest.raises(ValueError, match="has its socket already"):
                broker.create_socket(transport="INPROC")
        assert broker.closed
        broker.exit()
    with pytest.raises(TypeError, match="asyncio"):
        BaseAsyncZMQ("x").create_socket(context=zmq.Context.instance())


def test_a_broker_that_is_forgotten_closes_its_socket() -> None:
    broker = BaseSyncZMQ("x")
    broker.create_socket(transport="INPROC")
    kept = broker.socket
    assert kept is not None
    del broker
    assert kept.closed


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """An address that is in use is not tried for long."""
    monkeypatch.setattr(sockets, "BUSY_SECONDS", 0.03)


@pytest.mark.usefixtures("_impatient")
def test_a_busy_tcp_port_is_not_the_end(caplog: pytest.LogCaptureFixture) -> None:
    first = EventPublisher("one", access_point="tcp://127.0.0.1:*")
    assert first.socket_address
    with first, EventPublisher("two", access_point=first.socket_address) as second:
        assert second.socket_address
        assert second.socket_address != first.socket_address
        assert second.socket_address.startswith("tcp://127.0.0.1:")
        assert "is in use: listening at" in caplog.text
    with EventPublisher("a", access_point="TCP") as one, EventPublisher("b", access_point="TCP") as other:
        assert one.socket_address != other.socket_address


@pytest.mark.usefixtures("_impatient")
def test_a_living_server_keeps_its_file(tmp_path: Path) -> None:
    with EventPublisher("one"):
        path = tmp_path / "hololinked" / "one.ipc"
        assert stat.S_ISSOCK(path.stat().st_mode)
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        with pytest.raises(OSError, match="another server listens"):
            EventPublisher("one")


def test_a_dead_server_does_not(tmp_path: Path) -> None:
    path = tmp_path / "hololinked" / "one.ipc"
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert path.exists()
    with EventPublisher("one") as publisher:
        assert publisher.socket_address == f"ipc://{path}"


def test_brokers_find_each_other_by_name(connect: Connect) -> None:
    with RunningServer("IPC") as server:
        asker = connect("IPC")
        assert asker.client.socket_address == server.address
        assert asker.execute("echo", 5).result() == 5


def test_a_consumer_needs_to_know_whose_events() -> None:
    with pytest.raises(LocalProtocolError, match="server_id"):
        EventConsumer("c", "e")
    with EventPublisher("p"), EventConsumer("c", "e", "IPC", server_id="p") as consumer:
        assert consumer.socket_address == f"ipc://{ipc_path('p')}"


def test_brokers_of_one_process_may_share_a_context() -> None:
    context = zmq.asyncio.Context()
    with EventPublisher("p", context, "INPROC") as publisher:
        with EventConsumer("c", "e", publisher.socket_address, context) as consumer:
            assert type(consumer.socket) is zmq.Socket
            assert consumer.receive(0) is None
        with pytest.raises(ConnectionEnded):
            consumer.receive(0)
    context.term()


def test_descriptors_are_closed(ipc: str) -> None:
    def count() -> int:
        return len(os.listdir("/dev/fd"))

    def once() -> None:
        with RunningServer(ipc) as server, SyncZMQClient("c", SERVER_ID, access_point=server.address) as client:
            response = client.execute("", "", "count")
            assert response is not None

    once()
    before = count()
    for _ in range(20):
        once()
    # ZMQ closes what it has in its own time
    assert count() < before + 20


# CURVE

SERVER_PUBLIC, SERVER_SECRET = curve_keys()
KNOWN_PUBLIC, KNOWN_SECRET = curve_keys()
OTHER_PUBLIC, OTHER_SECRET = curve_keys()
KNOWN = CurveClient(SERVER_PUBLIC, KNOWN_PUBLIC, KNOWN_SECRET)
OTHER = CurveClient(SERVER_PUBLIC, OTHER_PUBLIC, OTHER_SECRET)
WRONG = CurveClient(OTHER_PUBLIC, KNOWN_PUBLIC, KNOWN_SECRET)


@pytest.mark.parametrize("clients", [None, [KNOWN_PUBLIC]], ids=["anybody", "known"])
@pytest.mark.parametrize("transport", [pytest.param("ipc", marks=pytest.mark.long), "tcp"])
def test_clients_with_keys(connect: Connect, ipc: str, transport: str, clients: Any) -> None:
    address = ipc if transport == "ipc" else "tcp://127.0.0.1:*"
    with RunningServer(address, curve=CurveServer(SERVER_SECRET, clients)) as server:
        asker = connect(server.address, curve=KNOWN)
        assert asker.execute("echo", "in secret").result() == "in secret"
        for keys in (None, WRONG) if clients is None else (None, WRONG, OTHER):
            with pytest.raises(HandshakeFailed):
                connect(server.address, "another", curve=keys, handshake_timeout=60)
        assert asker.execute("echo", "still").result() == "still"
        assert server.asked == 2


def test_a_client_with_keys_does_not_talk_to_a_server_without(connect: Connect, ipc: str) -> None:
    with RunningServer(ipc) as server:
        with pytest.raises(HandshakeFailed):
            connect(server.address, curve=KNOWN, handshake_timeout=60)


def test_events_with_keys() -> None:
    keys = CurveServer(SERVER_SECRET, [KNOWN_PUBLIC])
    with EventPublisher("p", access_point="tcp://127.0.0.1:*", curve=keys) as publisher:
        publisher.register("e")
        with EventConsumer("c", "e", publisher.socket_address, curve=KNOWN) as consumer:
            with EventConsumer("d", "e", publisher.socket_address, curve=OTHER) as stranger:
                consumer.subscribe()
                stranger.subscribe()
                event = None
                while event is None:
                    publisher.publish("e", "in secret")
                    event = consumer.receive(20)
                assert event.value() == "in secret"
                assert stranger.receive(50) is None


def test_keys_of_the_other_kind() -> None:
    threads = threading.active_count()
    with pytest.raises(LocalProtocolError, match="other kind"):
        EventPublisher("p", access_point="INPROC", curve=KNOWN)
    with pytest.raises(LocalProtocolError, match="other kind"):
        EventConsumer("c", "e", "inproc://p", curve=CurveServer(SERVER_SECRET))
    assert threading.active_count() <= threads, "nothing was begun"

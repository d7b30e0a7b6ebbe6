"""A ROUTER and its many peers: new, gone, reborn, idle, too many."""

from __future__ import annotations

import fcntl
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import Any

import pytest
import zmq

from packetwire import (
    ConnectionEnded,
    LocalProtocolError,
    Packet,
    PacketConnection,
    PeerClosed,
    Responder,
    StreamTruncated,
    connect_to,
    serve,
)
from packetwire.addresses import ZmqDealerAddress, ZmqRouterAddress, parse_address
from packetwire.core.packets import EOF_PACKET, ERQ_PACKET
from packetwire.streams import zmqpeers, zmqrouter
from packetwire.streams.zmq import open_dealer, open_pair
from packetwire.streams.zmqrouter import ZmqListener

from .conftest import RawDealer, accepted, await_limit, echo, read_all

pytestmark = pytest.mark.timeout(90)

BEGUN = bytes(Packet(is_request=True, tag=2, rq_type=1, payload=bytes(100)))[:50]
THE_END = bytes(ERQ_PACKET) + bytes(EOF_PACKET)


def service(recv_send: Any) -> PacketConnection:
    return PacketConnection(recv_send, request_handler=echo)


@pytest.mark.parametrize(
    "address", ["zmq+router:ipc://{}/s", "zmq+router:tcp://127.0.0.1:*", "zmq+pair:ipc://{}/s"]
)
def test_served_at_an_address(address: str, tmp_path: Any) -> None:
    with serve(address.format(tmp_path), service) as server:
        endpoint = str(server.address).replace("router", "dealer")
        for _ in range(3):
            with PacketConnection(connect_to(endpoint)) as conn:
                assert conn(1, b"served", timeout=20) == (True, 0, b"served")


@pytest.mark.parametrize("kind", ["zmq+router", "zmq+pair"])
def test_whoever_can_read_the_directory_cannot_keep_a_server_from_starting(
    kind: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("packetwire.socketfiles.DIRECTORY_LOCK_SECONDS", 0.01)
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        with (
            serve(f"{kind}:ipc://{tmp_path}/s", service) as server,
            PacketConnection(connect_to(str(server.address).replace("router", "dealer"))) as conn,
        ):
            assert conn(1, b"served", timeout=20) == (True, 0, b"served")
    finally:
        os.close(directory)


def test_back_under_the_same_name_behind_half_a_packet(
    listening: Callable[..., ZmqListener], endpoint: str
) -> None:
    listener = listening(endpoint)
    for _ in range(20):
        with RawDealer(listener.endpoint, b"phoenix") as raw:
            raw.send(b"", BEGUN)
            old = accepted(listener)
            assert read_all(old, 10)
            # inproc: two sockets of the same name in one process are nothing that could be killed
            reborn = raw if endpoint.startswith("inproc") else RawDealer(listener.endpoint, b"phoenix")
            with reborn, PacketConnection(old, "old", close_timeout=0.0) as dead:
                reborn.send(b"", bytes.fromhex("05020201") + b"hi")
                assert dead.join_recv(20)
                new = accepted(listener)
                assert read_all(new, 6) == bytes.fromhex("05020201") + b"hi"
                new.close()
                assert isinstance(dead.ended, ConnectionEnded)


@pytest.mark.parametrize(
    "sent", [BEGUN, bytes(Packet(is_request=True, tag=2, rq_type=1))], ids=["within", "between"]
)
def test_a_connection_whose_link_is_lost_ends_as_truncated(
    listening: Callable[..., ZmqListener], linked_endpoint: str, sent: bytes
) -> None:
    listener = listening(linked_endpoint)
    with RawDealer(listener.endpoint) as raw:
        raw.send(b"", sent)
        with PacketConnection(accepted(listener), close_timeout=0.0) as conn:
            raw.socket.close(20_000)
            assert conn.join_recv(20)
            assert isinstance(conn.ended, StreamTruncated)


def test_bytes_without_a_boundary_are_refused(listening: Callable[..., ZmqListener], endpoint: str) -> None:
    listener = listening(endpoint)
    with RawDealer(listener.endpoint) as raw:
        raw.send(b"no boundary")
        assert [raw.receive() for _ in range(3)] == [b"", THE_END, b""]
        raw.send(b"", b"now")
        stream = accepted(listener)
        assert read_all(stream, 3) == b"now"
        stream.close()


def test_one_client_too_many_is_turned_away(tmp_path: Any) -> None:
    owed = Responder()

    def owing(recv_send: Any) -> PacketConnection:
        return PacketConnection(recv_send, request_handler=lambda *request: owed)

    with serve(f"zmq+router:ipc://{tmp_path}/s", owing, max_connections=1) as server:
        connect = connect_to(str(server.address).replace("router", "dealer"))
        with PacketConnection(connect) as first:
            result = first.submit(1, 0, b"place")
            while not server.connections or all(one.is_settled for one in server._sessions):
                pass
            with PacketConnection(connect) as second, pytest.raises(ConnectionEnded):
                second(1, b"no place", timeout=20)
            owed.respond(b"late")
            assert result(timeout=20) == (True, 0, b"late")


def test_peers_that_send_nothing_give_their_places(tmp_path: Any) -> None:
    with serve(f"zmq+router:ipc://{tmp_path}/s", service, max_connections=2) as server:
        endpoint = str(server.address).removeprefix("zmq+router:")
        connect = connect_to(f"zmq+dealer:{endpoint}")
        with RawDealer(endpoint) as one, RawDealer(endpoint) as other:
            for raw in (one, other):
                raw.send(b"")
            for _ in range(3):
                with PacketConnection(connect) as conn:
                    assert conn(1, b"x", timeout=20) == (True, 0, b"x")
            assert [one.receive() for _ in range(3)] == [b"", THE_END, b""]


def test_who_is_idle_is_let_go(listening: Callable[..., ZmqListener], endpoint: str) -> None:
    listener = listening(endpoint, idle_limit=0.05)
    with PacketConnection(lambda: open_dealer(listener.endpoint)) as client:
        with PacketConnection(accepted(listener), request_handler=echo) as conn:
            assert conn.join_recv(20)
            assert isinstance(conn.ended.__cause__, TimeoutError)
        assert client.join_recv(20)


def test_who_does_not_read_keeps_nobody_waiting_for_long(
    listening: Callable[..., ZmqListener], endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zmqrouter, "STALL_LIMIT", 0.05)
    monkeypatch.setattr(zmqpeers, "QUEUE_LIMIT", 1 << 16)
    listener = listening(endpoint)
    flood = open_dealer(listener.endpoint)
    deaf = accepted(listener)
    try:
        with (
            PacketConnection(lambda: open_dealer(listener.endpoint)) as client,
            PacketConnection(accepted(listener), request_handler=echo),
        ):
            count = 0
            while count < 1 << 20:
                count += flood.try_write([bytes(65536)])
            for _ in range(20):  # between which all of the flood has its turn
                assert client(1, b"still served", timeout=20)[0]
            with pytest.raises(OSError, match="nobody read"):
                read_all(deaf)
    finally:
        flood.close()
        deaf.close()


@pytest.mark.parametrize("connect", [open_dealer, open_pair])
def test_who_sends_much_waits_to_be_accepted(
    listening: Callable[..., ZmqListener], endpoint: str, connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever serves may be busy with something else at that moment."""
    monkeypatch.setattr(zmqpeers, "QUEUE_LIMIT", 1 << 16)
    listener = listening(endpoint, pair=connect is open_pair)
    sent = os.urandom(1 << 20)
    with closing(connect(listener.endpoint)) as client:
        assert client.try_write([sent]) == len(sent)
        client.end_write()
        await_limit(listener)
        with closing(accepted(listener)) as stream:
            assert read_all(stream) == sent


def test_many_who_send_wait_together_to_be_accepted(
    listening: Callable[..., ZmqListener], endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zmqpeers, "WAITING_LIMIT", 100_000)
    listener = listening(endpoint)
    with ExitStack() as opened:
        for number in range(4):
            raw = opened.enter_context(RawDealer(listener.endpoint))
            raw.send(b"", *[b"%d" % number * 10_000] * 8, b"")
        while listener._waiting_bytes.kept < 100_000:
            pass
        streams = [opened.enter_context(closing(accepted(listener))) for _ in range(4)]
        assert {read_all(stream) for stream in streams} == {b"%d" % number * 80_000 for number in range(4)}


def test_who_waits_to_be_accepted_keeps_nobody_waiting_for_long(
    listening: Callable[..., ZmqListener], endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zmqrouter, "STALL_LIMIT", 0.05)
    monkeypatch.setattr(zmqpeers, "QUEUE_LIMIT", 1 << 16)
    listener = listening(endpoint)
    with (
        ExitStack() as opened,
        PacketConnection(lambda: open_dealer(listener.endpoint)) as client,
        PacketConnection(accepted(listener), request_handler=echo),
    ):
        for _ in range(5):
            flood = opened.enter_context(closing(open_dealer(listener.endpoint)))
            assert flood.try_write([bytes(1 << 20)]) == 1 << 20
            for _ in range(20):  # between which all of the flood has its turn
                assert client(1, b"still served", timeout=20)[0]
        for _ in range(5):
            stream = opened.enter_context(closing(accepted(listener)))
            with pytest.raises(OSError, match="before there was a place"):
                read_all(stream)


def test_strangers_keep_nobody_waiting_when_the_patience_with_them_is_gone(
    listening: Callable[..., ZmqListener], endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zmqrouter, "STALL_LIMIT", 1000.0)
    monkeypatch.setattr(zmqpeers, "QUEUE_LIMIT", 1 << 16)
    listener = listening(endpoint)
    listener._patience.spend(1e6, time.monotonic())
    with (
        PacketConnection(lambda: open_dealer(listener.endpoint)) as client,
        PacketConnection(accepted(listener), request_handler=echo),
        closing(open_dealer(listener.endpoint)) as flood,
    ):
        assert flood.try_write([bytes(1 << 20)]) == 1 << 20
        for _ in range(20):
            assert client(1, b"still served", timeout=20)[0]


@pytest.mark.parametrize("connect", [open_dealer, open_pair])
def test_a_listener_that_is_closed_keeps_its_streams_and_takes_no_more(
    listening: Callable[..., ZmqListener], endpoint: str, connect: Any
) -> None:
    listener = listening(endpoint, pair=connect is open_pair)
    with (
        PacketConnection(lambda: connect(listener.endpoint)) as client,
        PacketConnection(accepted(listener), request_handler=echo),
    ):
        listener.close()
        assert client(1, b"still", timeout=20) == (True, 0, b"still")
        if connect is open_dealer:
            with PacketConnection(lambda: open_dealer(listener.endpoint)) as late, pytest.raises(PeerClosed):
                late(1, timeout=20)
        assert client(1, b"and still", timeout=20) == (True, 0, b"and still")
    if not endpoint.startswith("inproc"):  # where ZMQ lets one connect before anyone listens
        with pytest.raises(ConnectionRefusedError):
            connect(listener.endpoint)


def test_a_server_that_is_stopped_gives_what_it_owes(linked_endpoint: str) -> None:
    begun, owed = threading.Event(), Responder()

    def handle(rq_type: int, flags: int, payload: bytes) -> Responder:
        begun.set()
        return owed

    with serve(
        f"zmq+router:{linked_endpoint}", lambda stream: PacketConnection(stream, request_handler=handle)
    ) as server:
        with PacketConnection(connect_to(str(server.address).replace("router", "dealer"))) as conn:
            waiting = conn.submit(1)
            assert begun.wait(20)
            server.stop(20)
            assert conn.join_recv(0.1) is False
            owed.respond(b"owed")
            assert waiting(timeout=20) == (True, 0, b"owed")
            assert conn.join_recv(20)
            assert isinstance(conn.ended, PeerClosed)
        assert server.wait(20)


def test_a_live_server_keeps_its_file(tmp_path: Any) -> None:
    address = f"zmq+router:ipc://{tmp_path}/s"
    with serve(address, service) as server:
        assert (tmp_path / "s").stat().st_mode & 0o777 == 0o600
        with pytest.raises(OSError, match="another server"):
            serve(address, service)
        with PacketConnection(connect_to(str(server.address).replace("router", "dealer"))) as conn:
            assert conn(1, b"", timeout=20)[0]
    assert not (tmp_path / "s").exists()


def test_a_file_is_nobody_elses_from_the_beginning(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """ZMQ gets a socket that listens, so when it began to the file had its mode."""
    modes: list[int] = []

    class Watched(socket.socket):
        def listen(self, *args: int) -> None:
            modes.append((tmp_path / "s").stat().st_mode & 0o777)
            super().listen(*args)

    monkeypatch.setattr(socket, "socket", Watched)
    before = os.umask(0)
    try:
        with serve(f"zmq+router:ipc://{tmp_path}/s", service):
            pass
    finally:
        os.umask(before)
    assert modes == [0o600]


def test_addresses() -> None:
    for text in "zmq+pair:inproc://x", "zmq+dealer:tcp://h:1", "zmq+router:ipc://@abstract":
        assert str(parse_address(text)) == text
    for text in "zmq+pair:", "zmq+pair:x", "zmq+dealer:udp://h:1", "zmq+router:tcp:h:1", "zmq+router:tcp://":
        with pytest.raises(LocalProtocolError, match="invalid endpoint"):
            parse_address(text)
    with pytest.raises(LocalProtocolError, match=r"connect to it by zmq\+dealer:tcp://h:1"):
        connect_to("zmq+router:tcp://h:1")()
    with pytest.raises(LocalProtocolError, match="cannot be served on"):
        serve("zmq+dealer:tcp://127.0.0.1:1", service)
    with pytest.raises(LocalProtocolError, match="identity"):
        ZmqDealerAddress("tcp://h:1", identity=b"\0reserved")
    assert ZmqRouterAddress("tcp://h:1").curve is None


def test_an_endpoint_that_cannot_be_had(listening: Callable[..., ZmqListener]) -> None:
    with zmq.Context.instance().socket(zmq.PAIR) as taken:
        taken.bind("inproc://taken")
        with pytest.raises(OSError, match="in use"):
            listening("inproc://taken")

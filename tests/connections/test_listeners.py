"""Servers: their sockets, many clients at a time, bad ones among them, and the end."""

from __future__ import annotations

import errno
import gc
import logging
import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

import packetwire.server
from packetwire import (
    ConnectionEnded,
    HasPacketConnection,
    LocalProtocolError,
    Packet,
    PacketConnection,
    PeerClosed,
    RequestFailed,
    connect_to,
    serve,
)
from packetwire.listeners import listen
from packetwire.addresses import UnixAddress
from packetwire.server import Server

from .conftest import open_fds

pytestmark = pytest.mark.timeout(60)

KINDS = ["unix", "tcp:127.0.0.1:0", "tcp:[::1]:0", "tcp:localhost:0"]
LIMIT = 30
"""Seconds for what does not take any."""

ECHO, WAIT, STOP, CALL_BACK = range(4)


class Service:
    """Makes connections that echo; `WAIT` is answered when `release` is set."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.waiting = threading.Semaphore(0)
        self.server: Server | None = None
        self.made: list[PacketConnection] = []

    def __call__(self, recv_send: Any) -> PacketConnection:
        conn = PacketConnection(recv_send, request_handler=self.handle, close_timeout=2)
        self.made.append(conn)
        return conn

    def handle(self, rq_type: int, flags: int, payload: bytes) -> Any:
        if rq_type == WAIT:
            self.waiting.release()
            assert self.release.wait(LIMIT)
        if rq_type == STOP:
            assert self.server
            self.server.stop()
        return flags, payload


@pytest.fixture
def service() -> Iterator[Service]:
    service = Service()
    yield service
    service.release.set()


@pytest.fixture
def path(tmp_path: Path) -> str:
    return f"{tmp_path}/socket"


@pytest.fixture(params=KINDS)
def address(request: pytest.FixtureRequest, path: str) -> str:
    """An address to serve on, of each kind."""
    return f"unix:{path}" if request.param == "unix" else request.param


def client(server: Server, **connection: Any) -> PacketConnection:
    return PacketConnection(connect_to(server.address), "client", close_timeout=2, **connection)


def raw_client(server: Server) -> socket.socket:
    """A connected socket without a connection; what is at its other end is not told of any end."""
    sock, _, _ = connect_to(server.address)()
    sock.settimeout(LIMIT)
    return sock


def is_answered(conn: PacketConnection) -> bool:
    return conn(ECHO, b"payload", 5, timeout=LIMIT) == (True, 5, b"payload")


def all_octets(sock: socket.socket) -> bytes:
    received = b""
    with suppress(ConnectionResetError):
        while octets := sock.recv(4096):
            received += octets
    return received


ENDED = bytes(PacketConnection.ERQ_Packet) + bytes(PacketConnection.EOF_Packet)


# being served


def test_a_client_is_served(address: str, service: Service) -> None:
    with serve(address, service) as server:
        scheme = str(server.address).partition(":")[0]
        assert address.startswith(scheme)
        assert not str(server.address).endswith(":0")
        with client(server) as conn:
            assert is_answered(conn)
    assert server.failure is None


def test_the_same_port_on_all_addresses_of_a_host(service: Service) -> None:
    with serve("tcp:localhost:0", service) as server:
        port = str(server.address).rpartition(":")[2]
        hosts = {found[4][0] for found in socket.getaddrinfo("localhost", port, type=socket.SOCK_STREAM)}
        for host in hosts:
            with PacketConnection(connect_to(f"tcp:[{host}]:{port}" if ":" in host else f"tcp:{host}:{port}")) as conn:
                assert is_answered(conn)
    assert hosts


def test_many_clients_at_a_time(address: str, service: Service) -> None:
    with serve(address, service) as server, ExitStack() as stack:
        conns = [stack.enter_context(client(server)) for _ in range(20)]
        results = [conn.submit(ECHO, 0, b"%d" % number) for conn in conns for number in range(50)]
        assert [result(timeout=LIMIT)[2] for result in results] == [b"%d" % n for _ in conns for n in range(50)]
        assert server.connections == 20
        assert len({id(conn) for conn in service.made}) == 20


def test_a_service_is_a_has_packet_connection(address: str) -> None:
    class Named(HasPacketConnection):
        def __init__(self, recv_send: Any) -> None:
            super().__init__(recv_send, rq_type_map={})

        def conn_handle_request(self, rq_type: int, flags: int, payload: bytes) -> str:
            return type(self).__name__

    with serve(address, Named) as server, client(server) as conn:
        assert conn(0, timeout=LIMIT) == (True, 0, b"Named")


def test_the_server_asks_its_client(address: str) -> None:
    class Asking(HasPacketConnection):
        def __init__(self, recv_send: Any) -> None:
            super().__init__(recv_send, rq_type_map={})

        def conn_handle_request(self, rq_type: int, flags: int, payload: bytes) -> bytes:
            return self.conn(CALL_BACK, payload, timeout=LIMIT)[2]

    with (
        serve(address, Asking) as server,
        client(server, request_handler=lambda rq_type, flags, payload: payload[::-1]) as conn,
    ):
        assert conn(0, b"abc", timeout=LIMIT) == (True, 0, b"cba")


def test_clients_that_left_are_forgotten(address: str, service: Service) -> None:
    with serve(address, service) as server:
        with client(server) as conn:
            assert is_answered(conn)
        service.made.clear()
        until_there_are(server, 0)
        before = len(open_fds()), threading.active_count()
        for _ in range(100):
            with client(server) as conn:
                assert is_answered(conn)
            service.made.clear()
        until_there_are(server, 0)
        gc.collect()
        assert (len(open_fds()), threading.active_count()) == before


def until_there_are(server: Server, count: int) -> None:
    """Wait for clients that have left to be noticed: the accepting thread has joined theirs when it accepts."""
    with raw_client(server), pytest.MonkeyPatch.context():
        pass
    deadline = threading.Event()
    while server.connections != count or len(server._sessions) != count:
        deadline.wait(0.001)

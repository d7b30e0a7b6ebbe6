"""A bridge when something breaks under it: the listening socket, threads, descriptors, a relay."""

from __future__ import annotations

import asyncio
import errno
import os
import select
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.connections.bridges import MODULES, Bridging, bridging
from tests.connections.serving import FACES

import packetwire.core.admission
from packetwire import (
    AsyncPacketConnection,
    ConnectionEnded,
    LocalProtocolError,
    PacketConnection,
    connect_to,
    serve,
)
from packetwire._async.sessions import _EpollSet
from packetwire.aio.bridge import AsyncBridge
from packetwire.bridge import Bridge
from packetwire.bridging import open_end
from packetwire.relay import Relay

LIMIT = 30
"""Seconds after which a test has failed."""

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(params=FACES)
def face(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[str]:
    """Where an echo is served."""

    def echo(recv_send: Any) -> PacketConnection:
        return PacketConnection(recv_send, request_handler=lambda rq_type, flags, payload: (flags, payload))

    with serve(f"unix:{tmp_path}/service", echo) as server:
        yield str(server.address)


@pytest.fixture
def bridge(face: str, service: str) -> Iterator[Bridging]:
    """A bridge that runs."""
    with bridging(face, "tcp:127.0.0.1:0", service) as running:
        yield running


def dial(bridge: Bridging) -> socket.socket:
    sock: socket.socket
    sock, _, _ = connect_to(bridge.address)()
    sock.settimeout(LIMIT)
    return sock


def assert_served(bridge: Bridging) -> None:
    with PacketConnection(connect_to(bridge.address)) as conn:
        assert conn(0, b"x", timeout=LIMIT) == (True, 0, b"x")


def test_what_cannot_be_a_bridge() -> None:
    with pytest.raises(LocalProtocolError, match="max_clients must be 1 or more, got 0"):
        Bridge("tcp:127.0.0.1:0", "exec:cat", max_clients=0)
    with pytest.raises(LocalProtocolError, match="tls:localhost:0 needs an ssl_context_a with a certificate"):
        Bridge("tls:localhost:0", "exec:cat")


def test_a_listening_socket_that_breaks_ends_the_bridge(bridge: Bridging, caplog: pytest.LogCaptureFixture) -> None:
    assert_served(bridge)
    (listening,) = bridge.bridge._listener.sockets
    assert isinstance(listening, socket.socket)
    listening.shutdown(socket.SHUT_RDWR)  # from now on it is readable, and accept raises EINVAL
    bridge.thread.join(LIMIT)
    assert not bridge.thread.is_alive()
    assert isinstance(bridge.failure, OSError)
    assert bridge.failure.errno == errno.EINVAL
    assert "accepting failed" in caplog.text


def test_without_descriptors_clients_wait_for_a_moment(
    bridge: Bridging, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(packetwire.core.admission, "PAUSE_SECONDS", 0.01)
    accept = socket.socket.accept
    failures = [errno.EMFILE, errno.ENFILE, errno.ECONNABORTED]

    def accept_at_last(sock: socket.socket) -> Any:
        if failures:
            code = failures.pop(0)
            raise OSError(code, os.strerror(code))
        return accept(sock)

    monkeypatch.setattr(socket.socket, "accept", accept_at_last)
    assert_served(bridge)
    assert caplog.text.count("clients have to wait") == 1
    assert bridge.failure is None


def test_without_threads_a_client_is_closed_and_later_ones_are_served(
    face: str, bridge: Bridging, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(packetwire.core.admission, "PAUSE_SECONDS", 0.01)
    start = threading.Thread.start

    def cannot_start(thread: threading.Thread) -> None:
        if thread.name.startswith("packetwire-bridge-"):
            raise RuntimeError("can't start new thread")
        start(thread)

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", cannot_start)
        with dial(bridge) as client:
            assert client.recv(100) == b""
        while bridge.clients:
            time.sleep(0.001)  # the watchdog is what ends it otherwise
    assert_served(bridge)
    assert "can't start new thread" in caplog.text
    assert ("clients have to wait" in caplog.text) == (face == "threads")


def test_a_relay_that_fails_ends_its_client_only(
    bridge: Bridging, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(relay: Relay) -> None:
        raise ZeroDivisionError("a defect")

    with monkeypatch.context() as patched:
        patched.setattr(Relay, "wanted", fail)
        with dial(bridge) as client:
            assert client.recv(100) == b""
    assert_served(bridge)
    assert "the relay failed" in caplog.text
    assert "ZeroDivisionError: a defect" in caplog.text
    assert bridge.failure is None


@pytest.mark.parametrize("in_time", [True, False])
def test_stopping_while_a_connection_is_made(
    face: str, service: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, in_time: bool
) -> None:
    """A connection that comes about in time relays nothing; one that does not is left behind, which is said."""
    opening, opened = threading.Event(), threading.Event()

    def open_slowly(*args: Any) -> Any:
        opening.set()
        assert opened.wait(LIMIT)
        return open_end(*args)

    monkeypatch.setattr(f"{MODULES[face]}.open_end", open_slowly)
    monkeypatch.setattr(f"{MODULES[face]}.END_SECONDS", LIMIT if in_time else 0.01)
    with bridging(face, "tcp:127.0.0.1:0", service) as bridge, dial(bridge) as client:
        assert opening.wait(LIMIT)
        (session,) = bridge.bridge._sessions
        bridge.stop()
        if not in_time:
            bridge.thread.join(LIMIT)
        opened.set()
        assert client.recv(100) == b""
        if face == "threads":
            assert session.running.join(LIMIT)
    assert ("1 connections that are being made are left behind" in caplog.text) == (not in_time)


def refuse(*args: Any) -> None:
    raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))


@pytest.mark.parametrize("has_epoll", [True, False])
def test_without_epoll_threads_relay_for_a_loop(
    service: str, monkeypatch: pytest.MonkeyPatch, has_epoll: bool
) -> None:
    """On some systems there is none, and it refuses some descriptors."""
    if has_epoll:
        monkeypatch.setattr(_EpollSet, "ready", refuse)
    else:
        monkeypatch.delattr(select, "epoll", raising=False)
    with bridging("asyncio", "tcp:127.0.0.1:0", service) as bridge:
        with PacketConnection(connect_to(bridge.address)) as conn:
            assert conn(0, b"x", timeout=LIMIT) == (True, 0, b"x")
            bridge.stop()
            assert conn.join_recv(LIMIT)
    assert bridge.failure is None


def test_a_task_that_runs_a_bridge_can_be_cancelled(service: str) -> None:
    async def main() -> None:
        async with AsyncBridge("tcp:127.0.0.1:0", service) as bridge:
            running = asyncio.create_task(bridge.run())
            async with AsyncPacketConnection(connect_to(bridge.address)) as conn:
                assert await conn(0, b"x", timeout=LIMIT) == (True, 0, b"x")
                running.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await running
                with pytest.raises(ConnectionEnded):
                    await conn(0, b"x", timeout=LIMIT)

    asyncio.run(main())

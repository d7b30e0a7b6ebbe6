"""A bridge when something breaks under it: the listening socket, threads, descriptors, a relay."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import packetwire.bridge
from packetwire import LocalProtocolError, PacketConnection, connect_to, serve
from packetwire.bridge import Bridge
from packetwire.relay import Relay

LIMIT = 30
"""Seconds after which a test has failed."""

pytestmark = pytest.mark.timeout(60)


@contextmanager
def running(bridge: Bridge) -> Iterator[threading.Thread]:
    with bridge:
        thread = threading.Thread(target=bridge.run)
        thread.start()
        try:
            yield thread
        finally:
            bridge.stop()
            thread.join(LIMIT)
            assert not thread.is_alive()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[str]:
    """Where an echo is served."""

    def echo(recv_send: Any) -> PacketConnection:
        return PacketConnection(recv_send, request_handler=lambda rq_type, flags, payload: (flags, payload))

    with serve(f"unix:{tmp_path}/service", echo) as server:
        yield str(server.address)


@pytest.fixture
def bridge(service: str) -> Bridge:
    return Bridge("tcp:127.0.0.1:0", service)


def dial(bridge: Bridge) -> socket.socket:
    sock: socket.socket
    sock, _, _ = connect_to(bridge.address)()
    sock.settimeout(LIMIT)
    return sock


def assert_served(bridge: Bridge) -> None:
    with PacketConnection(connect_to(bridge.address)) as conn:
        assert conn(0, b"x", timeout=LIMIT) == (True, 0, b"x")


def test_what_cannot_be_a_bridge() -> None:
    with pytest.raises(LocalProtocolError, match="max_clients must be 1 or more, got 0"):
        Bridge("tcp:127.0.0.1:0", "exec:cat", max_clients=0)
    with pytest.raises(LocalProtocolError, match="tls:localhost:0 needs an ssl_context_a with a certificate"):
        Bridge("tls:localhost:0", "exec:cat")


def test_a_listening_socket_that_breaks_ends_the_bridge(bridge: Bridge, caplog: pytest.LogCaptureFixture) -> None:
    with running(bridge) as thread:
        assert_served(bridge)
        (listening,) = bridge._listener.sockets
        assert isinstance(listening, socket.socket)
        listening.shutdown(socket.SHUT_RDWR)  # from now on it is readable, and accept raises EINVAL
        thread.join(LIMIT)
        assert not thread.is_alive()
    assert isinstance(bridge.failure, OSError)
    assert bridge.failure.errno == errno.EINVAL
    assert "accepting failed" in caplog.text


def test_without_descriptors_clients_wait_for_a_moment(
    bridge: Bridge, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(packetwire.bridge, "PAUSE_SECONDS", 0.01)
    accept = socket.socket.accept
    failures = [errno.EMFILE, errno.ENFILE, errno.ECONNABORTED]

    def accept_at_last(sock: socket.socket) -> Any:
        if failures:
            code = failures.pop(0)
            raise OSError(code, os.strerror(code))
        return accept(sock)

    monkeypatch.setattr(socket.socket, "accept", accept_at_last)
    with running(bridge):
        assert_served(bridge)
    assert caplog.text.count("clients have to wait") == 1
    assert bridge.failure is None


def test_without_threads_a_client_is_closed_and_later_ones_are_served(
    bridge: Bridge, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(packetwire.bridge, "PAUSE_SECONDS", 0.01)
    start = threading.Thread.start

    def cannot_start(thread: threading.Thread) -> None:
        if thread.name.startswith("packetwire-bridge-"):
            raise RuntimeError("can't start new thread")
        start(thread)

    with running(bridge):
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", cannot_start)
            with dial(bridge) as client:
                assert client.recv(100) == b""
            assert bridge.clients == 0
        assert_served(bridge)
    assert "clients have to wait: can't start new thread" in caplog.text


def test_a_relay_that_fails_ends_its_client_only(
    bridge: Bridge, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(relay: Relay) -> None:
        raise ZeroDivisionError("a defect")

    with running(bridge):
        with monkeypatch.context() as patched:
            patched.setattr(Relay, "run", fail)
            with dial(bridge) as client:
                assert client.recv(100) == b""
        assert_served(bridge)
    assert "the relay failed" in caplog.text
    assert "ZeroDivisionError: a defect" in caplog.text
    assert bridge.failure is None


@pytest.mark.parametrize("in_time", [True, False])
def test_stopping_while_a_connection_is_made(
    service: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, in_time: bool
) -> None:
    """A connection that comes about in time relays nothing; one that does not is left behind, which is said."""
    opening, opened = threading.Event(), threading.Event()
    open_end = packetwire.bridge.open_end

    def open_slowly(*args: Any) -> Any:
        opening.set()
        assert opened.wait(LIMIT)
        return open_end(*args)

    monkeypatch.setattr(packetwire.bridge, "open_end", open_slowly)
    bridge = Bridge("tcp:127.0.0.1:0", service)
    monkeypatch.setattr(packetwire.bridge, "END_SECONDS", LIMIT if in_time else 0.01)
    with running(bridge) as thread, dial(bridge) as client:
        assert opening.wait(LIMIT)
        (session,) = bridge._sessions
        bridge.stop()
        if not in_time:
            thread.join(LIMIT)
        opened.set()
        assert client.recv(100) == b""
        session.thread.join(LIMIT)
    assert ("1 connections that are being made are left behind" in caplog.text) == (not in_time)

"""Peers that are stopped, links that are cut and peers that keep silent, over real transports, at both ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import zmq

from packetwire import (
    AsyncPacketConnection,
    ConnectionEnded,
    PacketConnection,
    PeerUnresponsive,
    RequestTimeout,
    StreamEnded,
    connect_to,
)
from packetwire import child as spawned
from packetwire.streams.tls import client_context, server_context

from .certificates import make_certificate
from .paused_end import ECHO, PID, WAIT
from .serving import FACES, serving
from .sshd import Sshd

pytestmark = [pytest.mark.timeout(90), pytest.mark.leaves_threads]

LIMIT = 60.0
KEEPALIVE = 0.3
"""Seconds: nobody is waited for longer than twice that, by either end."""
LONG = pytest.mark.long
TRANSPORTS = ["tcp", pytest.param("tls", marks=LONG), pytest.param("zmq", marks=LONG)]
SERVED_AT = {"tcp": "tcp:127.0.0.1:0", "tls": "tls:127.0.0.1:0", "zmq": "zmq+router:tcp://127.0.0.1:*"}


class Link:
    """How a transport is served and reached."""

    def __init__(self, transport: str, directory: Path) -> None:
        self.served_at = SERVED_AT[transport]
        self.certificate: list[str] = []
        self.of_server: dict[str, Any] = {}
        self.of_client: dict[str, Any] = {}
        if transport == "tls":
            made = make_certificate(directory, "server")
            self.certificate = [made.certfile, made.keyfile]
            self.of_server = {"ssl_context": server_context(*self.certificate)}
            self.of_client = {"ssl_context": client_context(made.certfile), "server_name": "localhost"}

    def reach(self, address: str, port: int | None = None) -> str:
        """The address for a client; `port` is that of something in between."""
        address = address.replace("zmq+router:", "zmq+dealer:")
        return address if port is None else f"{address.rpartition(':')[0]}:{port}"


@pytest.fixture
def link(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Link]:
    yield Link(request.param, tmp_path)
    if request.param == "zmq":
        zmq.Context.instance().term()  # whose own descriptors stay else


class Events:
    """The end of a connection, as `on_event` hears of it."""

    def __init__(self) -> None:
        self.cause: ConnectionEnded | None = None
        self.ended = threading.Event()

    def __call__(self, event: Any) -> None:
        if isinstance(event, StreamEnded):
            self.cause = event.cause
            self.ended.set()


def check_asker(
    face: str,
    recv_send: Any,
    happens: Callable[[Any, int], object],
    found: Callable[[], object] = lambda: None,
) -> None:
    """Once a first request was answered, and something has happened, a call ends by `PeerUnresponsive`."""
    events, release = Events(), threading.Event()
    settings = {
        "keepalive": KEEPALIVE,
        "on_event": events,
        "close_timeout": 0.1,
        "request_handler": lambda rq_type, flags, payload: release.wait(LIMIT) and b"",
    }

    def threaded() -> None:
        with PacketConnection(recv_send, **settings) as conn:
            assert conn(ECHO, timeout=LIMIT)[0]
            # with the second response both know what the other understands
            happens(conn, int(conn(PID, timeout=LIMIT)[2]))
            with pytest.raises(PeerUnresponsive):
                conn(WAIT, timeout=LIMIT)
            found()
            release.set()

    async def looped() -> None:
        async with AsyncPacketConnection(recv_send, **settings) as conn:
            assert (await conn(ECHO, timeout=LIMIT))[0]
            happens(conn, int((await conn(PID, timeout=LIMIT))[2]))
            with pytest.raises(PeerUnresponsive):
                await conn(WAIT, timeout=LIMIT)
            found()
            release.set()

    if face == "threads":
        threaded()
    else:
        asyncio.run(looped())
    assert isinstance(events.cause, PeerUnresponsive)


class Child:
    """The other end, in a process that can be stopped."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def line(self) -> dict[str, Any]:
        assert self.process.stderr is not None
        found: dict[str, Any] = json.loads(self.process.stderr.readline())
        return found

    def stop(self) -> None:
        stop(self.process.pid)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)


def stop(pid: int) -> None:
    """Stop a process; returns when it does not run any more."""
    os.kill(pid, signal.SIGSTOP)
    stat = Path(f"/proc/{pid}/stat")
    while stat.exists() and stat.read_text().rpartition(")")[2].split()[0] not in "Tt":
        time.sleep(0.001)


@contextmanager
def child(face: str, how: str, keepalive: str, *arguments: str) -> Iterator[Child]:
    argv = [sys.executable, "-m", "tests.connections.paused_end", face, how, keepalive, *arguments]
    where = Path(__file__).parents[2]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=where)
    try:
        yield Child(process)
    finally:
        process.kill()
        process.wait()
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.close()
        process.stderr.close()


class Relay:
    """Passes bytes between clients and a port until it is cut; from then on it takes all, and passes nothing on."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._cut = threading.Event()
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])

    def cut(self) -> None:
        self._cut.set()

    def _start(self, work: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=work, args=arguments)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._to))
                self._sockets += [near, far]
                self._start(self._pass, near, far)
                self._start(self._pass, far, near)

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if not self._cut.is_set():
                    target.sendall(data)
            if not self._cut.is_set():
                target.shutdown(socket.SHUT_WR)

    def __enter__(self) -> Relay:
        self._start(self._accept)
        return self

    def __exit__(self, *error: object) -> None:
        for sock in [self._listener, *self._sockets]:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(LIMIT)
        for sock in [self._listener, *self._sockets]:
            sock.close()


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


@pytest.mark.parametrize("link", TRANSPORTS, indirect=True)
@pytest.mark.parametrize("face", FACES)
def test_a_link_that_is_cut_ends_at_both_ends(face: str, link: Link) -> None:
    events, release = Events(), threading.Event()

    def handler(rq_type: int, flags: int, payload: bytes) -> bytes:
        if rq_type == WAIT:
            release.wait(LIMIT)
        return b"0"

    settings = {"keepalive": KEEPALIVE, "on_event": events}
    with (
        serving(face, link.served_at, handler, dict(link.of_server), **settings) as served,
        Relay(port_of(served.address)) as relay,
    ):

        def happens(conn: Any, pid: int) -> None:
            relay.cut()
            # the server awaits something, too
            served._call(lambda: served.made[-1].submit(WAIT) and None)

        try:
            check_asker(face, connect_to(link.reach(served.address, relay.port), **link.of_client), happens)
            assert events.ended.wait(LIMIT)
            assert isinstance(events.cause, PeerUnresponsive)
        finally:
            release.set()


@pytest.mark.parametrize("link", TRANSPORTS, indirect=True)
@pytest.mark.parametrize("face", FACES)
def test_a_server_that_is_stopped(face: str, link: Link) -> None:
    with child(face, "serve", "none", link.served_at, *link.certificate) as server:
        address = server.line()["address"]
        check_asker(face, connect_to(link.reach(address), **link.of_client), lambda conn, pid: server.stop())
        server.go_on()
        said = server.line()
        assert said["ended"] == "PeerClosed" or link.served_at.startswith("zmq"), said
        if link.served_at.startswith("tcp"):
            assert "this end was unresponsive" in said["text"], "it learns why, when it goes on"


@pytest.mark.parametrize("link", [pytest.param(each, marks=LONG) for each in SERVED_AT], indirect=True)
@pytest.mark.parametrize("face", FACES)
def test_a_client_that_is_stopped(face: str, link: Link) -> None:
    """A server asks those of whom it awaits nothing, too, if later."""
    events, release = Events(), threading.Event()

    def handler(rq_type: int, flags: int, payload: bytes) -> bytes:
        if rq_type == WAIT:
            release.wait(LIMIT)
        return payload

    settings = {"keepalive": KEEPALIVE, "on_event": events}
    with serving(face, link.served_at, handler, dict(link.of_server), **settings) as served:
        try:
            address = link.reach(served.address)
            with child(face, "connect", "none", address, *link.certificate) as client:
                assert client.line() == {"up": True}
                client.stop()
                assert events.ended.wait(LIMIT)
                assert isinstance(events.cause, PeerUnresponsive)
        finally:
            release.set()


@pytest.mark.parametrize(
    ("face", "link"),
    [
        ("threads", "tcp"),
        *(
            pytest.param(face, link, marks=LONG)
            for face in FACES
            for link in SERVED_AT
            if (face, link) != ("threads", "tcp")
        ),
    ],
    indirect=["link"],
)
def test_an_end_that_was_stopped_itself_judges_nobody(face: str, link: Link) -> None:
    seconds = 0.8
    release = threading.Event()

    def handler(rq_type: int, flags: int, payload: bytes) -> bytes:
        if rq_type == WAIT:
            release.wait(LIMIT)
        return payload

    with serving("threads", link.served_at, handler, dict(link.of_server), keepalive=None) as served:
        try:
            address = link.reach(served.address)
            with child(face, "connect", str(seconds), address, *link.certificate) as client:
                assert client.line() == {"up": True}
                conn = served.made[0]
                until_asked(conn)  # it is asked for a sign of life, and gives it
                client.stop()
                time.sleep(2 * seconds + 0.2)  # for longer than it would wait for anybody
                client.go_on()
                until_asked(conn)
                release.set()
                assert client.line() == {"answered": True}
                assert client.line() == {"answered": True}
        finally:
            release.set()


def until_asked(conn: PacketConnection) -> None:
    """Wait until the peer has sent something."""
    before = conn.stats().bytes_received
    while conn.stats().bytes_received == before:
        assert conn.ended is None
        time.sleep(0.001)


@pytest.mark.parametrize("face", FACES)
def test_one_that_accepts_and_says_nothing(face: str) -> None:
    """It is not known to understand a question, so it is given up by the time limits of calls only."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        address = f"tcp:127.0.0.1:{listener.getsockname()[1]}"

        def threaded() -> None:
            with PacketConnection(connect_to(address), keepalive=0.05, close_timeout=0.1) as conn:
                with pytest.raises(RequestTimeout):
                    conn(ECHO, timeout=0.3)
                assert conn.ended is None

        async def looped() -> None:
            async with AsyncPacketConnection(connect_to(address), keepalive=0.05, close_timeout=0.1) as conn:
                with pytest.raises(RequestTimeout):
                    await conn(ECHO, timeout=0.3)
                assert conn.ended is None

        if face == "threads":
            threaded()
        else:
            asyncio.run(looped())


@LONG
@pytest.mark.parametrize("stopped", ["ssh", "the far end"])
@pytest.mark.parametrize("face", FACES)
def test_through_ssh(face: str, stopped: str, sshd: Sshd, tmp_path: Path) -> None:
    """A stopped `ssh` is a link that is cut: each end finds that out by itself."""
    said = tmp_path / "said"
    command = f"cd {Path(__file__).parents[2]} && exec {sys.executable} -m tests.connections.paused_end"
    argv = sshd.argv(["sh", "-c", f"{command} {face} stdio {KEEPALIVE} 2>{said}"])
    pids: list[int] = []

    def happens(conn: Any, far_pid: int) -> None:
        pids.append(conn.process.pid if stopped == "ssh" else far_pid)
        stop(pids[0])

    def found() -> None:
        while stopped == "ssh" and "PeerUnresponsive" not in (text := said.read_text()):
            assert "ended" not in text
            time.sleep(0.001)

    try:
        check_asker(face, spawned(argv), happens, found)
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

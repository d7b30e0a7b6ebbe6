"""Servers: their sockets, many clients at a time, bad ones among them, and the end."""

from __future__ import annotations

import errno
import fcntl
import gc
import logging
import os
import queue
import re
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from tests.leftovers import open_fds

import packetwire.core.admission
import packetwire.server
from aio.blocking import BlockingServer
from packetwire import (
    AsyncPacketConnection,
    BaseRequest,
    ConnectionEnded,
    HasPacketConnection,
    LocalProtocolError,
    Packet,
    PacketConnection,
    PeerClosed,
    RequestTimeout,
    connect_to,
    serve,
)
from packetwire.addresses import TcpAddress, UnixAddress
from packetwire.admission import Admission
from packetwire.listeners import listen
from packetwire.server import Server

pytestmark = pytest.mark.timeout(60)

KINDS = ["unix", "tcp:127.0.0.1:0", "tcp:[::1]:0", "tcp:localhost:0"]
LIMIT = 30
"""Seconds for what does not take any."""
FOREVER = 1000
"""Seconds for what a test lets wait: the watchdog is earlier."""

ECHO, WAIT, STOP, CALL_BACK = range(4)


class Service:
    """Makes connections that echo; `WAIT` is answered when `release` is set."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.waiting = threading.Semaphore(0)
        self.server: Server | None = None
        self.made: list[Any] = []

    def __call__(self, recv_send: Any) -> Any:
        conn = made_by_servers(recv_send, request_handler=self.handle, close_timeout=2)
        self.made.append(conn)
        return conn

    def handle(self, rq_type: int, flags: int, payload: bytes) -> Any:
        if rq_type == WAIT:
            self.waiting.release()
            assert self.release.wait(FOREVER)
        if rq_type == STOP:
            assert self.server
            self.server.stop()
        return flags, payload


made_by_servers: Any = PacketConnection
"""The class of what factories make."""


@pytest.fixture(params=["threads", "asyncio"])
def face(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The face of the servers in a test: those for asyncio are in loops that run in threads."""
    if request.param == "asyncio":
        here = sys.modules[__name__]
        monkeypatch.setattr(here, "serve", BlockingServer)
        monkeypatch.setattr(here, "made_by_servers", AsyncPacketConnection)
    return str(request.param)


both_faces = pytest.mark.usefixtures("face")


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


def wait_until(condition: Callable[[], object]) -> None:
    """The watchdog is what ends it otherwise."""
    while not condition():
        time.sleep(0.001)


ENDED = bytes(PacketConnection.ERQ_Packet) + bytes(PacketConnection.EOF_Packet)


# being served


@both_faces
def test_a_client_is_served(address: str, service: Service) -> None:
    with serve(address, service) as server:
        scheme = str(server.address).partition(":")[0]
        assert address.startswith(scheme)
        assert not str(server.address).endswith(":0")
        with client(server) as conn:
            assert is_answered(conn)
    assert server.failure is None


@pytest.fixture
def many_homed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses that the host "many.homed" has; this machine does not have the last of them."""
    hosts = ["127.0.0.1", "::1", "192.0.2.1"]
    real = socket.getaddrinfo

    def getaddrinfo(host: str, port: int, *args: Any, **hints: Any) -> list[Any]:
        return [
            found
            for name in (hosts if host == "many.homed" else [host])
            for found in real(name, port, *args, **hints)
        ]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return hosts


@both_faces
def test_the_same_port_on_all_addresses_of_a_host(service: Service, many_homed: list[str]) -> None:
    with serve("tcp:many.homed:0", service) as server:
        assert re.fullmatch(r"tcp:many\.homed:[1-9]\d*", str(server.address))
        for host in many_homed[:2]:
            address = TcpAddress(host, int(str(server.address).rpartition(":")[2]))
            with PacketConnection(connect_to(address), close_timeout=2) as conn:
                assert is_answered(conn)


def test_a_port_that_is_taken_on_another_address_of_the_host(
    service: Service, many_homed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, asked = socket.create_server, []

    def create_server(place: tuple[Any, ...], **options: Any) -> socket.socket:
        asked.append(place[:2])
        if len(asked) == 2:
            raise OSError(errno.EADDRINUSE, "taken")
        return real(place, **options)

    monkeypatch.setattr(socket, "create_server", create_server)
    with serve("tcp:many.homed:0", service) as server, client(server) as conn:
        assert is_answered(conn)
    assert [host for host, _ in asked] == [*many_homed[:2], *many_homed]
    asked.clear()
    with pytest.raises(OSError, match=r"tcp:many\.homed:\d+: taken") as caught:
        serve(server.address, service)
    assert caught.value.errno == errno.EADDRINUSE


@both_faces
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


@pytest.mark.usefixtures("plain_streams")
@pytest.mark.long
def test_clients_that_left_are_forgotten(address: str, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one place each client has to wait for the one before to be forgotten."""
    monkeypatch.setattr(packetwire.core.admission, "PAUSE_SECONDS", LIMIT)
    seen = []
    gc.freeze()  # to collect among what all tests before have left takes long
    try:
        with serve(address, service, max_connections=1) as server:
            for _ in range(100):
                with client(server) as conn:
                    assert is_answered(conn)
                    service.made.clear()
                    gc.collect()
                    seen.append((len(open_fds()), threading.active_count()))
    finally:
        gc.unfreeze()
    assert len({fds for fds, _ in seen[1:]}) == 1
    # one that opens or closes a client may just be ending, or a clock be there, with the worker that starts it
    counts = [count for _, count in seen[1:]]
    assert max(counts) - min(counts) <= 5, "of 100 clients"


# too many clients


def turned_away(log: str) -> int:
    """How many clients there was no place for."""
    return sum(map(int, re.findall(r"(\d+) clients turned away, as max_connections=2 are connected", log)))


@both_faces
def test_more_clients_than_places_are_turned_away(
    address: str, service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody gives up a place who is owed something."""
    monkeypatch.setattr(packetwire.core.admission, "PAUSE_SECONDS", 0.01)
    with serve(address, service, max_connections=2) as server, client(server) as first:
        with client(server) as second:
            results = [conn.submit(WAIT) for conn in (first, second)]
            for _ in results:
                assert service.waiting.acquire(timeout=LIMIT)
            with raw_client(server) as third:
                assert all_octets(third) == ENDED
            with client(server) as fourth, pytest.raises(ConnectionEnded):
                fourth(ECHO, timeout=LIMIT)
            while turned_away(caplog.text) < 2:
                pass  # as long as the server is at it, it would turn away the next one too
            service.release.set()
            assert [result(timeout=LIMIT)[0] for result in results] == [True, True]
        while server.connections > 1:
            pass  # the second one still leaves: the first would have to give its place
        monkeypatch.setattr(packetwire.core.admission, "PAUSE_SECONDS", LIMIT)
        with client(server) as fifth:
            assert is_answered(fifth)
            assert is_answered(first)


@both_faces
def test_a_client_waits_a_moment_for_one_that_leaves(
    address: str, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packetwire.core.admission, "PAUSE_SECONDS", LIMIT)
    with serve(address, service, max_connections=1) as server:
        first = client(server).open()
        assert is_answered(first)
        with client(server) as second:
            result = second.submit(ECHO, 0, b"patient")
            first.close()
            assert result(timeout=LIMIT) == (True, 0, b"patient")


# bad clients

A_REQUEST = bytes(Packet(is_request=True, channel=0, tag=2, flags=0, rq_type=ECHO + 1, payload=b"x" * 16384))

BAD = {
    "silent": b"",
    "garbage": b"\xff" * 4096,
    "another protocol": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "half a packet": A_REQUEST[:100],
    "too large": b"\xff\xff\xff\xff\xff\x7f\x02\x02\x01",
    "one tag for all, and never reads": A_REQUEST * 500,
}


@both_faces
@pytest.mark.parametrize("octets", BAD.values(), ids=BAD)
def test_a_bad_client_disturbs_no_other(address: str, service: Service, octets: bytes) -> None:
    with serve(address, service, drain_timeout=0.01) as server, client(server) as before:
        for _ in range(3):
            with raw_client(server) as left, suppress(BlockingIOError, ConnectionError):
                left.send(octets, socket.MSG_DONTWAIT)
        with raw_client(server) as bad:
            with suppress(BlockingIOError, ConnectionError):
                view = memoryview(octets)
                while view:
                    view = view[bad.send(view, socket.MSG_DONTWAIT) :]
            assert is_answered(before)
            with client(server) as after:
                assert is_answered(after)


# services that fail


@pytest.mark.parametrize("error", [ValueError("not today"), SystemExit("not today")])
def test_a_service_that_cannot_be_made_concerns_its_client_alone(
    address: str, service: Service, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    errors = [error]

    def make(recv_send: Any) -> PacketConnection:
        if errors:
            raise errors.pop()
        return service(recv_send)

    with serve(address, make) as server:
        with client(server) as first, pytest.raises(ConnectionEnded):
            first(ECHO, timeout=LIMIT)
        with client(server) as second:
            assert is_answered(second)
    assert "a client could not be served" in caplog.text
    assert "not today" in caplog.text
    assert server.failure is None


def test_a_factory_of_something_else_is_told(address: str, caplog: pytest.LogCaptureFixture) -> None:
    with (
        serve(address, lambda recv_send: [recv_send]) as server,  # type: ignore[arg-type, return-value]
        client(server) as conn,
        pytest.raises(ConnectionEnded),
    ):
        conn(ECHO, timeout=LIMIT)
    assert "the factory must return a HasPacketConnection or a PacketConnection, got [<socket" in caplog.text


# when the system runs out of something


class Accepting:
    """Lets `socket.accept` fail while `failures` are left, and counts its calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, code: int, failures: float) -> None:
        self.calls = 0
        self.failures = failures
        real = socket.socket.accept

        def accept(sock: socket.socket) -> Any:
            self.calls += 1
            if self.failures > 0:
                self.failures -= 1
                raise OSError(code, os.strerror(code))
            return real(sock)

        monkeypatch.setattr(socket.socket, "accept", accept)


@both_faces
@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
def test_without_descriptors_accepting_goes_on_after_a_moment(
    address: str, service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, code: int
) -> None:
    monkeypatch.setattr(packetwire.core.admission, "PAUSE_SECONDS", 0.01)
    with serve(address, service) as server:
        accepting = Accepting(monkeypatch, code, 3)
        with client(server) as conn:
            assert is_answered(conn)
            assert accepting.calls == 4
    assert caplog.text.count("clients have to wait") == 1


@both_faces
def test_without_descriptors_a_client_that_leaves_is_enough(
    address: str, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packetwire.core.admission, "PAUSE_SECONDS", LIMIT)
    tried = threading.Event()
    ran_out = Admission.ran_out

    def tell(self: Admission[Any], error: Exception) -> None:
        ran_out(self, error)
        tried.set()

    monkeypatch.setattr(Admission, "ran_out", tell)
    with serve(address, service) as server:
        first = client(server).open()
        assert is_answered(first)
        accepting = Accepting(monkeypatch, errno.EMFILE, float("inf"))
        with client(server) as second:
            result = second.submit(ECHO)
            assert tried.wait(LIMIT)
            assert all(is_answered(first) for _ in range(100))
            assert accepting.calls == 1  # meanwhile it did not try again and again
            accepting.failures = 0
            first.close()
            assert result(timeout=LIMIT)[0]
            assert accepting.calls == 2


@both_faces
@pytest.mark.parametrize("code", [errno.ECONNABORTED, errno.EAGAIN, errno.EPROTO, errno.EPERM, errno.ENETDOWN])
def test_a_client_that_is_gone_before_it_is_accepted(
    address: str, service: Service, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    with serve(address, service) as server:
        accepting = Accepting(monkeypatch, code, 1)
        with client(server) as conn:
            assert is_answered(conn)
        assert accepting.calls == 2


def test_without_threads_a_client_is_sent_away_and_the_next_is_served(
    address: str, service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(packetwire.core.admission, "PAUSE_SECONDS", 0.01)
    real, failed = threading.Thread.start, []

    def start(self: threading.Thread) -> None:
        if self.name.endswith("-client") and not failed:
            failed.append(self)
            raise RuntimeError("can't start new thread")
        real(self)

    monkeypatch.setattr(threading.Thread, "start", start)
    with serve(address, service) as server:
        with raw_client(server) as first:
            assert all_octets(first) == b""
        with client(server) as second:
            assert is_answered(second)
    assert "clients have to wait: can't start new thread" in caplog.text


def test_a_listening_socket_that_breaks_ends_the_server(
    address: str, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(address, service, drain_timeout=0.2) as server, client(server) as conn:
        assert is_answered(conn)
        Accepting(monkeypatch, errno.EBADF, 1)
        with suppress(ConnectionResetError), raw_client(server):
            assert server.wait(LIMIT)
        assert server.wait(LIMIT)
        assert isinstance(server.failure, OSError)
        assert server.failure.errno == errno.EBADF
        assert conn.join(LIMIT)
        assert isinstance(conn.ended, PeerClosed)


RUN_OUT = """
import os, resource, socket, sys
from packetwire import PacketConnection, serve

def make(recv_send):
    return PacketConnection(recv_send, request_handler=lambda rq_type, flags, payload: payload)

with socket.socketpair()[0] as warm_up, PacketConnection(warm_up, close_timeout=0):
    pass
with serve(sys.argv[1], make):
    highest = max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 30, highest + 30))
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_with_all_descriptors_used_it_lives_on(path: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", RUN_OUT, f"unix:{path}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == "ready\n"
            with ExitStack() as idle:
                for _ in range(50):
                    sock = idle.enter_context(socket.socket(socket.AF_UNIX))
                    sock.connect(path)
                    sock.sendall(A_REQUEST)  # whoever had said nothing would give way
                assert not is_served(path, timeout=0.05)
            while not is_served(path, timeout=LIMIT):
                pass  # it still lets go of those that left
            _, errors = process.communicate(timeout=LIMIT)
            assert (process.returncode, "Too many open files" in errors) == (0, True)
        finally:
            process.kill()


def is_served(path: str, timeout: float) -> bool:
    with suppress(ConnectionEnded, RequestTimeout), PacketConnection(connect_to(f"unix:{path}")) as conn:
        return conn(ECHO, b"again", timeout=timeout) == (True, 0, b"again")
    return False


# the end


def test_what_is_owed_is_answered_before_the_end(address: str, service: Service) -> None:
    with serve(address, service) as server, client(server) as conn:
        result = conn.submit(WAIT, 3, b"slow")
        assert service.waiting.acquire(timeout=LIMIT)
        server.stop(LIMIT)
        wait_until(lambda: not server._listener.sockets)  # nobody is accepted any more
        with pytest.raises((ConnectionRefusedError, FileNotFoundError)):
            connect_to(server.address)()
        assert not server.wait(0)
        service.release.set()
        assert result(timeout=LIMIT) == (True, 3, b"slow")
        assert server.wait(LIMIT)
        assert conn.join(LIMIT)
        assert isinstance(conn.ended, PeerClosed)


@pytest.mark.leaves_threads
@pytest.mark.parametrize(
    ("address", "timeouts"),
    [
        *[(kind, (0,)) for kind in KINDS],
        *[
            pytest.param(kind, timeouts, marks=[] if kind == "unix" else pytest.mark.long)
            for kind in KINDS
            for timeouts in ((FOREVER, 0), (0, FOREVER))
        ],
    ],
    indirect=["address"],
)
def test_what_is_not_answered_in_time_is_refused(
    address: str, service: Service, timeouts: tuple[float, ...]
) -> None:
    with serve(address, service) as server, client(server) as conn:
        result = conn.submit(WAIT)
        assert service.waiting.acquire(timeout=LIMIT)
        with service.made[0]:
            pass  # the session has opened it by now
        for timeout in timeouts:
            server.stop(timeout)
        assert server.wait(LIMIT)
        with pytest.raises(PeerClosed, match="the connection was closed before this request was done"):
            result(timeout=LIMIT)
        service.release.set()


JOBS = 90
STEPS = 3


class Job(BaseRequest[int]):
    """Reports its progress over its own connection, `STEPS` times."""

    def fulfil(self, context: Any) -> bytes:
        context.service.waiting.release()
        assert context.service.release.wait(FOREVER)
        for step in range(STEPS):
            context.conn_do_remote(Progress(step), timeout=LIMIT)
        return b"done"

    @classmethod
    def from_request_payload(cls, flags: int, payload: bytes) -> Job:
        return cls()

    def __bytes__(self) -> bytes:
        return b""

    def decode_response_payload(self, flags: int, payload: bytes) -> Any:
        return payload


class Progress(Job):
    def __init__(self, step: int) -> None:
        self.step = step

    @classmethod
    def from_request_payload(cls, flags: int, payload: bytes) -> Job:
        return cls(payload[0])

    def __bytes__(self) -> bytes:
        return bytes((self.step,))

    def fulfil(self, context: Any) -> bytes:
        context.reported.append(self.step)
        return b""


class Working(HasPacketConnection):
    """Does jobs, or has them done and gets to know how they get on."""

    def __init__(self, recv_send: Any, service: Service | None = None, **connection: Any) -> None:
        super().__init__(recv_send, rq_type_map={0: Job, 1: Progress}, **connection)
        self.service = service
        self.reported: list[int] = []


@pytest.mark.usefixtures("plain_streams")
@pytest.mark.parametrize("handlers", [4, JOBS])
def test_a_server_that_stops_loses_no_job_that_reports_over_its_own_connection(
    address: str, service: Service, handlers: int
) -> None:
    made: list[Working] = []

    def make(recv_send: Any) -> Working:
        made.append(Working(recv_send, service, handlers=handlers))
        return made[-1]

    with serve(address, make) as server, Working(connect_to(server.address)) as asking:
        results = [asking.conn_submit(Job()) for _ in range(JOBS)]
        for _ in range(handlers):
            assert service.waiting.acquire(timeout=LIMIT)
        wait_until(lambda: made[0].conn._driver.engine.owed == JOBS)
        server.stop(LIMIT)
        wait_until(lambda: made[0].conn._driver.engine._winding_down)
        late = asking.conn_submit(Job())
        wait_until(lambda: made[0].conn._driver.engine._not_begun)
        service.release.set()
        assert [result(timeout=LIMIT) for result in results] == [(True, 0, b"done")] * JOBS
        with pytest.raises(PeerClosed, match="this request was not begun"):
            late(timeout=LIMIT)
        assert sorted(asking.reported) == sorted([*range(STEPS)] * JOBS)
        assert server.wait(LIMIT)


@pytest.mark.leaves_threads
def test_a_server_that_has_no_time_for_its_jobs_says_so_to_each_caller(address: str, service: Service) -> None:
    made: list[Working] = []

    def make(recv_send: Any) -> Working:
        made.append(Working(recv_send, service))
        return made[-1]

    with serve(address, make) as server, Working(connect_to(server.address)) as asking:
        results = [asking.conn_submit(Job()) for _ in range(JOBS)]
        wait_until(lambda: made and made[0].conn._driver and made[0].conn._driver.engine.owed == JOBS)
        server.stop(0.01)
        for result in results:
            with pytest.raises(ConnectionEnded, match="the connection was closed before this request was done"):
                result(timeout=LIMIT)
        assert server.wait(LIMIT)
        service.release.set()


def test_a_client_that_does_not_react_is_cut_off(address: str, service: Service) -> None:
    with serve(address, service) as server, raw_client(server) as silent:
        with client(server) as conn:
            assert is_answered(conn)  # so the other is accepted, too
        server.stop(0.01)
        assert server.wait(LIMIT)
        assert all_octets(silent) == ENDED


def test_a_handler_can_stop_the_server(address: str, service: Service) -> None:
    with serve(address, service) as server, client(server) as conn:
        service.server = server
        assert conn(STOP, b"now", timeout=LIMIT) == (True, 0, b"now")
        assert server.wait(LIMIT)


def test_to_stop_twice_or_after_the_end_does_nothing(address: str, service: Service) -> None:
    with serve(address, service) as server:
        server.stop()
        server.stop(LIMIT)
        assert server.wait(LIMIT)
        server.stop()
    assert server.failure is None
    assert server.wait(0)


@both_faces
@pytest.mark.leaves_threads
def test_a_block_left_by_an_exception_does_not_wait_for_long(
    address: str, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packetwire.server, "ABANDON_TIMEOUT", 0.01)
    with ExitStack() as stack:
        with pytest.raises(KeyError), serve(address, service, drain_timeout=FOREVER) as server:
            conn = stack.enter_context(client(server))
            conn.submit(WAIT)
            assert service.waiting.acquire(timeout=LIMIT)
            raise KeyError
        service.release.set()


def test_a_client_that_is_being_accepted_at_the_end_is_told(address: str, service: Service) -> None:
    making, go_on = threading.Event(), threading.Event()

    def make(recv_send: Any) -> PacketConnection:
        making.set()
        assert go_on.wait(FOREVER)
        return service(recv_send)

    with serve(address, make) as server, client(server) as conn:
        assert making.wait(LIMIT)
        server.stop(LIMIT)
        go_on.set()
        assert conn.join(LIMIT)
        assert server.wait(LIMIT)
        assert isinstance(conn.ended, PeerClosed)


@pytest.mark.leaves_threads
def test_a_service_that_does_not_return_is_left_behind(
    address: str, service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(packetwire.server, "CUT_SECONDS", 0.01)
    making: queue.SimpleQueue[threading.Thread] = queue.SimpleQueue()
    go_on = threading.Event()

    def make(recv_send: Any) -> PacketConnection:
        making.put(threading.current_thread())
        assert go_on.wait(FOREVER)
        return service(recv_send)

    with serve(address, make, drain_timeout=0) as server, client(server) as conn:
        session = making.get(timeout=LIMIT)
        server.stop()
        assert server.wait(LIMIT)
        assert conn.join(LIMIT)
        go_on.set()
        session.join(LIMIT)
    assert "1 services do not return" in caplog.text


# Unix sockets


@pytest.mark.parametrize("umask", [0, 0o777])
def test_nobody_else_can_connect_not_even_at_first(
    path: str, service: Service, monkeypatch: pytest.MonkeyPatch, umask: int
) -> None:
    modes, real = [], socket.socket.listen

    def listen(self: socket.socket, backlog: int) -> None:
        modes.append(stat.S_IMODE(os.stat(path).st_mode))
        real(self, backlog)

    monkeypatch.setattr(socket.socket, "listen", listen)
    before = os.umask(umask)
    try:
        with serve(f"unix:{path}", service):
            modes.append(stat.S_IMODE(os.stat(path).st_mode))
    finally:
        os.umask(before)
    assert modes == [0o600, 0o600]


def leave_stale(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
        sock.listen()


def test_a_socket_that_nobody_answers_on_is_replaced(path: str, service: Service) -> None:
    leave_stale(path)
    with serve(f"unix:{path}", service) as server, client(server) as conn:
        assert is_answered(conn)
    assert not os.path.lexists(path)


def test_a_socket_in_use_is_left_alone(path: str, service: Service) -> None:
    with serve(f"unix:{path}", service) as server:
        with pytest.raises(OSError, match=f"unix:{path}: another server is serving there") as caught:
            serve(f"unix:{path}", service)
        assert caught.value.errno == errno.EADDRINUSE
        with client(server) as conn:
            assert is_answered(conn)


@both_faces
def test_a_socket_on_which_many_wait_is_in_use(path: str, service: Service) -> None:
    with socket.socket(socket.AF_UNIX) as busy, ExitStack() as waiting:
        busy.bind(path)
        busy.listen(0)
        with suppress(BlockingIOError):
            while True:
                waiting_one = waiting.enter_context(socket.socket(socket.AF_UNIX))
                waiting_one.setblocking(False)
                waiting_one.connect(path)
        with pytest.raises(OSError, match="another server is serving there"):
            serve(f"unix:{path}", service)
        assert os.path.lexists(path)


@pytest.mark.parametrize(
    "make", [os.mkdir, lambda path: os.symlink("elsewhere", path), lambda path: open(path, "w").close()]
)
def test_a_file_that_is_no_socket_is_left_alone(path: str, service: Service, make: Callable[[str], object]) -> None:
    make(path)
    with pytest.raises(FileExistsError, match=f"unix:{path}: there is a file that is no socket"):
        serve(f"unix:{path}", service)
    assert os.path.lexists(path)


def test_of_many_servers_that_start_at_once_one_serves(path: str, service: Service) -> None:
    for _ in range(10):
        leave_stale(path)
        servers: list[Server] = []
        errors: list[int | None] = []
        start = threading.Barrier(8)

        def try_to_serve(servers: list = servers, errors: list = errors, start: threading.Barrier = start) -> None:
            start.wait(LIMIT)
            try:
                servers.append(serve(f"unix:{path}", service))
            except OSError as error:
                errors.append(error.errno)

        threads = [threading.Thread(target=try_to_serve) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LIMIT)
        with ExitStack() as stack:
            for server in servers:
                stack.enter_context(server)
            assert errors == [errno.EADDRINUSE] * 7
            (server,) = servers
            with client(server) as conn:
                assert is_answered(conn)


@pytest.mark.parametrize("how", [fcntl.LOCK_EX, fcntl.LOCK_SH])
def test_whoever_can_read_the_directory_cannot_keep_a_server_from_starting(
    path: str, service: Service, how: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("packetwire.socketfiles.DIRECTORY_LOCK_SECONDS", 0.01)
    leave_stale(path)
    directory = os.open(os.path.dirname(path), os.O_RDONLY)
    try:
        fcntl.flock(directory, how)
        with serve(f"unix:{path}", service) as server, client(server) as conn:
            assert is_answered(conn)
    finally:
        os.close(directory)
    assert os.listdir(os.path.dirname(path)) == []


def test_a_server_of_the_first_release_that_starts_meanwhile_is_waited_for(
    path: str, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a server locks the directory while it looks for another one and listens."""
    monkeypatch.setattr("packetwire.socketfiles.DIRECTORY_LOCK_SECONDS", LIMIT)
    asked = threading.Event()
    real = fcntl.flock

    def flock(fd: int, how: int) -> None:
        try:
            real(fd, how)
        finally:
            asked.set()

    directory = os.open(os.path.dirname(path), os.O_RDONLY)
    real(directory, fcntl.LOCK_EX)
    monkeypatch.setattr(fcntl, "flock", flock)
    errors: queue.SimpleQueue[OSError] = queue.SimpleQueue()

    def try_to_serve() -> None:
        try:
            serve(f"unix:{path}", service)
        except OSError as error:
            errors.put(error)

    late = threading.Thread(target=try_to_serve)
    late.start()
    assert asked.wait(LIMIT)
    with socket.socket(socket.AF_UNIX) as older:
        older.bind(path)
        older.listen()
        os.close(directory)
        late.join(LIMIT)
        assert errors.get(timeout=LIMIT).errno == errno.EADDRINUSE


def test_a_lock_that_is_held_by_our_own_user_is_named(
    path: str, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("packetwire.socketfiles.LOCK_SECONDS", 0.01)
    with open(f"{path}.lock", "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(OSError, match=f"unix:{path}: another program has locked {path}.lock"):
            serve(f"unix:{path}", service)
    with serve(f"unix:{path}", service) as server, client(server) as conn:
        assert is_answered(conn)


def test_the_lock_is_nobody_elses(path: str, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, real = [], socket.socket.listen

    def listen(self: socket.socket, backlog: int) -> None:
        seen.append(stat.S_IMODE(os.stat(f"{path}.lock").st_mode))
        real(self, backlog)

    monkeypatch.setattr(socket.socket, "listen", listen)
    before = os.umask(0)
    try:
        with serve(f"unix:{path}", service):
            assert os.listdir(os.path.dirname(path)) == [os.path.basename(path)]
    finally:
        os.umask(before)
    assert seen == [0o600]


@pytest.mark.parametrize(
    "put",
    [os.mkdir, os.mkfifo, lambda path: os.symlink(f"{path}.elsewhere", path)],
    ids=["directory", "fifo", "symlink"],
)
def test_something_else_in_place_of_the_lock_is_neither_followed_nor_in_the_way(
    path: str, service: Service, put: Callable[[str], object], caplog: pytest.LogCaptureFixture
) -> None:
    put(f"{path}.lock")
    with serve(f"unix:{path}", service) as server, client(server) as conn:
        assert is_answered(conn)
    assert f"{path}.lock is not used as a lock" in caplog.text
    assert os.listdir(os.path.dirname(path)) == [f"{os.path.basename(path)}.lock"]


def test_a_lock_of_another_user_is_not_in_the_way(
    path: str, service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with open(f"{path}.lock", "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
        with serve(f"unix:{path}", service) as server, client(server) as conn:
            assert is_answered(conn)
    assert f"{path}.lock is not used as a lock: it belongs to someone else" in caplog.text


@pytest.mark.parametrize(
    ("function", "error"), [("os.open", PermissionError(13, "no")), ("fcntl.flock", OSError(errno.ENOLCK, "no"))]
)
def test_a_directory_that_cannot_be_locked_is_no_obstacle(
    path: str, service: Service, monkeypatch: pytest.MonkeyPatch, function: str, error: OSError
) -> None:
    def fail(*args: Any) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(function, fail)
        server = serve(f"unix:{path}", service)
    with server, client(server) as conn:
        assert is_answered(conn)


@both_faces
def test_at_the_end_only_a_file_that_is_ours_is_removed(path: str, service: Service) -> None:
    with serve(f"unix:{path}", service):
        os.unlink(path)
    assert not os.path.lexists(path)
    with serve(f"unix:{path}", service):
        os.unlink(path)
        leave_stale(path)
    assert os.path.lexists(path)


def test_a_relative_path_is_found_again(path: str, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(os.path.dirname(path))
    with serve("unix:socket", service) as server:
        assert str(server.address) == "unix:socket"
        with client(server) as conn:
            assert is_answered(conn)
        monkeypatch.chdir("/")
    assert not os.path.lexists(path)


def test_a_failure_on_the_way_leaves_nothing(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> None:
        raise PermissionError(errno.EPERM, "not permitted")

    monkeypatch.setattr(os, "chmod", fail)
    with pytest.raises(PermissionError, match=f"unix:{path}: not permitted"):
        listen(UnixAddress(path))
    assert not os.path.lexists(path)


# what cannot be served on


@both_faces
@pytest.mark.parametrize("address", ["exec:store", "ssh:host store"])
def test_an_address_that_cannot_be_listened_on(address: str, service: Service) -> None:
    with pytest.raises(
        LocalProtocolError, match=f"{address} cannot be served on: expected unix:PATH, tcp:HOST:PORT"
    ):
        serve(address, service)


@both_faces
def test_arguments_that_make_no_sense(service: Service) -> None:
    with pytest.raises(LocalProtocolError, match="invalid address 'nonsense'"):
        serve("nonsense", service)
    with pytest.raises(LocalProtocolError, match="max_connections must be 1 or more, got 0"):
        serve("tcp:127.0.0.1:0", service, max_connections=0)
    with pytest.raises(TypeError, match="factory must be a class or another callable, .* got <object object"):
        serve("tcp:127.0.0.1:0", object())


@both_faces
def test_a_place_that_is_taken_or_missing_is_named(path: str, service: Service) -> None:
    with serve("tcp:127.0.0.1:0", service) as server:
        with pytest.raises(OSError, match=f"{server.address}: Address already in use") as caught:
            serve(server.address, service)
        assert caught.value.errno == errno.EADDRINUSE
    with pytest.raises(FileNotFoundError, match=f"unix:{path}/x/socket: No such file or directory"):
        serve(f"unix:{path}/x/socket", service)
    with pytest.raises(OSError, match="AF_UNIX path too long"):
        serve(f"unix:{path}{'x' * 200}", service)
    with pytest.raises(OSError, match=r"tcp:192\.0\.2\.1:0: Cannot assign requested address"):
        serve("tcp:192.0.2.1:0", service)


def test_an_error_of_a_handler_reaches_the_client(address: str, caplog: pytest.LogCaptureFixture) -> None:
    def fail(rq_type: int, flags: int, payload: bytes) -> None:
        raise RuntimeError("on purpose")

    with (
        serve(address, lambda recv_send: PacketConnection(recv_send, request_handler=fail)) as server,
        client(server) as conn,
    ):
        assert conn(ECHO, timeout=LIMIT) == (False, 0, b"RuntimeError: on purpose")
    assert caplog.records[0].levelno == logging.ERROR

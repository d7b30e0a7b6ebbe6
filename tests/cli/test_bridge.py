"""`packetwire bridge` as a user runs it, and the relay in it: ends, pressure, faults, many clients."""

from __future__ import annotations

import os
import re
import select
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from tests.connections.bridges import bridging as bridging_here
from tests.connections.serving import FACES

from connections.certificates import make_certificate
from packetwire import ConnectionEnded, PacketConnection, StreamTruncated, connect_to, serve
from packetwire._sync.bridge import _Session
from packetwire.capture import CaptureDecoder, CaptureWriter
from packetwire.streams.bytestream import ByteStream

from .forked import packetwire_text

PACKETWIRE = [sys.executable, "-m", "packetwire"]
LIMIT = 30
BULK = os.urandom(4 << 20)

pytestmark = pytest.mark.timeout(60)


class Bridging:
    """A running `packetwire bridge` that listens; `address` is where."""

    def __init__(self, *args: str) -> None:
        before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a child inherits that it is not ignored
        try:
            self.process = subprocess.Popen(
                [*PACKETWIRE, "bridge", *args],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        finally:
            signal.signal(signal.SIGINT, before)
        assert self.process.stderr
        line = self.process.stderr.readline()
        found = re.fullmatch(r"bridging (\S+) to (.*)\n", line)
        assert found, line + self.process.stderr.read()
        self.address = found[1]

    def end(self, signum: int = signal.SIGTERM) -> tuple[int, str]:
        """The exit status, and what it said since it began."""
        self.process.send_signal(signum)
        stdout, stderr = self.process.communicate(timeout=LIMIT)
        assert stdout == ""
        return self.process.returncode, stderr


@contextmanager
def bridging(*args: str) -> Iterator[Bridging]:
    bridge = Bridging(*args)
    try:
        yield bridge
    finally:
        if bridge.process.returncode is None:
            bridge.process.kill()
            bridge.process.communicate()


@pytest.fixture(params=FACES)
def face(request: pytest.FixtureRequest) -> str:
    """The kind of the bridges in this process."""
    return str(request.param)


def echo(recv_send: Any) -> PacketConnection:
    return PacketConnection(recv_send, request_handler=lambda rq_type, flags, payload: (flags, payload))


@pytest.fixture
def unix(tmp_path: Path) -> Callable[[str], str]:
    """Addresses in the test's own directory."""
    return lambda name: f"unix:{tmp_path / name}"


@pytest.fixture
def service(unix: Callable[[str], str]) -> Iterator[str]:
    """Where an echo is served."""
    with serve(unix("service"), echo) as server:
        yield str(server.address)


@pytest.fixture
def far(unix: Callable[[str], str]) -> Iterator[socket.socket]:
    """A socket that listens at unix("far")."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(unix("far").removeprefix("unix:"))
        listening.listen()
        listening.settimeout(LIMIT)
        yield listening


def dial(address: Any) -> socket.socket:
    """A plain socket, connected to a unix: or tcp: address."""
    sock: socket.socket
    sock, _, _ = connect_to(address)()
    sock.settimeout(LIMIT)
    return sock


@pytest.fixture
def joined(
    face: str, far: socket.socket, unix: Callable[[str], str]
) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two sockets with a bridge between them: the client's, and the one at the far end."""
    with bridging_here(face, unix("near"), unix("far")) as bridge, dial(bridge.address) as client:
        server, _ = far.accept()
        with server:
            server.settimeout(LIMIT)
            yield client, server


def read_all(sock: socket.socket) -> bytes:
    received = bytearray()
    while data := sock.recv(1 << 20):
        received += data
    return bytes(received)


# chains


def test_a_chain_from_a_child_over_unix_and_tcp(service: str, unix: Callable[[str], str]) -> None:
    with bridging("tcp:127.0.0.1:0", service) as tcp, bridging(unix("middle"), tcp.address) as middle:
        command = f"exec:{shlex.join([*PACKETWIRE, 'bridge', 'stdio:', middle.address])}"
        with PacketConnection(connect_to(command)) as conn:
            assert conn(7, b"hi", 5, timeout=LIMIT) == (True, 5, b"hi")
            results = [conn.submit(0, 0, BULK[: 1 << 20]) for _ in range(8)]
            assert all(result(timeout=LIMIT)[2] == BULK[: 1 << 20] for result in results)
            small = [conn.submit(0, 0, b"%d" % number) for number in range(2000)]
            assert [result(timeout=LIMIT)[2] for result in small] == [b"%d" % number for number in range(2000)]
        assert conn.process
        assert conn.process.returncode == 0
        assert middle.end() == (0, "")
        assert tcp.end() == (0, "")


def test_a_child_at_the_far_end(unix: Callable[[str], str]) -> None:
    with bridging(unix("near"), "exec:cat") as bridge:
        with dial(bridge.address) as first, dial(bridge.address) as second:
            for sock, data in (first, b"first"), (second, b"second"):
                sock.sendall(data)
                sock.shutdown(socket.SHUT_WR)
            assert read_all(first) == b"first", "each has a child of its own"
            assert read_all(second) == b"second"
        assert bridge.end() == (0, "")


def test_both_ends_can_be_connected_to(service: str, far: socket.socket, unix: Callable[[str], str]) -> None:
    process = subprocess.Popen([*PACKETWIRE, "bridge", "--connect", unix("far"), service])
    server, _ = far.accept()
    with server, PacketConnection(server) as conn:
        assert conn(7, b"hi", timeout=LIMIT)[2] == b"hi"
    server.close()
    assert process.wait(LIMIT) == 0


@pytest.mark.parametrize("transport", ["tcp://127.0.0.1:*", "ipc://{folder}/router"])
def test_a_chain_from_a_child_over_unix_and_zmq(
    service: str, unix: Callable[[str], str], tmp_path: Path, transport: str
) -> None:
    pytest.importorskip("zmq")
    router_address = f"zmq+router:{transport.format(folder=tmp_path)}"
    with bridging(router_address, service) as router:
        dealer_address = router.address.replace("zmq+router:", "zmq+dealer:")
        with bridging(unix("middle"), dealer_address) as middle:
            command = f"exec:{shlex.join([*PACKETWIRE, 'bridge', 'stdio:', middle.address])}"
            with (
                PacketConnection(connect_to(command)) as conn,
                PacketConnection(connect_to(middle.address)) as other,
            ):
                assert conn(7, b"hi", 5, timeout=LIMIT) == (True, 5, b"hi")
                results = [conn.submit(0, 0, BULK[: 1 << 20]) for _ in range(8)]
                assert other(7, b"ho", timeout=LIMIT)[2] == b"ho"
                assert all(result(timeout=LIMIT)[2] == BULK[: 1 << 20] for result in results)
            assert middle.end() == (0, "")
        assert router.end() == (0, "")


def test_a_client_that_vanishes_behind_a_router(far: socket.socket, tmp_path: Path) -> None:
    pytest.importorskip("zmq")
    with bridging(f"zmq+router:ipc://{tmp_path}/router", f"unix:{tmp_path}/far") as router:
        dealer_address = router.address.replace("zmq+router:", "zmq+dealer:")
        client = subprocess.Popen([*PACKETWIRE, "bridge", "stdio:", dealer_address], stdin=subprocess.PIPE)
        assert client.stdin
        server, _ = far.accept()
        with server, client:
            server.settimeout(LIMIT)
            client.stdin.write(b"begun")
            client.stdin.flush()
            assert server.recv(100) == b"begun"
            client.kill()
            assert server.recv(100) == b""
        assert router.end()[0] == 0


def test_tls_on_either_side(far: socket.socket, unix: Callable[[str], str], tmp_path: Path) -> None:
    made = make_certificate(tmp_path, "server")
    with bridging("tls:127.0.0.1:0", unix("far"), "--cert", made.certfile, "--key", made.keyfile) as outer:
        with bridging("tcp:127.0.0.1:0", outer.address, "--cafile", made.certfile) as inner:
            with dial(inner.address) as client:
                server, _ = far.accept()
                with server:
                    server.settimeout(LIMIT)
                    sender = threading.Thread(
                        target=lambda: (client.sendall(BULK), client.shutdown(socket.SHUT_WR))
                    )
                    sender.start()
                    assert read_all(server) == BULK
                    sender.join(LIMIT)
                    server.sendall(BULK[:100_000])
                    server.shutdown(socket.SHUT_WR)
                    assert read_all(client) == BULK[:100_000]
            assert inner.end() == (0, "")
        assert outer.end() == (0, "")


# bytes, ends and pressure


def test_bulk_both_ways_at_once(joined: tuple[socket.socket, socket.socket]) -> None:
    client, server = joined

    def send(sock: socket.socket, data: bytes) -> None:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)

    senders = [threading.Thread(target=send, args=args) for args in ((client, BULK), (server, BULK[::-1]))]
    received: list[bytes] = []
    reader = threading.Thread(target=lambda: received.append(read_all(client)))
    for thread in (*senders, reader):
        thread.start()
    assert read_all(server) == BULK
    for thread in (*senders, reader):
        thread.join(LIMIT)
    assert received == [BULK[::-1]]


def test_half_close_is_passed_on_and_the_other_direction_goes_on(
    joined: tuple[socket.socket, socket.socket],
) -> None:
    client, server = joined
    client.sendall(b"question")
    client.shutdown(socket.SHUT_WR)
    assert read_all(server) == b"question"
    for _ in range(3):
        server.sendall(b"answer")
        assert client.recv(100) == b"answer"
    server.shutdown(socket.SHUT_WR)
    assert client.recv(100) == b""


def test_who_only_waits_is_let_go_when_the_far_end_is_gone(
    face: str, far: socket.socket, unix: Callable[[str], str]
) -> None:
    with bridging_here(face, unix("near"), unix("far")) as bridge, dial(bridge.address) as client:
        server, _ = far.accept()
        server.close()
        poller = select.poll()
        poller.register(client, 0)  # not its end, but that nobody is there any more
        assert poller.poll(LIMIT * 1000) == [(client.fileno(), select.POLLHUP)]


def test_half_close_through_standard_input(far: socket.socket, unix: Callable[[str], str]) -> None:
    process = subprocess.Popen(
        [*PACKETWIRE, "bridge", "stdio:", unix("far")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin
    assert process.stdout
    server, _ = far.accept()
    with server, process:
        server.sendall(b"greeting")
        server.shutdown(socket.SHUT_WR)
        assert process.stdout.read() == b"greeting", "the end of standard output comes while we may still write"
        process.stdin.write(b"late")
        process.stdin.close()
        server.settimeout(LIMIT)
        assert read_all(server) == b"late"
        assert process.wait(LIMIT) == 0


def test_half_close_through_a_socket_that_is_both_standard_streams(
    far: socket.socket, unix: Callable[[str], str]
) -> None:
    ours, theirs = socket.socketpair()
    with ours:
        ours.settimeout(LIMIT)
        with theirs:
            process = subprocess.Popen([*PACKETWIRE, "bridge", "stdio:", unix("far")], stdin=theirs, stdout=theirs)
        server, _ = far.accept()
        with server:
            server.shutdown(socket.SHUT_WR)
            assert ours.recv(100) == b""
            ours.sendall(b"still heard")
            ours.shutdown(socket.SHUT_WR)
            assert read_all(server) == b"still heard"
        assert process.wait(LIMIT) == 0


@pytest.mark.parametrize("backwards", [False, True], ids=["forth", "back"])
def test_what_was_sent_before_an_abrupt_end_arrives(
    joined: tuple[socket.socket, socket.socket], backwards: bool
) -> None:
    sender, receiver = reversed(joined) if backwards else joined
    receiver.sendall(b"never read, so closing resets the connection")
    sender.sendall(BULK[:100_000])
    sender.close()
    assert read_all(receiver) == BULK[:100_000]


def test_a_client_that_is_gone_for_good_frees_the_far_end(joined: tuple[socket.socket, socket.socket]) -> None:
    """Although that neither sends anything nor ends its direction."""
    client, server = joined
    server.sendall(b"never read, so closing resets the connection")
    select.select([client], [], [], LIMIT)
    client.close()
    hangup = select.poll()
    hangup.register(server, 0)
    assert [events for _, events in hangup.poll(LIMIT * 1000)] == [select.POLLHUP]


def test_a_side_that_takes_nothing_stops_the_other(joined: tuple[socket.socket, socket.socket]) -> None:
    """As much as sockets and the bridge hold, and no more, is taken from a client nobody reads from."""
    client, server = joined
    bound = 8 << 20
    client.setblocking(False)
    sent = bytearray()
    room = select.poll()
    room.register(client, select.POLLOUT)
    while room.poll(500):
        piece = BULK[: 1 << 16]
        sent += piece[: client.send(piece)]
        assert len(sent) < bound, "the bridge holds what nobody takes"
    server.sendall(b"the other direction is free")
    client.setblocking(True)
    assert client.recv(100) == b"the other direction is free"
    client.shutdown(socket.SHUT_WR)
    assert read_all(server) == sent


@pytest.mark.parametrize("cut", [0, 1, 3, 6])
def test_a_service_that_vanishes_in_a_packet(
    face: str, far: socket.socket, unix: Callable[[str], str], cut: int
) -> None:
    response = bytes.fromhex("05020448494a")
    with (
        bridging_here(face, unix("near"), unix("far")) as bridge,
        PacketConnection(connect_to(bridge.address)) as conn,
    ):
        result = conn.submit(0)
        server, _ = far.accept()
        with server:
            server.recv(100)
            server.sendall(response[:cut])
        if cut == len(response):
            assert result(timeout=LIMIT) == (True, 0, b"HIJ")
        else:
            with pytest.raises(ConnectionEnded) as raised:
                result(timeout=LIMIT)
            assert isinstance(raised.value, StreamTruncated) == (cut > 0)


def test_a_child_that_is_killed_ends_its_client_only(unix: Callable[[str], str], tmp_path: Path) -> None:
    script = f"echo $$ >> {tmp_path / 'pids'}; exec cat"
    with bridging(unix("near"), f"exec:sh -c {shlex.quote(script)}") as bridge:
        assert bridge.process.stderr
        with dial(bridge.address) as first, dial(bridge.address) as second:
            for sock in first, second:
                sock.sendall(b"here")
                assert sock.recv(100) == b"here"
            os.kill(int((tmp_path / "pids").read_text().split()[0]), signal.SIGKILL)
            ready, _, _ = select.select([first, second], [], [], LIMIT)
            assert [sock.recv(100) for sock in ready] == [b""]
            (other,) = {first, second} - set(ready)
            other.sendall(b"still")
            assert other.recv(100) == b"still"
            ready[0].close()
            assert "was killed by signal 9 (SIGKILL)" in bridge.process.stderr.readline()
        assert bridge.end() == (0, "")


def test_a_client_whose_far_end_cannot_be_reached_is_closed(unix: Callable[[str], str]) -> None:
    with bridging(unix("near"), unix("nobody")) as bridge:
        for _ in range(2):
            with dial(bridge.address) as client:
                assert client.recv(100) == b""
        status, said = bridge.end()
    assert status == 0
    lines = said.splitlines()
    assert len(lines) == 2
    assert all("nobody: No such file or directory" in line for line in lines)


def test_a_failure_is_told_though_the_bridge_is_stopped_as_soon_as_the_client_sees_its_end() -> None:
    class Stream(ByteStream):
        def __init__(self) -> None:
            super().__init__(Mock(), Mock(), session.stop)

    def unreachable() -> ByteStream:
        raise FileNotFoundError("nobody")

    session = _Session("client 1", Stream, unreachable, None, lambda: None, None)
    session.running.start()
    assert session.running.join(LIMIT)
    assert isinstance(session.failure, FileNotFoundError)


def test_the_only_connection_that_cannot_be_made(unix: Callable[[str], str]) -> None:
    done = subprocess.run(
        [*PACKETWIRE, "bridge", "exec:cat", unix("nobody")],
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"packetwire: unix:\S+nobody: No such file or directory\n", done.stderr)


def test_a_child_that_fails_is_quoted(service: str) -> None:
    done = subprocess.run(
        [*PACKETWIRE, "bridge", "exec:sh -c 'echo on purpose >&2; exit 3'", service],
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT,
    )
    assert done.returncode == 1
    assert re.search(r"exited with status 3; its standard error ends: on purpose\n$", done.stderr)
    assert done.stderr.count("\n") == 1


# many clients, and the end


def test_many_clients(face: str, service: str, unix: Callable[[str], str]) -> None:
    with bridging_here(face, unix("near"), service) as bridge, ExitStack() as opened:
        conns = [opened.enter_context(PacketConnection(connect_to(bridge.address))) for _ in range(30)]
        results = [conn.submit(0, 0, b"%d" % number) for number, conn in enumerate(conns)]
        assert [result(timeout=LIMIT)[2] for result in results] == [b"%d" % number for number in range(30)]
        assert bridge.clients == 30


def test_too_many_clients_are_closed(
    face: str, unix: Callable[[str], str], caplog: pytest.LogCaptureFixture
) -> None:
    with bridging_here(face, unix("near"), "exec:cat", max_clients=1) as bridge, dial(bridge.address) as first:
        first.sendall(b"in")
        assert first.recv(100) == b"in"
        with dial(bridge.address) as second:
            assert second.recv(100) == b""
        first.sendall(b"still")
        assert first.recv(100) == b"still"
    assert "a client was turned away: 1 are connected" in caplog.text


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_ends_it_with_clients(
    unix: Callable[[str], str], tmp_path: Path, signum: int, status: int
) -> None:
    script = f"echo $$ > {tmp_path / 'pid'}; exec cat"
    with bridging(unix("near"), f"exec:sh -c {shlex.quote(script)}") as bridge, dial(bridge.address) as client:
        client.sendall(b"here")
        assert client.recv(100) == b"here"
        found, said = bridge.end(signum)
        assert client.recv(100) == b""
    assert found == status
    assert said == ("packetwire: interrupted\n" if status else "")
    assert not (tmp_path / "near").exists()
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_nothing_is_left_behind(face: str, service: str, unix: Callable[[str], str]) -> None:
    with PacketConnection(connect_to(service)) as conn:
        conn(0, timeout=LIMIT)  # what the first connection imports and opens
    threads, fds = threading.active_count(), len(os.listdir("/proc/self/fd"))
    with bridging_here(face, unix("near"), service) as bridge:
        for _ in range(5):
            with PacketConnection(connect_to(bridge.address)) as conn:
                assert conn(0, b"x", timeout=LIMIT)[2] == b"x"
    with serve(unix("last"), echo):
        pass
    # the service's sessions end a moment later than their clients; the watchdog is what ends it otherwise
    while threading.active_count() > threads or len(os.listdir("/proc/self/fd")) > fds:
        time.sleep(0.001)


# the tap


def test_the_tap_records_what_went_over(
    face: str, far: socket.socket, unix: Callable[[str], str], tmp_path: Path
) -> None:
    path = tmp_path / "a.cap"
    with CaptureWriter(path) as capture, bridging_here(face, unix("near"), unix("far"), capture=capture) as bridge:
        with dial(bridge.address) as client:
            server, _ = far.accept()
            with server:
                client.sendall(b"question")
                assert server.recv(100) == b"question"
                server.sendall(b"answer")
                assert client.recv(100) == b"answer"
                client.shutdown(socket.SHUT_WR)
                assert server.recv(100) == b""
            assert client.recv(100) == b""
    records = CaptureDecoder().feed(path.read_bytes())
    assert [(record.sign, record.data) for record in records] == [
        ("+", f"{bridge.address} {unix('far')}".encode()),
        (">", b"question"),
        ("<", b"answer"),
        (">", b""),
        ("<", b""),
        ("-", b""),
    ]


def test_a_bridge_that_is_killed_leaves_a_capture_that_can_be_read(
    service: str, unix: Callable[[str], str], tmp_path: Path
) -> None:
    path = tmp_path / "a.cap"
    with bridging(unix("near"), service, "--tap", str(path)) as bridge:
        with PacketConnection(connect_to(bridge.address), close_timeout=0.1) as conn:
            for number in range(100):
                assert conn(0, b"%d" % number, timeout=LIMIT)[2] == b"%d" % number
            status, _ = bridge.end(signal.SIGKILL)
    assert status == -signal.SIGKILL
    done = subprocess.run(
        [*PACKETWIRE, "dump", str(path)], capture_output=True, text=True, check=True, timeout=LIMIT
    )
    assert done.stdout.count(" > request ") == 100
    assert done.stdout.count(" < response ") == 100


# mistakes


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "the following arguments are required: A, B"),
        (["unix:a"], "the following arguments are required: B"),
        (["unx:a", "unix:b"], "argument A: invalid address 'unx:a': expected exec:CMD"),
        (["unix:a", "tcp:b"], "argument B: invalid address 'tcp:b': expected tcp:HOST:PORT; invalid port 'b'"),
        (["unix:a", "stdio:"], "argument B: stdio: goes first: packetwire bridge stdio: ADDRESS"),
        (["unix:a", "tcp:b:0"], "argument B: tcp:b:0: port 0 is for listening, there is nothing to connect to"),
        (["tcp:a:0", "unix:b", "--connect"], "argument A: tcp:a:0: port 0 is for listening"),
        (["stdio:", "unix:b", "--connect"], "--connect is for an A to listen at, not for stdio:"),
        (
            ["unix:a", "unix:b", "--max-clients", "0"],
            "argument --max-clients: expected a whole number from 1, got '0'",
        ),
        (["unix:a", "unix:b", "--tap"], "argument --tap: expected one argument"),
        (["unix:a", "unix:b", "--tap", "/nonesuch/x"], "argument --tap: cannot write '/nonesuch/x': No such file"),
        (["unix:a", "unix:b", "--tap", "/dev/null"], "argument --tap: '/dev/null' is not a regular file"),
        (["unix:a", "unix:b", "--cert", "x"], "--cert is for tls: addresses, not for unix:a"),
        (["unix:a", "unix:b", "--cafile", "x"], "--cafile is for tls: addresses, not for unix:b"),
        (["tls:localhost:0", "unix:b"], "tls:localhost:0 needs --cert FILE"),
        (["unix:a", "unix:b", "--tpa", "x"], "unrecognized arguments: --tpa x"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes(tmp_path: Path, args: list[str], message: str) -> None:
    done = packetwire_text("bridge", *args, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_address_in_use(service: str, unix: Callable[[str], str]) -> None:
    done = subprocess.run(
        [*PACKETWIRE, "bridge", service, unix("b")], capture_output=True, text=True, check=False, timeout=LIMIT
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"packetwire: {service}: another server is serving there\n"


@pytest.mark.parametrize("closed", [0, 1])
def test_standard_input_or_output_that_is_closed(closed: int) -> None:
    argv = ["sh", "-c", f'exec "$@" {closed}>&-', "sh", *PACKETWIRE, "bridge", "stdio:", "exec:cat"]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=50)
    name = ("standard input", "standard output")[closed]
    assert done.returncode == 1
    assert re.fullmatch(rf"packetwire: {name}.* closed: .*\n", done.stderr), done.stderr

"""Ways to listen by which one server follows another: sockets of others, SO_REUSEPORT, a Unix socket replaced."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

import packetwire.serving
from packetwire import ConnectionEnded, LocalProtocolError, PacketConnection, PeerClosed, connect_to, serve
from packetwire.addresses import parse_address
from packetwire.admission import Admission
from packetwire.givensockets import inherited_sockets
from packetwire.latecomers import hold_off
from packetwire.listeners import listen
from packetwire.streams.tls import client_context, server_context, start_tls

from .certificates import make_certificate
from .serving import FACES, LIMIT, serving

pytestmark = pytest.mark.timeout(60)

ENDED = bytes(PacketConnection.ERQ_Packet) + bytes(PacketConnection.EOF_Packet)
FIRST = 200
"""The descriptor that is passed first, in place of 3."""


@pytest.fixture(params=FACES)
def face(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return f"{tmp_path}/socket"


@pytest.fixture(params=["unix", "tcp"])
def sock(request: pytest.FixtureRequest, path: str) -> Iterator[socket.socket]:
    """One that listens."""
    with tcp_socket() if request.param == "tcp" else unix_socket(path) as listening:
        yield listening


def unix_socket(path: str) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(path)
    listening.listen()
    return listening


def tcp_socket(host: str = "127.0.0.1") -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, 0), family=family)


def address_of(sock: socket.socket) -> str:
    name = sock.getsockname()
    return f"unix:{name}" if isinstance(name, str) else f"tcp:{name[0]}:{name[1]}"


def echo(rq_type: int, flags: int, payload: bytes) -> Any:
    return flags, payload


def is_served(address: Any) -> bool:
    with PacketConnection(connect_to(str(address))) as conn:
        return bool(conn(0, b"payload", timeout=LIMIT)[2] == b"payload")


def identity(path: str) -> tuple[int, int]:
    found = os.lstat(path)
    return found.st_dev, found.st_ino


def all_bytes(sock: socket.socket) -> bytes:
    received = b""
    with suppress(ConnectionResetError):
        while data := sock.recv(4096):
            received += data
    return received


# sockets of others


@pytest.mark.parametrize("kind", ["socket", "descriptor", "list"])
def test_a_socket_that_listens_already(face: str, sock: socket.socket, kind: str) -> None:
    address, name = address_of(sock), sock.getsockname()
    given: Any = {"socket": sock, "descriptor": sock.fileno(), "list": [sock]}[kind]
    with serving(face, address, echo, {"listener": given}) as served:
        assert served.address == address
        assert is_served(address)
    if kind == "descriptor":
        assert not is_open(sock.detach())
    else:
        assert sock.fileno() == -1
    assert not isinstance(name, str) or stat.S_ISSOCK(os.stat(name).st_mode)


def is_open(fd: int) -> bool:
    with suppress(OSError):
        return bool(os.fstat(fd))
    return False


def test_several_sockets_and_their_port(face: str) -> None:
    with tcp_socket() as one, tcp_socket("::1") as other:
        addresses = [address_of(one), "tcp:[::1]:" + str(other.getsockname()[1])]
        with serving(face, "tcp:localhost:0", echo, {"listener": (one, other.fileno())}) as served:
            assert served.address == f"tcp:localhost:{one.getsockname()[1]}"
            assert all(map(is_served, addresses))
        other.detach()


def test_who_has_the_socket_too_goes_on(face: str, sock: socket.socket) -> None:
    """Nothing is done to it that would hold for all who have it."""
    address = address_of(sock)
    for _ in range(2):
        with serving(face, address, echo, {"listener": sock.dup()}):
            assert is_served(address)
    with socket.socket(sock.family) as client:
        client.connect(sock.getsockname())
        sock.settimeout(LIMIT)
        sock.accept()[0].close()


def a_pipe() -> int:
    read, write = os.pipe()
    os.close(write)
    return read


def closed_socket() -> socket.socket:
    gone = socket.socket()
    gone.close()
    return gone


MISTAKES: list[tuple[str, Callable[[], Any], str]] = [
    ("tcp:127.0.0.1:0", socket.socket, "tcp:127.0.0.1:0: the listener does not listen"),
    ("tcp:127.0.0.1:0", lambda: socket.socket().detach(), "tcp:127.0.0.1:0: descriptor {given} does not listen"),
    ("tcp:127.0.0.1:0", lambda: socket.socket(socket.AF_UNIX), "the listener is a socket of AF_UNIX"),
    ("unix:x", tcp_socket, "unix:x: the listener is a socket of AF_INET"),
    (
        "tcp:127.0.0.1:0",
        lambda: socket.socket(type=socket.SOCK_DGRAM),
        "the listener is a socket of SOCK_DGRAM, not of SOCK_STREAM",
    ),
    ("tcp:127.0.0.1:1", tcp_socket, "tcp:127.0.0.1:1: the listener listens at port "),
    ("tcp:127.0.0.1:0", closed_socket, "the listener is closed"),
    ("tcp:127.0.0.1:0", lambda: 1_000_000, "descriptor {given} is not open"),
    ("tcp:127.0.0.1:0", a_pipe, "descriptor {given} is not a socket"),
    ("tcp:127.0.0.1:0", list, "listener has no socket in it; None stands for none"),
    ("tcp:127.0.0.1:0", lambda: "3", "listener must be a socket, a descriptor or several of them, got '3'"),
    ("tcp:127.0.0.1:0", lambda: True, "listener must be a socket, a descriptor or several of them, got True"),
    ("stdio:", tcp_socket, "stdio: has no use for a listener: only unix:, tcp: and tls: have"),
    ("zmq+pair:tcp://127.0.0.1:*", tcp_socket, "has no use for a listener"),
]


@pytest.mark.parametrize(("address", "make", "text"), MISTAKES)
def test_what_cannot_be_served_at_is_said_and_left_alone(
    face: str, address: str, make: Callable[[], Any], text: str
) -> None:
    given = make()
    with (
        pytest.raises((LocalProtocolError, TypeError)) as caught,
        serving(face, address, echo, {"listener": given}),
    ):
        pass
    assert text.format(given=given) in str(caught.value)
    assert "\n" not in str(caught.value)
    if isinstance(given, socket.socket):
        assert given.fileno() != -1 or "closed" in text
        given.close()
    elif type(given) is int and "open" not in text:
        os.close(given)


def test_one_way_at_a_time(face: str, sock: socket.socket) -> None:
    address = address_of(sock)
    way = "replace" if address.startswith("unix:") else "reuse_port"
    other = "reuse_port" if way == "replace" else "replace"
    listening = listen("tcp:127.0.0.1:0")
    for where, options, text in (
        (address, {"listener": sock, way: True}, "with a listener neither reuse_port nor replace makes sense"),
        (address, {other: True}, f"{address} has no use for {other}"),
        (listening, {"listener": sock}, "is listened at already"),
        (listening, {"reuse_port": True}, "is listened at already"),
    ):
        with pytest.raises(LocalProtocolError, match=text), serving(face, where, echo, options):  # type: ignore[arg-type]
            pass
    listening.close()


# passed by LISTEN_FDS


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Pass sockets by their names, as systemd does."""
    monkeypatch.setattr("packetwire.givensockets.FIRST_PASSED", FIRST)
    monkeypatch.setattr("packetwire.givensockets._left", [])
    count = 0

    def pass_on(*sockets: tuple[str, int], **variables: str) -> None:
        nonlocal count
        count = len(sockets)
        for number, (_, fd) in enumerate(sockets):
            os.dup2(fd, FIRST + number)
        for name, value in {
            "LISTEN_PID": str(os.getpid()),
            "LISTEN_FDS": str(count),
            "LISTEN_FDNAMES": ":".join(name for name, _ in sockets),
            **variables,
        }.items():
            monkeypatch.setenv(name, value)

    yield pass_on
    for fd in range(FIRST, FIRST + count):
        with suppress(OSError):
            os.close(fd)


def close(sockets: list[socket.socket]) -> list[int]:
    """Close them; returns the descriptors that they had."""
    fds = [each.fileno() for each in sockets]
    for each in sockets:
        each.close()
    return fds


def test_sockets_that_are_passed_have_names(passed: Callable[..., None], sock: socket.socket) -> None:
    fd = sock.fileno()
    passed(("web", fd), ("admin", fd), ("web", fd))
    assert close(inherited_sockets("nobody")) == []
    assert not os.get_inheritable(FIRST)
    assert not {name for name in os.environ if name.startswith("LISTEN_")}
    assert close(inherited_sockets("web")) == [FIRST, FIRST + 2]
    assert close(inherited_sockets()) == [FIRST + 1]
    assert inherited_sockets() == []


def test_without_names_there_is_a_number(passed: Callable[..., None], sock: socket.socket) -> None:
    passed(("", sock.fileno()), ("", sock.fileno()), LISTEN_FDNAMES="")
    assert close(inherited_sockets()) == [FIRST, FIRST + 1]


@pytest.mark.parametrize("variable", ["LISTEN_PID", "LISTEN_FDS"])
def test_what_is_for_another_process_or_missing(
    passed: Callable[..., None], sock: socket.socket, variable: str
) -> None:
    passed(("web", sock.fileno()), **{variable: str(os.getppid()) if variable == "LISTEN_PID" else ""})
    assert inherited_sockets() == []
    assert "LISTEN_FDS" not in os.environ
    assert is_open(FIRST)


@pytest.mark.parametrize(
    ("variables", "text"),
    [
        ({"LISTEN_PID": "me"}, "LISTEN_PID='me' is not a number"),
        ({"LISTEN_FDS": "-1"}, "LISTEN_FDS='-1' is not a number"),
        ({"LISTEN_FDS": "2"}, "LISTEN_FDNAMES='web' has 1 names for LISTEN_FDS=2"),
        ({"LISTEN_FDS": "2", "LISTEN_FDNAMES": "web:x"}, f"descriptor {FIRST + 1} of LISTEN_FDS is not open"),
    ],
)
def test_variables_that_make_no_sense(
    passed: Callable[..., None], sock: socket.socket, variables: dict[str, str], text: str
) -> None:
    passed(("web", sock.fileno()), **variables)
    with pytest.raises(LocalProtocolError, match=text):
        inherited_sockets()
    assert "LISTEN_FDS" not in os.environ


def test_something_else_that_is_passed(passed: Callable[..., None], sock: socket.socket) -> None:
    pipe = a_pipe()
    passed(("web", sock.fileno()), ("fifo", pipe))
    os.close(pipe)
    assert close(inherited_sockets("web")) == [FIRST]
    with pytest.raises(LocalProtocolError, match=rf"descriptor {FIRST + 1} \(fifo\) of LISTEN_FDS is not a socket"):
        inherited_sockets()


def test_whoever_waits_at_a_socket_that_was_passed_is_left_to_the_next(
    face: str, passed: Callable[..., None], sock: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one who passed it has it, too."""
    passed(("web", sock.fileno()))
    monkeypatch.setattr(Admission, "admit_all", lambda *_: None)
    address = address_of(sock)
    with serving(face, address, echo, {"listener": inherited_sockets() or None}):
        client = PacketConnection(connect_to(address)).open()
        result = client.submit(0, 0, b"patient")
    monkeypatch.undo()
    with serving(face, address, echo, {"listener": sock}), client:
        assert result(timeout=LIMIT)[2] == b"patient"
        client.close()


TAKES = """
import os, subprocess, sys
from packetwire.givensockets import inherited_sockets
os.environ["LISTEN_PID"] = str(os.getpid())
sock, = inherited_sockets()
look = "import os; print([name for name in os.environ if name[:7] == 'LISTEN_'], os.path.exists('/dev/fd/3'))"
subprocess.run([sys.executable, "-c", look], close_fds=False, check=True)
"""


def test_children_get_neither_the_variables_nor_the_sockets(sock: socket.socket) -> None:
    code = f"import os; os.dup2({sock.fileno()}, 3); {TAKES}" if sock.fileno() != 3 else TAKES
    done = subprocess.run(
        [sys.executable, "-c", code],
        pass_fds=[sock.fileno()],
        env=os.environ | {"LISTEN_FDS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[] False\n"


# SO_REUSEPORT


def test_two_servers_at_one_port(face: str) -> None:
    with serving(face, "tcp:127.0.0.1:0", echo, {"reuse_port": True}) as first:
        with serving(face, first.address, echo, {"reuse_port": True}) as second:
            assert first.address == second.address
            first.stop()
            assert first.server.address == parse_address(first.address)
            while first.connections or first.server._listener.sockets:
                pass
            assert is_served(second.address)
        with pytest.raises(ConnectionRefusedError):
            connect_to(first.address)()


def test_both_have_to_want_that(face: str) -> None:
    with serving(face, "tcp:127.0.0.1:0", echo, {}) as first:
        with pytest.raises(OSError, match="Address already in use") as caught:
            serve(first.address, PacketConnection, reuse_port=True)
        assert caught.value.errno == errno.EADDRINUSE


def test_a_system_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "SO_REUSEPORT")
    with pytest.raises(LocalProtocolError, match="this system has no SO_REUSEPORT"):
        listen("tcp:127.0.0.1:0", reuse_port=True)


# a Unix socket in place of another


def test_a_server_in_place_of_another(face: str, path: str) -> None:
    address = f"unix:{path}"
    with ExitStack() as ends:
        first = serving(face, address, lambda *_: "first", {"replace": True})
        second = serving(face, address, lambda *_: "second", {"replace": True})
        ends.enter_context(first)
        old = identity(path)
        with PacketConnection(connect_to(address)) as before:
            assert before(0, timeout=LIMIT)[2] == b"first"
            with second:
                assert identity(path) != old
                assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
                assert before(0, timeout=LIMIT)[2] == b"first"
                with PacketConnection(connect_to(address)) as after:
                    assert after(0, timeout=LIMIT)[2] == b"second"
                    ends.close()
                    assert after(0, timeout=LIMIT)[2] == b"second"
                    assert os.listdir(os.path.dirname(path)) == ["socket"]
    assert os.listdir(os.path.dirname(path)) == []


def test_only_a_socket_is_replaced(face: str, path: str) -> None:
    Path(path).touch()
    with (
        pytest.raises(FileExistsError, match="there is a file that is no socket"),
        serving(face, f"unix:{path}", echo, {"replace": True}),
    ):
        pass
    assert os.listdir(os.path.dirname(path)) == ["socket"]


def test_a_failure_on_the_way_leaves_the_other_one(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving("threads", f"unix:{path}", echo, {}):
        with monkeypatch.context() as patched:
            patched.setattr(os, "rename", lambda *_: os.mkdir(path))
            with pytest.raises(FileExistsError):
                listen(f"unix:{path}", replace=True)
        assert os.listdir(os.path.dirname(path)) == ["socket"]
        assert is_served(f"unix:{path}")


def test_a_file_in_a_directory_that_cannot_be_changed_is_left(
    path: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with serving("threads", f"unix:{path}", echo, {}):
        monkeypatch.setattr(os, "access", lambda *_: False)
    assert os.listdir(os.path.dirname(path)) == ["socket"]
    assert caplog.text == ""


def test_a_file_is_left_while_another_server_starts_there(face: str, path: str) -> None:
    """It may be renamed over at that very moment, and nobody answers on it any more."""
    with ExitStack() as ends:
        with serving(face, f"unix:{path}", echo, {}):
            held = ends.enter_context(open(f"{path}.lock", "w"))
            fcntl.flock(held, fcntl.LOCK_EX)
    assert stat.S_ISSOCK(os.lstat(path).st_mode)


# those who wait when a server stops


@pytest.fixture(params=["unix", "tcp", "reuse_port"])
def place(request: pytest.FixtureRequest, path: str) -> tuple[str, dict[str, Any]]:
    """An address, and how to listen there."""
    if request.param == "unix":
        return f"unix:{path}", {}
    return "tcp:127.0.0.1:0", {"reuse_port": request.param == "reuse_port"}


@pytest.fixture
def nobody_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the end."""
    monkeypatch.setattr(Admission, "admit_all", lambda *_: None)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems cannot do that")
def test_nobody_new_comes_while_the_last_are_accepted(sock: socket.socket) -> None:
    place = sock.getsockname()
    with socket.socket(sock.family) as before, socket.socket(sock.family) as after:
        before.connect(place)
        before.send(b"waits")
        hold_off(sock)
        after.setblocking(False)
        with pytest.raises((ConnectionRefusedError, BlockingIOError)):
            after.connect(place)
        assert not select.select([], [after], [], 0)[1] or sock.family == socket.AF_UNIX
        last, _ = sock.accept()
        with last:
            assert last.recv(10) == b"waits"
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            sock.accept()


@pytest.mark.usefixtures("nobody_is_accepted")
def test_those_who_wait_are_served(face: str, place: tuple[str, dict[str, Any]]) -> None:
    address, options = place
    with ExitStack() as ends:
        with serving(face, address, echo, options) as served:
            conns = [
                ends.enter_context(PacketConnection(connect_to(served.address), close_timeout=2)) for _ in range(5)
            ]
            results = [conn.submit(0, 0, b"waited") for conn in conns]
            served.stop()
            assert [result(timeout=LIMIT)[2] for result in results] == [b"waited"] * 5
        for conn in conns:
            assert conn.join(LIMIT)
            assert isinstance(conn.ended, PeerClosed)
            with pytest.raises((ConnectionRefusedError, FileNotFoundError)):
                connect_to(served.address)()


@pytest.mark.usefixtures("nobody_is_accepted")
def test_those_who_wait_for_no_place_are_told(
    face: str, place: tuple[str, dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    address, options = place
    with ExitStack() as ends:
        with serving(face, address, echo, options | {"max_connections": 2, "drain_timeout": 0.1}) as served:
            socks = [ends.enter_context(connect_to(served.address)()[0]) for _ in range(5)]
            for sock in socks:
                sock.settimeout(LIMIT)
        assert [all_bytes(sock) for sock in socks] == [ENDED] * 5
    assert "3 clients turned away, as max_connections=2 are connected" in caplog.text


@pytest.mark.usefixtures("nobody_is_accepted")
def test_those_who_wait_and_may_not_come_in(face: str, path: str) -> None:
    with serving(face, f"unix:{path}", echo, {"allow_uids": [os.getuid() + 1]}) as served:
        sock = connect_to(served.address)()[0]
        sock.settimeout(LIMIT)
    with sock:
        assert all_bytes(sock) == ENDED


@pytest.mark.usefixtures("nobody_is_accepted")
@pytest.mark.parametrize("code", [errno.ECONNABORTED, errno.EMFILE, errno.EBADF])
def test_the_last_cannot_be_accepted(face: str, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """One that is gone does not matter to the next; without descriptors there is nothing to be done."""
    real, codes = socket.socket.accept, [code]

    def accept(sock: socket.socket) -> Any:
        if codes:
            raise OSError(codes.pop(), os.strerror(code))
        return real(sock)

    with ExitStack() as ends:
        with serving(face, "tcp:127.0.0.1:0", echo, {}) as served:
            conn = ends.enter_context(PacketConnection(connect_to(served.address), close_timeout=2))
            result = conn.submit(0, 0, b"waited")
            monkeypatch.setattr(socket.socket, "accept", accept)
            served.stop()
        if code == errno.ECONNABORTED:
            assert result(timeout=LIMIT)[2] == b"waited"
        else:
            with pytest.raises(ConnectionEnded):
                result(timeout=LIMIT)


@pytest.mark.usefixtures("nobody_is_accepted")
def test_without_threads_for_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    real = threading.Thread.start

    def start(self: threading.Thread) -> None:
        if self.name.endswith("-client"):
            raise RuntimeError("can't start new thread")
        real(self)

    with ExitStack() as ends:
        with serving("threads", "tcp:127.0.0.1:0", echo, {}) as served:
            sock = ends.enter_context(connect_to(served.address)()[0])
            monkeypatch.setattr(threading.Thread, "start", start)
        assert all_bytes(sock) == b""


def test_a_client_that_came_long_ago_and_said_nothing_is_not_waited_for(
    face: str, place: tuple[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packetwire.serving, "FIRST_WORD_SECONDS", LIMIT)
    address, options = place
    with serving(face, address, echo, options) as served, PacketConnection(connect_to(served.address)) as conn:
        while not served.connections:
            pass
        for session in served.server._sessions:
            session.came -= LIMIT
        served.stop()
        assert conn.join(LIMIT / 2)
        assert isinstance(conn.ended, PeerClosed)


@pytest.mark.parametrize("seconds", [0.01, 1000])
def test_a_client_that_has_only_just_come_has_its_word(
    face: str, place: tuple[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    monkeypatch.setattr(packetwire.serving, "FIRST_WORD_SECONDS", seconds)
    address, options = place
    with (
        serving(face, address, echo, options | {"drain_timeout": LIMIT}) as served,
        PacketConnection(connect_to(served.address)) as conn,
    ):
        while not served.connections:
            pass
        served.stop()
        if seconds < 1:
            assert conn.join(LIMIT)
        else:
            assert conn(0, b"at last", timeout=LIMIT)[2] == b"at last"
            assert conn.join(LIMIT)


def test_a_client_that_has_only_just_come_may_finish_its_handshake(
    face: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packetwire.serving, "FIRST_WORD_SECONDS", 1000)
    made = make_certificate(tmp_path, "server")
    options = {"ssl_context": server_context(made.certfile, made.keyfile), "drain_timeout": LIMIT}
    with serving(face, "tls:127.0.0.1:0", echo, options) as served:
        with connect_to(served.address.replace("tls", "tcp"))()[0] as sock:
            while not served.connections:
                pass
            served.stop()
            tls = start_tls(sock, client_context(made.certfile), server_name="127.0.0.1", timeout=LIMIT)
            with PacketConnection(tls) as conn:
                assert conn(0, b"at last", timeout=LIMIT)[2] == b"at last"
                assert conn.join(LIMIT)

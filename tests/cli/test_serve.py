"""`packetwire serve` as a user runs it: a process, what it says, how it ends."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from packetwire import (
    ConnectionEnded,
    PacketConnection,
    PeerClosed,
    RequestResult,
    child,
    connect_to,
)

from .forked import packetwire_text

PACKETWIRE = [sys.executable, "-m", "packetwire"]
LIMIT = 30

pytestmark = pytest.mark.timeout(60)

STORE = """
import os, threading, time
from dataclasses import dataclass
from packetwire import BaseRequest, HasPacketConnection, PacketConnection

print("printed while it is imported")
os.write(1, b"written, too\\n")

@dataclass
class Echo(BaseRequest):
    data: bytes
    def __bytes__(self): return self.data
    @classmethod
    def from_bytes(cls, data): return cls(data)
    def fulfil(self, context): return self.flags, self.data

class Together(Echo):
    \"\"\"Needs as many handlers at once as the payload says.\"\"\"
    barriers = {b"%d" % count: threading.Barrier(count, timeout=30) for count in (2, 4)}
    def fulfil(self, context): self.barriers[self.data].wait()

class Crowd(Echo):
    \"\"\"How many of these ran at once until now.\"\"\"
    running, most = [], 0
    def fulfil(self, context):
        self.running.append(self)
        time.sleep(0.002)
        Crowd.most = max(Crowd.most, len(self.running))
        self.running.remove(self)
        return str(Crowd.most)

class Fail(Echo):
    def fulfil(self, context): raise RuntimeError(self.data.decode())

class Wait(Echo):
    \"\"\"Waits at two FIFOs: until someone knows that it has begun, and until it may go on.\"\"\"
    def fulfil(self, context):
        with open("begun", "w"): pass
        with open("go"): return "waited"

class Named(Echo):
    def fulfil(self, context): return type(context).__name__

REQUESTS = {0: Echo, 1: Together, 2: Fail, 3: Wait, 4: Named, 5: Crowd}

class Store(HasPacketConnection):
    def __init__(self, recv_send, size=1):
        super().__init__(recv_send, rq_type_map=REQUESTS, handlers=2)

    class Inner:
        REQUESTS = REQUESTS

def make(recv_send): return Store(recv_send, size=2)
def plain(recv_send): return PacketConnection(recv_send, request_handler=lambda rq_type, flags, payload: "plain")
def nothing(recv_send): return None
def broken(recv_send): raise RuntimeError("cannot be made")
def two(recv_send, other): pass
NUMBERS = {1: int}
NAMES = {"Echo": Echo}
NOTHING = {}
"""
ECHO, TOGETHER, FAIL, WAIT, NAMED, CROWD = range(6)

PRINTED = {"printed while it is imported", "written, too"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory with the module of a user."""
    (tmp_path / "store.py").write_text(STORE)
    os.mkfifo(tmp_path / "begun")
    os.mkfifo(tmp_path / "go")
    return tmp_path


class Serving:
    """A running `packetwire serve`; `said` is what it wrote to standard error up to its line."""

    def __init__(self, folder: Path, *args: str) -> None:
        self.process = subprocess.Popen(
            [*PACKETWIRE, "serve", *args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
        )
        self.said = ""
        assert self.process.stderr
        for line in self.process.stderr:
            self.said += line
            if line.startswith("serving "):
                self.address = line.split(" on ")[1].strip()
                return
        raise AssertionError(f"it is not serving:\n{self.said}")

    def connect(self, **connection: Any) -> PacketConnection:
        return PacketConnection(connect_to(self.address), close_timeout=2, **connection)

    def end(self, signum: int = signal.SIGTERM) -> tuple[int, str]:
        """Send a signal; the exit status and what else came on standard error."""
        self.process.send_signal(signum)
        return self.wait()

    def wait(self) -> tuple[int, str]:
        output, errors = self.process.communicate(timeout=LIMIT)
        assert output == ""
        return self.process.returncode, errors


Start = Callable[..., Serving]


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    """Start to serve at a Unix socket, or where the second argument says."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # as from a terminal
    started: list[Serving] = []

    def start(service: str = "store:REQUESTS", *args: str, address: str | None = None) -> Serving:
        serving = Serving(folder, service, address or f"unix:{folder}/socket", *args)
        started.append(serving)
        return serving

    yield start
    for serving in started:
        serving.process.kill()
        serving.process.communicate()
    signal.signal(signal.SIGINT, before)


def run(folder: Path, *args: str, stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
    return packetwire_text("serve", *args, stdin=stdin, cwd=folder)


@contextmanager
def stdio_server(folder: Path, *args: str) -> Iterator[PacketConnection]:
    """A connection to a server on its standard input and output; "stderr" is what it says."""
    with (
        open(folder / "stderr", "wb") as stderr,
        PacketConnection(child([*PACKETWIRE, "serve", *args], cwd=folder, stderr=stderr), close_timeout=2) as conn,
    ):
        yield conn
    assert conn.process
    assert conn.process.returncode == 0


# being served


def test_a_request_map_is_served_until_sigterm(start: Start, folder: Path) -> None:
    serving = start()
    assert serving.said.splitlines()[-1] == f"serving store:REQUESTS on unix:{folder}/socket"
    assert stat.S_IMODE(os.stat(folder / "socket").st_mode) == 0o600
    with serving.connect() as conn:
        assert conn(ECHO, b"data", 3, timeout=LIMIT) == (True, 3, b"data")
    assert serving.end() == (0, "")
    assert not (folder / "socket").exists()


@pytest.mark.parametrize(
    ("service", "context"),
    [
        ("store:REQUESTS", b"HasPacketConnection"),
        ("store:Store.Inner.REQUESTS", b"HasPacketConnection"),
        ("store:Store", b"Store"),
        ("store:make", b"Store"),
        ("store:plain", b"plain"),
    ],
)
def test_what_can_be_served(start: Start, service: str, context: bytes) -> None:
    with start(service).connect() as conn:
        assert conn(NAMED, timeout=LIMIT) == (True, 0, context)


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost"])
def test_the_real_port_is_told(start: Start, host: str) -> None:
    serving = start(address=f"tcp:{host}:0")
    assert re.fullmatch(rf"tcp:{re.escape(host)}:[1-9]\d*", serving.address)
    with serving.connect() as conn:
        assert conn(ECHO, b"data", timeout=LIMIT) == (True, 0, b"data")


def test_many_clients_each_with_a_service_of_its_own(start: Start) -> None:
    serving = start()
    answers = []

    def ask(number: int) -> None:
        with serving.connect() as conn:
            answers.append((number, conn(ECHO, b"%d" % number, timeout=LIMIT)[2]))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [(number, b"%d" % number) for number in range(20)]


def test_the_parent_process_is_served_and_nothing_gets_between_the_packets(folder: Path) -> None:
    with stdio_server(folder, "store:REQUESTS", "stdio:") as conn:
        assert conn(ECHO, b"data", timeout=LIMIT) == (True, 0, b"data")
        assert conn(NAMED, timeout=LIMIT)[2] == b"HasPacketConnection"
    assert isinstance(conn.ended, PeerClosed)
    assert set((folder / "stderr").read_text().splitlines()) == {*PRINTED, "serving store:REQUESTS on stdio:"}


def test_a_stale_socket_is_replaced_and_a_live_one_is_not(start: Start, folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(f"{folder}/socket")
    with start().connect() as conn:
        assert conn(ECHO, timeout=LIMIT)[0]
        second = run(folder, "store:REQUESTS", f"unix:{folder}/socket")
        assert second.returncode == 1
        assert (
            second.stderr.splitlines()[-1] == f"packetwire: unix:{folder}/socket: another server is serving there"
        )
        assert conn(ECHO, timeout=LIMIT)[0]


# options


@pytest.mark.parametrize(("options", "count"), [([], 2), (["--handlers", "4"], 4)])
def test_handlers_that_run_at_once(start: Start, options: list[str], count: int) -> None:
    with start("store:Store", *options).connect() as conn:
        results = [conn.submit(TOGETHER, 0, b"%d" % count) for _ in range(count)]
        assert all(result(timeout=LIMIT)[0] for result in results)


@pytest.mark.parametrize("handlers", ["1", "inline"])
def test_handlers_one_at_a_time(start: Start, handlers: str) -> None:
    with start("store:Store", "--handlers", handlers).connect() as conn:
        assert {crowd for _, _, crowd in conn.map([CROWD] * 50, timeout=LIMIT)} == {b"1"}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ([], r"RuntimeError: on purpose"),
        (["--error-detail", "message"], r"RuntimeError: on purpose"),
        (["--error-detail", "none"], r"the request failed"),
        (["--error-detail", "traceback"], r"Traceback [^\0]*store\.py[^\0]*RuntimeError: on purpose\n"),
    ],
)
def test_what_a_client_is_told_of_an_exception(start: Start, options: list[str], told: str) -> None:
    serving = start("store:REQUESTS", *options)
    with serving.connect() as conn:
        ok, _, text = conn(FAIL, b"on purpose", timeout=LIMIT)
    assert not ok
    assert re.fullmatch(told, text.decode())
    status, errors = serving.end()
    assert status == 0
    assert "Traceback" in errors
    assert errors.rstrip().endswith("RuntimeError: on purpose")


def test_quiet(folder: Path) -> None:
    with stdio_server(folder, "--quiet", "store:REQUESTS", "stdio:") as conn:
        assert not conn(FAIL, b"on purpose", timeout=LIMIT)[0]
    assert set((folder / "stderr").read_text().splitlines()) == PRINTED


def test_max_connections(start: Start, folder: Path) -> None:
    serving = start("store:REQUESTS", "--max-connections", "1")
    with waiting(serving, folder) as result:
        with serving.connect() as second, pytest.raises(ConnectionEnded):
            second(ECHO, timeout=LIMIT)
        (folder / "go").write_bytes(b"")
        assert result(timeout=LIMIT)[0]
    status, errors = serving.end()
    assert status == 0
    assert "clients turned away, as max_connections=1 are connected" in errors


def test_users_who_may_connect(start: Start, folder: Path) -> None:
    serving = start(
        "store:REQUESTS", "--allow-uid", str(os.geteuid()), "--allow-uid", "4711", "--max-per-address", "3"
    )
    with serving.connect() as conn:
        assert conn(ECHO, timeout=LIMIT)[0]
    assert stat.S_IMODE(os.stat(folder / "socket").st_mode) == 0o666
    assert serving.end() == (0, "")
    done = run(folder, "--allow-uid", "0", "store:REQUESTS", "tcp:127.0.0.1:0")
    assert done.returncode == 2
    assert "--allow-uid is for a unix: address, not for tcp:127.0.0.1:0" in done.stderr


def test_logging_that_the_module_sets_up_is_left_to_it(start: Start, folder: Path) -> None:
    with (folder / "store.py").open("a") as file:
        file.write("import logging\nlogging.basicConfig(format='MINE %(message)s')\n")
    serving = start()
    with serving.connect() as conn:
        assert not conn(FAIL, b"on purpose", timeout=LIMIT)[0]
    _, errors = serving.end()
    assert errors.count("RuntimeError('on purpose')") == 1
    assert errors.startswith("MINE ")


# the end


@contextmanager
def waiting(serving: Serving, folder: Path) -> Iterator[RequestResult]:
    """The result of a request whose handler waits for "go"."""
    with serving.connect() as conn:
        result = conn.submit(WAIT)
        (folder / "begun").read_bytes()
        yield result


def wait_for_the_end_of(path: Path) -> None:
    """A server that stops removes its socket when it accepts nobody any more."""
    while path.exists():
        time.sleep(0.001)


def test_sigterm_lets_what_is_owed_be_answered(start: Start, folder: Path) -> None:
    serving = start("store:REQUESTS", "--drain", "600")
    with waiting(serving, folder) as result:
        serving.process.send_signal(signal.SIGTERM)
        wait_for_the_end_of(folder / "socket")
        (folder / "go").write_bytes(b"")
        assert result(timeout=LIMIT) == (True, 0, b"waited")
        assert serving.wait() == (0, "")


def test_the_drain_is_bounded(start: Start, folder: Path) -> None:
    serving = start("store:REQUESTS", "--drain", "0.05")
    with waiting(serving, folder) as result:
        status, errors = serving.end()
        with pytest.raises(PeerClosed, match="closed before this request was done"):
            result(timeout=LIMIT)
        assert status == 0
        assert "stopped with 1 clients still connected" in errors


def test_a_second_signal_cuts_the_drain_short(start: Start, folder: Path) -> None:
    serving = start("store:REQUESTS", "--drain", "600")
    with waiting(serving, folder) as result:
        serving.process.send_signal(signal.SIGTERM)
        wait_for_the_end_of(folder / "socket")
        assert serving.end()[0] == 0
        with pytest.raises(PeerClosed, match="closed before this request was done"):
            result(timeout=LIMIT)


def test_ctrl_c(start: Start, folder: Path) -> None:
    serving = start()
    with serving.connect() as conn:
        assert conn(ECHO, timeout=LIMIT)[0]
        assert serving.end(signal.SIGINT) == (130, "packetwire: interrupted\n")
        assert conn.join(LIMIT)
        assert isinstance(conn.ended, PeerClosed)
    assert not (folder / "socket").exists()


def test_an_ignored_interrupt_stays_ignored(start: Start) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    serving = start()
    serving.process.send_signal(signal.SIGINT)
    with serving.connect() as conn:
        assert conn(ECHO, timeout=LIMIT)[0]
    assert serving.end() == (0, "")


def test_the_end_of_standard_input_ends_stdio(folder: Path) -> None:
    done = run(folder, "--quiet", "store:REQUESTS", "stdio:")
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("closed", ["<&-", "<&- >&-", "<&- >&- 2>&-"])
def test_without_standard_streams_stdio_says_so_at_once(folder: Path, closed: str) -> None:
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", *PACKETWIRE, "serve", "--quiet", "store:REQUESTS", "stdio:"],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        timeout=LIMIT,
    )
    assert (done.returncode, done.stdout) == (1, "")
    said = "" if "2>&-" in closed else "packetwire: standard input is closed: "
    assert [line for line in done.stderr.splitlines() if line not in PRINTED and not line.startswith(said)] == []
    assert said in done.stderr


def test_sigterm_ends_stdio(start: Start, folder: Path) -> None:
    with open(folder / "stderr", "wb") as stderr:
        conn = PacketConnection(
            child([*PACKETWIRE, "serve", "store:REQUESTS", "stdio:"], cwd=folder, stderr=stderr), close_timeout=2
        )
        with conn:
            assert conn(ECHO, timeout=LIMIT)[0]
            assert conn.process
            conn.process.terminate()
            assert conn.join(LIMIT)
            assert isinstance(conn.ended, PeerClosed)
        assert conn.process.returncode == 0


def test_a_parent_that_sends_garbage_is_a_failure(folder: Path) -> None:
    done = run(folder, "--quiet", "store:REQUESTS", "stdio:", stdin=b"\xff" * 100)
    assert done.returncode == 1
    assert re.fullmatch(r"packetwire: the peer broke the protocol: an integer of more than 9 bytes .*", last(done))


def last(done: subprocess.CompletedProcess[str]) -> str:
    return done.stderr.splitlines()[-1]


# what cannot be served


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (
            (),
            "packetwire serve: the following arguments are required: MODULE:NAME, ADDRESS",
        ),
        (("store:Store",), "the following arguments are required: ADDRESS"),
        (("store", "unix:x"), "packetwire: expected MODULE:NAME, such as store:Store, got 'store'"),
        (("store:", "unix:x"), "expected MODULE:NAME, such as store:Store, got 'store:'"),
        ((":Store", "unix:x"), "expected MODULE:NAME"),
        ((".store:Store", "unix:x"), "expected MODULE:NAME"),
        (("sotre:Store", "unix:x"), "packetwire: there is no module 'sotre', neither in {folder} nor installed"),
        (("store.x:Store", "unix:x"), "packetwire: there is no module 'store.x'"),
        (("store:Stor", "unix:x"), "store:Stor: there is no 'Stor' in {folder}/store.py; did you mean 'Store'?"),
        (("store:Store.Iner", "unix:x"), "there is no 'Iner' in <class 'store.Store'>; did you mean 'Inner'?"),
        (("store:Echo", "unix:x"), "store:Echo is a request class; name the request map that it is in"),
        (("store:STORE", "unix:x"), "there is no 'STORE'"),
        (("store:os", "unix:x"), "store:os is neither a HasPacketConnection class, nor a callable"),
        (
            ("store:two", "unix:x"),
            "store:two cannot be called with a recv_send alone: missing a required argument: 'other'",
        ),
        (("store:NUMBERS", "unix:x"), "store:NUMBERS is not a request map: it must have subclasses of BaseRequest"),
        (("store:NAMES", "unix:x"), "store:NAMES is not a request map"),
        (("store:NOTHING", "unix:x"), "store:NOTHING is an empty request map"),
        (
            ("store:Store", "unx:x"),
            "packetwire serve: argument ADDRESS: invalid address 'unx:x': expected exec:CMD, ",
        ),
        (
            ("store:Store", "exec:x"),
            "exec:x cannot be served on: expected unix:PATH, tcp:HOST:PORT, tls:HOST:PORT, stdio:, zmq+pair:",
        ),
        (("store:Store", "tcp:localhost"), "invalid address 'tcp:localhost': expected tcp:HOST:PORT"),
        (
            ("store:Store", "unix:x", "more"),
            "packetwire serve: unrecognized arguments: more (see packetwire serve --help)",
        ),
        (("store:Store", "unix:x", "--dain", "1"), "unrecognized arguments: --dain 1"),
        (("store:Store", "unix:x", "--drain", "x"), "--drain: expected a number of seconds, such as 2.5, got 'x'"),
        (("store:Store", "unix:x", "--drain", "-1"), "got '-1'"),
        (("store:Store", "unix:x", "--drain", "inf"), "got 'inf'"),
        (
            ("store:Store", "unix:x", "--handlers", "0"),
            "--handlers: expected a whole number from 1 or 'inline', got '0'",
        ),
        (("store:Store", "unix:x", "--handlers", "line"), "got 'line'"),
        (("store:Store", "unix:x", "--reuse-port"), "packetwire: --reuse-port is not for unix:x"),
        (("store:Store", "tcp:[::1]:0", "--replace"), "packetwire: --replace is not for tcp:[::1]:0"),
        (("store:Store", "stdio:", "--listen-fds"), "packetwire: --listen-fds is not for stdio:"),
        (
            ("store:Store", "unix:x", "--listen-fds"),
            "packetwire: --listen-fds: no socket was passed to this process by LISTEN_FDS",
        ),
        (
            ("store:Store", "unix:x", "--fd-name", "web"),
            "packetwire: --fd-name: no socket with the name 'web' was passed to this process by LISTEN_FDS",
        ),
        (("store:Store", "unix:x", "--replace", "--reuse-port"), "not allowed with argument --replace"),
        (("store:Store", "unix:x", "--error-detail", "al"), "--error-detail: invalid choice: 'al'"),
        (
            ("store:Store", "unix:x", "--max-connections", "0"),
            "--max-connections: expected a whole number from 1, got '0'",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_line(folder: Path, args: tuple[str, ...], expected: str) -> None:
    done = run(folder, *args)
    assert (done.returncode, done.stdout) == (2, "")
    assert expected.format(folder=folder) in last(done)
    assert not set(done.stderr.splitlines()[:-1]) - PRINTED


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import nonesuch", "ModuleNotFoundError: No module named 'nonesuch' (mine.py, line 1)"),
        ("\n\nx = = 1", "SyntaxError: invalid syntax (mine.py, line 3)"),
        ("def f():\n    1 / 0\nf()", "ZeroDivisionError: division by zero (mine.py, line 2)"),
        ("raise SystemExit('go away\\nplease')", "SystemExit: go away (mine.py, line 1)"),
        ("raise ValueError", "ValueError (mine.py, line 1)"),
    ],
)
def test_a_module_that_cannot_be_imported(folder: Path, code: str, expected: str) -> None:
    (folder / "mine.py").write_text(code)
    done = run(folder, "mine:Store", "unix:x")
    assert (done.returncode, done.stderr) == (2, f"packetwire: importing 'mine' failed: {expected}\n")


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("unix:{folder}/no/socket", "unix:{folder}/no/socket: No such file or directory: '{folder}/no'"),
        ("unix:{folder}/store.py", "unix:{folder}/store.py: there is a file that is no socket"),
        ("tcp:192.0.2.1:0", "tcp:192.0.2.1:0: Cannot assign requested address"),
        ("tcp:no.such.invalid:0", "tcp:no.such.invalid:0: "),
    ],
)
def test_a_place_that_cannot_be_listened_on(folder: Path, address: str, expected: str) -> None:
    done = run(folder, "store:Store", address.format(folder=folder))
    assert done.returncode == 1
    assert last(done).startswith("packetwire: " + expected.format(folder=folder))


@pytest.mark.parametrize(
    ("service", "expected"),
    [
        ("store:broken", "RuntimeError: cannot be made (store.py, line "),
        (
            "store:nothing",
            "TypeError: the factory must return a HasPacketConnection or a PacketConnection, got None",
        ),
    ],
)
def test_a_service_that_cannot_be_made_ends_stdio(folder: Path, service: str, expected: str) -> None:
    done = run(folder, service, "stdio:", "--quiet", "--handlers", "2")
    assert (done.returncode, done.stdout) == (1, "")
    assert last(done).startswith(f"packetwire: {expected}")
    assert "Traceback" not in done.stderr


def test_a_service_that_cannot_be_made_is_logged_and_the_server_goes_on(start: Start) -> None:
    serving = start("store:broken")
    for _ in range(2):
        with serving.connect() as conn, pytest.raises(ConnectionEnded):
            conn(ECHO, timeout=LIMIT)
    status, errors = serving.end()
    assert status == 0
    assert errors.count("\nRuntimeError: cannot be made\n") == 2


def test_the_module_is_looked_for_in_the_current_directory_unless_that_is_unwanted(folder: Path) -> None:
    """As `python -m` does it, and the console script, whose own directory comes first otherwise."""
    code = "import sys; sys.path[:] = sys.path[1:]; from packetwire.cli.main import main; sys.exit(main())"
    for options, status in ([], 0), (["-P"], 2):
        done = subprocess.run(
            [sys.executable, *options, "-c", code, "serve", "--quiet", "store:Store", "stdio:"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            cwd=folder,
            timeout=LIMIT,
        )
        assert done.returncode == status
    assert done.stderr == "packetwire: there is no module 'store'\n"


def test_help(folder: Path) -> None:
    text = " ".join(run(folder, "--help").stdout.split())
    ways = "--listen-fds", "--fd-name", "--reuse-port", "--replace"
    for option in "--max-connections", "--handlers", "--error-detail", "--drain", "--quiet", *ways:
        assert option in text
    for word in "unix:PATH", "tcp:HOST:PORT", "stdio:", "no authentication", "SIGTERM", "Exit status: 0", "130":
        assert word in text


# one after the other


@pytest.mark.parametrize("way", ["--reuse-port", "--replace"])
def test_a_server_follows_another(start: Start, way: str) -> None:
    first = start("store:REQUESTS", way, address="tcp:127.0.0.1:0" if way == "--reuse-port" else None)
    with first.connect() as before:
        assert before(ECHO, b"data", timeout=LIMIT)[0]
        second = start("store:REQUESTS", way, address=first.address)
        assert second.address == first.address
        assert first.end() == (0, "")
        with second.connect() as after:
            assert after(ECHO, b"data", timeout=LIMIT)[0]
        assert second.end() == (0, "")


PASSING = """
import os, socket, sys
_, path, *command = sys.argv
sock = socket.socket(socket.AF_UNIX)
sock.bind(path)
sock.listen()
os.dup2(sock.fileno(), 3)
os.set_inheritable(3, True)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "store"}
os.execv(command[0], command)
"""


@pytest.mark.parametrize("options", [["--listen-fds"], ["--fd-name", "store"]])
def test_a_socket_that_is_passed(folder: Path, monkeypatch: pytest.MonkeyPatch, options: list[str]) -> None:
    path = f"{folder}/socket"
    monkeypatch.setattr(f"{__name__}.PACKETWIRE", [sys.executable, "-c", PASSING, path, *PACKETWIRE])
    serving = Serving(folder, "store:REQUESTS", f"unix:{path}", *options)
    try:
        assert serving.said.splitlines()[-1] == f"serving store:REQUESTS on unix:{path}"
        with serving.connect() as conn:
            assert conn(ECHO, b"data", timeout=LIMIT)[0]
        assert serving.end() == (0, "")
        assert os.path.lexists(path)
    finally:
        serving.process.kill()
        serving.process.communicate()


@pytest.mark.skipif(shutil.which("systemd-socket-activate") is None, reason="needs systemd-socket-activate")
def test_a_socket_of_systemd(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It listens, and starts the server as soon as there is a client."""
    path = f"{folder}/socket"
    command = ["systemd-socket-activate", "--listen", path, "--fdname", "store", *PACKETWIRE, "serve"]
    with subprocess.Popen(
        [*command, "store:REQUESTS", f"unix:{path}", "--fd-name", "store"],
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    ) as process:
        try:
            while not os.path.lexists(path):
                assert process.poll() is None
                time.sleep(0.01)
            with PacketConnection(connect_to(f"unix:{path}"), close_timeout=2) as conn:
                assert conn(ECHO, b"data", timeout=LIMIT)[0]
            process.send_signal(signal.SIGTERM)
            assert process.communicate(timeout=LIMIT)[1].splitlines()[-1].startswith("serving ")
            assert process.returncode == 0
        finally:
            process.kill()


def test_a_forced_command_has_what_came_before_dropped(folder: Path) -> None:
    digits = "0123456789abcdef"
    asked = rf"printf '\npacketwire-%s\n' {digits}; exec anything"
    command = [
        "sh",
        "-c",
        'echo Welcome; exec "$@"',
        "sh",
        *PACKETWIRE,
        "serve",
        "store:REQUESTS",
        "stdio:",
        "--sync",
    ]
    env = os.environ | {"SSH_ORIGINAL_COMMAND": asked}
    with PacketConnection(child(command, cwd=folder, env=env, sync=digits)) as conn:
        assert conn(0, b"abc", timeout=LIMIT)[0]
        assert conn.preamble == b"Welcome\n"
    done = run(folder, "store:REQUESTS", f"unix:{folder}/socket", "--sync")
    assert (done.returncode, done.stderr.splitlines()[-1]) == (
        2,
        f"packetwire: --sync is for stdio:, not for unix:{folder}/socket",
    )

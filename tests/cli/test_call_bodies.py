"""`packetwire call` with bodies: what goes up and comes down, and how it ends in the middle."""

from __future__ import annotations

import hashlib
import os
import pty
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from packetwire import PacketConnection, current_request, serve
from packetwire.cli.benchmarks import BULK
from packetwire.cli.callbodies import StandsStill

from .forked import packetwire

PACKETWIRE = [sys.executable, "-m", "packetwire"]
LIMIT = 30
DIGEST, COUNT_DOWN, UPPER, IGNORE, FOREVER, SWALLOW, FAIL, WAIT = range(8)
MIB = 1 << 20
CHUNK = bytes(range(256)) * 256
NUMBERS = b"".join(b"%d\n" % number for number in range(1000))

pytestmark = pytest.mark.timeout(2 * LIMIT)


class Peer:
    """Serves bodies, and keeps how the endless ones ended."""

    def __init__(self) -> None:
        self.address = ""
        self.moving = threading.Event()
        """Some of an endless body has come, or was taken."""
        self.ended = threading.Event()
        """An endless body is over."""
        self.capabilities = "on"

    def __call__(self, recv_send: Any) -> PacketConnection:
        options: dict[str, Any] = {} if self.capabilities == "on" else {"capabilities": self.capabilities}
        return PacketConnection(recv_send, request_handler=self.handle, **options)

    def handle(self, rq_type: int, flags: int, payload: bytes) -> Any:
        body = current_request().body
        if rq_type == DIGEST:
            digest = hashlib.sha256(payload)
            for chunk in body or ():
                digest.update(chunk)
            return digest.hexdigest().encode()
        if rq_type == COUNT_DOWN:
            return (5, b"done") if not payload else self.numbers(payload)
        if rq_type == UPPER:
            return (chunk.upper() for chunk in body)
        if rq_type == FOREVER:
            return self.forever()
        if rq_type == SWALLOW:
            return self.swallow(body)
        if rq_type == FAIL:
            return self.fail()
        if rq_type == WAIT:
            self.moving.set()
            current_request().wait(LIMIT)
            self.ended.set()
        return b"ignored"

    def numbers(self, payload: bytes) -> Iterator[bytes]:
        yield NUMBERS
        return 5, payload

    def forever(self) -> Iterator[bytes]:
        try:
            for number in count():
                yield CHUNK
                if number * len(CHUNK) > 2 * MIB:
                    self.moving.set()  # some has come, as no window is so long
        finally:
            self.ended.set()

    def swallow(self, body: Any) -> bytes:
        try:
            for _ in body:
                self.moving.set()
        finally:
            self.ended.set()
        return b"all of it"

    def fail(self) -> Iterator[bytes]:
        yield b"some"
        raise RuntimeError("on purpose")


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Peer]:
    peer = Peer()
    with serve(f"unix:{tmp_path}/socket", peer, drain_timeout=2) as server:
        peer.address = str(server.address)
        yield peer


@pytest.fixture
def big(tmp_path: Path) -> Path:
    """A file that passes no window."""
    path = tmp_path / "big"
    path.write_bytes(os.urandom(3 << 20))
    return path


def call(peer: Peer, *args: object, stdin: bytes = b"", cwd: str | Path = ".") -> tuple[int, bytes, str]:
    """The exit status, standard output and standard error."""
    done = packetwire("call", peer.address, *map(str, args), stdin=stdin, cwd=cwd)
    return done.returncode, done.stdout, done.stderr.decode()


@contextmanager
def started(address: str, *args: object, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    command = [*PACKETWIRE, "call", address, *map(str, args)]
    defaults = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **defaults | options) as process:
        try:
            yield process
        finally:
            process.kill()


def digest(data: bytes) -> bytes:
    return hashlib.sha256(data).hexdigest().encode()


# up


def test_a_file_is_the_body_of_the_request(peer: Peer, big: Path) -> None:
    assert call(peer, DIGEST, f"@{big}") == (0, digest(big.read_bytes()), "")
    assert call(peer, DIGEST, "text", f"@{big}") == (0, digest(b"text" + big.read_bytes()), "")
    assert call(peer, DIGEST, "--hex", "6162", f"@{big.name}", cwd=big.parent)[1] == digest(
        b"ab" + big.read_bytes()
    )


@pytest.mark.parametrize(("words", "ahead"), [(["@-"], b""), (["", "-"], b""), (["text", "-"], b"text")])
def test_standard_input_is_the_body(peer: Peer, words: list[str], ahead: bytes) -> None:
    data = os.urandom(1 << 20)
    assert call(peer, DIGEST, *words, stdin=data) == (0, digest(ahead + data), "")


def test_a_body_may_be_empty_and_is_sent_as_it_comes(peer: Peer, tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    assert call(peer, DIGEST, f"@{tmp_path}/empty") == (0, digest(b""), "")
    with started(peer.address, SWALLOW, "@-", stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(b"a")
        process.stdin.flush()
        assert peer.moving.wait(LIMIT)  # though there is more to come
        assert process.communicate(b"b", timeout=LIMIT) == (b"all of it", b"")


def test_bodies_go_both_ways_at_once(peer: Peer) -> None:
    data = b"abc" * (1 << 20)  # more than two windows
    assert call(peer, UPPER, "@-", stdin=data) == (0, data.upper(), "")


def test_a_peer_that_does_not_need_all_of_it(peer: Peer) -> None:
    with started(peer.address, IGNORE, "@-", stdin=subprocess.PIPE) as process:
        assert process.stdin is not None  # which stays open: nobody knows if there is more
        out, err = process.stdout, process.stderr
        assert out is not None
        assert err is not None
        assert (process.wait(LIMIT), out.read()) == (0, b"ignored")
        assert err.read() == b"the peer answered after 0 bytes of the body, and took no more\n"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["@absent"], "cannot read 'absent': No such file or directory"),
        (["@."], "cannot read '.': Is a directory"),
        (["one", "two", "@/dev/null"], "one PAYLOAD is expected, got 2; quote one that has spaces"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(peer: Peer, words: list[str], expected: str) -> None:
    assert call(peer, DIGEST, *words) == (2, b"", f"packetwire: {expected}\n")


def test_standard_input_that_is_closed(peer: Peer) -> None:
    command = [*PACKETWIRE, "call", peer.address, str(DIGEST), "@-"]
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" <&-', "sh", *command], capture_output=True, check=False, timeout=LIMIT
    )
    assert (done.returncode, done.stderr) == (2, b"packetwire: standard input is closed\n")


def test_a_file_that_cannot_be_read_to_its_end_gives_the_call_up(peer: Peer) -> None:
    status, out, err = call(peer, SWALLOW, "@/proc/self/mem")  # whose first byte cannot be read
    assert (status, out, err) == (1, b"", "packetwire: the body cannot be read: Input/output error\n")


# down


def test_the_body_of_the_response_is_standard_output(peer: Peer) -> None:
    assert call(peer, COUNT_DOWN, "x", "--stream") == (0, NUMBERS, "flags: 0x5\nresponse: b'x'\n")
    assert call(peer, COUNT_DOWN, "x", "--stream", "--hex-out")[1] == NUMBERS.hex().encode() + b"\n"
    # joined, without it, as ever
    assert call(peer, COUNT_DOWN, "x") == (0, NUMBERS + b"x", "flags: 0x5\n")


def test_what_is_too_long_for_a_packet_needs_the_option(peer: Peer) -> None:
    status, out, err = call(peer, FOREVER)
    assert (status, out) == (1, b"")
    assert "the caller takes no body" in err
    assert err.endswith("; --stream takes it as it comes\n")


def test_a_response_without_a_body_is_printed_as_ever(peer: Peer) -> None:
    assert call(peer, COUNT_DOWN, "--stream") == (0, b"done", "flags: 0x5\n")


def test_a_body_that_fails_is_told(peer: Peer) -> None:
    status, out, err = call(peer, FAIL, "--stream")
    assert (status, out) == (1, b"some")
    assert err == "packetwire: the peer answered the request not ok: flags=0x00, 'RuntimeError: on purpose'\n"


def test_nobody_reads_the_rest(peer: Peer) -> None:
    with started(peer.address, FOREVER, "--stream") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(10) == CHUNK[:10]
        process.stdout.close()
        assert (process.wait(LIMIT), process.stderr.read()) == (128 + signal.SIGPIPE, b"")
    assert peer.ended.wait(LIMIT)


# peers without bodies


def test_an_old_peer_has_no_bodies(peer: Peer) -> None:
    peer.capabilities = "off"
    status, out, err = call(peer, DIGEST, "@/dev/null")
    assert (status, out) == (1, b"")
    assert err.startswith("packetwire: ")
    assert err.endswith("; --file FILE sends the bytes as the payload, if they fit into a packet\n")
    assert call(peer, COUNT_DOWN, "x", "--stream") == (0, NUMBERS + b"x", "flags: 0x5\n")


# the middle


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([FOREVER, "--stream"], r": the request was given up, [\d,.]+ MB received"),
        ([SWALLOW, "@/dev/zero"], r": the request was given up, [\d,.]+ MB sent, 0\.0 MB received"),
        (
            [WAIT, "--stream"],
            r"(: the request was given up, 0\.0 MB received)?",
        ),  # the handler may be the quicker one
    ],
)
def test_ctrl_c_gives_the_call_up(peer: Peer, words: list[object], expected: str) -> None:
    with started(peer.address, *words, stdout=subprocess.DEVNULL) as process:
        assert process.stderr is not None
        assert peer.moving.wait(LIMIT)
        process.send_signal(signal.SIGINT)
        assert process.wait(LIMIT) == 128 + signal.SIGINT
        (line,) = process.stderr.read().decode().splitlines()
    assert re.fullmatch("packetwire: interrupted" + expected, line)
    assert peer.ended.wait(LIMIT)


def test_ctrl_c_while_nothing_comes_from_a_terminal(peer: Peer) -> None:
    """Nobody can interrupt the thread that reads standard input; the program ends nevertheless."""
    with started(peer.address, SWALLOW, "@-", stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(b"a")
        process.stdin.flush()
        assert peer.moving.wait(LIMIT)
        process.send_signal(signal.SIGINT)
        assert process.wait(LIMIT) == 128 + signal.SIGINT
    assert peer.ended.wait(LIMIT)


def test_a_body_that_stands_still(peer: Peer) -> None:
    status, _, err = call(peer, WAIT, "--stream", "--timeout", "1")
    assert status == 124
    assert err == f"packetwire: {peer.address}: nothing was sent or came for 1 s\n"


def test_one_body_may_stand_still_while_the_other_moves() -> None:
    at: dict[str, Any] = {"now": 0.0, "moved": 0}
    still = StandsStill(5, lambda: at["moved"], lambda: at["now"])
    for now, moved, is_over in (4, 0, False), (4.9, 1, False), (9.8, 1, False), (9.9, 1, True), (10, 2, False):
        at.update(now=now, moved=moved)
        assert still.is_over() == is_over, now


def test_a_peer_that_is_killed(tmp_path: Path) -> None:
    serve = f"exec:{sys.executable} -m packetwire serve packetwire.cli.benchmarks:REQUESTS stdio: --quiet"
    with started(serve, 3, 10**12, "--stream") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(10) == BULK[:10]
        os.kill(child_of(process.pid), signal.SIGKILL)
        process.stdout.read()
        assert process.wait(LIMIT) == 1
        assert b"was killed by signal 9 (SIGKILL)" in process.stderr.read()


def child_of(pid: int) -> int:
    """The only child of a process."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    (child,) = (int(child) for children in tasks for child in children.read_text().split())
    return child


# by name


def test_requests_by_name_have_bodies(tmp_path: Path, big: Path) -> None:
    """Those that `packetwire serve` has to show."""
    requests = "packetwire.cli.benchmarks:REQUESTS"
    address = f"exec:{sys.executable} -m packetwire serve {requests} stdio: --quiet"
    done = packetwire("call", address, "Digest", f"@{big}", "--module", requests)
    assert (done.returncode, done.stdout) == (0, digest(big.read_bytes()) + b"\n")
    done = packetwire("call", address, "Stream", "size=2000000", "--module", requests, "--stream")
    assert (done.returncode, done.stdout) == (0, (BULK * 2)[:2000000])


SHELF = """
from packetwire import current_request
from packetwire.typed import Service, method

class Shelf(Service):
    @method(1)
    def load(self, name: str, times: int = 1) -> str:
        size = sum(len(chunk) for chunk in current_request().body)
        return f"{name}: {size * times}"
"""


def test_a_method_that_reads_a_body(tmp_path: Path) -> None:
    (tmp_path / "shelf.py").write_text(SHELF)
    address = f"exec:{sys.executable} -m packetwire serve shelf:Shelf stdio: --quiet"
    for more in [], ["--module", "shelf:Shelf"]:
        for words in ["@shelf.py"], ["times=2", "-"]:
            done = packetwire("call", address, "load", "name=it", *words, *more, cwd=tmp_path, stdin=b"abc")
            expected = b"it: %d\n" % (len(SHELF) if words == ["@shelf.py"] else 6)
            assert (done.returncode, done.stdout) == (0, expected), done.stderr


# the bar


@pytest.mark.parametrize("has_rich", [True, False])
def test_a_bar_is_shown_at_a_terminal_only(peer: Peer, big: Path, has_rich: bool) -> None:
    program = "import sys\n" + "sys.modules['rich'] = None\n" * (not has_rich)
    program += "from packetwire.cli.main import main\nsys.exit(main())"
    near, far = pty.openpty()
    with (
        open(near, "rb", buffering=0) as screen,
        subprocess.Popen(
            [sys.executable, "-c", program, "call", peer.address, str(UPPER), f"@{big}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=far,
            env=os.environ | {"TERM": "xterm", "COLUMNS": "100"},
        ) as process,
    ):
        os.close(far)
        shown = threading.Thread(target=read_all, args=(screen, found := []))
        shown.start()
        out, _ = process.communicate(timeout=LIMIT)
        shown.join(LIMIT)
    assert out == big.read_bytes().upper()
    text = b"".join(found).decode()
    assert ("sent" in text and "received" in text and "3.1/3.1 MB" in text) == has_rich
    assert has_rich or not text


def read_all(screen: Any, found: list[bytes]) -> None:
    with suppress(OSError):  # a terminal without anybody at its other end
        while data := screen.read(65536):
            found.append(data)

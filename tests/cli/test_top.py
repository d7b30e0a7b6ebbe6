"""`packetwire top`: the view of a snapshot at any width, and the command as a user runs it."""

from __future__ import annotations

import copy
import fcntl
import json
import os
import pty
import re
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tests.connections.serving import serving

from packetwire import PacketConnection, connect_to
from packetwire.cli import topview
from packetwire.cli.topview import duration, lines_of, rate, size, text_of

from .forked import packetwire_text

PACKETWIRE = [sys.executable, "-m", "packetwire"]
EXAMPLE = Path(__file__).parents[1] / "docs" / "snapshot.json"
"""A snapshot, of which the picture in docs/howto/inspect.md is made as well."""
WATCHDOG = 30.0

pytestmark = pytest.mark.timeout(60)


def example() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(EXAMPLE.read_text())
    return found


def endless() -> bytes:
    """An answer with what JSON of Python has, and no server says."""
    found = example()
    found["server"].update(uptime=float("inf"))
    return b"HTTP/1.1 200 OK\r\n\r\n" + json.dumps(found).encode()


def crowded() -> dict[str, Any]:
    """A snapshot with much in it, and with long names."""
    found = example()
    client = found["connections"][0]
    client["name"] = "client " + "x" * 90
    found["connections"] = [{**client, "number": number} for number in range(200)]
    kind = found["requests"][0]
    found["requests"] = [{**kind, "type": number, "label": "y" * 90} for number in range(64)]
    found["other_requests"] = {**kind, "count": 5}
    return found


@pytest.mark.parametrize("width", [1, 20, 39, 40, 60, 80, 132, 400])
@pytest.mark.parametrize("make", [example, crowded])
def test_every_line_fits(width: int, make: Any) -> None:
    for height in 1, 10, 24, 60:
        lines = text_of(lines_of(make(), None, width=width, height=height)).splitlines()
        assert max(map(len, lines)) <= max(width, topview.NARROWEST)
        if height >= 24 and width >= 40:
            assert len(lines) <= height


def test_forty_columns_have_what_matters_most() -> None:
    text = text_of(lines_of(example(), None, width=40, height=40))
    heads = re.findall(r"^(?:request|client|under way) .*$", text, re.MULTILINE)
    assert len(heads) == 3
    for head, words in zip(heads, (["now", "p99"], ["now", "memory"], ["since", "client"]), strict=True):
        assert set(words) <= set(head.split())


def test_rows_are_bounded_and_counted() -> None:
    text = text_of(lines_of(crowded(), None, width=80, rows=3))
    assert re.findall(r"^and (\d+) more$", text, re.MULTILINE) == ["62", "197", str(200 * 3 - 3)]


@pytest.mark.parametrize("sort", topview.SORTS)
def test_clients_are_sorted(sort: str) -> None:
    found = example()
    cells = topview._clients(found, sort)
    assert sorted(cells) == sorted(topview._clients(found, "busy"))
    names = [row[0] for row in cells]
    if sort in ("memory", "age", "rate"):
        first = max(found["connections"], key=lambda each: each[sort])
        assert names[0].startswith(f"#{first['number']} ")


def test_rates_of_bytes_come_from_two_snapshots_of_one_process() -> None:
    before = example()
    later = copy.deepcopy(before)
    later["time"] += 2
    later["totals"]["bytes_received"] += 4_000_000
    assert "in 2.0 MB/s  out 0 B/s" in text_of(lines_of(later, before, width=200, height=40))
    later["server"]["pid"] += 1
    assert "MB/s" not in text_of(lines_of(later, before, width=200, height=40))


def test_names_do_nothing_to_a_terminal() -> None:
    found = example()
    found["connections"][0]["name"] = "client \x1b[2Jx\r\n\x07"
    found["requests"][0]["label"] = "\x1b]0;title\x07"
    found["server"].update(state="\x1b[31m", address="\x9b2J", pid="\u202e", under_way="\x1bc")
    text = text_of(lines_of(found, None, width=200, height=60))
    assert not re.search(r"[^\n -~µ…]", text)
    assert "?[2Jx???" in text


def test_draining_is_told() -> None:
    found = example()
    found["server"].update(state="draining", drain_left=3.25)
    assert "draining, 3.2 s left" in text_of(lines_of(found, None, width=80, height=40))


def test_numbers_for_people() -> None:
    assert [duration(each) for each in (None, 0, 42e-6, 0.0042, 0.42, 4.2, 65, 3725, 90_000)] == (
        ["", "0 µs", "42 µs", "4.2 ms", "420 ms", "4.2 s", "1m 05s", "1h 02m", "1d 01h"]
    )
    assert [size(each) for each in (0, 999, 1000, 12_345, 1.5e8, 2.5e12)] == (
        ["0 B", "999 B", "1.0 kB", "12.3 kB", "150 MB", "2500 GB"]
    )
    assert [rate(each) for each in (0.0, 0.2, 12.34, 1234.5)] == ["", "0.2", "12.3", "1,234"]


@pytest.fixture
def inspected() -> Iterator[str]:
    """The socket of a server with a request under way."""
    begun, go_on = threading.Event(), threading.Event()

    def handler(rq_type: int, flags: int, payload: bytes) -> bytes:
        if rq_type == 9:
            begun.set()
            assert go_on.wait(WATCHDOG)
        return payload

    path = f"/tmp/packetwire-top-{os.getpid()}"
    with serving("threads", "tcp:127.0.0.1:0", handler, {"inspect": path}) as served:
        with PacketConnection(connect_to(served.address)) as conn:
            for _ in range(3):
                conn(5)
            conn.submit(9)
            assert begun.wait(WATCHDOG)
            try:
                yield path
            finally:
                go_on.set()


def test_once(inspected: str) -> None:
    done = packetwire_text("top", f"unix:{inspected}", "--once")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "packetwire top  serving"
    assert "clients 1 of 128" in done.stdout
    assert any(re.match(r"type 5 .* 3$", line) for line in lines)
    assert any(re.match(r"type 9 +\S+ m?s +#1 127\.0\.0\.1:\d+$", line) for line in lines)


def test_json(inspected: str) -> None:
    done = packetwire_text("top", inspected, "--once", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    (line,) = done.stdout.splitlines()
    assert json.loads(line)["server"]["under_way"] == 1


def test_a_server_that_was_started_by_the_command(tmp_path: Path) -> None:
    path = f"/tmp/packetwire-top-serve-{os.getpid()}"
    with subprocess.Popen(
        [*PACKETWIRE, "serve", "packetwire.cli.benchmarks:REQUESTS", "tcp:127.0.0.1:0", "--inspect", path],
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stderr is not None
            assert process.stderr.readline().startswith("serving ")
            done = packetwire_text("top", path, "--once")
        finally:
            process.terminate()
    assert process.returncode == 0
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, "packetwire top  serving")
    assert "clients 0 of 128" in done.stdout
    assert not os.path.exists(path)


@pytest.mark.parametrize("options", [["--json"], []])
def test_one_after_the_other_until_ctrl_c(inspected: str, options: list[str]) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a child inherits that it is not ignored
    try:
        with subprocess.Popen(
            [*PACKETWIRE, "top", inspected, "--interval", "0.1", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            seen = 0
            for line in process.stdout:
                seen += line.startswith(("{", "packetwire top"))
                if seen == 3:
                    process.send_signal(signal.SIGINT)
                    break
            _, errors = process.communicate(timeout=WATCHDOG)
    finally:
        signal.signal(signal.SIGINT, before)
    assert (process.returncode, errors) == (0, "")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_terminal_of_forty_columns(inspected: str, signum: signal.Signals) -> None:
    pytest.importorskip("rich")
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 40, 0, 0))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    try:
        process = subprocess.Popen(
            [*PACKETWIRE, "top", inspected, "--interval", "0.1"],
            stdin=follower,
            stdout=follower,
            stderr=follower,
            env={**environment, "TERM": "xterm"},
        )
    finally:
        signal.signal(signal.SIGINT, before)
        os.close(follower)
    output = b""
    while True:
        try:
            data = os.read(leader, 65536)
        except OSError:  # of a terminal that nobody has open any more
            break
        if not data:
            break
        before_it = output.count(b"packetwire top")
        output += data
        if before_it < 3 <= output.count(b"packetwire top"):
            process.send_signal(signum)
    os.close(leader)
    assert process.wait(WATCHDOG) == 0
    text = output.decode()
    assert text.startswith("\x1b[?1049h"), "the view has a screen of its own"
    assert "\x1b[?1049l" in text
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text.replace("\x1b[H", "\n"))
    assert "Traceback" not in plain
    assert "interrupted" not in plain
    assert max(len(line) for line in re.split(r"[\r\n]+", plain)) <= 40
    assert "under way" in plain


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: None, "there is no such socket"),
        (lambda path: path.write_text("x"), "this is no socket"),
    ],
)
def test_what_is_no_socket(make: Any, said: str, tmp_path: Path) -> None:
    make(tmp_path / "it")
    done = packetwire_text("top", tmp_path / "it")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"packetwire: {tmp_path / 'it'}: {said}\n"


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\x01\x00\x00",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n[]",
        b"HTTP/1.1 200 OK\r\n\r\n" + b"[" * 100_000,
        b'HTTP/1.1 200 OK\r\n\r\n{"format": 2}',
        b'HTTP/1.1 200 OK\r\n\r\n{"format": 1}',
        endless(),
        b'HTTP/1.1 200 OK\r\n\r\n{"format": 1, "server": 5}',
    ],
)
def test_what_is_another_socket(answer: bytes, tmp_path: Path) -> None:
    path = f"/tmp/packetwire-top-other-{os.getpid()}"
    Path(path).unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        try:
            listening.listen()

            def serve() -> None:
                accepted, _ = listening.accept()
                with accepted, suppress(OSError):
                    accepted.recv(1000)
                    accepted.sendall(answer)

            thread = threading.Thread(target=serve)
            thread.start()
            done = packetwire_text("top", path, "--once")
            thread.join(WATCHDOG)
        finally:
            os.unlink(path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"packetwire: {path}: it does not answer as the socket of packetwire serve --inspect does\n"
    )
    done = packetwire_text("top", path, "--once")
    assert "there is no such socket" in done.stderr


def test_a_socket_that_nobody_answers_on(tmp_path: Path) -> None:
    path = f"/tmp/packetwire-top-dead-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
    try:
        assert "nobody answers there any more" in packetwire_text("top", path).stderr
    finally:
        os.unlink(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may connect to everything")
def test_a_socket_of_another_user(inspected: str) -> None:
    os.chmod(inspected, 0)
    assert "only the user whose server it is can look inside" in packetwire_text("top", inspected).stderr


@pytest.mark.parametrize("words", [["--interval", "0.01"], ["--rows", "0"], ["--sort", "nothing"]])
def test_bad_arguments(words: list[str]) -> None:
    done = packetwire_text("top", "/nowhere", *words)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)

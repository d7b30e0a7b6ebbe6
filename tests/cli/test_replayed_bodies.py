"""Bodies and pieces in captures: what `packetwire replay` sends again, and what it compares."""

from __future__ import annotations

import hashlib
import io
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from packetwire import PacketConnection, current_request, serve

from .forked import packetwire_text
from .test_recorded_bodies import CHUNK, COUNT, DIGEST, EARLY, ECHO, FAIL, FOREVER, MIB, PLAIN, handler, record

LIMIT = 30

pytestmark = pytest.mark.timeout(2 * LIMIT)


class Live:
    """The service that is asked again: as the recorded one, unless `answer` is something else."""

    def __init__(self) -> None:
        self.answer: Callable[[int, int, bytes], Any] = handler
        self.options: dict[str, Any] = {}
        self.bodies: list[int] = []

    def __call__(self, recv_send: Any) -> PacketConnection:
        def answer(rq_type: int, flags: int, payload: bytes) -> Any:
            return self.answer(rq_type, flags, payload)

        return PacketConnection(recv_send, request_handler=answer, channels={16: answer}, **self.options)


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    live = Live()
    with serve(f"unix:{tmp_path}/live", live, drain_timeout=0.2):
        yield live


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.cap"


def run(path: Path, *args: object) -> tuple[int, list[str], str]:
    done = packetwire_text("replay", path, f"unix:{path.parent}/live", *map(str, args))
    return done.returncode, done.stdout.splitlines(), done.stderr


def ask_all(conn: PacketConnection) -> None:
    """One request after the other with bodies of each kind, and some under way at the same time."""
    conn(DIGEST, b"with a payload", body=os.urandom(3 * MIB))
    with conn.stream(COUNT, b"30", channel=16) as call:
        call.read()
        call.result(LIMIT)
    with conn.stream(ECHO) as call, conn.stream(DIGEST) as other:
        for _ in range(20):
            call.write(CHUNK)
            other.write(CHUNK)
            assert io.BufferedReader(call.body.file(), 1).read(len(CHUNK)) == CHUNK
        call.finish()
        call.read()
        call.result(LIMIT)
        other.finish()
        other.result(LIMIT)
    conn(COUNT, b"2")
    conn(PLAIN, os.urandom(2 * MIB))


def test_bodies_and_pieces_are_the_same_again(path: Path, live: Live) -> None:
    record(path, ask_all)
    expected = ["6 requests on 1 connection; responses: 6 the same, 0 different"]
    assert run(path) == (0, expected, "")


def test_bodies_that_have_become_different(path: Path, live: Live) -> None:
    def answer(rq_type: int, flags: int, payload: bytes) -> Any:
        if rq_type == DIGEST:
            return hashlib.sha256(current_request().body.read()[:-1]).hexdigest().encode()
        if rq_type == COUNT:
            return (CHUNK for _ in range(int(payload) - 1))
        return (chunk.swapcase() for chunk in current_request().body)

    def play(conn: PacketConnection) -> None:
        conn(DIGEST, body=b"abc")
        with conn.stream(COUNT, b"2") as call:
            call.finish()
            call.read()
            call.result(LIMIT)
        with conn.stream(ECHO) as call:
            call.write(b"abc")
            call.finish()
            call.read()
            call.result(LIMIT)

    record(path, play)
    live.answer = answer
    status, lines, stderr = run(path)
    assert (status, stderr) == (1, "")
    assert lines[0].startswith("connection 1, request 0:2 type=0: payload b'ba7816bf8f01cfea")
    assert lines[1:] == [
        "connection 1, request 0:3 type=1: body of 131072 bytes, now 65536 bytes",
        "connection 1, request 0:4 type=2: body of 3 bytes, now 3 bytes",
        "3 requests on 1 connection; responses: 0 the same, 3 different",
    ]


def test_a_body_that_was_stopped_is_stopped_again(path: Path, live: Live) -> None:
    def play(conn: PacketConnection) -> None:
        with conn.stream(FOREVER) as call:
            call.read(10)
        call.result(LIMIT)

    record(path, play)
    assert run(path) == (0, ["1 request on 1 connection; responses: 1 the same, 0 different"], "")


def test_a_request_that_was_given_up_is_given_up_again(path: Path, live: Live) -> None:
    def play(conn: PacketConnection) -> None:
        with pytest.raises(ZeroDivisionError), conn.stream(FOREVER) as call:
            call.read(10)
            raise ZeroDivisionError
        assert conn(PLAIN, b"after")[2] == b"after"

    record(path, play)
    expected = ["2 requests on 1 connection; responses: 1 the same, 0 different, 1 not in FILE"]
    assert run(path) == (0, expected, "")


@pytest.mark.parametrize("rq_type", [EARLY, FAIL])
def test_ends_before_the_end_are_the_same_again(path: Path, live: Live, rq_type: int) -> None:
    def play(conn: PacketConnection) -> None:
        with conn.stream(rq_type) as call:
            call.write(b"abcde")
            if rq_type == FAIL:
                call.finish()
            call.result(LIMIT)

    record(path, play)
    assert run(path) == (0, ["1 request on 1 connection; responses: 1 the same, 0 different"], "")


def test_a_peer_that_wants_less_than_then(path: Path, live: Live) -> None:
    record(path, lambda conn: conn(DIGEST, body=bytes(3 * MIB)))
    live.answer = lambda rq_type, flags, payload: current_request().body.read(1) and b"enough"
    status, lines, stderr = run(path)
    assert (status, stderr) == (1, "")
    assert "now b'enough'" in lines[0]


def test_a_peer_that_takes_nothing(path: Path, live: Live) -> None:
    release = threading.Event()
    record(path, lambda conn: conn(DIGEST, body=bytes(3 * MIB)))
    live.answer = lambda rq_type, flags, payload: release.wait(LIMIT) and b""
    status, lines, stderr = run(path, "--timeout", "1")
    release.set()
    assert (status, lines) == (124, [])
    assert stderr.endswith("live: no response within 1 s\n")


def test_a_peer_without_bodies(path: Path, live: Live) -> None:
    record(path, lambda conn: conn(DIGEST, body=b"abc"))
    live.options = {"capabilities": "off"}
    status, _, stderr = run(path)
    assert status == 1
    assert stderr.startswith("packetwire: request 0:2 in FILE is one with bodies: ")


def test_a_recording_that_breaks_off_is_no_whole_body(path: Path, live: Live) -> None:
    """What was not whole then must not become whole now."""
    seen: list[bytes] = []

    def answer(rq_type: int, flags: int, payload: bytes) -> Any:
        seen.append(current_request().body.read())
        return b""

    record(path, lambda conn: conn(DIGEST, body=bytes(3 * MIB)))
    path.write_bytes(path.read_bytes()[: 2 * MIB])
    live.answer = answer
    status, lines, stderr = run(path)
    assert (status, stderr) == (0, "")
    assert lines == ["1 request on 1 connection; responses: 0 the same, 0 different, 1 not in FILE"]
    assert seen == []

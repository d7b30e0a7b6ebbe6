"""Bodies and pieces in captures: what `packetwire dump` makes of them."""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from packetwire import ConnectionEnded, Packet, PacketConnection, current_request
from packetwire.capture import HEADER, CaptureWriter, Kind, Record
from packetwire.cli import exchanges
from packetwire.cli.conversation import Conversations, Seen
from packetwire.cli.exchanges import Exchanges
from packetwire.cli.failure import CommandFailed
from packetwire.core.frames import FrameType, Meta, encode_frame, encode_meta, encode_reason
from packetwire.core.hello import CONTROL_CHANNEL, HELLO
from packetwire.testing import stream_pair

from .forked import packetwire

LIMIT = 30
DIGEST, COUNT, ECHO, EARLY, FAIL, PLAIN, FOREVER = range(7)
MIB = 1 << 20
CHUNK = bytes(range(256)) * 256

pytestmark = pytest.mark.timeout(2 * LIMIT)


def handler(rq_type: int, flags: int, payload: bytes) -> Any:
    """What most of these tests ask."""
    body = current_request().body
    if rq_type == DIGEST:
        digest = hashlib.sha256(payload)
        for chunk in body:
            digest.update(chunk)
        return digest.hexdigest().encode()
    if rq_type == COUNT:
        return (CHUNK for _ in range(int(payload)))
    if rq_type == ECHO:
        return (chunk for chunk in body)
    if rq_type == EARLY:
        return body.read(5)
    if rq_type == FAIL:
        return failing(body)
    if rq_type == FOREVER:
        return forever()
    return payload


def forever() -> Iterator[bytes]:
    while True:
        yield CHUNK


def failing(body: Any) -> Iterator[bytes]:
    body.read()
    yield b"some"
    raise ValueError("on purpose")


def record(path: Path, play: Callable[[PacketConnection], object], serve: Any = handler) -> Path:
    """Record what `play` does with a connection."""
    with (
        stream_pair() as (ours, theirs),
        CaptureWriter(str(path)) as capture,
        PacketConnection(theirs, request_handler=serve, channels={16: serve}),
        PacketConnection(ours, capture=capture) as conn,
    ):
        play(conn)
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.cap"


def dump(path: Path, *args: object) -> list[str]:
    """The lines of a dump that succeeds, without their times."""
    done = packetwire("dump", path, *map(str, args))
    assert (done.returncode, done.stderr) == (0, b"")
    lines = done.stdout.decode().splitlines()
    return [re.sub(r" (in|after) [\d.]+ ms", r" \1 T", re.sub(r"^ *[\d.]+ +1 ", "", line)) for line in lines]


def bodies(path: Path, *args: object) -> list[str]:
    return [line for line in dump(path, *args) if " body " in line]


def ask_all(conn: PacketConnection) -> None:
    """One request after the other with a body, in each way."""
    conn(DIGEST, body=bytes(3 * MIB))
    with conn.stream(COUNT, b"3", channel=16) as call:
        call.read()
        call.result(LIMIT)
    with conn.stream(ECHO) as call:
        call.write(b"abc")
        call.finish()
        call.read()
        call.result(LIMIT)


# lines


def test_each_body_is_a_line(path: Path) -> None:
    record(path, ask_all)
    assert bodies(path) == [
        "> body 1 of request 0:2 type=0 3145728 bytes in T, whole",
        "< body 2 of response 16:2 type=1 196608 bytes in T, whole",
        "> body 3 of request 0:3 type=2 3 bytes in T, whole",
        "< body 4 of response 0:3 type=2 3 bytes in T, whole",
    ]
    assert not [line for line in dump(path) if re.search("DATA|CREDIT|END|PIECE", line)]
    assert "> META of its request 16:2, has a body, takes a body" in dump(path)
    assert [line for line in dump(path, "--frames") if "> DATA of its request 0:2, " in line]
    assert bodies(path, "--frames") == []


@pytest.mark.parametrize(
    ("args", "numbers"),
    [
        (["--channel", "16"], [2]),
        (["--tag", "3"], [3, 4]),
        (["--type", "2"], [3, 4]),
        (["--connection", "2"], []),
        (["--connection", "1", "--type", "0"], [1]),
    ],
)
def test_filters(path: Path, args: list[str], numbers: list[int]) -> None:
    record(path, ask_all)
    assert [int(line.split()[2]) for line in bodies(path, *args)] == numbers


def test_how_a_body_ends_before_its_end(path: Path) -> None:
    def play(conn: PacketConnection) -> None:
        with conn.stream(FOREVER) as call:
            call.read(10)
        call.result(LIMIT)
        with conn.stream(EARLY) as call:
            call.write(b"abcde")
            call.result(LIMIT)
        with conn.stream(FAIL) as call:
            call.finish()
            call.result(LIMIT)
        with pytest.raises(ZeroDivisionError), conn.stream(FOREVER) as call:
            call.read(10)
            raise ZeroDivisionError

    record(path, play)
    found = [re.sub(r"\d+ bytes", "N bytes", line) for line in bodies(path)]
    assert sorted(found) == [
        "< body 1 of response 0:2 type=6 N bytes in T, STOP, code 1",
        "< body 5 of response 0:4 type=4 N bytes in T, cut off: the response is not ok",
        "< body 6 of response 0:5 type=6 N bytes in T, cut off: CANCEL",
        "> body 2 of request 0:2 type=6 N bytes in T, whole",
        "> body 3 of request 0:3 type=3 N bytes in T, cut off: the response came first",
        "> body 4 of request 0:4 type=4 N bytes in T, whole",
    ]
    assert [line for line in dump(path) if "> CANCEL of its request 0:5, code 1" in line]


def test_a_connection_that_ends_cuts_bodies_off(path: Path) -> None:
    def play(conn: PacketConnection) -> None:
        with pytest.raises(ConnectionEnded), conn.stream(ECHO) as call:
            call.write(b"abc")
            call.read(3)
            conn._abort(ConnectionEnded("on purpose"))
            call.read()

    record(path, play)
    assert bodies(path) == [
        "> body 1 of request 0:2 type=2 3 bytes in T, cut off: the connection ended",
        "< body 2 of response 0:2 type=2 3 bytes in T, cut off: the connection ended",
    ]
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.rindex(b"-\0\0\0\1")])  # before the record that says that it is over
    assert [line.rpartition(", ")[2] for line in bodies(path)] == ["cut off: FILE ends"] * 2


def test_pieces_are_shown_as_the_packet_that_they_are(path: Path) -> None:
    payload = os.urandom(3 * MIB)
    record(path, lambda conn: (conn(PLAIN, deadline=LIMIT), conn(PLAIN, payload)))
    found = [re.sub(r" in \d+ pieces", " in N pieces", line) for line in dump(path)]
    start = f"3145728 bytes in N pieces {payload[:32]!r}…"
    assert f"> request  0:3 type=5 flags=0x0 {start}" in found
    assert f"< response 0:3 ok flags=0x0 {start}; to type 5, after T" in found
    shown = next(line for line in dump(path, "--hex", "--tag", "3") if line.startswith("  002ffff0"))
    assert shown.startswith(f"  002ffff0  {payload[-16:].hex(' ')}")


def test_the_summary_counts_bodies(path: Path) -> None:
    record(path, ask_all)
    summary = dump(path, "--summary")
    in_all = r"> +9 packets, 3145\d{3} bytes of payload and bodies, \d+ frames"
    assert any(re.search(in_all, line) for line in summary)
    assert any(line.split() == ["bodies", "4,", "3342342", "bytes:", "4", "whole"] for line in summary)
    (row,) = (line.split() for line in summary if line.strip().startswith("> type 1, channel 16"))
    assert row[4:9] == ["16", "1", "0", "0", "196609"]


# one body


def test_frames_are_no_requests_without_an_answer(path: Path) -> None:
    def cancel(conn: PacketConnection) -> None:
        conn(PLAIN, b"x", meta={"k": b"v"})
        with conn.stream(FOREVER) as call:
            call.read(1)
            call.cancel()

    figures = [line for line in dump(record(path, cancel), "--summary") if re.match(r"\s*[><] type", line)]
    assert not [line for line in figures if "channel 2" in line]
    assert [line for line in figures if "type 5" in line]


def test_a_body_is_written(path: Path, tmp_path: Path) -> None:
    data = os.urandom(2 * MIB)
    record(path, lambda conn: (ask_all(conn), conn(DIGEST, body=data)))
    done = packetwire("dump", path, "--body", "5")
    assert (done.returncode, done.stdout, done.stderr) == (0, data, b"")
    done = packetwire("dump", path, "--body", "5", "-o", "out", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert (tmp_path / "out").read_bytes() == data
    done = packetwire("dump", path, "--body", "6")
    assert (done.returncode, done.stderr) == (1, b"packetwire: there is no body 6 in FILE, which has 5\n")


def test_a_body_that_is_not_whole_is_told(path: Path) -> None:
    def play(conn: PacketConnection) -> None:
        with conn.stream(FAIL) as call:
            call.finish()
            call.result(LIMIT)

    record(path, play)
    done = packetwire("dump", path, "--body", "2")
    assert (done.returncode, done.stdout) == (1, b"some")
    assert done.stderr == b"packetwire: body 2 is not whole: cut off: the response is not ok\n"


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--body", "1", "--summary"], "--body is written, and nothing else is shown"),
        (["--body", "0"], "argument --body: expected a whole number from 1, got '0' (see packetwire dump --help)"),
        (["-o", "x"], "--output is for --body"),
        (["--body", "1", "-o", "/nowhere/x"], "cannot write '/nowhere/x': No such file or directory"),
    ],
)
def test_mistakes(path: Path, args: list[str], expected: str) -> None:
    record(path, lambda conn: conn(PLAIN))
    done = packetwire("dump", path, *args)
    assert done.returncode in (1, 2)
    assert done.stderr.decode().removeprefix("packetwire dump: ").removeprefix("packetwire: ") == expected + "\n"


# odd captures


def packet_of_hello() -> bytes:
    return bytes(Packet(is_request=True, channel=CONTROL_CHANNEL, tag=2, rq_type=HELLO + 1))


def request(tag: int, payload: bytes = b"") -> bytes:
    return bytes(Packet(is_request=True, tag=tag, rq_type=8, payload=payload))


def response(tag: int, payload: bytes = b"") -> bytes:
    return bytes(Packet(is_request=False, tag=tag, flags=1, payload=payload))


def meta(tag: int) -> bytes:
    return encode_frame(FrameType.META, 0, tag, encode_meta(Meta(has_body=True, response_credit=100)))


def capture(*records: tuple[str, bytes]) -> bytes:
    return HEADER + b"".join(bytes(Record(Kind(ord(sign)), 1, 0, data)) for sign, data in records)


def test_a_raw_stream(path: Path) -> None:
    path.write_bytes(
        packet_of_hello()
        + meta(2)
        + request(2)
        + encode_frame(FrameType.DATA, 0, 2, b"abc")
        + encode_frame(FrameType.END, 0, 2)
        + meta(3)
        + request(3)
        + encode_frame(FrameType.DATA, 0, 3, b"ab")
    )
    assert [line.strip() for line in bodies(path)] == [
        "> body 1 of request 0:2 type=7 3 bytes, whole",
        "> body 2 of request 0:3 type=7 2 bytes, cut off: FILE ends",
    ]
    done = packetwire("dump", "-", "--body", "1", stdin=path.read_bytes())
    assert (done.returncode, done.stdout) == (0, b"abc")


def test_what_crosses_and_what_makes_no_sense(path: Path) -> None:
    """Late frames are dropped, as the ends drop them; malformed ones are shown."""
    late = encode_frame(FrameType.DATA, 0, 2, b"late", of_receiver=True)
    path.write_bytes(
        capture(
            (">", packet_of_hello() + meta(2) + request(2)),
            ("<", encode_frame(FrameType.DATA, 0, 2, b"abc", of_receiver=True)),
            (">", encode_frame(FrameType.STOP, 0, 2, encode_reason(1, "enough"))),
            ("<", late),
            (">", encode_frame(FrameType.DATA, 0, 2, b"a")),
            ("<", encode_frame(FrameType.STOP, 0, 2, encode_reason(0), of_receiver=True)),
            (">", encode_frame(FrameType.DATA, 0, 2, b"late") + encode_frame(FrameType.END, 0, 2)),
            ("<", response(2) + late),
            (">", meta(3) + request(3)),
            (">", encode_frame(FrameType.STOP, 0, 3, encode_reason(1))),
            ("<", encode_frame(FrameType.DATA, 0, 3, b"late", of_receiver=True) + response(3)),
            ("<", encode_frame(FrameType.END, 0, 3, of_receiver=True)),
            (">", encode_frame(FrameType.META, 0, 4, b"\1") + encode_frame(FrameType.STOP, 0, 9)),
            (
                ">",
                encode_frame(FrameType.PIECE, 0, 5, b"never joined") + encode_frame(FrameType.CANCEL, 0, 5, b"\1"),
            ),
            (">", request(5, b"alone")),
        )
    )
    assert bodies(path) == [
        "< body 1 of response 0:2 type=7 3 bytes in T, STOP, code 1 'enough'",
        "> body 2 of request 0:2 type=7 1 byte in T, STOP, code 0",
    ]
    found = dump(path)
    assert "> STOP of its request 0:3, code 1" in found  # about a body that has not begun
    assert len([line for line in found if "frame that nobody understands" in line]) == 3
    assert "> request  0:5 type=7 flags=0x0 5 bytes b'alone'" in found


def test_frames_of_connections_that_have_not_agreed_are_requests(path: Path) -> None:
    path.write_bytes(capture((">", encode_frame(FrameType.DATA, 0, 2, b"abc"))))
    assert "> request  2:2 type=2 flags=0x0 3 bytes b'abc'" in dump(path)


@pytest.mark.parametrize(
    ("bound", "limit", "data"),
    [
        ("MAX_WAITING", 2, b"".join(map(meta, range(5)))),
        ("MAX_WAITING", 2, b"".join(encode_frame(FrameType.PIECE, 0, tag) for tag in range(5))),
        ("MAX_HELD", 5, encode_frame(FrameType.PIECE, 0, 2, b"abc") * 2),
    ],
)
def test_bounds(bound: str, limit: int, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchanges, bound, limit)
    conversations, found = Conversations(), Exchanges()
    with pytest.raises(CommandFailed, match="more than"):
        for seen in conversations.add(Record(Kind.FORTH, 1, 0, packet_of_hello() + data)):
            list(found.add(seen))


def test_nothing_is_kept_of_what_is_over(path: Path) -> None:
    release = threading.Event()

    def play(conn: PacketConnection) -> None:
        ask_all(conn)
        conn(PLAIN, bytes(2 * MIB))
        release.set()

    record(path, play)
    conversations, found = Conversations(), Exchanges()
    for happening in conversations.add(Record(Kind.FORTH, 1, 0, packet_of_hello())):
        assert isinstance(happening, Seen)
        list(found.add(happening))
    for each in records(path):
        for happening in conversations.add(each):
            list(found.add(happening))
    assert (found._held, found._open, found._connections) == (0, 0, {})


def records(path: Path) -> list[Record]:
    from packetwire.capture import CaptureDecoder

    return CaptureDecoder().feed(path.read_bytes())

"""The capture format: what is written can be read, whole or cut off, and nothing else is believed."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packetwire import PacketConnection, PacketDecoder, RemoteProtocolError
from packetwire.capture import (
    HEADER,
    MAX_RECORD,
    CaptureDecoder,
    CapturedStream,
    CaptureError,
    CaptureWriter,
    Kind,
    Record,
)
from packetwire.streams.open import open_stream

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("plain_streams")]

RECORDS = st.lists(
    st.builds(
        Record,
        st.sampled_from(Kind),
        st.integers(1, 2**32 - 1),
        st.integers(0, 2**64 - 1),
        st.binary(max_size=100),
    ),
    max_size=8,
)


def read(data: bytes) -> list[Record]:
    return CaptureDecoder().feed(data)


def happened(path: Path) -> list[tuple[str, int, bytes]]:
    """All but the times."""
    return [(record.sign, record.connection, record.data) for record in read(path.read_bytes())]


# the codec


@given(RECORDS, st.data())
def test_chunks_do_not_matter(records: list[Record], data: st.DataObject) -> None:
    content = HEADER + b"".join(map(bytes, records))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(content)), max_size=6)))
    decoder = CaptureDecoder()
    found = []
    for start, end in zip([0, *cuts], [*cuts, len(content)], strict=True):
        found += decoder.feed(content[start:end])
    assert found == records
    assert (decoder.partial_size, decoder.bytes_decoded) == (0, len(content))
    assert (decoder.partial_octets, decoder.octets_decoded) == (0, len(content))


@given(RECORDS, st.data())
def test_what_was_cut_off_is_read_to_its_last_whole_record(records: list[Record], data: st.DataObject) -> None:
    content = HEADER + b"".join(map(bytes, records))
    cut = data.draw(st.integers(0, len(content)))
    decoder = CaptureDecoder()
    found = decoder.feed(content[:cut])
    whole = HEADER + b"".join(map(bytes, found))
    assert found == records[: len(found)]
    assert len(whole) <= cut or not found
    if cut >= len(HEADER):
        assert decoder.bytes_decoded == len(whole)
        assert decoder.partial_size == cut - len(whole)
        if len(found) < len(records):
            assert len(whole + bytes(records[len(found)])) > cut, "the next one is not whole"


@given(st.binary(max_size=200), RECORDS)
def test_anything_else_is_refused_or_read(data: bytes, records: list[Record]) -> None:
    for begin in b"", HEADER, HEADER + b"".join(map(bytes, records)):
        decoder = CaptureDecoder()
        try:
            found = decoder.feed(begin + data)
        except CaptureError:
            continue
        assert (
            begin + data
            == (HEADER + b"".join(map(bytes, found)))[: decoder.bytes_decoded]
            + ((begin + data)[decoder.bytes_decoded :])
        )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\0packetwire-capture 2\n", "a capture of version b'2', of which nothing is known here"),
        (b"\0other", re.escape(r"no capture: it begins with b'\x00other'")),
        (HEADER + b"x" + bytes(16), "a damaged record at offset 22: "),
        (HEADER + b">" + bytes(16), "a damaged record at offset 22: "),
        (
            HEADER + bytes(Record(Kind.FORTH, 1, 0, b"abc")) + b"<\0\0\0\1" + bytes(8) + b"\0\x10\0\1",
            "a damaged record at offset 42: ",
        ),
    ],
    ids=["version", "magic", "kind", "connection", "size"],
)
def test_refusals(data: bytes, message: str) -> None:
    with pytest.raises(CaptureError, match=message):
        read(data)


def test_the_largest_record_is_read() -> None:
    largest = Record(Kind.BACK, 1, 2, bytes(MAX_RECORD))
    assert read(HEADER + bytes(largest)) == [largest]


def test_no_packet_stream_begins_like_a_capture() -> None:
    with pytest.raises(RemoteProtocolError):
        PacketDecoder().feed(HEADER)


# the writer


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.cap"


def test_what_is_written(path: Path) -> None:
    with CaptureWriter(path) as capture:
        first, second = capture.begin("first ë"), capture.begin("second")
        first.record(Kind.FORTH, b"abc")
        second.record(Kind.BACK, memoryview(b"def"))
        first.record(Kind.FORTH)
        first.over("enough")
        first.over("a second time")
    assert happened(path) == [
        ("+", 1, "first ë".encode()),
        ("+", 2, b"second"),
        (">", 1, b"abc"),
        ("<", 2, b"def"),
        (">", 1, b""),
        ("-", 1, b"enough"),
    ]
    times = [record.time for record in read(path.read_bytes())]
    assert times == sorted(times)
    assert path.stat().st_mode & 0o777 == 0o600


def test_long_data_is_split(path: Path) -> None:
    data = os.urandom(MAX_RECORD) * 2 + b"rest"
    with CaptureWriter(path) as capture:
        capture.begin("").record(Kind.FORTH, data)
    _, *pieces = read(path.read_bytes())
    assert [len(piece.data) for piece in pieces] == [MAX_RECORD, MAX_RECORD, 4]
    assert b"".join(piece.data for piece in pieces) == data


@pytest.mark.parametrize("cut", [0, 1, 5, 17, 18, 41])
def test_a_capture_is_continued_behind_its_last_whole_record(path: Path, cut: int) -> None:
    with CaptureWriter(path) as capture:
        capture.begin("a").record(Kind.FORTH, b"first")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - cut])
    with CaptureWriter(path) as capture:
        capture.begin("b")
    kept = happened(path)
    dropped = 0 if not cut else 2 if cut > 22 else 1
    expected = [("+", 1, b"a"), (">", 1, b"first")][: 2 - dropped]
    expected.append(("+", 1 if dropped == 2 else 2, b"b"))
    assert kept == expected


def test_a_header_that_was_cut_off_is_written_again(path: Path) -> None:
    path.write_bytes(HEADER[:5])
    with CaptureWriter(path) as capture:
        capture.begin("b")
    assert happened(path) == [("+", 1, b"b")]


def test_what_is_no_capture_is_left_alone(path: Path) -> None:
    path.write_bytes(b"a letter")
    with pytest.raises(CaptureError, match="a.cap' is there already: no capture: it begins with b'a letter'"):
        CaptureWriter(path)
    assert path.read_bytes() == b"a letter"


def test_two_writers_keep_out_of_each_others_way(path: Path) -> None:
    with CaptureWriter(path):
        with pytest.raises(OSError, match="another program is writing a capture there"):
            CaptureWriter(path)
    CaptureWriter(path).close()


def test_a_fifo_is_refused(path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(CaptureError, match="is not a regular file"):
        CaptureWriter(path)


FULL_DISK = """
import logging, resource, signal, sys
from packetwire.capture import *
logging.basicConfig(format="%(message)s")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with CaptureWriter(sys.argv[1]) as capture:
    connection = capture.begin("a")
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
    for _ in range(10):
        connection.record(Kind.FORTH, b"0123456789")
    print(capture.failure)
"""


def test_a_write_that_fails_is_logged_once_and_ends_the_capture_only(path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, path], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stderr.count("nothing more is captured") == 1
    assert str(path) in done.stdout
    assert happened(path) == [("+", 1, b"a"), (">", 1, b"0123456789"), (">", 1, b"0123456789")]


KILLED = """
import os, signal, sys
from packetwire.capture import *
capture = CaptureWriter(sys.argv[1])
connection = capture.begin("a")
for number in range(1000):
    connection.record(Kind.FORTH, b"%d" % number)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_writer_that_is_killed_has_written_all(path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, path], check=False, timeout=30)
    assert done.returncode == -signal.SIGKILL
    assert [data for _, _, data in happened(path)] == [b"a", *(b"%d" % number for number in range(1000))]


# a stream that is captured


@pytest.fixture
def capture(path: Path) -> Iterator[CaptureWriter]:
    with CaptureWriter(path) as capture:
        yield capture


def test_a_connection_over_a_captured_stream(path: Path, capture: CaptureWriter) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        stream = capture.stream(open_stream(ours), "ours")
        with (
            PacketConnection(theirs, request_handler=lambda rq_type, flags, payload: payload),
            PacketConnection(stream) as conn,
        ):
            for number in range(100):
                assert conn(0, b"%d" % number)[2] == b"%d" % number
            results = [conn.submit(0, 0, bytes(100_000)) for _ in range(20)]
            assert all(result()[2] == bytes(100_000) for result in results)
    forth, back = (b"".join(o for sign, _, o in happened(path) if sign == which) for which in "><")
    asked, answered = PacketDecoder().feed(forth), PacketDecoder().feed(back)
    assert [packet.payload for packet in asked[:100]] == [b"%d" % number for number in range(100)]
    assert (len(asked), len(answered)) == (122, 122)
    assert happened(path)[0] == ("+", 1, b"ours")
    assert happened(path)[-1] == ("-", 1, b"")
    seen: set[int] = set()
    for sign, decoder in decoders(path):
        seen = seen | decoder if sign == ">" else seen
        assert sign == ">" or decoder <= seen, "no response before its request"


def decoders(path: Path) -> Iterator[tuple[str, set[int]]]:
    """The tags that each record completes."""
    by_sign = {">": PacketDecoder(), "<": PacketDecoder()}
    for sign, _, data in happened(path):
        if sign in by_sign and data:
            yield sign, {packet.tag for packet in by_sign[sign].feed(data)}


def test_bytes_that_are_tried_again_are_recorded_once(path: Path, capture: CaptureWriter) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        stream = CapturedStream(open_stream(ours), capture.begin("ours"))
        data = os.urandom(3_000_000)
        rest: tuple[bytes | memoryview, ...] = (data[:1000], data[1000:2_000_000], data[2_000_000:])
        received = bytearray()
        tries = 0
        while rest:
            rest = tuple(stream.write_batch(rest))
            tries += 1
            received += theirs.recv(1 << 20)
        while len(received) < len(data):
            received += theirs.recv(1 << 20)
        stream.close()
    assert tries > 2
    assert received == data
    assert b"".join(o for sign, _, o in happened(path) if sign == ">") == data


def test_leading_data_and_the_end_are_recorded(path: Path, capture: CaptureWriter) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        inner = open_stream(ours)
        inner.leading_data = b"first "
        stream = capture.stream(inner, "ours")
        assert (stream.leading_data, inner.leading_data) == (b"first ", b"")
        assert (stream.leading_octets, inner.leading_octets) == (b"first ", b"")
        theirs.sendall(b"then")
        theirs.shutdown(socket.SHUT_WR)
        assert [stream.try_read(100), stream.try_read(100), stream.try_read(100)] == [b"then", b"", b""]
        stream.close()
    assert happened(path) == [
        ("+", 1, b"ours"),
        ("<", 1, b"first "),
        ("<", 1, b"then"),
        ("<", 1, b""),
        ("-", 1, b""),
    ]

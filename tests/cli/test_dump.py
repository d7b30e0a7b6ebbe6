"""`packetwire dump` as a user runs it: captures and raw streams, whole, cut off and damaged."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from packetwire import Packet, PacketConnection
from packetwire.capture import HEADER, CaptureWriter, Kind, Record
from packetwire.cli import conversation
from packetwire.cli.conversation import Conversations, Note, Seen, shown
from packetwire.cli.failure import CommandFailed
from packetwire.core.packets import EOF_PACKET, ERQ_PACKET
from packetwire.testing import stream_pair

from .forked import packetwire

PACKETWIRE = [sys.executable, "-m", "packetwire"]
LIMIT = 30
FIXTURES = Path(__file__).parents[2] / "fixtures"
MILLISECOND = 10**6
BEGIN = 1_700_000_000 * 10**9

pytestmark = pytest.mark.timeout(60)


def items(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((FIXTURES / name).read_text())["items"]
    return found


STREAMS = [item for item in items("cs_streams.json") if item.get("client_to_server")]
PACKETS = [item for item in items("cs_packets.json") if item["kind"] == "packet"]


def run(*args: Any, stdin: bytes | None = None) -> tuple[int, str, str]:
    """The exit status and what was said."""
    done = packetwire("dump", *map(str, args), stdin=stdin or b"")
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def lines(*args: Any, stdin: bytes | None = None) -> list[str]:
    """What a dump shows that succeeds, with the white space made even."""
    status, stdout, stderr = run(*args, stdin=stdin)
    assert (status, stderr) == (0, "")
    return [" ".join(line.split()) for line in stdout.splitlines()]


def request(tag: int, rq_type: int, payload: bytes = b"", flags: int = 0, channel: int = 0) -> bytes:
    return bytes(
        Packet(is_request=True, tag=tag, rq_type=rq_type + 1, payload=payload, flags=flags, channel=channel)
    )


def response(tag: int, payload: bytes = b"", flags: int = 1, channel: int = 0) -> bytes:
    return bytes(Packet(is_request=False, tag=tag, payload=payload, flags=flags, channel=channel))


def capture(*records: tuple[str, int, int, bytes]) -> bytes:
    """Of (sign, connection, milliseconds, bytes)."""
    return HEADER + b"".join(
        bytes(Record(Kind(ord(sign)), connection, BEGIN + when * MILLISECOND, data))
        for sign, connection, when, data in records
    )


CONVERSATION = capture(
    ("+", 1, 0, b"unix:a unix:b"),
    (">", 1, 1, request(2, 7, b"hi", flags=5) + request(3, 8, b"long" * 20)[:4]),
    (">", 1, 2, request(3, 8, b"long" * 20)[4:]),
    ("+", 2, 3, b"unix:a unix:b"),
    (">", 2, 4, request(2, 9, channel=16)),
    ("<", 1, 5, response(3, b"no", flags=0) + response(2, b"\x00\xff", flags=11)),
    ("<", 1, 6, request(2, 1)),
    (">", 1, 7, response(2)),
    (">", 1, 8, bytes(ERQ_PACKET) + bytes(EOF_PACKET)),
    (">", 1, 8, b""),
    ("<", 2, 9, response(99)),
    ("-", 1, 10, b"because"),
)
SHOWN = [
    "times are seconds since 2023-11-14 22:13:20.000000000 UTC",
    "0.000000 1 + unix:a unix:b",
    "0.001000 1 > request 0:2 type=7 flags=0x5 2 bytes b'hi'",
    "0.002000 1 > request 0:3 type=8 flags=0x0 80 bytes b'longlonglonglonglonglonglonglong'…",
    "0.003000 2 + unix:a unix:b",
    "0.004000 2 > request 16:2 type=9 flags=0x0 0 bytes",
    "0.005000 1 < response 0:3 not ok flags=0x0 2 bytes b'no'; to type 8, after 3.000 ms",
    "0.005000 1 < response 0:2 ok flags=0x5 2 bytes b'\\x00\\xff'; to type 7, after 4.000 ms",
    "0.006000 1 < request 0:2 type=1 flags=0x0 0 bytes",
    "0.007000 1 > response 0:2 ok flags=0x0 0 bytes; to type 1, after 1.000 ms",
    "0.008000 1 > ERQ",
    "0.008000 1 > EOF",
    "0.008000 1 > ends its direction",
    "0.009000 2 < response 0:99 ok flags=0x0 0 bytes; to no request that was seen",
    "0.010000 1 - over: because",
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with CONVERSATION."""
    path = tmp_path / "a.cap"
    path.write_bytes(CONVERSATION)
    return path


# what is shown


def test_a_capture_packet_by_packet(path: Path) -> None:
    assert lines(path) == SHOWN
    assert lines("-", stdin=CONVERSATION) == SHOWN


@pytest.mark.parametrize(
    ("args", "kept"),
    [
        (["--connection", "2"], [4, 5, 13]),
        (["--channel", "16"], [5]),
        (["--tag", "3"], [3, 6]),
        (["--type", "7"], [2, 7]),
        (["--type", "1", "--connection", "1"], [8, 9]),
        (["--tag", "0"], []),
        (["--channel", "0", "--tag", "99"], [13]),
    ],
)
def test_filters(path: Path, args: list[str], kept: list[int]) -> None:
    found = lines(path, *args)
    of_packets = [line.split(" ", 1)[1] for line in found[1:]]
    assert of_packets == [SHOWN[number].split(" ", 1)[1] for number in kept]


def test_hex_shows_all_of_each_payload(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(request(2, 0, bytes(range(30, 50))))
    _, stdout, _ = run(path, "--hex")
    assert stdout.splitlines() == [
        "  > request  0:2 type=0 flags=0x0 20 bytes",
        "  00000000  1e 1f 20 21 22 23 24 25 26 27 28 29 2a 2b 2c 2d  .. !\"#$%&'()*+,-",
        "  00000010  2e 2f 30 31                                      ./01",
    ]


def test_payloads_as_text(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(request(2, 0, "grün\n\x1b[2J".encode()) + request(3, 0, b"\xff"))
    assert lines(path, "--decode", "text") == [
        "> request 0:2 type=0 flags=0x0 10 bytes 'grün\\n\\x1b[2J'",
        "> request 0:3 type=0 flags=0x0 1 byte b'\\xff'",
    ]


def test_a_decoder_that_fails_is_no_reason_to_show_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from packetwire.cli import dump
    from packetwire.cli.main import main

    def fail(seen: Seen) -> str:
        raise RuntimeError("on\npurpose")

    monkeypatch.setitem(dump.DECODERS, "fail", fail)
    assert main(["dump", str(path), "--decode", "fail", "--type", "7"]) == 0
    assert capsys.readouterr().out.count("not decoded: RuntimeError: on\\npurpose") == 2


def test_a_decoder_that_is_not_installed_says_what_to_install(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(request(2, 0, b"payload"))
    program = "import sys; sys.modules['google'] = None; from packetwire.cli.main import main; sys.exit(main())"
    argv = [sys.executable, "-c", program, "dump", str(path), "--decode", "fbsp"]
    done = subprocess.run(argv, capture_output=True, check=False, timeout=LIMIT, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("packetwire: --decode needs more: ")
    assert done.stderr.endswith("pip install 'packetwire[butler]'\n")


def test_the_summary(path: Path) -> None:
    assert lines(path, "--summary") == [
        "connections 2",
        "> 6 packets, 82 bytes of payload",
        "< 4 packets, 4 bytes of payload",
        "",
        "requests number not ok no answer bytes median p99 slowest",
        "> type 7 1 0 0 4 4.000 ms 4.000 ms 4.000 ms",
        "> type 8 1 1 0 82 3.000 ms 3.000 ms 3.000 ms",
        "> type 9, channel 16 1 0 1 0 - - -",
        "< type 1 1 0 0 0 1.000 ms 1.000 ms 1.000 ms",
        "",
    ]


def test_follow_shows_what_is_added(path: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a child inherits that it is not ignored
    try:
        dump = subprocess.Popen(
            [*PACKETWIRE, "dump", "--follow", str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    finally:
        signal.signal(signal.SIGINT, before)
    assert dump.stdout
    for _ in SHOWN:
        dump.stdout.readline()
    more = bytes(Record(Kind.FORTH, 2, BEGIN, request(3, 4)))
    with path.open("ab") as file:
        for cut in more[:20], more[20:]:
            file.write(cut)
            file.flush()
    assert "> request  0:3 type=4" in dump.stdout.readline()
    dump.send_signal(signal.SIGINT)
    stdout, stderr = dump.communicate(timeout=LIMIT)
    assert (dump.returncode, stdout, stderr) == (130, "", "packetwire: interrupted\n")


def test_what_comes_through_a_pipe_is_shown_at_once() -> None:
    with subprocess.Popen(
        [*PACKETWIRE, "dump", "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    ) as dump:
        assert dump.stdin
        assert dump.stdout
        dump.stdin.write(request(2, 7))
        assert dump.stdout.readline() == b"  > request  0:2 type=7 flags=0x0 0 bytes\n"
        dump.stdin.close()
        assert dump.wait(LIMIT) == 0


# the reference's bytes


@pytest.mark.parametrize("item", STREAMS, ids=lambda item: item["id"])
def test_golden_streams(item: dict[str, Any], tmp_path: Path) -> None:
    forth, back = (bytes.fromhex(item[way]) for way in ("client_to_server", "server_to_client"))
    path = tmp_path / "golden.cap"
    path.write_bytes(capture((">", 1, 0, forth), ("<", 1, 1, back)))
    found = lines(path)
    asked = [line for line in found if " > request " in line]
    answers = [line for line in found if " < response " in line]
    assert len(asked) == len(answers) > 0
    assert all("; to type" in line and line.endswith("after 1.000 ms") for line in answers)
    assert found[-1].endswith("< EOF")
    for data in forth, back:
        raw = lines("-", stdin=data)
        assert len(raw) == len([line for line in found if f" {'>' if data is forth else '<'} " in line])


def test_golden_packets() -> None:
    special = {bytes(EOF_PACKET), bytes(ERQ_PACKET)}
    cases = [item for item in PACKETS if bytes.fromhex(item["hex"]) not in special]
    found = lines("-", stdin=b"".join(bytes.fromhex(item["hex"]) for item in cases))
    assert len(found) == len(cases) > 100
    for item, line in zip(cases, found, strict=True):
        flags, payload = item["flags"], bytes.fromhex(item["payload"])
        if item["is_request"]:
            wire_rq_type = item["wire_rq_type"]
            rq_type = str(wire_rq_type - 1) if wire_rq_type else "reserved"
            expected = f"> request {item['channel']}:{item['tag']} type={rq_type} flags=0x{flags:x} "
        else:
            ok = "ok" if flags & 1 else "not ok"
            expected = f"> response {item['channel']}:{item['tag']} {ok} flags=0x{flags >> 1:x} "
        assert line.startswith(expected + f"{len(payload)} byte"), item["id"]


# cut off, malformed, damaged


@pytest.mark.parametrize("left", [len(HEADER), 60, 100, 200, len(CONVERSATION) - 1])
def test_a_capture_that_was_cut_off_is_shown_to_its_last_whole_packet(path: Path, left: int) -> None:
    path.write_bytes(CONVERSATION[:left])
    status, stdout, stderr = run(path)
    assert status == 0
    shown_lines = [" ".join(line.split()) for line in stdout.splitlines()]
    whole = [line for line in shown_lines if "the stream ended inside a packet" not in line]
    assert whole == SHOWN[: len(whole)]
    assert stderr == "" or re.fullmatch(r"the file ends inside a record, after \d+ bytes of it\n", stderr)


def test_a_packet_that_was_cut_off_is_told_of() -> None:
    data = capture((">", 1, 0, request(2, 0, b"abcdef")[:5]))
    assert lines("-", stdin=data)[1:] == [
        "0.000000 1 > the stream ended inside a packet, after 5 of 10 bytes of it: b'\\t\\x02\\x02\\x01a'"
    ]


def test_what_is_malformed_ends_its_direction_only() -> None:
    data = capture(
        (">", 1, 0, request(2, 7) + bytes.fromhex("80808080808080808080")),
        (">", 1, 1, request(3, 7)),
        ("<", 1, 2, response(2)),
    )
    status, stdout, stderr = run("-", stdin=data)
    assert (status, stderr) == (1, "")
    _, first, fault, answer = [" ".join(line.split()) for line in stdout.splitlines()]
    assert "> request 0:2" in first
    assert re.search(r" 1 ! > malformed: .*; the rest of this direction is left out$", fault)
    assert "< response 0:2" in answer


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (HEADER + b"x" * 20, "a damaged record at offset 22"),
        (b"\0packetwire-capture 7\n", "a capture of version b'7', of which nothing is known here"),
        (b"\0\x1b[2Jother", "no capture: it begins with b'\\x00\\x1b[2Jother'"),
    ],
)
def test_what_is_damaged_gets_one_line(data: bytes, message: str) -> None:
    status, stdout, stderr = run("-", stdin=data)
    assert (status, stdout) == (1, "")
    assert stderr.startswith(f"packetwire: {message}")
    assert stderr.count("\n") == 1


def test_texts_from_elsewhere_move_no_cursor() -> None:
    data = capture(("+", 1, 0, b"\x1b[2J\r\nname \xff"), ("-", 1, 0, b"x" * 1000))
    _, begun, over = lines("-", stdin=data)
    assert begun == "0.000000 1 + \\x1b[2J\\r\\nname �"
    assert over.endswith("x…")
    assert len(over) < 400


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_anything_is_shown_or_refused(data: bytes) -> None:
    conversations = Conversations(1000)
    for kind in Kind:
        for happening in conversations.add(Record(kind, 1, 0, data)):
            if isinstance(happening, Note):
                assert happening.text == shown(happening.text)
            else:
                assert happening.packet.payload in data
    assert list(conversations.finish()) == [] or conversations.connections == 1


# bounds


def records_of(count: int, kind: Kind, data: bytes) -> Iterator[Record]:
    return (Record(kind, number, 0, data) for number in range(1, count + 1))


def test_the_connections_of_a_capture_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation, "MAX_CONNECTIONS", 10)
    conversations = Conversations()
    for record in records_of(10, Kind.FORTH, request(2, 0)):
        list(conversations.add(record))
    with pytest.raises(CommandFailed, match="more than 10 connections at the same time"):
        list(conversations.add(Record(Kind.FORTH, 11, 0, request(2, 0))))
    list(conversations.add(Record(Kind.OVER, 1, 0)))
    list(conversations.add(Record(Kind.FORTH, 11, 0, request(2, 0))))


def test_packets_that_do_not_end_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation, "MAX_HELD", 1000)
    conversations = Conversations()
    begun = request(2, 0, bytes(2000))[:300]
    for record in records_of(3, Kind.FORTH, begun):
        list(conversations.add(record))
    with pytest.raises(CommandFailed, match="more than 1000 bytes of packets that do not end"):
        list(conversations.add(Record(Kind.BACK, 1, 0, begun)))


def test_requests_without_response_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation, "MAX_WAITING", 10)
    conversations = Conversations()
    list(conversations.add(Record(Kind.FORTH, 1, 0, b"".join(request(tag, 0) for tag in range(2, 13)))))
    answers = list(conversations.add(Record(Kind.BACK, 1, 0, b"".join(response(tag) for tag in range(2, 13)))))
    assert [isinstance(seen, Seen) and seen.request is not None for seen in answers] == [False] + [True] * 10


def test_a_packet_beyond_the_limit_is_malformed(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(request(2, 0, bytes(2000)))
    assert run(path, "--max-packet", "1kB")[0] == 1
    assert run(path, "--max-packet", "3kB")[0] == 0


# mistakes


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "the following arguments are required: FILE"),
        (["nonesuch"], "argument FILE: cannot read 'nonesuch': No such file or directory"),
        (["."], "argument FILE: cannot read '.': Is a directory"),
        (["-", "--tag", "x"], "argument --tag: expected a whole number from 0 to 9223372036854775807, got 'x'"),
        (["-", "--channel", "-1"], "argument --channel: expected a whole number from 0"),
        (["-", "--connection", "1.5"], "argument --connection: expected a whole number from 0, got '1.5'"),
        (["-", "--type", ""], "argument --type: expected a whole number from 0 to 9223372036854775806, got ''"),
        (["-", "--decode", "jpeg"], "argument --decode: invalid choice: 'jpeg'"),
        (["-", "--max-packet", "0"], "argument --max-packet: expected a size from 1"),
        (["-", "--follow"], "--follow is for a file: standard input is read to its end anyway"),
        (["x", "--follow", "--summary"], "--summary is shown at the end of FILE, and --follow has none"),
        (["-", "--hxe"], "unrecognized arguments: --hxe"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes(args: list[str], message: str) -> None:
    status, stdout, stderr = run(*args)
    assert (status, stdout) == (2, "")
    assert message in stderr
    assert stderr.count("\n") == 1


def test_a_reader_that_has_seen_enough(path: Path) -> None:
    ours, theirs = socket.socketpair()
    ours.close()
    with theirs:
        done = subprocess.run(
            [*PACKETWIRE, "dump", str(path)], stdout=theirs, stderr=subprocess.PIPE, check=False, timeout=LIMIT
        )
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


def test_an_empty_file(tmp_path: Path) -> None:
    assert lines(os.devnull) == []


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "fifo")
    return tmp_path / "fifo"


def test_a_fifo_into_which_nobody_writes_is_not_waited_for_without_end(
    fifo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(conversation, "FIFO_SECONDS", 0.3)
    with pytest.raises(
        CommandFailed, match="nobody has opened the FIFO '.*/fifo' for writing within 0.3 s"
    ) as caught:
        with conversation.open_input(str(fifo)):
            pass
    assert caught.value.status == 2
    assert capsys.readouterr().err == f"waiting for somebody to write into the FIFO '{fifo}', for 0.3 s at most\n"


def test_a_wait_for_a_fifo_can_be_interrupted(fifo: Path) -> None:
    dump = subprocess.Popen([*PACKETWIRE, "dump", "--follow", fifo], stderr=subprocess.PIPE, text=True)
    assert dump.stderr is not None
    assert dump.stderr.readline() == f"waiting for somebody to write into the FIFO '{fifo}'\n"
    dump.send_signal(signal.SIGINT)
    assert dump.wait(LIMIT) == 130
    dump.stderr.close()


@pytest.mark.parametrize("writes_at_once", [False, True])
def test_a_fifo_is_read_to_its_end(fifo: Path, writes_at_once: bool) -> None:
    dump = subprocess.Popen([*PACKETWIRE, "dump", fifo], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    packets = request(2, 1) + request(3, 1)
    with fifo.open("wb", buffering=0) as writer:
        writer.write(packets if writes_at_once else packets[:1])
        if not writes_at_once:
            writer.write(packets[1:])
    stdout, _ = dump.communicate(timeout=LIMIT)
    assert dump.returncode == 0
    assert [line.split()[1:3] for line in stdout.splitlines()] == [["request", "0:2"], ["request", "0:3"]]


def test_a_writer_of_a_fifo_may_take_its_time(fifo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once it has opened the FIFO it is waited for as any other."""
    monkeypatch.setattr(conversation, "FIFO_SECONDS", 0.0)
    holding = os.open(fifo, os.O_RDWR)
    try:
        with conversation.open_input(str(fifo)) as source:
            os.write(holding, request(2, 1))
            (record,) = [next(iter(source))]
            assert record.data == request(2, 1)
    finally:
        os.close(holding)


def test_control_requests_and_frames_are_named(tmp_path: Path) -> None:
    """Once an end has said HELLO: before that they are requests on reserved channels."""
    path = tmp_path / "a.cap"
    capture = CaptureWriter(str(path))
    with (
        stream_pair() as (ours, theirs),
        capture,
        PacketConnection(theirs, request_handler=lambda rq_type, flags, payload: payload),
        PacketConnection(ours, capture=capture) as conn,
    ):
        conn(1, b"one")
        conn(2, deadline=100.0, meta={"k": b"v"}, on_progress=lambda payload: None)
        conn._driver.tell_cancelled(0, 2, "no more")
        conn.ping(30)
        conn.drain_peer(30)
    found = "\n".join(lines(path))
    assert "< HELLO 1:2 " in found
    assert "> META of its request 0:3, " in found
    assert "ms left, wants progress, {'k': b'v'}" in found
    assert "> CANCEL of its request 0:2, code 1 'no more'" in found
    assert "> PING 1:2 0 bytes" in found
    assert "> DRAIN 1:3 0 bytes" in found

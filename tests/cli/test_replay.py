"""`packetwire replay` as a user runs it: the same requests, in their order, and what has become different."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from packetwire import Packet, PacketConnection, connect_to, serve
from packetwire.bridge import Bridge
from packetwire.capture import HEADER, CaptureWriter, Kind, Record
from packetwire.cli import replay as replaying
from packetwire.cli.main import main
from packetwire.core.packets import EOF_PACKET, ERQ_PACKET
from packetwire.testing import stream_pair

from .forked import packetwire_text

PACKETWIRE = [sys.executable, "-m", "packetwire"]
LIMIT = 30

pytestmark = pytest.mark.timeout(60)


class Service:
    """Answers with the payload, or as `answer` says, and keeps the requests."""

    def __init__(self) -> None:
        self.requests: list[tuple[int, int, bytes]] = []
        self.connections = 0
        self.answer: Callable[[int, int, bytes], Any] = lambda rq_type, flags, payload: (flags, payload)
        self.release = threading.Event()

    def __call__(self, recv_send: Any) -> PacketConnection:
        self.connections += 1
        return PacketConnection(recv_send, request_handler=self.handle, channels={16: self.handle})

    def handle(self, rq_type: int, flags: int, payload: bytes) -> Any:
        self.requests.append((rq_type, flags, payload))
        return self.answer(rq_type, flags, payload)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service()
    with serve(address(tmp_path), service, drain_timeout=0.2):
        yield service
        service.release.set()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.cap"


def address(tmp_path: Path) -> str:
    return f"unix:{tmp_path / 'service'}"


def run(path: Path, *args: str) -> tuple[int, list[str], str]:
    """Replay a file to the service beside it: the exit status, the lines and the standard error."""
    done = packetwire_text("replay", path, address(path.parent), *args)
    return done.returncode, done.stdout.splitlines(), done.stderr


def request(tag: int, rq_type: int, payload: bytes = b"", flags: int = 0, channel: int = 0) -> tuple[str, bytes]:
    packet = Packet(is_request=True, tag=tag, rq_type=rq_type + 1, payload=payload, flags=flags, channel=channel)
    return ">", bytes(packet)


def response(
    tag: int, payload: bytes = b"", flags: int = 0, ok: bool = True, channel: int = 0
) -> tuple[str, bytes]:
    return "<", bytes(Packet(is_request=False, tag=tag, payload=payload, flags=flags << 1 | ok, channel=channel))


def capture(*records: tuple[str, bytes], connection: int = 1) -> bytes:
    return HEADER + b"".join(bytes(Record(Kind(ord(sign)), connection, 0, data)) for sign, data in records)


def test_what_a_bridge_recorded_is_the_same_again(service: Service, path: Path, tmp_path: Path) -> None:
    with (
        CaptureWriter(path) as writer,
        Bridge(f"unix:{tmp_path / 'near'}", address(tmp_path), capture=writer) as bridge,
    ):
        thread = threading.Thread(target=bridge.run)
        thread.start()
        for _ in range(3):
            with PacketConnection(connect_to(bridge.address)) as conn:
                results = [
                    conn.submit(number, number, b"%d" % number, channel=number % 2 * 16) for number in range(50)
                ]
                assert [result(timeout=LIMIT)[2] for result in results] == [b"%d" % number for number in range(50)]
        bridge.stop()
        thread.join(LIMIT)
    recorded, service.requests = service.requests, []
    assert run(path) == (0, ["150 requests on 3 connections; responses: 150 the same, 0 different"], "")
    assert sorted(service.requests) == sorted(recorded)
    assert service.connections == 6


def test_differences(service: Service, path: Path) -> None:
    def answer(rq_type: int, flags: int, payload: bytes) -> Any:
        if rq_type == 4:
            raise ValueError("not any more")
        return flags, payload

    service.answer = answer
    path.write_bytes(
        capture(
            request(2, 1, b"same", flags=3),
            response(2, b"same", flags=3),
            request(3, 1, b"x" * 100),
            response(3, b"y" * 100),
            request(4, 1, flags=7),
            response(4, flags=9),
            request(5, 4),
            response(5),
            request(6, 5, b"fine", channel=16),
            response(6, b"failed", ok=False, channel=16),
        )
    )
    status, lines, stderr = run(path)
    assert (status, stderr) == (1, "")
    assert lines == [
        f"connection 1, request 0:3 type=1: payload {b'y' * 32!r}… (100 bytes), now {b'x' * 32!r}… (100 bytes)",
        "connection 1, request 0:4 type=1: flags 0x9, now 0x7",
        "connection 1, request 0:5 type=4: now not ok; payload b'', now b'ValueError: not any more'",
        "connection 1, request 16:6 type=5: now ok; payload b'failed', now b'fine'",
        "5 requests on 1 connection; responses: 1 the same, 4 different",
    ]
    status, lines, _ = run(path, "--quiet")
    assert (status, lines) == (1, ["5 requests on 1 connection; responses: 1 the same, 4 different"])


def test_the_order_is_kept(service: Service, path: Path) -> None:
    """The second request is sent before the first is answered, and the third after that."""
    second = threading.Event()

    def answer(rq_type: int, flags: int, payload: bytes) -> Any:
        if rq_type == 1:
            assert second.wait(LIMIT)
            return b"first"
        if rq_type == 2:
            second.set()
        return payload

    service.answer = answer
    path.write_bytes(
        capture(request(2, 1), request(3, 2), response(2, b"first"), response(3), request(4, 3), response(4))
    )
    assert run(path)[0] == 0
    assert {rq_type for rq_type, _, _ in service.requests[:2]} == {1, 2}
    assert service.requests[2][0] == 3


def test_one_connection_of_several(service: Service, path: Path) -> None:
    path.write_bytes(
        capture(request(2, 1, b"a"), response(2, b"a"))
        + capture(request(2, 1, b"b"), response(2, b"b"), connection=2)[len(HEADER) :]
    )
    assert run(path, "--connection", "2")[:2] == (
        0,
        ["1 request on 1 connection; responses: 1 the same, 0 different"],
    )
    assert service.requests == [(1, 0, b"b")]


def test_the_requests_of_the_second_end(service: Service, path: Path) -> None:
    path.write_bytes(
        capture(
            request(2, 1, b"a"), response(2, b"a"), ("<", request(2, 5, b"back")[1]), (">", response(2, b"back")[1])
        )
    )
    assert run(path, "--end", "second")[:2] == (
        0,
        ["1 request on 1 connection; responses: 1 the same, 0 different"],
    )
    assert service.requests == [(5, 0, b"back")]


def test_requests_without_response_and_what_was_cut_off(service: Service, path: Path) -> None:
    whole = capture(
        request(2, 1),
        response(2),
        request(3, 1, b"lost"),
        (">", bytes(ERQ_PACKET) + bytes(EOF_PACKET)),
        request(9, 9),
    )
    path.write_bytes(whole[:-1])
    assert run(path)[:2] == (
        0,
        ["2 requests on 1 connection; responses: 1 the same, 0 different, 1 not in FILE"],
    )
    assert service.requests == [(1, 0, b""), (1, 0, b"lost")]


def test_a_raw_stream(service: Service, path: Path) -> None:
    path.write_bytes(request(2, 1, b"a")[1] + request(3, 2, b"b")[1] + bytes(ERQ_PACKET) + bytes(EOF_PACKET))
    assert run(path)[:2] == (
        0,
        ["2 requests on 1 connection; responses: 0 the same, 0 different, 2 not in FILE"],
    )
    assert service.requests == [(1, 0, b"a"), (2, 0, b"b")]


def test_a_response_that_does_not_come(service: Service, path: Path, tmp_path: Path) -> None:
    service.answer = lambda rq_type, flags, payload: service.release.wait() and None
    path.write_bytes(capture(request(2, 1), response(2)))
    status, lines, stderr = run(path, "--timeout", "0.1")
    assert (status, lines) == (124, [])
    assert stderr == f"packetwire: {address(tmp_path)}: no response within 0.1 s\n"


def test_a_response_that_is_waited_for_is_said_to_be(
    service: Service,
    path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(replaying, "PATIENCE", 0.1)
    service.answer = lambda rq_type, flags, payload: service.release.wait() and None
    path.write_bytes(capture(request(2, 1), response(2)))
    assert main(["replay", str(path), address(tmp_path), "--timeout", "0.3"]) == 124
    assert capsys.readouterr().err.splitlines() == [
        "no response to request 0:2 for 0.1 s; waiting for another 0.2 s, unless Ctrl-C comes",
        f"packetwire: {address(tmp_path)}: no response within 0.3 s",
    ]


def test_a_service_that_ends(path: Path, tmp_path: Path) -> None:
    path.write_bytes(capture(request(2, 1), response(2)))
    done = subprocess.run(
        [*PACKETWIRE, "replay", str(path), "exec:sh -c 'echo on purpose >&2; exit 3'"],
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "exited with status 3" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (HEADER + b"x" * 20, "a damaged record at offset 22"),
        (bytes.fromhex("80808080808080808080"), "packets in FILE are malformed; those before were replayed"),
        (
            bytes(Packet(is_request=True, channel=1, tag=2, rq_type=1)),
            "a request in FILE cannot be sent again: Packet(",
        ),
        (bytes(Packet(is_request=True, tag=9, rq_type=0)), "a request in FILE cannot be sent again: Packet("),
    ],
)
def test_what_cannot_be_replayed(service: Service, path: Path, data: bytes, message: str) -> None:
    path.write_bytes(data)
    status, _, stderr = run(path)
    assert status == 1
    assert stderr.startswith(f"packetwire: {message}")
    assert stderr.count("\n") == 1
    assert service.requests == []


def test_the_open_connections_are_bounded(
    service: Service,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(replaying, "MAX_CONNECTIONS", 2)
    path.write_bytes(
        HEADER
        + b"".join(capture(request(2, 1), response(2), connection=number)[len(HEADER) :] for number in (1, 2, 3))
    )
    assert main(["replay", str(path), address(tmp_path)]) == 1
    assert capsys.readouterr().err == "packetwire: more than 2 connections at the same time in FILE\n"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "the following arguments are required: FILE, ADDRESS"),
        (["-"], "the following arguments are required: ADDRESS"),
        (["nonesuch", "unix:a"], "argument FILE: cannot read 'nonesuch': No such file or directory"),
        (["-", "unx:a"], "argument ADDRESS: invalid address 'unx:a'"),
        (["-", "stdio:"], "argument ADDRESS: stdio: is for serving"),
        (["-", "unix:a", "--end", "third"], "argument --end: invalid choice: 'third'"),
        (["-", "unix:a", "--connection", "x"], "argument --connection: expected a whole number from 0, got 'x'"),
        (["-", "unix:a", "--timeout", "-1"], "argument --timeout: expected"),
        (["-", "unix:a", "--cafile", "x"], "--cafile is for tls: addresses, not for unix:a"),
        (["-", "unix:a", "--qiet"], "unrecognized arguments: --qiet"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes(args: list[str], message: str) -> None:
    done = packetwire_text("replay", *args)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_what_the_recorded_ends_have_agreed_on_is_not_said_again(path: Path, service: Service) -> None:
    """Control requests and frames are the engine's; the live peer is asked anew."""
    recorded, kept = Service(), CaptureWriter(str(path))
    with stream_pair() as (ours, theirs), kept, recorded(theirs), PacketConnection(ours, capture=kept) as conn:
        assert conn(1, b"one")[0]
        assert conn(2, b"two", deadline=LIMIT, meta={"k": b"v"})[0]
        conn.ping(LIMIT)
    status, found, errors = run(path)
    assert (status, errors) == (0, "")
    assert found == ["2 requests on 1 connection; responses: 2 the same, 0 different"]
    assert service.requests == recorded.requests == [(1, 0, b"one"), (2, 0, b"two")]

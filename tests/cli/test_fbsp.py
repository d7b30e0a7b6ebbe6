"""`packetwire fbsp` and `dump --decode fbsp` as a user runs them, with a service on both carriers."""

from __future__ import annotations

import io
import json
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from packetwire import PacketConnection, serve
from packetwire.capture import CaptureWriter
from packetwire.cli import fbsp
from packetwire.cli.failure import CommandFailed
from packetwire.cli.fbspdump import in_words
from packetwire.cli.main import OneLineParser
from packetwire.core.packets import Packet
from packetwire.errors import PacketwireError
from packetwire.fbsp import (
    VENDOR_UID,
    AgentDescriptor,
    ButlerInterface,
    ErrorCode,
    FBSPClient,
    Request,
    Service,
    ServiceClient,
    State,
    StopError,
    operation,
)
from packetwire.messaging.multipart import join_frames

from .forked import packetwire

PACKETWIRE = [sys.executable, "-m", "packetwire"]
LIMIT = 60
GOLDEN = json.loads((Path(__file__).parents[2] / "fixtures" / "fbsp_messages.json").read_text())["items"]
UID = uuid.UUID(int=0xF00D)

pytestmark = pytest.mark.timeout(120)


class Calls(ButlerInterface):
    ECHO = 1
    COUNT = 2
    FAIL = 3
    WAIT = 4

    @classmethod
    def get_uid(cls) -> uuid.UUID:
        return UID


class Shown(Service):
    agent = AgentDescriptor(uuid.UUID(int=1), "shown", "1.5", VENDOR_UID, "test/service")

    def __init__(self) -> None:
        super().__init__()
        self.stopped = threading.Event()
        self.began = threading.Event()

    @operation(Calls.ECHO)
    def echo(self, request: Request) -> Any:
        return request.data

    @operation(Calls.COUNT)
    def count(self, request: Request) -> Any:
        request.report(State.RUNNING)
        return (f"{number}\n" for number in range(int(request.data[0])))

    @operation(Calls.FAIL)
    def fail(self, request: Request) -> None:
        try:
            raise KeyError("root")
        except KeyError as error:
            raise StopError("refused", code=ErrorCode.CONFLICT) from error

    @operation(Calls.WAIT)
    def wait(self, request: Request) -> None:
        self.began.set()
        try:
            list(request.uploads(LIMIT))
        finally:
            self.stopped.set()


@pytest.fixture(scope="module")
def service() -> Iterator[Shown]:
    with Shown() as service:
        yield service


@pytest.fixture(scope="module")
def endpoint(service: Shown, tmp_path_factory: pytest.TempPathFactory) -> str:
    return service.serve(f"ipc://{tmp_path_factory.mktemp('fbsp')}/service").address


@pytest.fixture(scope="module")
def stream(service: Shown, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of packet connections to the same service."""

    def make(recv_send: Any) -> PacketConnection:
        conn = PacketConnection(recv_send)
        service.serve_on(conn)
        return conn

    with serve(f"unix:{tmp_path_factory.mktemp('packets')}/socket", make) as server:
        yield str(server.address)


@pytest.fixture(params=["endpoint", "stream"])
def address(request: pytest.FixtureRequest) -> str:
    found: str = request.getfixturevalue(request.param)
    return found


def run(*args: Any, stdin: bytes = b"") -> tuple[int, bytes, str]:
    """The exit status and what was said, of a command in a process of its own."""
    done = packetwire(*map(str, args), stdin=stdin)
    return done.returncode, done.stdout, done.stderr.decode()


Run = Callable[..., tuple[int, bytes, str]]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Run:
    """The same in this process, which is quicker."""

    def run_here(*args: Any, stdin: bytes = b"") -> tuple[int, bytes, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        parser = OneLineParser(prog="packetwire")
        fbsp.add_parser(parser.add_subparsers())
        status: int | str | None
        try:
            parsed = parser.parse_args([*map(str, args)])
            status = parsed.run(parsed)
        except SystemExit as end:
            status = end.code
        except CommandFailed as failure:
            status = failure.status
            print(f"packetwire: {failure}", file=sys.stderr)
        except (PacketwireError, OSError) as error:
            status = 1
            print(f"packetwire: {error}", file=sys.stderr)
        sys.stdout.flush()
        said = capfdbinary.readouterr()
        assert isinstance(status, int)
        return status, said.out, said.err.decode()

    return run_here


def test_who_the_service_is(address: str) -> None:
    status, stdout, stderr = run("fbsp", "hello", address)
    assert (status, stderr) == (0, "")
    lines = [" ".join(line.split()) for line in stdout.decode().splitlines()]
    assert lines[0] == "service shown 1.5"
    assert "is test/service" in lines
    assert f"interface 1 {UID}" in lines
    assert any(line.startswith("runs as process ") for line in lines)


def test_round_trips(address: str, here: Run) -> None:
    status, stdout, stderr = here("fbsp", "ping", address, "--count", 3)
    assert (status, stderr) == (0, "")
    assert re.fullmatch(
        r"\s*round trips\s+3\n\s*shortest\s+[\d.]+ ms\n\s*median\s+[\d.]+ ms\n\s*longest\s+[\d.]+ ms\n",
        stdout.decode(),
    )


def test_a_call_with_frames(address: str, tmp_path: Path, here: Run) -> None:
    assert here("fbsp", "call", address, 1, 1, "a", "-", "c", stdin=b"\0b") == (0, b"a\0bc", "")
    file = tmp_path / "frame"
    file.write_bytes(b"\xff\0")
    arguments = ("--file", file, "--file", file, "--hex-out")
    assert here("fbsp", "call", address, UID, 1, *arguments) == (0, b"ff00\nff00\n", "")


def test_a_call_with_data_and_states(address: str, here: Run) -> None:
    assert here("fbsp", "call", address, 1, 2, 3) == (0, b"0\n1\n2\n", "state: RUNNING\n")


def test_an_error_is_one_line(address: str) -> None:
    expected = f"packetwire: {address}: CONFLICT, relates to REQUEST: refused; caused by 'root'\n"
    assert run("fbsp", "call", address, 1, 3) == (1, b"", expected)


def test_an_interface_that_is_not_there(address: str, here: Run) -> None:
    status, stdout, stderr = here("fbsp", "call", address, 7, 1)
    assert (status, stdout) == (1, b"")
    assert stderr == f"packetwire: the service has no interface 7; it has 1 ({UID})\n"


def test_a_timeout_withdraws_the_call(address: str, here: Run, service: Shown) -> None:
    service.began.clear()
    service.stopped.clear()
    while not service.began.is_set():  # on a busy machine the time may be up before it is connected
        status, stdout, stderr = here("fbsp", "call", address, 1, 4, "--timeout", 1)
        assert (status, stdout, stderr.count("\n")) == (124, b"", 1)
    assert "nothing within 1.0 s" in stderr
    assert service.stopped.wait(LIMIT)


def test_an_interruption_withdraws_the_call(endpoint: str, service: Shown) -> None:
    service.began.clear()
    service.stopped.clear()
    process = subprocess.Popen(
        [*PACKETWIRE, "fbsp", "call", endpoint, "1", "4"], stderr=subprocess.PIPE, stdin=subprocess.DEVNULL
    )
    assert service.began.wait(LIMIT)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=LIMIT)
    assert (process.returncode, stderr) == (130, b"packetwire: interrupted\n")
    assert service.stopped.wait(LIMIT)


@pytest.mark.parametrize("kind", ["ipc://{}/nobody", "unix:{}/nobody"])
def test_nobody_is_there(tmp_path: Path, kind: str, here: Run) -> None:
    status, stdout, stderr = here("fbsp", "hello", kind.format(tmp_path), "--timeout", 0.2)
    assert (status, stdout, stderr.count("\n")) == (124 if kind.startswith("ipc") else 1, b"", 1)
    assert stderr.startswith(f"packetwire: {kind.format(tmp_path)}: ")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("hello", "xipc://x"), "expected tcp://HOST:PORT or ipc://PATH, got 'xipc://x'"),
        (("hello", "stdio:"), "stdio: is for serving"),
        (("call", "ipc://x", "1"), "the following arguments are required: OPERATION"),
        (("call", "ipc://x", "256", "1"), "expected a number from 0 to 255 or a UUID, got '256'"),
        (("call", "ipc://x", "one", "1"), "expected a number from 0 to 255 or a UUID, got 'one'"),
        (("call", "ipc://x", "1", "0"), "expected a whole number from 1 to 255, got '0'"),
        (("call", "ipc://x", "1", "1", "a", "--hex", "00"), "the frames are given twice"),
        (("call", "ipc://x", "1", "1", "-", "-"), "standard input can be one frame only"),
        (("ping", "ipc://x", "--count", "0"), "expected a whole number from 1, got '0'"),
    ],
)
def test_bad_arguments(arguments: tuple[str, ...], text: str, here: Run) -> None:
    status, stdout, stderr = here("fbsp", *arguments)
    assert (status, stdout, stderr.count("\n")) == (2, b"", 1)
    assert text in stderr


# gateways


def test_a_gateway_until_sigterm(stream: str, tmp_path: Path, here: Run) -> None:
    front = f"ipc://{tmp_path}/gateway"
    argv = [*PACKETWIRE, "fbsp", "gateway", front, stream]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stderr is not None
            assert process.stderr.readline() == f"gateway from {front} to {stream}\n"
            assert here("fbsp", "call", front, 1, 2, 3) == (0, b"0\n1\n2\n", "state: RUNNING\n")
            process.terminate()
            assert (process.wait(LIMIT), process.stderr.read()) == (0, "")
        finally:
            process.kill()


def test_a_gateway_for_the_client_that_starts_it(endpoint: str, here: Run) -> None:
    gateway = shlex.join([*PACKETWIRE, "fbsp", "gateway", "--quiet", "stdio:", endpoint])
    assert here("fbsp", "call", f"exec:{gateway}", 1, 1, "a") == (0, b"a", "")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("ipc://x", "stdio:"), "stdio: is for serving"),
        (("exec:true", "ipc://x"), "exec:true cannot be served on"),
        (("pgm://x", "exec:true"), "expected tcp://HOST:PORT or ipc://PATH, got 'pgm://x'"),
        (("ipc://x", "exec:true", "--allow-uid", "1"), "--allow-uid is for a unix: address, not for ipc://x"),
        (("ipc://x", "exec:true", "--max-per-address", "1"), "--max-per-address is for packet streams"),
        (("ipc://x", "exec:true", "--cert", "x"), "--cert is for tls: addresses, not for ipc://x"),
        (("ipc://x", "exec:true", "--server-name", "x"), "--server-name is for tls: addresses, not for exec:true"),
        (("ipc://x", "exec:true", "--max-clients", "0"), "expected a whole number from 1, got '0'"),
    ],
)
def test_arguments_that_a_gateway_cannot_use(arguments: tuple[str, ...], text: str, here: Run) -> None:
    status, stdout, stderr = here("fbsp", "gateway", *arguments)
    assert (status, stdout, stderr.count("\n")) == (2, b"", 1)
    assert text in stderr


def test_a_place_that_a_gateway_cannot_have(tmp_path: Path, here: Run) -> None:
    status, stdout, stderr = here("fbsp", "gateway", f"ipc://{tmp_path}/nowhere/socket", "exec:true")
    assert (status, stdout, stderr.count("\n")) == (1, b"", 1)
    assert "nowhere" in stderr


# dump


def test_a_capture_is_shown_in_words(service: Shown, tmp_path: Path) -> None:
    capture = tmp_path / "capture"
    theirs, ours = socket.socketpair()
    with theirs, ours, CaptureWriter(capture) as writer:
        conn = PacketConnection(ours, capture=writer)
        service.serve_on(conn)
        with conn, ServiceClient.on(PacketConnection(theirs), agent=Shown.agent) as client:
            assert client.call(Calls.ECHO, b"x" * 40, timeout=LIMIT) == [b"x" * 40]
            client.ping(LIMIT)
    status, stdout, stderr = run("dump", capture, "--decode", "fbsp")
    assert (status, stderr) == (0, "")
    text = stdout.decode()
    assert "HELLO token=0000000000000000 'shown' '1.5', process " in text
    assert f"interfaces 1={UID.hex}" in text
    for what in "REQUEST", "REPLY":
        assert re.search(rf"{what} token=\w{{16}} call 1:1 1 frame b'x{{32}}'…", text)
    assert re.search(r"NOOP ACK_REQ token=\w{16}\n", text)
    assert re.search(r"NOOP ACK_REPLY token=\w{16};", text)
    assert "CLOSE token=0000000000000000" in text


def test_each_golden_message_is_shown_in_words() -> None:
    codec = FBSPClient()
    for item in GOLDEN:
        msg = codec.convert_msg([bytes.fromhex(frame) for frame in item["frames"]])
        words = in_words(msg)
        assert words.startswith(item["msg_type"])
        assert item["token"] in words
        assert "\n" not in words


def test_what_is_no_message_is_shown_as_such(tmp_path: Path) -> None:
    message = join_frames([b"FBSP\x21\0\1\1" + bytes(8), b"x"])
    packets = [
        Packet(is_request=True, channel=0, tag=1, flags=0, rq_type=5, payload=message),
        Packet(is_request=True, channel=0, tag=2, flags=0, rq_type=5, payload=b"\x05abc"),
        Packet(is_request=True, channel=0, tag=3, flags=0, rq_type=5, payload=b"\x03abc"),
        Packet(is_request=False, channel=0, tag=1, flags=1, rq_type=None, payload=b""),
        Packet(is_request=False, channel=0, tag=2, flags=0, rq_type=None, payload=b"refused"),
    ]
    status, stdout, stderr = run("dump", "-", "--decode", "fbsp", stdin=b"".join(map(bytes, packets)))
    assert (status, stderr) == (0, "")
    shown = [line.split(" byte", 1)[1] for line in stdout.decode().splitlines()]
    assert shown[0] == "s REQUEST token=0000000000000000 call 1:1 1 frame b'x'"
    assert "not decoded: ValueError: frame 0" in shown[1]
    assert "not decoded: InvalidMessageError: a control frame of 3 bytes, not 16" in shown[2]
    assert shown[3] == "s nothing"
    assert shown[4] == "s b'refused'"

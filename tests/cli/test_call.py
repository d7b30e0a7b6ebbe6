"""`packetwire call` as a user runs it: what it sends, what it prints, its exit status."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from packetwire import PacketConnection, RequestReceived, serve
from packetwire.core.events import Event

from .forked import packetwire

PACKETWIRE = [sys.executable, "-m", "packetwire"]
LIMIT = 30
ALL_BYTES = bytes(range(256))

pytestmark = pytest.mark.timeout(60)

SHOP = """
import sys
from dataclasses import dataclass, field
from packetwire import BaseRequest, HasPacketConnection, PacketConnection

print("printed while it is imported")

class Reply(BaseRequest):
    def decode_response_payload(self, flags, payload): return payload

@dataclass
class Order(Reply):
    count: int
    price: float = 1.5
    name: str = "egg"
    fresh: bool = True
    picture: bytes = b""
    notes: list = field(default_factory=list)
    serial: int = field(init=False, default=7)
    def __bytes__(self):
        return repr((self.count, self.price, self.name, self.fresh, self.picture, self.serial)).encode()
    @classmethod
    def from_bytes(cls, data): return cls(*eval(data)[:-1])

@dataclass
class Nothing(Reply):
    def __bytes__(self): return b""
    @classmethod
    def from_bytes(cls, data): return cls()

class Text(Nothing):
    def decode_response_payload(self, flags, payload): return "text: " + payload.decode()

class Pair(Nothing):
    def decode_response_payload(self, flags, payload): return flags, payload

class Number(Nothing):
    def decode_response_payload(self, flags, payload): return int(payload)

class Silent(Nothing):
    def decode_response_payload(self, flags, payload): return None

class Plain(Reply):
    def __init__(self, data): self.data = data
    def __bytes__(self): return self.data
    @classmethod
    def from_bytes(cls, data):
        if data == b"bad": raise ValueError("not that")
        return cls(data)

@dataclass
class Checked(Nothing):
    count: int
    def __post_init__(self):
        if self.count < 1: raise ValueError("count must be 1 or more")

@dataclass
class Flagged(Nothing):
    flags: int = 5

@dataclass
class Strange(Nothing):
    when: "nonesuch"

class Fail(Nothing): pass
class Forever(Nothing): pass

REQUESTS = {
    0: Order, 1: Nothing, 2: Text, 3: Pair, 4: Number, 5: Silent, 6: Plain, 7: Checked, 8: Flagged, 9: Strange,
    100: Fail, 101: Forever,
}
TWICE = {0: Nothing, 1: type("Nothing", (Nothing,), {})}

class Shop(HasPacketConnection):
    def __init__(self, recv_send):
        super().__init__(recv_send, rq_type_map=REQUESTS)
        self.conn.request_handler = lambda rq_type, flags, payload: "called back"

def plain(recv_send): return PacketConnection(recv_send)
def broken(recv_send): raise RuntimeError("cannot be made")
"""

ECHO = """
import sys
from packetwire import PacketConnection, stdio
with PacketConnection(stdio(), request_handler=lambda rq_type, flags, payload: (flags, payload)) as conn:
    conn.join_recv()
"""

FAIL, FOREVER = 100, 101


class Peer:
    """Answers with the payload, or as `reply` says, and keeps the requests."""

    def __init__(self) -> None:
        self.requests: list[tuple[int, int, bytes]] = []
        self.events: list[Event] = []
        self.asked = threading.Event()
        self.release = threading.Event()
        self.reply: Any = None
        self.address = ""

    def __call__(self, recv_send: Any) -> PacketConnection:
        def handler(*request: Any) -> Any:
            return self.handle(conn, *request)

        conn = PacketConnection(
            recv_send, on_event=self.events.append, request_handler=handler, channels={16: handler}
        )
        return conn

    def handle(self, conn: PacketConnection, rq_type: int, flags: int, payload: bytes) -> Any:
        self.requests.append((rq_type, flags, payload))
        self.asked.set()
        if rq_type == FAIL:
            raise RuntimeError("on\npurpose")
        if rq_type == FOREVER:
            self.release.wait()
        if payload == b"call back":
            return conn(0, timeout=LIMIT)[2]
        return payload if self.reply is None else self.reply


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Peer]:
    """A server at a Unix socket."""
    peer = Peer()
    with serve(f"unix:{tmp_path}/socket", peer, drain_timeout=2) as server:
        peer.address = str(server.address)
        yield peer
        peer.release.set()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory with the module of a user."""
    (tmp_path / "shop.py").write_text(SHOP)
    return tmp_path


Call = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture
def call(folder: Path) -> Call:
    """Run it in that directory."""

    def call(*args: str | bytes, stdin: bytes = b"", **options: Any) -> subprocess.CompletedProcess[bytes]:
        return packetwire("call", *args, stdin=stdin, **{"cwd": folder} | options)

    return call


def outcome(done: subprocess.CompletedProcess[bytes]) -> tuple[int, bytes, bytes]:
    return done.returncode, done.stdout, done.stderr


PRINTED = b"printed while it is imported\n"


# a payload, and where it comes from


@pytest.mark.parametrize(
    ("args", "stdin", "request_"),
    [
        (["7"], b"ignored", (7, 0, b"")),
        (["7", "text"], b"", (7, 0, b"text")),
        (["7", "zwölf €"], b"", (7, 0, "zwölf €".encode())),
        (["7", b"\xff\xfe"], b"", (7, 0, b"\xff\xfe")),
        (["7", ""], b"", (7, 0, b"")),
        (["7", "-"], ALL_BYTES, (7, 0, ALL_BYTES)),
        (["7", "--", "-x"], b"", (7, 0, b"-x")),
        (["7", "--hex", "00ff10"], b"", (7, 0, b"\x00\xff\x10")),
        (["7", "--hex", "00 FF 10"], b"", (7, 0, b"\x00\xff\x10")),
        (["7", "--hex", ""], b"", (7, 0, b"")),
        (["7", "--file", "data"], b"", (7, 0, ALL_BYTES)),
        (["--flags", "5", "7", "text"], b"", (7, 5, b"text")),
        (["7", "--flags", "0x10", "text"], b"", (7, 16, b"text")),
        (["7", "text", "--flags", "5"], b"", (7, 5, b"text")),
        (["7", "--flags", "5", "-"], b"in", (7, 5, b"in")),
        (["7", "--flags", "5", "--", "-x"], b"", (7, 5, b"-x")),
        (["9223372036854775806"], b"", (2**63 - 2, 0, b"")),
    ],
)
def test_what_is_sent_and_its_echo(
    call: Call, peer: Peer, folder: Path, args: list[str], stdin: bytes, request_: tuple[int, int, bytes]
) -> None:
    (folder / "data").write_bytes(ALL_BYTES)
    assert outcome(call(peer.address, *args, stdin=stdin)) == (0, request_[2], b"")
    assert peer.requests == [request_]


def test_a_large_payload(call: Call, peer: Peer) -> None:
    data = os.urandom(4 << 20)
    assert outcome(call(peer.address, "7", "-", stdin=data)) == (0, data, b"")


def test_a_channel(call: Call, peer: Peer) -> None:
    assert outcome(call(peer.address, "7", "text", "--channel", "16")) == (0, b"text", b"")
    assert [event.channel for event in peer.events if isinstance(event, RequestReceived)] == [16]


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost"])
def test_tcp(call: Call, host: str) -> None:
    peer = Peer()
    with serve(f"tcp:{host}:0", peer) as server:
        assert outcome(call(str(server.address), "7", "text")) == (0, b"text", b"")


def test_exec(call: Call, folder: Path) -> None:
    (folder / "echo.py").write_text(ECHO)
    assert outcome(call(f"exec:{sys.executable} echo.py", "7", "text")) == (0, b"text", b"")


def test_ssh(call: Call, folder: Path) -> None:
    """By a stand-in for the ssh program, which hands its last argument to a shell."""
    (folder / "echo.py").write_text(ECHO)
    (folder / "ssh").write_text('#!/bin/sh\nfor command in "$@"; do :; done\nexec sh -c "$command"\n')
    (folder / "ssh").chmod(0o755)
    env = {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    done = call(f"ssh:-p 22 me@host cd {folder} && {sys.executable} echo.py", "7", "text", env=env, cwd=".")
    assert outcome(done) == (0, b"text", b"")


# the response


def test_in_hexadecimal(call: Call, peer: Peer) -> None:
    assert outcome(call(peer.address, "7", "abc\xe9", "--hex-out")) == (0, b"616263c3a9\n", b"")


def test_an_answer_from_a_peer_that_does_not_end_the_connection(call: Call) -> None:
    peer = r"""sh -c 'head -c 1 >/dev/null; printf "\003\002\004x"; exec sleep 600'"""
    assert outcome(call(f"exec:{peer}", "7")) == (0, b"x", b"")


@pytest.mark.parametrize(("closed", "status"), [("<&-", 2), (">&-", 0)])
def test_closed_standard_streams(call: Call, peer: Peer, folder: Path, closed: str, status: int) -> None:
    command = [*PACKETWIRE, "call", peer.address, "7", "-"]
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", *command],
        input="text",
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT,
    )
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr == ("packetwire: standard input is closed\n" if status else "")


@pytest.mark.parametrize("rq_type", ["7", str(FAIL)])
def test_without_standard_error_nothing_else_is_on_standard_output(peer: Peer, rq_type: str) -> None:
    peer.reply = 18, b"payload"
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" 2>&-', "sh", *PACKETWIRE, "call", peer.address, rq_type],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        check=False,
        timeout=LIMIT,
    )
    assert (done.returncode, done.stdout) == ((0, b"payload") if rq_type == "7" else (1, b""))


def test_flags_are_shown_apart(call: Call, peer: Peer) -> None:
    peer.reply = 18, b"payload"
    assert outcome(call(peer.address, "7")) == (0, b"payload", b"flags: 0x12\n")


def test_not_ok(call: Call, peer: Peer) -> None:
    expected = b"packetwire: the peer answered the request not ok: flags=0x00, 'RuntimeError: on\\npurpose'\n"
    assert outcome(call(peer.address, str(FAIL))) == (1, b"", expected)


def test_a_call_back_is_refused(call: Call, peer: Peer) -> None:
    assert outcome(call(peer.address, "7", "call back")) == (0, b"no request handler", b"")


def test_nobody_reads_the_output(peer: Peer) -> None:
    read_fd, write_fd = os.pipe()
    os.close(read_fd)
    try:
        done = subprocess.run(
            [*PACKETWIRE, "call", peer.address, "7", "text"], stdout=write_fd, stderr=subprocess.PIPE, check=False
        )
    finally:
        os.close(write_fd)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


# no response


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("unix:nowhere", "unix:nowhere: No such file or directory"),
        ("unix:shop.py", "unix:shop.py: Connection refused"),
        ("tcp:no.such.invalid:7", "tcp:no.such.invalid:7: .*"),
        ("exec:./nowhere 'a b'", r"exec:\./nowhere 'a b': No such file or directory: '\./nowhere'"),
        ("exec:sh -c 'exit 3'", r"child sh -c 'exit 3' \(pid \d+\) exited with status 3"),
        (
            "exec:sh -c 'echo one >&2; echo two >&2; kill -9 $$'",
            r"child sh -c .* \(pid \d+\) was killed by signal 9 \(SIGKILL\); its standard error ends: two",
        ),
        (
            "exec:echo hello",
            r"the peer broke the protocol: a response to tag .* bytes there: b'hello.*' \(this looks like .*",
        ),
    ],
)
def test_a_connection_that_fails_gets_one_line(call: Call, address: str, expected: str) -> None:
    status, output, errors = outcome(call(address, "7"))
    assert (status, output) == (1, b"")
    assert re.fullmatch(f"packetwire: {expected}\n", errors.decode())


def test_a_payload_that_is_too_large(call: Call, peer: Peer) -> None:
    status, output, errors = outcome(call(peer.address, "7", "-", stdin=bytes(65 << 20)))
    assert (status, output) == (1, b"")
    assert re.fullmatch(rb"packetwire: a packet of \d+ bytes, .* exceeds max_packet_size=\d+\n", errors)


def test_the_time_is_over(call: Call, peer: Peer) -> None:
    expected = f"packetwire: {peer.address}: no response to the request within 0.1 s\n"
    assert outcome(call(peer.address, str(FOREVER), "--timeout", "0.1")) == (124, b"", expected.encode())


def test_the_time_for_connecting_is_over(call: Call) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as silent:
        address = f"tcp:127.0.0.1:{silent.getsockname()[1]}"
        waiting = []
        try:
            with suppress(TimeoutError):
                while True:  # until the system does not even answer
                    waiting.append(socket.create_connection(silent.getsockname(), timeout=0.1))
            done = call(address, "7", "--timeout", "0.1")
        finally:
            for sock in waiting:
                sock.close()
    assert outcome(done) == (124, b"", f"packetwire: {address}: timed out\n".encode())


@pytest.mark.parametrize("kind", ["unix", "exec"])
def test_ctrl_c(peer: Peer, folder: Path, kind: str) -> None:
    os.mkfifo(folder / "begun")
    address = peer.address if kind == "unix" else "exec:sh -c 'head -c 1 >begun; exec cat >/dev/null'"
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # as from a terminal
    try:
        process = subprocess.Popen(
            [*PACKETWIRE, "call", address, str(FOREVER)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=folder,
            process_group=0,
        )
    finally:
        signal.signal(signal.SIGINT, before)
    try:
        if kind == "unix":
            assert peer.asked.wait(LIMIT)
        else:
            (folder / "begun").read_bytes()
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does it
        output, errors = process.communicate(timeout=LIMIT)
    finally:
        process.kill()
        process.communicate()
    assert (process.returncode, output, errors) == (130, b"", b"packetwire: interrupted\n")


# typed requests


@pytest.mark.parametrize(
    ("args", "payload"),
    [
        (["Order", "count=3"], (3, 1.5, "egg", True, b"", 7)),
        (["0", "count=3"], (3, 1.5, "egg", True, b"", 7)),
        (["Order", "count=-0x10", "price=1e3"], (-16, 1000.0, "egg", True, b"", 7)),
        (["Order", "count=007", "fresh=no"], (7, 1.5, "egg", False, b"", 7)),
        (["Order", "count=1", "fresh=True", "name="], (1, 1.5, "", True, b"", 7)),
        (["Order", "count=1", "name=a=b\nc", "picture=d"], (1, 1.5, "a=b\nc", True, b"d", 7)),
        (["Order", "count=1", "name=zwölf", b"picture=\xff"], (1, 1.5, "zwölf", True, b"\xff", 7)),
        (["Order", "count=1", "picture:hex=00ff"], (1, 1.5, "egg", True, b"\0\xff", 7)),
        (["Order", "count=1", "picture:file=data"], (1, 1.5, "egg", True, ALL_BYTES, 7)),
        (["Order", "count:file=count", "name:hex=7061"], (42, 1.5, "pa", True, b"", 7)),
        (["Order", "count=1", "--flags", "3", "name=late"], (1, 1.5, "late", True, b"", 7)),
    ],
)
def test_fields(call: Call, peer: Peer, folder: Path, args: list[str | bytes], payload: tuple[Any, ...]) -> None:
    (folder / "data").write_bytes(ALL_BYTES)
    (folder / "count").write_text("42")
    data = repr(payload).encode()
    assert outcome(call(peer.address, "--module", "shop:REQUESTS", *args)) == (0, data, PRINTED)
    assert peer.requests == [(0, 3 if "--flags" in args else 0, data)]


@pytest.mark.parametrize(
    ("name", "reply", "printed"),
    [
        ("Nothing", b"bytes\xff", b"bytes\xff"),
        ("Text", b"text", b"text: text\n"),
        ("Pair", (3, b"x"), b"(3, b'x')\n"),
        ("Number", b"0042", b"42\n"),
        ("Silent", b"x", b""),
    ],
)
def test_the_decoded_response_is_printed(call: Call, peer: Peer, name: str, reply: Any, printed: bytes) -> None:
    peer.reply = reply
    assert outcome(call(peer.address, "--module", "shop:REQUESTS", name)) == (0, printed, PRINTED)


def test_decoded_bytes_in_hexadecimal(call: Call, peer: Peer) -> None:
    peer.reply = b"\0\xff"
    assert outcome(call(peer.address, "--module", "shop:REQUESTS", "Nothing", "--hex-out")) == (
        0,
        b"00ff\n",
        PRINTED,
    )


@pytest.mark.parametrize("args", [["--hex", "6f63"], ["--file", "data"], ["-"]])
def test_a_payload_as_such_for_a_class_that_is_no_dataclass(
    call: Call, peer: Peer, folder: Path, args: list[str]
) -> None:
    (folder / "data").write_bytes(b"oc")
    done = call(peer.address, "--module", "shop:REQUESTS", "Plain", *args, "--flags", "2", stdin=b"oc")
    assert outcome(done) == (0, b"oc", PRINTED)
    assert peer.requests == [(6, 2, b"oc")]


def test_flags_of_the_class(call: Call, peer: Peer) -> None:
    assert call(peer.address, "--module", "shop:REQUESTS", "Flagged").returncode == 0
    assert call(peer.address, "--module", "shop:REQUESTS", "Flagged", "flags=6").returncode == 0
    assert call(peer.address, "--module", "shop:REQUESTS", "Flagged", "--flags", "0").returncode == 0
    assert [flags for _, flags, _ in peer.requests] == [5, 6, 0]


@pytest.mark.parametrize(
    ("module", "answer"), [("shop:REQUESTS", b"no request handler"), ("shop:Shop", b"called back")]
)
def test_call_backs_are_answered_by_a_service_but_not_by_a_map(
    call: Call, peer: Peer, module: str, answer: bytes
) -> None:
    """Whoever asks by a map alone must not run what a server tells it to."""
    done = call(peer.address, "--module", module, "Plain", "--hex", b"call back".hex())
    assert outcome(done) == (0, answer, PRINTED)


def test_not_ok_names_the_request(call: Call, peer: Peer) -> None:
    expected = b"packetwire: the peer answered Fail not ok: flags=0x00, 'RuntimeError: on\\npurpose'\n"
    assert outcome(call(peer.address, "--module", "shop:REQUESTS", "Fail")) == (1, b"", PRINTED + expected)


def test_the_time_is_over_names_the_request(call: Call, peer: Peer) -> None:
    done = call(peer.address, "--module", "shop:REQUESTS", "Forever", "--timeout", "0.1")
    expected = f"packetwire: {peer.address}: no response to Forever within 0.1 s\n"
    assert outcome(done) == (124, b"", PRINTED + expected.encode())


def test_a_response_that_cannot_be_decoded(call: Call, peer: Peer) -> None:
    peer.reply = b"many"
    done = call(peer.address, "--module", "shop:REQUESTS", "Number")
    assert (done.returncode, done.stdout) == (1, b"")
    assert re.fullmatch(
        r"packetwire: the response to Number cannot be decoded: ValueError: invalid .* \(shop\.py, line \d+\)",
        last(done),
    )


def last(done: subprocess.CompletedProcess[bytes]) -> str:
    return done.stderr.decode().splitlines()[-1]


# what cannot be asked

TYPED = ("unix:x", "--module", "shop:REQUESTS")


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ((), "packetwire call: the following arguments are required: ADDRESS, TYPE (see packetwire call --help)"),
        (("unix:x",), "the following arguments are required: TYPE"),
        (("x", "7"), "argument ADDRESS: invalid address 'x': expected exec:CMD, ssh:[OPTIONS] HOST CMD, "),
        (("ssh:-p22 host x", "7"), "write '-p22' as two words, -p 22"),
        (("zmq+router:tcp://x:1", "7"), "a ROUTER is for serving; connect by zmq+dealer:"),
        (("stdio:", "7"), "stdio: is for serving: here standard output is for the results"),
        (("tcp:localhost:0", "7"), "tcp:localhost:0: port 0 is for listening, there is nothing to connect to"),
        (
            ("unix:x", "Add-1"),
            "argument TYPE: expected a number from 0 to 9223372036854775806, got 'Add-1', which is no name either",
        ),
        (("unix:x", "--", "-1"), "argument TYPE: expected a number from 0 to 9223372036854775806, got '-1'"),
        (("unix:x", "9223372036854775807"), "got '9223372036854775807'"),
        (("unix:x", "7", "a", "b"), "one PAYLOAD is expected, got 2; quote one that has spaces"),
        (("unix:x", "7", "--hex", "0"), "argument --hex: expected pairs of hexadecimal digits, got '0'"),
        (("unix:x", "7", "--hex", "zz"), "got 'zz'"),
        (("unix:x", "7", "--file", "nowhere"), "argument --file: cannot read 'nowhere': No such file or directory"),
        (("unix:x", "7", "--file", "."), "argument --file: cannot read '.': Is a directory"),
        (("unix:x", "7", "--hex", "", "--file", "shop.py"), "--file: not allowed with argument --hex"),
        (("unix:x", "7", "--hex", "00", "a"), "the payload is given twice: as an option, and as 'a'"),
        (("unix:x", "7", "-", "--hex", "00"), "the payload is given twice: as an option, and as '-'"),
        (
            ("unix:x", "7", "--flags", "x"),
            "argument --flags: expected a number from 0 to 2305843009213693951, got 'x'",
        ),
        (("unix:x", "7", "--flags", "-1"), "got '-1'"),
        (
            ("unix:x", "7", "--channel", "x"),
            "argument --channel: expected a number from 0 to 9223372036854775807, got 'x'",
        ),
        (("unix:x", "7", "--channel", "15"), "argument --channel: channels 1 to 15 are reserved, got 15"),
        (
            ("unix:x", "7", "--timeout", "soon"),
            "argument --timeout: expected a number of seconds, such as 2.5, got 'soon'",
        ),
        (("unix:x", "7", "--timeut", "1", "text"), "packetwire call: unrecognized arguments: --timeut 1 text"),
        (("unix:x", "7", "--module", "shop"), "expected MODULE:NAME, such as store:Store, got 'shop'"),
        (("unix:x", "7", "--module", "shpo:REQUESTS"), "there is no module 'shpo'"),
        (("unix:x", "7", "--module", "shop:REQUEST"), "shop.py; did you mean 'REQUESTS'?"),
        (("unix:x", "7", "--module", "shop:Order"), "shop:Order is a request class; name the request map"),
        (
            ("unix:x", "7", "--module", "shop:plain"),
            "shop:plain makes no HasPacketConnection, whose requests would be known",
        ),
        (
            (*TYPED, "Ordre"),
            "argument TYPE: there is no request 'Ordre' in shop:REQUESTS; there are Order (0), ",
        ),
        ((*TYPED, "99"), "argument TYPE: there is no request '99' in shop:REQUESTS"),
        (("unix:x", "--module", "shop:TWICE", "Nothing"), "there is more than one request 'Nothing' in shop:TWICE"),
        ((*TYPED, "Order"), "Order needs count=…"),
        ((*TYPED, "Order", "3"), "expected FIELD=VALUE, FIELD:hex=HEX or FIELD:file=FILE, got '3'"),
        ((*TYPED, "Order", "count:bin=3"), "got 'count:bin=3'"),
        (
            (*TYPED, "Order", "cuont=3"),
            "Order has no field 'cuont'; it has count, price, name, fresh, picture, notes",
        ),
        ((*TYPED, "Order", "serial=3"), "Order has no field 'serial'"),
        ((*TYPED, "Nothing", "x=3"), "Nothing has no field 'x'; it has none"),
        ((*TYPED, "Order", "count=3", "count=3"), "the field 'count' is given twice"),
        ((*TYPED, "Order", "count=three"), "the field 'count' must be of type int, got 'three'"),
        ((*TYPED, "Order", "count=3", "price=x"), "the field 'price' must be of type float, got 'x'"),
        ((*TYPED, "Order", "count=3", "fresh=x"), "the field 'fresh' must be of type bool, got 'x'"),
        ((*TYPED, "Order", "count=3", b"name=\xff"), "the field 'name' must be of type str, got "),
        (
            (*TYPED, "Order", "count=3", "notes=x"),
            "the field 'notes' is of type <class 'list'>; only int, float, bool, str, bytes",
        ),
        ((*TYPED, "Order", "count=3", "picture:hex=0"), "the field 'picture' is not hexadecimal: '0'"),
        (
            (*TYPED, "Order", "count=3", "picture:file=no"),
            "the field 'picture' cannot be read from 'no': No such file",
        ),
        (
            (*TYPED, "Strange", "when=1"),
            "the types of the fields of Strange are not known: name 'nonesuch' is not defined",
        ),
        ((*TYPED, "Plain", "data=1"), "Plain is not a dataclass: give its payload by --hex, --file or -"),
        ((*TYPED, "Plain"), "Plain is not a dataclass"),
        (
            (*TYPED, "Checked", "count=0"),
            "no Checked can be made of these arguments: ValueError: count must be 1 or more (shop.py",
        ),
        (
            (*TYPED, "Plain", "--hex", b"bad".hex()),
            "no Plain can be made of these arguments: ValueError: not that (shop.py",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_line(call: Call, args: tuple[str | bytes, ...], expected: str) -> None:
    done = call(*args)
    assert (done.returncode, done.stdout) == (2, b"")
    assert expected in last(done)
    assert done.stderr.removeprefix(PRINTED).count(b"\n") == 1


def test_a_service_that_cannot_be_made(call: Call) -> None:
    done = call("unix:x", "7", "--module", "shop:broken")
    assert done.returncode == 1
    assert re.fullmatch(
        r"packetwire: shop:broken failed: RuntimeError: cannot be made \(shop\.py, line \d+\)", last(done)
    )


def test_help(call: Call) -> None:
    text = " ".join(call("--help").stdout.decode().split())
    for option in "--hex", "--file", "--flags", "--channel", "--timeout", "--hex-out", "--module":
        assert option in text
    for word in "exec:CMD", "ssh:[OPTIONS] HOST CMD", "FIELD=VALUE", "Exit status: 0", "124", "130":
        assert word in text


def test_a_shell_that_says_something_first(call: Call, folder: Path) -> None:
    (folder / "echo.py").write_text(ECHO)
    command = f"echo Welcome; exec {shlex.quote(sys.executable)} echo.py"
    address = f"exec:sh -c {shlex.quote(command)}"
    assert outcome(call(address, "1", "abc", "--sync", "--timeout", "0.5"))[0] == 1  # the line comes before it
    (folder / ".profile").write_text("echo Welcome\n")
    login = f"exec:env HOME={folder} sh -lc {shlex.quote(command.partition('exec ')[2])}"
    assert outcome(call(login, "1", "abc", "--sync")) == (0, b"abc", b"")
    status, _, error = outcome(call("unix:socket", "1", "--sync"))
    assert (status, error) == (1, b"packetwire: unix:socket has no use for sync: only exec: and ssh: have\n")
    status, _, error = outcome(call("exec:sh -c 'echo bad >&2; exit 3'", "1", "--sync"))
    assert status == 1
    assert b"exited with status 3" in error
    assert error.endswith(b"bad\n")

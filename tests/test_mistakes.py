"""Mistakes of newcomers, and what is said about each: what happened, where, and what to do."""

from __future__ import annotations

import asyncio
import copy
import io
import pickle
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from packetwire import (
    AsyncPacketConnection,
    BaseRequest,
    HasPacketConnection,
    PacketConnection,
    child,
    connect_to,
    serve,
)
from packetwire.cli.main import main

pytestmark = pytest.mark.timeout(60)


class Get(BaseRequest[bytes]):
    def __bytes__(self) -> bytes:
        return b""

    @classmethod
    def from_bytes(cls, bs: bytes) -> Get:
        return cls()

    def fulfil(self, context: Any) -> bytes:
        return b""


class Unregistered(Get):
    pass


class Bare(BaseRequest[None]):
    pass


class Forgets(HasPacketConnection):
    def __init__(self, recv_send: Any) -> None:
        self.recv_send = recv_send

    def get(self) -> bytes:
        return self.conn_do_remote(Get())


async def handle_later(rq_type: int, flags: int, payload: bytes) -> bytes:
    return payload


class Handler:
    def handle(self, rq_type: int, flags: int, payload: bytes) -> bytes:
        return payload


def echo(rq_type: int, flags: int, payload: bytes) -> bytes:
    return payload


def opened(recv_send: Any, **options: Any) -> None:
    """Open a connection, make a call, close."""
    with PacketConnection(recv_send, **options) as conn:
        conn(1, timeout=30)


def called(*args: Any, **options: Any) -> None:
    """A call with these arguments, to an echo."""
    with connected() as (service, _):
        service.conn(*args, **options)


def connected(handler: Any = echo) -> Any:
    near, far = socket.socketpair()
    stack = ExitStack()

    class Both:
        def __enter__(self) -> tuple[HasPacketConnection, PacketConnection]:
            stack.enter_context(near)
            stack.enter_context(far)
            peer = stack.enter_context(PacketConnection(far, "far", request_handler=handler))
            return stack.enter_context(HasPacketConnection(near, "near", rq_type_map={3: Get})), peer

        def __exit__(self, *_: object) -> None:
            stack.close()

    return Both()


def asked(rq: Any, **options: Any) -> None:
    with connected() as (service, _):
        service.conn_do_remote(rq, **options)


def with_text(first: str) -> None:
    """A child that says something before it speaks packets."""
    code = f"print({first!r}, flush=True); import sys; sys.stdin.buffer.read(1)"
    with PacketConnection(child([sys.executable, "-c", code])) as conn:
        conn(1, timeout=30)


def with_bytes(*first: bytes) -> None:
    """A peer that is something else."""
    near, far = socket.socketpair()
    with near, far:
        far.sendall(b"".join(first))
        far.shutdown(socket.SHUT_WR)
        opened(near)


def opened_with(made: socket.socket, *, closed: bool = False) -> None:
    with made:
        if closed:
            made.close()
        opened(made)


def opened_without_pipes() -> None:
    with subprocess.Popen(["true"]) as process:
        opened(process)


def after_the_end(use: Callable[[PacketConnection], Any]) -> None:
    with connected() as (service, _):
        pass
    use(service.conn)


def never_opened(use: Callable[[PacketConnection], Any]) -> None:
    near, far = socket.socketpair()
    with near, far:
        use(PacketConnection(near, "near"))


def with_a_group() -> bytes:
    """The answer of a coroutine whose task group fails."""

    async def fails() -> None:
        raise ValueError("no such book")

    async def handle(rq_type: int, flags: int, payload: bytes) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(fails())

    async def run() -> bytes:
        near, far = socket.socketpair()
        with near, far:
            async with AsyncPacketConnection(far, request_handler=handle), AsyncPacketConnection(near) as conn:
                response = await conn(1)
        return bytes(response[2])

    raise ValueError(asyncio.run(run()).decode())


LONG = "x" * 200
FORMS = "recv_send must be a (recv, send) pair, a descriptor, a stream socket, a Popen, a ByteStream, or a callable"
KINDS = (
    "expected exec:CMD, ssh:[OPTIONS] HOST CMD, ship:[OPTIONS] HOST:MODULE:NAME, unix:PATH, tcp:HOST:PORT, "
    "tls:HOST:PORT, stdio:, zmq+pair:ENDPOINT, zmq+dealer:ENDPOINT or zmq+router:ENDPOINT"
)
PRINTED = (
    "(this looks like printed text: a service on standard output calls stdio() before anything prints, "
    "or prints to standard error)"
)
OPEN_FIRST = "was never opened; use it inside its `with` block"

# what is done, and a part of what is said; … stands for anything
IN_PYTHON: list[tuple[Callable[[], Any], str]] = [
    # addresses
    (lambda: opened(connect_to("tcp://h:1")), "tcp:HOST:PORT; this is no URL: write tcp:h:1"),
    (lambda: opened(connect_to("tls://h:1/")), "tls:HOST:PORT; this is no URL: write tls:h:1"),
    (lambda: opened(connect_to("tcp:h")), "invalid address 'tcp:h': expected tcp:HOST:PORT; invalid port 'h'"),
    (lambda: opened(connect_to("tcp:h:70000")), "a port is a number from 0 to 65535, not 70000"),
    (lambda: opened(connect_to("tcp:::1:80")), "an IPv6 address goes in brackets: tcp:[::1]:80"),
    (lambda: opened(connect_to("tcp:[::1:80")), "an IPv6 address goes in brackets: tcp:[::1]:80"),
    (lambda: opened(connect_to("localhost:80")), f"{KINDS}; did you mean 'tcp:localhost:80'?"),
    (lambda: opened(connect_to(":80")), f"{KINDS}; did you mean 'tcp:localhost:80'?"),
    (lambda: opened(connect_to("tpc:h:80")), "; did you mean 'tcp:h:80'?"),
    (lambda: opened(connect_to("TCP:h:80")), "; did you mean 'tcp:h:80'?"),
    (lambda: opened(connect_to("/run/x.sock")), "; did you mean 'unix:/run/x.sock'?"),
    (lambda: opened(connect_to("x.sock")), "; did you mean 'unix:x.sock'?"),
    (lambda: opened(connect_to("zmq:tcp://h:1")), "; did you mean 'zmq+dealer:tcp://h:1'?"),
    (lambda: opened(connect_to("sh -c 'x'")), "; did you mean \"exec:sh -c 'x'\"?"),
    (lambda: opened(connect_to("http://h")), f"invalid address 'http://h': {KINDS}"),
    (lambda: opened(connect_to("")), f"invalid address '': {KINDS}"),
    (lambda: opened(connect_to("unix://run/x")), "No such file or directory; this is no URL: write unix:/run/x"),
    (lambda: opened(connect_to("unix:~/x")), "only a shell expands a ~, at the start of a word: write unix:/…/x"),
    (lambda: opened(connect_to(f"unix:{LONG}")), "AF_UNIX path too long for a socket: 200 bytes, at most 10…"),
    (lambda: opened(connect_to("unix:/nowhere/x")), "unix:/nowhere/x: No such file or directory"),
    (lambda: opened(connect_to("exec:")), "expected exec:CMD; there is no command"),
    (lambda: opened(connect_to("exec:no-such-program")), "No such file or directory: 'no-such-program'"),
    (
        lambda: opened(connect_to("ssh:host")),
        "expected ssh:[OPTIONS] HOST CMD; there is no command behind the host, as in",
    ),
    (lambda: opened(connect_to("zmq+router:h")), "invalid endpoint 'h': expected tcp://HOST:PORT, ipc://PATH or"),
    (lambda: connect_to(5), "an address is a string such as 'tcp:localhost:5000', got int: 5"),  # type: ignore[arg-type]
    (lambda: serve(5, PacketConnection), "5 cannot be served on: expected unix:PATH, tcp:HOST:PORT, tls:HOST:PORT"),  # type: ignore[arg-type]
    (lambda: serve("localhost:80", PacketConnection), "; did you mean 'tcp:localhost:80'?"),
    # streams
    (lambda: opened("tcp:h:1"), f"{FORMS}…; got str: 'tcp:h:1'; for an address there is connect_to(…)"),
    (lambda: opened(None), f"{FORMS}…; got NoneType: None"),
    (lambda: opened((5,)), f"{FORMS}…; got tuple: (5,)"),
    (lambda: opened(io.BytesIO()), f"{FORMS}…; got BytesIO: "),
    (lambda: opened((sys.__stdin__, 1)), "recv must be a binary file, got one for text, …: its `buffer` is one"),
    (lambda: opened(9999), "[Errno 9] recv=9999 is not an open file descriptor"),
    (lambda: opened(-1), "recv is not a file descriptor: -1"),
    (
        lambda: opened_with(socket.create_server(("127.0.0.1", 0))),
        "a socket that listens, not a connection: give it what its accept() returns",
    ),
    (lambda: opened_with(socket.socket()), "recv is a socket that is not connected: …; call its connect() first"),
    (
        lambda: opened_with(socket.socket(socket.AF_UNIX)),
        "a socket that is not connected: …; call its connect() first",
    ),
    (lambda: opened_with(socket.socket(type=socket.SOCK_DGRAM)), "recv must be a stream socket, got <socket"),
    (lambda: opened_with(socket.socket(), closed=True), "recv is a closed socket"),
    (opened_without_pipes, "Popen ['true'] needs stdin=PIPE and stdout=PIPE"),
    (lambda: child("a b"), "argv must be a sequence of strings, got 'a b'; for a shell use ['sh', '-c', …]"),  # type: ignore[arg-type]
    (lambda: opened(child(["no-such-program"])), "No such file or directory: 'no-such-program'"),
    (lambda: opened(child(["/etc/passwd"])), "Permission denied: '/etc/passwd'"),
    # a far end that is something else
    (lambda: with_text("hello"), f"never used; the bytes there: b'hello…' {PRINTED}"),
    (lambda: with_text("12345"), f"ended inside a packet, after 6 of 50 bytes of it: b'12345\\n' {PRINTED}"),
    (lambda: with_bytes(b"HTTP/1.1 400 Bad Request\r\n"), "(this looks like HTTP, not packets)"),
    (lambda: with_bytes(b"GET / HTTP/1.1\r\n"), "(this looks like HTTP, not packets)"),
    (lambda: with_bytes(b"\x15\x03\x03\0\x02\x02\x28"), "(this looks like TLS: both ends need a tls: address)"),
    (lambda: with_bytes(b"SSH-2.0-OpenSSH_9.2\r\n"), "an SSH server: an ssh: address runs a command there)"),
    (lambda: with_bytes(b"\xff", bytes(8), b"\x7f\x03"), "a ZMQ socket: both ends need a zmq+ address)"),
    (lambda: with_bytes(b"Content-Length: 2\r\n\r\n{}"), "(this looks like JSON-RPC, not packets)"),
    (lambda: opened(child(["true"])), "child true (pid …) exited with status 0"),
    (
        lambda: opened(child(["sh", "-c", "echo oops >&2; exit 3"])),
        "exited with status 3; its standard error ends:…oops",
    ),
    # handlers and request maps
    (lambda: PacketConnection(5, request_handler=5), "must be a function of (rq_type, flags, payload), got int: 5"),  # type: ignore[arg-type]
    (lambda: PacketConnection(5, request_handler=Handler), "is the class Handler: give it an object, or a method"),  # type: ignore[arg-type]
    (
        lambda: PacketConnection(5, request_handler=handle_later),
        "is an async def, which threads do not run: use Async",
    ),
    (
        lambda: HasPacketConnection(5, rq_type_map=[Get]),
        "must be a mapping of numbers to request classes, such as {0: ",
    ),  # type: ignore[arg-type]
    (lambda: HasPacketConnection(5, rq_type_map={"get": Get}), "a request type must be an int, got str: 'get'"),  # type: ignore[dict-item]
    (lambda: HasPacketConnection(5, rq_type_map={-1: Get}), "a request type must be from 0 to …, got -1"),
    (
        lambda: HasPacketConnection(5, rq_type_map={0: Get()}),
        "0 must be a subclass of BaseRequest, give it the class Get",
    ),  # type: ignore[dict-item]
    (lambda: HasPacketConnection(5, rq_type_map={0: int}), "0 must be a subclass of BaseRequest, got int"),  # type: ignore[dict-item]
    (
        lambda: HasPacketConnection(5, rq_type_map={0: Get, 1: Get}),
        "has Get as 0 and as 1: a request can be sent as one",
    ),
    (lambda: HasPacketConnection(5, rq_type_map={0: Bare}), "Bare has neither from_bytes nor __bytes__"),
    (lambda: Forgets(5).get(), "Forgets has no '…': its __init__ must call super().__init__(recv_send, …)"),
    # calls
    (lambda: called("get"), "rq_type must be an int, got str: 'get'"),
    (lambda: called(-1), "rq_type must be from 0 to …, got -1"),
    (lambda: called(1, "text"), "payload must be bytes-like, got str: 'text'"),
    (lambda: called(1, b"", -1), "flags must be from 0 to …, got -1"),
    (lambda: called(1, channel=-1), "channel must be from 0 to …, got -1"),
    (lambda: called(1, timeout="1"), "timeout must be a number of seconds, got str: '1'"),
    (lambda: asked(Get), "Get is a class: make a request of it, Get(…)"),
    (lambda: asked(5), "int is not in the rq_type_map of HasPacketConnection; registered are Get"),
    (lambda: asked(Unregistered()), "Unregistered is not in the rq_type_map of …; registered are Get"),
    (lambda: called(1, deadline="soon"), "deadline must be a number of seconds, got str: 'soon'"),
    (with_a_group, "unhandled errors in a TaskGroup (1 sub-exception): ValueError: no such book"),
    # the life of a connection
    (lambda: never_opened(lambda conn: conn(1)), f"PacketConnection[near] {OPEN_FIRST}"),
    (lambda: never_opened(lambda conn: conn.submit(1)), f"PacketConnection[near] {OPEN_FIRST}"),
    (lambda: never_opened(lambda conn: conn.join_recv()), f"PacketConnection[near] {OPEN_FIRST}"),
    (
        lambda: never_opened(pickle.dumps),
        "a PacketConnection can be neither copied nor pickled: it is bound to this",
    ),
    (lambda: never_opened(copy.copy), "a PacketConnection can be neither copied nor pickled: it is bound to this"),
    (lambda: after_the_end(lambda conn: conn(1)), "PacketConnection[near] is closed"),
]


def as_pattern(text: str) -> str:
    return ".*".join(re.escape(part) for part in text.split("…"))


@pytest.mark.parametrize(("do", "text"), IN_PYTHON, ids=[text[:60] for _, text in IN_PYTHON])
def test_in_python(do: Callable[[], Any], text: str) -> None:
    with pytest.raises(Exception) as caught:
        do()
    said, error = [], caught.value
    while error is not None:
        said.append(str(error))
        error = error.__cause__  # type: ignore[assignment]
    assert any(re.search(as_pattern(text), each, re.DOTALL) for each in said), said


def test_an_unanswered_request_is_named() -> None:
    held = threading.Event()
    with connected(lambda *_: held.wait(30) and b"") as (service, _):
        try:
            for call in (
                lambda: service.conn_do_remote(Get(), timeout=0.01),
                lambda: service.conn_submit(Get())(timeout=0.01),
            ):
                with pytest.raises(TimeoutError, match=r"request \d+ \(Get\)"):
                    call()
        finally:
            held.set()


MODULE = """
from dataclasses import dataclass
from packetwire import BaseRequest

@dataclass
class Book:
    title: str = ""

class Get(BaseRequest):
    pass

def handle(rq_type, flags, payload):
    return payload

number = 5
"""

# the arguments, a part of what is said, and the exit status
ON_THE_COMMAND_LINE: list[tuple[str, str, int]] = [
    ("", "packetwire: the following arguments are required: COMMAND (see packetwire --help)", 2),
    ("--foo", "packetwire: unrecognized arguments: --foo (see packetwire --help)", 2),
    ("--verison", "packetwire: unrecognized arguments: --verison; did you mean '--version'?", 2),
    ("cal x", "invalid choice: 'cal' (choose from …); did you mean 'call'? (see packetwire --help)", 2),
    ("call", "packetwire call: the following arguments are required: ADDRESS, TYPE", 2),
    ("call exec:cat 1 --timout 3", "unrecognized arguments: --timout 3; did you mean '--timeout'?", 2),
    ("call tcp://h:1 1", "this is no URL: write tcp:h:1 (see packetwire call --help)", 2),
    ("call h:80 1", "did you mean 'tcp:h:80'? (see packetwire call --help)", 2),
    ("call exec:cat 1", "packetwire: exec:cat returns what is sent to it: it is no packetwire service", 1),
    ("call exec:cat get", "exec:cat does not describe itself, so a name needs --module", 1),
    ("call exec:cat 1 --timeout x", "argument --timeout: …'x'", 2),
    ("call 'exec:echo hello' 1", f"the bytes there: b'hello…' {PRINTED}", 1),
    (
        "call 'exec:sh -c \"echo 1234; head -c 1 >&2\"' 1",
        f"exited with status 0…; the stream ended inside a packet…b'1234\\n' {PRINTED}",
        1,
    ),
    ("call exec:no-such-program 1", "exec:no-such-program: No such file or directory: 'no-such-program'", 1),
    ("call unix:/nowhere/x 1", "unix:/nowhere/x: No such file or directory", 1),
    ("describe exec:cat", "exec:cat does not describe itself, …: this stream returns what is sent", 1),
    ("serve books:Book tcp:127.0.0.1:0", "books:Book is a dataclass with no connection; a service is a Has", 2),
    ("serve books:Get tcp:127.0.0.1:0", "books:Get is a request class; name the request map that it is in", 2),
    ("serve books:handle tcp:127.0.0.1:0", "books:handle cannot be called with a recv_send alone: missing", 2),
    ("serve books:number tcp:127.0.0.1:0", "books:number is neither a HasPacketConnection class, nor …, but 5", 2),
    ("serve books:Bok tcp:127.0.0.1:0", "books:Bok: there is no 'Bok' in …books.py; did you mean 'Book'?", 2),
    ("serve books tcp:127.0.0.1:0", "expected MODULE:NAME, such as store:Store, got 'books'", 2),
    ("serve boks:Book tcp:127.0.0.1:0", "there is no module 'boks', neither in … nor installed", 2),
    ("serve tcp:127.0.0.1:0 books:Book", "argument ADDRESS: invalid address 'books:Book'", 2),
    ("fbsp helo exec:cat", "invalid choice: 'helo' …; did you mean 'hello'?", 2),
    ("dump nowhere", "cannot read 'nowhere': No such file or directory", 2),
    ("bench --rounds x", "argument --rounds: expected a whole number from 1, got 'x'", 2),
    ("bridge tcp:x tcp:y", "argument A: invalid address 'tcp:x': expected tcp:HOST:PORT; invalid port 'x'", 2),
]


@pytest.fixture
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "books.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)
    sys.modules.pop("books", None)


@pytest.mark.usefixtures("in_a_folder")
@pytest.mark.parametrize(
    ("words", "text", "status"), ON_THE_COMMAND_LINE, ids=[row[0] for row in ON_THE_COMMAND_LINE]
)
def test_on_the_command_line(
    words: str, text: str, status: int, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = shlex.split(words)
    monkeypatch.setattr(sys, "argv", ["packetwire", *arguments])
    try:
        left = main(arguments)
    except SystemExit as ended:
        left = ended.code
    printed, said = capfd.readouterr()
    assert re.search(as_pattern(text), said, re.DOTALL), said
    assert (left, said.count("\n")) == (status, 1), printed


def test_the_tables_are_long_enough() -> None:
    assert len(IN_PYTHON) + len(ON_THE_COMMAND_LINE) >= 100

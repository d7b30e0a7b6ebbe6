"""Far ends with nothing but Python: over pipes and a real sshd, of all Pythons that are found."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.leftovers import open_fds

from childprocesses import child_processes
from packetwire import (
    AsyncPacketConnection,
    ChildExited,
    LocalProtocolError,
    PacketConnection,
    PreambleMissing,
    RequestFailed,
    Ship,
    connect_to,
)
from packetwire.typed import Client

from .sshd import Sshd

pytestmark = pytest.mark.timeout(60)

LIMIT = 30
PYTHONS = {
    path.name: path / "bin" / "python"
    for path in sorted((Path.home() / ".pyenv" / "versions").glob("3.*"))
    if (path / "bin" / "python").exists()
}


def version(name: str) -> tuple[int, int]:
    major, minor = map(int, name.split(".")[:2])
    return major, minor


def each(values: list[str]) -> list[Any]:
    """The first of these at each run, the others with what takes longer."""
    return [*values[:1], *(pytest.param(value, marks=pytest.mark.long) for value in values[1:])]


NEW = [sys.executable, *(str(path) for name, path in PYTHONS.items() if version(name) >= (3, 11))]
OLD = [name for name in PYTHONS if (3, 6) <= version(name) < (3, 11)]

SHELF = """
from . import names

def put(title):
    if title == names.BAD:
        raise KeyError(title)
    return len(title)
"""

SHOP = """
import os, sys
from dataclasses import dataclass

from packetwire import BaseRequest, HasPacketConnection

print("printed while it is imported")
os.write(1, b"also this")

@dataclass
class Put(BaseRequest):
    title: str
    def __bytes__(self):
        return self.title.encode()
    @classmethod
    def from_bytes(cls, data):
        return cls(data.decode())
    def decode_response_payload(self, flags, payload):
        return flags
    def fulfil(self, shop):
        from shelves import shelf  # is found, too

        return shelf.put(self.title)

@dataclass
class CallBack(Put):
    def fulfil(self, shop):
        first = shop.conn.submit(1, payload=b"a")
        return b"".join([first()[2], *(r[2] for r in shop.conn.map([(1, b"b"), (1, b"c")])), shop.conn(1, b"d")[2]])
    def decode_response_payload(self, flags, payload):
        return payload

REQUESTS = {0: Put, 1: CallBack}

class Shop(HasPacketConnection):
    def __init__(self, recv_send):
        super().__init__(recv_send, rq_type_map=REQUESTS, error_detail="traceback")

def reverse(rq_type, flags, payload):
    print("a stray print", flush=True)
    if rq_type == 1:
        os._exit(7)
    if rq_type == 2:
        return f"{sys.version_info[:2]} {sys.dont_write_bytecode} {sys.flags.isolated} {sys.flags.no_site}"
    if rq_type == 3:
        return repr(sorted(name for name in sys.modules if name.partition(".")[0] in ("cs", "zmq", "asyncio")))
    if rq_type == 4:
        __import__(payload.decode())
    return payload[::-1]

class Typed:
    "as a typed service is: one object for all connections"
    def session(self, recv_send):
        return Shop(recv_send)
    def request_map(self):
        return REQUESTS
"""

EDITOR = """
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from packetwire import RequestError
from packetwire.typed import Service, caller, error, method

@dataclass
class Line:
    number: int
    text: str

@error("too-many")
class TooMany(RequestError):
    most: int

class Author(Service):
    @method
    def name(self) -> str:
        return "Jane"

class Editor(Service):
    @method(errors=[TooMany])
    def line(self, number: int) -> Line:
        if number > 5:
            raise TooMany(most=5)
        return Line(number, "by " + caller().do(Author.name()))
    @method
    def numbered(self, lines: Iterable[str]) -> Iterator[Line]:
        for number, line in enumerate(lines):
            yield Line(number, line)
    @method
    def count(self, lines: Iterable[str]) -> int:
        return sum(1 for _ in lines)
    @method
    def raw(self) -> Iterator[bytes]:
        yield b"raw"
    @method
    async def later(self) -> int:
        return 7
"""


@pytest.fixture
def editor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module of a typed service."""
    (tmp_path / "editor.py").write_text(EDITOR)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield __import__("editor")
    del sys.modules["editor"]


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module of a user, with a package that it imports."""
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "shelves").mkdir()
    (tmp_path / "shelves" / "__init__.py").write_text("# empty\n")
    (tmp_path / "shelves" / "shelf.py").write_text(SHELF)
    (tmp_path / "shelves" / "names.py").write_text("BAD = 'bad'\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    loaded = set(sys.modules)
    yield __import__("shop")
    for name in set(sys.modules) - loaded:
        if name.partition(".")[0] in ("shop", "shelves"):
            del sys.modules[name]


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    children, threads, fds = child_processes(), set(threading.enumerate()), open_fds()
    yield
    assert child_processes() - children == set()
    assert set(threading.enumerate()) - threads == set()
    assert open_fds() - fds == set()


def in_loop(recv_send: Any, *requests: tuple[int, bytes]) -> list[Any]:
    async def ask() -> list[Any]:
        async with AsyncPacketConnection(recv_send) as conn:
            return [await conn(rq_type, payload, timeout=LIMIT) for rq_type, payload in requests]

    return asyncio.run(ask())


@pytest.mark.parametrize("python", each(NEW))
def test_a_service_on_each_python(shop: Any, python: str) -> None:
    connect = connect_to(f"exec:{python}", ship="shop:Shop")
    with shop.Shop(connect) as client:
        client.conn.request_handler = lambda rq_type, flags, payload: payload.upper()
        assert client.conn_do_remote(shop.Put("Emma")) == 4
        assert client.conn.process.returncode is None
    with PacketConnection(connect, request_handler=lambda rq_type, flags, payload: payload.upper()) as conn:
        assert conn(1)[2] == b"ABCD"
    assert in_loop(connect, (0, b"Emma"), (0, b"Em")) == [(True, 4, b""), (True, 2, b"")]


def test_a_traceback_has_the_sources(shop: Any) -> None:
    with shop.Shop(connect_to(f"exec:{sys.executable}", ship="shop:Shop")) as client:
        with pytest.raises(RequestFailed) as caught:
            client.conn_do_remote(shop.Put("bad"))
    text = caught.value.text
    line = SHOP.splitlines().index("        return shelf.put(self.title)") + 1
    assert f'File "<shipped>/shop.py", line {line}, in fulfil\n    return shelf.put(self.title)\n' in text
    assert 'File "<shipped>/shelves/shelf.py", line 6, in put\n    raise KeyError(title)\n' in text
    ours = re.search(r'File "<shipped>/packetwire/(\S+)", line (\d+), in \w+\n    (.*)\n', text)
    assert ours
    source = (Path(connect_to.__code__.co_filename).parent / ours[1]).read_text().splitlines()
    assert source[int(ours[2]) - 1].startswith(" ")
    assert ours[3].split("(")[0] in source[int(ours[2]) - 1]  # the line is the one in our source, too


@pytest.mark.parametrize("what", ["reverse", "REQUESTS", "Typed"])
def test_what_can_be_sent(shop: Any, what: str) -> None:
    ask = (0, b"abc" if what == "reverse" else b"Emma")
    with PacketConnection(connect_to(f"exec:{sys.executable}", ship=f"shop:{what}")) as conn:
        assert conn(*ask, timeout=LIMIT) in [(True, 0, b"cba"), (True, 4, b"")]


def test_a_typed_service_with_all_that_it_can_do(editor: Any) -> None:
    where = connect_to(f"exec:{sys.executable}", ship="editor:Editor")
    with Client(where, serves=editor.Author()) as client:
        assert client.do(editor.Editor.line(3), timeout=LIMIT) == editor.Line(3, "by Jane")
        with pytest.raises(editor.TooMany):
            client.do(editor.Editor.line(6), timeout=LIMIT)
        assert list(client.do(editor.Editor.numbered(["a", "b"]))) == [editor.Line(0, "a"), editor.Line(1, "b")]
        assert client.do(editor.Editor.count(["a", "b"])) == 2
        assert b"".join(client.do(editor.Editor.raw())) == b"raw"
        assert client.do(editor.Editor.later(), timeout=LIMIT) == 7


def test_the_far_end_is_a_bare_python(shop: Any) -> None:
    with PacketConnection(connect_to(f"exec:{sys.executable}", ship="shop:reverse")) as conn:
        assert conn(2, timeout=LIMIT)[2] == f"{sys.version_info[:2]} True 1 1".encode()
        assert conn(3)[2] == b"[]"
        ok, _, error = conn(4, b"packetwire.streams.tls")
        assert not ok
        assert b"'packetwire.streams.tls' was not sent to this far end: it is a part of packetwire that" in error
        assert conn(4, b"packetwire.twins")[0] is False
        assert b"No module named 'cs'" in conn(4, b"cs.result")[2]
    with PacketConnection(connect_to(f"exec:{sys.executable}", ship=Ship("shop:reverse", site=True))) as conn:
        assert conn(4, b"cs.result", timeout=LIMIT)[0]
        assert not conn(4, b"packetwire.streams.tls", timeout=LIMIT)[0]  # although it is installed there
    more = Ship("shop:reverse", ["packetwire.streams.tls"])
    with PacketConnection(connect_to(f"exec:{sys.executable}", ship=more)) as conn:
        assert conn(4, b"packetwire.streams.tls", timeout=LIMIT)[0]


def test_nothing_is_written_there(shop: Any, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    inside = f'cd {shlex.quote(str(home))} && exec {shlex.quote(sys.executable)} "$@"'
    command = ["env", "-i", f"HOME={home}", f"TMPDIR={home}", "sh", "-c", inside, "sh"]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with shop.Shop(connect_to("exec:" + shlex.join(command), ship="shop:Shop")) as client:
        assert client.conn_do_remote(shop.Put("Emma")) == 4
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_the_far_program_leaves(shop: Any) -> None:
    with PacketConnection(connect_to(f"exec:{sys.executable}", ship="shop:reverse")) as conn:
        with pytest.raises(
            ChildExited, match=r"(?s)child exec:.* exited with status 7.*\n.*a stray print"
        ) as caught:
            while True:
                conn(1, timeout=LIMIT)
    assert b"printed while it is imported" in caught.value.stderr
    assert conn.preamble == b""


# what goes wrong


@pytest.mark.parametrize(
    "name", each(OLD) or [pytest.param("none", marks=pytest.mark.skip("there is no old Python"))]
)
def test_an_old_python_is_told_apart(shop: Any, name: str) -> None:
    connect = connect_to(f"exec:{PYTHONS[name]}", ship="shop:Shop")
    with pytest.raises(PreambleMissing, match="exited with status 1") as caught:
        PacketConnection(connect).open()
    assert caught.value.stderr == f"packetwire needs Python 3.11 or newer here, this is {name}\n".encode()
    assert str(caught.value).endswith(caught.value.stderr.decode().rstrip())


BROKEN: dict[str, tuple[str, str, str]] = {
    "raises": (
        "raise RuntimeError('no disk')",
        "bad:Bad",
        r'File "<shipped>/bad.py", line 1, in <module>\n    raise',
    ),
    "exits": ("import sys; sys.exit(3)", "bad:Bad", "exited with status 3"),
    "no such name": ("", "bad:Bad", "AttributeError: module 'bad' has no attribute 'Bad'"),
    "cannot be made": ("def Bad(recv_send): raise ValueError('not today')", "bad:Bad", "ValueError: not today"),
    "needs what is installed here": ("import pytest", "bad:Bad", "ModuleNotFoundError: No module named 'pytest'"),
}


@pytest.mark.parametrize(("source", "service", "why"), BROKEN.values(), ids=BROKEN)
def test_a_service_that_cannot_begin(shop: Any, tmp_path: Path, source: str, service: str, why: str) -> None:
    (tmp_path / "bad.py").write_text(source + "\n")
    with pytest.raises(PreambleMissing, match=f"(?s){why}"):
        PacketConnection(connect_to(f"exec:{sys.executable}", ship=service)).open()


REFUSED = {
    "shop": "expected MODULE:NAME, such as shop:Shop, got 'shop'",
    "shop:": "expected MODULE:NAME",
    "shop:a b": "expected MODULE:NAME",
    "shop.:Shop": "'shop.' is not the name of a module",
    "random:Random": "the module 'random' cannot be sent: it would hide one of the standard library",
    "email.shop:Shop": "it would hide one of the standard library",
    "__main__:Shop": "the main module cannot be sent",
}


@pytest.mark.parametrize("service", REFUSED)
def test_names_that_are_refused(service: str) -> None:
    with pytest.raises(LocalProtocolError, match=REFUSED[service]):
        connect_to("ssh:host", ship=service)


def test_modules_that_are_refused(shop: Any, tmp_path: Path) -> None:
    with pytest.raises(LocalProtocolError, match="'json' cannot be sent: it would hide"):
        Ship("shop:Shop", ["json"])
    with pytest.raises(TypeError, match="a sequence of names, got 'shelf'"):
        Ship("shop:Shop", "shelf")
    (tmp_path / "bad.py").write_text("x = (\n")
    (tmp_path / "place").mkdir()
    (tmp_path / "fast.so").write_bytes(b"")
    fast = Path(next(_compiled_modules()))
    (tmp_path / ("fast" + "".join(fast.suffixes))).write_bytes(fast.read_bytes())
    for name, why in {
        "absent": "there is no such module here",
        "bad": "'\\(' was never closed",
        "place": "a directory without __init__.py",
        "fast": "there is no source, only .*fast",
        "packetwire.nonesuch": "there is no such module",
    }.items():
        with pytest.raises(LocalProtocolError, match=f"'{name}' cannot be sent: .*{why}"):
            PacketConnection(connect_to(f"exec:{sys.executable}", ship=f"{name}:X")).open()


def _compiled_modules() -> Iterator[str]:
    """Files of compiled modules."""
    import importlib.machinery
    import importlib.util

    for name in ("_json", "_bz2", "_zoneinfo", "_elementtree"):
        spec = importlib.util.find_spec(name)
        if spec and spec.origin and spec.origin.endswith(tuple(importlib.machinery.EXTENSION_SUFFIXES)):
            yield spec.origin
    pytest.skip("all modules are built in")


def test_an_import_of_what_cannot_be_sent_says_so(shop: Any, tmp_path: Path) -> None:
    fast = Path(next(_compiled_modules()))
    (tmp_path / ("fast" + "".join(fast.suffixes))).write_bytes(fast.read_bytes())
    (tmp_path / "user.py").write_text("try:\n    import fast\nexcept ImportError as error:\n    WHY = str(error)\n")
    (tmp_path / "asks.py").write_text(
        "def why(rq_type, flags, payload):\n    import user\n    return user.WHY\n",
    )
    with PacketConnection(connect_to(f"exec:{sys.executable}", ship="asks:why")) as conn:
        why = conn(0, timeout=LIMIT)[2].decode()
    assert why.startswith("'fast' was not sent to this far end: there is no source, only ")


def test_who_has_a_use_for_it(shop: Any) -> None:
    with pytest.raises(LocalProtocolError, match="tcp:h:1 has no use for ship"):
        connect_to("tcp:h:1", ship="shop:Shop")
    with pytest.raises(LocalProtocolError, match="invalid address 'ssh:-p'"):
        connect_to("ssh:-p", ship="shop:Shop")
    with pytest.raises(LocalProtocolError, match="no use for sync"):
        connect_to("ssh:host", ship="shop:Shop", sync=True)
    with pytest.raises(FileNotFoundError, match="exec:no-such-python"):
        PacketConnection(connect_to("exec:no-such-python", ship="shop:Shop")).open()


# over ssh


@pytest.fixture
def address(sshd: Sshd) -> Callable[[str], str]:
    """The address of a host, before what stands behind it."""
    return lambda host: f"-F {shlex.quote(str(sshd.config))} {host}"


@pytest.mark.parametrize("python", ["", sys.executable])
def test_over_ssh(shop: Any, address: Callable[[str], str], python: str) -> None:
    connect = connect_to(f"ssh:{address('here')} {python}", ship="shop:Shop")
    if not python and not _a_new_python_is_found():
        pytest.skip("there is no python3 of 3.11 or newer where sshd looks")
    with shop.Shop(connect) as client:
        assert client.conn_do_remote(shop.Put("Emma")) == 4
    assert in_loop(connect, (0, b"Emma")) == [(True, 4, b"")]


def _a_new_python_is_found() -> bool:
    path = "/usr/local/bin:/usr/bin:/bin:/usr/games"
    done = subprocess.run(
        ["env", "-i", f"PATH={path}", "sh", "-c", "python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))'"],
        capture_output=True,
        check=False,
    )
    return done.returncode == 0


def test_a_login_that_greets(shop: Any, sshd: Sshd, address: Callable[[str], str]) -> None:
    (sshd.home / ".bashrc").write_text("printf 'Welcome \\377\\200'; echo to all >&2\n")
    try:
        with PacketConnection(connect_to(f"ship:{address('here')}:shop:reverse {sys.executable}")) as conn:
            assert conn(0, b"abc", timeout=LIMIT)[2] == b"cba"
        assert conn.preamble in (b"Welcome \xff\x80", b"")  # where the login shell is another one
    finally:
        (sshd.home / ".bashrc").unlink()


@pytest.mark.parametrize(
    ("host", "python", "reason"),
    [
        ("stranger", "", "Permission denied (publickey)"),
        ("unknown", "", "Host key verification failed"),
        ("here", "/nonesuch/python3", "/nonesuch/python3"),
        *[("here", str(PYTHONS[name]), f"this is {name}") for name in OLD[:1]],
    ],
)
def test_a_host_that_does_not_serve(
    shop: Any, address: Callable[[str], str], host: str, python: str, reason: str
) -> None:
    with pytest.raises(PreambleMissing) as caught:
        PacketConnection(connect_to(f"ssh:{address(host)} {python}", ship="shop:Shop")).open()
    assert reason in str(caught.value)
    assert "child ship:" in str(caught.value)


def test_a_shell_that_finds_no_python(shop: Any, tmp_path: Path) -> None:
    def run() -> tuple[int, bytes]:
        done = subprocess.run(
            ["/bin/sh", "-c", Ship("shop:Shop").shell_command("")],
            env={"PATH": str(tmp_path)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        return done.returncode, done.stderr

    assert run()[0] == 127
    (tmp_path / "sh").symlink_to("/bin/sh")
    assert run() == (127, b"packetwire: there is no python3 here\n")
    # one that is there and does not run, as the shim of a version manager, is passed over
    (tmp_path / "python3.12").write_text("#!/bin/sh\necho no such version >&2\nexit 127\n")
    (tmp_path / "python3.12").chmod(0o755)
    (tmp_path / "python3").symlink_to(sys.executable)
    assert run() == (1, b"")  # it began to read, and found the end


# the addresses


@pytest.mark.parametrize(
    "text", ["ship:", "ship:host", "ship:host:shop", "ship:-p 1", "ship::shop:Shop", "ship:h:os:X"]
)
def test_invalid_addresses(text: str) -> None:
    with pytest.raises(LocalProtocolError, match=r"expected ship:\[OPTIONS\] HOST:MODULE:NAME; "):
        connect_to(text)


def test_the_command_line(shop: Any, sshd: Sshd, tmp_path: Path) -> None:
    for args in (
        [f"ship:-F {shlex.quote(str(sshd.config))} here:shop:Shop {sys.executable}", "Put", "title=Emma"],
        [f"exec:{sys.executable}", "Put", "title=Emma", "--ship", "shop:Shop"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "packetwire", "call", *args], capture_output=True, check=False, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == b"4"
    done = subprocess.run(
        [sys.executable, "-m", "packetwire", "call", "exec:false", "0", "--ship", "shop:Shop"],
        capture_output=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 1
    assert done.stderr.endswith(b"child exec:false (pid " + done.stderr.rpartition(b"(pid ")[2])
    assert b"exited with status 1" in done.stderr


def test_a_far_end_that_takes_nothing_is_given_up(shop: Any) -> None:
    with pytest.raises(PreambleMissing, match="did not come within 0.5 s; nothing came; child exec:sh"):
        PacketConnection(connect_to("exec:sh -c 'exec sleep 60'", ship="shop:Shop", timeout=0.5)).open()


def test_interrupted_while_it_is_packed(shop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr(Ship, "packed", interrupted)
    with pytest.raises(KeyboardInterrupt):
        PacketConnection(connect_to(f"exec:{sys.executable}", ship="shop:Shop")).open()


def test_the_environment_names_no_python_there() -> None:
    """Its path and options are not ours: -I."""
    env = os.environ | {"PYTHONPATH": "/nonesuch", "PYTHONSTARTUP": "/nonesuch"}
    code = "import sys; print('/nonesuch' in sys.path)"
    done = subprocess.run([sys.executable, "-I", "-S", "-B", "-c", code], env=env, capture_output=True, check=True)
    assert done.stdout == b"False\n"

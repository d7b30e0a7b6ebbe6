"""Shells that say something before the first packet: over pipes and a real sshd, with threads and asyncio."""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import pwd
import shlex
import sys
import threading
from collections.abc import Iterator
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
    child,
    connect_to,
)

from .sshd import Sshd

pytestmark = pytest.mark.timeout(60)

LIMIT = 30
DIGITS = "0123456789abcdef"

BANNERS = {
    "nothing": b"",
    "a line": b"Last login: today\n",
    "no newline": b"Welcome",
    "ends of packets": b"\xff\x80",
    "an early packet": b"\x05\x02\x02\x01\x68\x69",
    "30 KB": bytes(30_000),
}

SERVER = """
import os, sys
from packetwire import PacketConnection, stdio

{before}
with PacketConnection(stdio({sync}), request_handler=lambda rq_type, flags, payload: payload[::-1]) as conn:
    conn.join_recv()
"""


def server(directory: Path, sync: str = "", before: str = "") -> list[str]:
    """The command of a far end."""
    path = directory / "server.py"
    path.write_text(SERVER.format(sync=sync, before=before))
    return [sys.executable, str(path)]


class Ask:
    """Opens a connection of one face, asks, and keeps what was dropped."""

    def __init__(self, face: str) -> None:
        self.face = face
        self.preamble: Any = None

    def __call__(self, recv_send: Any) -> bytes:
        if self.face == "asyncio":
            return asyncio.run(self._in_loop(recv_send))
        with PacketConnection(recv_send) as conn:
            answer = conn(0, b"abc", timeout=LIMIT)[2]
        self.preamble = conn.preamble
        return answer

    async def _in_loop(self, recv_send: Any) -> bytes:
        async with AsyncPacketConnection(recv_send) as conn:
            answer = (await conn(0, b"abc", timeout=LIMIT))[2]
        self.preamble = conn.preamble
        return answer


@pytest.fixture(params=["threads", "asyncio"])
def ask(request: pytest.FixtureRequest) -> Iterator[Ask]:
    """Afterwards no child, thread or descriptor is left."""
    children, threads, fds = child_processes(), set(threading.enumerate()), open_fds()
    yield Ask(request.param)
    assert child_processes() - children == set()
    assert set(threading.enumerate()) - threads == set()
    assert open_fds() - fds == set()


@pytest.mark.parametrize("banner", BANNERS.values(), ids=BANNERS)
def test_what_a_shell_says_is_dropped(ask: Ask, tmp_path: Path, banner: bytes) -> None:
    (tmp_path / "banner").write_bytes(banner)
    profile = tmp_path / ".profile"
    profile.write_text(f"cat {tmp_path}/banner\n")
    shell = ["env", f"HOME={tmp_path}", "sh", "-lc", shlex.join(server(tmp_path))]
    assert ask(child(shell, sync=True)) == b"cba"
    assert ask.preamble == banner
    assert ask(connect_to("exec:" + shlex.join(shell), sync=True)) == b"cba"
    assert ask.preamble == banner


@pytest.mark.parametrize("banner", [b"Welcome", b"\xff\x80", bytes(30_000)], ids=["no newline", "ff 80", "30 KB"])
def test_what_a_shell_says_over_ssh_is_dropped(ask: Ask, sshd: Sshd, tmp_path: Path, banner: bytes) -> None:
    if not pwd.getpwuid(os.geteuid()).pw_shell.endswith("/bash"):
        pytest.skip("the login shell is not bash")
    (sshd.home / "banner").write_bytes(banner)
    for profile in ".bashrc", ".bash_profile":
        (sshd.home / profile).write_text("cat ~/banner; cat ~/banner >&2\n")
    try:
        command = server(tmp_path)
        assert ask(connect_to(sshd.address(command), sync=True)) == b"cba"
        assert ask.preamble == banner
        login = ["bash", "-lc", shlex.join(command)]
        assert ask(connect_to(sshd.address(login), sync=True)) == b"cba"
        assert ask.preamble == 2 * banner
    finally:
        for profile in ".bashrc", ".bash_profile":
            (sshd.home / profile).unlink()


def test_a_forced_command_prints_the_line_that_is_asked_for(ask: Ask, sshd: Sshd, tmp_path: Path) -> None:
    sshd.force(server(tmp_path, "sync=True", "os.write(1, b'Hello')"))
    assert ask(connect_to(sshd.address(["whatever"], "forced"), sync=True)) == b"cba"
    assert ask.preamble == b"Hello"
    sshd.force(server(tmp_path, "sync=True"))
    assert ask(connect_to(sshd.address(["whatever"], "forced"))) == b"cba"  # nobody asked
    assert ask.preamble == b""


def test_a_program_that_has_the_digits(ask: Ask, tmp_path: Path) -> None:
    command = server(tmp_path, f"sync={DIGITS!r}", "os.write(1, b'noise'); sys.stderr.write(100_000 * 'x')")
    assert ask(child(command, sync=DIGITS)) == b"cba"
    assert ask.preamble == b"noise"


def test_spawn_takes_it_too(tmp_path: Path) -> None:
    shell = ["sh", "-c", shlex.join(server(tmp_path))]
    with PacketConnection.spawn(shell, sync=True, sync_timeout=LIMIT) as conn:
        assert conn(0, b"abc")[2] == b"cba"
        assert conn.process
        assert conn.process.args[-1].endswith(shell[-1])  # type: ignore[union-attr,index,call-overload]


def test_each_opening_reads_its_own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "packetwire")
    before = tmp_path / "banner"
    conn = PacketConnection.spawn(
        ["sh", "-c", "echo; " + shlex.join(server(tmp_path, f"sync={DIGITS!r}", f"os.system('cat {before}')"))],
        sync=DIGITS,
    )
    for banner in b"first", b"second":
        before.write_bytes(banner)
        with conn:
            assert conn(0, b"abc")[2] == b"cba"
            assert conn.preamble == b"\n" + banner
    assert caplog.records[-1].getMessage().endswith(r"b'\nsecond' came before the packets")


MISSING: dict[str, tuple[str, dict[str, Any], int | None]] = {
    "echo no; exit 3": (r"the output ended before it; b'no\\n' came; child .* exited with status 3$", {}, 3),
    "echo bad >&2; kill -9 $$": (r"nothing came; child .* was killed by signal 9 .* ends:\nbad$", {}, -9),
    "echo no; exec sleep 60": (r"in 0.3 s; b'no\\n' came; child .* still runs$", {"sync_timeout": 0.3}, None),
    "exec yes": (r"first 65536 bytes; \d+ bytes came, from b'y\\ny.*y\\n'; child .* still runs$", {}, None),
    "exec >&-; exec sleep 60": ("output ended before it; nothing came; child .* and still runs$", {}, None),
}


@pytest.mark.parametrize(("command", "why", "options", "status"), [(each, *MISSING[each]) for each in MISSING])
def test_the_line_does_not_come(
    ask: Ask, command: str, why: str, options: dict[str, Any], status: int | None
) -> None:
    with pytest.raises(
        PreambleMissing, match=f"^no line 'packetwire-{DIGITS}' before the packets: .*{why}"
    ) as caught:
        ask(child(["sh", "-c", command], sync=DIGITS, exit_timeout=0.1, **options))
    error = caught.value
    assert error.preamble[:3] in (b"no\n", b"y\ny", b"")
    assert error.returncode == status
    assert isinstance(error.__cause__, ChildExited) == (error.returncode is not None)
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.preamble, copy.returncode, copy.stderr) == (
        *(str(error), error.preamble, error.returncode, error.stderr),
    )
    assert str(error.for_waiter()) == str(error)


@pytest.mark.parametrize(
    ("host", "reason"),
    [("stranger", "Permission denied (publickey)"), ("unknown", "Host key verification failed")],
)
def test_we_are_not_let_in(ask: Ask, sshd: Sshd, host: str, reason: str) -> None:
    with pytest.raises(PreambleMissing, match="exited with status 255") as caught:
        ask(connect_to(sshd.address(["true"], host), sync=True))
    assert caught.value.returncode == 255
    assert reason in str(caught.value)
    assert reason.encode() in caught.value.stderr


def test_what_makes_no_sense(tmp_path: Path) -> None:
    with pytest.raises(LocalProtocolError, match="a command for a shell as the last word"):
        connect_to("exec:server", sync=True)
    with pytest.raises(LocalProtocolError, match="tcp:h:1 has no use for sync: only exec: and ssh: have"):
        connect_to("tcp:h:1", sync=True)
    with pytest.raises(LocalProtocolError, match="16 hexadecimal digits"):
        child(["server"], sync="123")
    with pytest.raises(TypeError, match="sync must be"):
        connect_to("exec:server", sync=1)  # type: ignore[arg-type]


def test_an_opening_that_is_interrupted_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    children, threads, fds = child_processes(), set(threading.enumerate()), open_fds()

    def interrupted(*_: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("packetwire.streams.process.read_up_to_line", interrupted)
    with pytest.raises(KeyboardInterrupt):
        PacketConnection.spawn(["sh", "-c", "sleep 60"], sync=True).open()
    assert child_processes() - children == set()
    assert set(threading.enumerate()) - threads == set()
    assert open_fds() - fds == set()

"""Children that ask for a password at the terminal, as they are: ssh to an sshd of our own, and sudo.

A user is made for that, and removed afterwards.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import termios
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from packetwire import Packet, PacketConnection

pty = pytest.importorskip("pty")
pwd = pytest.importorskip("pwd")

SSHD = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
LIB = Path(__file__).resolve().parents[2] / "lib"

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.long,
    pytest.mark.skipif(
        os.geteuid() != 0 or shutil.which("useradd") is None or shutil.which("chpasswd") is None,
        reason="only root can make a user with a password",
    ),
]
needs_sshd = pytest.mark.skipif(SSHD is None or shutil.which("ssh") is None, reason="there are no ssh and sshd")
needs_sudo = pytest.mark.skipif(shutil.which("sudo") is None, reason="there is no sudo")

REQUEST = bytes(Packet(is_request=True, channel=0, tag=2, flags=0, rq_type=6, payload=b"hello"))
RESPONSE = bytes(Packet(is_request=False, channel=0, tag=2, flags=1, payload=b"served"))

CONNECTION = """
import sys
from packetwire import PacketConnection, connect_to
with PacketConnection(connect_to(sys.argv[1])) as conn:
    sys.stdout.write(conn(int(sys.argv[2]), sys.argv[3].encode())[2].decode())
"""
ASYNC_CONNECTION = """
import asyncio, sys
from packetwire import AsyncPacketConnection, connect_to
async def main():
    async with AsyncPacketConnection(connect_to(sys.argv[1])) as conn:
        sys.stdout.write((await conn(int(sys.argv[2]), sys.argv[3].encode()))[2].decode())
asyncio.run(main())
"""
PROGRAMS = {
    "packetwire call": ["-m", "packetwire", "call"],
    "PacketConnection": ["-c", textwrap.dedent(CONNECTION)],
    "AsyncPacketConnection": ["-c", textwrap.dedent(ASYNC_CONNECTION)],
}


def escaped(octets: bytes) -> str:
    """For printf of any shell."""
    return "".join(f"\\{octet:03o}" for octet in octets)


def far_end() -> str:
    """A command that answers the one request, and ends in order; it needs nothing of ours."""
    ending = bytes(PacketConnection.ERQ_Packet) + bytes(PacketConnection.EOF_Packet)
    return f"head -c {len(REQUEST)} >/dev/null; printf '{escaped(RESPONSE + ending)}'; cat >/dev/null"


@dataclass(frozen=True)
class User:
    name: str
    password: str
    uid: int
    gid: int


@pytest.fixture(scope="module")
def user() -> Iterator[User]:
    name, password = f"pw{secrets.token_hex(4)}", secrets.token_hex(8)
    subprocess.run(["useradd", "--no-create-home", "--shell", "/bin/sh", name], check=True)
    try:
        subprocess.run(["chpasswd"], input=f"{name}:{password}", text=True, check=True)
        entry = pwd.getpwnam(name)
        yield User(name, password, entry.pw_uid, entry.pw_gid)
    finally:
        subprocess.run(["userdel", name], check=False, capture_output=True)


class AtTerminal:
    """A program at a terminal of its own, whose session it leads; its standard output is a pipe."""

    def __init__(self, argv: list[str], **settings: object) -> None:
        self.terminal, other = pty.openpty()
        self.seen = b""
        try:
            self.process = subprocess.Popen(
                argv,
                stdin=other,
                stdout=subprocess.PIPE,
                stderr=other,
                start_new_session=True,
                preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509
                **settings,
            )
        finally:
            os.close(other)

    def read_until(self, words: bytes) -> None:
        """The timeout of the test is the watchdog."""
        while words not in self.seen:
            try:
                self.seen += os.read(self.terminal, 1000)
            except OSError:
                raise AssertionError(f"it ended with {self.process.wait()}: {self.seen!r}") from None

    def type(self, keys: str) -> None:
        os.write(self.terminal, keys.encode())

    @property
    def echoes(self) -> bool:
        return bool(termios.tcgetattr(self.terminal)[3] & termios.ECHO)

    def is_left(self) -> list[str]:
        """The processes of its session that live."""
        left = []
        for entry in os.listdir("/proc"):
            try:
                fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] not in "ZX" and int(fields[3]) == self.process.pid:
                left.append(Path(f"/proc/{entry}/cmdline").read_bytes().decode(errors="replace"))
        return left

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        os.close(self.terminal)


Start = Callable[[str], AtTerminal]


@pytest.fixture
def start_ssh(request: pytest.FixtureRequest, user: User, tmp_path: Path) -> Iterator[Start]:
    """Programs that ask by ssh, which asks for the password in the way that the test names."""
    method = request.param
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    known = tmp_path / "known"
    known.write_text(f"[127.0.0.1]:{port} {key.with_suffix('.pub').read_text()}")
    config = tmp_path / "config"
    yes = {True: "yes", False: "no"}
    config.write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {key}\nPidFile none\nAllowUsers {user.name}\n"
        f"PubkeyAuthentication no\nPasswordAuthentication {yes[method == 'password']}\n"
        f"KbdInteractiveAuthentication {yes[method != 'password']}\nUsePAM {yes[method != 'password']}\n"
    )
    Path("/run/sshd").mkdir(exist_ok=True)
    assert SSHD
    daemon = subprocess.Popen([SSHD, "-D", "-e", "-f", config], stderr=subprocess.PIPE, text=True)
    started = []
    try:
        assert daemon.stderr
        assert "listening on 127.0.0.1" in daemon.stderr.readline()
        ssh = ["ssh", "-F", "none", "-p", str(port), "-o", f"UserKnownHostsFile={known}"]
        ssh += ["-o", f"PreferredAuthentications={method}", f"{user.name}@127.0.0.1"]
        address = f"exec:{shlex.join([*ssh, far_end()])}"

        def start(program: str) -> AtTerminal:
            argv = [sys.executable, *PROGRAMS[program], address, "5", "hello"]
            started.append(AtTerminal(argv))
            return started[-1]

        yield start
    finally:
        for each in started:
            each.close()
        daemon.kill()
        daemon.communicate()


@pytest.fixture
def start_sudo(user: User, tmp_path: Path) -> Iterator[Start]:
    """Programs of the user's that ask by sudo."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join([str(LIB), *sys.path])}
    python = next((one for one in (sys.executable, "/usr/bin/python3") if can_run(one, user, environment)), None)
    if python is None:
        pytest.skip("another user cannot run packetwire from here")
    rule = Path("/etc/sudoers.d") / user.name
    if not rule.parent.is_dir():
        pytest.skip("there is no /etc/sudoers.d")
    rule.write_text(f"{user.name} ALL=(ALL:ALL) PASSWD: ALL\n")
    rule.chmod(0o440)
    started = []
    try:
        address = f"exec:{shlex.join(['sudo', '-k', 'sh', '-c', far_end()])}"

        def start(program: str) -> AtTerminal:
            argv = [python, *PROGRAMS[program], address, "5", "hello"]
            started.append(
                AtTerminal(argv, user=user.uid, group=user.gid, extra_groups=[], env=environment, cwd="/")
            )
            return started[-1]

        yield start
    finally:
        for each in started:
            each.close()
        rule.unlink()


def can_run(python: str, user: User, environment: dict[str, str]) -> bool:
    try:
        done = subprocess.run(
            [python, "-c", "import packetwire.cli.main, packetwire.connection, packetwire.aio.connection"],
            user=user.uid,
            group=user.gid,
            extra_groups=[],
            env=environment,
            cwd="/",
            capture_output=True,
            check=False,
        )
    except OSError:
        return False
    return done.returncode == 0


def ask_and_answer(started: AtTerminal, user: User) -> None:
    started.read_until(b"assword")
    while started.echoes:
        pass
    started.type(user.password + "\n")
    assert started.process.stdout.read() == b"served"
    assert started.process.wait() == 0
    assert user.password.encode() not in started.seen
    assert not started.is_left()
    assert started.echoes


def interrupt(started: AtTerminal, program: str) -> None:
    started.read_until(b"assword")
    while started.echoes:
        pass
    started.type("\x03")
    assert started.process.stdout.read() == b""
    assert started.process.wait() == (130 if program == "packetwire call" else -2)
    assert not started.is_left()
    assert started.echoes


@needs_sshd
@pytest.mark.parametrize("start_ssh", ["password", "keyboard-interactive"], indirect=True)
@pytest.mark.parametrize("program", PROGRAMS)
def test_ssh_asks_for_a_password_and_the_call_is_answered(program: str, start_ssh: Start, user: User) -> None:
    ask_and_answer(start_ssh(program), user)


@needs_sshd
@pytest.mark.parametrize("start_ssh", ["password", "keyboard-interactive"], indirect=True)
@pytest.mark.parametrize("program", PROGRAMS)
def test_ctrl_c_while_ssh_asks_ends_all(program: str, start_ssh: Start) -> None:
    interrupt(start_ssh(program), program)


@needs_sudo
@pytest.mark.parametrize("program", PROGRAMS)
def test_sudo_asks_for_a_password_and_the_call_is_answered(program: str, start_sudo: Start, user: User) -> None:
    ask_and_answer(start_sudo(program), user)


@needs_sudo
@pytest.mark.parametrize("program", PROGRAMS)
def test_ctrl_c_while_sudo_asks_ends_all(program: str, start_sudo: Start) -> None:
    interrupt(start_sudo(program), program)

"""Through a real `ssh` to a real `sshd`: what is carried, and what is told when it ends."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from pathlib import Path

import pytest

from packetwire import ChildExited, ConnectionEnded, PacketConnection, RequestFailed, connect_to

from .sshd import Sshd

pytestmark = pytest.mark.timeout(60)

LIMIT = 30
"""Seconds for what does not take any."""
MEBIBYTE = bytes(range(256)) * 4096

ECHO, FAIL, PIDS, SLEEP, EXIT = range(5)

SERVER = """
import os, sys, time
from packetwire import PacketConnection, stdio

def handle(rq_type, flags, payload):
    if rq_type == 1:
        raise KeyError(payload.decode())
    if rq_type == 2:
        print("a stray print")
        return f"{os.getpid()} {os.getppid()}"
    if rq_type == 3:
        time.sleep(1000)
    if rq_type == 4:
        print("no disk", file=sys.stderr, flush=True)
        os._exit(flags)
    return flags, payload

with PacketConnection(stdio(), request_handler=handle, close_timeout=1) as conn:
    conn.join_recv()
"""


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """What is run behind it."""
    server = tmp_path / "server.py"
    server.write_text(SERVER)
    return [sys.executable, str(server)]


@pytest.fixture(params=["argv", "address"])
def conn(request: pytest.FixtureRequest, sshd: Sshd, command: list[str]) -> PacketConnection:
    """A connection by a command, and by an address that names a file of settings."""
    if request.param == "argv":
        return PacketConnection.spawn(sshd.argv(command))
    return PacketConnection(connect_to(sshd.address(command)))


@pytest.fixture
def by_address(sshd: Sshd, command: list[str]) -> PacketConnection:
    return PacketConnection(connect_to(sshd.address(command)), close_timeout=1)


def test_echo_and_errors(conn: PacketConnection) -> None:
    with conn:
        assert conn(ECHO, b"payload", 5, timeout=LIMIT) == (True, 5, b"payload")
        assert conn(FAIL, b"key", timeout=LIMIT) == (False, 0, b"KeyError: 'key'")
        with pytest.raises(RequestFailed, match="KeyError"):
            raise RequestFailed(*conn(FAIL, b"key", timeout=LIMIT)[1:])
        assert conn.process
    assert conn.process.returncode == 0


def test_a_connection_can_be_opened_again(by_address: PacketConnection) -> None:
    pids = set()
    for _ in range(2):
        with by_address:
            pids.add(by_address(PIDS, timeout=LIMIT)[2])
    assert len(pids) == 2


def test_a_mebibyte_both_ways_at_once(by_address: PacketConnection) -> None:
    with by_address:
        results = [by_address.submit(ECHO, number, MEBIBYTE) for number in range(4)]
        assert [result(timeout=LIMIT) for result in results] == [(True, number, MEBIBYTE) for number in range(4)]


def test_many_in_flight(by_address: PacketConnection) -> None:
    with by_address:
        replies = by_address.map(((ECHO, b"%d" % number) for number in range(5000)), window=500, timeout=LIMIT)
        assert [payload for _, _, payload in replies] == [b"%d" % number for number in range(5000)]


def pids(conn: PacketConnection) -> tuple[int, int]:
    """That of the program there and that of its parent, the session of sshd."""
    own, parent = conn(PIDS, timeout=LIMIT)[2].split()
    return int(own), int(parent)


def test_the_program_there_is_killed(by_address: PacketConnection) -> None:
    with by_address:
        result = by_address.submit(SLEEP)
        own, _ = pids(by_address)
        os.kill(own, signal.SIGKILL)
        with pytest.raises(ChildExited, match="exited with status 255") as caught:
            result(timeout=LIMIT)
    assert caught.value.returncode == 255
    assert caught.value.argv[0] == "ssh"


def test_the_program_there_leaves(by_address: PacketConnection) -> None:
    with by_address:
        with pytest.raises(ChildExited, match="exited with status 3; its standard error ends:\nno disk") as caught:
            by_address(EXIT, b"", 3, timeout=LIMIT)
    assert caught.value.returncode == 3
    assert caught.value.stderr == b"no disk\n"


def test_the_session_of_sshd_is_killed(by_address: PacketConnection) -> None:
    with by_address:
        result = by_address.submit(SLEEP)
        _, session = pids(by_address)
        os.kill(session, signal.SIGKILL)
        # which of these ssh says depends on what it does at that moment
        words = "closed by remote host|Connection reset|Broken pipe"
        with pytest.raises(ChildExited, match=f"its standard error ends:\n.*({words})") as caught:
            result(timeout=LIMIT)
    assert caught.value.returncode == 255


def test_our_ssh_is_killed(by_address: PacketConnection) -> None:
    with by_address:
        result = by_address.submit(SLEEP)
        assert by_address.process
        by_address.process.kill()
        with pytest.raises(ChildExited, match=r"was killed by signal 9 \(SIGKILL\)") as caught:
            result(timeout=LIMIT)
    assert caught.value.signal == signal.SIGKILL


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("stranger", "Permission denied (publickey)"),
        ("unknown", "Host key verification failed"),
    ],
)
def test_we_are_not_let_in(sshd: Sshd, command: list[str], host: str, reason: str) -> None:
    with PacketConnection(connect_to(sshd.address(command, host)), close_timeout=1) as conn:
        with pytest.raises(ChildExited, match="exited with status 255; its standard error ends:") as caught:
            conn(ECHO, timeout=LIMIT)
    assert reason in str(caught.value)
    assert reason in caught.value.stderr.decode()


def test_there_is_no_server(sshd: Sshd, command: list[str]) -> None:
    address = sshd.address(command).replace("ssh:", "ssh:-p 1 ", 1)
    with PacketConnection(connect_to(address), close_timeout=1) as conn:
        with pytest.raises(ChildExited, match="Connection refused"):
            conn(ECHO, timeout=LIMIT)


def test_there_is_no_such_program(sshd: Sshd, tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    with PacketConnection(connect_to(sshd.address([str(absent)])), close_timeout=1) as conn:
        with pytest.raises(ChildExited, match=f"exited with status 127.*\n.*{absent}"):
            conn(ECHO, timeout=LIMIT)


def test_a_greeting_of_the_shell_is_quoted(sshd: Sshd, command: list[str]) -> None:
    greeting = "Welcome to example.org, where many words are said to whoever comes"
    talkative = ["sh", "-c", f"echo {shlex.quote(greeting)}; exec {shlex.join(command)}"]
    with PacketConnection(connect_to(sshd.address(talkative)), close_timeout=1) as conn:
        with pytest.raises(ConnectionEnded, match="Welcome to example"):
            conn(ECHO, timeout=LIMIT)

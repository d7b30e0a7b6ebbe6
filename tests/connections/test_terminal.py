"""Children of a program at a terminal: they can ask there, and its signals reach them."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

pty = pytest.importorskip("pty")

pytestmark = pytest.mark.timeout(60)

CHILD = """
import os, signal, sys
from packetwire import PacketConnection, stdio
def mark(number, frame):
    os.close(os.open(os.path.join(sys.argv[1], signal.Signals(number).name), os.O_CREAT | os.O_WRONLY))
for number in (signal.SIGTSTP, signal.SIGHUP):
    signal.signal(number, mark)
with open("/dev/tty", "r+b", buffering=0) as terminal:
    terminal.write(b"password: ")
    password = terminal.readline().strip()
with PacketConnection(stdio(), request_handler=lambda *request: password) as conn:
    conn.join_recv()
"""

PARENT = """
import fcntl, os, signal, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGTSTP, lambda number, frame: None)
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the leader dies, and all in the foreground get it
from packetwire import PacketConnection, connect_to
child = [sys.executable, "-c", sys.argv[2], sys.argv[1]]
if sys.argv[3] == "exec":
    conn = PacketConnection(connect_to("exec:" + __import__("shlex").join(child)))
else:
    conn = PacketConnection.spawn(child)
with conn:
    assert os.getpgid(conn.process.pid) == os.getpgrp()
    print("got", conn(1, timeout=40)[2].decode(), flush=True)
    conn.join_recv()
"""


def read_until(fd, words):
    seen = b""
    while words not in seen:
        seen += os.read(fd, 1000)
    return seen


def wait_for(path):
    while not path.exists():
        pass


@pytest.mark.parametrize("kind", ["spawn", "exec"])
def test_a_child_asks_at_the_terminal_and_gets_its_signals(kind, tmp_path):
    terminal, other = pty.openpty()
    argv = [sys.executable, "-c", *map(textwrap.dedent, (PARENT,)), str(tmp_path), CHILD, kind]
    process = subprocess.Popen(argv, stdin=other, stdout=other, stderr=other, start_new_session=True)
    try:
        os.close(other)
        read_until(terminal, b"password: ")
        os.write(terminal, b"secret\n")
        read_until(terminal, b"got secret")
        os.write(terminal, b"\x1a")
        wait_for(tmp_path / "SIGTSTP")
        os.close(terminal)
        terminal = -1
        wait_for(tmp_path / "SIGHUP")
    finally:
        process.kill()
        process.wait()
        if terminal >= 0:
            os.close(terminal)


def test_without_a_terminal_a_child_has_a_group_of_its_own():
    code = """
    import os
    from packetwire import PacketConnection
    with PacketConnection.spawn(["cat"], close_timeout=0.1) as conn:
        assert os.getpgid(conn.process.pid) == conn.process.pid
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, start_new_session=True, timeout=50)

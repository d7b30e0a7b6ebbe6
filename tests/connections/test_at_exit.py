"""Connections that are closed while Python ends, when no other thread runs any more."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(60)

PROGRAM = """
import os, sys
from packetwire import PacketConnection, connect_to, serve

class Closing:
    server = conn = None
    def __del__(self):
        if self.server is not None:
            self.server.stop(0)
            assert self.server.wait()
        self.conn.close()
        os.write(1, b"closed")

closing = Closing()
sys.modules["kept until the end"] = closing
echo = '''
from packetwire import PacketConnection, stdio
with PacketConnection(stdio(), request_handler=lambda rq_type, flags, payload: payload) as conn:
    conn.join_recv()
'''
kind = sys.argv[1]
if kind == "child":
    closing.conn = PacketConnection.spawn([sys.executable, "-c", echo]).open()
    assert closing.conn(1, b"ab")[2] == b"ab"
elif kind == "child that does not read":
    closing.conn = PacketConnection.spawn(["sleep", "60"], exit_timeout=0.1).open()
    closing.conn.submit(1, 0, bytes(1 << 22))
elif kind == "files":
    (read, _), (_, write) = os.pipe(), os.pipe()
    closing.conn = PacketConnection((open(read, "rb"), open(write, "wb"))).open()
    closing.conn.submit(1)
elif kind == "server":
    closing.server = serve("tcp:127.0.0.1:0", lambda stream: PacketConnection(stream, request_handler=print))
    closing.conn = PacketConnection(connect_to(closing.server.address)).open()
del closing
"""


@pytest.mark.parametrize("kind", ["child", "child that does not read", "files", "server"])
def test_closing_in_a_finalizer_while_python_ends_waits_for_no_thread(kind):
    argv = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(PROGRAM), kind]
    done = subprocess.run(argv, check=False, capture_output=True, timeout=50)
    assert (done.returncode, done.stdout) == (0, b"closed"), done.stderr


POOL = """
import sys
from packetwire import Pool, child, connect_to
echo = '''
import os
from packetwire import PacketConnection, stdio
with PacketConnection(stdio(), request_handler=lambda rq_type, flags, payload: str(os.getpid())) as conn:
    conn.join_recv()
'''
pool = Pool([child([sys.executable, "-c", echo]), f"unix:{sys.argv[1]}/nobody"]).open()
print(pool(1)[2].decode())
"""


def test_a_pool_that_is_never_closed_keeps_no_program_alive_and_leaves_no_child(tmp_path):
    argv = [sys.executable, "-c", POOL, str(tmp_path)]
    done = subprocess.run(argv, check=False, capture_output=True, timeout=50)
    assert (done.returncode, done.stderr) == (0, b"")
    pid = int(done.stdout)
    deadline = time.monotonic() + 30
    while _is_alive(pid):  # its input has ended
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _is_alive(pid):
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False

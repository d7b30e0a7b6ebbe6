"""Processes in which standard input, output or error is closed, or belongs to a file, or was read before."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import textwrap
import threading
from itertools import combinations

import pytest

from packetwire import ChildExited, ConnectionEnded, LocalProtocolError, PacketConnection, PeerClosed
from packetwire.streams import stdio

pytestmark = pytest.mark.timeout(60)

SUBSETS = [subset for size in range(4) for subset in combinations((0, 1, 2), size)]

SERVICE = """
import os, sys
from packetwire import PacketConnection, stdio
def handler(rq_type, flags, payload):
    print("a stray print")
    for fd in (1, 2):
        try:
            os.write(fd, b"a stray write")
        except OSError:
            pass
    os.system("echo a stray command; echo another >&2")
    return payload[::-1]
with PacketConnection(stdio(), request_handler=handler) as conn:
    conn.join_recv()
"""


def python(code):
    return [sys.executable, "-c", textwrap.dedent(code)]


def without(argv, closed):
    """The command, started with these descriptors closed."""
    return ["sh", "-c", 'exec "$@" ' + " ".join(f"{fd}>&-" for fd in closed), "sh", *argv]


@pytest.mark.parametrize("closed", SUBSETS, ids=str)
def test_a_service_that_is_started_with_some_closed(closed):
    """It is right, or says what is wrong and ends."""
    with PacketConnection.spawn(without(python(SERVICE), closed), close_timeout=0.5) as conn:
        if set(closed) <= {2}:
            for _ in range(3):
                assert conn(1, b"ab", timeout=30)[2] == b"ba"
            conn.send_eof()
            assert conn.join_recv(30)
            assert isinstance(conn.ended, PeerClosed)
        else:
            with pytest.raises(ConnectionEnded) as caught:
                conn(1, timeout=30)
            if 2 not in closed:
                assert "is closed: there is nobody to talk to" in str(caught.value)
            assert isinstance(caught.value, ChildExited | PeerClosed)


PARENT = f"""
import os, sys
report = os.fdopen(int(sys.argv[1]), "w")
from packetwire import PacketConnection, connect_to, serve
def reverse(rq_type, flags, payload):
    return payload[::-1]
try:
    with (
        PacketConnection.spawn({python(SERVICE)!r}, forward_stderr=True) as conn,
        serve("tcp:127.0.0.1:0", lambda stream: PacketConnection(stream, request_handler=reverse)) as server,
        PacketConnection(connect_to(server.address)) as tcp,
    ):
        for fd in (0, 1, 2):
            try:
                os.write(fd, b"a stray write")
            except OSError:
                pass
        os.system("echo a stray command; echo another >&2")
        for each in (conn, tcp):
            assert each(1, b"ab", timeout=20)[2] == b"ba"
        if each is tcp:
            print("right", file=report)
except BaseException as error:
    print(repr(error), file=report)
"""


@pytest.mark.parametrize("closed", SUBSETS, ids=str)
def test_a_parent_that_is_started_with_some_closed(closed):
    read_fd, write_fd = os.pipe()
    try:
        argv = without([*python(PARENT), str(write_fd)], closed)
        devnull = subprocess.DEVNULL
        process = subprocess.Popen(argv, pass_fds=[write_fd], stdin=devnull, stdout=devnull, stderr=devnull)
        os.close(write_fd)
        with process, open(read_fd, closefd=False) as report:
            assert report.read() == "right\n"
    finally:
        os.close(read_fd)


FORWARDING = """
import os, sys
report = os.fdopen(int(sys.argv[1]), "w")
late = "late" in sys.argv
from packetwire import PacketConnection
child = '''
import sys
from packetwire import PacketConnection, stdio
def handler(rq_type, flags, payload):
    sys.stderr.write("x" * int(payload))
    sys.stderr.flush()
    return b"done"
with PacketConnection(stdio(), request_handler=handler) as conn:
    conn.join_recv()
'''
def take_the_number():
    file = open(sys.argv[2], "wb", buffering=0)
    assert file.fileno() == 2, file
    return file
if not late:
    file = take_the_number()
with PacketConnection.spawn([sys.executable, "-c", child], forward_stderr=True) as conn:
    if late:
        os.close(2)
        assert conn(1, b"300000", timeout=20)[2] == b"done"
        file = take_the_number()
    assert conn(1, b"300000", timeout=20)[2] == b"done"
    kept = conn._driver.stream.stderr
print(len(kept), os.path.getsize(sys.argv[2]), file=report)
"""


@pytest.mark.parametrize("when", ["at start", "late"])
def test_the_number_of_a_closed_standard_error_belongs_to_a_file(when, tmp_path):
    """Nothing is forwarded there, and the child's standard error is read all the same."""
    read_fd, write_fd = os.pipe()
    try:
        argv = [*python(FORWARDING), str(write_fd), str(tmp_path / "file"), when]
        process = subprocess.Popen(
            without(argv, [] if when == "late" else [2]), pass_fds=[write_fd], stderr=subprocess.DEVNULL
        )
        os.close(write_fd)
        with process, open(read_fd, closefd=False) as report:
            assert report.read().split() == ["65536", "0"]
    finally:
        os.close(read_fd)


@pytest.mark.parametrize("fd", [0, 1])
def test_the_number_of_a_closed_one_belongs_to_a_file(fd, tmp_path):
    code = f"""
    import os
    from packetwire import LocalProtocolError, stdio
    os.close({fd})
    file = open({str(tmp_path / "file")!r}, "w+b")
    assert file.fileno() == {fd}
    try:
        stdio()
    except LocalProtocolError as error:
        os.write(2, str(error).encode())
    """
    done = subprocess.run(python(code), check=False, capture_output=True, timeout=50)
    assert f"its number, {fd}, was given to a file".encode() in done.stderr


# what was read before


AHEAD = """
import sys
%s
from packetwire import PacketConnection, stdio
with PacketConnection(stdio(), request_handler=lambda rq_type, flags, payload: line + payload) as conn:
    conn.join_recv()
"""


def ask_behind_a_line(code):
    """A child that reads a line before it takes its standard input, which comes in one piece with a request."""
    with subprocess.Popen(
        python(AHEAD % code), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
    ) as process:
        near, far = os.pipe(), os.pipe()
        try:
            with PacketConnection((far[0], near[1]), close_timeout=0.1) as recorder:
                recorder.submit(1, 0, b" and a request")
                packets = os.read(near[0], 1000)
        finally:
            for fd in (*near, *far):
                os.close(fd)
        process.stdin.write(b"a line\n" + packets + bytes(PacketConnection.EOF_Packet))
        process.stdin.close()
        answer = process.stdout.read()
        return answer, process.stderr.read(), process.wait(20)


def test_bytes_that_were_read_ahead_belong_to_the_stream():
    answer, error, status = ask_behind_a_line("line = sys.stdin.buffer.readline()")
    assert b"a line\n and a request" in answer, error
    assert status == 0


def test_text_that_was_read_ahead_is_refused():
    answer, error, status = ask_behind_a_line("line = sys.stdin.readline().encode()")
    assert b"LocalProtocolError: sys.stdin has read ahead, and made text of it" in error
    assert answer == b""
    assert status == 1


def test_another_thread_that_reads_is_told_of(monkeypatch):
    monkeypatch.setattr(stdio, "READ_AHEAD_WAIT", 0.01)
    release = threading.Event()

    class Busy(io.BytesIO):
        def read(self, size=-1):
            release.wait(50)
            return super().read(size)

    try:
        with pytest.raises(LocalProtocolError, match=r"another thread is reading sys\.stdin"):
            stdio._rest_of(Busy())
    finally:
        release.set()
        for thread in threading.enumerate():
            if thread.name == "packetwire-stdin":
                thread.join(20)


def test_a_bridge_passes_on_what_was_read_ahead():
    code = """
    import sys
    from packetwire.bridge import Bridge
    assert sys.stdin.buffer.readline() == b"first\\n"
    Bridge("stdio:", "exec:cat").run()
    """
    done = subprocess.run(python(code), input=b"first\nsecond\n", capture_output=True, check=False, timeout=50)
    assert (done.returncode, done.stdout) == (0, b"second\n"), done.stderr

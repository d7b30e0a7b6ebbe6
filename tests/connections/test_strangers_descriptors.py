"""Descriptors that their owner closed, and whose number another file has got; and pipes that nobody reads."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import textwrap

import pytest

from packetwire import AsyncPacketConnection, ConnectionEnded, LocalProtocolError, PacketConnection

from .conftest import pipes

pytestmark = pytest.mark.timeout(60)

GONE = "closed by its owner, and its number is another file's now"


def put_a_file_at(fd, path):
    """As if the owner had closed it, and somebody opened a file."""
    stranger = os.open(path, os.O_RDWR | os.O_CREAT)
    os.dup2(stranger, fd, inheritable=False)
    os.close(stranger)


def reverse(rq_type, flags, payload):
    return payload[::-1]


@pytest.fixture
def ends():
    made = pipes()
    held = os.dup(made.a[1])  # so that the other end does not see that it is closed
    yield made
    os.close(held)
    made.close_a()
    made.close_b()


def test_nothing_is_written_into_a_strangers_file(ends, tmp_path):
    with PacketConnection(ends.b, request_handler=reverse, close_timeout=0.1):
        with PacketConnection(ends.a, close_timeout=0.1) as a:
            assert a(1, b"ab")[2] == b"ba"
            put_a_file_at(ends.a[1], tmp_path / "file")
            with pytest.raises(ConnectionEnded, match=GONE):
                a(1, b"ab")
    assert (tmp_path / "file").read_bytes() == b""


def test_nothing_is_written_into_a_strangers_socket(tmp_path):
    ours, theirs = socket.socketpair()
    stranger, reader = socket.socketpair()
    fd = ours.fileno()
    held = ours.dup()  # so that the other end does not see that it is closed
    with theirs, held, reader, PacketConnection(theirs, request_handler=reverse, close_timeout=0.1):
        with PacketConnection(ours, close_timeout=0.1) as a:
            assert a(1, b"ab")[2] == b"ba"
            ours.close()
            os.dup2(stranger.fileno(), fd, inheritable=False)
            with pytest.raises(ConnectionEnded, match=f"{GONE}|the stream's descriptor is gone"):
                a(1, b"ab")
        os.close(fd)
        stranger.close()
        assert reader.recv(100) == b""


def test_a_socket_that_was_detached_goes_on():
    ours, theirs = socket.socketpair()
    with theirs, PacketConnection(theirs, request_handler=reverse):
        with PacketConnection(ours) as a:
            fd = ours.detach()
            assert a(1, b"ab")[2] == b"ba"
        os.close(fd)


def test_nothing_is_written_into_a_strangers_file_by_asyncio(ends, tmp_path):
    async def main():
        async with AsyncPacketConnection(ends.b, request_handler=reverse, close_timeout=0.1):
            async with AsyncPacketConnection(ends.a, close_timeout=0.1) as a:
                assert (await a(1, b"ab"))[2] == b"ba"
                put_a_file_at(ends.a[1], tmp_path / "file")
                await a(1, b"ab")

    with pytest.raises(ConnectionEnded, match=GONE):
        asyncio.run(main())
    assert (tmp_path / "file").read_bytes() == b""


@pytest.mark.parametrize("face", [PacketConnection, AsyncPacketConnection])
def test_a_connection_is_not_opened_over_a_strangers_file(face, ends, tmp_path):
    conn = face(ends.a)
    put_a_file_at(ends.a[1], tmp_path / "file")
    with pytest.raises(LocalProtocolError, match="made: its number is another file's now"):
        if face is PacketConnection:
            conn.open()
        else:
            asyncio.run(conn.open())


def test_a_pipe_of_the_users_popen(tmp_path):
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
        fd = process.stdin.fileno()
        with PacketConnection(process, close_timeout=0.1) as conn:
            process.stdin.close()
            stranger = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
            assert stranger == fd
            with pytest.raises(ConnectionEnded):
                conn(1)
        os.close(stranger)
    assert (tmp_path / "file").read_bytes() == b""


# SIGPIPE

BROKEN = """
import asyncio, os, signal, sys
from packetwire import AsyncPacketConnection, ConnectionEnded, PacketConnection
kind, when = sys.argv[1:]
def asked_for(moment):
    if moment == when:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
asked_for("before")
def made():
    (read, write), (other, _) = os.pipe(), os.pipe()
    os.close(read)
    return (other, open(write, "wb") if kind == "file" else write)
async def over_asyncio():
    async with AsyncPacketConnection(made(), close_timeout=0.1) as conn:
        asked_for("while it is open")
        await conn(1)
try:
    if kind == "asyncio":
        asyncio.run(over_asyncio())
    elif kind == "child":
        with PacketConnection.spawn(["true"], close_timeout=0.1) as conn:
            conn.process.wait()
            asked_for("while it is open")
            conn(1)
    else:
        with PacketConnection(made(), close_timeout=0.1) as conn:
            asked_for("while it is open")
            conn(1)
except ConnectionEnded:
    assert signal.getsignal(signal.SIGPIPE) is signal.SIG_DFL
    assert signal.SIGPIPE not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    assert not signal.sigpending()
    os._exit(5)
"""


@pytest.mark.parametrize("when", ["before", "while it is open"])
@pytest.mark.parametrize("kind", ["descriptor", "file", "asyncio", "child"])
def test_a_pipe_that_nobody_reads_does_not_kill_the_program(kind, when):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(BROKEN), kind, when], check=False, capture_output=True, timeout=50
    )
    assert done.returncode == 5, (done.returncode, done.stderr)
    assert done.returncode != -signal.SIGPIPE

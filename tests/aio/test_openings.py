"""What a connection can be made of, and what is left of that when it closes."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import threading
from functools import partial

import pytest

from packetwire import (
    AsyncPacketConnection,
    ConnectionEnded,
    LocalProtocolError,
    Packet,
    PacketConnection,
    PeerClosed,
    connect_to,
    serve,
)

from .conftest import RawPeer, pipes, socketpair

pytestmark = pytest.mark.timeout(60)


def reverse(rq_type, flags, payload):
    return flags, payload[::-1]


def call(function):
    return function()


CHILD = """
from packetwire import PacketConnection, stdio
with PacketConnection(stdio(), request_handler=lambda t, f, payload: payload[::-1]) as conn:
    conn.join()
"""

ASYNC_CHILD = """
import asyncio
from packetwire import AsyncPacketConnection, stdio
async def main():
    async def reverse(t, f, payload):
        return payload[::-1]
    async with AsyncPacketConnection(stdio(), request_handler=reverse) as conn:
        await conn.join()
asyncio.run(main())
"""


@pytest.mark.parametrize("program", [CHILD, ASYNC_CHILD], ids=["threads", "asyncio"])
def test_a_child(run, program):
    async def main():
        conn = AsyncPacketConnection.spawn([sys.executable, "-c", program])
        for _ in range(2):
            async with conn:
                replies = await asyncio.gather(*(conn(1, bytes([i]) * 300_000 + b"x") for i in range(10)))
                assert [payload[:2] for _, _, payload in replies] == [b"x" + bytes([i]) for i in range(10)]
            assert conn.process.returncode == 0

    run(main)


@pytest.mark.parametrize("way", ["callable", "async callable", "returns an awaitable", "(callable, None)"])
def test_a_callable_is_called_at_each_opening_and_its_close_once(run, way):
    made, closed = [], []

    async def main():
        async with socketpair() as (ours, theirs), AsyncPacketConnection(theirs, request_handler=reverse) as peer:

            def connect():
                made.append(threading.current_thread())
                return ours, ours, lambda: closed.append(threading.current_thread())

            async def connect_async():
                await asyncio.sleep(0)
                return connect()

            recv_send = {
                "callable": connect,
                "async callable": connect_async,
                "returns an awaitable": partial(call, connect_async),
                "(callable, None)": (connect, None),
            }[way]
            conn = AsyncPacketConnection(recv_send)
            for _ in range(2):
                async with conn, conn:
                    assert (await conn(1, b"ab"))[2] == b"ba"
                await peer.close()
                await peer.open()
            await peer.close(0)  # nobody is there to answer

    run(main)
    assert len(made) == len(closed) == 2
    in_loop = {thread is threading.current_thread() for thread in made}
    assert in_loop == {way in ("async callable", "returns an awaitable")}


def test_a_stream_pair_that_a_callable_opened_is_closed(run):
    async def main():
        async def answer(reader, writer):
            async with AsyncPacketConnection((reader, writer), request_handler=reverse) as conn:
                await conn.join_recv()
            assert not writer.is_closing()
            writer.close()

        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            host, port = server.sockets[0].getsockname()
            conn = AsyncPacketConnection(lambda: asyncio.open_connection(host, port))
            for _ in range(2):
                async with conn:
                    assert (await conn(1, b"ab"))[2] == b"ba"
                assert isinstance(conn.ended, PeerClosed)
            while len(asyncio.all_tasks()) > 1:
                await asyncio.sleep(0.01)

    run(main)


def test_a_stream_pair_is_left_as_it_was(run):
    async def main():
        a, b = socket.socketpair()
        ours, theirs = await asyncio.open_connection(sock=a), await asyncio.open_connection(sock=b)
        limits = ours[1].transport.get_write_buffer_limits()
        async with (
            AsyncPacketConnection(theirs, request_handler=reverse),
            AsyncPacketConnection(ours) as conn,
        ):
            assert (await conn(1, bytes(1 << 20)))[0]
        if sys.modules.get("uvloop") is None or "uvloop" not in type(asyncio.get_running_loop()).__module__:
            assert ours[1].transport.get_write_buffer_limits() == limits
        ours[1].write(b"still open")
        assert await theirs[0].readexactly(10) == b"still open"
        for _, writer in (ours, theirs):
            writer.close()
            await writer.wait_closed()

    run(main)


def test_descriptors_are_left_as_they_were(run):
    async def main():
        async with pipes() as (ours, theirs):
            fds = (*ours, *theirs)
            async with (
                AsyncPacketConnection(theirs, request_handler=reverse),
                AsyncPacketConnection(ours) as conn,
            ):
                # large enough that the pipes fill up, and writing has to be polled for
                assert (await conn(1, bytes(1 << 20)))[0]
                assert [os.get_blocking(fd) for fd in fds] == [True] * 4
            assert [os.get_blocking(fd) for fd in fds] == [True] * 4

    run(main)


def test_a_timeout_of_the_sockets_does_not_matter(run):
    async def main():
        async with socketpair() as (ours, theirs):
            ours.settimeout(0.01)
            theirs.setblocking(False)
            async with AsyncPacketConnection(theirs, request_handler=reverse), AsyncPacketConnection(ours) as conn:
                assert (await conn(1, bytes(1 << 20)))[0]
            assert ours.gettimeout() == 0.01
            assert theirs.gettimeout() == 0

    run(main)


def test_descriptors_that_are_always_ready(run, tmp_path):
    """A regular file takes what is sent; epoll would refuse it."""
    path = tmp_path / "sent"

    async def main():
        recv, peer_send = os.pipe()
        with open(path, "wb", buffering=0) as file:
            async with AsyncPacketConnection((recv, file.fileno()), close_timeout=20) as conn:
                future = conn.submit(1, 0, bytes(100_000))
                while conn._driver.engine.unsent_octets:
                    await asyncio.sleep(0)
                os.write(peer_send, bytes(Packet(is_request=False, tag=2, flags=1, payload=b"done")))
                assert await future == (True, 0, b"done")
                os.write(peer_send, bytes(PacketConnection.EOF_Packet))
        os.close(recv)
        os.close(peer_send)

    run(main)
    packet, _ = Packet.parse_bytes(path.read_bytes())
    assert packet.payload == bytes(100_000)
    assert path.read_bytes().endswith(bytes(PacketConnection.EOF_Packet))


def test_dev_null_is_an_end(run):
    async def main():
        with open(os.devnull, "r+b", buffering=0) as null:
            async with AsyncPacketConnection((null.fileno(), null.fileno())) as conn:
                assert await conn.join(20)
                assert isinstance(conn.ended, PeerClosed)

    run(main)


def test_a_server_of_threads_by_its_address(run, tmp_path):
    with serve(
        f"unix:{tmp_path}/socket", lambda stream: PacketConnection(stream, request_handler=reverse)
    ) as server:

        async def main():
            async with AsyncPacketConnection(connect_to(server.address)) as conn:
                assert await conn(1, b"ab", 3) == (True, 3, b"ba")

        run(main)


def test_nobody_at_the_address(run, tmp_path):
    async def main():
        conn = AsyncPacketConnection(connect_to(f"unix:{tmp_path}/socket"))
        with pytest.raises(FileNotFoundError, match="socket"):
            await conn.open()
        assert not conn.is_open()
        with pytest.raises(ConnectionEnded, match="never opened"):
            await conn(1)

    run(main)


@pytest.mark.parametrize(
    ("recv_send", "error"),
    [((-1, 0), LocalProtocolError), ("text", TypeError), ((1, 2, 3), TypeError), (None, TypeError)],
)
def test_what_is_no_stream(run, recv_send, error):
    async def main():
        for given in (recv_send, lambda: recv_send):
            with pytest.raises(error):
                await AsyncPacketConnection(given).open()

    run(main)


def test_an_opening_that_is_cancelled_closes_what_was_made_for_it(run):
    gate, closed = threading.Event(), threading.Event()

    async def main():
        async with socketpair() as (ours, _):

            def connect():
                gate.wait(20)
                return ours, ours, closed.set

            conn = AsyncPacketConnection(connect)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await conn.open()
            assert not conn.is_open()
            gate.set()
            assert closed.wait(20)
        while any("opener" in thread.name for thread in threading.enumerate()):
            await asyncio.sleep(0.001)

    run(main)


def test_a_file_object_that_nobody_writes_to_does_not_stop_the_loop(run):
    async def main():
        recv, peer_send = os.pipe()
        peer_recv, send = os.pipe()
        with open(recv, "rb") as reads, open(send, "wb") as writes:
            async with AsyncPacketConnection((reads, writes), request_handler=reverse, close_timeout=0.05) as conn:
                peer = RawPeer((peer_recv, peer_send))
                peer.send(bytes(Packet(is_request=True, tag=2, rq_type=1, payload=b"ab")))
                assert b"ba" in await peer.read_until(lambda octets: b"ba" in octets)
                with pytest.raises(TimeoutError):
                    await conn(1, timeout=0.01)
        os.close(peer_send)
        os.close(peer_recv)

    run(main)

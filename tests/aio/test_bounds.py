"""What is bounded: memory with a peer that does not read, and what is left behind by many connections."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
import threading

import pytest
from tests.leftovers import open_fds

from packetwire import AsyncPacketConnection, ConnectionEnded, LimitExceeded, RequestTimeout

from .conftest import TRANSPORTS, RawPeer, connected
from .test_ends import EOF, request

pytestmark = pytest.mark.timeout(120)

MEGABYTE = 1 << 20


def resident() -> int:
    """Octets of memory that this process has."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGESIZE")


@pytest.mark.parametrize("transport", ["pipes", "socketpair", "tcp", "streams"])  # a file's write cannot be woken
@pytest.mark.parametrize("how", ["submit and drain", "calls after drain", "map"])
def test_a_gigabyte_offered_to_a_peer_that_does_not_read(run, transport, how):
    async def offer(a):
        if how == "map":
            async for _ in a.map(((1, os.urandom(MEGABYTE)) for _ in range(1000)), window=1000):
                pass
        elif how == "submit and drain":
            for _ in range(1000):
                await a.drain()
                a.submit(1, 0, os.urandom(MEGABYTE))
        else:

            async def ask():
                await a.drain()
                await a(1, os.urandom(MEGABYTE))

            await asyncio.gather(*(ask() for _ in range(1000)))

    async def main():
        async with TRANSPORTS[transport]() as (ours, _), AsyncPacketConnection(ours, close_timeout=0) as a:
            before = resident()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await offer(a)
            assert resident() - before < 64 * MEGABYTE

    run(main)


def test_submit_without_drain_is_refused_before_memory_is_gone(run, fd_ends):
    async def main():
        async with fd_ends() as (ours, _), AsyncPacketConnection(ours, close_timeout=0) as a:
            payload = bytes(MEGABYTE)
            futures = []
            with pytest.raises(LimitExceeded, match="bytes unsent.*drain"):
                while True:
                    futures.append(a.submit(1, 0, payload))
            assert len(futures) <= 5

    run(main)


@pytest.mark.parametrize("kind", ["plain", "async", "inline"])
def test_handlers_wait_while_the_peer_does_not_take_their_replies(run, fd_ends, kind):
    async def main():
        ran = []

        def handler(rq_type, flags, payload):
            ran.append(1)
            return bytes(500_000)

        async def later(*rq):
            return handler(*rq)

        settings = {
            "request_handler": later if kind == "async" else handler,
            "handlers": "inline" if kind == "inline" else 4,
        }
        async with fd_ends() as (ours, theirs):
            peer = RawPeer(theirs)
            async with AsyncPacketConnection(ours, close_timeout=20, **settings) as a:
                peer.send(b"".join(request(tag) for tag in range(2, 102)))
                taken = await peer.read_past(500_000)
                assert len(ran) < 50
                await peer.read_past(100 * 500_000 - taken)
                assert len(ran) == 100
                peer.send(EOF)
                await a.join(20)

    run(main)


def test_a_peer_that_sends_requests_and_never_reads(run, fd_ends):
    async def main():
        async with fd_ends() as (ours, theirs):
            octets = b"".join(request(tag, b"x") for tag in range(2, 100_000))
            peer = RawPeer(theirs)
            settings = {"request_handler": lambda *rq: bytes(10_000), "close_timeout": 0.1}
            async with AsyncPacketConnection(ours, **settings) as a:
                sender = threading.Thread(target=peer.flood, args=(octets,))
                sender.start()
                # the connection ends by itself when it has refused too often
                assert await a.join_recv(50)
                with pytest.raises(ConnectionEnded) as caught:
                    await a(1)
                assert isinstance(caught.value.__cause__, LimitExceeded)
            drained = RawPeer(ours)
            while sender.is_alive():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await drained.read()
            sender.join()

    run(main)


def test_ten_thousand_requests_are_submitted_before_the_first_is_awaited(run, fd_ends):
    async def main():
        settings = {"request_handler": lambda rq_type, flags, payload: flags}
        async with connected(fd_ends, None, settings) as (a, _):
            futures = []
            for i in range(10_000):
                await a.drain()
                futures.append(a.submit(1, i))
            assert [flags for _, flags, _ in await asyncio.gather(*futures)] == list(range(10_000))

    run(main)


@pytest.mark.parametrize("settings", [{"max_unsent": 1}, {"max_outstanding": 1}])
def test_tasks_that_wait_for_room_together_take_it_one_after_the_other(run, fd_ends, settings):
    async def main():
        answering = {"request_handler": lambda rq_type, flags, payload: flags}
        async with connected(fd_ends, settings, answering) as (a, _):

            async def ask():
                return [flags async for _, flags, _ in a.map([(1, i, bytes(100_000)) for i in range(5)])]

            assert await asyncio.gather(*(ask() for _ in range(8))) == [list(range(5))] * 8

    run(main)


def test_requests_after_a_failed_write_wait_for_the_reason(run):
    async def main():
        (a_recv, b_send), (b_recv, a_send) = os.pipe(), os.pipe()
        os.close(b_recv)
        try:
            async with AsyncPacketConnection((a_recv, a_send), max_unsent=1, close_timeout=0) as a:
                with pytest.raises(ConnectionEnded):
                    for _ in range(5):
                        await a.drain()
                        a.submit(1, 0, bytes(100))
                        await asyncio.sleep(0)
        finally:
            for fd in (a_recv, a_send, b_send):
                os.close(fd)

    run(main)


@pytest.mark.long
@pytest.mark.timeout(400)  # as that of threads
@pytest.mark.parametrize("streams", [False, True])
def test_ten_thousand_times_open_call_close_leaves_nothing(run, streams):
    async def main():
        a, b = socket.socketpair()
        if streams:
            a, b = await asyncio.open_connection(sock=a), await asyncio.open_connection(sock=b)

        async def use(times):
            for _ in range(times):
                async with AsyncPacketConnection(b, request_handler=lambda *rq: b"x") as peer:
                    async with AsyncPacketConnection(a) as conn:
                        assert await conn(1) == (True, 0, b"x")
                    assert peer.ended

        await use(1000)
        gc.collect()
        before = threading.enumerate(), open_fds(), asyncio.all_tasks()
        memory = resident()
        await use(10_000)
        assert (threading.enumerate(), open_fds(), asyncio.all_tasks()) == before
        gc.collect()
        assert resident() - memory <= MEGABYTE
        for end in (a, b):
            if streams:
                end[1].close()
                await end[1].wait_closed()
            else:
                end.close()

    run(main)


def test_drain_ends_with_the_connection_and_with_its_time(run, fd_ends):
    async def main():
        async with fd_ends() as (ours, _), AsyncPacketConnection(ours, max_outstanding=1, close_timeout=0) as a:
            a.submit(1)
            with pytest.raises(RequestTimeout, match="1 of 1 unanswered"):
                await a.drain(timeout=0.01)
            draining = asyncio.create_task(a.drain())
            await asyncio.sleep(0)
            await a.close()
            await draining

    run(main)

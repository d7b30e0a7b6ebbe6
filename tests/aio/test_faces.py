"""A loop at one end, threads at the other."""

from __future__ import annotations

import asyncio
import os
import threading

import pytest

from packetwire import AsyncPacketConnection, ConnectionEnded, PacketConnection

from .conftest import TRANSPORTS

pytestmark = pytest.mark.timeout(60)


def reverse(rq_type, flags, payload):
    return flags, payload[::-1]


async def reverse_later(rq_type, flags, payload):
    await asyncio.sleep(0)
    return flags, payload[::-1]


@pytest.fixture(params=["pipes", "socketpair", "tcp", "files"])
def transport(request):
    """Those of which another thread can have an end."""
    return TRANSPORTS[request.param]


async def in_thread(function):
    """What `function()` returns, in a thread, while this loop goes on."""
    found = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    while thread.is_alive():
        await asyncio.sleep(0.002)
    thread.join()
    return found[0]


@pytest.mark.parametrize("handler", [reverse, reverse_later])
def test_both_ask_at_once(run, transport, handler):
    payload = os.urandom(1 << 20)
    requests = [(1, i, b"%d" % i) for i in range(10, 300)]
    replies = [(True, flags, octets[::-1]) for _, flags, octets in requests]

    async def main():
        async with transport() as (ours, theirs):
            with PacketConnection(theirs, request_handler=reverse) as threaded:
                async with AsyncPacketConnection(ours, request_handler=handler) as conn:

                    def ask():
                        results = [threaded.submit(1, payload=payload) for _ in range(8)]
                        return list(threaded.map(requests)), {result() for result in results}

                    async def ask_too():
                        futures = [conn.submit(1, payload=payload) for _ in range(2)]
                        return [r async for r in conn.map(requests)], set(await asyncio.gather(*futures))

                    expected = replies, {(True, 0, payload[::-1])}
                    assert await asyncio.gather(in_thread(ask), ask_too()) == [expected, expected]

    run(main)


@pytest.mark.parametrize("first", ["loop", "threads"])
def test_either_end_closes_first(run, transport, first):
    async def main():
        async with transport() as (ours, theirs):
            threaded = PacketConnection(theirs, request_handler=reverse, close_timeout=20)
            conn = AsyncPacketConnection(ours, request_handler=reverse, close_timeout=20)
            for _ in range(3):
                threaded.open()
                await conn.open()
                assert await conn(1, b"ab") == (True, 0, b"ba")
                if first == "loop":
                    await conn.close()
                    await in_thread(threaded.close)
                else:
                    await in_thread(threaded.close)
                    await conn.close()
                with pytest.raises(ConnectionEnded, match="closed"):
                    await conn(1)

    run(main)

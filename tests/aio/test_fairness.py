"""One client that floods does not keep the others waiting: each connection has a slice of each turn of the loop."""

from __future__ import annotations

import asyncio

import pytest

from packetwire import AsyncPacketConnection
from packetwire.core.packets import Packet

from .conftest import RawPeer, connected, socketpair, streams

pytestmark = pytest.mark.timeout(120)

FLOOD = 10_000
"""Requests, which fit into the buffer of a socket pair, and are read at once."""
ENOUGH = 300
"""Of these, that may be begun before another client's request is."""


def request(tag: int) -> bytes:
    return bytes(Packet(is_request=True, channel=0, tag=tag, flags=0, rq_type=1, payload=b""))


async def coroutine(*rq):
    return b""


async def waiting(*rq):
    await asyncio.sleep(0)
    return b""


def plain(*rq):
    return b""


HANDLERS = {
    "async def": (coroutine, {}),
    "async def that waits": (waiting, {}),
    "inline": (plain, {"handlers": "inline"}),
    "inline by type": (plain, {"inline": {0}}),
}


@pytest.mark.parametrize("kind", HANDLERS)
def test_another_client_waits_for_a_slice_only(run, kind):
    handler, settings = HANDLERS[kind]
    begun = 0
    seen = []

    async def main():
        def flooded(*rq):
            nonlocal begun
            begun += 1
            if begun == 1:
                other.send(request(2))
            return handler(*rq)

        async def flooded_later(*rq):
            return await flooded(*rq)

        def served(*rq):
            seen.append(begun)
            return b"served"

        async with socketpair() as (ours, theirs), socketpair() as (second, second_theirs):
            flooder, other = RawPeer(theirs), RawPeer(second_theirs)
            flooded_by = flooded_later if kind.startswith("async def") else flooded
            flooder.send(b"".join(request(tag) for tag in range(2, FLOOD + 2)))
            async with (
                AsyncPacketConnection(second, request_handler=served, handlers="inline", close_timeout=0),
                AsyncPacketConnection(ours, request_handler=flooded_by, close_timeout=0, **settings),
            ):
                await other.read_until(lambda octets: b"served" in octets)
                taken = 0
                while begun < FLOOD:  # all are served in the end
                    taken += len(await flooder.read())

    run(main)
    assert len(seen) == 1
    assert seen[0] <= ENOUGH


@pytest.mark.parametrize("make", [socketpair, streams])
def test_nothing_is_read_while_what_was_read_is_begun(run, make):
    """So a client that floods is not refused, but waits."""
    kept = []

    async def main():
        async def handler(rq_type, flags, payload):
            kept.append(b._driver.engine.owed)
            return payload

        async with connected(make, {"max_outstanding": 50_000}, {"request_handler": handler}) as (a, b):
            futures = [a.submit(1, 0, b"x") for _ in range(50_000)]
            assert set(await asyncio.gather(*futures)) == {(True, 0, b"x")}

    run(main)
    assert max(kept) < 25_000


def test_an_interruption_by_a_handler_does_not_stop_the_rest(loop_factory):
    """KeyboardInterrupt goes to the program, which may go on."""
    begun = []

    def handler(rq_type, flags, payload):
        begun.append(payload)
        if len(begun) in (10, 150):  # in the first slice, and in a later one
            raise KeyboardInterrupt
        return payload

    async def main():
        async with connected(socketpair, None, {"request_handler": handler, "handlers": "inline"}) as (a, _):
            futures = [a.submit(1, 0, b"x") for _ in range(1000)]
            return [ok for ok, _, _ in await asyncio.gather(*futures)]

    loop = (loop_factory or asyncio.new_event_loop)()
    try:
        task = loop.create_task(main())
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                loop.run_until_complete(task)
        assert loop.run_until_complete(task).count(True) == 998
    finally:
        loop.close()

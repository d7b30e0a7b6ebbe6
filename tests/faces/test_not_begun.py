"""A peer that is about to end, and does not begin a request: its caller gets that end, and no response."""

from __future__ import annotations

import asyncio

import pytest

from packetwire import Packet, PeerClosed

pytestmark = pytest.mark.timeout(60)

NOT_BEGUN = b"the peer is ending the connection, this request was not begun"
DECODERS = [{}, {"decode_response": lambda flags, payload: payload}]


def refusal(peer, flags=0, payload=NOT_BEGUN):
    """What the peer answers to the request that comes next."""
    asked = peer.read()
    return Packet(is_request=False, channel=0, tag=asked.tag, flags=flags, payload=payload)


def submitted(ends, **settings):
    """Of a request that is under way; call it for what comes of it."""
    (result,) = ends.do(lambda: [ends.conn.submit(1, 0, b"", **settings)])
    if not asyncio.isfuture(result):
        return result

    async def wait():
        return await result

    return lambda: ends.do(wait)


@pytest.mark.parametrize("settings", DECODERS, ids=["raw", "decoded"])
def test_its_caller_is_told_so_before_the_end(ends, settings):
    ends.open()
    peer = ends.peer()
    collect = submitted(ends, **settings)
    peer.send(refusal(peer))
    with pytest.raises(PeerClosed, match="this request was not begun"):
        collect()
    assert ends.conn.ended is None  # it goes on: the peer may wait for answers of ours
    collect = submitted(ends)
    peer.send(refusal(peer, flags=1, payload=b"done"))
    assert collect() == (True, 0, b"done")


@pytest.mark.parametrize(("flags", "payload"), [(1, NOT_BEGUN), (2, NOT_BEGUN), (0, NOT_BEGUN + b".")])
def test_anything_else_is_a_response(ends, flags, payload):
    ends.open()
    peer = ends.peer()
    collect = submitted(ends)
    peer.send(refusal(peer, flags, payload))
    assert collect() == (flags & 1 == 1, flags >> 1, payload)

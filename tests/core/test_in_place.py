"""Long payloads that are read into their place: what comes of them is what comes of the same bytes, fed."""

from __future__ import annotations

import os
import random
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packetwire.core import packetcodec, payloads
from packetwire.core.engine import ConnectionEngine
from packetwire.core.packet import EOF_PACKET
from packetwire.core.packetcodec import CHUNK_SIZE, PacketReader
from packetwire.core.payloads import AT_ONCE, BEGIN_WITH
from packetwire.errors import PeerClosed
from sources import plain

from .wire import request, response

BUILDS = {"in use": payloads, "plain": plain("core.payloads")}
PLAIN_CODEC = plain("core.packetcodec")
PLAIN_CODEC.Payload = BUILDS["plain"].Payload  # type: ignore[attr-defined]
READERS = {"in use": packetcodec, "plain": PLAIN_CODEC}
MIB = 1 << 20


@pytest.fixture(params=BUILDS.values(), ids=BUILDS)
def module(request: pytest.FixtureRequest) -> ModuleType:
    found: ModuleType = request.param
    return found


def put(place: Any, octets: bytes) -> int:
    """As a read: write as much as there is room for."""
    with memoryview(place) as view:
        count = min(len(view), len(octets))
        view[:count] = octets[:count]
    return count


@pytest.mark.parametrize("size", [CHUNK_SIZE, BEGIN_WITH, BEGIN_WITH + 1, AT_ONCE, AT_ONCE + 1, 5 * MIB])
@pytest.mark.parametrize("begun", [0, 1, 1000, CHUNK_SIZE])
@pytest.mark.parametrize("in_place", ["all", "none", "by turns"])
def test_a_payload_is_what_was_put_into_it(module: ModuleType, size: int, begun: int, in_place: str) -> None:
    data = os.urandom(size)
    payload = module.Payload(size, data[:begun])
    dice, done, turn = random.Random(size + begun), begun, 0
    while done < size:
        turn += 1
        piece = data[done : done + dice.randrange(1, 200_000)]
        if in_place == "all" or (in_place == "by turns" and turn % 2):
            count = put(payload.place(), piece)
            assert count > 0
            payload.placed(count)
            done += count
        else:
            payload.add(piece)
            done += len(piece)
        assert done < 100_000 or payload.collected() == data[:done]
    whole = payload.complete()
    assert type(whole) is bytes
    assert whole == data


def test_there_is_room_for_what_has_come_and_not_for_what_was_announced(module: ModuleType) -> None:
    payload, come = module.Payload(1 << 40, b"x"), 1
    assert len(memoryview(payload.place())) < BEGIN_WITH
    for _ in range(6):
        place = payload.place()
        count = len(memoryview(place))
        assert count <= max(come, AT_ONCE)
        del place
        payload.placed(count)
        come += count
    assert come > 4 * AT_ONCE


PACKETS = st.lists(
    st.one_of(
        st.builds(
            lambda size: request(1, payload=bytes(size)), st.sampled_from([0, 5, CHUNK_SIZE, 70_000, 300_000])
        ),
        st.builds(lambda size: response(2, payload=b"y" * size), st.sampled_from([3, CHUNK_SIZE - 1, 66_000])),
        st.just(request(1, channel=77, payload=b"z" * 40_000)),
        st.just(bytes(EOF_PACKET)),
        st.just(b"\xff\xff\x7f"),
    ),
    max_size=5,
).map(b"".join)


def outcome(reader: Any, octets: bytes, sizes: list[int], in_place: bool) -> list[Any]:
    """The packets that a reader makes of bytes that come in pieces."""
    packets: list[Any] = []
    turn = 0
    try:
        while octets:
            piece = octets[: sizes[turn % len(sizes)]]
            turn += 1
            place = reader.place() if in_place else None
            if place is not None:
                count = put(place, piece)
                del place
                packets += reader.placed(count)
            else:
                count = len(piece)
                packets += reader.feed(piece)
            octets = octets[count:]
        packets.append(reader.trailing)
        reader.finish()
    except Exception as error:
        packets.append(repr(error))
    return packets


@pytest.mark.parametrize("codec", READERS.values(), ids=READERS)
@given(octets=PACKETS, cut=st.integers(0, 50), sizes=st.lists(st.integers(1, 100_000), min_size=1, max_size=5))
def test_packets_that_are_read_in_place_are_the_same(
    codec: ModuleType, octets: bytes, cut: int, sizes: list[int]
) -> None:
    sizes = [max(size, len(octets) // 200) for size in sizes]
    octets = octets[: len(octets) - cut]
    expected = outcome(PacketReader(), octets, sizes, in_place=False)
    assert outcome(codec.PacketReader(), octets, sizes, in_place=True) == expected


def test_the_engine_takes_what_was_placed() -> None:
    engine = ConnectionEngine()
    octets = request(1, payload=b"a" * 200_000) + request(3, payload=b"b")
    requests: list[Any] = []
    events: list[Any] = []
    assert engine.decoder.place() is None
    engine.receive_to(octets[:1000], requests.append, events)
    octets = octets[1000:]
    while not requests:
        assert engine.octets_wanted == len(octets) - len(request(3, payload=b"b"))
        place = engine.decoder.place()
        assert place is not None
        count = put(place, octets)
        del place
        octets = octets[count:]
        engine.receive_to(b"", requests.append, events, count)
    assert engine.octets_wanted == 0
    assert octets == request(3, payload=b"b")
    engine.receive_to(octets, requests.append, events)
    assert [(key, payload) for key, _, _, payload in requests] == [(1, b"a" * 200_000), (3, b"b")]
    assert not events


def test_nothing_is_placed_behind_the_end() -> None:
    engine = ConnectionEngine()
    engine.receive_to(request(1, payload=bytes(100_000))[:50_000], print, [])
    place = engine.decoder.place()
    assert place is not None
    put(place, b"x" * 100)
    del place
    engine.fail(PeerClosed("it went"))
    engine.let_go()
    engine.receive_to(b"", print, [], 100)
    assert engine.decoder.place() is None
    assert engine.decoder.placed(100) == []

"""What is compiled does the same as Python: one contract for both, in one process.

The plain modules are loaded beside those that are in use. Where nothing is compiled, both are plain.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import packetwire
from packetwire import twins
from packetwire.core import packetcodec, packing
from packetwire.core.engine import ConnectionEngine
from packetwire.core.packet import head_tail
from packetwire.core.varint import MAX_UINT
from packetwire.errors import PacketwireError
from sources import plain

from .golden import DIRECTIONS, FIXTURES
from .strategies import chunks

PLAIN_CODEC, PLAIN_PACKING, PLAIN_ENGINE = map(plain, ("core.packetcodec", "core.packing", "core.engine"))
vars(PLAIN_ENGINE).update(
    PacketReader=PLAIN_CODEC.PacketReader, decode_body=PLAIN_CODEC.decode_body, packed=PLAIN_PACKING.packed
)


def test_what_is_compared_is_what_it_says() -> None:
    assert Path(str(PLAIN_CODEC.__file__)).suffix == ".py"
    assert (Path(packetcodec.__file__).suffix == ".py") is (packetwire.compiled is not True)
    assert set(twins.MODULES) >= {"core.packetcodec", "core.packing", "core.engine"}


def read(reader: Any, pieces: list[bytes]) -> list[Any]:
    """All that can be seen of a reader, after each piece."""
    seen: list[Any] = []
    for piece in pieces:
        try:
            seen.append(reader.feed(piece))
        except PacketwireError as error:
            seen.append(repr(error))
        seen.append([reader.octets_decoded, reader.ended, repr(reader.fault), reader.needed, reader.octets_wanted])
        seen.append([reader.partial, reader.trailing, reader.bytes_kept, reader.incomplete_head()])
    try:
        reader.finish()
    except PacketwireError as error:
        seen.append(repr(error))
    return seen


def driven(engine: Any, pieces: list[bytes]) -> list[Any]:
    """All that can be seen of an engine that has asked, and answers what comes."""
    seen: list[Any] = [engine.request(n, n % 3, b"x" * n, waiter=n) for n in range(40)]
    for piece in pieces:
        events = engine.receive(piece)
        seen.append(repr(events))
        for event in events:
            if type(event).__name__ == "RequestReceived":
                try:
                    seen.append(engine.respond(event.channel, event.tag, event.tag % 5 > 0, 0, event.payload[:100]))
                except PacketwireError as error:
                    seen.append(repr(error))
        seen.append((engine.outstanding, engine.owed, engine.unsent_octets, engine.octets_wanted, str(engine.ours)))
        seen.append(engine.data_to_send())
        engine.data_sent()
    seen.append(repr(engine.receive_eof()))
    seen.append(engine.data_to_send())
    return seen


def check(octets: bytes, pieces: list[bytes], limit: int = 1 << 20) -> None:
    assert read(packetcodec.PacketReader(limit), pieces) == read(PLAIN_CODEC.PacketReader(limit), pieces)
    engines = ConnectionEngine(max_packet_size=limit), PLAIN_ENGINE.ConnectionEngine(max_packet_size=limit)
    found, expected = (driven(engine, pieces) for engine in engines)
    assert found == expected


@pytest.mark.parametrize("octets", DIRECTIONS)
@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1 << 20])
def test_recorded_streams(octets: bytes, size: int) -> None:
    octets = octets[:200_000]
    if len(octets) > 2000 * size:
        octets = octets[: 2000 * size]
    check(octets, [octets[start : start + size] for start in range(0, len(octets), size)])


@pytest.mark.parametrize("path", sorted((FIXTURES / "fuzz").iterdir()), ids=lambda path: path.name)
def test_what_fuzzing_has_found(path: Path) -> None:
    octets = path.read_bytes()
    check(octets, [octets])
    check(octets, [octets[n : n + 1] for n in range(min(len(octets), 500))])


@pytest.mark.parametrize("seed", range(40))
def test_damaged_streams(seed: int) -> None:
    dice = random.Random(seed)
    octets = bytearray(dice.choice(DIRECTIONS)[:3000])
    for _ in range(dice.randrange(1, 6)):
        octets[dice.randrange(len(octets))] = dice.choice((0, 1, 127, 128, 255, dice.randrange(256)))
    damaged = bytes(octets)
    check(damaged, chunks(damaged, [dice.randrange(len(damaged)) for _ in range(dice.randrange(8))]), 2048)


@given(octets=st.binary(max_size=60), cuts=st.lists(st.integers(0, 60), max_size=4))
def test_any_bytes(octets: bytes, cuts: list[int]) -> None:
    check(octets, chunks(octets, [cut for cut in cuts if cut <= len(octets)]))


@given(
    tag=st.one_of(st.integers(0, 300), st.integers(0, MAX_UINT)),
    channel=st.sampled_from([0, 16, 200, MAX_UINT]),
    flags=st.integers(0, MAX_UINT >> 2),
    payload=st.one_of(st.binary(max_size=300), st.builds(bytes, st.sampled_from([120, 127, 128, 16_380, 16_384]))),
)
def test_packets_are_packed_alike(tag: int, channel: int, flags: int, payload: bytes) -> None:
    tail = head_tail(channel, flags << 2 | 2, 7)
    assert packing.packed(tag, tail, payload) == PLAIN_PACKING.packed(tag, tail, payload)

"""What hypothesis makes for these tests: packets, chunks, streams with damage."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from random import Random

from hypothesis import strategies as st

from packetwire import Packet
from packetwire.core.packets import EOF_PACKET, ERQ_PACKET, MAX_UINT

from .golden import DIRECTIONS, PACKETS

BOUNDARIES = [edge for bits in range(7, 70, 7) for edge in ((1 << bits) - 1, 1 << bits)]
"""Where one more octet is needed."""


def uints(limit: int = MAX_UINT) -> st.SearchStrategy[int]:
    """Integers up to `limit`, the small and the ones at varint boundaries often."""
    edges = [edge for edge in BOUNDARIES if edge <= limit]
    return st.integers(0, 300) | st.sampled_from([*edges, limit]) | st.integers(0, limit)


PAYLOADS = st.binary(max_size=40) | st.integers(100, 140).map(bytes) | st.sampled_from([16_380, 16_390]).map(bytes)


@st.composite
def packets(draw: st.DrawFn) -> Packet:
    is_request = draw(st.booleans())
    return Packet(
        is_request=is_request,
        channel=draw(st.just(0) | uints()),
        tag=draw(uints()),
        flags=draw(uints(MAX_UINT >> 2)),
        rq_type=draw(uints()) if is_request else None,
        payload=draw(PAYLOADS),
    )


def chunks(octets: bytes, cuts: list[int]) -> list[bytes]:
    """`octets` cut at these places (those beyond the end are ignored)."""
    places = sorted({0, len(octets), *(cut for cut in cuts if cut < len(octets))})
    return [octets[start:end] for start, end in pairwise(places)]


def singly(octets: bytes) -> list[bytes]:
    """Chunks of one octet each; of a long payload of zeros the inside, behind the first 100, is one."""
    return re.findall(rb"(?<=\0{100})\0+(?=\0{100})|.", octets, re.DOTALL)


@st.composite
def chunked(draw: st.DrawFn, octets: bytes) -> list[bytes]:
    """`octets` in chunks: of one octet each, or cut anywhere; empty chunks may be among them."""
    if draw(st.integers(0, 4)) == 0:
        return singly(octets)
    pieces = chunks(octets, draw(st.lists(st.integers(0, len(octets)), max_size=12)))
    if draw(st.booleans()):
        pieces.insert(draw(st.integers(0, len(pieces))), b"")
    return pieces


SMALL_PACKETS = b"".join(case.wire for case in PACKETS if case.size < 50)
BASES = [*DIRECTIONS, SMALL_PACKETS[:3000], bytes(ERQ_PACKET) + bytes(EOF_PACKET)]

STRANGE = [
    b"\xff" * 9,
    b"\x80" * 12,
    b"\xff\xff\xff\xff\x7f",
    b"\x00",
    b"\x02\x02\x04",
    b"\x04\x07\x02\x00!",
    bytes(ERQ_PACKET),
    bytes(EOF_PACKET),
    b"Last login: Sat\r\n",
]
"""Octets that break a rule, or come close to it."""


def flip(octets: bytes, random: Random) -> bytes:
    place = random.randrange(len(octets))
    return octets[:place] + bytes((octets[place] ^ 1 << random.randrange(8),)) + octets[place + 1 :]


def insert(octets: bytes, random: Random) -> bytes:
    place = random.randrange(len(octets) + 1)
    new = random.choice(STRANGE) if random.random() < 0.5 else random.randbytes(random.randrange(1, 9))
    return octets[:place] + new + octets[place:]


def delete(octets: bytes, random: Random) -> bytes:
    place = random.randrange(len(octets))
    return octets[:place] + octets[place + random.randrange(1, 9) :]


def splice(octets: bytes, random: Random) -> bytes:
    other = random.choice(BASES)
    return octets[: random.randrange(len(octets))] + other[random.randrange(len(other)) :]


def truncate(octets: bytes, random: Random) -> bytes:
    return octets[: random.randrange(len(octets))]


DAMAGES: list[Callable[[bytes, Random], bytes]] = [flip, insert, delete, splice, truncate]


def damage(octets: bytes, random: Random) -> bytes:
    """`octets` after one to four damages."""
    for _ in range(random.randrange(1, 5)):
        octets = random.choice(DAMAGES)(octets, random) if octets else random.randbytes(3)
    return octets


@st.composite
def damaged_streams(draw: st.DrawFn) -> bytes:
    octets = draw(st.sampled_from(BASES))
    for damage_once in draw(st.lists(st.sampled_from(DAMAGES), min_size=1, max_size=4)):
        octets = damage_once(octets, draw(st.randoms(use_true_random=False))) if octets else b"\x01"
    return octets

"""Ways to make an input a somewhat different one, by what inputs are made of."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from packetwire import Packet, PacketDecoder, RemoteProtocolError

from .frames import pack, unpack
from .target import Mutate

CHANGES = (1, 1, 1, 2, 4)
LONG = 1 << 16
"""Octets up to which an input is blown up, now and then."""
SELDOM = 2000
OCTETS = (0, 1, 2, 3, 0x7F, 0x80, 0xFF)
NUMBERS = (0, 1, 2, 3, 5, 63, 64, 127, 128, 16383, 16384, 299, 300, 301, (1 << 56) - 1, (1 << 63) - 1)


def octets_mutator(words: Sequence[bytes] = (), others: Sequence[bytes] = ()) -> Mutate:
    """For octets. `words` mean something in them; a part of one of `others` may take the place of a part."""

    def mutate(octets: bytes, random: Random) -> bytes:
        for _ in range(random.choice(CHANGES)):
            octets = _change_octets(octets, random, words, others)
        return octets

    return mutate


def _change_octets(octets: bytes, random: Random, words: Sequence[bytes], others: Sequence[bytes]) -> bytes:
    start = random.randrange(len(octets) + 1)
    end = min(len(octets), start + random.choice((1, 1, 2, 4, 8, 64)))
    piece = octets[start:end]
    match random.randrange(10):
        case 0 if piece:
            new = bytes((piece[0] ^ 1 << random.randrange(8),)) + piece[1:]
        case 1 if piece:
            new = bytes((random.choice(OCTETS),)) + piece[1:]
        case 2:
            new = b""
        case 3:
            return octets[:start]
        case 4:
            new = piece + random.randbytes(random.randrange(1, 12))
        case 5 if words:
            new = random.choice(words)
        case 6 if words:
            new = piece + random.choice(words)
        case 7 if others:
            other = random.choice(others)
            cut = random.randrange(len(other) + 1)
            new = other[cut : cut + random.randrange(1, 200)]
        case 8:
            times = LONG // max(1, len(piece)) if random.randrange(SELDOM) == 0 else random.randrange(2, 12)
            new = piece * times
        case _:
            new = bytes((random.randrange(256),)) + piece[1:]
    return octets[:start] + new + octets[end:]


def frames_mutator(
    mutate_frame: Mutate, others: Sequence[bytes] = (), fresh: Callable[[Random], bytes] | None = None
) -> Mutate:
    """For lists of frames, or of messages. `fresh` makes an item."""

    def change(items: list[bytes], random: Random) -> None:
        position = random.randrange(len(items) + 1)
        here = slice(position, position + 1)
        match random.randrange(9):
            case 0:
                del items[here]
            case 1:
                items.insert(position, random.choice((b"", random.randbytes(random.randrange(20)))))
            case 2:
                times = LONG + 2 if random.randrange(SELDOM) == 0 else random.randrange(2, 5)
                items[here] = items[here] * (times if len(items) < 20 else 2)
            case 3 if len(items) > 1:
                other = random.randrange(len(items))
                items.insert(position, items.pop(other))
            case 4 if others:
                given = unpack(random.choice(others))
                items[here] = given[: random.randrange(len(given) + 1)]
            case 5 | 6 if fresh is not None:
                items[here] = [fresh(random)]
            case _:
                items[here] = [mutate_frame(frame, random) for frame in items[here]]

    def mutate(octets: bytes, random: Random) -> bytes:
        items = unpack(octets)
        for _ in range(random.choice(CHANGES)):
            change(items, random)
        return pack(items)

    return mutate


def headed_mutator(mutate_rest: Mutate, choices: int) -> Mutate:
    """For an input whose first octet chooses one of so many ways to take the rest."""

    def mutate(octets: bytes, random: Random) -> bytes:
        head = octets[:1] or b"\0"
        if random.randrange(6) == 0:
            head = bytes((random.randrange(choices),))
        return head + mutate_rest(octets[1:], random)

    return mutate


# packet streams


def any_packet(random: Random) -> Packet:
    """A packet that may have to do with what came before: the tags are few."""
    is_request = bool(random.randrange(2))
    return Packet(
        is_request=is_request,
        channel=random.choice((0, 0, 0, 1, 2, 17, 128)),
        tag=random.choice((*range(10), 200, 40000)),
        flags=random.choice((0, 1, 1, 2, 3, 200)),
        rq_type=random.choice((0, 1, 1, 2, 3, 6, 7, 300)) if is_request else None,
        payload=random.randbytes(random.choice((0, 0, 1, 5, 200))),
    )


def padded(n: int, random: Random) -> bytes:
    """An integer of the wire, perhaps with leading zeros, perhaps too many of them."""
    octets = [n & 127]
    while n := n >> 7:
        octets.append(n & 127 | 128)
    return b"\x80" * random.choice((0, 0, 1, 4, 8, 9)) + bytes(octets[::-1])


def odd_packet(random: Random) -> bytes:
    """A packet whose integers are long, or reach behind its end."""
    fields = [padded(random.choice(NUMBERS), random) for _ in range(random.randrange(5))]
    body = b"".join(fields) + random.randbytes(random.choice((0, 3)))
    size = random.choice((len(body), len(body), max(0, len(body) - 1), len(body) + 2, *NUMBERS))
    return padded(size, random) + body


def stream_mutator(others: Sequence[bytes]) -> Mutate:
    """For the octets of one direction of a packet stream."""
    change_octets = octets_mutator((b"\x03\x00\x02\x00", b"\x03\x01\x02\x00", b"\x80" * 8, b"\xff" * 9), others)
    pieces_mutator = frames_mutator(
        change_octets,
        fresh=lambda random: bytes(any_packet(random)) if random.randrange(3) else odd_packet(random),
    )

    def mutate(octets: bytes, random: Random) -> bytes:
        if random.randrange(3) == 0:
            return change_octets(octets, random)
        return b"".join(unpack(pieces_mutator(pack(_pieces(octets)), random)))

    return mutate


def _pieces(octets: bytes) -> list[bytes]:
    """The packets of a stream, and behind them what is none."""
    decoder = PacketDecoder()
    try:
        packets = decoder.feed(octets)
    except RemoteProtocolError:
        return [octets]
    return [*map(bytes, packets), octets[decoder.octets_decoded :]]


# JSON

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 5, 0.5, 1e308, -0.0, 1 << 63, 1 << 64, 10**400, "", "x", "\0", "\ud800"),
    *([], {}, [1], {"a": 1}, "Ä" * 300),
)
DEPTH = 1200
"""Lists within lists: up to somewhat more than a decoder or `repr` goes into."""


def json_mutator(words: Sequence[str]) -> Mutate:
    """For JSON in UTF-8; `words` mean something as keys or values."""
    change_octets = octets_mutator([json.dumps(word).encode() for word in words])

    def mutate(octets: bytes, random: Random) -> bytes:
        choice = random.randrange(20)
        if choice == 0:
            depth = random.randrange(DEPTH)
            return b"[" * depth + octets + b"]" * depth
        if choice < 6:
            return change_octets(octets, random)
        try:
            value = json.loads(octets)
        except (ValueError, RecursionError):
            return change_octets(octets, random)
        try:
            return json.dumps(_changed(value, random, words), separators=(",", ":")).encode()
        except (ValueError, RecursionError):
            return change_octets(octets, random)

    return mutate


def _changed(value: Any, random: Random, words: Sequence[str]) -> Any:
    if isinstance(value, dict) and value and random.randrange(8):
        key = random.choice(list(value))
        match random.randrange(6):
            case 0:
                return {name: each for name, each in value.items() if name != key}
            case 1:
                return value | {random.choice(words): random.choice(VALUES)}
            case _:
                return value | {key: _changed(value[key], random, words)}
    if isinstance(value, list) and value and random.randrange(3):
        position = random.randrange(len(value))
        return [*value[:position], _changed(value[position], random, words), *value[position + 1 :]]
    return random.choice((*VALUES, *words, [value], {"exception": value}))

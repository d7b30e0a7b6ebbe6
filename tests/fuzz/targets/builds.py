"""The compiled codec and engine beside those in Python: whatever comes, they do the same."""

from __future__ import annotations

from random import Random
from typing import Any

import packetwire
from core.test_twins import PLAIN_ENGINE, PLAIN_PACKING
from packetwire.core import packetcodec, packing, payloads
from packetwire.core.engine import ConnectionEngine
from packetwire.core.packet import head_tail
from packetwire.errors import PacketwireError, RemoteProtocolError, StreamTruncated
from sources import plain

from ..mutators import headed_mutator, stream_mutator
from ..target import Target, choices_of, chunks_of
from .streams import ASKED, OF_CAPABILITIES, SEEDS, SETTINGS, TRUNCATED, heard

PLAIN_CODEC, PLAIN_PAYLOADS = plain("core.packetcodec"), plain("core.payloads")
PLAIN_CODEC.Payload = PLAIN_PAYLOADS.Payload  # type: ignore[attr-defined]
BUILDS: tuple[tuple[Any, Any, Any], ...] = (
    (packetcodec.PacketReader, packing.packed, ConnectionEngine),
    (PLAIN_CODEC.PacketReader, PLAIN_PACKING.packed, PLAIN_ENGINE.ConnectionEngine),
)
KEPT = (20, 1 << 14)
"""From these sizes on payloads are collected in place, in turn."""


def seen(reader: Any, chunks: list[bytes], random: Random) -> list[Any]:
    """All that can be seen of a reader that is fed, or whose bytes are read into their place."""
    found: list[Any] = []
    for chunk in chunks:
        left = chunk
        while left:
            step = random.randrange(3)
            place = reader.place() if step else None
            try:
                if place is None:
                    found.append(reader.feed(left if step else memoryview(left)))
                    left = b""
                else:
                    with memoryview(place) as view:
                        count = min(len(view), len(left), reader.octets_wanted)
                        view[:count] = left[:count]
                    found.append(reader.placed(count))
                    left = left[count:]
            except PacketwireError as error:
                found.append(repr(error))
                left = b""
            if random.randrange(400) == 0 and not reader.ended:
                found.append(reader.incomplete_head())
        found.append((reader.octets_decoded, reader.ended, repr(reader.fault), reader.needed, reader.octets_wanted))
        found.append((reader.partial, reader.trailing, reader.bytes_kept, reader.incomplete_head()))
    try:
        reader.finish()
    except (RemoteProtocolError, StreamTruncated) as error:
        found.append(repr(error))
    return found


def packed_again(packets: list[Any], pack: Any) -> list[bytes]:
    """The packets as bytes."""
    made = []
    for key, flags, rq_type, payload in packets:
        channel, tag = key if isinstance(key, tuple) else (0, key)
        is_request = rq_type != packetcodec.RESPONSE
        tail = head_tail(channel, flags << 2 | is_request, rq_type if is_request else None)
        made.append(pack(tag, tail, payload))
    return made


def hear_both(octets: bytes) -> list[str]:
    settings = SETTINGS[octets[0] % len(SETTINGS)] if octets else SETTINGS[0]
    octets = octets[1:]
    limit = settings.get("max_packet_size", 1 << 20)
    kept = choices_of(octets).choice(KEPT)
    before, plain_before = packetcodec.CHUNK_SIZE, PLAIN_CODEC.CHUNK_SIZE  # type: ignore[attr-defined]
    packetcodec.CHUNK_SIZE = PLAIN_CODEC.CHUNK_SIZE = kept  # type: ignore[attr-defined]
    try:
        views = [seen(reader(limit), chunks_of(octets), Random(len(octets))) for reader, _, _ in BUILDS]
        assert views[0] == views[1]
        packets = [packet for each in views[0] if isinstance(each, list) for packet in each]
        assert packed_again(packets, BUILDS[0][1]) == packed_again(packets, BUILDS[1][1])
        (events, sent), (expected, expected_sent) = (
            heard(chunks_of(octets), settings, engine) for _, _, engine in BUILDS
        )
    finally:
        packetcodec.CHUNK_SIZE, PLAIN_CODEC.CHUNK_SIZE = before, plain_before  # type: ignore[attr-defined]
    assert sent == expected_sent
    assert repr(events) == repr(expected)
    end: Any = events[-1]
    cause = end.cause.__cause__ or end.cause
    return [TRUNCATED] if isinstance(cause, RemoteProtocolError | StreamTruncated) else []


assert payloads is not None
TARGETS = (
    (
        Target(
            name="builds",
            seeds=[
                bytes((choice,)) + seed
                for choice in range(len(SETTINGS))
                for seed in (ASKED, *OF_CAPABILITIES.get(choice, ()), *SEEDS[choice :: len(SETTINGS)])
            ],
            mutate=headed_mutator(stream_mutator(SEEDS), len(SETTINGS)),
            hear=hear_both,
            reasons=frozenset({TRUNCATED}),
            growth=5000,
        ),
    )
    if packetwire.compiled is True
    else ()
)

"""What is told apart by the library is told apart here again, without it and octet by octet."""

from __future__ import annotations

MAX_VARINT_OCTETS = 9


def frames_by_hand(octets: bytes) -> list[bytes] | None:
    """What stands behind each length, of frames or of packets; None if octets are missing or a length is long."""
    frames = []
    position = 0
    while position < len(octets):
        size = 0
        for count in range(MAX_VARINT_OCTETS + 1):
            if count == MAX_VARINT_OCTETS or position == len(octets):
                return None
            octet = octets[position]
            position += 1
            size = size << 7 | octet & 127
            if octet < 128:
                break
        if position + size > len(octets):
            return None
        frames.append(octets[position : position + size])
        position += size
    return frames

"""A multipart message as octets: each frame as a length (varint) and its octets, one after the other.

This is the only place where frames meet packets.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from packetwire.core.varint import decode_varint, encode_varint
from packetwire.errors import RemoteProtocolError

LONG: Final = 128
"""A length from which on it takes more than one octet."""


def join_frames(frames: Iterable[bytes]) -> bytes:
    """The octets of a message."""
    parts: list[bytes] = []
    add = parts.append
    for frame in frames:
        add(encode_varint(len(frame)))
        add(frame)
    return b"".join(parts)


def split_frames(octets: bytes) -> list[bytes]:
    """The frames in these octets; raises ValueError if they end inside a frame, or a length is too long."""
    frames: list[bytes] = []
    offset, end = 0, len(octets)
    while offset < end:
        size, start = octets[offset], offset + 1
        if size >= LONG:
            try:
                size, start = decode_varint(octets, offset, end)
            except RemoteProtocolError as error:
                raise ValueError(f"the length of frame {len(frames)} of a multipart message: {error}") from None
        if start < 0 or start + size > end:
            raise ValueError(f"frame {len(frames)} of a multipart message is cut off")
        offset = start + size
        frames.append(octets[start:offset])
    return frames

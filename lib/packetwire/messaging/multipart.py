"""A multipart message as octets: each frame as a length (varint) and its octets, one after the other.

This is the only place where frames meet packets.
"""

from __future__ import annotations

from collections.abc import Iterable

from packetwire.core.packets import decode_varint, encode_varint
from packetwire.errors import RemoteProtocolError


def join_frames(frames: Iterable[bytes]) -> bytes:
    """The octets of a message."""
    parts: list[bytes] = []
    for frame in frames:
        parts += encode_varint(len(frame)), frame
    return b"".join(parts)


def split_frames(octets: bytes) -> list[bytes]:
    """The frames in these octets; raises ValueError if they end inside a frame, or a length is too long."""
    frames: list[bytes] = []
    offset, end = 0, len(octets)
    while offset < end:
        try:
            size, start = decode_varint(octets, offset, end)
        except RemoteProtocolError as error:
            raise ValueError(f"the length of frame {len(frames)} of a multipart message: {error}") from None
        if start < 0 or start + size > end:
            raise ValueError(f"frame {len(frames)} of a multipart message is cut off")
        offset = start + size
        frames.append(octets[start:offset])
    return frames

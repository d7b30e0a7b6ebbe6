"""A multipart message as bytes: each frame as a length (varint) and its bytes, one after the other.

This is the only place where frames meet packets.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from packetwire.core.varint import LAST, decode_varint, encode_varint
from packetwire.errors import RemoteProtocolError

LONG: Final = 128
"""A length from which on it takes more than one byte."""


def join_frames(frames: Iterable[bytes]) -> bytes:
    """The bytes of a message."""
    parts: list[bytes] = []
    for frame in frames:
        size = len(frame)
        parts += (LAST[size] if size < LONG else encode_varint(size), frame)
    return b"".join(parts)


def split_frames(data: bytes) -> list[bytes]:
    """The frames in these bytes; raises ValueError if they end inside a frame, or a length is too long."""
    frames: list[bytes] = []
    offset, end = 0, len(data)
    while offset < end:
        size, start = data[offset], offset + 1
        if size >= LONG:
            try:
                size, start = decode_varint(data, offset, end)
            except RemoteProtocolError as error:
                raise ValueError(f"the length of frame {len(frames)} of a multipart message: {error}") from None
        if start < 0 or start + size > end:
            raise ValueError(f"frame {len(frames)} of a multipart message is cut off")
        offset = start + size
        frames.append(data[start:offset])
    return frames

"""The integers of the packet stream: big-endian base 128, at most 63 bits.

Strategy: one byte is the common case, so encoding takes the bytes of small integers from tables. Decoding
works in place, and where an integer is incomplete it says so without an exception, because a decoder meets that
with each chunk. `docs/wire.md` is the specification.
"""

from __future__ import annotations

from packetwire.core.refusals import QUOTED_BYTES, refuse
from packetwire.errors import LocalProtocolError

MAX_VARINT_BYTES = 9
MAX_UINT = (1 << 7 * MAX_VARINT_BYTES) - 1
"""The largest integer on the wire: 63 bits."""

BytesLike = bytes | bytearray | memoryview

LAST = tuple(bytes((n,)) for n in range(128))
"""The last byte of an integer, by its value."""
MORE = tuple(bytes((n | 0x80,)) for n in range(128))
"""Any other byte of an integer, by its value."""


def encode_varint(n: int) -> bytes:
    """The minimal encoding of `n`: big-endian base 128, the high bit set on all bytes but the last."""
    if 0 <= n < 1 << 7:
        return LAST[n]
    if 0 <= n < 1 << 14:
        return MORE[n >> 7] + LAST[n & 0x7F]
    if 0 <= n < 1 << 21:
        return MORE[n >> 14] + MORE[n >> 7 & 0x7F] + LAST[n & 0x7F]
    if not 0 <= n <= MAX_UINT:
        raise LocalProtocolError(f"{shown(n)} cannot be sent: integers go from 0 to 2**63 - 1")
    encoded = LAST[n & 0x7F]
    while n := n >> 7:
        encoded = MORE[n & 0x7F] + encoded
    return encoded


def decode_varint(data: BytesLike, offset: int, end: int, base: int = 0) -> tuple[int, int]:
    """Decode one integer at `offset`, return it and the offset behind it.

    Returns an offset of -1 if the integer does not end before `end`. `base` is the position of
    `data` in the stream, for the message of the `RemoteProtocolError` that an integer of more than 9
    bytes raises.
    """
    value = 0
    for position in range(offset, min(end, offset + MAX_VARINT_BYTES)):
        byte = data[position]
        value = value << 7 | byte & 0x7F
        if byte < 128:
            return value, position + 1
    if end - offset >= MAX_VARINT_BYTES:
        quoted = bytes(data[offset : min(end, offset + QUOTED_BYTES + 1)])
        raise refuse("varint-too-long", quoted, limit=MAX_VARINT_BYTES, offset=base + offset)
    return value, -1


def shown(n: int) -> str:
    """An integer for the text of an error, however long it is."""
    # an int of very many digits cannot be turned into decimal text
    return str(n) if n.bit_length() <= 128 else f"{n:#x}"[:32] + "…"

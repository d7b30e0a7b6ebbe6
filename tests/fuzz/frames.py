"""Lists of frames, and lists of those, as one input of octets: each item behind three octets of its length.

Any octets are such a list, so that whatever happens to an input, it stays one.
"""

from __future__ import annotations

from collections.abc import Iterable

LENGTH_OCTETS = 3


def pack(items: Iterable[bytes]) -> bytes:
    """The input for a list."""
    return b"".join(len(item).to_bytes(LENGTH_OCTETS, "big") + item for item in items)


def unpack(octets: bytes) -> list[bytes]:
    """The list in an input; the last item is as long as the octets last."""
    items = []
    position = 0
    while position < len(octets):
        start = position + LENGTH_OCTETS
        position = start + int.from_bytes(octets[position:start], "big")
        items.append(octets[start:position])
    return items

"""One packet as bytes, where the fields behind its tag are at hand: what each request and response needs.

Compiled, `packing.pyx` stands in its place, which makes the bytes in one go.
"""

from __future__ import annotations

from packetwire.core.varint import LAST, MORE, encode_varint


def packed(tag: int, tail: bytes, payload: bytes) -> bytes:
    """A packet; `tail` has the fields between its tag and its payload, see `packet.head_tail`."""
    if tag < 128:
        body = LAST[tag] + tail
    else:
        body = (MORE[tag >> 7] + LAST[tag & 127] if tag < 16384 else encode_varint(tag)) + tail
    size = len(body) + len(payload)
    return (LAST[size] if size < 128 else encode_varint(size)) + body + payload

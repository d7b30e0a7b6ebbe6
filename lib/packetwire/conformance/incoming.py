"""The bytes of the far end cut into packets, each with its bytes, as they tell more than its fields."""

from __future__ import annotations

from collections.abc import Iterator

from packetwire.conformance.steps import Got
from packetwire.core.packet import Packet
from packetwire.core.varint import decode_varint
from packetwire.errors import RemoteProtocolError

MAX_PACKET = 1 << 27
"""Bytes of a packet behind its length field, at most: more than any answer to these checks has."""


class Incoming:
    """Bytes in, packets out; stops at EOF and at a fault."""

    def __init__(self) -> None:
        self.fault = ""
        """The error in the bytes; "" if there is none."""
        self.behind_eof = b""
        """The bytes that came behind EOF."""
        self.has_ended = False
        """True once EOF has come."""
        self._unread = bytearray()

    @property
    def partial(self) -> bytes:
        """The bytes of a packet that is not whole."""
        return b"" if self.has_ended else bytes(self._unread)

    def feed(self, data: bytes) -> Iterator[Got]:
        """Take bytes, yield the packets that they complete."""
        if self.has_ended:
            self.behind_eof += data
            return
        self._unread += data
        offset = 0
        try:
            while not self.fault and (size := self._size_at(offset)):
                raw = bytes(self._unread[offset : offset + size])
                got = Got(Packet.from_bytes(raw), raw)
                offset += size
                yield got
                if got.is_eof:
                    self.has_ended = True
                    self.behind_eof = bytes(self._unread[offset:])
                    return
        except (RemoteProtocolError, ValueError) as error:
            self.fault = str(error)
        finally:
            del self._unread[:offset]

    def _size_at(self, offset: int) -> int:
        """The size of the packet there; 0 if it is not whole."""
        size, behind = decode_varint(self._unread, offset, len(self._unread))
        if behind < 0:
            return 0
        if size > MAX_PACKET:
            raise ValueError(f"a packet announces {size} bytes")
        return behind - offset + size if behind + size <= len(self._unread) else 0

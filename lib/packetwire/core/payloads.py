"""The payload of a long packet, in one object that is filled as its bytes arrive.

There is room for what has come, never for what was announced. Compiled, `payloads.pyx` stands in its place, which
fills the `bytes` that the handler or caller gets.
"""

from __future__ import annotations

from io import BytesIO

BEGIN_WITH = 1 << 16
"""Bytes of a payload for which there is room from the beginning, at most."""
AT_ONCE = 1 << 20
"""Bytes for which there is room as soon as more than that has come, at most; from there on the room is doubled."""


class Payload:
    """One of `size` bytes, of which those in `begun` are there."""

    def __init__(self, size: int, begun: bytes) -> None:
        self._size = size
        self._room = min(size, max(BEGIN_WITH, len(begun)))
        # of all that there is, only this gives away what was written to it without copying that
        self._buffer = BytesIO(bytes(self._room))
        self._buffer.write(begun)
        self._place = memoryview(b"")

    def add(self, piece: bytes) -> None:
        """Take the next bytes."""
        end = self._buffer.tell() + len(piece)
        if end > self._room:
            self._grow(end)
        self._buffer.write(piece)

    def place(self) -> memoryview:
        """The buffer for the next bytes; tell `placed` how many were written to it."""
        end = self._buffer.tell()
        if end == self._room:
            self._grow(end)
        self._place.release()
        self._place = self._buffer.getbuffer()[end : self._room]
        return self._place

    def placed(self, count: int) -> None:
        """So many bytes were written to their place."""
        self._place.release()
        self._buffer.seek(count, 1)

    def _grow(self, end: int) -> None:
        self._room = min(self._size, max(end, AT_ONCE, 2 * self._room))
        buffer = self._buffer
        before = buffer.tell()
        buffer.seek(self._room - 1)
        buffer.write(b"\0")
        buffer.seek(before)

    def collected(self) -> bytes:
        """The bytes that have come so far."""
        return self._buffer.getvalue()[: self._buffer.tell()]

    def complete(self) -> bytes:
        """All of it, once all has come."""
        self._place.release()
        return self._buffer.getvalue()

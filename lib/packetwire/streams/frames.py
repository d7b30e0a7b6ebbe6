"""Frames, received and sent elsewhere, as a file to read packets from and one to write packets to.

    conn = PacketConnection((frames_to_buffer(iter(sock.recv, b"")), FrameWriter(sock.send)))

Frame boundaries have no meaning in either direction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cs.buffer import CornuCopyBuffer

__all__ = ["FrameWriter", "frames_to_buffer"]

Frame = bytes | bytearray | memoryview


def frames_to_buffer(frames: Iterable[Frame]) -> CornuCopyBuffer:
    """A buffer with the bytes of all `frames`; empty frames make no difference.

    Frames are taken one by one, as they are needed; the buffer ends with the last one.
    """
    from cs.buffer import CornuCopyBuffer

    return CornuCopyBuffer(bytes(frame) for frame in frames if len(frame))


class FrameWriter:
    """A file to write to: each `flush` passes everything written since the last one to `send`, as one frame.

    A flush with nothing to send sends nothing, as an empty frame is a boundary. A frame that is longer than
    `max_size` is sent in pieces. If `send` raises, the bytes that were not sent are kept for the next flush.
    """

    def __init__(self, send: Callable[[bytes], object], max_size: int = 1 << 20) -> None:
        if max_size < 1:
            raise ValueError(f"max_size must be 1 or more, got {max_size}")
        self._send = send
        self._max_size = max_size
        self._data = bytearray()

    def write(self, octets: Frame, /) -> int:
        """Keep bytes until the next flush; returns how many."""
        self._data += octets
        return len(octets)

    def flush(self) -> None:
        """Send everything that was written."""
        while self._data:
            frame = bytes(self._data[: self._max_size])
            self._send(frame)
            del self._data[: len(frame)]

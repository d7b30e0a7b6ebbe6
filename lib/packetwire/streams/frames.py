"""Frames that are received and sent elsewhere, as what packets can be read from and written to.

    conn = PacketConnection((frames_to_buffer(iter(sock.recv, b"")), FrameWriter(sock.send)))

How octets are cut into frames means nothing in either direction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cs.buffer import CornuCopyBuffer

__all__ = ["FrameWriter", "frames_to_buffer"]

Frame = bytes | bytearray | memoryview


def frames_to_buffer(frames: Iterable[Frame]) -> CornuCopyBuffer:
    """A buffer of the octets of `frames`, wherever these are split; empty frames make no difference.

    Its end is that of `frames`, which are taken one by one, as they are needed.
    """
    from cs.buffer import CornuCopyBuffer

    return CornuCopyBuffer(bytes(frame) for frame in frames if len(frame))


class FrameWriter:
    """A file to write to: each `flush` hands what was written since the last one to `send`, as one frame.

    Nothing is sent for a flush without octets, as an empty frame is a boundary. A frame that is longer than
    `max_size` is sent in pieces. If `send` raises, the octets that it was not given are kept for the next flush.
    """

    def __init__(self, send: Callable[[bytes], object], max_size: int = 1 << 20) -> None:
        if max_size < 1:
            raise ValueError(f"max_size must be 1 or more, got {max_size}")
        self._send = send
        self._max_size = max_size
        self._octets = bytearray()

    def write(self, octets: Frame, /) -> int:
        """Keep octets until the next flush; the number of them."""
        self._octets += octets
        return len(octets)

    def flush(self) -> None:
        """Send what was written."""
        while self._octets:
            frame = bytes(self._octets[: self._max_size])
            self._send(frame)
            del self._octets[: len(frame)]

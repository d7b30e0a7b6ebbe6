"""Reading straight into the buffer in which the bytes belong, for streams that can."""

from __future__ import annotations

from collections.abc import Callable

from packetwire.streams.buffers import WritableBuffer
from packetwire.streams.bytestream import ByteStream
from packetwire.streams.fds import FdReader
from packetwire.streams.sockets import SocketReader


def reader_in_place(stream: ByteStream) -> Callable[[WritableBuffer], int | None] | None:
    """A function that does what `try_read` does, into a buffer; None if the stream has none.

    It returns the number of bytes, 0 at the end, and None if there are none now.
    """
    reader = getattr(stream, "reader", None)
    # only these: any other half, and any other `try_read`, may look at what is read, or change it
    if isinstance(reader, FdReader | SocketReader) and type(reader) in {FdReader, SocketReader}:
        return reader.try_read_into if stream.try_read == reader.try_read else None
    return None

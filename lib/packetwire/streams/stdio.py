"""Being a child: standard input and output as a stream, safe from stray prints."""

from __future__ import annotations

import os
import sys
import threading

from packetwire.errors import LocalProtocolError
from packetwire.streams.bytestream import ByteStream
from packetwire.streams.open import open_reader, open_writer

_lock = threading.Lock()
_taken = False


def stdio() -> ByteStream:
    """Take descriptors 0 and 1 for a connection to the process that started us.

    Both are moved to other numbers. Then 0 reads /dev/null and 1 writes to standard error, so that what
    any code prints, in Python or in C, cannot get between the packets. The stream owns the moved
    descriptors. Raises `LocalProtocolError` if called twice.
    """
    global _taken
    with _lock:
        if _taken:
            raise LocalProtocolError("stdio() was called before: standard input and output are in use")
        _taken = True
        read_fd, write_fd = os.dup(0), os.dup(1)
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        try:
            os.dup2(2, 1)
        except OSError:
            os.dup2(null, 1)  # there is no standard error
        os.close(null)
        if sys.stdout is not None:
            sys.stdout.flush()  # what was printed before, and is still held, must not come between the packets

    def close() -> None:
        os.close(read_fd)
        os.close(write_fd)

    return ByteStream(open_reader(read_fd), open_writer(write_fd), close)

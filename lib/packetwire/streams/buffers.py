"""How much is read and written at a time."""

from __future__ import annotations

from collections.abc import Sequence

Buffers = Sequence[bytes | memoryview]
WritableBuffer = bytearray | memoryview
READ_SIZE = 65536
"""Bytes of one read, unless more is expected."""
MAX_READ = 1 << 18
"""Bytes of one read, at most, while a long packet arrives."""
WRITE_AT = 640
"""Bytes that are written without waiting for more: enough to share a system call, and few enough for the peer
to work on them meanwhile."""
MAX_BUFFERS = 256
"""Buffers in one system call: no more than any system's IOV_MAX."""
JOIN_LIMIT = 65536
"""Bytes up to which several buffers are copied into one: below, that costs less than their number does."""

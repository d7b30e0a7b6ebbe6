"""Reading a stream up to the line before the first packet, and writing meanwhile what the far end needs first."""

from __future__ import annotations

import secrets
import select
import time

from packetwire.core.preamble import DIGITS, PREAMBLE_LIMIT, Preamble
from packetwire.streams.buffers import READ_SIZE
from packetwire.streams.bytestream import Buffers, ByteStream

DEFAULT_SYNC_TIMEOUT = 30.0
"""Seconds for the line to come."""
ENDED = "the output ended before it"

_LONGEST_POLL = 3600.0


def fresh_digits() -> str:
    """Digits for one opening."""
    return secrets.token_hex(DIGITS // 2)


def read_up_to_line(stream: ByteStream, preamble: Preamble, seconds: float, first: bytes = b"") -> str:
    """Read until the preamble is complete, and write `first` meanwhile; what comes behind it is left in the stream.

    Returns "" if the line has come, `ENDED` if the stream is at its end, or another reason why not.
    """
    deadline = time.monotonic() + seconds
    unsent: Buffers = (first,) if first else ()
    while True:
        poller = select.poll()
        poller.register(stream.read_fd, select.POLLIN)
        if unsent:
            poller.register(stream.write_fd, stream.write_events)
        left = deadline - time.monotonic()
        if left <= 0:
            return f"it did not come within {seconds:g} s"
        ready = {fd for fd, _ in poller.poll(min(left, _LONGEST_POLL) * 1000 + 1)}
        if unsent and stream.write_fd in ready:
            try:
                unsent = stream.write_batch(unsent)
            except OSError:
                unsent = ()  # nobody takes it: what comes, or the end, says why
        if stream.read_fd not in ready:
            continue
        try:
            data = stream.try_read(READ_SIZE)
        except OSError as error:
            return f"reading failed: {error}"
        if data == b"":
            return ENDED
        if data and preamble.receive(data):
            stream.leading_data = preamble.rest
            return ""
        if preamble.is_too_long:
            return f"it is not in the first {PREAMBLE_LIMIT} bytes"

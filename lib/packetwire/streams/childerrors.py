"""A child's standard error: kept for messages, passed on to ours, given to a function line by line."""

from __future__ import annotations

import logging
from collections.abc import Callable

from packetwire.streams.standard import forward_to_standard_error

logger = logging.getLogger("packetwire")

STDERR_KEPT = 64 << 10
STDERR_LINE_LIMIT = 64 << 10
"""Bytes of a line; a longer one comes in pieces."""

_QUOTED = 2000
_QUOTED_IN_TIMEOUTS = 500


class StandardError:
    """The standard error of one child.

    With `forward` all of it is copied to ours; if that is a string, each line with that before it. `on_line` is
    called with each line, without its end, by the thread that reads: it must be quick.
    """

    def __init__(self, forward: bool | str = False, on_line: Callable[[str], object] | None = None) -> None:
        self._forward = forward
        self._on_line = on_line
        self._kept = bytearray()
        self._line = bytearray()

    @property
    def kept(self) -> bytes:
        """The last bytes."""
        return bytes(self._kept)

    def receive(self, data: bytes) -> None:
        """Take bytes in."""
        self._kept += data
        del self._kept[:-STDERR_KEPT]
        if self._forward is True:
            forward_to_standard_error(data)
        if self._on_line is None and not isinstance(self._forward, str):
            return
        self._line += data
        *lines, rest = self._line.split(b"\n")
        pieces = [piece for line in lines for piece in _cut(line)]
        *more, self._line = _cut(rest)
        self._give(pieces + more)

    def end(self) -> None:
        """Nothing more comes: the last line may have no end."""
        line, self._line = self._line, bytearray()
        if line:
            self._give([line])

    def _give(self, lines: list[bytearray]) -> None:
        texts = [line.decode("utf-8", errors="replace").removesuffix("\r") for line in lines]
        if isinstance(self._forward, str) and texts:
            forward_to_standard_error("".join(f"{self._forward}{text}\n" for text in texts).encode())
        if self._on_line is not None:
            for text in texts:
                try:
                    self._on_line(text)
                except Exception:
                    logger.exception("on_stderr failed")

    def quoted(self) -> str:
        """The end of it, for a message that says how the child ended; "" if there is nothing."""
        return self._quoted(_QUOTED)

    def quoted_in_timeout(self) -> str:
        """Its last lines, for a message about a child that does not answer; "" if there is nothing."""
        return self._quoted(_QUOTED_IN_TIMEOUTS)

    def _quoted(self, size: int) -> str:
        text = bytes(self._kept[-size:]).decode("utf-8", errors="replace").rstrip()
        return f"; its standard error ends:\n{text}" if text else ""


def _cut(line: bytearray) -> list[bytearray]:
    """A line in pieces within the limit, at least one."""
    return [line[start : start + STDERR_LINE_LIMIT] for start in range(0, len(line), STDERR_LINE_LIMIT)] or [line]

"""Receiving messages of which the peer says how many frames they have.

A message is kept by libzmq until its last frame has come, and is read frame by frame. So the frames of one that has
too many are thrown away some at a time, with the owner's lock let go in between.
"""

from __future__ import annotations

from typing import Any

import zmq

NOBLOCK = int(zmq.NOBLOCK)
SLICE = 1024
"""Frames that are thrown away at a stretch: about a millisecond."""


class Discarding:
    """Throws away the frames of a socket that are left of a message."""

    def __init__(self, sock: zmq.Socket[Any]) -> None:
        self._recv = sock.recv
        self.count = 0
        """Frames of the message that were thrown away."""
        self.is_done = True

    def begin(self) -> None:
        """The frame that was read last is not the last of its message."""
        self.count, self.is_done = 0, False

    def go_on(self, most: int = SLICE) -> bool:
        """Throw away up to `most` frames; whether the end of the message was reached."""
        recv = self._recv
        for _ in range(most):
            if self.is_done:
                break
            try:
                self.is_done = not recv(NOBLOCK, copy=False).more  # quicker than to ask for RCVMORE
            except zmq.Again:  # never in the middle of a message, unless it came to nothing
                self.is_done = True
            else:
                self.count += 1
        return self.is_done

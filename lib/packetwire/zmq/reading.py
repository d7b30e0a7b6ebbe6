"""Receiving messages of which only so many frames are wanted.

A peer can put any number of frames into a message, and libzmq hands a whole message on before the next peer has
its turn. So the frames beyond those that a message may have are thrown away, with no more work for each than to
take it; and only some of them at a time, so that whoever reads can look after everything else in between.
"""

from __future__ import annotations

from typing import Final

import zmq

SKIPPED_AT_ONCE: Final = 1000
"""Frames that are thrown away before the caller has its turn: about a millisecond."""
_NOBLOCK: Final = int(zmq.NOBLOCK)


class MessageReader:
    """Receives from one socket, without waiting.

    A message has at most `most` frames; of a longer one there is one more.
    """

    def __init__(self, socket: zmq.Socket[bytes], most: int) -> None:
        self._recv = socket.recv
        self._most = most
        self.skipping = False
        """Whether there is more to throw away, of which the socket's descriptor may have told already."""

    def receive(self) -> list[zmq.Frame] | None:
        """The next message; None if there is none now.

        Of one that is too long there are `most` frames and one more, as soon as these are read. What follows in it
        is thrown away by later calls, which return an empty list as long as there may be more of it.
        """
        recv = self._recv
        try:
            if self.skipping and not self._skip():
                return []
            frame = recv(_NOBLOCK, copy=False)
            frames = [frame]
            while frame.more:
                if len(frames) > self._most:
                    self.skipping = True
                    break
                frame = recv(_NOBLOCK, copy=False)
                frames.append(frame)
        except zmq.Again:
            return None
        return frames

    def _skip(self) -> bool:
        """Throw away what a message has too much; whether that was all."""
        recv = self._recv
        for _ in range(SKIPPED_AT_ONCE):
            if not recv(_NOBLOCK, copy=False).more:
                self.skipping = False
                return True
        return False

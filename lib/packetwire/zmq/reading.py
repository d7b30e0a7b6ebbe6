"""Receiving messages with a bound on their frames, whose number the peer decides.

libzmq keeps a message until its last frame has come, and delivers a whole message before the next peer has its
turn. So the excess frames of a message are discarded as cheaply as possible, and only some of them at a time, so
that the reader can do other work, or release a lock, in between.
"""

from __future__ import annotations

from typing import Final

import zmq

from packetwire.zmq.owned import SentT

SKIPPED_AT_ONCE: Final = 1000
"""Frames that are discarded in one go, which takes about a millisecond."""
_NOBLOCK: Final = int(zmq.NOBLOCK)


class Discarding:
    """Discards the rest of a message's frames, without waiting."""

    def __init__(self, socket: zmq.Socket[SentT]) -> None:
        self._recv = socket.recv
        self.count = 0
        """Frames of the message that were discarded."""
        self.is_done = True
        """False while frames are left to discard, which the socket's descriptor may have signalled already."""

    def begin(self) -> None:
        """Begin a new rest: the frame that was read last is not the last of its message."""
        self.count, self.is_done = 0, False

    def go_on(self, most: int = SKIPPED_AT_ONCE) -> bool:
        """Discard up to `most` frames; True once the end of the message is reached."""
        recv = self._recv
        for _ in range(most):
            if self.is_done:
                break
            try:
                self.is_done = not recv(_NOBLOCK, copy=False).more  # quicker than to ask for RCVMORE
            except zmq.Again:  # in the middle of a message only if its peer vanished, and libzmq dropped the rest
                self.is_done = True
            else:
                self.count += 1
        return self.is_done


class MessageReader:
    """Receives from one socket, without waiting.

    A message has at most `most` frames; a longer one is returned with one frame more than that.
    """

    def __init__(self, socket: zmq.Socket[SentT], most: int) -> None:
        self._recv = socket.recv
        self._most = most
        self._rest = Discarding(socket)

    @property
    def skipping(self) -> bool:
        """True if there is more to discard, which the socket's descriptor may have signalled already."""
        return not self._rest.is_done

    def skip_rest(self) -> None:
        """Discard the rest of a message of which the caller has read some frames itself."""
        self._rest.begin()

    def receive(self) -> list[zmq.Frame] | None:
        """The next message; None if there is none now.

        One that is too long is returned with `most` frames and one more. Later calls discard the rest, and return
        an empty list as long as there may be more of it.
        """
        recv, rest = self._recv, self._rest
        if not rest.is_done and not rest.go_on():
            return []
        try:
            frame = recv(_NOBLOCK, copy=False)
            frames = [frame]
            while frame.more:
                if len(frames) > self._most:
                    rest.begin()
                    break
                frame = recv(_NOBLOCK, copy=False)
                frames.append(frame)
        except zmq.Again:
            return None
        return frames

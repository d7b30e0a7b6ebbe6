"""Sending and receiving messages by ZMQ sockets.

A message is sent and received frame by frame. Each call releases the GIL. Receiving a `zmq.Frame`, which says if
the message goes on, takes four times as long as receiving bytes, and deleting it releases the GIL once more. A
server has to know exactly where each message ends: its clients may send anything, and the frames of one must not
get into the message of another. A client has one peer: it receives five frames, and checks the last one only.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Sequence
from typing import Final

import zmq

from packetwire.hololinked.messages import FRAMES
from packetwire.zmq.reading import MessageReader

PlainSocket = zmq.Socket[bytes]

_NOBLOCK: Final = int(zmq.NOBLOCK)
_NOBLOCK_MORE: Final = int(zmq.NOBLOCK | zmq.SNDMORE)  # to combine flags takes longer than to send
_GONE: Final = (zmq.ETERM, zmq.ENOTSOCK)
_send: Final = zmq.backend.Socket.send
"""The method of `zmq.Socket` is written in Python, and only calls this one."""


def send_frames(socket: PlainSocket, frames: Sequence[bytes]) -> int:
    """Send a message, whole or not at all; returns 0, or the errno of the failure.

    Raises `zmq.ZMQError` if the socket is gone.
    """
    try:
        for frame in frames[:-1]:
            _send(socket, frame, _NOBLOCK_MORE)
        _send(socket, frames[-1], _NOBLOCK)
    except zmq.ZMQError as error:
        if error.errno in _GONE:
            raise
        return error.errno or errno.EIO
    return 0


class FrameReader:
    """Receives from a socket with any number of peers, without waiting."""

    def __init__(self, socket: PlainSocket) -> None:
        self._reader = MessageReader(socket, FRAMES)

    def receive(self) -> list[bytes] | None:
        """The next message, None if there is none. The excess frames of one that has too many are discarded.

        After None the socket's descriptor signals the next message, unless something is sent in between. An empty
        list means that frames were discarded, and that there may be more.
        """
        frames = self._reader.receive()
        return None if frames is None else [frame.bytes for frame in frames]

    @property
    def holds_some(self) -> bool:
        """True if the reader holds a message, which ZMQ does not signal any more."""
        return False


class LinkReader(FrameReader):
    """Receives from a socket whose one peer is a ROUTER with that `identity`, the first frame of each message.

    Once a message had another number of frames, or reading one was interrupted, each frame is checked.
    """

    def __init__(self, socket: PlainSocket, identity: bytes) -> None:
        super().__init__(socket)
        self._recv = socket.recv
        self._identity = identity
        self._careful = False
        self._held: deque[list[bytes]] = deque()

    @property
    def holds_some(self) -> bool:
        return bool(self._held)

    def receive(self) -> list[bytes] | None:
        """See `FrameReader.receive`."""
        if self._careful:
            return self._held.popleft() if self._held else super().receive()
        recv = self._recv
        try:
            frames = [recv(_NOBLOCK)]
        except zmq.Again:
            return None
        try:
            frames += recv(_NOBLOCK), recv(_NOBLOCK), recv(_NOBLOCK)
            last = recv(_NOBLOCK, copy=False)
        except zmq.Again:  # ZMQ never says that amid a message, so that one was shorter
            return self._parted(frames, goes_on=False)
        frames.append(last.bytes)
        if last.more or frames[0] != self._identity or frames[1]:
            return self._parted(frames, goes_on=last.more)
        return frames

    def _parted(self, frames: list[bytes], *, goes_on: bool) -> list[bytes]:
        """Split frames into messages: returns the first one, holds the others. The last one may go on."""
        self._careful = True
        first = 2 if frames[0] == self._identity else 1  # frames before an identity are the rest of a message
        begins = [0, *(at for at in range(first, len(frames)) if frames[at] == self._identity)]
        for begin, end in zip(begins, [*begins[1:], len(frames)], strict=True):
            self._held.append(frames[begin:end])
        last = self._held[-1]
        while goes_on and len(last) <= FRAMES:
            frame = self._recv(_NOBLOCK, copy=False)
            last.append(frame.bytes)
            goes_on = frame.more
        if goes_on:
            self._reader.skip_rest()
        return self._held.popleft()

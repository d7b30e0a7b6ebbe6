"""A body that this end sends, as far as its credit goes.

Strategy: what is written is queued, and leaves a piece each in turn with what else is in the lane. A body that
waits for credit stands nowhere. Any thread may write, the reader grants, one thread at a time takes: bytes are
queued and taken in one step each, and whatever ends a body is said first and done then.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from packetwire.core.frames import FrameType, encode_frame, frame_head
from packetwire.core.lanes import Lane, Part, Payload
from packetwire.core.packet import check_payload
from packetwire.core.varint import MAX_UINT, BytesLike
from packetwire.errors import BodyEnded, LocalProtocolError, PacketwireError, copy_of

MOST_UNSENT = 256 << 10
"""Bytes of a body that have not left, past which its writer is to wait."""
LEAST_CREDIT = 16 << 10
"""A sender waits for so much credit, unless less is left to be sent."""


def nothing() -> None:
    """In place of a callback."""


class SendingBody:
    """A body that this end sends: that of a request of ours, or of our response to one of the peer.

    `credit` is what may be sent at once, `size` its length if that was announced.
    """

    is_counted = False

    def __init__(
        self, lane: Lane, channel: int, tag: int, credit: int, *, size: int | None = None, of_receiver: bool
    ) -> None:
        self.idle: list[None] = [None]
        self.credit = credit
        """Bytes that may be sent now."""
        self.ended: PacketwireError | None = None
        """Why nothing more can be written."""
        self.stopped: tuple[int, str] | None = None
        """(code, text) of the peer's STOP."""
        self.lost = False
        """Bytes were dropped, but not as the peer wanted no more."""
        self.on_change: Callable[[], object] = nothing
        """Called when `unsent` has become less and is no more than `MOST_UNSENT`, or the body has ended; by any
        thread."""
        self._lane = lane
        self._channel, self._tag, self._of_receiver = channel, tag, of_receiver
        self._size = size
        self._enough = max(1, min(LEAST_CREDIT, credit // 2))
        self._chunks: deque[bytes] = deque()
        self._offset = 0  # in the first of these
        self._written = self._unsent = 0
        self._is_finished = False
        self._last: bytes | Payload | None = None  # what leaves behind it
        self._is_last_counted = False
        self._has_left: Callable[[], object] = nothing

    @property
    def unsent(self) -> int:
        """Bytes that have been written, and have not left."""
        return max(0, self._unsent)

    @property
    def waits_for_credit(self) -> bool:
        """There is something to send, but the peer grants nothing."""
        return self.unsent > 0 and not self.is_ready

    def write(self, data: BytesLike) -> int:
        """Send bytes as soon as there is credit; returns `unsent`.

        Raises why it cannot be sent, a `BodyEnded` or `ConnectionEnded`, or `LocalProtocolError` if it is more than
        was announced, or behind the end.
        """
        chunk = check_payload(data)
        if self.ended is not None:
            self.lost = self.lost or self.stopped is None
            raise copy_of(self.ended)
        if self._is_finished:
            raise LocalProtocolError("the body is finished, nothing can be written behind its end")
        if self._size is not None and self._written + len(chunk) > self._size:
            raise LocalProtocolError(f"the body was announced with {self._size} bytes, this would be more")
        if chunk:
            self._written += len(chunk)
            self._chunks.append(chunk)  # first this, as it may be taken at once
            self._unsent += len(chunk)
            if self.ended is not None:
                self._drop()  # it ended just now, and whoever ended it may not have seen this
            self._wake()
        return self.unsent

    def finish(self) -> None:
        """It is whole. The body of a response ends by the response, so this does nothing more for it.

        Raises `LocalProtocolError` if it is shorter than it was announced.
        """
        if self._is_finished:
            return
        if self.ended is None and self._size is not None and self._written < self._size:
            raise LocalProtocolError(f"the body was announced with {self._size} bytes, it has {self._written}")
        self._is_finished = True
        if not self._of_receiver and self.ended is None:
            self._last = encode_frame(FrameType.END, self._channel, self._tag)
            self._wake()

    def _wake(self) -> None:
        if self.is_ready:
            self._lane.wake(self)

    # what the engine calls

    @property
    def is_ready(self) -> bool:
        """Something may leave: bytes for which there is credit, or what stands behind the last."""
        if self._unsent > 0:
            return self.credit >= min(self._unsent, self._enough)
        return self._last is not None

    def grant(self, more: int) -> None:
        """The peer takes so many bytes more."""
        self.credit = min(self.credit + more, MAX_UINT)
        self._wake()

    def end(self, reason: PacketwireError) -> None:
        """Nothing more of it is sent, for that reason; what stands behind it may still leave."""
        if self.ended is None:
            self.ended = reason
            if not self._of_receiver:
                self._last = None
            self._drop()
            self._wake()
            self.on_change()

    def stop(self, code: int, text: str) -> None:
        """The peer wants no more of it."""
        if self.ended is None:
            self.stopped = code, text
            self.end(BodyEnded(f"the peer wants no more of the body{': ' if text else ''}{text}"))

    def _drop(self) -> None:
        self.lost = self.lost or (self.stopped is None and self._unsent > 0)
        self._chunks.clear()
        self._unsent = 0

    def finish_with(self, response: Payload, left: Callable[[], object]) -> None:
        """The response leaves behind all that was written; `left` is called when it has."""
        self._is_finished = True
        self._has_left = left
        self._last = response
        self._lane.replies += 1
        self._wake()

    def refuse_with(self, response: Payload) -> None:
        """In place of a response that stands behind bytes which nobody takes, unless that has begun to leave."""
        if self._last is not None and not self._is_last_counted:
            self._last = response
            self.end(BodyEnded("the request was given up"))

    def take(self, lane: Lane, most: int) -> list[Part]:
        """The next packets, with up to `most` bytes of payload; only for the one that writes."""
        taken: list[Part] = []
        size = min(most, self._unsent, self.credit)
        if size > 0:
            try:
                parts = self._cut(size)
            except IndexError:  # it was dropped just now
                return []
            self.credit -= size
            self._unsent -= size
            head = frame_head(FrameType.DATA, self._channel, self._tag, size, of_receiver=self._of_receiver)
            lane.more += len(head) + size
            taken = [head, *parts]
        if self._unsent <= 0 and self._last is not None:
            taken += self._take_last(lane, most)
        if self._unsent <= MOST_UNSENT:
            self.on_change()
        return taken

    def _cut(self, size: int) -> list[Part]:
        parts: list[Part] = []
        while size:
            first = self._chunks[0]
            part = memoryview(first)[self._offset : self._offset + size]
            parts.append(part)
            size -= len(part)
            self._offset += len(part)
            if self._offset == len(first):
                self._chunks.popleft()
                self._offset = 0
        return parts

    def _take_last(self, lane: Lane, most: int) -> list[Part]:
        last = self._last
        if not isinstance(last, Payload):
            self._last = None
            if last is None:  # it was given up just now
                return []
            lane.more += len(last)
            return [last]
        if not self._is_last_counted:
            self._is_last_counted = True
            lane.waiting += last.left
            lane.more += last.left
        packets = last.take(lane, most)
        if not last.left:
            self._last = None
            self._has_left()
        return packets

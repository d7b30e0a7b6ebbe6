"""A body that comes from the peer, and how much of it may be on its way.

Strategy: the consumer's own steps grant the peer more, so that no more is ever held than the window. The reader
adds what comes, one consumer takes it, in one step each; whatever ends a body is said first and done then.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress

from packetwire.core.frames import FrameType, encode_frame, encode_reason
from packetwire.core.hello import MAX_REASON
from packetwire.core.lanes import Lane
from packetwire.core.refusals import refuse
from packetwire.core.sendingbody import LEAST_CREDIT, nothing
from packetwire.core.statuses import StatusCode
from packetwire.core.varint import encode_varint
from packetwire.errors import BodyEnded, PacketwireError

MAX_WINDOW = 1 << 20
"""Bytes to which the window of a body grows while its consumer keeps up."""
SMALL, MANY = 1024, 256
"""Bytes below which what comes is joined to what came before, once there are so many of them."""
POOL = 16 << 20
"""Bytes by which the windows of all bodies of a connection grow, at most."""


class ReceivingBody:
    """A body that comes from the peer: that of a request of its, or of its response to one of ours.

    `window` are the bytes that may be on their way or here at the beginning, and have been granted.
    """

    def __init__(
        self, bodies: Windows, channel: int, tag: int, window: int, *, size: int | None = None, of_receiver: bool
    ) -> None:
        self.size = size
        """Its length, if that was announced."""
        self.is_whole = False
        """All of it has come."""
        self.failure: PacketwireError | None = None
        """Why no more of it comes, though it is not whole."""
        self.on_change: Callable[[], object] = nothing
        """Called when bytes have come, or no more come; by any thread."""
        self.first_window = self.window = window
        self.received = self.consumed = 0
        """Bytes that have come, and of these those that were taken."""
        self._granted = window
        self._windows = bodies
        self._channel, self._tag, self._of_receiver = channel, tag, of_receiver
        self._chunks: deque[bytes | memoryview] = deque()

    @property
    def available(self) -> int:
        """Bytes that are here."""
        return self.received - self.consumed

    @property
    def at_end(self) -> bool:
        """It is whole, and all of it was taken."""
        return self.is_whole and not self._chunks

    @property
    def _is_over(self) -> bool:
        return self.is_whole or self.failure is not None

    def take(self, most: int | None = None) -> bytes:
        """Some of the bytes that are here, at most so many; none if there are none just now."""
        try:
            chunk = self._chunks.popleft()
        except IndexError:
            return b""
        if most is not None and len(chunk) > most:
            view = memoryview(chunk)
            self._chunks.appendleft(view[most:])  # not copied, as it may be taken in many small parts
            chunk = view[:most]
        self.consumed += len(chunk)
        if self._is_over:
            self._leave()
        elif 2 * self._grantable >= self.window:
            if not self._chunks:  # its consumer keeps up
                self.window = self._windows.grown(self)
            self._grant()
        return bytes(chunk)

    def wait(self) -> None:
        """Its consumer waits for more: grant all that was taken."""
        if not self._is_over and self._granted - self.received < max(self.window // 2, LEAST_CREDIT):
            self._grant()

    def stop(self, code: int = StatusCode.CANCELLED, text: str = "") -> None:
        """No more of it is wanted: drop what is here and what comes. The request goes on."""
        if self._is_over:
            self._chunks.clear()
            self._leave()
            return
        self._fail(BodyEnded("this end wanted no more of the body"), keep=False)
        reason = encode_reason(code, text[:MAX_REASON])
        self._windows.lane.send(self._frame(FrameType.STOP, reason))

    @property
    def _grantable(self) -> int:
        """Bytes of the window that are neither on their way nor here."""
        more = self.window - (self._granted - self.consumed)
        return more if self.size is None else min(more, self.size - self._granted)

    def _grant(self) -> None:
        more = self._grantable
        if more > 0:
            self._granted += more
            self._windows.lane.send(self._frame(FrameType.CREDIT, encode_varint(more)))

    def _frame(self, kind: FrameType, payload: bytes) -> bytes:
        # the request is its receiver's if the body is that of a request
        return encode_frame(kind, self._channel, self._tag, payload, of_receiver=not self._of_receiver)

    def _leave(self) -> None:
        if not self._chunks:
            self._windows.open.pop(self, None)

    # what the engine calls

    def receive(self, data: bytes) -> None:
        """Bytes have come. Raises `RemoteProtocolError` if they may not."""
        if self.failure is not None:
            return  # they crossed what ended it
        if self.is_whole:
            raise self._bad("DATA behind the end of a body")
        if not data:
            raise self._bad("DATA without any")
        if self.received + len(data) > self._granted:
            raise refuse("credit-exceeded", tag=self._tag, size=self.received + len(data), limit=self._granted)
        if self.size is not None and self.received + len(data) > self.size:
            raise self._bad(f"more than the {self.size} bytes that were announced")
        self.received += len(data)
        self._keep(data)
        if self.failure is not None:
            self._chunks.clear()  # its consumer has stopped it just now
        self.on_change()

    def _keep(self, data: bytes) -> None:
        chunks = self._chunks
        if len(data) < SMALL and len(chunks) > MANY:
            # of many small ones each would take many times its size. The consumer takes from the other end: if it
            # is through with them just now it finds nothing, and is told behind this
            with suppress(IndexError):
                last = chunks.pop()
                if len(last) < SMALL:
                    data = bytes(last) + data
                else:
                    chunks.append(last)
        chunks.append(data)

    def _bad(self, problem: str) -> Exception:
        return refuse("bad-frame", problem=problem, tag=self._tag)

    def finish(self) -> None:
        """All of it has come. Raises `RemoteProtocolError` if that cannot be."""
        if self.failure is not None:
            return
        if self.is_whole:
            raise self._bad("a second END")
        if self.size is not None and self.received < self.size:
            raise self._bad(f"END behind {self.received} of {self.size} bytes")
        self.is_whole = True
        if self._of_receiver:
            self._windows.open.pop(self, None)  # what is here is the caller's now, as a payload would be
        else:
            self._leave()
        self.on_change()

    def end(self, reason: PacketwireError, *, keep: bool) -> None:
        """No more of it comes, for that reason; with `keep` what is here can still be taken."""
        if not self._is_over:
            self._fail(reason, keep=keep)
            self.on_change()
        elif not keep:
            self._chunks.clear()
            self.consumed = self.received
            self._leave()

    def _fail(self, reason: PacketwireError, *, keep: bool) -> None:
        self.failure = reason
        if not keep:
            self._chunks.clear()
            self.consumed = self.received
        self._windows.open.pop(self, None)


class Windows:
    """The bodies of one connection that are open towards this end, and how far their windows may grow."""

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.open: dict[ReceivingBody, None] = {}
        """Those that are not whole, or not taken yet."""

    @property
    def held(self) -> int:
        """Bytes that are here."""
        return sum(body.available for body in list(self.open))

    def grown(self, body: ReceivingBody) -> int:
        """The window that a body may have now."""
        taken = sum(each.window - each.first_window for each in list(self.open) if each is not body)
        most = min(MAX_WINDOW, body.first_window + max(0, POOL - taken))
        return max(body.window, min(2 * body.window, most))

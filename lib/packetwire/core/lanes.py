"""The order in which what is to be sent leaves: everything small at once, large payloads one piece each in turn.

Strategy: small packets stand in the engine's list. Large ones stand here, and are taken by whoever writes, while
little is queued: so a small packet waits for one or two pieces, never for a payload. Any thread may add to
the lane, one takes from it. A request that is given up is claimed by taking it out of a dict, in one step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from typing import Protocol

from packetwire.core.frames import FrameType, frame_head
from packetwire.core.packet import packet_head
from packetwire.core.packetcodec import Key

PIECES_ABOVE = 1 << 20
"""Bytes of a payload above which it goes in pieces, to a peer that joins these.

Pieces take a third more time. A small packet waits for one MiB about as long as for the pieces that are under way.
"""
QUEUED_BELOW = 128 << 10
"""Pieces are taken while fewer bytes than that are about to be written."""
SHORT_PIECE = 64 << 10
"""Bytes of a piece while something else is under way; and of the part of a payload that goes with its packet."""
LONG_PIECE = 256 << 10
"""Bytes of a piece of a payload while nothing else is under way; of a body it may be what the peer takes.

A payload is joined from them all the same, and larger ones make that no faster.
"""
MAX_IN_PIECES = 4
"""Payloads that are in pieces at a time; others wait for their turn."""
MAX_ANNOUNCED = 256
"""Requests of ours whose packets have not left, at most; a further one goes in one piece."""

Part = bytes | memoryview


class Sender(Protocol):
    """Something that has bulk to send, a piece at a time."""

    idle: list[None]
    """Not empty while it is not in the lane; popped in one step by whoever puts it there."""
    is_counted: bool
    """It is one of those of which few are sent at a time."""

    @property
    def is_ready(self) -> bool:
        """It has something that may leave now."""
        ...

    def take(self, lane: Lane, most: int) -> list[Part]:
        """The next packets, with up to `most` bytes of payload; only for the one that writes."""
        ...


class Payload:
    """The payload of one request or response, and what stands before it in its packet.

    `tail` has the fields behind the tag.
    """

    __slots__ = ("channel", "in_pieces", "is_request", "left", "payload", "tag", "tail")

    def __init__(
        self, channel: int, tag: int, tail: bytes, payload: bytes, *, is_request: bool, in_pieces: bool = True
    ) -> None:
        self.channel = channel
        self.tag = tag
        self.tail = tail
        self.payload = payload
        self.left = len(payload)
        """Bytes that have not been taken."""
        self.is_request = is_request
        self.in_pieces = in_pieces
        """The peer joins pieces."""

    @property
    def key(self) -> Key:
        """That of the request."""
        return (self.channel, self.tag) if self.channel else self.tag

    def take(self, lane: Lane, most: int) -> list[Part]:
        """The next piece, or the packet with the rest; none if it was given up."""
        payload, left = self.payload, self.left
        begin = len(payload) - left
        if left > SHORT_PIECE and self.in_pieces and (not self.is_request or self.key in lane.requests):
            size = min(left - SHORT_PIECE, most, LONG_PIECE)
            head = frame_head(FrameType.PIECE, self.channel, self.tag, size, of_receiver=not self.is_request)
        elif not self.is_request or lane.requests.pop(self.key, None) is not None:
            size = left
            head = packet_head(self.tag, self.tail, size)
            if not self.is_request:
                lane.replies -= 1
        else:
            lane.dropped(left)
            self.left = 0
            return []
        self.left = left - size
        lane.waiting -= size
        lane.more += len(head)
        return [head, memoryview(payload)[begin : begin + size]]


class Single:
    """A payload that depends on no other."""

    is_counted = True

    def __init__(self, payload: Payload) -> None:
        self.idle: list[None] = [None]
        self._payload = payload
        self.is_ready = True

    def take(self, lane: Lane, most: int) -> list[Part]:
        """As `Payload.take`."""
        packets = self._payload.take(lane, most)
        self.is_ready = self._payload.left > 0
        return packets


class InOrder:
    """The packets sent on one channel that is not 0, in their order, as conversations depend on that."""

    is_counted = True

    def __init__(self) -> None:
        self.idle: list[None] = [None]
        self.payloads: deque[Payload] = deque()

    @property
    def is_ready(self) -> bool:
        """There is one left."""
        return bool(self.payloads)

    def take(self, lane: Lane, most: int) -> list[Part]:
        """As `Payload.take`."""
        payload = self.payloads[0]
        packets = payload.take(lane, most)
        if not payload.left:
            self.payloads.popleft()
        return packets


class Lane:
    """The bulk of one connection."""

    def __init__(self, unsent: list[bytes]) -> None:
        self.waiting = 0
        """Bytes of payloads that are to be sent, and count as unsent."""
        self.replies = 0
        """Responses whose packet has not been taken."""
        self.requests: dict[Key, Payload] = {}
        """Requests of ours whose packet has not been taken."""
        self.chains: dict[int, InOrder] = {}
        """By channel: requests and responses that stay in order."""
        self.behind: list[bytes] = []
        """Packets that leave behind the requests."""
        self.frames: list[bytes] = []
        """Small frames that leave ahead of all that is here, and are counted then."""
        self.more = 0
        """Bytes that are to be added to what counts as unsent: heads that were made, less what was given up."""
        self._queue: deque[Sender] = deque()  # payloads that wait for their turn
        self._turns: deque[Sender] = deque()  # a piece each
        self._counted = 0  # of these, payloads
        self._took_nothing = False
        self._unsent = unsent  # of the engine; whoever writes looks there

    @property
    def is_empty(self) -> bool:
        """Nothing may leave now."""
        return not (self._turns or self._queue or self.frames)

    @property
    def is_drained(self) -> bool:
        """No packet of a request or response is left here."""
        return not (self.requests or self.replies > 0)

    def add(self, payload: Payload) -> None:
        """A payload is to be sent."""
        if payload.is_request:
            self.requests[payload.key] = payload  # first this, as it may be taken at once
        else:
            self.replies += 1
        if payload.channel:
            chain = self.chains.get(payload.channel) or self.chains.setdefault(payload.channel, InOrder())
            chain.payloads.append(payload)
            self.wake(chain)
        else:
            self.wake(Single(payload))
        self.waiting += len(payload.payload)

    def is_behind(self, channel: int) -> bool:
        """True if packets on this channel, which is not 0, have to stay behind others that are here."""
        chain = self.chains.get(channel)
        return chain is not None and chain.is_ready

    def wake(self, sender: Sender) -> None:
        """It has something to send; nothing is done if that is known."""
        try:
            sender.idle.pop()
        except IndexError:
            return
        (self._queue if sender.is_counted else self._turns).append(sender)
        self._unsent.append(b"")

    def send(self, frame: bytes) -> None:
        """Send a frame behind what is small."""
        self.frames.append(frame)
        self._unsent.append(b"")

    def take_frames(self) -> list[bytes]:
        """The frames that are to be sent."""
        frames = self.frames[:]
        del self.frames[: len(frames)]
        self.more += sum(map(len, frames))
        return frames

    def drop(self, key: Key) -> Payload | None:
        """A request is given up: its packet never leaves. None if that has left, or it was never here."""
        payload = self.requests.pop(key, None)
        if payload is not None:
            payload.payload = bytes(0)  # whoever takes a piece just now has it still
        return payload

    def dropped(self, size: int) -> None:
        """So many bytes are not to be sent any more."""
        self.waiting -= size
        self.more -= size

    def clear(self) -> None:
        """Nothing can be sent any more."""
        self._queue.clear()
        self._turns.clear()
        self.requests.clear()
        self.chains.clear()
        self.behind.clear()
        self.frames.clear()
        self.waiting = self.replies = self.more = self._counted = 0

    def ready_now(self) -> set[Sender]:
        """Those that have something to send."""
        return {*self._turns.copy(), *self._queue.copy()}

    def take(self, queued: int, most: int, ready: Collection[Sender] | None = None) -> list[Part]:
        """Take the parts that leave with `queued` other bytes: a piece of each in turn, of `most` bytes at most.

        Only of those that were `ready` before the other bytes were taken: what they send may belong to these.
        Behind a batch that had no room for any it is one piece at least, so that nothing waits for ever.
        """
        taken: list[Part] = []
        at_least_one = self._took_nothing
        while queued < QUEUED_BELOW or at_least_one:
            sender = self._next()
            if sender is None:
                break
            if ready is not None and sender not in ready:
                self._turns.append(sender)
                break
            packets = sender.take(self, most)
            taken += packets
            queued += sum(map(len, packets))
            at_least_one = at_least_one and not packets
            if sender.is_ready:
                self._turns.append(sender)
                continue
            if sender.is_counted:
                self._counted -= 1
            sender.idle.append(None)
            if sender.is_ready:  # since just now, and whoever added that saw it here
                self.wake(sender)
        self._took_nothing = not taken
        return taken

    def _next(self) -> Sender | None:
        while self._counted < MAX_IN_PIECES and self._queue:
            self._turns.append(self._queue.popleft())
            self._counted += 1
        try:
            return self._turns.popleft()
        except IndexError:
            return None

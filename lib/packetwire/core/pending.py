"""Requests of a client whose answers may be lost: their tags, how long they are waited for, and sending them again.

There is no connection that could end, so nothing but the time tells that no answer comes. A request that may be
performed several times is sent again when a part of its time is over; whichever answer comes first counts.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

from packetwire.core.engine import check_channel
from packetwire.core.packet import Packet
from packetwire.core.settings import DEFAULT_MAX_PACKET_SIZE
from packetwire.core.varint import BytesLike
from packetwire.errors import LimitExceeded, LocalProtocolError

FIRST_TAG = 2

FutureT = TypeVar("FutureT")


class _Pending(NamedTuple, Generic[FutureT]):
    """A request without an answer."""

    future: FutureT
    packet: bytes
    deadline: float
    retry_after: float | None

    def next_due(self, now: float) -> float:
        """The time at which it is to be sent again, or given up."""
        return self.deadline if self.retry_after is None else min(self.deadline, now + self.retry_after)


class Due(NamedTuple, Generic[FutureT]):
    """The things to be done at a time: packets to be sent again, requests that are late, by their tags."""

    again: list[bytes]
    late: dict[int, FutureT]
    seconds: float | None
    """Until something is due again; None if nothing will be."""


class PendingRequests(Generic[FutureT]):
    """The requests of one client that have no answer; whoever waits for one has a future of some kind.

    An idempotent request is sent up to `attempts` times. All times are of one clock.
    """

    def __init__(self, attempts: int, max_pending: int) -> None:
        if attempts < 1 or max_pending < 1:
            raise LocalProtocolError("timeout, attempts and max_pending must be more than 0")
        self.max_pending = max_pending
        self.late_responses = 0
        """Responses that nobody waited for any more, or at all."""
        self._attempts = attempts
        self._next_tag = FIRST_TAG
        self._pending: dict[int, _Pending[FutureT]] = {}
        self._due: list[tuple[float, int]] = []

    def __len__(self) -> int:
        return len(self._pending)

    @property
    def is_full(self) -> bool:
        """True while there is no room for one more."""
        return len(self._pending) >= self.max_pending

    @property
    def futures(self) -> list[FutureT]:
        """Those of all requests."""
        return [pending.future for pending in self._pending.values()]

    def ask(
        self,
        future: FutureT,
        rq_type: int,
        flags: int,
        payload: BytesLike,
        channel: int,
        now: float,
        deadline: float,
        idempotent: bool,
    ) -> tuple[int, bytes]:
        """Note a request: its tag, and the packet to be sent. Raises as `PacketConnection.submit` does."""
        if rq_type < 0:
            raise LocalProtocolError(f"rq_type must be 0 or more, got {rq_type}")
        check_channel(channel)
        tag = self._next_tag
        packet = bytes(
            Packet(is_request=True, channel=channel, tag=tag, flags=flags, rq_type=rq_type + 1, payload=payload)
        )
        if len(packet) > DEFAULT_MAX_PACKET_SIZE:
            raise LimitExceeded(f"a packet has at most {DEFAULT_MAX_PACKET_SIZE} bytes")
        self._next_tag += 1
        retry_after = (deadline - now) / self._attempts if idempotent and self._attempts > 1 else None
        pending = self._pending[tag] = _Pending(future, packet, deadline, retry_after)
        heapq.heappush(self._due, (pending.next_due(now), tag))
        return tag, packet

    def answer(self, packet: Packet) -> FutureT | None:
        """The future that gets this response; None if nobody waits for it, which is counted."""
        pending = None if packet.is_request else self._pending.pop(packet.tag, None)
        if pending is None:
            self.late_responses += 1
            return None
        return pending.future

    def forget(self, tag: int) -> None:
        """Nobody waits for this response any more."""
        self._pending.pop(tag, None)

    def due(self, now: float, is_cancelled: Callable[[FutureT], bool]) -> Due[FutureT]:
        """See to all that is due by now. Requests that are late, or whose future is cancelled, are forgotten."""
        again: list[bytes] = []
        late: dict[int, FutureT] = {}
        while self._due:
            at, tag = self._due[0]
            pending = self._pending.get(tag)
            if pending is not None and at > now:
                return Due(again, late, at - now)
            heapq.heappop(self._due)
            if pending is None:
                continue
            if now < pending.deadline and not is_cancelled(pending.future):
                heapq.heappush(self._due, (pending.next_due(now), tag))
                again.append(pending.packet)
            else:
                del self._pending[tag]
                late[tag] = pending.future
        return Due(again, late, None)

    def take_all(self) -> list[FutureT]:
        """It is the end: all requests are forgotten, and their futures returned."""
        futures = self.futures
        self._pending.clear()
        self._due.clear()
        return futures

"""The rule by which a peer counts as gone: it sends nothing although it was asked to, or takes nothing.

Time is an argument. The owner looks now and then, and says what came and went meanwhile; an owner that could not
look for a while, as it was stopped or suspended, judges nobody by that time.
"""

from __future__ import annotations

from enum import Enum
from typing import Protocol

from packetwire.core.packetcodec import PacketReader

DEFAULT_KEEPALIVE = 15.0
"""Seconds without a byte after which a peer is asked, while something is awaited of it; and as long again."""
IDLE_KEEPALIVE = 120.0
"""The same for a client that a server has, and of which nothing is awaited."""
STALL_SECONDS = 60.0
"""Seconds for which a peer may take nothing of what is sent to it."""
LATE = 5.0
"""Seconds by which a look is late if this end was paused; half the time after which it asks, if that is less."""
MOST_LOOKS = 8
"""Looks in the time after which a peer is asked."""


class Engine(Protocol):
    """The engine of the connection: what it has received and is to send."""

    decoder: PacketReader
    unsent_octets: int


class Verdict(Enum):
    """The result of a look: the thing to be done."""

    NOTHING = "nothing"
    PING = "ping"
    SILENT = "it sent nothing"
    STALLED = "it took nothing"


class Keepalive:
    """Watches the peer of one connection: asks after `seconds`, or after `idle` if nothing is awaited of it."""

    def __init__(self, seconds: float, idle: float | None, now: float) -> None:
        self.interval = min(max(seconds / MOST_LOOKS, 0.01), LATE)
        """Seconds between two looks."""
        self._late = max(min(LATE, seconds / 2), self.interval)
        self._seconds = seconds
        self._idle = idle
        self._stall = max(STALL_SECONDS, 2 * seconds) if seconds >= 1 else 4 * seconds
        self._received = self._sent = -1
        self._heard_at = self._taken_at = self._looked_at = now
        self._asked_at: float | None = None
        self._leaves_at = 0  # bytes written when all that waited before the question has left, and it can

    def look(self, now: float, *, received: int, sent: int, unsent: int, awaits: bool) -> Verdict:
        """It is `now`: what follows from all bytes received and sent so far, those unsent, and what is awaited."""
        was_paused = now - self._looked_at > self.interval + self._late
        self._looked_at = now
        if received != self._received:
            self._received, self._heard_at, self._asked_at = received, now, None
        if sent != self._sent or not unsent:
            if self._asked_at is not None and self._sent < sent and self._sent < self._leaves_at:
                self._asked_at = now  # it has not been asked yet, as it is still taking what stands before that
            self._sent, self._taken_at = sent, now
        if was_paused:
            self._heard_at = self._taken_at = now
            self._asked_at = None
            return Verdict.PING
        if now - self._taken_at >= self._stall:
            return Verdict.STALLED
        return self._judge(now, awaits, sent + unsent)

    def look_at(self, engine: Engine, now: float, sent: int, outstanding: int) -> Verdict:
        """Look at a connection, of which so many bytes were written and so many requests wait for a response."""
        unsent = engine.unsent_octets
        return self.look(
            now,
            received=engine.decoder.octets_decoded + engine.decoder.bytes_kept,
            sent=sent,
            unsent=unsent,
            awaits=outstanding > 0 or unsent > 0,
        )

    def text(self, verdict: Verdict) -> str:
        """The reason of an end, for people."""
        if verdict is Verdict.STALLED:
            return f"it has taken none of the bytes that wait for it for {self._stall:g} s"
        return f"it was asked for a sign of life, and sent nothing for {self._seconds:g} s"

    def told(self, verdict: Verdict) -> str:
        """The reason of an end as the peer is told."""
        return f"this end was unresponsive: {self.text(verdict)}"

    def forgive(self, now: float) -> None:
        """There is something to be read, which this end has not come to."""
        self._heard_at, self._asked_at = now, None

    def _judge(self, now: float, awaits: bool, leaves_at: int) -> Verdict:
        if self._asked_at is not None:
            return Verdict.SILENT if now - self._asked_at >= self._seconds else Verdict.NOTHING
        limit = self._seconds if awaits else self._idle
        if limit is None:
            self._heard_at = max(self._heard_at, now - self._seconds / 2)  # from when something is awaited
            return Verdict.NOTHING
        if now - self._heard_at < limit:
            return Verdict.NOTHING
        self._asked_at, self._leaves_at = now, leaves_at
        return Verdict.PING

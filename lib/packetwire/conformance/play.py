"""One check while it runs: bytes in, bytes out, a verdict in the end.

Strategy: this is pure; a shell brings the bytes of the stream, and the time.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from packetwire.conformance.incoming import Incoming
from packetwire.conformance.steps import (
    Came,
    Ended,
    EndWriting,
    Failed,
    Got,
    Nothing,
    Receive,
    Send,
    Skipped,
    Steps,
)
from packetwire.conformance.talk import Talk

MOST_LINES = 200
"""Lines of a transcript that are kept; of a longer one the last are."""
MOST_BYTES = 1 << 26
"""Bytes that a far end may send in one check."""


class Verdict(StrEnum):
    """How a check ended."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


class Line(NamedTuple):
    """A line of a transcript: `sign` is > for what was sent, < for what came, and "" for a remark."""

    sign: str
    data: bytes
    text: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The verdict on a check, and how it came about."""

    verdict: Verdict
    reason: str = ""
    lines: tuple[Line, ...] = ()
    """All that was sent and that came; the last line is what the reason is about."""


class Play:
    """Runs the steps of a check. The shell writes `outbox`, and reads unless `is_deaf`."""

    def __init__(self, steps: Steps[None], talk: Talk) -> None:
        self.outbox: deque[Send] = deque()
        self.ends_writing = False
        """True if our direction of the stream ends behind what is in the outbox."""
        self.outcome: Outcome | None = None
        self.evidence: dict[str, tuple[Line, ...]] = {}
        """Rule that was broken -> the transcript up to there."""
        self._steps = steps
        self._ledger = talk.ledger
        self._incoming = Incoming()
        self._came: deque[Came] = deque()
        self._lines: deque[Line] = deque(maxlen=MOST_LINES)
        self._size = 0
        self._ended = False
        self._advance(None)

    @property
    def is_deaf(self) -> bool:
        """True while nothing may be read."""
        return bool(self.outbox) and self.outbox[0].deaf

    def receive(self, data: bytes) -> None:
        """Take bytes of the far end."""
        self._size += len(data)
        if self._incoming.has_ended:
            self._lines.append(Line("<", data, "behind EOF"))
        for got in self._incoming.feed(data):
            self._lines.append(Line("<", got.raw, described(got)))
            self._ledger.receive(got)
            self._came.append(got)
            self._keep_evidence()
        if self._incoming.behind_eof:
            self._ledger.behind_eof(self._incoming.behind_eof)
        fault = self._incoming.fault or ("it sends without end" if self._size > MOST_BYTES else "")
        if fault and not self._ended:
            self._lines.append(Line("<", self._incoming.partial, f"malformed: {fault}"))
            self._ledger.malformed(fault)
            self._end(f"what came is malformed: {fault}")
        self._keep_evidence()
        self._go_on()

    def end(self, reason: str) -> None:
        """The stream has ended."""
        if self._incoming.partial and not self._ended:
            self._lines.append(Line("<", self._incoming.partial, "a part of a packet"))
            self._ledger.truncated(self._incoming.partial)
        self._end(reason)
        self._go_on()

    def _keep_evidence(self) -> None:
        for rule in self._ledger.broken:
            self.evidence.setdefault(rule, tuple(self._lines))

    def _end(self, reason: str) -> None:
        if not self._ended:
            self._ended = True
            self._lines.append(Line("", b"", f"the stream ended: {reason}"))
            self._came.append(Ended(reason))

    def time_out(self, seconds: float) -> None:
        """Nothing came for so long."""
        if self._incoming.partial:
            self._lines.append(Line("<", self._incoming.partial, "a part of a packet"))
        self._lines.append(Line("", b"", f"nothing more for {seconds:g} s"))
        self._came.append(Nothing(seconds))
        self._go_on()

    def _go_on(self) -> None:
        while self._came and self.outcome is None:
            self._advance(self._came.popleft())
        self._keep_evidence()

    def _advance(self, came: Came | None) -> None:
        """Run the check until it waits, or is over."""
        try:
            step = self._steps.send(came)
            while not isinstance(step, Receive):
                self._do(step)
                step = self._steps.send(None)
        except StopIteration:
            self.outcome = self._outcome(Verdict.PASSED, "")
        except Failed as failure:
            self.outcome = self._outcome(Verdict.FAILED, str(failure))
        except Skipped as skipped:
            self.outcome = self._outcome(Verdict.SKIPPED, str(skipped))

    def _outcome(self, verdict: Verdict, reason: str) -> Outcome:
        return Outcome(verdict, reason, tuple(self._lines))

    def _do(self, step: Send | EndWriting) -> None:
        if isinstance(step, EndWriting):
            self._lines.append(Line("", b"", "we end our direction of the stream"))
            self.ends_writing = True
        elif step.data:
            self._lines.append(Line(">", step.data, "byte by byte" if step.piecemeal else ""))
            self._ledger.send(step.data)
            self.outbox.append(step)


def described(got: Got) -> str:
    """A packet in a few words."""
    packet = got.packet
    if got.is_eof or got.is_erq:
        return "EOF" if got.is_eof else "ERQ"
    where = f"{packet.channel}:{packet.tag}"
    if packet.is_request:
        return f"request {where}, type {(packet.rq_type or 0) - 1}"
    return f"response to {where}, {'ok' if packet.flags & 1 else 'not ok'}"

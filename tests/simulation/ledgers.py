"""What became of each request of a round, and what may become of it."""

from __future__ import annotations

import random
import zlib
from collections import Counter

from packetwire.errors import (
    BodyEnded,
    CapabilityMissing,
    ConnectionEnded,
    DeadlineExceeded,
    Draining,
    LimitExceeded,
    RequestCancelled,
    RequestFailed,
    RequestTimeout,
)

from .plans import BODY, DIGEST, ECHO, RAISE, Plan, Question

HEAD = 10
"""Bytes of a payload before its filler."""


class Wrong(AssertionError):
    """Something that must be true is not."""


def payload_of(question: Question) -> bytes:
    """The payload of a request: what its handler is to do, and a filler of its own."""
    milliseconds = int(question.seconds * 1000)
    head = question.number.to_bytes(6) + milliseconds.to_bytes(4)
    return head + filler(question.number, question.size)


def filler(number: int, size: int) -> bytes:
    """Bytes that belong to a request."""
    return random.Random(number).randbytes(size) if size else b""


def number_of(payload: bytes) -> int:
    """The number of a request, by its payload."""
    return int.from_bytes(payload[:6])


def seconds_of(payload: bytes) -> float:
    """The time for which its handler waits; bounded, as a bit may have flipped."""
    return min(int.from_bytes(payload[6:10]) / 1000, 10.0)


def answer_of(op: int, payload: bytes) -> bytes:
    """What the handler of such a request is to answer."""
    if op == ECHO:
        return payload
    if op == DIGEST:
        return zlib.crc32(payload).to_bytes(4) + payload[:6]
    return b"%d answers " % op + payload[:6]


class Ledger:
    """Counts the outcomes of one round; `failures` is what was wrong."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.asked = 0
        self.outcomes: Counter[str] = Counter()
        self.begun: Counter[int] = Counter()
        self.failures: list[str] = []
        self.is_closing = False
        """Somebody has begun to close, or to ask the other to ask nothing more."""

    def ask(self) -> None:
        """One more is asked."""
        self.asked += 1

    def fail(self, text: str) -> None:
        """Something is wrong."""
        if len(self.failures) < 20:
            self.failures.append(text)

    def begin(self, payload: bytes) -> None:
        """A handler has begun with it."""
        number = number_of(payload)
        self.begun[number] += 1
        if self.begun[number] > 1 and not self.plan.is_damaged and self.plan.topology == "pair":
            self.fail(f"request {number} was begun {self.begun[number]} times")

    def answered(self, question: Question, response: tuple[bool, int, bytes]) -> None:
        """There was a response."""
        ok, _, payload = response
        if not ok:
            self.outcomes["failed" if question.op == RAISE else "refused"] += 1
            if question.op != RAISE and not (self._may_lose or question.is_limited or question.op == BODY):
                self.fail(f"{question} was refused: {payload[:200]!r}")
            return
        self.outcomes["answered"] += 1
        is_right = question.op == BODY or payload == answer_of(question.op, payload_of(question))
        if not (is_right or self.plan.is_damaged):
            self.fail(f"{question} was answered by {payload[:100]!r}")

    @property
    def _may_lose(self) -> bool:
        return self.plan.may_lose or self.is_closing

    def raised(self, question: Question, error: BaseException) -> None:
        """The call has raised."""
        options = question.options
        if isinstance(error, DeadlineExceeded):
            name, allowed = "deadline", "deadline" in options
        elif isinstance(error, RequestTimeout):
            name = "timeout"
            allowed = "timeout" in options or "idle_timeout" in options or question.op == BODY
            allowed = allowed or "deadline" in options  # if it passes while there is no room
            allowed = allowed or self.plan.topology == "pool"
        elif isinstance(error, CapabilityMissing):
            name = "capability"
            allowed = not self.plan.have_capabilities or self._may_lose or self.plan.is_late or bool(options)
        elif isinstance(error, ConnectionEnded | Draining):
            name, allowed = "ended", self._may_lose
        elif isinstance(error, LimitExceeded):
            name, allowed = "limit", True
        elif isinstance(error, RequestCancelled):
            name, allowed = "cancelled-there", self._may_lose or question.kind == "stream"
            allowed = allowed or question.cancelled_after is not None
        elif isinstance(error, BodyEnded | RequestFailed):
            name, allowed = "body-ended", True
        else:
            name, allowed = type(error).__name__, False
        if self.plan.is_damaged:
            allowed = allowed or isinstance(error, DeadlineExceeded | RequestTimeout | CapabilityMissing)
        self.outcomes[name] += 1
        if not allowed:
            self.fail(f"{question} raised {error!r}")

    def cancelled(self, question: Question) -> None:
        """Its task was cancelled."""
        self.outcomes["cancelled"] += 1
        if question.cancelled_after is None:
            self.fail(f"{question} was cancelled")

    def check(self) -> None:
        """Raises `Wrong`."""
        total = sum(self.outcomes.values())
        if total != self.asked:
            self.fail(f"{self.asked} requests had {total} outcomes: {dict(self.outcomes)}")
        if self.failures:
            raise Wrong("\n".join(self.failures))

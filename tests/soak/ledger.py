"""What became of each request of a round, and what was wrong with it."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from concurrent.futures import CancelledError, Future

from cs.fsm import CancellationError

from packetwire import ConnectionEnded, Draining

from .behaviours import Ask, Response

CLOSING_TEXTS = (
    b"requests no longer allowed",
    b"the connection was closed before this request was done",
    b"CancelledError: ",
    b"draining: no more requests are begun",
    b"Draining: ",
    b"the body of this response is not whole",
    b"BodyEnded: ",
)
"""How a request is refused, or given up, by an end that closes; nested calls quote it."""
ENDED_NAMES = (b"ConnectionEnded", b"PeerClosed", b"StreamTruncated", b"ChildExited", b"RuntimeError: Event loop")

GIVEN_UP = "given up"


class Ledger:
    """Every request is entered once and ends once. From any thread."""

    def __init__(self, *, may_end: bool, is_spoilt: bool) -> None:
        """`may_end`: requests may be lost with their connection; `is_spoilt`: octets are changed on their way."""
        self._may_end = may_end
        self._is_spoilt = is_spoilt
        self._lock = threading.Lock()
        self._open: dict[int, Ask] = {}
        self._outcomes: dict[int, str] = {}
        self._watched: set[int] = set()
        self._notified: Counter[int] = Counter()
        self._awaited: list[tuple[int, Future[None]]] = []
        self.faults: list[str] = []
        self.octets = 0
        """Of payloads, of requests and responses that arrived."""

    @property
    def outcomes(self) -> Counter[str]:
        """How many requests ended in each way."""
        return Counter(self._outcomes.values())

    def complain(self, text: str) -> None:
        """Something was wrong."""
        with self._lock:
            self.faults.append(text)

    def reached(self, count: int) -> Future[None]:
        """Done when that many requests have ended."""
        future: Future[None] = Future()
        with self._lock:
            self._awaited.append((count, future))
        return future

    def enter(self, ask: Ask) -> None:
        """It is about to be sent."""
        with self._lock:
            if ask.number in self._open or ask.number in self._outcomes:
                self.faults.append(f"{ask} was entered twice")
            self._open[ask.number] = ask

    def watch(self, ask: Ask) -> None:
        """`notify` has to be called for it, once."""
        with self._lock:
            self._watched.add(ask.number)

    def notify(self, ask: Ask) -> None:
        """The library tells that it is done."""
        with self._lock:
            self._notified[ask.number] += 1

    def answered(self, ask: Ask, response: Response) -> None:
        """A response came."""
        ok, flags, payload = response
        if ask.is_answered_by(response):
            self._end(ask, "answered" if ok else "failed as asked", len(ask.payload) + len(payload))
        elif self._is_spoilt:
            self._end(ask, "spoilt", len(ask.payload) + len(payload))
        elif self._may_end and not ok and any(text in payload for text in (*CLOSING_TEXTS, *ENDED_NAMES)):
            self._end(ask, "refused by a closing peer")
        else:
            self._end(ask, "wrong")
            self.complain(f"{ask} got a wrong answer: {ok}, {flags:#x}, {len(payload)} octets {payload[:80]!r}")

    def failed(self, ask: Ask, error: BaseException, *, cancelled: bool = False) -> None:
        """It raised instead."""
        if isinstance(error, TimeoutError):
            is_fine, outcome = ask.timeout is not None, "timed out"
        elif isinstance(error, CancellationError | CancelledError | asyncio.CancelledError):
            is_fine, outcome = cancelled, "cancelled"
        elif isinstance(error, ConnectionEnded | Draining):
            is_fine, outcome = self._may_end, "lost with the connection"
        else:
            is_fine, outcome = False, "wrong"
        self._end(ask, outcome)
        if not is_fine:
            self.complain(f"{ask} ended by {error!r}, caused by {error.__cause__!r}")

    def gave_up(self, ask: Ask) -> None:
        """Nobody looks at its outcome any more."""
        self._end(ask, GIVEN_UP)

    def _end(self, ask: Ask, outcome: str, octets: int = 0) -> None:
        with self._lock:
            if self._open.pop(ask.number, None) is None:
                self.faults.append(f"{ask} ended again: {self._outcomes.get(ask.number)}, then {outcome}")
            self._outcomes[ask.number] = outcome
            self.octets += octets
            due = [future for count, future in self._awaited if len(self._outcomes) >= count]
            self._awaited = [entry for entry in self._awaited if entry[1] not in due]
        for future in due:
            future.set_result(None)

    def check(self) -> None:
        """The round is over: every request has ended."""
        for ask in self._open.values():
            self.faults.append(f"{ask} has not ended")
        for number in self._watched:
            if self._notified[number] != 1:
                self.faults.append(f"the end of request {number} was told {self._notified[number]} times")

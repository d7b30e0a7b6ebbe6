"""Feeding a target: mutated inputs, within bounds of time and memory, and what came of that."""

from __future__ import annotations

import signal
import time
import traceback
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

from .target import Target

CPU_SECONDS = 20
"""Seconds of processor time that one input may take: a thousand times what any should."""
MEASURED = 10
"""One in so many inputs is decoded with its memory measured."""
ALLOWANCE = 1 << 17
"""Octets that any input may take."""
POOL = 300
"""Inputs that met something new are mutated further, as many of them as this."""
POOL_OCTETS = 10_000
"""And only if they are not longer than this."""


class TooLong(Exception):
    """An input takes too much time."""


class TooMuch(Exception):
    """An input takes too much memory."""


@dataclass(frozen=True)
class Finding:
    """An input that did what none may, and what that was."""

    target: str
    octets: bytes
    kind: str
    told: str


@dataclass
class Report:
    """What came of a run."""

    target: Target
    inputs: int = 0
    refused: int = 0
    """Inputs for which there was a reason to be refused, or several."""
    reasons: Counter[str] = field(default_factory=Counter)
    findings: dict[str, Finding] = field(default_factory=dict)
    """By their kind: one of each."""
    most_memory: float = 0.0
    """The octets that an octet of an input took, in the worst case that was measured."""

    @property
    def missing(self) -> list[str]:
        """Reasons that were never met."""
        return sorted(self.target.reasons - set(self.reasons))

    def add(self, other: Report) -> None:
        """Count another run of the same target, too."""
        self.inputs += other.inputs
        self.refused += other.refused
        self.reasons += other.reasons
        self.findings |= other.findings
        self.most_memory = max(self.most_memory, other.most_memory)


@contextmanager
def watchdog() -> Iterator[Callable[[], None]]:
    """Raises `TooLong` when too much processor time has passed since the function it gives was called last."""

    def too_long(number: int, frame: Any) -> None:
        raise TooLong(f"more than {CPU_SECONDS} s of processor time")

    before = signal.signal(signal.SIGVTALRM, too_long)
    try:
        yield lambda: signal.setitimer(signal.ITIMER_VIRTUAL, CPU_SECONDS) and None
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


class Listener:
    """Has a target hear inputs, and keeps the report."""

    def __init__(self, target: Target, wind: Callable[[], None]) -> None:
        self.report = Report(target)
        self._wind = wind
        self._target = target

    def hear(self, octets: bytes) -> frozenset[str]:
        """Have the target hear an input; why it was refused."""
        report = self.report
        report.inputs += 1
        self._wind()
        try:
            if report.inputs % MEASURED == 0:
                reasons = Counter(self._measured(octets))
            else:
                reasons = Counter(self._target.hear(octets))
        except Exception as error:
            self._note(octets, error)
            return frozenset()
        report.reasons += reasons
        report.refused += bool(reasons)
        return frozenset(reasons)

    def _measured(self, octets: bytes) -> list[str]:
        allowance = ALLOWANCE + self._target.besides
        limit = allowance + self._target.growth * len(octets)
        for _ in range(2):  # something may be imported, the first time
            tracemalloc.start()
            try:
                reasons = list(self._target.hear(octets))
                peak = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
            if peak <= limit:
                break
        else:
            raise TooMuch(f"{peak} octets of memory for an input of {len(octets)}")
        self.report.most_memory = max(self.report.most_memory, (peak - allowance) / max(1, len(octets)))
        return reasons

    def _note(self, octets: bytes, error: Exception) -> None:
        place = traceback.extract_tb(error.__traceback__)[-1]
        kind = f"{type(error).__name__} in {place.name}, line {place.lineno}"
        known = self.report.findings.get(kind)
        if known is None or len(octets) < len(known.octets):
            told = "".join(traceback.format_exception(error))
            self.report.findings[kind] = Finding(self._target.name, octets, kind, told)


def hear_once(target: Target, octets: bytes) -> None:
    """Have a target hear one input; raises what that raises."""
    with watchdog() as wind:
        wind()
        list(target.hear(octets))


def run(target: Target, *, runs: int | None = None, seconds: float | None = None, seed: int = 0) -> Report:
    """Mutate, without knowing what code that reaches: what meets a reason that is new is mutated further.

    `seconds` are of processor time.
    """
    random = Random(f"{target.name} {seed}")
    pool = [octets for octets in target.seeds if len(octets) <= POOL_OCTETS]
    most = len(pool) + POOL
    met: set[frozenset[str]] = set()
    deadline = None if seconds is None else time.process_time() + seconds
    with watchdog() as wind:
        listener = Listener(target, wind)
        report = listener.report
        for octets in target.seeds:
            met.add(listener.hear(octets))
        while (runs is None or report.inputs < runs) and (deadline is None or time.process_time() < deadline):
            octets = target.mutate(random.choice(pool), random)
            reasons = listener.hear(octets)
            if reasons not in met and len(pool) < most:
                met.add(reasons)
                if len(octets) <= POOL_OCTETS:
                    pool.append(octets)
    return report

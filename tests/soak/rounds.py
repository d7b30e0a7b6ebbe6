"""Round after round, each checked at its end, and what came of all of them."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.connections.certificates import make_certificate

from .ends import Surroundings
from .later import Later
from .ledger import Ledger
from .leftovers import Holdings, Memory, left_since, peak_resident
from .plan import TLS_TRANSPORTS, RoundPlan, draw
from .topologies import Places, run_round
from .watching import Watchdog, told_of_stray_errors

ROUND_LIMIT = 90.0
"""Seconds that no round takes unless it hangs."""
WARM_UP = 50
"""Rounds after which memory is looked at."""
SPAN = 50
"""Rounds of which the least memory counts."""
OBJECT_GROWTH = 2000
"""Objects by which the least of the later spans may be above that of the earlier ones."""
RESIDENT_GROWTH = 24 << 20
"""The same in octets that are resident: what the allocator cannot give back goes up and down by megabytes."""


DRAWN_IN_VAIN = 2000
"""Rounds that are drawn without finding one that is wanted, before none is looked for any more."""


class NoSuchRound(Exception):
    """No round has all the words that it should have."""


class RoundFailed(Exception):
    """What was wrong with a round, and how to repeat it."""


@dataclass
class Tally:
    """The figures."""

    rounds: int = 0
    seconds: float = 0.0
    requests: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    topologies: Counter[str] = field(default_factory=Counter)
    faces: Counter[str] = field(default_factory=Counter)
    transports: Counter[str] = field(default_factory=Counter)
    logged: Counter[str] = field(default_factory=Counter)
    suspended: float = 0.0
    """Seconds in which the process was stopped, of which `seconds` has none."""
    rounds_suspended: int = 0
    """Rounds in which that was so; they are counted with the others, but what was wrong with them is not."""
    octets: int = 0
    slowest: float = 0.0
    memory: list[Memory] = field(default_factory=list)
    """The least of each span."""
    at_start: Holdings = field(default_factory=Holdings.now)
    at_end: Holdings = field(default_factory=Holdings.now)

    def add(self, plan: RoundPlan, ledger: Ledger, seconds: float) -> None:
        """One more round."""
        self.rounds += 1
        self.requests += ledger.outcomes
        self.octets += ledger.octets
        self.ends[plan.end] += 1
        self.topologies[plan.topology] += 1
        self.transports[plan.transport] += 1
        self.faces.update(end.face for end in (*plan.ends, *([plan.server] if plan.server else [])))
        self.slowest = max(self.slowest, seconds)

    def look_at_memory(self) -> None:
        """To be called after each round."""
        if self.rounds <= WARM_UP:
            return
        now = Memory.now()
        if (self.rounds - WARM_UP - 1) % SPAN == 0:
            self.memory.append(now)
        least = self.memory[-1]
        self.memory[-1] = Memory(min(now.resident, least.resident), min(now.objects, least.objects))

    def growth(self) -> Memory | None:
        """From the first half of the spans to the second, if there is more than one."""
        half = len(self.memory) // 2
        if not half:
            return None
        first, second = self.memory[:half], self.memory[half:]
        return Memory(
            min(memory.resident for memory in second) - min(memory.resident for memory in first),
            min(memory.objects for memory in second) - min(memory.objects for memory in first),
        )

    def lines(self) -> Iterator[str]:
        """All of it, to be read."""
        yield f"rounds: {self.rounds} in {self.seconds:.0f} s, the slowest {self.slowest:.1f} s"
        if self.rounds_suspended:
            yield f"suspended: {self.suspended:.0f} s more, in {self.rounds_suspended} rounds that were not judged"
        yield f"requests: {sum(self.requests.values())}: {_listed(self.requests)}"
        yield f"octets of payloads of answered requests: {self.octets:,}"
        yield f"topologies: {_listed(self.topologies)}"
        yield f"transports: {_listed(self.transports)}"
        yield f"faces of ends: {_listed(self.faces)}"
        yield f"ends: {_listed(self.ends)}"
        yield f"logged: {_listed(self.logged)}"
        yield f"peak of resident memory: {peak_resident() >> 20} MiB"
        growth = self.growth()
        if growth is not None:
            yield (
                f"growth over {len(self.memory)} spans of {SPAN} rounds: {growth.resident >> 10} KiB resident, "
                f"{growth.objects} objects"
            )
        yield (
            f"threads: {len(self.at_start.threads)} at the start, {len(self.at_end.threads)} at the end; "
            f"descriptors: {len(self.at_start.fds)}, {len(self.at_end.fds)}; "
            f"child processes: {len(self.at_start.children)}, {len(self.at_end.children)}"
        )


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items())) or "none"


class Soak:
    """Runs rounds of one seed."""

    def __init__(self, seed: int, places: Places) -> None:
        self._seed = seed
        self._places = places
        self._later = Later()
        self._stopped = False
        self._warm_up()
        self.tally = Tally()

    def run(
        self,
        *,
        first: int = 0,
        seconds: float | None = None,
        rounds: int | None = None,
        only: tuple[str, ...] = (),
        after_each: Callable[[Tally], None] = lambda _: None,
    ) -> None:
        """Run rounds whose plans have all words of `only`, until there were `rounds` or the time is over.

        Raises `RoundFailed`, and `NoSuchRound` if there is none.
        """
        begun = time.monotonic()
        number = first
        in_vain = 0
        while (
            not self._stopped
            and (rounds is None or self.tally.rounds < rounds)
            and (seconds is None or self.tally.seconds < seconds)
        ):
            plan = draw(self._seed, number)
            number += 1
            if not plan.words.issuperset(only):
                in_vain += 1
                if in_vain > DRAWN_IN_VAIN:
                    raise NoSuchRound(f"of {in_vain} rounds none has all of these words: {' '.join(only)}")
            else:
                in_vain = 0
                self._round(plan)
                self.tally.seconds = time.monotonic() - begun - self.tally.suspended
                after_each(self.tally)
        self._check_growth()

    def stop(self) -> None:
        """Have `run` end behind the present round."""
        self._stopped = True

    def _round(self, plan: RoundPlan) -> None:
        how = f"{plan}\nTo repeat it: python -m tests.soak --seed {plan.seed} --first {plan.number} --rounds 1"
        ledger = Ledger(may_end=plan.may_end, is_spoilt=plan.is_spoilt)
        begun = time.monotonic()
        watchdog = Watchdog(ROUND_LIMIT, how)
        with watchdog, told_of_stray_errors(ledger.complain, self.tally.logged):
            before = Holdings.now()
            asking = 1 if plan.topology in ("child", "old-child") else len(plan.ends)
            surroundings = Surroundings(
                ledger, self._later, may_end=plan.may_end, is_spoilt=plan.is_spoilt, asking=asking
            )
            with tempfile.TemporaryDirectory(dir=self._places.directory) as directory:
                run_round(plan, surroundings, Places(Path(directory), self._places.certificate))
            self._later.finish()
            ledger.check()
            del surroundings
            left = left_since(before)
        self.tally.add(plan, ledger, time.monotonic() - begun - watchdog.suspended)
        self.tally.look_at_memory()
        self.tally.at_end = Holdings.now()
        self.tally.suspended += watchdog.suspended
        if watchdog.suspended:  # then time limits passed in which nothing could be done
            self.tally.rounds_suspended += 1
        elif ledger.faults or left:
            raise RoundFailed("\n".join([*ledger.faults, *(f"left behind: {what}" for what in left), how]))

    def _warm_up(self) -> None:
        """What the first use of something opens for the whole process."""
        import uvloop

        uvloop.new_event_loop().close()
        left_since(Holdings.now())

    def _check_growth(self) -> None:
        growth = self.tally.growth()
        if growth is not None and (growth.objects > OBJECT_GROWTH or growth.resident > RESIDENT_GROWTH):
            raise RoundFailed(f"memory has grown by {growth.resident} octets, {growth.objects} objects")


@contextmanager
def soaking(seed: int) -> Iterator[Soak]:
    """A soak in a temporary directory of its own."""
    with tempfile.TemporaryDirectory(prefix="soak-") as directory:
        certificate = make_certificate(Path(directory), "localhost") if TLS_TRANSPORTS else None
        yield Soak(seed, Places(Path(directory), certificate))

"""The simulated world: one clock, what is to happen at which time, and who goes on next.

Strategy: nothing waits. The world takes what is due in the order of time; where several could go on, the seed
decides. If nobody can go on the clock is set to the next event. If there is none either while somebody waits,
that is a deadlock.
"""

from __future__ import annotations

import heapq
import random
import zlib
from collections.abc import Callable
from typing import Protocol

BEGIN = 1000.0
"""The time at which each world begins, in seconds."""


class Stuck(AssertionError):
    """Somebody waits for what never comes, or too many steps or too much time have passed."""


class Runner(Protocol):
    """What has turns: an event loop, or the threads of a process."""

    number: int

    def next_time(self) -> float | None:
        """The time of its next turn, which may be past; None if only others can give it one."""
        ...

    def turn(self) -> int:
        """Take one turn; returns the number of steps that it took."""
        ...


class World:
    """The clock and the order of one round, both from `seed`."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = BEGIN
        self.steps = 0
        self.trace = 0
        """A checksum of all that has happened, in its order and with its times."""
        self.runners: list[Runner] = []
        self.pumps: list[Callable[[], object]] = []
        """Called now and then, to see what the system has come by."""
        self._events: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = 0
        self.log: list[str] | None = None
        """If it is a list: a line for each thing that happens."""

    @property
    def elapsed(self) -> float:
        """Simulated seconds since the begin."""
        return self.now - BEGIN

    def at(self, time: float, action: Callable[[], object]) -> None:
        """Have `action` called at that time."""
        self._numbers += 1
        heapq.heappush(self._events, (time, self._numbers, action))

    def after(self, seconds: float, action: Callable[[], object]) -> None:
        """Have `action` called after that time."""
        self.at(self.now + seconds, action)

    def note(self, what: str) -> None:
        """Make it part of the trace."""
        self.trace = zlib.crc32(f"{self.now:.9f} {what}".encode(), self.trace)
        if self.log is not None:
            self.log.append(f"{self.elapsed:.6f} {what}")

    def run(self, is_over: Callable[[], bool], *, most_steps: int, most_seconds: float) -> None:
        """Go on until `is_over()`. Raises `Stuck`."""
        last_step, last_time = self.steps + most_steps, self.now + most_seconds
        while not is_over():
            if self.steps > last_step:
                raise Stuck(f"not over after {most_steps} steps, {self.elapsed:.3f} s")
            if self.now > last_time:
                raise Stuck(f"not over after {most_seconds:.3f} s of simulated time")
            self._go_on()

    def happen(self) -> None:
        """Do what is due."""
        for pump in self.pumps:
            pump()
        while self._events and self._events[0][0] <= self.now:
            self._happen()

    def next_event(self) -> float | None:
        """The time of the next event; None if there is none."""
        return self._events[0][0] if self._events else None

    def _go_on(self) -> None:
        events = self._events
        self.happen()
        ready: list[Runner] = []
        soonest = events[0][0] if events else None
        for runner in self.runners:
            time = runner.next_time()
            if time is None:
                continue
            if time <= self.now:
                ready.append(runner)
            elif soonest is None or time < soonest:
                soonest = time
        if ready:
            runner = ready[0] if len(ready) == 1 else ready[int(self.random.random() * len(ready))]
            self.note(f"turn {runner.number}")
            self.steps += runner.turn()
        elif soonest is None:
            raise Stuck("a deadlock: nothing will happen any more")
        else:
            self.now = max(self.now, soonest)

    def _happen(self) -> None:
        self.steps += 1
        _, number, action = heapq.heappop(self._events)
        self.note(f"event {number}")
        action()

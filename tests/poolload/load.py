"""The callers, with threads and in an event loop, and what became of their calls."""

from __future__ import annotations

import asyncio
import collections
import itertools
import threading
import time
from typing import Any

from packetwire import PacketwireError
from packetwire.aio.pool import AsyncPool
from packetwire.pool import Pool

from .places import Places, are_ready, disturbed

CALLERS = 8
LIMIT = 10.0
KINDS: tuple[dict[str, bool], ...] = ({}, {"idempotent": True}, {"once": True})
REASONS = {"ConnectionEnded", "ChildExited", "StreamTruncated", "PeerClosed", "RequestTimeout"}
SLOW = 50
"""One of so many calls takes 0.3 seconds."""


class Tally:
    """What became of the calls."""

    def __init__(self) -> None:
        self.outcomes: dict[bytes, str] = {}
        self.seconds: list[float] = []
        self.made = 0
        self._numbers = itertools.count()

    def next(self) -> tuple[bytes, int, dict[str, bool]]:
        """A payload, flags that are 1 for a slow one, and how it may be repeated."""
        number = next(self._numbers)
        return b"%d" % number, int(number % SLOW == SLOW - 1), KINDS[number % 3]

    def note(self, payload: bytes, flags: int, began: float, outcome: str) -> None:
        self.outcomes[payload] = outcome
        if not flags:
            self.seconds.append(time.monotonic() - began)

    def report(self, executed: collections.Counter[bytes], happened: collections.Counter[str]) -> str:
        """The figures."""
        took = sorted(self.seconds)
        p50, p99, p999 = (took[int(len(took) * part)] * 1000 for part in (0.5, 0.99, 0.999))
        lines = [f"what happened: {dict(happened)}", f"{len(self.outcomes):,} calls"]
        for number, name in enumerate(("plain", "idempotent", "once")):
            mine = [(payload, each) for payload, each in self.outcomes.items() if int(payload) % 3 == number]
            twice = sum(executed[payload] > 1 for payload, _ in mine)
            kinds = dict(collections.Counter(each for _, each in mine).most_common())
            lines.append(f"{name}: {kinds}, executed more than once {twice}")
        lines.append(
            f"those that are not slow: p50 {p50:.1f} ms, p99 {p99:.0f} ms, p99.9 {p999:.0f} ms, "
            f"longest {took[-1]:.2f} s"
        )
        return "\n".join(lines)

    def check(self, executed: collections.Counter[bytes]) -> None:
        """Raise AssertionError if a call was lost without a word, or done twice unasked."""
        kinds = collections.Counter(self.outcomes.values())
        assert set(kinds) <= {"ok", *REASONS}, kinds
        assert len(self.outcomes) == next(self._numbers), "a call has neither a result nor a reason"
        assert kinds["ok"] > len(self.outcomes) * 0.5, kinds
        for payload, outcome in self.outcomes.items():
            times = executed[payload]
            if outcome == "ok":
                assert times >= 1, payload
            if not KINDS[int(payload) % 3].get("idempotent"):
                assert times <= 1, (payload, outcome)


def run_threads(places: Places, tally: Tally, seconds: float, interval: float, seed: int) -> None:
    with Pool(places.targets, size=2, ready=lambda conn: conn.ping() is not None) as pool:
        while not are_ready(pool.members, 1.0):
            time.sleep(0.05)
        deadline = time.monotonic() + seconds

        def call() -> None:
            while time.monotonic() < deadline:
                payload, flags, kind = tally.next()
                began = time.monotonic()
                try:
                    answer = pool(0, payload, flags, timeout=LIMIT, **kind)
                except PacketwireError as error:
                    tally.note(payload, flags, began, type(error).__name__)
                else:
                    tally.note(payload, flags, began, outcome_of(answer, payload))

        with disturbed(places, pool.members, interval, seed):
            callers = [threading.Thread(target=call) for _ in range(CALLERS)]
            for caller in callers:
                caller.start()
            for caller in callers:
                caller.join()


def run_loop(places: Places, tally: Tally, seconds: float, interval: float, seed: int) -> None:
    async def call(pool: AsyncPool, deadline: float) -> None:
        while time.monotonic() < deadline:
            payload, flags, kind = tally.next()
            began = time.monotonic()
            try:
                answer = await pool(0, payload, flags, timeout=LIMIT, **kind)
            except PacketwireError as error:
                tally.note(payload, flags, began, type(error).__name__)
            else:
                tally.note(payload, flags, began, outcome_of(answer, payload))

    async def answers(conn: Any) -> bool:
        return await conn.ping() is not None

    async def run() -> None:
        async with AsyncPool(places.targets, size=2, ready=answers) as pool:
            while not are_ready(pool.members, 1.0):
                await asyncio.sleep(0.05)
            with disturbed(places, pool.members, interval, seed):
                deadline = time.monotonic() + seconds
                await asyncio.gather(*(call(pool, deadline) for _ in range(CALLERS)))

    asyncio.run(run())


def outcome_of(answer: Any, payload: bytes) -> str:
    return "ok" if answer == (True, 0, payload) else f"a wrong answer: {answer!r:.100}"


FACES = {"threads": run_threads, "asyncio": run_loop}

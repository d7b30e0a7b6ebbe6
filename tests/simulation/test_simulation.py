"""The simulation: a number of seeds, that a seed gives the same each time, and that it finds what is planted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from packetwire.aio.request import RequestFuture
from packetwire.aio.streampair import StreamPairTransport
from packetwire.core.keepalive import Keepalive, Verdict

from .plans import Plan
from .rounds import Failed, Report, plan_of, run_seed

BRIEF = range(1, 16)
LONG = range(10_000, 10_600)


def _run(seeds: range) -> Report:
    total = Report()
    for seed in seeds:
        total.add(run_seed(seed))
    return total


@pytest.mark.timeout(120)
def test_some_seeds() -> None:
    total = _run(BRIEF)
    assert total.rounds == len(BRIEF)
    assert total.outcomes["answered"] > 20
    assert len(total.ends) > 5


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_many_seeds() -> None:
    assert _run(LONG).rounds == len(LONG)


@pytest.mark.parametrize("seed", [2, 5, 11])
def test_a_seed_gives_the_same_each_time(seed: int) -> None:
    logs: list[list[str]] = [[], []]
    first, second = (run_seed(seed, log=log) for log in logs)
    assert logs[0] == logs[1]
    assert first == second
    assert first.trace != run_seed(seed + 1).trace


def _finds(is_wanted: Callable[[Plan], bool] = lambda plan: True) -> str:
    """The text of the first failure, of the rounds that are wanted."""
    for seed in filter(lambda seed: is_wanted(plan_of(seed)), range(400)):
        try:
            run_seed(seed)
        except Failed as failure:
            return str(failure)
    pytest.fail("no seed has found it")


def test_finds_a_lost_wakeup(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each thirteenth response is not told to its caller."""
    count = 0

    def set_response(self: Any, *args: Any) -> None:
        nonlocal count
        count += 1
        if count % 13:
            real(self, *args)

    real = RequestFuture.set_response
    monkeypatch.setattr(RequestFuture, "set_response", set_response)
    found = _finds()
    assert "deadlock" in found or "not over after" in found or "took" in found
    assert "python -m tests.simulation --seed" in found


def test_finds_a_write_that_is_not_gone_on_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream has room again, and nobody writes the rest."""

    async def drain(self: Any) -> None:
        pass

    monkeypatch.setattr(StreamPairTransport, "_drain", drain)
    assert "to repeat it" in _finds()


def test_finds_an_end_that_nobody_notices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keepalive never judges."""
    monkeypatch.setattr(Keepalive, "_judge", lambda *args: Verdict.NOTHING)
    assert "a peer that fell silent was not noticed" in _finds(
        lambda plan: plan.end == "silence" and plan.topology == "pair" and not plan.pauses
    )


def test_finds_a_wrong_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Now and then the last byte of a response is lost."""

    def set_response(self: Any, ok: bool, flags: int, payload: bytes) -> None:
        real(self, ok, flags, payload[:-1] if len(payload) > 400 else payload)

    real = RequestFuture.set_response
    monkeypatch.setattr(RequestFuture, "set_response", set_response)
    assert "was answered by" in _finds()

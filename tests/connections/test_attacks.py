"""Attacks by plain sockets, in short: they cost a bounded amount, and the others are served meanwhile."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from tools.attacks.packets import (
    PLACES,
    clients_that_ask_for_much,
    clients_that_do_not_read,
    credit_beyond_measure,
    drop_by_drop,
    floods_of_data,
    half_packets,
    idle_clients,
    oversize_packets,
    packets_without_an_end,
    requests_that_raise,
    responses_to_nothing,
    served_once,
)
from tools.attacks.victim import Victim
from tools.attacks.zmtp import Attack, run

pytestmark = [pytest.mark.timeout(120), pytest.mark.long]

MIB = 1 << 20


@pytest.mark.parametrize("kind", ["serve", "aserve"])
@pytest.mark.parametrize(
    ("attack", "count", "memory"),
    [
        (idle_clients, PLACES, 64),
        (half_packets, PLACES, 64),
        (served_once, PLACES, 64),
        (partial(clients_that_do_not_read, requests=40), 5, 300),
        (clients_that_ask_for_much, 5, 800),
        (packets_without_an_end, 3, 300),
        (requests_that_raise, 2_000, 64),
        (oversize_packets, 100, 64),
        (partial(drop_by_drop, pause=0.05), 50, 64),
        (floods_of_data, 20, 100),
        (credit_beyond_measure, 20, 64),
        (responses_to_nothing, 100, 64),
    ],
)
def test_the_victim_survives_and_serves_the_others(
    kind: str, attack: Attack, count: int, memory: int, tmp_path: Path
) -> None:
    with Victim(kind, f"unix:{tmp_path}/victim") as victim:
        outcome = run(victim, attack, count)
        assert outcome.served_after
        assert outcome.worst is not None
        assert outcome.worst.memory < outcome.before.memory + memory * MIB
        assert outcome.after is not None
        assert outcome.after.descriptors < outcome.before.descriptors + 16
        assert outcome.report is not None
        assert outcome.report.failed == 0, outcome.report.error
        assert outcome.report.calls
    assert victim.status == 0


@pytest.mark.parametrize(
    ("attack", "count"),
    [(partial(drop_by_drop, pause=0.05), 30), (floods_of_data, 20), (responses_to_nothing, 100)],
)
def test_a_bridge_survives_and_serves_the_others(attack: Attack, count: int, tmp_path: Path) -> None:
    with Victim("bridge", f"unix:{tmp_path}/victim") as victim:
        outcome = run(victim, attack, count)
        assert outcome.served_after
        assert outcome.worst is not None
        assert outcome.worst.memory < outcome.before.memory + 100 * MIB
        assert outcome.after is not None
        assert outcome.after.descriptors < outcome.before.descriptors + 16
        assert outcome.report is not None
        assert outcome.report.failed == 0, outcome.report.error
    assert victim.status == 0

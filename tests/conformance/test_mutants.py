"""Each check passes at our engine, and fails at one with a fault of its kind."""

from __future__ import annotations

import pytest

from packetwire.conformance.play import Verdict
from packetwire.conformance.table import CHECKS, Check

from .inmemory import run
from .mutants import CLIENTS, MUTANTS, WITHOUT_CAPABILITIES

NUMBERED = {check.number: check for check in CHECKS}
FLOOD = 15
"""This one takes as long as half of the others together."""
NEVER_DONE = {104, 105}
"""Rules about what our engine does not do in these checks by itself."""


@pytest.mark.parametrize(
    "check", [check for check in CHECKS if "server" in check.roles], ids=lambda each: each.number
)
def test_a_server_without_fault_passes(check: Check) -> None:
    capable = check.number not in WITHOUT_CAPABILITIES
    expected = Verdict.SKIPPED if check.number in NEVER_DONE else Verdict.PASSED
    assert run(check, capable=capable).verdict is expected


@pytest.mark.parametrize(
    "check", [check for check in CHECKS if "client" in check.roles], ids=lambda each: each.number
)
def test_a_client_without_fault_passes(check: Check) -> None:
    capable = check.number not in WITHOUT_CAPABILITIES
    expected = Verdict.SKIPPED if check.number in NEVER_DONE else Verdict.PASSED
    outcome = run(check, capable=capable, client=True)
    assert outcome.verdict is expected, outcome


@pytest.mark.parametrize("number", MUTANTS)
def test_a_fault_of_a_server_is_found(number: int) -> None:
    outcome = run(NUMBERED[number], MUTANTS[number], capable=number not in WITHOUT_CAPABILITIES)
    assert outcome.verdict is Verdict.FAILED


@pytest.mark.parametrize("number", CLIENTS)
def test_a_fault_of_a_client_is_found(number: int) -> None:
    assert run(NUMBERED[number], CLIENTS[number], client=True).verdict is Verdict.FAILED


def test_each_check_has_a_mutant() -> None:
    assert set(MUTANTS) | set(CLIENTS) == set(NUMBERED)


@pytest.mark.parametrize("check", [each for each in CHECKS if each.number != FLOOD], ids=lambda each: each.number)
def test_what_does_not_apply_without_capabilities_is_skipped(check: Check) -> None:
    client = "server" not in check.roles
    assert run(check, capable=False, client=client).verdict is not Verdict.FAILED

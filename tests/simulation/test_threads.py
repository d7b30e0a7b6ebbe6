"""The simulation of threads, in processes of their own: packetwire must be Python there, which can be traced."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

BRIEF = "1..12"
LONG = "20000..20150"


def _simulate(*arguments: str, code: str = "") -> subprocess.CompletedProcess[str]:
    """What the command does, behind `code` that is run before it."""
    program = f"import sys; {code}\nfrom tests.simulation.__main__ import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", program, "--face", "threads", *arguments],
        env={**os.environ, "PACKETWIRE_PURE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.timeout(240)
def test_some_seeds() -> None:
    done = _simulate("--seeds", BRIEF)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^12 rounds", done.stdout, re.MULTILINE)


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_many_seeds() -> None:
    done = _simulate("--seeds", LONG, "--steps", "100000000")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.timeout(120)
def test_a_seed_gives_the_same_each_time() -> None:
    traces = [re.findall(r"^trace (\w+)", _simulate("--seed", "3").stdout, re.MULTILINE) for _ in range(2)]
    assert traces[0] == traces[1] != []


LOST_WAKEUP = """
from packetwire.hosts.threads.waiter import Waiter
Waiter.wake = lambda self: None
"""
CHECKED_BEFORE_TAKEN = """
from packetwire.core.engine import ConnectionEngine

def add_response(self, packet, events):
    "As it was: the waiter is looked for, and taken later."
    from packetwire.core.events import ResponseReceived
    from packetwire.core.engine import _new_event
    key, flags, _, payload = packet
    fields = 0, key, flags & 1 == 1, flags >> 1, payload, self.waiters[key]
    events.append(_new_event(ResponseReceived, fields))
    del self.waiters[key]

ConnectionEngine._add_response = add_response
"""


@pytest.mark.timeout(240)
def test_finds_a_lost_wakeup() -> None:
    """Nobody wakes a thread that sleeps while another one reads its answer."""
    done = _simulate("-x", "--seeds", "1..100", code=LOST_WAKEUP)
    assert done.returncode == 1
    assert "not over after" in done.stdout or "a deadlock" in done.stdout or "took" in done.stdout


@pytest.mark.timeout(240)
def test_finds_what_is_looked_at_and_taken_in_two_steps() -> None:
    done = _simulate("-x", "--seeds", "1..200", code=CHECKED_BEFORE_TAKEN)
    assert done.returncode == 1
    assert "KeyError" in done.stdout

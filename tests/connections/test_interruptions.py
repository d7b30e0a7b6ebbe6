"""A sample of what `interruptions` and `interruption_handlers` try at each opcode, from a random one on."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

import packetwire

from .interruption_handlers import USES, WORKERS
from .interruptions import OPERATIONS, SITUATIONS, cases

pytestmark = pytest.mark.timeout(300)

ROOT = Path(__file__).parents[2]
SAMPLES = {"KeyboardInterrupt": ("61", "2"), "Alarm": ("97", "1")}
"""How far apart the opcodes are, and how often each counts. An Alarm amid writing costs a second: it looks like a
failure of the stream, and what the peer may have sent about that is waited for."""


LONG = pytest.mark.long


def first_is_short(values: Iterable[str]) -> list[Any]:
    """The first of them always, the others where there is more time."""
    return [pytest.param(value, marks=[LONG] if number else []) for number, value in enumerate(values)]


def run(module: str, *argv: str) -> None:
    """In a process of its own, as tracing is its own and a hang ends it. The first line has what repeats it."""
    argv = (sys.executable, "-m", f"tests.connections.{module}", *argv)
    done = subprocess.run(argv, check=False, cwd=ROOT, capture_output=True, text=True, timeout=290, env=os.environ)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-6000:]
    assert " 0 failures" in done.stdout
    assert not done.stdout.splitlines()[-1].startswith("0 interruptions"), done.stdout


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="a trace function may see no opcodes there")
@pytest.mark.parametrize("interruption", first_is_short(SAMPLES))
@pytest.mark.parametrize("where", first_is_short(SITUATIONS))
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_sample_of_opcodes(operation: str, where: str, interruption: str) -> None:
    case = f"{operation}, {where}, {interruption}"
    if case not in [name for name, *_ in cases()]:
        pytest.skip("closing waits for the answer, which is held")
    every, hits = SAMPLES[interruption]
    if packetwire.compiled is True:  # there are few opcodes then
        every = str(max(1, int(every) // 10))
    run("interruptions", "--every", every, "--hits", hits, "--case", case)


@pytest.mark.parametrize("seconds", ["2", pytest.param("20", marks=LONG)])
def test_random_times(seconds: str) -> None:
    run("interruptions", "--timer", seconds)


@pytest.mark.parametrize("where", first_is_short(SITUATIONS))
@pytest.mark.parametrize("way", first_is_short(USES))
def test_a_signal_handler_that_uses_the_connection(way: str, where: str) -> None:
    if (way, where) == ("closes", "beside a call"):
        pytest.skip("closing waits for the answer, which is held")
    run("interruption_handlers", "--every", "97", "--hits", "1", "--case", f", {where}, {way}")


@pytest.mark.parametrize("settings", first_is_short(WORKERS))
def test_an_exception_in_a_worker(settings: str) -> None:
    """While it reads, runs a handler, answers or waits."""
    run("interruption_handlers", "--workers", "2", "--case", settings)

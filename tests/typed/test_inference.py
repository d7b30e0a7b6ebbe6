"""Type checkers infer the example of the page, and report each wrong use in it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent / "inference"
RIGHT, WRONG = HERE / "right.py", HERE / "wrong.py"
ROOT = Path(__file__).resolve().parents[2]
EXPECTED = {n for n, line in enumerate(WRONG.read_text().splitlines(), 1) if re.search(r"[^`]# wrong$", line)}
PYRIGHT = shutil.which("pyright")


def reported(output: str) -> dict[str, set[int]]:
    """The lines with an error, by the name of the file."""
    found: dict[str, set[int]] = {RIGHT.name: set(), WRONG.name: set()}
    for name, line in re.findall(r"(\w+\.py):(\d+)(?::\d+)?(?: -|:) error", output):
        found[name].add(int(line))
    return found


def test_there_are_many_wrong_uses() -> None:
    assert len(EXPECTED) >= 20


@pytest.mark.long
@pytest.mark.timeout(300)
def test_mypy(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mypy", "--strict", "--no-pretty", "--cache-dir", str(tmp_path), RIGHT, WRONG]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert reported(done.stdout) == {RIGHT.name: set(), WRONG.name: EXPECTED}, done.stdout


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.skipif(PYRIGHT is None, reason="pyright is not installed: npm install --global pyright")
def test_pyright() -> None:
    command = [str(PYRIGHT), "--pythonpath", sys.executable, RIGHT, WRONG]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert reported(done.stdout) == {RIGHT.name: set(), WRONG.name: EXPECTED}, done.stdout

"""A sample of what `cancels` tries."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.long
@pytest.mark.timeout(200)
def test_requests_that_are_given_up_at_random_moments() -> None:
    argv = [sys.executable, "-m", "tests.connections.cancels", "--requests", "4000"]
    done = subprocess.run(argv, check=False, cwd=ROOT, capture_output=True, text=True, timeout=190, env=os.environ)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert "'never begun'" in done.stdout
    assert "'stopped'" in done.stdout

"""`packetwire` as a user runs it, in processes that are forks of an interpreter that has imported it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from tests.forkserver import ForkServer

SETUP = """
from packetwire.cli import main
from packetwire import *
main.commands()
"""
MAIN = """
import sys
from packetwire.cli.main import main
sys.exit(main())
"""


@cache
def server() -> ForkServer:
    """The interpreter; it ends with these tests."""
    return ForkServer(SETUP)


def packetwire(
    *words: str | bytes | Path,
    stdin: bytes = b"",
    cwd: str | Path = ".",
    env: Mapping[str, str] | None = None,
    timeout: float = 30.0,
) -> subprocess.CompletedProcess[bytes]:
    """Run a command line: its exit status, and what it has printed."""
    return server().run(MAIN, [os.fsdecode(word) for word in words], stdin=stdin, cwd=cwd, env=env, timeout=timeout)


def packetwire_text(
    *words: str | bytes | Path, stdin: bytes = b"", cwd: str | Path = "."
) -> subprocess.CompletedProcess[str]:
    """The same, with what it has printed as text."""
    done = packetwire(*words, stdin=stdin, cwd=cwd)
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())

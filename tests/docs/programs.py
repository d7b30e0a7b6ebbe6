"""The programs in a page: each Python block is a file, which its first line names, and is run as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from .pages import code_blocks

RUN_SECONDS = 60


def programs(page: Path) -> dict[str, str]:
    """The text of each program by its file name."""
    named = {block.split()[1]: block for block in code_blocks(page, "python")}
    assert all(re.fullmatch(r"\w+\.py", name) for name in named), named.keys()
    assert len(named) == len(code_blocks(page, "python")), "two programs have the same name"
    return named


def needs_ssh(program: str) -> bool:
    """Whether its first line says that it needs a host to log in to."""
    return program.splitlines()[0].endswith("(needs ssh)")


def promises(program: str) -> list[str]:
    """The lines that it prints, as the comments behind its `print` say."""
    return re.findall(r"print\(.*\)  # (.*)", program)


def write_programs(page: Path, directory: Path) -> None:
    """All programs of a page side by side, so that they find each other."""
    for name, program in programs(page).items():
        (directory / name).write_text(program)


def run_program(directory: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    """Run a program with warnings as errors, for itself and its children, and an empty standard input."""
    return subprocess.run(
        [sys.executable, *argv],
        cwd=directory,
        env=os.environ | {"PYTHONWARNINGS": "error"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=RUN_SECONDS,
    )

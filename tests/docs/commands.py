"""The commands in a page: each line of its `sh` blocks, with what it prints behind it as a comment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from .pages import code_blocks
from .programs import write_programs

FAILURE = "packetwire: "
"""How a promise begins that is about standard error: the command fails."""


def commands(page: Path) -> list[str]:
    """The lines, with their comments."""
    return "".join(code_blocks(page, "sh")).splitlines()


def write_shell(page: Path, directory: Path) -> Path:
    """A directory with the page's programs, and in bin with `packetwire` and `python3` of these tests."""
    write_programs(page, directory)
    return write_bin(directory)


def write_bin(directory: Path) -> Path:
    """A directory that has `packetwire` and `python3` of these tests in bin."""
    (directory / "bin").mkdir()
    for name, command in ("packetwire", f"{sys.executable} -m packetwire"), ("python3", sys.executable):
        (directory / "bin" / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        (directory / "bin" / name).chmod(0o755)
    return directory


def start(command: str, shell: Path) -> subprocess.Popen[str]:
    """Run a command as a shell does that is in this directory."""
    return subprocess.Popen(
        ["/bin/sh", "-c", f"exec {command}"],
        cwd=shell,
        env=os.environ | {"PATH": f"{shell / 'bin'}:{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def check_command(command: str, shell: Path) -> None:
    """Run a command to its end: it must do what its comment says; without one, nothing is printed."""
    with start(command, shell) as called:
        stdout, stderr = called.communicate(timeout=60)
    _, _, promised = command.partition("  # ")
    if promised.startswith(FAILURE):
        assert (called.returncode, stdout, stderr.rstrip("\n")) == (1, "", promised)
    else:
        assert (called.returncode, stdout.rstrip("\n")) == (0, promised)

"""What all commands of `packetwire` have in common: how they begin."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from packetwire.cli.main import COMMANDS

PACKETWIRE = [sys.executable, "-m", "packetwire"]
INTERRUPTS = "import os, signal; os.kill(os.getpid(), signal.SIGINT)\n"

pytestmark = pytest.mark.timeout(60)


@pytest.mark.parametrize("module", ["logging", "socket"])
def test_ctrl_c_while_it_starts(tmp_path: Path, module: str) -> None:
    """It hits when `module`, which the commands need, is imported."""
    (tmp_path / f"{module}.py").write_text(INTERRUPTS)
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a child inherits that it is not ignored
    try:
        done = subprocess.run(
            [*PACKETWIRE, "--help"],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"PYTHONPATH": path},
        )
    finally:
        signal.signal(signal.SIGINT, before)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "packetwire: interrupted\n")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--nonsense"], "packetwire: unrecognized arguments: --nonsense (see packetwire --help)"),
        ([], "packetwire: the following arguments are required: COMMAND (see packetwire --help)"),
        (["serv"], "packetwire: argument COMMAND: invalid choice: 'serv'"),
        (
            ["demo", "--sede", "1"],
            "packetwire demo: unrecognized arguments: --sede 1; did you mean '--seed'?",
        ),
    ],
)
def test_a_mistake_gets_one_line_with_the_help_to_look_at(args: list[str], message: str) -> None:
    done = subprocess.run([*PACKETWIRE, *args], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1


def test_a_command_does_not_import_the_others() -> None:
    """They need much, and whoever starts one waits for it."""
    code = """
import sys
from packetwire.cli.main import main
try:
    main(["dump", "--help"])
except SystemExit:
    print(*sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = done.stdout.splitlines()[-1].split()
    assert "packetwire.cli.dump" in loaded
    assert not {f"packetwire.cli.{name}" for name in COMMANDS if name != "dump"} & set(loaded)

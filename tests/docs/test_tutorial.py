"""The tutorial: each step is run as a reader runs it, with a stand-in for ssh that runs the command here."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from .commands import write_shell
from .pages import ROOT
from .programs import RUN_SECONDS, programs

PAGE = ROOT / "docs" / "tutorial.md"
TEXT = PAGE.read_text()
STEPS = re.findall(r"^```sh\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", TEXT, re.DOTALL | re.MULTILINE)
"""The commands, and what they print, if the page shows it."""

SSH = """\
#!/bin/sh
test "$1" = -G && exit
for command; do :; done
exec sh -c "$command"
"""


@pytest.fixture
def shell(tmp_path: Path) -> Path:
    write_shell(PAGE, tmp_path)
    (tmp_path / "bin" / "ssh").write_text(SSH)
    (tmp_path / "bin" / "ssh").chmod(0o755)
    (tmp_path / "hello.txt").write_text("hello\n")
    return tmp_path


@pytest.mark.timeout(90)
@pytest.mark.parametrize(("command", "output"), STEPS, ids=[command.split("\n")[0] for command, _ in STEPS])
def test_a_step_prints_what_the_page_shows(command: str, output: str, shell: Path) -> None:
    done = subprocess.run(
        ["/bin/sh", "-ec", command],
        cwd=shell,
        env=os.environ | {"PATH": f"{shell / 'bin'}:{os.environ['PATH']}", "PYTHONWARNINGS": "error"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    if output:
        assert done.stdout == output
    else:
        files = re.findall(r"(?<!>) (?:hello\.txt|/etc/\S+)", command)
        assert len(done.stdout.splitlines()) == len(files)


def test_each_program_is_run() -> None:
    assert {name for name in programs(PAGE) if any(name in command for command, _ in STEPS)} == {*programs(PAGE)}


def test_the_program_grows() -> None:
    """The service of each step is that of the step before, word for word."""
    services = [
        re.findall(r"^class Files.*?\n\n", text, re.DOTALL | re.MULTILINE) for text in programs(PAGE).values()
    ]
    assert services[1:] == [services[1]] * (len(services) - 1)
    assert all(services[1:])

"""Completion by TAB, as shells do it, and of methods and fields of a service that can be asked."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from packetwire.typed import Service, method

pytestmark = pytest.mark.timeout(120)

ENVIRONMENT = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
IN_BASH = r"""
eval "$(packetwire completion bash)"
COMP_LINE=$1; COMP_POINT=${#1}; COMP_TYPE=9
_python_argcomplete packetwire 2>/dev/null
printf '%s\n' "${COMPREPLY[@]}"
"""


def completed(line: str, cwd: Path) -> list[str]:
    """The words that bash has for the end of a line."""
    done = subprocess.run(
        ["bash", "-c", IN_BASH, "bash", line], capture_output=True, text=True, cwd=cwd, env=ENVIRONMENT, check=True
    )
    assert done.stderr == ""
    return [word.rstrip() for word in done.stdout.splitlines() if word]


class Shop(Service):
    @method
    def put(self, title: str, tags: list[str] = []) -> int:
        return 1

    @method
    def find(self, prefix: str = "") -> int:
        return 1


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("packetwire comp", ["completion"]),
        ("packetwire completion ", ["bash", "zsh", "fish"]),
        ("packetwire describe --js", ["--json"]),
        ("packetwire call --hex-", ["--hex-out"]),
        ("packetwire describe fil", ["file.json"]),
        ("packetwire call unix:nobody ", []),
    ],
)
def test_bash(line: str, words: list[str], tmp_path: Path) -> None:
    (tmp_path / "file.json").write_text("{}")
    assert sorted(completed(line, tmp_path)) == sorted(words)


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_methods_and_fields_of_a_service(tmp_path: Path) -> None:
    with Shop().serve(f"unix:{tmp_path / 'shop'}"):
        assert sorted(completed("packetwire call unix:shop ", tmp_path)) == ["find", "put"]
        assert completed("packetwire call unix:shop pu", tmp_path) == ["put"]
        assert sorted(completed("packetwire call unix:shop put ", tmp_path)) == ["tags=", "title="]
        assert completed("packetwire call unix:shop put title=Emma ", tmp_path) == ["tags="]
        assert completed("packetwire call unix:shop take ", tmp_path) == []


def test_a_program_is_not_started(tmp_path: Path) -> None:
    completed(f"packetwire call 'exec:touch {tmp_path}/started' ", tmp_path)
    assert not (tmp_path / "started").exists()


@pytest.mark.skipif(shutil.which("fish") is None, reason="there is no fish")
def test_fish() -> None:
    command = "packetwire completion fish | source; complete -C 'packetwire comp'"
    done = subprocess.run(["fish", "-c", command], capture_output=True, text=True, env=ENVIRONMENT, check=True)
    assert done.stdout.split()[0] == "completion"


@pytest.mark.skipif(shutil.which("zsh") is None, reason="there is no zsh")
def test_zsh() -> None:
    command = (
        'autoload -U compinit && compinit -u && eval "$(packetwire completion zsh)" && print $_comps[packetwire]'
    )
    done = subprocess.run(["zsh", "-fc", command], capture_output=True, text=True, env=ENVIRONMENT, check=True)
    assert done.stdout.strip() == "_python_argcomplete"

"""The manual page is what the tool makes of the parsers, and has all that `--help` says."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from packetwire.cli.main import COMMANDS
from tools import manpage

GROFF = shutil.which("groff")


def test_it_is_as_made() -> None:
    assert manpage.main(["--check"]) == 0, "run python -m tools.manpage"


def test_what_is_not_as_made_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    changed = manpage.page().replace("--", "-", 1)
    monkeypatch.setattr(manpage, "page", lambda: changed + "\n")
    assert manpage.main(["--check"]) == 1
    assert "docs/packetwire.1 is not" in capsys.readouterr().err
    assert manpage.main(["--force"]) == 2


def test_it_has_every_command_and_option() -> None:
    text = manpage.PAGE.read_text().replace("\\-", "-")
    for name in set(COMMANDS) - {"fbsp", "iccp"} | {"fbsp hello", "fbsp gateway", "iccp run"}:
        assert f".SS packetwire {name}\n" in text
    for option in ("--inspect PATH", "--error-detail {none,message,traceback}", "--describe, --no-describe"):
        assert f'.B "{option}"' in text
    assert "SUPPRESS" not in text
    assert "%(" not in text


@pytest.mark.skipif(GROFF is None, reason="there is no groff here")
def test_groff_has_nothing_to_say_against_it() -> None:
    done = subprocess.run(
        [GROFF or "", "-man", "-Tutf8", "-ww", str(manpage.PAGE)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stderr == ""
    assert "packetwire call unix:chunks" in done.stdout

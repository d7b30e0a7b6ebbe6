"""Nothing that a far end says does something to the terminal of who runs a command."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from packetwire.cli.running import log_shown
from packetwire.printable import printable

PACKETWIRE = [sys.executable, "-m", "packetwire"]
ESCAPES = "\x1b[2J\x1b]0;title\x07\x9b31m\u202e"

pytestmark = pytest.mark.timeout(60)


def test_what_is_shown() -> None:
    assert printable("Größe 3\t\n\x1b[0m\u202e") == "Größe 3\\t\\n\\x1b[0m\\u202e"


def test_a_child_that_ends_with_escapes(tmp_path: Path) -> None:
    child = tmp_path / "child.py"
    child.write_text(f"import sys\nsys.stderr.write({ESCAPES!r} + 'the reason')\nsys.exit(3)\n")
    done = subprocess.run(
        [*PACKETWIRE, "call", f"exec:{sys.executable} -X utf8 {child}", "0", "text"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "the reason" in done.stderr
    assert done.stderr.removesuffix("\n").isprintable()


PROGRESS = f"""
from packetwire import PacketConnection, current_request, stdio

def handle(rq_type, flags, payload):
    current_request().progress({ESCAPES!r}.encode())
    return b"done"

with PacketConnection(stdio(), request_handler=handle) as conn:
    conn.join_recv()
"""


def test_progress_with_escapes(tmp_path: Path) -> None:
    (tmp_path / "service.py").write_text(PROGRESS)
    done = subprocess.run(
        [*PACKETWIRE, "call", "--progress", f"exec:{sys.executable} {tmp_path / 'service.py'}", "0", "text"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "done")
    assert done.stderr.startswith("progress: ")
    assert done.stderr.removesuffix("\n").isprintable()


def test_a_log_with_escapes(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    with log_shown():
        logging.getLogger("packetwire").warning("a client called %s\nand a\tsecond line", ESCAPES)
    first, second = capsys.readouterr().err.splitlines()
    assert first.isprintable()
    assert second == "and a   second line"

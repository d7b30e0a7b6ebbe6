"""A command of `packetwire` in a terminal."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import threading

PACKETWIRE = [sys.executable, "-m", "packetwire"]
CONTROL = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


def in_terminal(*args: str, **env: str) -> tuple[int, str]:
    """Run it in a terminal of 80 columns: the exit status, and all that it wrote."""
    ours, theirs = pty.openpty()
    settings = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "80", "LINES": "40", **env}
    written = bytearray()

    def read() -> None:
        try:
            while data := os.read(ours, 4096):
                written.extend(data)
        except OSError:
            pass  # on Linux that is how a terminal ends

    reader = threading.Thread(target=read)
    process = subprocess.Popen([*PACKETWIRE, *args], stdin=theirs, stdout=theirs, stderr=theirs, env=settings)
    os.close(theirs)
    reader.start()
    status = process.wait()
    reader.join()
    os.close(ours)
    return status, written.decode()


def without_control(written: str) -> str:
    """The same without the control sequences."""
    return CONTROL.sub("", written)


def run_in_terminal(*args: str, **env: str) -> tuple[int, str]:
    """The same as `in_terminal`, without the control sequences."""
    status, written = in_terminal(*args, **env)
    return status, without_control(written)


def lines_of(shown: str) -> list[str]:
    """The lines of what is without control sequences; one that is written over is another line."""
    return re.split(r"[\r\n]+", shown)


def colours_in(written: str) -> list[str]:
    """The sequences that set a colour."""
    found = re.findall(r"\x1b\[([0-9;]*)m", written)
    return [
        each for each in found if any(30 <= int(part) <= 49 or int(part) >= 90 for part in each.split(";") if part)
    ]

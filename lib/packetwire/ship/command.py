"""The command that starts the far end, and the form in which its program is sent.

The program of one line is for any Python 3, as it has to say which one is too old. It reads eight digits, and so
many bytes, from descriptor 0 without a buffer: what comes behind them are packets.
"""

from __future__ import annotations

import bz2
import shlex
from collections.abc import Mapping

LENGTH_DIGITS = 8
SEPARATOR = "\0"
"""Between the parts of what is sent; no source has it."""

_READ = 'exec("while len(b)<n:b+=os.read(0,n-len(b))or sys.exit(1)")'
STUB = (
    "import sys,os;"
    'sys.version_info<(3,11)and sys.exit("packetwire needs Python 3.11 or newer here, this is "'
    "+sys.version.split()[0]);"
    f'import bz2;n={LENGTH_DIGITS};b=b"";{_READ};n=int(b);b=b"";{_READ};'
    "p=bz2.decompress(b).decode().split(chr(0));exec(p[0])"
)
"""Without a newline or a single quote, so that every shell passes it on."""

PYTHONS = ("python3.14", "python3.13", "python3.12", "python3.11", "python3")
"""The commands that are tried at the far end; the last one is told apart if it is too old."""


def python_options(site: bool) -> list[str]:
    """The options and the program for a Python: isolated, and it writes no bytecode."""
    return ["-I", *([] if site else ["-S"]), "-B", "-c", STUB]


def shell_command(python: str, site: bool) -> str:
    """The command for a shell at the far end; `python` is the one to run, "" for any that is new enough."""
    options = shlex.join(python_options(site))
    if python:
        return f"exec {python} {options}"
    script = (
        f"for p in {' '.join(PYTHONS)}; do "
        'if command -v $p >/dev/null 2>&1 && $p -I -S -c "" </dev/null >/dev/null 2>&1; then '
        f"exec $p {options}; fi; done; "
        'echo "packetwire: there is no python3 here" >&2; exit 127'
    )
    return f"exec sh -c {shlex.quote(script)}"


def packed(loader: str, service: str, digits: str, files: Mapping[str, str], absent: Mapping[str, str]) -> bytes:
    """All that the program of one line reads."""
    first = f"{loader}\nrun(p[1:], {service!r}, {digits!r}, {dict(absent)!r})\n"
    parts = [first, *(part for path, source in files.items() for part in (path, source))]
    body = bz2.compress(SEPARATOR.join(parts).encode())
    return f"{len(body):0{LENGTH_DIGITS}}".encode() + body

"""The virtual environment of Saturnin, kept and rebuilt as that of cs.packetstream is."""

from __future__ import annotations

import fcntl
import hashlib
import platform
import shutil
import sys
from pathlib import Path

from reference_environment import COMPLETE, _cache, _python_of, _run

REQUIREMENTS = Path(__file__).with_name("requirements-saturnin.txt")


def saturnin_python() -> Path:
    """The interpreter that can import Saturnin; its environment is built if there is none."""
    home = _cache() / f"saturnin-{_key()}"
    home.parent.mkdir(parents=True, exist_ok=True)
    # of two test runs at once the second one waits for the first; a lock ends with its process
    with home.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (home / COMPLETE).exists():
            _build(home)
    return _python_of(home)


def _key() -> str:
    identity = "\n".join((platform.python_implementation(), sys.version, sys.base_prefix, platform.machine()))
    return hashlib.sha256(REQUIREMENTS.read_bytes() + identity.encode()).hexdigest()[:16]


def _build(home: Path) -> None:
    shutil.rmtree(home, ignore_errors=True)
    python = str(_python_of(home))
    _run([sys.executable, "-m", "venv", str(home)])
    _run(
        [
            python,
            "-m",
            "pip",
            "--disable-pip-version-check",
            "--no-input",
            "install",
            "--no-deps",
            "-r",
            str(REQUIREMENTS),
        ]
    )
    _run([python, "-c", "import saturnin.protocol.fbsp, saturnin.protocol.iccp"])
    (home / COMPLETE).touch()

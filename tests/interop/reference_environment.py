"""The virtual environment of the reference: cs.packetstream with the siblings it was released with.

It is kept across runs, below the directory that PACKETWIRE_TEST_CACHE names, or `.cache` of the project.
A change of the requirements or of the Python that runs the tests makes a new one.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

CACHE_VARIABLE = "PACKETWIRE_TEST_CACHE"
REQUIREMENTS = Path(__file__).with_name("requirements-cs.txt")
COMPLETE = "complete"
"""The file that says that the environment was built to its end."""
STEP_TIMEOUT = 600
"""Seconds for one step of building it."""


class ReferenceUnavailableError(RuntimeError):
    """The environment could not be built; the text holds the output of what failed."""


def reference_python() -> Path:
    """The interpreter that can import the reference; its environment is built if there is none."""
    home = _cache() / f"cs-{_key()}"
    home.parent.mkdir(parents=True, exist_ok=True)
    # of two test runs at once the second one waits for the first; a lock ends with its process
    with home.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (home / COMPLETE).exists():
            _build(home)
    return _python_of(home)


def _cache() -> Path:
    given = os.environ.get(CACHE_VARIABLE)
    return Path(given).absolute() if given else Path(__file__).parents[2] / ".cache"


def _key() -> str:
    identity = "\n".join((platform.python_implementation(), sys.version, sys.base_prefix, platform.machine()))
    return hashlib.sha256(REQUIREMENTS.read_bytes() + identity.encode()).hexdigest()[:16]


def _python_of(home: Path) -> Path:
    return home / "bin" / "python"


def _build(home: Path) -> None:
    shutil.rmtree(home, ignore_errors=True)
    python = str(_python_of(home))
    _run([sys.executable, "-m", "venv", str(home)])
    pip = [python, "-m", "pip", "--disable-pip-version-check", "--no-input"]
    # the reference's own requirements have no upper bounds, and what they name has moved on
    _run([*pip, "install", "--no-deps", "-r", str(REQUIREMENTS)])
    _run([python, "-c", "import cs.packetstream"])
    (home / COMPLETE).touch()


def _run(argv: list[str]) -> None:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    try:
        done = subprocess.run(
            argv,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=STEP_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired as expired:
        how, output = f"did not end within {STEP_TIMEOUT} s", expired.output or b""
    else:
        if done.returncode == 0:
            return
        how, output = f"ended with status {done.returncode}", done.stdout
    command = " ".join(argv)
    text = output.decode("utf-8", errors="replace")
    raise ReferenceUnavailableError(f"the reference's environment cannot be built: {command} {how}:\n{text}")

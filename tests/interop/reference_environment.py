"""The virtual environments of the references: each with the siblings that it was released with.

They are kept across runs, below the directory that PACKETWIRE_TEST_CACHE names, or `.cache` of the project.
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
MODULES = {
    "cs": "cs.packetstream",
    "saturnin": "saturnin.protocol.fbsp, saturnin.protocol.iccp",
    "hololinked": "hololinked.core.zmq.brokers",
}
"""What each environment is for; its requirements are in `requirements-NAME.txt`."""
COMPLETE = "complete"
"""The file that says that the environment was built to its end."""
STEP_TIMEOUT = 600
"""Seconds for one step of building it."""


class ReferenceUnavailableError(RuntimeError):
    """The environment could not be built; the text holds the output of what failed."""


def reference_python(name: str) -> Path:
    """The interpreter that can import the reference of that name; its environment is built if there is none."""
    requirements = Path(__file__).with_name(f"requirements-{name}.txt")
    home = _cache() / f"{name}-{_key(requirements)}"
    home.parent.mkdir(parents=True, exist_ok=True)
    # of two test runs at once the second one waits for the first; a lock ends with its process
    with home.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (home / COMPLETE).exists():
            _build(home, requirements, MODULES[name])
    return _python_of(home)


def _cache() -> Path:
    given = os.environ.get(CACHE_VARIABLE)
    return Path(given).absolute() if given else Path(__file__).parents[2] / ".cache"


def _key(requirements: Path) -> str:
    identity = "\n".join((platform.python_implementation(), sys.version, sys.base_prefix, platform.machine()))
    return hashlib.sha256(requirements.read_bytes() + identity.encode()).hexdigest()[:16]


def _python_of(home: Path) -> Path:
    return home / "bin" / "python"


def _build(home: Path, requirements: Path, modules: str) -> None:
    shutil.rmtree(home, ignore_errors=True)
    python = str(_python_of(home))
    _run([sys.executable, "-m", "venv", str(home)])
    pip = [python, "-m", "pip", "--disable-pip-version-check", "--no-input"]
    # the references' own requirements have no upper bounds, and what they name has moved on
    _run([*pip, "install", "--no-deps", "-r", str(requirements)])
    _run([python, "-c", f"import {modules}"])
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

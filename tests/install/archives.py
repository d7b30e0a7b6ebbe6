"""The archives of this checkout, what they need, and empty environments to install them in.

The archives are built, and what they need is downloaded, once in a test run, whatever the number of its workers.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
FOR_DEVELOPERS = {"docs", "fuzz", "test"}
"""Extras that nothing of the package itself uses."""
NOT_BUILT_FROM = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist")
COMPLETE = "complete"
"""The file that says that everything is there."""
STEP_SECONDS = 300
HAS_COMPILER = shutil.which((os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]) is not None


@dataclass(frozen=True)
class Archives:
    """A directory with the archives of this checkout and, in `wheels`, all that any extra needs."""

    home: Path

    @property
    def sdist(self) -> Path:
        (found,) = self.home.glob("packetwire-*.tar.gz")
        return found

    @property
    def wheel(self) -> Path:
        """Built from the sdist."""
        (found,) = self.home.glob("packetwire-*.whl")
        return found

    @property
    def wheels(self) -> Path:
        return self.home / "wheels"


def archives(tmp_path_factory: pytest.TempPathFactory) -> Archives:
    """Those of this test run; whoever comes first builds them, and the others wait."""
    place = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        place = place.parent  # which the workers of one run have in common
    home = place / "archives"
    with (place / "archives.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (home / COMPLETE).exists():
            shutil.rmtree(home, ignore_errors=True)
            home.mkdir()
            with ThreadPoolExecutor(2) as pool:
                steps = pool.submit(_build, home), pool.submit(_download, home / "wheels")
            for step in steps:
                step.result()
            (home / COMPLETE).touch()
    return Archives(home)


def _build(home: Path) -> None:
    source = home / "source"
    shutil.copytree(ROOT, source, ignore=NOT_BUILT_FROM)
    # makes the sdist, and of that the wheel
    environ = {"CC": quick_compiler(home)} if HAS_COMPILER else {}
    run([sys.executable, "-m", "build", "--outdir", str(home), str(source)], environ=environ)


def quick_compiler(place: Path, command: str = "") -> str:
    """A compiler that runs that command first, and does not optimise."""
    compiler = place / "cc"
    compiler.write_text(f'#!/bin/sh\n{command}\nexec cc "$@" -O0\n')
    compiler.chmod(0o755)
    return str(compiler)


def _download(wheels: Path) -> None:
    needed = {need for extra, needs in EXTRAS.items() if extra not in FOR_DEVELOPERS for need in needs}
    others = sorted(need for need in needed if not need.startswith("packetwire"))
    run([*_pip(), "wheel", "--wheel-dir", str(wheels), *PROJECT["dependencies"], *others])


def install(archives: Archives, extra: str, home: Path) -> Path:
    """The Python of an environment with packetwire, one extra if that is not empty, what they need, and no more."""
    run([sys.executable, "-m", "venv", "--without-pip", str(home)])
    python = home / "bin" / "python"
    what = f"{archives.wheel}[{extra}]" if extra else str(archives.wheel)
    places = ["--no-index", "--find-links", str(archives.wheels)]
    run([*_pip(), "--python", str(python), "install", "--no-compile", *places, what])
    return python


def _pip() -> list[str]:
    return [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input"]


def run(argv: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command that must succeed."""
    done = run_any(argv, **options)
    assert done.returncode == 0, f"{' '.join(argv)}:\n{done.stdout}\n{done.stderr}"
    return done


def run_any(
    argv: list[str], environ: Mapping[str, str] = MappingProxyType({}), **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run a command, with these variables besides; nothing that this Python was told to import from reaches it."""
    told = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    return subprocess.run(
        argv,
        env={name: value for name, value in os.environ.items() if name not in told} | dict(environ),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=STEP_SECONDS,
        **options,
    )

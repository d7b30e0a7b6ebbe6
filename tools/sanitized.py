"""Builds packetwire with AddressSanitizer and UndefinedBehaviorSanitizer, and tries what is compiled under them.

`python -m tools.sanitized` copies the checkout, compiles it in an environment of its own there, and runs the tests
that compare what is compiled with Python, those of one connection on real streams, and the fuzzing of both builds.
It needs gcc with libasan and libubsan, on Linux. Whatever the sanitizers report ends with an exit status of 1.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
SANITIZE = "-fsanitize=address,undefined"
FLAGS = {"CC": "gcc", "CFLAGS": f"{SANITIZE} -fno-omit-frame-pointer -O1 -g", "LDFLAGS": SANITIZE}
LIBRARIES = ("libasan.so", "libubsan.so")
OPTIONS = {
    "PYTHONMALLOC": "malloc",  # each object is an allocation that is looked at
    "ASAN_OPTIONS": "detect_leaks=0:halt_on_error=1",  # Python keeps things until its end
    "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=0",
}
REPORTS = ("runtime error:", "ERROR: AddressSanitizer")
CORE = (
    "test_twins",
    "test_in_place",
    "test_decoder",
    "test_codec_properties",
    "test_refusals",
    "test_cut_anywhere",
)
CONNECTIONS = ("test_calls", "test_bounds", "test_cancels", "test_half_close", "test_take_over", "test_streams")
RUNS = 20_000


def library(name: str) -> str:
    """The path of a library of gcc's. Raises SystemExit if there is none."""
    path = subprocess.run(["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True)
    if not os.path.isabs(path.stdout.strip()):
        sys.exit(f"gcc has no {name} here")
    return path.stdout.strip()


def build(place: Path) -> Path:
    """Compile a copy of the checkout in `place`; returns its Python."""
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout.split(b"\0")
    for name in filter(None, map(os.fsdecode, names)):
        if (ROOT / name).is_file():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, place / name)
    subprocess.run([sys.executable, "-m", "venv", place / ".venv"], check=True)
    python = place / ".venv" / "bin" / "python"
    pip = [python, "-m", "pip", "install", "--quiet", "--editable", ".[all,test]"]
    subprocess.run(pip, cwd=place, env={**os.environ, **FLAGS}, check=True)
    return python


def commands(python: Path, runs: int) -> Iterator[Sequence[str | Path]]:
    """All that is run."""
    yield [python, "-c", "import packetwire, sys; sys.exit(packetwire.compiled is not True)"]
    pytest: list[str | Path] = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "timeout=900"]
    yield [*pytest, *(f"tests/core/{name}.py" for name in CORE)]
    # what is held for a sanitizer is no memory of ours
    yield [*pytest, "-k", "not gigabyte", *(f"tests/connections/{name}.py" for name in CONNECTIONS)]
    yield [python, "-m", "tests.fuzz", "--plain", "--runs", str(runs), "builds", "packets", "engine"]


def run(command: Sequence[str | Path], place: Path, environment: Mapping[str, str]) -> bool:
    """Run a command, and show what it says; False if it failed, or a sanitizer has reported something."""
    found = False
    with subprocess.Popen(
        command, cwd=place, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            found = found or any(each in line for each in REPORTS)
    return process.returncode == 0 and not found


def main(args: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.sanitized", description=__doc__)
    parser.add_argument("--runs", type=int, default=RUNS, metavar="N", help="inputs of each target (%(default)s)")
    parser.add_argument("--built", type=Path, metavar="DIR", help="a copy that was built so before")
    chosen = parser.parse_args(args)
    if shutil.which("gcc") is None:
        sys.exit("there is no gcc here")
    environment = {**os.environ, **OPTIONS, "LD_PRELOAD": " ".join(map(library, LIBRARIES))}
    with tempfile.TemporaryDirectory(prefix="sanitized-") as directory:
        place = chosen.built or Path(directory)
        python = place / ".venv" / "bin" / "python" if chosen.built else build(place)
        failed = [command for command in commands(python, chosen.runs) if not run(command, place, environment)]
    for command in failed:
        print("FAILED:", *command)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())

"""Mutation test of the core: `python -m tests.mutation`, in the root of the project, with mutmut 3 installed.

mutmut makes small changes, such as `<` into `<=`, one at a time, and runs those tests of `tests/core` that reach
the changed function. A change that no test notices *survives*. Each survivor is either a gap in the tests or
equivalent to the original; `survivors.toml` lists the equivalent ones with the reason.

Everything happens in a copy of the sources. With `--work DIR` the copy is kept there, and a run that was
interrupted is continued. One core takes about half an hour.

Exit status: 0 if at least 90 % are killed and every survivor is in the list; 1 if not.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from .survivors import Change, explained, function_of

ROOT = Path(__file__).parents[2]
WANTED = 90.0
"""Percent of the mutants that must be killed."""

CONFIG = """\
[tool.pytest.ini_options]
addopts = ["-p", "no:cacheprovider"]
pythonpath = ["."]
timeout = 20
filterwarnings = ["error"]

[tool.mutmut]
source_paths = ["src"]
only_mutate = ["src/packetwire/core/*"]
also_copy = ["fixtures", "tests"]
timeout_multiplier = 2.0
pytest_add_cli_args_test_selection = ["tests/core"]
pytest_add_cli_args = [
    "--ignore=tests/core/test_purity.py",
    "--deselect=tests/core/test_refusals.py::test_the_table_holds_every_code_and_no_other",
    "--deselect=tests/core/test_refusals.py::test_every_refusing_answer_is_in_the_table",
]
"""
"""What is left out reads the sources, which mutmut rewrites."""

KILLED = {"killed", "timeout", "segfault"}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description="Mutation test of the core.")
    parser.add_argument("--work", type=Path, metavar="DIR", help="keep the copy here, and continue there")
    parser.add_argument("--children", type=int, default=1, metavar="N", help="mutants at a time (default: 1)")
    args = parser.parse_args()
    if args.work is not None:
        return test_in(args.work, args.children)
    with tempfile.TemporaryDirectory() as work:
        return test_in(Path(work), args.children)


def test_in(work: Path, children: int) -> int:
    """Make the mutants, try them, and say what came of it; returns the exit status."""
    if not (work / "mutants").exists():
        copy_sources(work)
    # the same few cases of each property every time, and no search for the smallest one that fails
    environ = os.environ | {"HYPOTHESIS_PROFILE": "brief", "PACKETWIRE_PURE": "1"}
    subprocess.run([*mutmut(), "run", "--max-children", str(children)], cwd=work, env=environ, check=True)
    return report(work)


def copy_sources(work: Path) -> None:
    work.mkdir(parents=True, exist_ok=True)
    shutil.copytree(ROOT / "lib", work / "src")
    shutil.copytree(ROOT / "fixtures", work / "fixtures")
    shutil.copytree(ROOT / "tests" / "core", work / "tests" / "core")
    for name in "conftest.py", "searching.py":
        shutil.copy(ROOT / "tests" / name, work / "tests")
    (work / "pyproject.toml").write_text(CONFIG)


def mutmut() -> list[str]:
    return [sys.executable, "-m", "mutmut"]


def report(work: Path) -> int:
    found = subprocess.run(
        [*mutmut(), "results", "--all", "true"], cwd=work, check=True, capture_output=True, text=True
    )
    outcomes = dict(line.strip().split(": ", 1) for line in found.stdout.splitlines() if ": " in line)
    counted = Counter(outcomes.values())
    share = 100 * sum(outcome in KILLED for outcome in outcomes.values()) / len(outcomes)
    print(f"{len(outcomes)} mutants: {', '.join(f'{n} {outcome}' for outcome, n in counted.most_common())}")
    print(f"{share:.1f} % were killed, {WANTED:g} % must be")
    survivors = {change_of(work, name) for name, outcome in outcomes.items() if outcome not in KILLED}
    known = explained()
    for change in sorted(survivors - known.keys()):
        print(f"survives, and is not in the list: {change}")
    for change in sorted(known.keys() - survivors):
        print(f"in the list, and does not survive: {change}")
    return 0 if share >= WANTED and survivors <= known.keys() else 1


def change_of(work: Path, name: str) -> Change:
    """What mutmut changed to make this mutant."""
    shown = subprocess.run([*mutmut(), "show", name], cwd=work, check=True, capture_output=True, text=True)
    diff = [line for line in shown.stdout.splitlines() if not line.startswith(("---", "+++"))]
    before, after = (" ".join(line[1:].strip() for line in diff if line.startswith(sign)) for sign in "-+")
    return Change(function_of(name), before, after)


if __name__ == "__main__":
    sys.exit(main())

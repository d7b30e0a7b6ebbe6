"""Fuzzing of every decoder: python -m tests.fuzz [TARGET ...] [--seconds S] [--runs N] [--seed N]"""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the tests of other parts, as pytest has them

from . import guided, running

DESCRIPTION = """
Feeds mutated recorded material to every decoder: only documented exceptions may come out, whatever was decoded is
the same after it was encoded and decoded again, wherever chunks end, and time and memory are bounded by the input.
With atheris installed half of the mutations are guided by the code that they reach. Prints how often each reason to
refuse an input was met; a reason that never was is a failure, as a finding is.
"""
DEFAULT_RUNS = 20_000
COMPILED = ("builds",)
"""Targets of which half is compiled, and which atheris, for which all is in Python, does not have."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=DESCRIPTION)
    parser.add_argument("targets", metavar="TARGET", nargs="*", help="what to fuzz (default: everything)")
    parser.add_argument("--seconds", type=float, metavar="S", help="of processor time, for each target")
    parser.add_argument(
        "--runs", type=int, metavar="N", help=f"how many inputs, for each target (default: {DEFAULT_RUNS})"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the mutations (default: 0)")
    parser.add_argument("--plain", action="store_true", help="without atheris, even if it is installed")
    parser.add_argument(
        "--findings", type=Path, metavar="DIR", help="write the inputs of findings into this directory"
    )
    args = parser.parse_args()
    if args.seconds is None and args.runs is None:
        args.runs = DEFAULT_RUNS
    logging.getLogger("packetwire").setLevel(logging.CRITICAL)
    use_atheris = guided.is_there() and not args.plain
    if use_atheris:
        with guided.instrumented():
            from .targets import TARGETS
    else:
        from .targets import TARGETS

    names = [*TARGETS, *(name for name in COMPILED if use_atheris and name not in TARGETS)]
    unknown = set(args.targets) - set(names)
    if unknown:
        parser.error(f"there is no target {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    ways = (running.run, guided.run) if use_atheris else (running.run,)
    runs = None if args.runs is None else args.runs // len(ways)
    seconds = None if args.seconds is None else args.seconds / len(ways)
    bad = 0
    for name in args.targets or names:
        if name not in TARGETS:
            bad += plainly(name, args)
            continue
        report = running.Report(TARGETS[name])
        for run in ways:
            report.add(run(TARGETS[name], runs=runs, seconds=seconds, seed=args.seed))
        show(report)
        for finding in report.findings.values():
            print(f"FINDING {finding.kind}: {finding.octets[:100]!r}\n{finding.told}")
            if args.findings is not None:
                keep(finding, args.findings)
        bad += bool(report.findings or report.missing)
    return min(bad, 1)


def plainly(name: str, args: argparse.Namespace) -> int:
    """Fuzz a target without atheris, in a process of its own; the exit status.

    Where nothing is compiled, there is nothing to do.
    """
    check = "import packetwire, sys; sys.exit(packetwire.compiled is not True)"
    environment = {key: value for key, value in os.environ.items() if key != "PACKETWIRE_PURE"}
    if subprocess.run([sys.executable, "-c", check], env=environment, check=False).returncode:
        print(f"{name}: nothing is compiled here")
        return 0
    options = ["--seed", str(args.seed)]
    for option in ("runs", "seconds", "findings"):
        if (value := getattr(args, option)) is not None:
            options += [f"--{option}", str(value)]
    command = [sys.executable, "-m", "tests.fuzz", "--plain", name, *options]
    return subprocess.run(command, env=environment, check=False).returncode


def show(report: running.Report) -> None:
    """The figures of a target."""
    print(
        f"{report.target.name}: {report.inputs} inputs, {report.refused} refused, {len(report.findings)} findings, "
        f"at most {report.most_memory:.0f} octets of memory for one of the input"
    )
    for reason in sorted(report.target.reasons | set(report.reasons)):
        print(f"{report.reasons[reason]:10}  {reason}" + ("" if report.reasons[reason] else "   NEVER MET"))
    sys.stdout.flush()


def keep(finding: running.Finding, directory: Path) -> None:
    """Write the input of a finding to a file."""
    directory.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(finding.octets).hexdigest()[:8]
    (directory / f"{finding.target}-{digest}").write_bytes(finding.octets)


if __name__ == "__main__":
    sys.exit(main())

"""FBSP: a REQUEST encoded and decoded, and echo round trips over ipc and a pipe, against Saturnin in one run.

    python tests/bench/fbsp_round_trips.py PYTHON_OF_SATURNIN

The contenders take turns, so that they meet the same machine. Prints tables of medians.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

PROGRAM = str(Path(__file__).with_name("fbsp_contender.py"))
ROUNDS = 12
CALLS = 1000
WARM_UP = 300


def stop(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    try:
        process.wait(2)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def start(opened: ExitStack, *argv: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    opened.callback(stop, process)
    return process


def block(process: subprocess.Popen[bytes], count: int) -> list[float]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"%d\n" % count)
    process.stdin.flush()
    times: list[float] = json.loads(process.stdout.readline())
    return times


def main(saturnin: str) -> None:
    with ExitStack() as opened:
        directory = opened.enter_context(tempfile.TemporaryDirectory())
        callers = {}
        for name, python, whose, address in (
            ("Saturnin, ipc", saturnin, "saturnin", f"ipc://{directory}/saturnin"),
            ("packetwire, ipc", sys.executable, "ours", f"ipc://{directory}/ours"),
            ("packetwire, pipe", sys.executable, "ours", "pipe"),
            ("pyzmq without FBSP, ipc", sys.executable, "bare", f"ipc://{directory}/bare"),
            ("packets without FBSP, pipe", sys.executable, "bare", "pipe"),
        ):
            if address != "pipe":
                start(opened, python, PROGRAM, whose, "serve", address)
            callers[name] = start(opened, python, PROGRAM, whose, "call", address)
        compare("round trip µs", callers)
        compare(
            "encode and decode µs",
            {
                "Saturnin": start(opened, saturnin, PROGRAM, "saturnin", "codec", "-"),
                "packetwire": start(opened, sys.executable, PROGRAM, "ours", "codec", "-"),
            },
        )


def compare(what: str, contenders: dict[str, subprocess.Popen[bytes]]) -> None:
    """Measure in turns, and print the table; the first one is what the others are compared with."""
    measured: dict[str, list[float]] = {name: [] for name in contenders}
    for process in contenders.values():
        block(process, WARM_UP)
    for _ in range(ROUNDS):
        for name, process in contenders.items():
            measured[name].append(statistics.median(block(process, CALLS)))
    base = statistics.median(next(iter(measured.values())))
    print(f"| contender | {what} | rounds from .. to | Saturnin / it |")
    print("|---|---:|---:|---:|")
    for name, medians in measured.items():
        median = statistics.median(medians)
        print(f"| {name} | {median:.1f} | {min(medians):.1f} .. {max(medians):.1f} | {base / median:.2f} |")
    print()


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    main(sys.argv[1])

"""Requests per second between brokers, over ipc and tcp, against hololinked in one run.

    python tests/bench/hololinked_requests.py PYTHON_OF_HOLOLINKED

The contenders take turns, so that they meet the same machine. Prints a table of medians for each kind of client.
"""

from __future__ import annotations

import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

PROGRAM = str(Path(__file__).with_name("hololinked_contender.py"))
ROUNDS = 8
REQUESTS = 1600
WARM_UP = 200
KINDS = {
    "one client for threads": [["sync"]],
    "eight clients in one loop": [["async", "8"]],
    "25 clients in one loop, and 25 for threads in processes of their own": [["async", "25"], *[["sync"]] * 25],
    "25 clients in one loop, and 25 for threads in one process": [["mixed", "25"]],
}
"""Which processes make up the clients of each table."""

Process = subprocess.Popen[bytes]


def stop(process: Process) -> None:
    assert process.stdin is not None
    process.stdin.close()
    process.kill()
    process.wait()


def start(opened: ExitStack, *argv: str) -> Process:
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    opened.callback(stop, process)
    return process


def block(processes: list[Process], count: int) -> float:
    """Requests per second; one process asks half of them if there are many."""
    shares = (
        [count]
        if len(processes) == 1
        else [count // 2, *[count // 2 // (len(processes) - 1)] * (len(processes) - 1)]
    )
    began = time.perf_counter()
    for process, share in zip(processes, shares, strict=True):
        assert process.stdin is not None
        process.stdin.write(b"%d\n" % share)
        process.stdin.flush()
    for process in processes:
        assert process.stdout is not None
        if not process.stdout.readline():
            raise RuntimeError("a client has ended")
    return sum(shares) / (time.perf_counter() - began)


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{probe.getsockname()[1]}"


def main(hololinked: str) -> None:
    for what, clients in KINDS.items():
        with ExitStack() as opened:
            directory = opened.enter_context(tempfile.TemporaryDirectory())
            contenders: dict[str, list[Process]] = {}
            for name, python, whose in (
                ("hololinked", hololinked, "theirs"),
                ("packetwire", sys.executable, "ours"),
            ):
                for transport, address in (("ipc", f"ipc://{directory}/{whose}.ipc"), ("tcp", free_address())):
                    start(opened, python, PROGRAM, whose, "serve", address)
                    processes = contenders[f"{name}, {transport}"] = []
                    for kind, *many in clients:
                        processes.append(start(opened, python, PROGRAM, whose, kind, address, *many))
                        block(processes[-1:], WARM_UP)
            compare(f"{what}, requests/s", contenders)


def compare(what: str, contenders: dict[str, list[Process]]) -> None:
    """Measure in turns, and print the table; hololinked over ipc is what the others are compared with."""
    measured: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(ROUNDS):
        for name, processes in contenders.items():
            measured[name].append(block(processes, REQUESTS))
    base = statistics.median(measured["hololinked, ipc"])
    print(f"| contender | {what} | rounds from .. to | it / hololinked, ipc |")
    print("|---|---:|---:|---:|")
    for name, rates in measured.items():
        median = statistics.median(rates)
        print(f"| {name} | {median:,.0f} | {min(rates):,.0f} .. {max(rates):,.0f} | {median / base:.2f} |")
    print(flush=True)


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    main(sys.argv[1])

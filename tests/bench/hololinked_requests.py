"""Requests per second between brokers, over ipc and tcp, against hololinked in one run.

    python tests/bench/hololinked_requests.py PYTHON_OF_HOLOLINKED

The contenders take turns, so that they meet the same machine. Prints a table of medians for each kind of client.
"""

from __future__ import annotations

import json
import socket
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

PROGRAM = str(Path(__file__).with_name("hololinked_contender.py"))
ROUNDS = 8
REQUESTS = 800
WARM_UP = 160


def stop(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    process.kill()
    process.wait()


def start(opened: ExitStack, *argv: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    opened.callback(stop, process)
    return process


def block(process: subprocess.Popen[bytes], count: int) -> float:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"%d\n" % count)
    process.stdin.flush()
    rate: float = json.loads(process.stdout.readline())
    return rate


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{probe.getsockname()[1]}"


def main(hololinked: str) -> None:
    with ExitStack() as opened:
        directory = opened.enter_context(tempfile.TemporaryDirectory())
        kinds = {"hololinked": (hololinked, "theirs"), "packetwire": (sys.executable, "ours")}
        clients: dict[str, dict[str, subprocess.Popen[bytes]]] = {"sync": {}, "async": {}}
        for name, (python, whose) in kinds.items():
            for transport, address in (("ipc", f"ipc://{directory}/{whose}.ipc"), ("tcp", free_address())):
                start(opened, python, PROGRAM, whose, "serve", address)
                for kind, contenders in clients.items():
                    contenders[f"{name}, {transport}"] = start(opened, python, PROGRAM, whose, kind, address)
        compare("one client for threads, requests/s", clients["sync"])
        compare("eight clients in one loop, requests/s", clients["async"])


def compare(what: str, contenders: dict[str, subprocess.Popen[bytes]]) -> None:
    """Measure in turns, and print the table; hololinked over ipc is what the others are compared with."""
    measured: dict[str, list[float]] = {name: [] for name in contenders}
    for process in contenders.values():
        block(process, WARM_UP)
    for _ in range(ROUNDS):
        for name, process in contenders.items():
            measured[name].append(block(process, REQUESTS))
    base = statistics.median(measured["hololinked, ipc"])
    print(f"| contender | {what} | rounds from .. to | it / hololinked, ipc |")
    print("|---|---:|---:|---:|")
    for name, rates in measured.items():
        median = statistics.median(rates)
        print(f"| {name} | {median:,.0f} | {min(rates):,.0f} .. {max(rates):,.0f} | {median / base:.2f} |")
    print()


if __name__ == "__main__":
    main(sys.argv[1])

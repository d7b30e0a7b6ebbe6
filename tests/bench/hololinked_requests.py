"""Requests per second between brokers, over ipc and tcp, against hololinked in one run.

    python tests/bench/hololinked_requests.py PYTHON_OF_HOLOLINKED

The contenders take turns, so that they meet the same machine. Prints a table of medians for each kind of client,
and the processor time of both ends for each request, which depends less on what else the machine does (on Linux).
"ZMQ alone" sends the same frames back and forth, and does not look into them.
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
            servers: dict[str, Process] = {}
            for name, python, whose in (
                ("hololinked", hololinked, "theirs"),
                ("packetwire", sys.executable, "ours"),
                ("ZMQ alone", sys.executable, "alone"),
            ):
                for transport, address in (("ipc", f"ipc://{directory}/{whose}.ipc"), ("tcp", free_address())):
                    if whose == "alone" and transport != "ipc":
                        continue
                    server = start(opened, python, PROGRAM, whose, "serve", address)
                    servers[f"{name}, {transport}"] = server
                    processes = contenders[f"{name}, {transport}"] = []
                    for kind, *many in clients:
                        processes.append(start(opened, python, PROGRAM, whose, kind, address, *many))
                        block(processes[-1:], WARM_UP)
            compare(f"{what}, requests/s", contenders, servers)


def processor_time(processes: list[Process]) -> float:
    """Microseconds of all their threads, of which none ends in between."""
    tasks = [task for process in processes for task in Path(f"/proc/{process.pid}/task").iterdir()]
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1000


def compare(what: str, contenders: dict[str, list[Process]], servers: dict[str, Process]) -> None:
    """Measure in turns, and print the table; hololinked over ipc is what the others are compared with."""
    measured: dict[str, list[float]] = {name: [] for name in contenders}
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    for _ in range(ROUNDS):
        for name, processes in contenders.items():
            ends = [servers[name]], processes
            before = [processor_time(end) for end in ends]
            measured[name].append(block(processes, REQUESTS))
            server, clients = (
                (processor_time(end) - then) / REQUESTS for end, then in zip(ends, before, strict=True)
            )
            spent[name].append((server, clients))
    base = statistics.median(measured["hololinked, ipc"])
    base_spent = statistics.median(map(sum, spent["hololinked, ipc"]))
    print(
        f"| contender | {what} | rounds from .. to | it / hololinked, ipc | µs server, clients | hololinked / it |"
    )
    print("|---|---:|---:|---:|---:|---:|")
    for name, rates in measured.items():
        median = statistics.median(rates)
        server, clients = (statistics.median(end) for end in zip(*spent[name], strict=True))
        print(
            f"| {name} | {median:,.0f} | {min(rates):,.0f} .. {max(rates):,.0f} | {median / base:.2f} "
            f"| {server:.0f}, {clients:.0f} | {base_spent / statistics.median(map(sum, spent[name])):.2f} |"
        )
    print(flush=True)


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    main(sys.argv[1])

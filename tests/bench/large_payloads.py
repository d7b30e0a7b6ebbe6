"""Small calls beside large payloads: their times, and how fast the large ones are.

Two processes over a socket pair: one thread calls with a payload that is echoed, another makes a small call now and
then. `python tests/bench/large_payloads.py [--mib 16] [--seconds 10] [--capabilities auto|off]`
"""

from __future__ import annotations

import argparse
import socket
import subprocess
import sys
import threading
import time
from typing import Any

from packetwire import PacketConnection

SMALL = b"0123456789abcdef"


def serve(descriptor: int, capabilities: str) -> None:
    """Echo whatever comes."""
    peer = socket.socket(fileno=descriptor)
    with PacketConnection(
        peer, capabilities=capabilities, request_handler=lambda rq_type, flags, payload: payload
    ) as conn:
        conn.join()


def measure(options: argparse.Namespace) -> None:
    """Print the figures."""
    ours, theirs = socket.socketpair()
    command = [sys.executable, __file__, "--serve", str(theirs.fileno()), "--capabilities", options.capabilities]
    with subprocess.Popen(command, pass_fds=[theirs.fileno()]) as process:
        theirs.close()
        with PacketConnection(ours, capabilities=options.capabilities) as conn:
            conn(0, payload=SMALL)
            report("alone", *load(conn, options, 0))
            report(f"{options.under_way} times {options.mib} MiB", *load(conn, options, options.under_way))
        process.wait()


def load(conn: PacketConnection, options: argparse.Namespace, under_way: int) -> tuple[list[float], float]:
    """(times of the small calls, MiB a second)"""
    payload = bytes(options.mib << 20)
    until = time.monotonic() + options.seconds
    done: list[int] = []

    def echo() -> None:
        while time.monotonic() < until:
            response: Any = conn(0, payload=payload)
            assert response[2] == payload
            done.append(1)

    threads = [threading.Thread(target=echo) for _ in range(under_way)]
    for thread in threads:
        thread.start()
    began = time.monotonic()
    times = []
    while time.monotonic() < until:
        start = time.perf_counter()
        conn(0, payload=SMALL)
        times.append(time.perf_counter() - start)
        time.sleep(0.005)
    for thread in threads:
        thread.join()
    return times, 2 * options.mib * len(done) / (time.monotonic() - began)


def report(what: str, times: list[float], speed: float) -> None:
    """Print one line."""
    times.sort()
    p50, p99 = times[len(times) // 2], times[len(times) * 99 // 100]
    print(
        f"{what:>20}: {speed:6.0f} MiB/s, {len(times)} small calls, p50 {p50 * 1e3:.2f} ms, p99 {p99 * 1e3:.2f} ms"
    )


def main() -> None:
    """Parse the arguments."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--mib", type=int, default=16)
    parser.add_argument("--under-way", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--capabilities", default="auto")
    parser.add_argument("--serve", type=int)
    options = parser.parse_args()
    if options.serve is not None:
        serve(options.serve, options.capabilities)
    else:
        measure(options)


if __name__ == "__main__":
    main()

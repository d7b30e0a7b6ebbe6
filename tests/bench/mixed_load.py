"""Small requests beside a handler that sleeps a second and a transfer of 64 MiB, in the same two processes.

    python tests/bench/mixed_load.py

Prints the round trips of the small requests alone and under that load, over one connection for all and over
a connection of their own.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack

from packetwire import PacketConnection

SMALL, SLEEP, TRANSFER = 1, 2, 3
SECOND = 1.0
MIB = 1 << 20
LIMIT = 65 * MIB
ROUNDS = 5


def handle(rq_type: int, flags: int, payload: bytes) -> bytes:
    if rq_type == SLEEP:
        time.sleep(SECOND)
    return payload[:16]


def serve(ends: list[socket.socket]) -> None:
    with ExitStack() as stack:
        for conn in [
            stack.enter_context(PacketConnection(end, request_handler=handle, max_packet_size=LIMIT))
            for end in ends
        ]:
            conn.join_recv()


def round_trips(conn: PacketConnection, over: Callable[[], bool]) -> list[float]:
    """Sorted, in microseconds."""
    times = []
    now = time.perf_counter()
    while not over():
        conn(SMALL, b"0123456789abcdef")
        now, before = time.perf_counter(), now
        times.append((now - before) * 1e6)
    return sorted(times)


def percentile(times: list[float], which: float) -> float:
    return times[int(len(times) * which)]


def measured(small: PacketConnection, other: PacketConnection) -> tuple[list[float], list[float]]:
    end = time.perf_counter() + SECOND
    idle = round_trips(small, lambda: time.perf_counter() > end)
    asleep = other.submit(SLEEP)
    transfer = other.submit(TRANSFER, payload=bytes(64 * MIB))
    loaded = round_trips(small, lambda: asleep.ready)
    assert transfer.ready, "the transfer was to take place in that time"
    assert asleep()[0]
    assert transfer()[0]
    return idle, loaded


def main() -> None:
    pairs = [socket.socketpair() for _ in range(2)]
    pid = os.fork()
    if pid == 0:
        for near, _ in pairs:
            near.close()
        serve([far for _, far in pairs])
        os._exit(0)
    for _, far in pairs:
        far.close()
    with ExitStack() as stack:
        first, second = [stack.enter_context(PacketConnection(near, max_packet_size=LIMIT)) for near, _ in pairs]
        print("| small requests | idle p50, p99 µs | loaded p50, p99 µs | p99 loaded ÷ idle |")
        print("|---|---:|---:|---:|")
        for name, other in ("a connection of their own", second), ("the same connection", first):
            rounds = sorted((measured(first, other) for _ in range(ROUNDS)), key=_ratio)
            idle, loaded = rounds[len(rounds) // 2]
            figures = [f"{percentile(times, 0.5):.0f}, {percentile(times, 0.99):.0f}" for times in (idle, loaded)]
            print(f"| {name} | {' | '.join(figures)} | {_ratio((idle, loaded)):.1f} |")
    os.waitpid(pid, 0)


def _ratio(round_: tuple[list[float], list[float]]) -> float:
    idle, loaded = round_
    return percentile(loaded, 0.99) / percentile(idle, 0.99)


if __name__ == "__main__":
    main()

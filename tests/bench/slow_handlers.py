"""Small calls beside a handler that sleeps, and handlers that wait for each other.

    python tests/bench/slow_handlers.py

Prints, for a request type that is not yet known as slow and for one that is, the round trips of small calls while a
handler sleeps for a second; the time of two handlers that wait for each other, of six handlers of a second in
four slots, and of 100 nested call-backs; and how often the threads of a server woke up while a handler slept.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from pathlib import Path

from packetwire import PacketConnection
from packetwire.testing import connection_pair

PAYLOAD = b"0123456789abcdef"
SMALL, SLEEP, SLEEP_LONG = range(3)
DEPTH = 100


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def small_calls(conn: PacketConnection, seconds: float) -> list[float]:
    """Their round trips, in ms."""
    found, end = [], time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        conn(SMALL, PAYLOAD)
        found.append((time.perf_counter() - began) * 1000)
    return found


def wake_ups(pid: int) -> int:
    """How often the threads of a process have gone to sleep by themselves."""
    lines = [
        line
        for status in Path(f"/proc/{pid}/task").glob("*/status")
        for line in status.read_text().splitlines()
        if line.startswith("voluntary_ctxt_switches")
    ]
    return sum(int(line.split()[1]) for line in lines)


def beside_a_sleeping_handler() -> None:
    near, far = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        near.close()

        def handle(rq_type: int, flags: int, payload: bytes) -> bytes:
            if rq_type != SMALL:
                time.sleep(1 if rq_type == SLEEP else 10)
            return payload

        with PacketConnection(far, request_handler=handle) as serving:
            serving.join_recv()
        os._exit(0)
    far.close()
    with PacketConnection(near) as conn:
        print("| small calls | number | p50 ms | p99 ms | p99.9 ms | longest ms |")
        print("|---|---:|---:|---:|---:|---:|")
        for what in ("alone", "its type not known as slow", "known as slow"):
            slow = None if what == "alone" else conn.submit(SLEEP, 0, PAYLOAD)
            found = small_calls(conn, 0.9)
            row = [percentile(found, share) for share in (0.5, 0.99, 0.999, 1)]
            print(f"| {what} | {len(found)} | " + " | ".join(f"{value:.3f}" for value in row) + " |")
            if slow is not None:
                slow()
        began = time.perf_counter()
        for result in [conn.submit(SLEEP, 0, PAYLOAD) for _ in range(6)]:
            result()
        print(f"six handlers of a second in four slots: {time.perf_counter() - began:.2f} s")
        slow = conn.submit(SLEEP_LONG, 0, PAYLOAD)
        time.sleep(3)  # until the clock's thread has ended
        before = wake_ups(pid)
        time.sleep(5)
        print(f"wake-ups of the server in 5 s of a long handler: {wake_ups(pid) - before}")
        slow()


def waiting_for_each_other() -> None:
    both = threading.Barrier(2)

    def handle(rq_type: int, flags: int, payload: bytes) -> bytes:
        both.wait(10)
        return payload

    with connection_pair(b={"request_handler": handle}) as (conn, _):
        for what in ("first", "again"):
            began = time.perf_counter()
            for result in [conn.submit(0), conn.submit(0)]:
                result()
            print(f"two handlers that wait for each other, {what}: {(time.perf_counter() - began) * 1000:.1f} ms")


def nested() -> None:
    ends: list[PacketConnection] = []

    def handler(end: int):  # type: ignore[no-untyped-def]
        def handle(rq_type: int, flags: int, payload: bytes) -> bytes:
            depth = payload[0]
            return ends[end](0, bytes([depth - 1]))[2] if depth else b"end"

        return handle

    settings = [{"request_handler": handler(end)} for end in range(2)]
    with connection_pair(a=settings[0], b=settings[1]) as (a, b):
        ends += [a, b]
        began = time.perf_counter()
        assert a(0, bytes([DEPTH]))[2] == b"end"
        print(f"{DEPTH} nested call-backs: {(time.perf_counter() - began) * 1000:.1f} ms")


if __name__ == "__main__":
    beside_a_sleeping_handler()
    waiting_for_each_other()
    nested()

"""Callers with time limits that try again, at a server that has more to do than it can.

    python tests/bench/pile_up.py [--callers 16] [--jobs 3] [--seconds 0.6] [--timeout 1] [--attempts 3]

So many callers do so many jobs each, one after the other, over one connection to another process with 4 handlers.
An attempt that has no response within the time limit is given up, and made again at once. Prints how many of the
jobs were done, how many handlers began, and how many ran to their end though nobody waited for them any more: with
capabilities off, so that the server never learns that a request was given up; with "auto"; and with "auto" and
handlers that look whether anybody still waits.
"""

from __future__ import annotations

import argparse
import os
import socket
import struct
import threading
import time

from packetwire import PacketConnection, RequestTimeout, current_request

JOB, JOB_THAT_LOOKS, COUNT = range(3)
HANDLERS = 4
CASES = (
    ("off", JOB, '`capabilities="off"`'),
    ("auto", JOB, "auto"),
    ("auto", JOB_THAT_LOOKS, "auto, handlers that look"),
)


def serve(sock: socket.socket, seconds: float, capabilities: str) -> None:
    """In a process of its own."""
    counted = threading.Lock()
    begun = finished = 0

    def handle(rq_type: int, flags: int, payload: bytes) -> bytes:
        nonlocal begun, finished
        if rq_type == COUNT:
            return struct.pack("<3I", begun, finished, conn.stats().owed - 1)
        with counted:
            begun += 1
        if rq_type == JOB:
            time.sleep(seconds)
        elif current_request().wait(seconds):
            current_request().check()
        with counted:
            finished += 1
        return b""

    conn = PacketConnection(
        sock, request_handler=handle, handlers=HANDLERS, inline={COUNT}, capabilities=capabilities
    )
    with conn:
        conn.join_recv()


def do_jobs(conn: PacketConnection, kind: int, jobs: int, timeout: float, attempts: int) -> int:
    """As one caller: the number of jobs that were done."""
    done = 0
    for _ in range(jobs):
        for _ in range(attempts):
            try:
                done += conn(kind, timeout=timeout)[0]
                break
            except RequestTimeout:
                pass
    return done


def measure(capabilities: str, kind: int, options: argparse.Namespace) -> list[str]:
    """One row of the table, but for its name."""
    near, far = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        near.close()
        serve(far, options.seconds, capabilities)
        os._exit(0)
    far.close()
    results: list[int] = []
    with PacketConnection(near, capabilities=capabilities) as conn:
        conn(COUNT)
        began = time.perf_counter()
        callers = [
            threading.Thread(
                target=lambda: results.append(do_jobs(conn, kind, options.jobs, options.timeout, options.attempts))
            )
            for _ in range(options.callers)
        ]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        took = time.perf_counter() - began
        while (counts := struct.unpack("<3I", conn(COUNT)[2]))[2]:
            time.sleep(0.01)
        busy = time.perf_counter() - began
    near.close()
    os.waitpid(pid, 0)
    begun, finished, _ = counts
    done = sum(results)
    jobs = options.callers * options.jobs
    return [f"{done} of {jobs}", str(begun), str(finished - done), f"{took:.1f} s", f"{busy - took:.1f} s"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--callers", type=int, default=16)
    parser.add_argument("--jobs", type=int, default=3, help="of each caller")
    parser.add_argument("--seconds", type=float, default=0.6, help="that a job takes")
    parser.add_argument("--timeout", type=float, default=1.0, help="seconds of an attempt")
    parser.add_argument("--attempts", type=int, default=3, help="for each job")
    options = parser.parse_args()
    print(
        "| capabilities | jobs done | handlers begun | ran to their end for nobody | took | server busy behind it |"
    )
    print("|---|---:|---:|---:|---:|---:|")
    for capabilities, kind, name in CASES:
        print(f"| {name} | " + " | ".join(measure(capabilities, kind, options)) + " |", flush=True)


if __name__ == "__main__":
    main()

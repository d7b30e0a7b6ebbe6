"""Where the processor time of a request goes, by system call, at both ends. Needs `perf`.

    python tests/bench/profile_request.py {sequential,pipelined} {4,inline}

Prints microseconds of processor time per request. Waiting is not in it, looking before sleeping is.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from packetwire import PacketConnection

REQUESTS = 100_000
WINDOW = 64
ROWS = 8
FREQUENCY = 7919
SYSTEM_CALL = re.compile(r"__x64_sys_(\w+)|__arm64_sys_(\w+)")
CLIENT, SERVER = "bench-client", "bench-server"


def name_process(name: str) -> None:
    Path("/proc/self/comm").write_text(name)


def run(kind: str, handlers: str) -> None:
    """The two processes that are profiled."""
    near, far = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        name_process(SERVER)
        near.close()
        serving = PacketConnection(
            far,
            request_handler=lambda rq_type, flags, payload: payload[::-1],
            handlers=handlers if handlers == "inline" else int(handlers),
        )
        with serving:
            serving.join_recv()
        os._exit(0)
    name_process(CLIENT)
    far.close()
    with PacketConnection(near) as conn:
        if kind == "sequential":
            for _ in range(REQUESTS):
                conn(0, b"0123456789abcdef")
        else:
            for _ in conn.map(((0, b"0123456789abcdef") for _ in range(REQUESTS)), window=WINDOW):
                pass
    os.waitpid(pid, 0)


def place(stack: str) -> str:
    entered = SYSTEM_CALL.search(stack)
    return (entered[1] or entered[2]) if entered else "Python"


def samples(script: str) -> dict[str, Counter[str]]:
    """For each end: how often it was seen where."""
    seen = {CLIENT: Counter[str](), SERVER: Counter[str]()}
    for sample in script.split("\n\n"):
        head, _, stack = sample.strip().partition("\n")
        for end, places in seen.items():
            if head.startswith(end):
                places[place(stack)] += 1
    return seen


def main() -> None:
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    kind, handlers, *profiled = sys.argv[1:]
    if profiled:
        run(kind, handlers)
        return
    with tempfile.TemporaryDirectory() as folder:
        data = f"{folder}/perf.data"
        command = [sys.executable, __file__, kind, handlers, "profiled"]
        record = ["perf", "record", "--quiet", "-F", str(FREQUENCY), "-g", "-o", data, *command]
        subprocess.run(record, check=True)
        script = ["perf", "script", "-i", data, "-F", "comm,ip,sym"]
        text = subprocess.run(script, check=True, capture_output=True, text=True).stdout
    for end, seen in samples(text).items():
        microseconds = 1e6 / FREQUENCY / REQUESTS
        print(f"\n| {end.removeprefix('bench-')}, {kind}, handlers={handlers} | µs |\n|---|---:|")
        for where, count in seen.most_common(ROWS):
            print(f"| {where} | {count * microseconds:.2f} |")
        print(f"| all | {seen.total() * microseconds:.2f} |")


if __name__ == "__main__":
    main()

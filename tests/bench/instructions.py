"""Instructions of the processor that a request takes in the engine and the codec, counted by valgrind.

    python tests/bench/instructions.py [--lib DIRECTORY] [--pure]

Two engines in one process ask and answer, 16 bytes each way, one request after the other, and 64 at a time. Printed
is what a request takes at both ends together: without capabilities, and with capabilities that both have agreed on
and that no request uses. `--lib` counts without them in another tree, whose `lib` that is. The same run
takes the same number of instructions every time, whatever else the machine does, to a few in a thousand.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from typing import Any

FEW, MANY = 2000, 6000
"""Requests of the two runs; their difference is without the start of Python."""
WINDOWS = (1, 64)
PAYLOAD = b"0123456789abcdef"
CASES = ("none", "idle")


class Waiter:
    """Takes a response."""

    def set_response(self, ok: bool, flags: int, payload: bytes) -> None:
        pass


def engines(case: str) -> tuple[Any, Any]:
    from packetwire.core.engine import ConnectionEngine

    if case == "none":
        return ConnectionEngine(), ConnectionEngine()
    from packetwire.core.capabilities import Capabilities, Mode
    from packetwire.core.hello import ALL_FEATURES, Hello

    def made() -> Any:
        return ConnectionEngine(capabilities=Capabilities(Mode.AUTO, Hello(features=ALL_FEATURES)))

    return made(), made()


def run(case: str, window: int, requests: int) -> None:
    """What is counted."""
    a, b = engines(case)
    came: list[Any] = []
    events: list[Any] = []
    waiter = Waiter()
    for _ in range(requests // window):
        for _ in range(window):
            a.ask(1, 0, PAYLOAD, 0, waiter)
        b.receive_to(b"".join(a.data_to_send()), came.append, events)
        a.data_sent()
        for key, _, _, payload in came:
            b.respond(0, key, True, 0, payload)
        came.clear()
        a.receive_to(b"".join(b.data_to_send()), came.append, events)
        b.data_sent()
    assert not a.waiters


def instructions(case: str, window: int, requests: int, environment: dict[str, str]) -> int:
    """Of a process that does that."""
    argv = [
        *("valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"),
        *(sys.executable, __file__, "--run", case, str(window), str(requests)),
    ]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    found = re.search(r"I\s+refs:\s+([\d,]+)", done.stderr)
    if done.returncode or found is None:
        raise SystemExit(f"{' '.join(argv)}: {done.stderr[-2000:]}")
    return int(found[1].replace(",", ""))


def main() -> None:
    if sys.argv[1:2] == ["--run"]:
        run(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lib", help="the lib directory of another tree")
    parser.add_argument("--pure", action="store_true", help="nothing compiled")
    options = parser.parse_args()
    environment = os.environ | {"PYTHONHASHSEED": "0"}
    if options.lib:
        environment["PYTHONPATH"] = options.lib
    if options.pure:
        environment["PACKETWIRE_PURE"] = "1"
    print("| capabilities | one after the other | 64 at a time |")
    print("|---|---:|---:|")
    for case in CASES[:1] if options.lib else CASES:
        row = []
        for window in WINDOWS:
            few, many = (instructions(case, window, requests, environment) for requests in (FEW, MANY))
            row.append(f"{(many - few) / (MANY - FEW):,.0f}")
        print(f"| {case} | " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()

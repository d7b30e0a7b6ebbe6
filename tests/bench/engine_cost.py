"""What a request costs in engine and codec, by processor instructions: `python tests/bench/engine_cost.py OLD NEW`.

OLD and NEW are directories with a package `packetwire`, such as `lib` of two checkouts, or what
`pip install --no-deps --target` has made of them; both run on the other packages of this Python. valgrind counts
(Debian's package), so what else the machine does changes nothing. Each runs with more and with fewer requests, and
the difference counts: what Python's start costs is in neither. An engine that has agreed on capabilities is shown
too.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import Any

FEW, MANY = 512, 2560
WINDOW = 16
PAYLOAD = b"sixteen bytes..."
CASES = {"plain": "capabilities off", "agreed": "capabilities agreed, and not used"}


class Waiter:
    """What waits for a response."""

    def set_response(self, ok: bool, flags: int, payload: bytes) -> None:
        """It came."""


def engines(case: str) -> tuple[Any, Any]:
    """Two engines that have nothing to say but requests."""
    from packetwire.core.engine import ConnectionEngine

    if case == "plain":
        return ConnectionEngine(), ConnectionEngine()
    from packetwire.connectionbase import FEATURES
    from packetwire.core.capabilities import Capabilities, Mode
    from packetwire.core.hello import Hello

    hello = Hello(features=FEATURES)
    near, far = (ConnectionEngine(capabilities=Capabilities(Mode.AUTO, hello)) for _ in range(2))
    near.ask_capabilities()
    for sender, receiver in ((near, far), (far, near)):
        receiver.receive(b"".join(sender.data_to_send()))
        sender.data_sent()
    return near, far


def run(case: str, requests: int) -> None:
    """So many requests from one engine to another, in windows, and their responses."""
    near, far = engines(case)
    waiter = Waiter()

    def answer(fields: Any) -> None:
        far.respond(0, fields[0], True, 0, PAYLOAD)

    def carry(sender: Any, receiver: Any) -> None:
        data = b"".join(sender.data_to_send())
        sender.data_sent()
        receiver.receive_to(data, answer, [])

    for _ in range(requests // WINDOW):
        for _ in range(WINDOW):
            near.ask(3, 0, PAYLOAD, 0, waiter)
        carry(near, far)
        carry(far, near)
    assert not near.waiters


def instructions(directory: str, case: str, requests: int) -> int:
    """The instructions of one run, with those of Python's start."""
    valgrind = ["valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"]
    done = subprocess.run(
        [*valgrind, sys.executable, __file__, "--run", case, str(requests)],
        env=os.environ | {"PYTHONPATH": os.path.abspath(directory), "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    (found,) = re.findall(r"I\s+refs:\s+([\d,]+)", done.stderr)
    return int(found.replace(",", ""))


def per_request(directory: str, case: str) -> float:
    """The instructions of one request and its response, at both ends."""
    few, many = (instructions(directory, case, requests) for requests in (FEW, MANY))
    return (many - few) / (MANY - FEW)


def main(old: str, new: str) -> None:
    """Print them, and their ratio."""
    before = per_request(old, "plain")
    print(f"{old}: {before:,.0f} instructions for a request and its response")
    for case, what in CASES.items():
        after = per_request(new, case)
        print(f"{new}, {what}: {after:,.0f}, {after / before:.3f} of that")


if __name__ == "__main__":
    if sys.argv[1] == "--run":
        run(sys.argv[2], int(sys.argv[3]))
    else:
        main(*sys.argv[1:])

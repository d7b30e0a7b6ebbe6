"""Opens, calls, closes 10,000 times; fails if anything is left: `-m tests.connections.openings ENDS HANDLERS`."""

from __future__ import annotations

import gc
import os
import sys
import threading

from tests.leftovers import open_fds

from packetwire import PacketConnection

from .conftest import TRANSPORTS, Ends

WARM_UP = 2000
TIMES = 10_000
SAMPLES = 5
GROWTH_LIMIT = 1 << 20
"""Octets."""


def use(ends: Ends, handlers: int | str, times: int) -> None:
    for _ in range(times):
        with PacketConnection(ends.b, request_handler=lambda *_: b"x", handlers=handlers) as peer:
            with PacketConnection(ends.a) as conn:
                assert conn(1) == (True, 0, b"x")
            peer.join()
            assert peer.ended


def resident() -> int:
    """Octets of memory that this process has."""
    gc.collect()
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def main(name: str, handlers: str) -> None:
    ends = TRANSPORTS[name]()
    arguments = ends, handlers if handlers == "inline" else int(handlers)
    use(*arguments, WARM_UP)
    left = set(threading.enumerate()), open_fds()
    memory = []
    for _ in range(2 * SAMPLES):
        use(*arguments, TIMES // (2 * SAMPLES))
        memory.append(resident())
    # what the allocator keeps goes up and down by megabytes: growth is what the lowest places show
    growth = min(memory[SAMPLES:]) - min(memory[:SAMPLES])
    print(f"{name}, handlers={handlers}: {growth >> 10} KiB more after {TIMES} connections")
    assert (set(threading.enumerate()), open_fds()) == left
    assert growth <= GROWTH_LIMIT, growth


if __name__ == "__main__":
    main(*sys.argv[1:])

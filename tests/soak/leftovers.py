"""What the process holds: threads, descriptors, children, memory. After a round it is what it was before."""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import zmq
from tests.childprocesses import child_processes
from tests.leftovers import open_fds

PATIENCE = 20.0
"""Seconds for what has been let go of to be gone: handlers that slept, reads of files that were closed."""
LOOK_INTERVAL = 0.005


@dataclass(frozen=True)
class Holdings:
    """What can be left behind by a round."""

    threads: frozenset[threading.Thread]
    native_threads: int
    fds: frozenset[str]
    children: frozenset[str]

    @classmethod
    def now(cls) -> Holdings:
        return cls(
            frozenset(threading.enumerate()),
            len(os.listdir("/proc/self/task")),
            frozenset(open_fds()),
            frozenset(child_processes()),
        )

    def more_than(self, before: Holdings) -> list[str]:
        """What there is that was not there before."""
        found = [f"thread {thread.name}" for thread in self.threads - before.threads]
        if not found and self.native_threads > before.native_threads:
            found.append(f"{self.native_threads} native threads instead of {before.native_threads}")
        found += [f"descriptor {fd}" for fd in sorted(self.fds - before.fds)]
        return found + [f"child process {pid}" for pid in self.children - before.children]


def left_since(before: Holdings) -> list[str]:
    """What is still there after a while of patience, though it was not there before."""
    zmq.Context.instance().term()  # it waits until its sockets are closed; whoever wants it next makes another
    gc.collect()
    deadline = time.monotonic() + PATIENCE
    while (left := Holdings.now().more_than(before)) and time.monotonic() < deadline:
        time.sleep(LOOK_INTERVAL)
    return left


@dataclass(frozen=True)
class Memory:
    """Octets that are resident, and the objects that the garbage collector knows."""

    resident: int
    objects: int

    @classmethod
    def now(cls) -> Memory:
        trim()
        with Path("/proc/self/statm").open() as statm:
            resident = int(statm.read().split()[1]) * os.sysconf("SC_PAGESIZE")
        return cls(resident, len(gc.get_objects()))


def peak_resident() -> int:
    """The most that was ever resident, in octets."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10


def trim() -> None:
    """Have the allocator give back what is free, where it can: else what it keeps hides what is lost."""
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)

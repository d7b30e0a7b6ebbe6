"""How much memory this process may use, and giving back what it does not use any more."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from pathlib import Path, PurePosixPath

CGROUPS = Path("/sys/fs/cgroup")
DEFAULT_MAX_MEMORY = 1 << 30
"""Bytes that the connections of a server may hold, all together, where there is much memory."""
PARTS = 4
"""That is no more than one of so many parts of the memory that this process may use."""


def default_max_memory() -> int:
    """The bound for a server whose user set none."""
    return min(DEFAULT_MAX_MEMORY, memory_limit() // PARTS)


def memory_limit() -> int:
    """Bytes that this process may use: those of its control group, or of the machine."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            limits += _limits_of(*line.split(":", 2))
    return min(limits)


def _limits_of(_: str, controllers: str, path: str) -> list[int]:
    """The limits of a control group and of those that it is in, of either version."""
    if controllers and "memory" not in controllers.split(","):
        return []
    root, name = (CGROUPS / "memory", "memory.limit_in_bytes") if controllers else (CGROUPS, "memory.max")
    groups = PurePosixPath(path.lstrip("/"))
    limits = []
    for group in (groups, *groups.parents):
        with suppress(OSError, ValueError):  # "max" is no number
            limits.append(int((root / group / name).read_text()))
    return limits


def give_back() -> None:
    """Give memory that is free back to the system, where the C library can do that."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)

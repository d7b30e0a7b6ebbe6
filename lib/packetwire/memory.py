"""The memory that this process may use, and returning unused memory to the system."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from pathlib import Path, PurePosixPath

CGROUPS = Path("/sys/fs/cgroup")
DEFAULT_MAX_MEMORY = 1 << 30
"""Bytes that all connections of a server together may hold, if memory is plentiful."""
PARTS = 4
"""The bound is at most this fraction of the memory that the process may use: a quarter."""


def default_max_memory() -> int:
    """The bound for a server whose user set none."""
    return min(DEFAULT_MAX_MEMORY, memory_limit() // PARTS)


def memory_limit() -> int:
    """Bytes that this process may use, by its control group or by the machine."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            limits += _limits_of(*line.split(":", 2))
    return min(limits)


def _limits_of(_: str, controllers: str, path: str) -> list[int]:
    """The limits of a control group, of either version, and of its parents."""
    if controllers and "memory" not in controllers.split(","):
        return []
    root, name = (CGROUPS / "memory", "memory.limit_in_bytes") if controllers else (CGROUPS, "memory.max")
    groups = PurePosixPath(path.lstrip("/"))
    limits = []
    for group in (groups, *groups.parents):
        with suppress(OSError, ValueError):  # "max" means no limit
            limits.append(int((root / group / name).read_text()))
    return limits


def give_back() -> None:
    """Return free memory to the system, if the C library can do that."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)

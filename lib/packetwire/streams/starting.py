"""Starting a child with pipes, in a process group of its own or not."""

from __future__ import annotations

import fcntl
import subprocess
from collections.abc import Callable, Mapping, Sequence
from operator import index
from typing import SupportsIndex, cast

from packetwire.errors import LocalProtocolError
from packetwire.streams import forking
from packetwire.streams.standard import has_controlling_terminal, standard_taken

PIPE_SIZE = 1 << 20
"""Capacity of the pipes to a child, if the system allows: the most that an unprivileged user may ask for."""


def check_group(process_group: object) -> None:
    """Raise `LocalProtocolError` or TypeError for what is no `process_group` of `child`."""
    if process_group is None:
        return
    if not isinstance(process_group, SupportsIndex):
        raise TypeError(
            f"process_group must be True, False, None or the number of a group, got "
            f"{type(process_group).__name__}: {process_group!r:.100}"
        )
    if index(process_group) < -1:  # to Popen -1 means no group
        raise LocalProtocolError(f"process_group must be 0 or the number of a group, got {process_group!r}")


def group_option(process_group: bool | int | None, popen: Mapping[str, object]) -> dict[str, int]:
    """The arguments for Popen; `popen` are those that the user gave."""
    if process_group is None:
        decided = popen.get("start_new_session") or popen.get("preexec_fn")
        return {} if decided or has_controlling_terminal() else {"process_group": 0}
    if isinstance(process_group, bool):
        return {"process_group": 0} if process_group else {}
    return {"process_group": process_group}


def start_child(argv: Sequence[str], **options: object) -> subprocess.Popen[bytes]:
    """Start it; its pipes are guarded against forks. Raises OSError."""
    # in one step for a fork in another thread: it would get the child's ends of the pipes, too
    popen = cast("Callable[..., subprocess.Popen[bytes]]", subprocess.Popen)  # whose overloads want each option
    with forking.opening(), standard_taken():
        process = popen(argv, bufsize=0, **options)
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                forking.guard(pipe)
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            _enlarge(pipe.fileno())
    return process


def _enlarge(fd: int) -> None:
    """Enlarge a pipe, if possible, so that long messages take fewer switches between the two processes."""
    try:
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
    except (AttributeError, OSError):
        pass  # unsupported, not a pipe, or this user's quota of large pipes is used up

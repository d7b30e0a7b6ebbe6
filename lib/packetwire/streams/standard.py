"""Descriptors 0, 1 and 2: whether they are what everyone takes them for, and how to keep them from others.

A process may be started with some of them closed, or close them later. Then the next file that anything opens
gets the number, and what is printed gets into it. What Python opens is not inherited by programs that it starts,
while standard input, output and error are, also after a `dup2`: so a stranger at their place is told from them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from packetwire.errors import LocalProtocolError
from packetwire.streams.fds import FdWriter

STDIN, STDOUT, STDERR = 0, 1, 2
FORWARD_WAIT = 1.0
"""Seconds for a reader of standard error that sleeps."""

_NAMES = ("standard input", "standard output", "standard error")


def check_standard(fd: int) -> None:
    """Raises `LocalProtocolError` if the descriptor is closed, or a file of this process has got its number."""
    try:
        inheritable = os.get_inheritable(fd)
    except OSError as error:
        raise LocalProtocolError(f"{_NAMES[fd]}, descriptor {fd}, is closed: there is nobody to talk to") from error
    if not inheritable:
        raise LocalProtocolError(
            f"{_NAMES[fd]} is closed: its number, {fd}, was given to a file that this process opened"
        )


def has_standard_error() -> bool:
    """Whether descriptor 2 is standard error."""
    if sys.__stderr__ is None:  # it was closed when Python started
        return False
    try:
        return os.get_inheritable(STDERR)
    except OSError:
        return False


def forward_to_standard_error(data: bytes) -> None:
    """Write what a reader takes within a second to standard error, if there is one."""
    import select

    if not has_standard_error():
        return
    view = memoryview(data)
    with suppress(OSError):  # it is closed now, or its reader is gone: there is nobody to show it to
        writer = FdWriter(STDERR)
        poller = select.poll()
        poller.register(STDERR, select.POLLOUT)
        while view and poller.poll(FORWARD_WAIT * 1000) and has_standard_error():
            view = view[writer.try_write([view]) :]


@contextmanager
def standard_taken() -> Iterator[None]:
    """What is opened in here gets numbers above 2, also where some of those are closed."""
    fillers: list[int] = []
    try:
        while (fd := os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)) <= STDERR:
            fillers.append(fd)
        os.close(fd)
        yield
    finally:
        for fd in fillers:
            os.close(fd)


def has_controlling_terminal() -> bool:
    """Whether this process has one: a terminal whose Ctrl-C and Ctrl-Z reach it, and that it can ask on."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True

"""Descriptors 0, 1 and 2: checks that they are standard input, output and error, and keeping other files off them.

A process may be started with some of them closed, or close them later. Then the next file that is opened gets the
number, and printed text goes there. Descriptors that Python opens are not inheritable, while standard input, output
and error are, also after a `dup2`: that is how a stranger in their place is recognised.
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
"""Seconds that a slow reader of standard error is waited for."""

_NAMES = ("standard input", "standard output", "standard error")


def check_standard(fd: int) -> None:
    """Raise `LocalProtocolError` if the descriptor is closed, or its number went to a file of this process."""
    try:
        inheritable = os.get_inheritable(fd)
    except OSError as error:
        raise LocalProtocolError(f"{_NAMES[fd]}, descriptor {fd}, is closed: there is nobody to talk to") from error
    if not inheritable:
        raise LocalProtocolError(
            f"{_NAMES[fd]} is closed: its number, {fd}, was given to a file that this process opened"
        )


def has_standard_error() -> bool:
    """True if descriptor 2 is standard error."""
    if sys.__stderr__ is None:  # it was closed when Python started
        return False
    try:
        return os.get_inheritable(STDERR)
    except OSError:
        return False


def forward_to_standard_error(data: bytes) -> None:
    """Write to standard error, if there is one, as long as its reader takes something each second."""
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
    """A block in which newly opened descriptors get numbers above 2, even if some of the lower ones are closed."""
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
    """True if this process has a controlling terminal, whose Ctrl-C and Ctrl-Z reach it and where it can prompt."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True

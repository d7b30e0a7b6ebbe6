"""The failure of a command, and its exit statuses."""

from __future__ import annotations

import signal

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_TIMEOUT = 124
"""The same as that of `timeout` in coreutils."""
EXIT_INTERRUPTED = 128 + signal.SIGINT


class CommandFailed(Exception):
    """Ends the command line with one line of text and an exit status."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status

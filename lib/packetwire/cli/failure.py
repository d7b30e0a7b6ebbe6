"""The failure of a command, and its exit statuses."""

from __future__ import annotations

import signal
from collections.abc import Iterable

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


def did_you_mean(wrong: str, right: Iterable[str]) -> str:
    """The end of a message about a name that is not known: it asks for the one that is most like it."""
    from difflib import get_close_matches  # only for a mistake

    close = get_close_matches(wrong, list(right), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""

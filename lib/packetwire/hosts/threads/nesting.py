"""Whether a thread may wait for a connection where it is now.

A signal handler, or a finalizer that the garbage collector runs, comes at any instruction. If that is one of ours,
in the middle of reading or writing a connection, the connection stands still until it returns. So it can send
requests, but a call that it waits for could wait for itself, by way of the peer also on another connection: it is
refused.
"""

from __future__ import annotations

import sys

inside: dict[int, object] = {}
"""The threads that are in a call, or write; and so may be interrupted there."""
own_threads: set[int] = set()
"""Those that packetwire started for connections."""

_CALL_USERS = frozenset(
    {
        "__call__",
        "_fire",
        "_run_callbacks",
        "_run_receiver",
        "_run_waiting",
        "_show",
        "conn_handle_request",
        "run_handler",
    }
)
"""Functions of ours that call functions of our users on purpose."""


def is_interrupted(me: int) -> bool:
    """Whether this thread is in code that interrupted ours: a signal handler or a finalizer."""
    return (me in inside or me in own_threads) and not _is_called_on_purpose()


def _is_called_on_purpose() -> bool:
    """Whether the user's code that called us was itself called by us, or by none of us."""
    frame = sys._getframe(2)
    while frame is not None and _is_ours(frame.f_globals):
        frame = frame.f_back  # type: ignore[assignment]
    while frame is not None and not _is_ours(frame.f_globals):
        frame = frame.f_back  # type: ignore[assignment]
    return frame is None or frame.f_code.co_name in _CALL_USERS


def _is_ours(names: dict[str, object]) -> bool:
    return str(names.get("__name__", "")).partition(".")[0] == "packetwire"

"""Seconds as users write them, checked and made such that every wait of the system takes them.

Strategy. A poll takes at most 2**31 - 1 milliseconds, a lock 2**63 - 1 nanoseconds, and so on; beyond that they
raise an OverflowError, and by then a request has been sent. So what comes in is checked and limited here, before
anything happens, and no wait further down has to care.
"""

from __future__ import annotations

import math
from typing import Any

from packetwire.errors import LocalProtocolError

LONGEST = 2_000_000.0
"""Seconds, 23 days, from which on a limit is none, or where there must be one, is this one."""


def seconds_of(value: Any, name: str = "timeout") -> float:
    """A number of seconds, at most `LONGEST`.

    Raises TypeError for what is no number, `LocalProtocolError` for one that is none (NaN).
    """
    if isinstance(value, str | bytes) or not hasattr(value, "__float__"):
        raise TypeError(f"{name} must be a number of seconds, got {type(value).__name__}: {value!r:.100}")
    try:
        seconds = float(value)
    except OverflowError:  # an int beyond any float
        seconds = math.inf if value > 0 else -math.inf
    except ValueError:  # a Decimal that is a signaling NaN
        seconds = math.nan
    if math.isnan(seconds):
        raise LocalProtocolError(f"{name} must be a number of seconds, got {value!r}")
    return max(-LONGEST, min(seconds, LONGEST))


def milliseconds_of(seconds: object) -> int | None:
    """A time as it is said to a peer; None for None."""
    limit = time_limit(seconds, "cut_off")
    return None if limit is None else max(0, round(limit * 1000))


def time_limit(value: object, name: str = "timeout") -> float | None:
    """A time limit: None for None, for infinity and for what comes near it; else as `seconds_of`."""
    if value is None:
        return None
    seconds = seconds_of(value, name)
    return None if seconds >= LONGEST else seconds

"""Time limits in milliseconds, as in hololinked."""

from __future__ import annotations

import math
from typing import SupportsFloat

from packetwire.core.timelimits import time_limit


def seconds_of(milliseconds: object, name: str = "timeout") -> float | None:
    """A time limit in milliseconds, in seconds; None for none. To be called before anything is sent.

    Raises TypeError if it is not a number, `LocalProtocolError` if it is NaN.
    """
    if milliseconds is None:
        return None
    if isinstance(milliseconds, str | bytes) or not isinstance(milliseconds, SupportsFloat):
        kind = type(milliseconds).__name__
        raise TypeError(f"{name} must be a number of milliseconds, got {kind}: {milliseconds!r:.100}")
    try:
        seconds = float(milliseconds) / 1000
    except OverflowError:  # an int beyond any float
        seconds = math.inf
    return time_limit(seconds, name)

"""Time limits as methods of brokers take them: in milliseconds, as in hololinked."""

from __future__ import annotations

import math
from typing import Any

from packetwire.core.timelimits import time_limit


def seconds_of(milliseconds: Any, name: str = "timeout") -> float | None:
    """The seconds of a time limit in milliseconds; None for none. To be called before anything is sent.

    Raises TypeError for what is no number, `LocalProtocolError` for one that is none (NaN).
    """
    if milliseconds is None:
        return None
    if isinstance(milliseconds, str | bytes) or not hasattr(milliseconds, "__float__"):
        kind = type(milliseconds).__name__
        raise TypeError(f"{name} must be a number of milliseconds, got {kind}: {milliseconds!r:.100}")
    try:
        seconds = float(milliseconds) / 1000
    except OverflowError:  # an int beyond any float
        seconds = math.inf
    return time_limit(seconds, name)

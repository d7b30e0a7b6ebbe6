"""Values that stand for what is no message."""

from __future__ import annotations

from enum import Enum
from typing import Final


class Sentinel(Enum):
    """A value that `Channel.receive` returns instead of a handler's result, and the key of a catch-all handler."""

    ANY = "ANY"
    INVALID = "INVALID"
    TIMEOUT = "TIMEOUT"

    def __repr__(self) -> str:
        return self.value


ANY: Final = Sentinel.ANY
"""The last key of every message: a handler for what no other handler takes."""
INVALID: Final = Sentinel.INVALID
"""The message was refused, or its handler failed."""
TIMEOUT: Final = Sentinel.TIMEOUT
"""No message came in time."""

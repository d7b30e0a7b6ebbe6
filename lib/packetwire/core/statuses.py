"""Status codes: why a request was not done, as the application flags of a response that is not ok.

They are sent to peers only that have agreed on them. `docs/wire.md` is the specification.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

NOT_BEGUN = 16
"""Added to a code if no handler had begun."""


class StatusCode(IntEnum):
    """The reason why a request was not done."""

    NONE = 0
    """Not said: the payload is a text."""
    CANCELLED = 1
    DEADLINE = 2
    DRAINING = 3
    BUSY = 4
    """A bound was reached."""
    UNKNOWN = 5
    """There is no handler, or the request type is not known."""
    BAD_REQUEST = 6
    """The payload cannot be decoded."""
    FAILED = 7
    """The payload is a typed error."""
    REPEATED = 8
    """The request id was done before, and its result is gone."""


class Status(NamedTuple):
    """A status code, and whether a handler had begun."""

    code: StatusCode
    begun: bool | None
    """None if that is not known."""


UNKNOWN_STATUS = Status(StatusCode.NONE, None)
"""That of a response whose sender knows no statuses."""


def flags_of(code: StatusCode, *, begun: bool) -> int:
    """The application flags that say it."""
    return code if begun else code + NOT_BEGUN


def status_of(flags: int) -> Status:
    """The status that the flags of an agreed peer's response stand for.

    A code of a later version is `StatusCode.NONE`, whose text remains.
    """
    code = flags & (NOT_BEGUN - 1)
    if flags >= 2 * NOT_BEGUN or code not in _CODES:
        return UNKNOWN_STATUS
    if flags & NOT_BEGUN:
        return Status(StatusCode(code), False)
    return Status(StatusCode(code), True if code else None)


_CODES = frozenset(StatusCode)

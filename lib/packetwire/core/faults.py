"""Which failures of a connection's requests are worth a line in the log, and whose fault they are.

Strategy. A peer decides how often a handler fails, and so it must not decide how much is logged. Failures of a
kind, which is the class of the exception and the line that raised it, are logged singly at first and then only
counted: the code has few kinds, whatever the peer sends. No lock is needed: each number is taken in one step.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from itertools import count
from typing import NamedTuple

SINGLY = 3
"""Failures of one kind that are logged one by one."""
MAX_KINDS = 32
"""Kinds that are told apart; the failures of further ones are only counted."""

CAUSED_BY_PEER = "_packetwire_caused_by_peer"
OF_THE_CODE = (NameError, AttributeError, ImportError, NotImplementedError, MemoryError, SystemError)
"""Exceptions that no input explains, whatever was being decoded."""


def caused_by_peer(error: Exception) -> None:
    """Note on an exception that the peer's request is at fault and not the code that found this out."""
    if not isinstance(error, OF_THE_CODE):
        BaseException.__setattr__(error, CAUSED_BY_PEER, True)  # also where a class refuses attributes


def is_caused_by_peer(error: BaseException) -> bool:
    """True if `caused_by_peer` was said of it."""
    return getattr(error, CAUSED_BY_PEER, False) is True


class Worth(Enum):
    """The kind of entry that a failure gets in the log."""

    SINGLE = "an entry of its own"
    FIRST_COUNTED = "a line that says that such failures are counted from here on"
    ROUND = "a line with their number, which is round"
    NOTHING = "nothing"


class Counted(NamedTuple):
    """A failure, counted."""

    worth: Worth
    number: int = 0
    """Which one it is of those that are only counted."""


class FaultCounter:
    """Counts the failures of one connection."""

    def __init__(self) -> None:
        self._kinds: dict[object, Iterator[int]] = {}
        self._counting = count(1)
        self._looked = 0  # numbers that were taken only to see how far it is

    def add(self, error: BaseException) -> Counted:
        """Count one more; from any thread."""
        kind = type(error), _raised_at(error)
        known = kind in self._kinds or len(self._kinds) < MAX_KINDS
        if known and next(self._kinds.setdefault(kind, count(1))) <= SINGLY:
            return Counted(Worth.SINGLE)
        number = next(self._counting) - self._looked
        if number == 1:
            return Counted(Worth.FIRST_COUNTED, number)
        return Counted(Worth.ROUND if _is_round(number) else Worth.NOTHING, number)

    def only_counted(self) -> int:
        """How many were not logged singly."""
        number = next(self._counting) - self._looked - 1
        self._looked += 1
        return number


def _raised_at(error: BaseException) -> tuple[object, int] | None:
    """The code and line that raised it."""
    traceback = error.__traceback__
    if traceback is None:
        return None
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback.tb_frame.f_code, traceback.tb_lineno


def _is_round(number: int) -> bool:
    """True for 10, 100, 1000 and so on."""
    while number >= 10 and number % 10 == 0:
        number //= 10
    return number == 1

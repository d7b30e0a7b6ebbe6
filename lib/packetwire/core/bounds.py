"""Bounds as users write them: whole numbers, checked before anything happens."""

from __future__ import annotations

from operator import index
from typing import Any

from packetwire.errors import LocalProtocolError


def bound_of(value: Any, name: str, least: int = 1) -> int:
    """A whole number that is not below `least`.

    Raises TypeError for what is no number, `LocalProtocolError` for one that cannot be the bound.
    """
    if isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number, got bool: {value!r}")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, float):  # a fraction, an infinity, NaN
        raise LocalProtocolError(f"{name} must be a whole number, got {value!r}")
    if not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be a whole number, got {type(value).__name__}: {value!r:.100}")
    bound = index(value)
    if bound < least:
        raise LocalProtocolError(f"{name} must be {least} or more, got {value!r}")
    return bound

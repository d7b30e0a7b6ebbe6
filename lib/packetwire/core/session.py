"""The session whose request is being answered, for methods that ask whoever has called them."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

SESSION: ContextVar[Any] = ContextVar("packetwire_session", default=None)
"""The object that has the connection; None outside of methods."""

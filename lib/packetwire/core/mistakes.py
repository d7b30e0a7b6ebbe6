"""Mistakes in handlers and request maps, found where these are given and not at the first request.

Only what cannot work is refused here. A request class may have no `from_bytes` where it is only asked, and an
`async def` as its `fulfil` where it is served in an event loop only.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from inspect import isasyncgenfunction, iscoroutinefunction
from typing import Any

from packetwire.core.engine import MAX_RQ_TYPE
from packetwire.core.varint import shown
from packetwire.errors import LocalProtocolError

_MAY_BE_MADE = (bytes, bytearray, str, int, tuple)
"""The classes whose objects are results: one of these may be a handler itself."""


def check_handler(handler: object, *, runs_coroutines: bool) -> None:
    """Raise TypeError for what cannot be a `request_handler`."""
    if handler is None:
        return
    if not callable(handler):
        raise TypeError(
            f"request_handler must be a function of (rq_type, flags, payload), got {type(handler).__name__}: "
            f"{handler!r:.100}"
        )
    if isinstance(handler, type) and not issubclass(handler, _MAY_BE_MADE):
        raise TypeError(f"request_handler is the class {handler.__name__}: give it an object, or a method of one")
    function = _function_of(handler)
    if not runs_coroutines and (iscoroutinefunction(function) or isasyncgenfunction(function)):
        raise TypeError(
            f"request_handler {_name_of(function)} is an async def, which threads do not run: "
            "use AsyncPacketConnection"
        )


def check_request_map(request_map: object, base: type) -> None:
    """Raise TypeError or `LocalProtocolError` for what is no map of numbers to subclasses of `base`."""
    if not isinstance(request_map, Mapping):
        raise TypeError(
            f"rq_type_map must be a mapping of numbers to request classes, such as {{0: Put}}, "
            f"got {type(request_map).__name__}: {request_map!r:.100}"
        )
    number_of: dict[object, int] = {}
    for number, cls in request_map.items():
        _check_number(number)
        _check_class(number, cls, base)
        other = number_of.setdefault(cls, number)
        if other != number:
            raise LocalProtocolError(
                f"rq_type_map has {cls.__name__} as {other} and as {number}: a request can be sent as one only; "
                "make a subclass for the other"
            )


def _check_number(number: object) -> None:
    if not isinstance(number, int) or isinstance(number, bool):
        raise TypeError(f"rq_type_map: a request type must be an int, got {type(number).__name__}: {number!r:.100}")
    if not 0 <= number <= MAX_RQ_TYPE:
        raise LocalProtocolError(
            f"rq_type_map: a request type must be from 0 to {MAX_RQ_TYPE}, got {shown(number)}"
        )


def _check_class(number: int, cls: Any, base: type) -> None:
    if not isinstance(cls, type):
        what = f"give it the class {type(cls).__name__}, not" if isinstance(cls, base) else "got"
        raise TypeError(f"rq_type_map: {number} must be a subclass of {base.__name__}, {what} {cls!r:.100}")
    if not issubclass(cls, base):
        raise TypeError(f"rq_type_map: {number} must be a subclass of {base.__name__}, got {cls.__name__}")
    made_by_itself = cls.from_request_payload.__func__ is not base.from_request_payload.__func__  # type: ignore[attr-defined]
    if not (made_by_itself or hasattr(cls, "from_bytes") or hasattr(cls, "__bytes__")):
        raise TypeError(
            f"rq_type_map: {cls.__name__} has neither from_bytes nor __bytes__, for its payload: it can be neither "
            "served nor asked for"
        )


def _function_of(handler: object) -> object:
    while isinstance(handler, partial):
        handler = handler.func
    if hasattr(handler, "__code__") or hasattr(handler, "__func__"):
        return handler
    return getattr(type(handler), "__call__", handler) if not isinstance(handler, type) else handler  # noqa: B004


def _name_of(function: object) -> str:
    return getattr(function, "__qualname__", None) or repr(function)

"""Typed requests and services: a request class is its fields, a service is a class with methods.

    from packetwire.typed import Client, Request, Service, method

See `Service` for methods that can be called, `Client` for calling them, `Request` for a request class, and `Codec`
for the values that can be sent.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from packetwire._async.host import AsyncAnswer
    from packetwire._async.items import AsyncItemStream
    from packetwire._async.typedcalls import AsyncClient, AsyncServiceSession
    from packetwire._sync.host import Answer
    from packetwire._sync.items import ItemStream
    from packetwire._sync.typedcalls import Client, ServiceSession
    from packetwire.typed.badvalue import BadValue
    from packetwire.typed.call import Call
    from packetwire.typed.callers import async_caller, caller
    from packetwire.typed.codec import Codec
    from packetwire.typed.errors import UnknownError, error
    from packetwire.typed.methods import method
    from packetwire.typed.request import Request
    from packetwire.typed.service import Service, client_of
    from packetwire.typed.serving import AsyncServedStream, ServedStream

__all__ = [
    "Answer",
    "AsyncAnswer",
    "AsyncClient",
    "AsyncItemStream",
    "AsyncServedStream",
    "AsyncServiceSession",
    "BadValue",
    "Call",
    "Client",
    "Codec",
    "ItemStream",
    "Request",
    "ServedStream",
    "Service",
    "ServiceSession",
    "UnknownError",
    "async_caller",
    "caller",
    "client_of",
    "error",
    "method",
]

_HOMES = {
    "packetwire._async.host": ("AsyncAnswer",),
    "packetwire._async.items": ("AsyncItemStream",),
    "packetwire._async.typedcalls": ("AsyncClient", "AsyncServiceSession"),
    "packetwire._sync.host": ("Answer",),
    "packetwire._sync.items": ("ItemStream",),
    "packetwire._sync.typedcalls": ("Client", "ServiceSession"),
    "packetwire.typed.badvalue": ("BadValue",),
    "packetwire.typed.callers": ("async_caller", "caller"),
    "packetwire.typed.codec": ("Codec",),
    "packetwire.typed.errors": ("UnknownError", "error"),
    "packetwire.typed.call": ("Call",),
    "packetwire.typed.methods": ("method",),
    "packetwire.typed.request": ("Request",),
    "packetwire.typed.service": ("Service", "client_of"),
    "packetwire.typed.serving": ("AsyncServedStream", "ServedStream"),
}
"""The modules of the public names, imported when one of these is asked for: with threads no asyncio is."""

_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOME_OF[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""The request that is being served in an event loop, for `packetwire.current_request`.

Each coroutine of a handler has it in its context, and so have the tasks that it starts. A plain function that the
loop itself runs is found by the thread.
"""

from __future__ import annotations

from contextvars import ContextVar
from threading import get_ident
from time import monotonic
from typing import Any

from packetwire.core.packetcodec import Key
from packetwire.core.requestcontext import RequestContext
from packetwire.current import finders

serving: ContextVar[tuple[Any, Key, int] | None] = ContextVar("packetwire_request", default=None)
"""(what answers it, key, request type)"""
plainly: dict[int, tuple[Any, Key, int]] = {}
"""The same of plain functions, by the thread of the loop, while they run."""


def _find() -> tuple[Any, Key, int] | None:
    return plainly.get(get_ident()) or serving.get()


finders.append(_find)


def outer_request() -> RequestContext | None:
    """The request whose handler runs here, if its deadline holds for the calls that it makes."""
    found = _find()
    if found is None:
        return None
    server, key, _ = found
    context: RequestContext | None = server.owed.contexts.get(key)
    return None if context is None or context.deadline is None else context


def is_over(context: RequestContext) -> bool:
    """Nobody waits for that request any more."""
    return context.is_over(monotonic())

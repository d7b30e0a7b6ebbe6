"""`caller`: in a method, the end that has called it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from packetwire.core.session import SESSION
from packetwire.errors import LocalProtocolError

if TYPE_CHECKING:
    from packetwire._async.typedcalls import AsyncTypedConnection
    from packetwire._sync.typedcalls import TypedConnection


def _session() -> Any:
    session = SESSION.get()
    if session is None:
        raise LocalProtocolError("no request is being answered here: only methods of a Service have a caller")
    return session


def caller() -> TypedConnection:
    """In a method that runs in a thread: the connection to whoever has called it, which can be asked in turn.

        caller().do(Listener.progress(50))

    Raises `LocalProtocolError` outside of methods, and for a service in an event loop, where it is `async_caller`.
    """
    session = _session()
    if session.is_async:
        raise LocalProtocolError("this service is in an event loop: use async_caller()")
    found: TypedConnection = session
    return found


def async_caller() -> AsyncTypedConnection:
    """The same in an event loop: `await async_caller().do(Listener.progress(50))`."""
    session = _session()
    if not session.is_async:
        raise LocalProtocolError("this service runs in threads: use caller()")
    found: AsyncTypedConnection = session
    return found

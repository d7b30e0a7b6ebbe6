"""The request that a handler serves, as the handler sees it: whether anybody still waits for it, and how long.

Strategy: a handler that does not ask costs nothing for it. Threads and event loops know which request they serve;
this asks them.
"""

from __future__ import annotations

from _thread import allocate_lock
from collections.abc import Callable, Mapping
from contextlib import suppress
from threading import get_ident
from time import monotonic
from typing import Any

from packetwire.core.hello import Hello
from packetwire.core.packetcodec import Key
from packetwire.core.requestcontext import RequestContext
from packetwire.core.requestids import RequestId
from packetwire.core.timelimits import time_limit
from packetwire.errors import DeadlineExceeded, LocalProtocolError, RequestCancelled
from packetwire.hosts.threads.slots import Answering, handling

LONGEST_WAIT = 100_000.0


class CurrentRequest:
    """The request that the present handler serves: `current_request()` returns it.

    It may be kept and used elsewhere, such as in a thread of the handler's own, until the request is answered.
    """

    def __init__(self, server: Answering, key: Key, rq_type: int) -> None:
        self._server = server
        self._key = key
        self._context = server.context_of(key)
        self.rq_type = rq_type
        """The type of the request."""

    @property
    def channel(self) -> int:
        """The channel that it came on."""
        return 0 if isinstance(self._key, int) else self._key[0]

    @property
    def tag(self) -> int:
        """The tag that its caller gave it."""
        return self._key if isinstance(self._key, int) else self._key[1]

    @property
    def peer(self) -> Hello | None:
        """The other end, as it has described itself; None if it has not."""
        return self._server.peer

    @property
    def meta(self) -> Mapping[str, bytes]:
        """The metadata that the caller gave with it."""
        return self._context.metadata

    @property
    def request_id(self) -> RequestId | None:
        """The id of a call with `once=True`, among those of its client; None without one."""
        said = self._context.meta.request_id
        return None if said is None else RequestId(int.from_bytes(said[0]), said[1])

    @property
    def body(self) -> Any:
        """The body of the request, to be read; None if it has none.

        A `BodyReader` in a thread, an `AsyncBodyReader` in an event loop.
        """
        context = self._context
        if context.body is not None and context.reader is None:
            context.reader = self._server.bodies().reader(context)
        return context.reader

    @property
    def cancelled(self) -> bool:
        """True once nobody waits for it any more: the caller has given it up, or its deadline has passed."""
        return self._context.is_over(monotonic())

    def check(self) -> None:
        """Raise `RequestCancelled` or `DeadlineExceeded` if nobody waits for it any more.

        A handler that lets that exception pass is answered as cancelled, and nothing is logged.
        """
        context = self._context
        if context.is_over(monotonic()):
            if context.cancelled is None:
                raise DeadlineExceeded("the deadline of this request has passed", begun=True)
            said = context.cancelled[1]
            raise RequestCancelled("the caller gave this request up" + (f": {said}" if said else ""), begun=True)

    def remaining(self) -> float | None:
        """Seconds until its deadline, 0 once that has passed; None without one."""
        deadline = None if self._context.is_detached else self._context.deadline
        return None if deadline is None else max(0.0, deadline - monotonic())

    def wait(self, timeout: float | None = None) -> bool:
        """In a thread: sleep until nobody waits for it any more, at most `timeout` seconds.

        Returns whether that is so; a handler that sleeps between two attempts sleeps like this.
        """
        limit = time_limit(timeout)
        until = None if limit is None else monotonic() + limit
        lock = allocate_lock()
        lock.acquire()
        self._context.on_cancel.append(lock.release)
        try:
            while not self.cancelled:
                ends = [each for each in (until, self._context.deadline) if each is not None]
                left = min(ends) - monotonic() if ends else LONGEST_WAIT
                if left <= 0 or lock.acquire(True, min(left, LONGEST_WAIT)):
                    break
        finally:
            with suppress(ValueError):
                self._context.on_cancel.remove(lock.release)
        return self.cancelled

    def on_cancel(self, callback: Callable[[], object]) -> None:
        """Have `callback()` called, once, when the caller gives it up; at once if it has.

        That is in a thread or loop of the connection, so it must be quick; it is not called for a deadline.
        """
        self._context.on_cancel.append(callback)
        if self._context.cancelled is not None and callback in self._context.on_cancel:
            with suppress(ValueError):
                self._context.on_cancel.remove(callback)
                callback()

    def detach(self) -> None:
        """Go on whatever becomes of the caller: it is not cancelled from here on, and has no deadline."""
        self._context.is_detached = True

    def progress(self, payload: bytes = b"") -> bool:
        """Tell the caller how far it is, if it wants to know, and not too soon after the last time.

        An earlier report that is not sent yet is replaced. Returns whether it is sent.
        """
        if not isinstance(payload, bytes):
            raise TypeError(f"progress must be bytes, got {type(payload).__name__}")
        return self._server.report(self._key, payload)


finders: list[Callable[[], tuple[Answering, Key, int] | None]] = []
"""Of event loops, if any are used: each returns what answers, the key and the type of the request."""


def current_request() -> CurrentRequest:
    """The request whose handler calls this.

    Raises `LocalProtocolError` elsewhere.
    """
    found = _find()
    if found is None:
        raise LocalProtocolError("current_request() is for handlers of requests, while they run")
    return CurrentRequest(*found)


def present_context() -> RequestContext | None:
    """The context of the request that is served here, if its caller has said more than the request."""
    found = _find()
    if found is None:
        return None
    server, key, _ = found
    return server.owed.contexts.get(key)


def _find() -> tuple[Answering, Key, int] | None:
    turn = handling.get(get_ident())
    if turn is not None and turn.request is not None:
        return turn.answering, turn.request[0], turn.request[2] - 1
    for find in finders:
        found = find()
        if found is not None:
            return found
    return None

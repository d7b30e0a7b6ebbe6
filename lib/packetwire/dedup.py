"""`Dedup`: requests that a service does once, also if they come again over another connection.

Strategy: what is remembered is decided in `core/once`. Here is its lock, and a function around the handler, which
never runs under that lock.
"""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from inspect import isawaitable, iscoroutinefunction
from time import monotonic

from packetwire.core.bounds import bound_of
from packetwire.core.channels import PlainHandler
from packetwire.core.once import Entry, ResultTable
from packetwire.core.requests import (
    HandlerResult,
    Outcome,
    Responder,
    cancel_deferred,
    is_body,
    response_parts,
    subscribe,
)
from packetwire.core.timelimits import seconds_of
from packetwire.current import current_request
from packetwire.errors import RequestError
from packetwire.streams import forking

EPOCH_SIZE = 8

Key = tuple[bytes, int]


class Dedup:
    """The memory of a service for calls with `once=True`: all of its connections share one.

        dedup = Dedup()
        with serve(address, lambda recv_send: PacketConnection(recv_send, request_handler=handler, dedup=dedup)):
            ...

    A call that comes again, as its connection ended before the response, is answered as before and not done again;
    if it is still under way, when it is done. `results` of all clients together are kept, with `size` bytes, each
    for `seconds`. A call whose result is gone is refused, with the status REPEATED. So it is done at most once
    while the service lives, and exactly once as long as its result is kept. A streamed response is kept as one
    payload; the call fails if that is more than `size` bytes, or than a packet takes.
    """

    def __init__(self, results: int = 4096, size: int = 16 << 20, seconds: float = 600.0) -> None:
        self._settings = bound_of(results, "results"), bound_of(size, "size"), seconds_of(seconds, "seconds")
        self._size = self._settings[1]
        self.after_fork()
        forking.register(self)

    def after_fork(self) -> None:
        """Begin anew: the child of a fork is another service."""
        self._lock = threading.Lock()
        self._table = ResultTable(*self._settings)
        self.epoch = os.urandom(EPOCH_SIZE)
        """By this clients know that a service has no memory of them any more."""

    def guarding(self, handler: PlainHandler, *, runs_coroutines: bool) -> PlainHandler:
        """A handler that does the same, but a call with an id only once."""

        def guarded(rq_type: int, flags: int, payload: bytes) -> HandlerResult:
            key = _key()
            if key is None:
                return handler(rq_type, flags, payload)
            entry = self._begin(key)
            if entry is not None:
                return self._repeated(entry)
            try:
                result = handler(rq_type, flags, payload)
            except BaseException as error:
                self._finish(key, _raising(error), 0)
                raise
            if runs_coroutines and isinstance(result, AsyncIterator):
                result = self._joined_later(result)
            if runs_coroutines and isawaitable(result):
                return self._awaited(key, result)
            return self._returned(key, result)

        async def guarded_coroutine(rq_type: int, flags: int, payload: bytes) -> HandlerResult:
            result = guarded(rq_type, flags, payload)
            return await result if isawaitable(result) else result

        is_coroutine = iscoroutinefunction(handler) or iscoroutinefunction(type(handler).__call__)
        return guarded_coroutine if runs_coroutines and is_coroutine else guarded

    def _begin(self, key: Key) -> Entry | None:
        """None for a request that is to be done; else what is known of it. Raises `RequestError`."""
        with self._lock:
            entry, is_new = self._table.begin(*key, monotonic())
        return None if is_new else entry

    def _finish(self, key: Key, outcome: Outcome, size: int) -> None:
        with self._lock:
            waiting = self._table.finish(*key, outcome, size, monotonic())
        for settle in waiting:
            settle(outcome)

    def _repeated(self, entry: Entry) -> HandlerResult:
        """The outcome of a request that was begun before."""
        responder = Responder()
        with self._lock:
            if entry.outcome is None:
                entry.waiting.append(partial(_settle, responder))
                return responder
        return entry.outcome()

    def _returned(self, key: Key, result: HandlerResult) -> HandlerResult:
        """Keep what a handler returned, now or when it is there."""
        if is_body(result):
            return self._kept(key, lambda: self._joined(result))
        responder = Responder()
        if subscribe(result, partial(self._arrived, key, responder)):
            responder.on_cancel(partial(cancel_deferred, result))
            return responder
        return self._kept(key, lambda: result)

    def _kept(self, key: Key, outcome: Outcome) -> HandlerResult:
        made = _made(outcome)
        self._finish(key, *made)
        return made[0]()

    def _joined(self, source: object) -> HandlerResult:
        """A streamed response as one payload: it is kept, so the call takes no body."""
        from packetwire._sync.bodies import joined_answer  # only who has bodies needs it

        return joined_answer(source, self._size)

    async def _joined_later(self, source: object) -> HandlerResult:
        """The same, in a loop."""
        if not isinstance(source, AsyncIterator):
            if not callable(getattr(source, "read", None)):
                return source
            from asyncio import to_thread  # only who has a loop needs it

            return await to_thread(self._joined, source)
        chunks: list[bytes] = []
        size = 0
        try:
            async for chunk in source:
                size += len(chunk)
                chunks.append(chunk)
                if size > self._size:
                    break
        finally:
            close: Callable[[], Awaitable[object]] | None = getattr(source, "aclose", None)
            if close is not None:
                await close()
        return self._joined(chunks)

    def _arrived(self, key: Key, responder: Responder, outcome: Outcome) -> None:
        made = _made(outcome)
        self._finish(key, *made)
        _settle(responder, made[0])

    async def _awaited(self, key: Key, result: Awaitable[HandlerResult]) -> HandlerResult:
        try:
            returned = await result
            if is_body(returned):
                returned = await self._joined_later(returned)
        except BaseException as error:
            self._finish(key, _raising(error), 0)
            raise
        return self._returned(key, returned)


def _key() -> Key | None:
    """The client and the number of the present request; None if it may be done again."""
    request = current_request()
    if request.request_id is None:
        return None
    client = None if request.peer is None else request.peer.client_id
    if client is None:
        raise RequestError("a request that is to be done only once needs the client's id in its HELLO")
    return client, request.request_id.number


def _made(outcome: Outcome) -> tuple[Outcome, int]:
    """(what returns the same (flags, payload) or raises the same each time, bytes of the payload)."""
    try:
        parts = response_parts(outcome())
    except BaseException as error:
        return _raising(error), 0
    return (lambda: parts), len(parts[1])


def _raising(error: BaseException) -> Outcome:
    def outcome() -> HandlerResult:
        raise error.with_traceback(None)

    return outcome


def _settle(responder: Responder, outcome: Outcome) -> None:
    try:
        parts = outcome()
    except BaseException as error:
        responder.fail(error)
    else:
        responder.respond(parts)

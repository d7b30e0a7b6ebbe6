"""From a request that was received to its response: where its handler runs, what comes of it, the answer.

Strategy: requests are put into a queue while what was read is decoded, and their handlers run behind that, in
order: coroutines and what is inline, here, a slice of them in each turn of the loop, so that other connections
have theirs. Other plain functions may block, and run in workers. No handler starts while too much is unsent.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from functools import partial
from inspect import isasyncgenfunction, isawaitable, iscoroutinefunction
from time import monotonic
from types import CoroutineType
from typing import Any

from packetwire.aio.coroutines import CoroutineHandlers, awaited
from packetwire.aio.current import plainly
from packetwire.aio.workers import Workers
from packetwire.aio.writing import Writing
from packetwire.core.channels import (
    Channels,
    PlainHandler,
    Receiver,
    Receiving,
    RequestHandler,
    WeakHandler,
    bound_to_channel,
)
from packetwire.core.engine import ConnectionEngine
from packetwire.core.events import Event, RequestReceived
from packetwire.core.hello import Hello
from packetwire.core.owed import Interrupt, OwedRequests, channel_and_tag
from packetwire.core.packetcodec import Fields, Key
from packetwire.core.requestcontext import RequestContext
from packetwire.core.requests import Outcome, Responder, is_body, subscribe
from packetwire.core.settings import Settings
from packetwire.error_text import error_text
from packetwire.errors import PacketwireError, RequestError
from packetwire.faults import FaultLog
from packetwire.streams.buffers import WRITE_AT

logger = logging.getLogger("packetwire")

SLICE = 64
"""Requests whose handlers run here in one turn of the loop."""
TASKS_AT_ONCE = 32
"""Handlers that wait for something before those that began earlier had a chance to answer."""

_VALUES = {str, int, tuple, type(None)}  # what mostly is a result, and is no promise of one


class Answering:
    """Answers requests through `engine`.

    `answered` is called for each answer that is made outside of `begin`; `settled` when this goes on, or a worker's
    results are taken: then answers are to be written, and more may be begun.
    """

    def __init__(
        self,
        engine: ConnectionEngine,
        name: str,
        writing: Writing,
        *,
        handler: RequestHandler | None,
        settings: Settings,
        trace_log: Callable[..., object] | None,
        answered: Callable[[], object],
        settled: Callable[[], object],
        channels: Channels,
    ) -> None:
        self.jobs: deque[Fields] = deque()
        """Requests whose handlers run in the loop."""
        self.is_due = False
        """True if this goes on in the next turn of the loop."""
        self.attached = Receiving(channels, self._run_receiver)
        """Gives their events to the receivers that are attached to channels."""
        self.workers: Workers | None = None
        self._engine = engine
        self._name = name
        self._writing = writing
        self._handler = None if handler is None else bound_to_channel(handler, 0)
        # of a handler that is referred to weakly, what it refers to: one call less for each request
        self._function = handler.function if isinstance(handler, WeakHandler) else lambda: self._handler
        self._channels = channels
        self._inline = settings.inline
        self._error_detail = settings.error_detail
        self._max_unsent = min(settings.max_unsent, sys.maxsize)
        self._write_at = WRITE_AT
        self._faults = FaultLog(name)
        self._trace = trace_log
        self._answered = answered
        self._settled = settled
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._coroutines = CoroutineHandlers(self._loop, self._finish, self)
        self.owed = OwedRequests(engine, self._call)
        self.bodies: Any = None
        """Returns what reads and writes bodies; set by whoever drives the connection."""
        self._contexts, self._cancelled = self.owed.contexts, self.owed.cancelled
        self._taken: set[tuple[int, int]] = set()
        self._is_serving = False
        self._can_step = False  # known while it serves
        self._is_stopping = False

        all_inline = settings.handlers == "inline"
        self._runs_inline = all_inline or _is_async(handler)
        # of the other channels, those whose handler runs in the loop
        self._inline_channels = {
            channel for channel, each in channels.handlers.items() if all_inline or _is_async(each)
        }
        if (handler is not None or channels.handlers) and isinstance(settings.handlers, int):
            self.workers = Workers(
                engine,
                self._call_handler,
                settings.handlers,
                name,
                deliver=self._handled,
                delivered=settled,
                max_unsent=settings.max_unsent,
                answering=self,
                delivers_all=trace_log is not None,
            )
        self.request: Callable[[Fields], object] = self._sort
        """Takes a request; `begin` is called behind those of one read."""
        if all_inline or (self._runs_inline and not channels.handlers):
            self.request = self.jobs.append
        elif self.workers is not None and not (self._inline or channels.handlers):
            self.request = self.workers.jobs.append

    # where a handler runs

    def take(self, event: RequestReceived, responder: Responder) -> None:
        """In on_event: the request is answered by `answer`, the handler is not called for it."""
        self.owed.deferred[_key_of(event)] = responder
        self._taken.add((event.channel, event.tag))

    def receive(self, event: RequestReceived) -> None:
        """Take a request that was observed."""
        if self._taken and (event.channel, event.tag) in self._taken:
            self._taken.discard((event.channel, event.tag))
        elif not (self.attached and self.attached.give(event)):
            self.request((_key_of(event), event.flags, event.rq_type + 1, event.payload))

    def _sort(self, request: Fields) -> None:
        """Leave what may block to the workers."""
        key = request[0]
        workers = self.workers
        if workers is None or (self._runs_inline and type(key) is int) or self._runs_here(key, request[2] - 1):
            self.jobs.append(request)
        else:
            workers.jobs.append(request)

    def _runs_here(self, key: Key, rq_type: int) -> bool:
        if not isinstance(key, int):
            return key[0] in self._inline_channels or key[0] not in self._channels.handlers
        return self._runs_inline or self._handler is None or bool(self._inline and rq_type in self._inline)

    def begin(self) -> None:
        """Run the handlers of what has come, or have them run."""
        if self.jobs and not self.is_due:
            self._serve()
        workers = self.workers
        if workers is not None and workers.jobs:
            workers.call()

    def _serve(self) -> None:
        """Run handlers, in order, until there are no more, or no room for replies, or a turn of the loop is due."""
        if self._is_serving:
            return  # it is one of them that comes here
        self._is_serving = True
        jobs, engine, coroutines = self.jobs, self._engine, self._coroutines
        left = SLICE
        handler = self._function() or self._handler
        try:
            while jobs:
                # as in `is_held`
                unsent = engine.unsent_octets
                if (
                    unsent
                    and (unsent > self._max_unsent or engine.budget is not None)
                    and engine.is_held(self._max_unsent)
                ):
                    break
                if left == 0 or coroutines.begun >= TASKS_AT_ONCE:
                    self._go_on_soon()
                    break
                left -= 1
                self._run_handler(jobs.popleft(), handler)
                if engine.unsent_octets >= self._write_at:
                    self._writing.flush()
        finally:
            self._is_serving = self._can_step = False
            if not self.is_due:
                coroutines.begun = 0

    def _go_on_soon(self) -> None:
        self.is_due = True
        self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        self.is_due = False
        self._coroutines.begun = 0
        try:
            self._settled()
        except BaseException:
            if self.jobs and not self.is_due:
                self._go_on_soon()
            raise

    def after_fork(self) -> None:
        """In the child of a fork."""
        if self.workers is not None:
            self.workers.after_fork()

    def _run_handler(self, request: Fields, handler: PlainHandler | None) -> None:
        """Call what serves its channel, which is `handler` for channel 0."""
        key, flags, wire_rq_type, payload = request
        if (self._contexts or self._cancelled) and not self.owed.may_begin(key, monotonic()):
            self._answered_here()
            return
        try:
            if type(key) is not int:
                handler = self._handler_of(key)
            if handler is None:
                self._respond(key, False, 0, self._engine.not_served(channel_and_tag(key)[0]))
                return
            plainly[self._thread] = self, key, wire_rq_type - 1
            try:
                result = handler(wire_rq_type - 1, flags, payload)
            finally:
                plainly.pop(self._thread, None)
        except BaseException as error:
            self._answer_error(key, wire_rq_type - 1, error)
            if isinstance(error, KeyboardInterrupt):
                self._coroutines.raise_soon(error)  # it is meant for the program
            return
        kind = type(result)
        if kind is CoroutineType:
            if not self._can_step:
                self._can_step = self._coroutines.can_step
            self._coroutines.begin(key, wire_rq_type - 1, result, self._can_step)
        elif kind is bytes:
            self._answer_bytes(key, wire_rq_type - 1, result)
        else:
            self._settle(key, wire_rq_type - 1, result)

    @property
    def is_special(self) -> bool:
        """True if more is known of some requests than that they came."""
        return bool(self._contexts or self._cancelled)

    def may_begin(self, request: Fields) -> bool:
        """In a worker: false if a request is not to be begun; then it is answered."""
        return self.owed.may_begin(request[0], monotonic())

    def context_of(self, key: Key) -> RequestContext:
        """The context of a request; made now if there is none."""
        return self.owed.context_of(key)

    def report(self, key: Key, payload: bytes) -> bool:
        """Send progress of a request, if its caller wants it now. From any thread."""
        if not self._engine.report(*channel_and_tag(key), payload, monotonic()):
            return False
        if threading.get_ident() != self._thread:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._settled)
        elif not self._writing.is_due:
            self._writing.flush_soon()
        return True

    @property
    def peer(self) -> Hello | None:
        """The peer's settings."""
        return None if self._engine.control is None else self._engine.control.capabilities.peer

    def cancel_request(self, key: Key) -> None:
        """The peer gave up a request; see `OwedRequests.cancel`."""
        queues = (self.jobs,) if self.workers is None else (self.jobs, self.workers.jobs)
        is_attached = channel_and_tag(key)[0] in self._channels.receivers
        self.owed.cancel(key, is_attached, self._running, queues)
        self._answered_here()

    def _running(self, key: Key) -> Interrupt | None:
        """The function that interrupts the handler of this request, if that has begun."""
        canceller = self._coroutines.canceller_of(key)
        return self.workers.interrupt_of(key) if canceller is None and self.workers is not None else canceller

    def _call(self, function: Callable[[], object]) -> None:
        """Call what a handler has asked for in case that its request is cancelled."""
        try:
            function()
        except Exception:
            logger.exception("%s: on_cancel failed", self._name)

    def _answered_here(self) -> None:
        if not self._is_serving:
            self._answered()

    def _handler_of(self, key: Key) -> PlainHandler | None:
        return self._channels.handlers.get(channel_and_tag(key)[0])

    def _call_handler(self, request: Fields) -> object:
        """In a worker."""
        key, flags, wire_rq_type, payload = request
        handler = (self._function() or self._handler) if type(key) is int else self._handler_of(key)
        if handler is None:
            raise RequestError(self._engine.not_served(channel_and_tag(key)[0]).decode())
        result = handler(wire_rq_type - 1, flags, payload)
        if type(result) not in _VALUES and is_body(result) and not isinstance(result, AsyncIterator):
            return self.bodies().answer_in_worker(key, result)
        return result

    def _run_receiver(self, event: Event, receiver: Receiver) -> None:
        """Call what is attached to a channel, and answer if `event` is a request."""
        if not isinstance(event, RequestReceived):
            try:
                receiver(event)
            except Exception:
                logger.exception("%s: receiver %r failed for %s", self._name, receiver, type(event).__name__)
            return
        key = _key_of(event)
        if refusal := self._engine.overdue:
            self._respond(key, False, 0, refusal)
            return
        try:
            result = receiver(event)
        except BaseException as error:
            self._answer_error(key, event.rq_type, error)
            if isinstance(error, KeyboardInterrupt):
                self._coroutines.raise_soon(error)
        else:
            self._settle(key, event.rq_type, result)

    def _handled(self, request: Fields, result: object, error: BaseException | None) -> None:
        """A worker has run the handler."""
        self._finish(request[0], request[2] - 1, result, error)

    def _finish(self, key: Key, rq_type: int, result: object, error: BaseException | None) -> None:
        """A handler is done with: answer, unless that is for nobody any more."""
        if error is None:
            if type(result) is bytes:
                self._answer_bytes(key, rq_type, result)
            else:
                self._settle(key, rq_type, result)
        elif not (self._is_stopping and isinstance(error, asyncio.CancelledError)):
            self._answer_error(key, rq_type, error)

    # the end

    @property
    def runs_this_task(self) -> bool:
        """True if the present task runs a handler."""
        return self._coroutines.runs_this_task

    def stop_workers(self) -> None:
        """Begin nothing more in threads. May be called in another thread than the loop's if that does not run."""
        if self.workers is not None:
            self.workers.stop()

    def begin_no_more(self) -> None:
        """Forget the requests whose handlers have not begun."""
        self._is_stopping = True
        self.jobs.clear()
        if self.workers is not None:
            self.workers.jobs.clear()

    def cancel(self) -> list[asyncio.Task[None]]:
        """Cancel the handlers that are tasks, and return these."""
        self.begin_no_more()
        return self._coroutines.cancel()

    def sum_up(self) -> None:
        """At the end of the connection: have the log say how many requests failed."""
        self._faults.sum_up()
        self.owed.clear()

    # answers

    def _answer_bytes(self, key: Key, rq_type: int, payload: bytes) -> None:
        """The usual answer."""
        if type(key) is not int or self._trace is not None:
            self._settle(key, rq_type, payload)
            return
        try:
            self._engine.respond(0, key, True, 0, payload)
        except PacketwireError as error:
            self._answer_error(key, rq_type, error)
            return
        if not self._is_serving:
            self._answered()

    def _settle(self, key: Key, rq_type: int, result: object) -> None:
        """Answer with what a handler returned: now, or when that is there."""
        try:
            if type(result) is CoroutineType:
                self._coroutines.begin(key, rq_type, result, self._coroutines.can_step)
                return
            if type(result) not in _VALUES:
                if self._defer(key, rq_type, result):
                    return
                if isawaitable(result):
                    self._coroutines.begin(key, rq_type, awaited(result), self._coroutines.can_step)
                    return
                if is_body(result):
                    sent = self.bodies().answer(key, result)
                    self._coroutines.begin(key, rq_type, sent, self._coroutines.can_step)
                    return
            flags, payload = self._response_parts(key, rq_type, result)
        except BaseException as error:
            self._answer_error(key, rq_type, error)
        else:
            self._respond_ok(key, rq_type, flags, payload)

    def _defer(self, key: Key, rq_type: int, result: object) -> bool:
        """If a result comes later, answer it then; else false."""
        deferred = self.owed.deferred
        deferred[key] = result  # which also keeps a future: asyncio itself does not
        is_deferred = False
        try:
            is_deferred = subscribe(result, partial(self._answer_deferred, key, rq_type))
        finally:
            if not is_deferred:
                deferred.pop(key, None)
        if is_deferred and self._contexts:
            self.owed.was_deferred(key)
        return is_deferred

    def _response_parts(self, key: Key, rq_type: int, result: object) -> tuple[int, bytes]:
        channels = self._channels
        channel = channel_and_tag(key)[0]
        called = channels.receivers.get(channel) or channels.handlers.get(channel, self._handler)
        return self._faults.response_parts(called, rq_type, result)

    def answer(self, event: RequestReceived, outcome: Outcome) -> None:
        """A deferred result is there. From any thread."""
        self._answer_deferred(_key_of(event), event.rq_type, outcome)

    def _answer_deferred(self, key: Key, rq_type: int, outcome: Outcome) -> None:
        if threading.get_ident() == self._thread:
            self._answer(key, rq_type, outcome)
        else:
            with suppress(RuntimeError):  # the loop is closed, and the connection with it
                self._loop.call_soon_threadsafe(self._answer, key, rq_type, outcome)

    def _answer(self, key: Key, rq_type: int, outcome: Outcome) -> None:
        self.owed.deferred.pop(key, None)
        try:
            flags, payload = self._response_parts(key, rq_type, outcome())
        except BaseException as error:  # whatever it is, it belongs to the peer that asked
            self._answer_error(key, rq_type, error)
        else:
            self._respond_ok(key, rq_type, flags, payload)

    def _answer_error(self, key: Key, rq_type: int, error: BaseException) -> None:
        if self.owed.answer_over(key, error, monotonic()):
            self._answered_here()
            return
        channel, tag = channel_and_tag(key)
        self._faults.failed(channel, tag, rq_type, error)
        self._respond(key, False, 0, error_text(error, self._error_detail))

    def _respond_ok(self, key: Key, rq_type: int, flags: int, payload: bytes) -> None:
        try:
            self._respond(key, True, flags, payload)
        except PacketwireError as error:
            self._answer_error(key, rq_type, error)

    def _respond(self, key: Key, ok: bool, flags: int, payload: bytes) -> None:
        """Raises `PacketwireError` if an "ok" cannot be sent; of a failure as much is sent as can be."""
        channel, tag = channel_and_tag(key)
        if ok:
            self._engine.respond(channel, tag, True, flags, payload)
        else:
            try:
                self._engine.respond_failure(channel, tag, payload)
            except PacketwireError as error:
                logger.warning("%s: no answer to request %d on channel %d: %s", self._name, tag, channel, error)
        if self._trace is not None:
            self._trace("==> response %d:%d ok=%s flags=0x%x", channel, tag, ok, flags)
        if not self._is_serving:
            self._answered()


def _key_of(event: RequestReceived) -> Key:
    return (event.channel, event.tag) if event.channel else event.tag


def _is_async(handler: RequestHandler | None) -> bool:
    """True if calling it makes a coroutine, or an asynchronous generator."""
    while isinstance(handler, partial | WeakHandler):
        handler = handler.func
    call = type(handler).__call__
    return any(iscoroutinefunction(each) or isasyncgenfunction(each) for each in (handler, call))

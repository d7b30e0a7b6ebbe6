"""From a request that was received to its response: the handler, its result or exception, the answer."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

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
from packetwire.core.owed import Interrupt, OwedRequests, channel_and_tag
from packetwire.core.packetcodec import Fields, Key
from packetwire.core.requests import HandlerResult, Outcome, is_body, subscribe
from packetwire.error_text import error_text
from packetwire.errors import PacketwireError
from packetwire.faults import FaultLog
from packetwire.hosts.threads.nesting import OURS, USERS, as_users, inside
from packetwire.hosts.threads.slots import inheriting

if TYPE_CHECKING:
    from collections import deque

    from packetwire.core.hello import Hello
    from packetwire.core.requestcontext import RequestContext

logger = logging.getLogger("packetwire")

_VALUES = {str, int, tuple, type(None)}  # what mostly is a result, and is no promise of one


class Job(NamedTuple):
    """Something to run as a handler is run, without a request: it stands in the place of a request's key."""

    channel: int
    run: Callable[[], object]


class Answering:
    """Answers requests through `engine`. Nothing here writes: see `answered`."""

    def __init__(
        self,
        engine: ConnectionEngine,
        name: str,
        *,
        handler: RequestHandler | None,
        error_detail: str,
        trace_log: Callable[..., object] | None,
        answered: Callable[[], object],
        channels: Channels,
    ) -> None:
        self._engine = engine
        self._name = name
        self._handler = None if handler is None else bound_to_channel(handler, 0)
        # of a handler that is referred to weakly, what it refers to: one call less for each request
        self._function = handler.function if isinstance(handler, WeakHandler) else lambda: self._handler
        self._channels = channels
        self.attached = Receiving(channels, self._run_receiver)
        """Passes their events to the receivers that are attached to channels."""
        self.owed = OwedRequests(engine, self._call)
        self._contexts, self._cancelled = self.owed.contexts, self.owed.cancelled
        self._error_detail = error_detail
        self._faults = FaultLog(name)
        self._trace = trace_log
        self._answered = answered
        self.bodies: Any = None
        """Returns what reads and writes bodies; set by whoever drives the connection."""

    def run_handler(self, request: Fields, me: int) -> None:
        """As `me`, a thread of ours: call the handler of a request, and answer it, unless its result is deferred.

        An exception of the handler is answered, and raised no further.
        """
        key, flags, wire_rq_type, payload = request
        if isinstance(key, Job):
            self._run_job(key)
            return
        is_special = len(self._contexts) > 0 or len(self._cancelled) > 0
        if is_special and not self._may_begin(key, me):
            return
        marks = inside
        try:
            handler = (self._function() or self._handler) if type(key) is int else self._handler_of(key)
            if handler is None:
                channel, _ = channel_and_tag(key)
                self._respond(key, False, 0, self._engine.not_served(channel))
                return
            marks[me] = USERS
            result = handler(wire_rq_type - 1, flags, payload)
            marks[me] = OURS
            if type(result) is bytes and self._trace is None and type(key) is int:
                self._engine.respond(0, key, True, 0, result)
                return
            if type(result) not in _VALUES and is_body(result):
                result = as_users(self.bodies().answer, key, result)  # with its code, which may wait
            self._answer_result(key, wire_rq_type - 1, handler, result)
        except BaseException as error:
            marks[me] = OURS
            self._answer_error(key, wire_rq_type - 1, error)
        finally:
            if is_special:
                inheriting.pop(me, None)

    def _may_begin(self, key: Key, me: int) -> bool:
        """False if a request was cancelled before, or its deadline has passed; then it is answered."""
        if not self.owed.may_begin(key, monotonic()):
            return False
        context = self._contexts.get(key)
        if context is not None and context.deadline is not None:
            inheriting[me] = context
        return True

    def _call(self, function: Callable[[], object]) -> None:
        """Call what a handler has asked for in case that its request is cancelled."""
        try:
            as_users(function)
        except Exception:
            logger.exception("%s: on_cancel failed", self._name)

    def context_of(self, key: Key) -> RequestContext:
        """The context of a request; made now if there is none."""
        return self.owed.context_of(key)

    def report(self, key: Key, payload: bytes) -> bool:
        """Send progress of a request, if its caller wants it now."""
        if not self._engine.report(*channel_and_tag(key), payload, monotonic()):
            return False
        self._answered()
        return True

    @property
    def peer(self) -> Hello | None:
        """The peer's settings."""
        return None if self._engine.control is None else self._engine.control.capabilities.peer

    def cancel(
        self, key: Key, running: Callable[[Key], Interrupt | None], queues: tuple[deque[Fields], ...]
    ) -> None:
        """The peer gave up a request; see `OwedRequests.cancel`."""
        self.owed.cancel(key, channel_and_tag(key)[0] in self._channels.receivers, running, queues)

    def _run_job(self, job: Job) -> None:
        try:
            as_users(job.run)
        except BaseException:  # also SystemExit: the thread is ours
            logger.exception("%s: a job failed", self._name)

    def _handler_of(self, key: Key) -> PlainHandler | None:
        channel, _ = channel_and_tag(key)
        return self._channels.handlers.get(channel)

    def _answer_result(
        self, key: Key, rq_type: int, called: PlainHandler | Receiver | None, result: HandlerResult
    ) -> None:
        if type(result) is bytes:
            flags, payload = 0, result
        elif type(result) not in _VALUES and self._defer(key, rq_type, result):
            return
        else:
            flags, payload = self._faults.response_parts(called, rq_type, result)
        self._respond(key, True, flags, payload)

    def _defer(self, key: Key, rq_type: int, result: HandlerResult) -> bool:
        """If a result comes later, answer it then; else false."""
        deferred = self.owed.deferred
        deferred[key] = result
        is_deferred = False
        try:
            is_deferred = subscribe(result, partial(self._answer_deferred, key, rq_type))
        finally:
            if not is_deferred:
                deferred.pop(key, None)
        if is_deferred and self._contexts:
            self.owed.was_deferred(key)
        return is_deferred

    def _run_receiver(self, event: Event, receiver: Receiver) -> None:
        """Call what is attached to a channel, and answer if `event` is a request."""
        if isinstance(event, RequestReceived):
            key = _key_of(event)
            if refusal := self._engine.overdue:
                self._respond(key, False, 0, refusal)
                return
            try:
                self._answer_result(key, event.rq_type, receiver, as_users(receiver, event))
            except BaseException as error:
                self._answer_error(key, event.rq_type, error)
            return
        try:
            as_users(receiver, event)
        except Exception:
            logger.exception("%s: receiver %r failed for %s", self._name, receiver, type(event).__name__)

    def _serves(self, key: Key) -> PlainHandler | Receiver | None:
        """The handler or receiver that was called for a request."""
        channel, _ = channel_and_tag(key)
        return self._channels.receivers.get(channel) or self._channels.handlers.get(channel, self._handler)

    def sum_up(self) -> None:
        """At the end of the connection: have the log say how many requests failed."""
        self.owed.clear()
        self._faults.sum_up()

    def answer(self, event: RequestReceived, outcome: Outcome) -> None:
        """A deferred result is there; `answered` is called in the end."""
        self._answer_deferred(_key_of(event), event.rq_type, outcome)

    def _answer_deferred(self, key: Key, rq_type: int, outcome: Outcome) -> None:
        self.owed.deferred.pop(key, None)
        try:
            flags, payload = self._faults.response_parts(self._serves(key), rq_type, outcome())
            self._respond(key, True, flags, payload)
        except BaseException as error:  # whatever it is, it belongs to the peer that asked
            self._answer_error(key, rq_type, error)
        self._answered()

    def _answer_error(self, key: Key, rq_type: int, error: BaseException) -> None:
        if self.owed.answer_over(key, error, monotonic()):
            return
        channel, tag = channel_and_tag(key)
        self._faults.failed(channel, tag, rq_type, error)
        self._respond(key, False, 0, error_text(error, self._error_detail))

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
        if self._trace:
            as_users(self._trace, "==> response %d:%d ok=%s flags=0x%x", channel, tag, ok, flags)


def _key_of(event: RequestReceived) -> Key:
    return (event.channel, event.tag) if event.channel else event.tag

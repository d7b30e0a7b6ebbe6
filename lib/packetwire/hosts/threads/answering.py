"""From a request that was received to its response: the handler, its result or exception, the answer."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from threading import get_ident

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
from packetwire.core.packetcodec import Fields, Key
from packetwire.core.requests import HandlerResult, Outcome, subscribe
from packetwire.error_text import error_text
from packetwire.errors import PacketwireError
from packetwire.faults import FaultLog
from packetwire.hosts.threads.nesting import OURS, USERS, as_users, inside

logger = logging.getLogger("packetwire")

_VALUES = {str, int, tuple, type(None)}  # what mostly is a result, and is no promise of one


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
        """What is attached to channels gets its events by this."""
        self._error_detail = error_detail
        self._faults = FaultLog(name)
        self._trace = trace_log
        self._answered = answered

    def run_handler(self, request: Fields) -> None:
        """As a thread of ours: call the handler of a request, and answer it, unless its result is deferred.

        Whatever the handler raises is answered, and raised no further.
        """
        key, flags, wire_rq_type, payload = request
        me = get_ident()
        try:
            handler = (self._function() or self._handler) if type(key) is int else self._handler_of(key)
            if handler is None:
                channel, _ = _channel_and_tag(key)
                self._respond(key, False, 0, self._engine.not_served(channel))
                return
            inside[me] = USERS
            result = handler(wire_rq_type - 1, flags, payload)
            inside[me] = OURS
            if type(result) is bytes and self._trace is None and type(key) is int:
                self._engine.respond(0, key, True, 0, result)
                return
            self._answer_result(key, wire_rq_type - 1, handler, result)
        except BaseException as error:
            inside[me] = OURS
            self._answer_error(key, wire_rq_type - 1, error)

    def _handler_of(self, key: Key) -> PlainHandler | None:
        channel, _ = _channel_and_tag(key)
        return self._channels.handlers.get(channel)

    def _answer_result(
        self, key: Key, rq_type: int, called: PlainHandler | Receiver | None, result: HandlerResult
    ) -> None:
        if type(result) is bytes:
            flags, payload = 0, result
        elif type(result) not in _VALUES and subscribe(result, partial(self._answer_deferred, key, rq_type)):
            return
        else:
            flags, payload = self._faults.response_parts(called, rq_type, result)
        self._respond(key, True, flags, payload)

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
        """What was called for a request."""
        channel, _ = _channel_and_tag(key)
        return self._channels.receivers.get(channel) or self._channels.handlers.get(channel, self._handler)

    def sum_up(self) -> None:
        """At the end of the connection: have the log say how many requests failed."""
        self._faults.sum_up()

    def answer(self, event: RequestReceived, outcome: Outcome) -> None:
        """A deferred result is there; `answered` is called in the end."""
        self._answer_deferred(_key_of(event), event.rq_type, outcome)

    def _answer_deferred(self, key: Key, rq_type: int, outcome: Outcome) -> None:
        try:
            flags, payload = self._faults.response_parts(self._serves(key), rq_type, outcome())
            self._respond(key, True, flags, payload)
        except BaseException as error:  # whatever it is, it belongs to the peer that asked
            self._answer_error(key, rq_type, error)
        self._answered()

    def _answer_error(self, key: Key, rq_type: int, error: BaseException) -> None:
        channel, tag = _channel_and_tag(key)
        self._faults.failed(channel, tag, rq_type, error)
        self._respond(key, False, 0, error_text(error, self._error_detail))

    def _respond(self, key: Key, ok: bool, flags: int, payload: bytes) -> None:
        """Raises `PacketwireError` if an "ok" cannot be sent; of a failure as much is sent as can be."""
        channel, tag = _channel_and_tag(key)
        if ok:
            self._engine.respond(channel, tag, True, flags, payload)
        else:
            try:
                self._engine.respond_failure(channel, tag, payload)
            except PacketwireError as error:
                logger.warning("%s: no answer to request %d on channel %d: %s", self._name, tag, channel, error)
        if self._trace:
            as_users(self._trace, "==> response %d:%d ok=%s flags=0x%x", channel, tag, ok, flags)


def _channel_and_tag(key: Key) -> tuple[int, int]:
    return (0, key) if isinstance(key, int) else key


def _key_of(event: RequestReceived) -> Key:
    return (event.channel, event.tag) if event.channel else event.tag

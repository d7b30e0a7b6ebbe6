"""From a request that was received to its response: the handler, its result or exception, the answer."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import partial

from packetwire.core.channels import Channels, PlainHandler, Receiver, Receiving, RequestHandler, bound_to_channel
from packetwire.core.engine import ConnectionEngine
from packetwire.core.events import Event, RequestReceived, without_payload
from packetwire.core.requests import Outcome, subscribe
from packetwire.error_text import error_text
from packetwire.errors import PacketwireError
from packetwire.faults import FaultLog

logger = logging.getLogger("packetwire")


class Answering:
    """Answers requests through `engine`, which `lock` guards. Nothing here writes: see `answered`."""

    def __init__(
        self,
        engine: ConnectionEngine,
        lock: threading.Lock,
        name: str,
        *,
        handler: RequestHandler | None,
        error_detail: str,
        trace_log: Callable[..., object] | None,
        answered: Callable[[], object],
        channels: Channels,
    ) -> None:
        self._engine = engine
        self._lock = lock
        self._name = name
        self._handler = None if handler is None else bound_to_channel(handler, 0)
        self._channels = channels
        self.attached = Receiving(channels, self._run_receiver)
        """What is attached to channels gets its events by this."""
        self._error_detail = error_detail
        self._faults = FaultLog(name)
        self._trace = trace_log
        self._answered = answered

    def after_fork(self, lock: threading.Lock) -> None:
        """In the child of a fork, where another thread may have held the lock."""
        self._lock = lock

    def _run_receiver(self, event: Event, receiver: Receiver) -> None:
        """Call what is attached to a channel, and answer if `event` is a request."""
        if isinstance(event, RequestReceived):
            if refusal := self._engine.overdue:
                self._respond(event, False, 0, refusal)
            else:
                self.run_handler(event, receiver)
            return
        try:
            receiver(event)
        except Exception:
            logger.exception("%s: receiver %r failed for %s", self._name, receiver, type(event).__name__)

    def run_handler(self, event: RequestReceived, receiver: Receiver | None = None) -> None:
        """Call the handler, or the `receiver`, and answer, unless its result is deferred.

        A KeyboardInterrupt is raised too.
        """
        try:
            handler: PlainHandler | None = None
            if receiver is not None:
                result = receiver(event)
            else:
                handler = self._channels.handlers.get(event.channel) if event.channel else self._handler
                if handler is None:
                    self._respond(event, False, 0, self._engine.not_served(event.channel))
                    return
                result = handler(event.rq_type, event.flags, event.payload)
            if type(result) is bytes:
                flags, payload = 0, result
            elif subscribe(result, partial(self.answer, without_payload(event))):
                return
            else:
                flags, payload = self._faults.response_parts(receiver or handler, event.rq_type, result)
        except KeyboardInterrupt as error:
            self._answer_error(event, error)
            raise  # an inline handler may run in the main thread, where it is meant for the program
        except BaseException as error:
            self._answer_error(event, error)
        else:
            self._respond(event, True, flags, payload)

    def _serves(self, channel: int) -> object:
        """What was called for a request of the channel."""
        return self._channels.receivers.get(channel) or self._channels.handlers.get(channel, self._handler)

    def sum_up(self) -> None:
        """At the end of the connection: have the log say how many requests failed."""
        self._faults.sum_up()

    def answer(self, event: RequestReceived, outcome: Outcome) -> None:
        """A deferred result is there; `answered` is called in the end."""
        try:
            flags, payload = self._faults.response_parts(self._serves(event.channel), event.rq_type, outcome())
        except BaseException as error:  # whatever it is, it belongs to the peer that asked
            self._answer_error(event, error)
        else:
            self._respond(event, True, flags, payload)
        self._answered()

    def _answer_error(self, event: RequestReceived, error: BaseException) -> None:
        self._faults.failed(event.channel, event.tag, event.rq_type, error)
        self._respond(event, False, 0, error_text(error, self._error_detail))

    def _respond(self, event: RequestReceived, ok: bool, flags: int, payload: bytes) -> None:
        try:
            with self._lock:
                if ok:
                    self._engine.respond(event.channel, event.tag, True, flags, payload)
                else:
                    self._engine.respond_failure(event.channel, event.tag, payload)
        except PacketwireError as error:
            if not ok:
                raise
            self._answer_error(event, error)
        if self._trace:
            self._trace("==> response %d:%d ok=%s flags=0x%x", event.channel, event.tag, ok, flags)

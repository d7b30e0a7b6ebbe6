"""From bytes that were read to those they are for: waiters, handlers, observers.

Strategy: usually the engine gives a response to its waiter, and a request to what answers it, as plain fields. Only
if the connection is observed, by `on_event`, `trace_log` or an attached receiver, it makes events of all.

An interruption between the taking of bytes and their delivery ends the connection, because what follows could
not be understood.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

from packetwire.aio.answering import Answering
from packetwire.aio.calls import Calls
from packetwire.aio.writing import Writing
from packetwire.core.channels import Receiver
from packetwire.core.engine import ConnectionEngine
from packetwire.core.events import (
    CancelReceived,
    ControlAnswered,
    Event,
    PeerCapabilities,
    PeerDrains,
    PeerEndedRequests,
    ProgressReceived,
    RequestReceived,
    ResponseReceived,
    StreamEnded,
    event_text,
)
from packetwire.streams.fds import READ_SIZE

logger = logging.getLogger("packetwire")


class Delivery:
    """Delivers what comes on one connection.

    `ended` is called with the `StreamEnded`, and `changed` when something may go on that is awaited; `watchers` is
    not empty while somebody awaits a change.
    """

    def __init__(
        self,
        engine: ConnectionEngine,
        name: str,
        *,
        answering: Answering,
        calls: Calls,
        writing: Writing,
        receivers: dict[int, Receiver],
        watchers: list[Any],
        on_event: Callable[[Event], object] | None,
        trace_log: Callable[..., object] | None,
        ended: Callable[[StreamEnded], object],
        changed: Callable[[], object],
    ) -> None:
        self.last_packet: float | None = None
        """The time at which the last packet was complete."""
        self.events: Sequence[Event] = ()
        """The events that are being delivered."""
        self._engine = engine
        self._name = name
        self._answering = answering
        self._attached = answering.attached
        self._calls = calls
        self._writing = writing
        self._receivers = receivers
        self._watchers = watchers
        self._is_watched = trace_log is not None or on_event is not None
        self._on_event = on_event
        self._trace = trace_log
        self._ended = ended
        self._changed = changed
        self.agreed: Callable[[], object] = lambda: None
        """Called when it is known what the peer understands."""
        self._decoded = 0  # bytes of the peer's packets, when the last was complete

    def receive(self, data: bytes) -> int:
        """Deliver what comes of these bytes; returns how many more are expected, if reading on pays, else 0."""
        engine, writing, answering = self._engine, self._writing, self._answering
        waiting = len(engine.waiters)
        writing.is_receiving = True
        events: list[Event] = []
        self.events = events
        now = engine.now = monotonic()
        if self._is_watched or self._receivers:
            engine.receive(data, events)
        else:
            engine.receive_to(data, answering.request, events)
        decoded = engine.decoder.octets_decoded
        if self._decoded != decoded:
            self._decoded = decoded
            self.last_packet = now
        if events:
            self.handle(events)
        answering.begin()
        self.events = ()
        writing.is_receiving = False
        if engine.unsent_octets or engine.unsent:
            writing.flush()
        if waiting - len(engine.waiters) > 1 and not writing.is_due:
            # those who got responses may ask again before anything else happens
            writing.flush_soon()
        calls = self._calls
        if self._watchers or answering.jobs or calls.waiting or calls.ends_requests:
            self._changed()
        wanted = engine.octets_wanted
        return wanted if wanted >= READ_SIZE and engine.ended is None else 0

    def handle(self, events: Sequence[Event]) -> None:
        """Give each event to whom it belongs."""
        self.show(events)
        for event in events:
            if isinstance(event, ResponseReceived):
                if self._receivers:
                    self._attached.give(event)
                event.waiter.set_response(event.ok, event.flags, event.payload)
            elif isinstance(event, RequestReceived):
                self._answering.receive(event)
            elif isinstance(event, StreamEnded):
                self._answering.begin()  # what was asked before
                self._ended(event)
            elif isinstance(event, CancelReceived):
                self._answering.cancel_request((event.channel, event.tag) if event.channel else event.tag)
            elif isinstance(event, ProgressReceived):
                event.waiter.take_report(event.payload)
            elif isinstance(event, ControlAnswered):
                event.waiter.set_response(event.ok, 0, event.payload)
            elif isinstance(event, PeerCapabilities):
                self.agreed()
                self._changed()
            elif isinstance(event, PeerDrains):
                self._changed()
            elif isinstance(event, PeerEndedRequests):
                self._attached.give(event)

    def show(self, events: Sequence[Event]) -> None:
        """Tell the observers, before anything comes of the events."""
        if not self._is_watched:
            return
        for event in events:
            if self._trace is not None:
                self._trace("<== %s", event_text(event))
            if self._on_event is not None:
                try:
                    self._on_event(event)
                except Exception:
                    logger.exception("%s: on_event failed for %s", self._name, type(event).__name__)

    def deliver_after_all(self) -> None:
        """Delivering was interrupted: tell those who wait."""
        self._writing.is_receiving = False
        self._answering.jobs.clear()  # they can be answered no more
        for event in self.events:
            if isinstance(event, ResponseReceived):
                event.waiter.set_response(event.ok, event.flags, event.payload)
            elif isinstance(event, ControlAnswered):
                event.waiter.set_response(event.ok, 0, event.payload)
            elif isinstance(event, StreamEnded):
                self._ended(event)
        self.events = ()

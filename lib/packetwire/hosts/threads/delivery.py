"""Delivery of events: observers see them, waiters wake up, requests are sorted, the end is told to all."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container
from typing import TYPE_CHECKING

from packetwire.core.engine import ConnectionEngine
from packetwire.core.events import (
    CancelReceived,
    ControlAnswered,
    Event,
    PeerCapabilities,
    PeerEndedRequests,
    ProgressReceived,
    RequestReceived,
    ResponseReceived,
    StreamEnded,
    event_text,
)
from packetwire.core.packetcodec import Fields, Key
from packetwire.errors import ConnectionEnded
from packetwire.hosts.threads.answering import Answering, logger
from packetwire.hosts.threads.nesting import as_users
from packetwire.hosts.threads.roles import Bell

if TYPE_CHECKING:
    from packetwire.core.channels import Receiver


class Delivery:
    """Handles the events of one connection; `interrupt` has a caller that reads look at its waiter again."""

    def __init__(
        self,
        engine: ConnectionEngine,
        name: str,
        *,
        answering: Answering,
        bell: Bell,
        jobs: deque[Fields],
        inline_jobs: deque[Fields],
        inline: Container[int] | None,
        all_inline: bool,
        on_event: Callable[[Event], object] | None,
        trace_log: Callable[..., object] | None,
        receivers: dict[int, Receiver],
        unhurried: dict[int, Receiver],
        interrupt: Callable[[], object],
        cancel: Callable[[Key], object],
        run_job: Callable[[Callable[[], object]], object],
    ) -> None:
        self.all_received = Bell()
        """Rings when nothing more is received."""
        self._at_the_end: list[Callable[[], object]] = []  # popped by whoever calls it
        self.taken: set[tuple[int, int]] = set()
        """Requests, as (channel, tag), that an observer answers."""
        self.is_watched = trace_log is not None or on_event is not None
        """True if somebody is to see every event."""
        self.receivers = receivers
        """Of channels; they see the events of theirs."""
        self.request: Callable[[Fields], object] = jobs.append
        """Takes a request that is to be answered."""
        if all_inline:
            self.request = inline_jobs.append
        elif inline:
            self.request = self._sort
        self._engine = engine
        self._name = name
        self._answering = answering
        self.unhurried = unhurried
        """Those whose channels no caller may read."""
        self.by_caller = False
        """True while the reader is a caller, who runs no receivers: what is not quick is left to a worker."""
        self.postponed = False
        """True if some has been."""
        self._attached = answering.attached
        self._bell = bell
        self._jobs = jobs
        self._inline_jobs = inline_jobs
        self._inline = inline or ()
        self._on_event = on_event
        self._trace = trace_log
        self._interrupt = interrupt
        self.agreed: Callable[[], object] = lambda: None
        """Called when it is known what the peer understands."""
        self._cancel = cancel
        self._run_job = run_job

    def _report(self, event: ProgressReceived) -> None:
        """Have a thread of ours call whoever wants to hear of progress."""
        deliver = event.waiter.take_report(event.payload)
        if deliver is not None:
            self._run_job(deliver)

    @property
    def is_observed(self) -> bool:
        """True if somebody is to see every event, or those of a channel, in threads of ours."""
        return self.is_watched or bool(self.unhurried)

    def handle(self, events: list[Event]) -> None:
        """Deliver events, in order."""
        self._show(events)
        for event in events:
            if isinstance(event, ResponseReceived):
                if self.receivers:
                    self._give_response(event)
                event.waiter.set_response(*event[2:5])
            elif isinstance(event, RequestReceived):
                self._receive_request(event)
            elif isinstance(event, StreamEnded):
                self._end(event, self.by_caller)
            elif isinstance(event, CancelReceived):
                self._cancel((event.channel, event.tag) if event.channel else event.tag)
            elif isinstance(event, ProgressReceived):
                self._report(event)
            elif isinstance(event, ControlAnswered):
                event.waiter.set_response(event.ok, 0, event.payload)
            elif isinstance(event, PeerCapabilities):
                self.agreed()
            elif isinstance(event, PeerEndedRequests):
                if self.by_caller:
                    self._postpone(event)
                else:
                    self._attached.give(event)

    def _show(self, events: list[Event]) -> None:
        """Tell the observers, before anything comes of the events."""
        if not self.is_watched:
            return
        for event in events:
            if self._trace:
                as_users(self._trace, "<== %s", event_text(event))
            if self._on_event:
                try:
                    as_users(self._on_event, event)
                except Exception:
                    logger.exception("%s: on_event failed for %s", self._name, type(event).__name__)

    def _receive_request(self, event: RequestReceived) -> None:
        if self.taken and (event.channel, event.tag) in self.taken:
            self.taken.discard((event.channel, event.tag))
        elif not (self.receivers and self._give(event)):
            key = (event.channel, event.tag) if event.channel else event.tag
            self.request((key, event.flags, event.rq_type + 1, event.payload))

    def _give_response(self, event: ResponseReceived) -> None:
        if not self._attached.give_quickly(event):
            self._give(event)
        elif self._attached.is_behind:
            # another thread has told of the end meanwhile, and left that to who had the turn
            if self.by_caller:
                self.postponed = True
            else:
                self._attached.run()

    def _give(self, event: RequestReceived | ResponseReceived) -> bool:
        """Have the receiver of the event's channel get it: here, or by a worker; false if there is none."""
        if not self.by_caller:
            return self._attached.give(event)
        if not self._attached.postpone(event):
            return False
        self.postponed = True
        return True

    def _postpone(self, event: Event) -> None:
        if self.receivers:
            self._attached.postpone_for_all(event)
            self.postponed = True

    def catch_up(self) -> None:
        """As a worker: give what a caller has read to its receivers."""
        self.postponed = False
        self._attached.run()

    def _sort(self, request: Fields) -> None:
        """With some types inline: these never queue behind others."""
        if isinstance(request[0], int) and request[2] - 1 in self._inline:
            self._inline_jobs.append(request)
        else:
            self._jobs.append(request)

    def deliver_after_all(self, events: list[Event]) -> None:
        """Handling them was interrupted: tell those who wait."""
        for event in events:
            if isinstance(event, ResponseReceived):
                event.waiter.set_response(*event[2:5])
            elif isinstance(event, ControlAnswered):
                event.waiter.set_response(event.ok, 0, event.payload)
            elif isinstance(event, StreamEnded):
                self._end(event)

    def when_all_received(self, then: Callable[[], object]) -> None:
        """Have `then` called once nothing more is received, by whichever thread finds that."""
        self._at_the_end.append(then)
        if self._engine.ended is not None:  # first the list, then this: so one side sees the other
            self._say_all_received()

    def _say_all_received(self) -> None:
        self.all_received.ring()
        while self._at_the_end:
            try:
                then = self._at_the_end.pop()
            except IndexError:
                return
            then()

    def _end(self, event: StreamEnded, by_caller: bool = False) -> None:
        self._say_all_received()
        if by_caller and self._attached.is_behind:
            self._postpone(event)
        else:
            self._attached.give(event)
        for waiter in event.lost:
            waiter.fail(event.cause)
        self._answering.sum_up()
        if not event.clean:
            logger.info("%s: %s", self._name, event.cause)

    def fail(self, cause: ConnectionEnded) -> None:
        """End the connection for `cause`, if it has not ended yet. From any thread."""
        self.deliver_end(self._engine.fail(cause))

    def deliver_end(self, events: list[Event]) -> None:
        """Deliver the events of an end that did not come by reading."""
        self._show(events)
        for event in events:
            if isinstance(event, StreamEnded):
                self._end(event)
        self._interrupt()
        self._bell.ring()

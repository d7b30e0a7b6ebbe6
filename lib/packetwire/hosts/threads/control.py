"""Control requests from threads: for capabilities, for a sign of life, and to end the peer's requests."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import get_ident

from packetwire.core.engine import ConnectionEngine
from packetwire.core.hello import HELLO_TIMEOUT, NO_FEATURES, Feature
from packetwire.core.responses import Response
from packetwire.core.roundtrips import RoundTrips
from packetwire.errors import CapabilityMissing, RequestTimeout
from packetwire.hosts.threads.readerrole import ReaderRole
from packetwire.hosts.threads.roles import Bell
from packetwire.hosts.threads.slots import without_slot
from packetwire.hosts.threads.waiter import Waiter
from packetwire.hosts.threads.waiting import Waiting
from packetwire.hosts.threads.writing import Writing


class ControlRequests:
    """The control requests of one connection."""

    def __init__(
        self,
        engine: ConnectionEngine,
        name: str,
        *,
        writing: Writing,
        reader: ReaderRole,
        waiting: Waiting,
        bell: Bell,
    ) -> None:
        self.round_trips = RoundTrips()
        self._engine = engine
        self._name = name
        self._writing = writing
        self._reader = reader
        self._waiting = waiting
        self._bell = bell

    def have(self, features: Feature) -> bool:
        """Both ends understand these."""
        control = self._engine.control
        return control is not None and control.capabilities.have(features)

    def require(self, features: Feature, what: str, deadline: float | None) -> None:
        """Return if both ends understand these; if that is not known yet, the peer is asked.

        Raises `CapabilityMissing`, also if the peer does not answer; `RequestTimeout` if the deadline is first.
        """
        what = f"{self._name}: {what}"
        control = self._engine.control
        if control is None:
            raise CapabilityMissing(f"{what}: this end has capabilities='off'")
        capabilities = control.capabilities
        if capabilities.must_be_asked:
            latest = time.monotonic() + HELLO_TIMEOUT
            self._engine.ask_capabilities()
            self._bell.ring()  # for others that wait: the answer may have come before we counted as having asked
            in_time = self._await(
                lambda: capabilities.is_settled or not self._engine.may_request,
                latest if deadline is None else min(latest, deadline),
            )
            if not in_time and deadline is not None and deadline < latest:
                raise RequestTimeout(f"{what}: no time left: {capabilities.peer_text()}")
        if not capabilities.has_agreed and (
            self._engine.ended is not None or not (capabilities.is_settled or self._engine.may_request)
        ):
            raise self._engine.why_not()
        capabilities.check(features, what)

    def _await(self, condition: Callable[[], bool], deadline: float) -> bool:
        me = get_ident()
        self._waiting.check_not_inside(me)
        self._writing.flush()
        if self._reader.is_left_alone():
            self._reader.arm()
        with without_slot(me):
            return self._bell.wait_for(condition, deadline)

    def ping(self, deadline: float | None) -> float:
        """Seconds that a packet to the peer and back takes.

        Raises `CapabilityMissing`, `RequestTimeout`, or why the connection ended.
        """
        self.require(NO_FEATURES, "ping", deadline)
        began = time.monotonic()
        self._ask(lambda waiter: self._engine.ping(b"", waiter), "PING", deadline)
        seconds = time.monotonic() - began
        self.round_trips.add(seconds)
        return seconds

    def drain(self, milliseconds: int | None, text: str, deadline: float | None) -> None:
        """Have the peer send no more requests: those that come after this are refused. Raises as `ping`."""
        self.require(Feature.DRAIN, "drain", deadline)
        self._ask(lambda waiter: self._engine.drain(milliseconds, text, waiter), "DRAIN", deadline)

    def describe(self, deadline: float | None) -> Response:
        """The peer's answer to DESCRIBE. Raises as `ping`."""
        self.require(Feature.DESCRIBE, "describe", deadline)
        return self._ask(self._engine.describe, "DESCRIBE", deadline)

    def _ask(self, send: Callable[[Waiter], None], what: str, deadline: float | None) -> Response:
        waiter = Waiter()
        send(waiter)
        self._writing.flush()
        if not self._waiting.wait_for(waiter, deadline):
            raise RequestTimeout(f"{self._name}: no answer to {what} in time")
        if waiter.response is None:
            assert waiter.ended is not None
            raise waiter.ended.for_waiter()
        return waiter.response

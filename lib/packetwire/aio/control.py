"""Control requests from an event loop: for capabilities, for a sign of life, and to end the peer's requests."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from packetwire.aio.request import CallWaiter
from packetwire.core.engine import ConnectionEngine
from packetwire.core.hello import HELLO_TIMEOUT, NO_FEATURES, Feature
from packetwire.core.responses import Response
from packetwire.core.roundtrips import RoundTrips
from packetwire.errors import CapabilityMissing, RequestTimeout

Await = Callable[[Callable[[], bool], float | None], Awaitable[bool]]


class ControlRequests:
    """The control requests of one connection. `wait(condition, deadline)` awaits a condition; `flush` writes."""

    def __init__(
        self,
        engine: ConnectionEngine,
        name: str,
        loop: asyncio.AbstractEventLoop,
        flush: Callable[[], None],
        wait: Await,
    ) -> None:
        self.round_trips = RoundTrips()
        self._engine = engine
        self._name = name
        self._loop = loop
        self._flush = flush
        self._wait = wait

    def have(self, features: Feature) -> bool:
        """Both ends understand these."""
        control = self._engine.control
        return control is not None and control.capabilities.have(features)

    async def require(self, features: Feature, what: str, deadline: float | None) -> None:
        """Return if both ends understand these; if that is not known yet, the peer is asked.

        Raises `CapabilityMissing`, also if the peer does not answer; `RequestTimeout` if the deadline is first.
        """
        what = f"{self._name}: {what}"
        control = self._engine.control
        if control is None:
            raise CapabilityMissing(f"{what}: this end has capabilities='off'")
        capabilities = control.capabilities
        if capabilities.must_be_asked:
            latest = self._loop.time() + HELLO_TIMEOUT
            self._engine.ask_capabilities()
            self._flush()
            in_time = await self._wait(
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

    async def ping(self, deadline: float | None) -> float:
        """Seconds that a packet to the peer and back takes.

        Raises `CapabilityMissing`, `RequestTimeout`, or why the connection ended.
        """
        await self.require(NO_FEATURES, "ping", deadline)
        began = self._loop.time()
        await self._ask(lambda waiter: self._engine.ping(b"", waiter), "PING", deadline)
        seconds = self._loop.time() - began
        self.round_trips.add(seconds)
        return seconds

    async def drain(self, milliseconds: int | None, text: str, deadline: float | None) -> None:
        """Have the peer send no more requests: those that come after this are refused. Raises as `ping`."""
        await self.require(Feature.DRAIN, "drain", deadline)
        await self._ask(lambda waiter: self._engine.drain(milliseconds, text, waiter), "DRAIN", deadline)

    async def describe(self, deadline: float | None) -> Response:
        """The peer's answer to DESCRIBE. Raises as `ping`."""
        await self.require(Feature.DESCRIBE, "describe", deadline)
        return await self._ask(self._engine.describe, "DESCRIBE", deadline)

    async def _ask(self, send: Callable[[CallWaiter], None], what: str, deadline: float | None) -> Response:
        future: asyncio.Future[Response] = self._loop.create_future()
        send(CallWaiter(future))
        self._flush()
        try:
            async with asyncio.timeout_at(deadline):
                return await future
        except TimeoutError:
            raise RequestTimeout(f"{self._name}: no answer to {what} in time") from None

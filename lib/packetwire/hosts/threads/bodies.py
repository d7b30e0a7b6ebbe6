"""Requests with bodies on a connection that is driven by threads."""

from __future__ import annotations

import time
from typing import Any

from packetwire._sync.bodies import BodyReader, answer_with
from packetwire._sync.bodyhost import Signal
from packetwire.bodylimits import BodyLimits, why_served
from packetwire.core.packetcodec import Key
from packetwire.core.requestcontext import RequestContext
from packetwire.errors import PacketwireError


class ThreadExchange:
    """One request with bodies. `driver` is what waits, and writes."""

    def __init__(self, driver: Any, limits: BodyLimits) -> None:
        self._driver = driver
        self._limits = limits
        self.seconds = limits.seconds

    def signal(self) -> Signal:
        """A new one."""
        return Signal(self._driver)

    def flush(self) -> None:
        """Write what the engine wants sent."""
        if self._driver.engine.unsent:
            self._driver.flush()


class ServedExchange(ThreadExchange):
    """A request of the peer, in the thread that runs its handler."""

    def __init__(self, driver: Any, context: RequestContext, timeout: float | None) -> None:
        super().__init__(driver, BodyLimits(driver.name, time.monotonic, timeout))
        self._context = context

    def timed_out(self, text: str) -> PacketwireError:
        """The exception that the handler is to end by."""
        return self._limits.error(text)

    def why(self, error: PacketwireError) -> PacketwireError:
        """The exception to raise for the end of a body."""
        return why_served(self._context, error)


class ServedBodies:
    """The bodies of the peer's requests, for handlers in threads."""

    def __init__(self, driver: Any, timeout: float | None) -> None:
        self._driver = driver
        self._timeout = timeout

    def reader(self, context: RequestContext) -> BodyReader:
        """For the body of a request that has one."""
        assert context.body is not None
        return BodyReader(context.body, ServedExchange(self._driver, context, self._timeout))

    def answer(self, key: Key, source: Any) -> Any:
        """Send what `source` gives; returns the result to answer by."""
        engine = self._driver.engine
        context = engine.contexts.get(key)
        if context is None:
            context = RequestContext()
        exchange = ServedExchange(self._driver, context, self._timeout)
        return answer_with(source, context.response_body, exchange, engine.max_payload)

"""Requests with bodies on a connection that is driven by an event loop."""

from __future__ import annotations

import time
from contextlib import suppress
from threading import get_ident
from typing import Any

from packetwire._async.bodies import AsyncBodyReader, answer_with
from packetwire._async.bodyhost import Signal
from packetwire._sync.bodies import BodyReader
from packetwire.bodylimits import BodyLimits, why_served
from packetwire.core.engine import ConnectionEngine
from packetwire.core.packetcodec import Key
from packetwire.core.requestcontext import RequestContext
from packetwire.errors import PacketwireError
from packetwire.hosts.threads import bodies as of_threads
from packetwire.hosts.threads.waiter import Waiter


class LoopExchange:
    """One request with bodies."""

    def __init__(self, driver: Any, limits: BodyLimits) -> None:
        self._driver = driver
        self._limits = limits
        self.seconds = limits.seconds

    def signal(self) -> Signal:
        """A new one."""
        return Signal(self._driver.loop)

    def flush(self) -> None:
        """Write what the engine wants sent."""
        if self._driver.engine.unsent:
            self._driver.flush()


class ServedExchange(LoopExchange):
    """A request of the peer whose handler runs in the loop."""

    def __init__(self, driver: Any, context: RequestContext, timeout: float | None) -> None:
        super().__init__(driver, BodyLimits(driver.name, driver.loop.time, timeout))
        self._context = context

    def timed_out(self, text: str) -> PacketwireError:
        """The exception that the handler is to end by."""
        return self._limits.error(text)

    def why(self, error: PacketwireError) -> PacketwireError:
        """The exception to raise for the end of a body."""
        return why_served(self._context, error)


class WorkerHost:
    """Waits and writes for handlers that run in workers, beside the loop."""

    def __init__(self, driver: Any) -> None:
        self._driver = driver
        self.name = driver.name
        self.engine: ConnectionEngine = driver.engine

    def flush(self) -> None:
        """Have the loop write."""
        with suppress(RuntimeError):  # the loop is closed
            self._driver.loop.call_soon_threadsafe(self._driver.flush)

    def wait_for(self, waiter: Waiter, deadline: float | None) -> bool:
        """Sleep until it is done; false at the deadline."""
        while not waiter.done:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return False
            waiter.sleep(left)
        return True

    def recover(self) -> None:
        """A worker has no role."""

    def interrupt_lead(self) -> None:
        """A worker does not read."""


class ServedBodies:
    """The bodies of the peer's requests, for handlers in the loop or in workers."""

    def __init__(self, driver: Any, timeout: float | None) -> None:
        self._driver = driver
        self._timeout = timeout
        self._for_workers = of_threads.ServedBodies(WorkerHost(driver), timeout)
        self.answer_in_worker = self._for_workers.answer

    def reader(self, context: RequestContext) -> AsyncBodyReader | BodyReader:
        """For the body of a request that has one, and the thread that asks."""
        assert context.body is not None
        if get_ident() != self._driver.thread:
            return self._for_workers.reader(context)
        return AsyncBodyReader(context.body, ServedExchange(self._driver, context, self._timeout))

    async def answer(self, key: Key, source: Any) -> Any:
        """Send what `source` gives; returns the result to answer by."""
        engine = self._driver.engine
        context = engine.contexts.get(key)
        if context is None:
            context = RequestContext()
        exchange = ServedExchange(self._driver, context, self._timeout)
        return await answer_with(source, context.response_body, exchange, engine.max_payload)

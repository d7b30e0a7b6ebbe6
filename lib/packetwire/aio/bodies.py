"""Requests with bodies on a connection that is driven by an event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from threading import get_ident
from typing import TYPE_CHECKING, Any

from packetwire._async.bodies import AsyncBodyReader, answer_with
from packetwire._async.bodyhost import Signal
from packetwire._sync.bodies import BodyReader
from packetwire.aio.current import outer_request
from packetwire.aio.planned import Request, leave_when_done
from packetwire.aio.request import RequestFuture
from packetwire.bodylimits import BodyLimits, why_served
from packetwire.core.bodies import CallBodies
from packetwire.core.calloptions import plan_of, with_bodies
from packetwire.core.engine import ConnectionEngine
from packetwire.core.packetcodec import Key
from packetwire.core.requestcontext import RequestContext
from packetwire.core.statuses import StatusCode
from packetwire.errors import PacketwireError, RequestCancelled, RequestTimeout, copy_of
from packetwire.hosts.threads import bodies as of_threads
from packetwire.hosts.threads.waiter import Waiter

if TYPE_CHECKING:
    from packetwire.aio.driver import Driver
    from packetwire.core.calloptions import CallPlan
    from packetwire.core.responses import Response
    from packetwire.hooks import ConnectionHooks


class LoopExchange:
    """One request with bodies."""

    def __init__(self, driver: Driver, limits: BodyLimits) -> None:
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


class CalledExchange(LoopExchange):
    """A request of ours."""

    def __init__(self, driver: Driver, future: RequestFuture, plan: CallPlan, timeout: float | None) -> None:
        name = f"{driver.name}:{future.tag}"
        super().__init__(driver, BodyLimits(name, driver.loop.time, timeout, plan.deadline))
        assert plan.bodies is not None
        self.bodies = plan.bodies
        self._name = name
        self.future = future

    def timed_out(self, text: str) -> PacketwireError:
        """End it; returns why."""
        error = self._limits.error(text)
        self._end(error, str(error))
        return error

    def why(self, error: PacketwireError) -> PacketwireError:
        """The exception to raise for the end of a body."""
        return copy_of(error)

    async def response(self, timeout: float | None) -> Response:
        """Wait for the response."""
        done, _ = await asyncio.wait([self.future], timeout=timeout)
        if not done:
            raise RequestTimeout(f"{self._name}: no response within {timeout} s")
        return self.future.result()

    def give_up(self, text: str) -> None:
        """Nobody wants the response any more."""
        self._end(RequestCancelled(text or f"cancelled: {self._name}"), text)

    def _end(self, error: PacketwireError, text: str) -> None:
        if not self.future.done():
            self._driver.calls.give_up(self.future, StatusCode.CANCELLED, text)
            self.future.fail(error)


class ServedExchange(LoopExchange):
    """A request of the peer whose handler runs in the loop."""

    def __init__(self, driver: Driver, context: RequestContext, timeout: float | None) -> None:
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

    def __init__(self, driver: Driver) -> None:
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

    def __init__(self, driver: Driver, timeout: float | None) -> None:
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


async def begin(
    driver: Driver,
    request: Request,
    options: Mapping[str, Any],
    limit: float | None,
    label: str | None,
    hooks: ConnectionHooks | None,
    timeout: float | None,
    *,
    takes_body: bool,
) -> CalledExchange:
    """Send a request with a body; `limit` are seconds for finding room."""
    plan = with_bodies(plan_of(options, outer_request(), driver.loop.time()), CallBodies(), takes_body=takes_body)
    if hooks is None:
        return await _begin(driver, request, options, limit, plan, timeout)
    plan, span = hooks.begin_call(plan, request[0], request[3], label)
    try:
        exchange = await _begin(driver, request, options, limit, plan, timeout)
    except BaseException as error:
        span.leave(error)
        raise
    leave_when_done(driver, exchange.future, span, label)
    return exchange


async def _begin(
    driver: Driver,
    request: Request,
    options: Mapping[str, Any],
    limit: float | None,
    plan: CallPlan,
    timeout: float | None,
) -> CalledExchange:
    deadline = None if limit is None else driver.loop.time() + limit
    await driver.control.require(plan.needs, f"a request with {', '.join(['a body', *options])}", deadline)
    if plan.response_credit is not None:
        plan = plan._replace(response_credit=driver.engine.first_credit)
    future = RequestFuture(loop=driver.loop)
    future.requester, future.tag, future.channel, future.plan = driver.calls, -1, request[3], plan
    future.said = plan
    while not driver.calls.begin_now(future, *request[:3]):
        await driver.drain(None if deadline is None else max(0.0, deadline - driver.loop.time()))
        await asyncio.sleep(0)  # writing may have failed, and the end is to come
    future.follow(driver.loop, driver.calls)
    return CalledExchange(driver, future, plan, timeout)

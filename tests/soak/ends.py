"""The ends of a connection: each opens it in a thread of its own, has its askers ask, and closes it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any

from packetwire import (
    AsyncHasPacketConnection,
    AsyncPacketConnection,
    CapabilityMissing,
    ConnectionEnded,
    HasPacketConnection,
    PacketConnection,
    RequestTimeout,
    StreamEnded,
)

from .asking import LoopAsker, ThreadAsker
from .behaviours import Behaviour
from .handling import ORDERS, CoroutineHandler, Handler, LoopHandler
from .later import Later
from .ledger import Ledger
from .plan import CHANNELS, EndPlan

INLINE = {Behaviour.ECHO, Behaviour.DIGEST, Behaviour.CALL_BACK}
"""The request types that "some inline" is about."""


DRAIN_TIMEOUT = 5.0
NO_DRAIN = (ConnectionEnded, CapabilityMissing, RequestTimeout)
"""The reasons why the other end may not learn that it is to ask no more."""


def fulfilled(future: Future[None]) -> None:
    """Have it done, if it is not."""
    with suppress(InvalidStateError):
        future.set_result(None)


class Surroundings:
    """What the ends of a round share."""

    def __init__(self, ledger: Ledger, later: Later, *, may_end: bool, is_spoilt: bool, asking: int) -> None:
        """`asking`: how many ends have askers whose end is waited for."""
        self.ledger = ledger
        self.later = later
        self.may_end = may_end
        self.is_spoilt = is_spoilt
        self.all_asked: Future[None] = Future()
        self._lock = threading.Lock()
        self._asking = asking
        if not asking:
            fulfilled(self.all_asked)

    def has_asked(self) -> None:
        """All askers of one end are done."""
        with self._lock:
            self._asking -= 1
            if self._asking == 0:
                fulfilled(self.all_asked)


class End:
    """One end. `run` it in a thread of its own; `close` is done when it is to close."""

    def __init__(self, plan: EndPlan, recv_send: Any, surroundings: Surroundings) -> None:
        self.plan = plan
        self.recv_send = recv_send
        self.conn: Any = None
        self.opened: Future[None] = Future()
        """Done when it is open, or could not be opened."""
        self.received_all: Future[None] = Future()
        """Done when nothing more is received."""
        self.close: Future[None] = Future()
        self.closed: Future[None] = Future()
        """Done when it is closed: its owner would let go of the stream then."""
        self.failure: BaseException | None = None
        """What opening it raised."""
        self._surroundings = surroundings
        self._ledger = surroundings.ledger
        surroundings.all_asked.add_done_callback(lambda _: fulfilled(self.close))

    def _on_event(self, event: Any) -> None:
        if isinstance(event, StreamEnded):
            fulfilled(self.received_all)

    def _make(self) -> tuple[Any, Any]:
        """The connection, and the service or None."""
        service = None
        made = make(self.plan, self.recv_send, self._surroundings.later, self._complain, on_event=self._on_event)
        if self.plan.is_service:
            service, conn = made, made.conn
        else:
            conn = made
        self.conn = conn
        return conn, service

    @property
    def _complain(self) -> Callable[[str], None] | None:
        return None if self._surroundings.is_spoilt else self._ledger.complain

    def _could_not_open(self, error: BaseException) -> None:
        self.failure = error
        fulfilled(self.received_all)
        fulfilled(self.closed)
        self._surroundings.has_asked()
        if not (self._surroundings.may_end and isinstance(error, OSError)):
            self._ledger.complain(f"{self.plan.name} could not be opened: {error!r}")

    def run(self) -> None:
        """Open, ask, close."""
        raise NotImplementedError

    def announce(self) -> None:
        """Tell the other end that this is the end, without closing."""
        raise NotImplementedError

    def drain(self) -> None:
        """Tell the other end to ask no more."""
        raise NotImplementedError


class OnEachChannel:
    """A service that serves the same requests on each channel."""

    conn_handle_request: Any

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, channels=dict.fromkeys(CHANNELS, self.conn_handle_request), **settings)


class Service(OnEachChannel, HasPacketConnection):
    """With threads."""

    handler: Any


class AsyncService(OnEachChannel, AsyncHasPacketConnection):
    """In a loop."""

    handler: Any


def make(
    plan: EndPlan, recv_send: Any, later: Later, complain: Callable[[str], None] | None, **settings: Any
) -> Any:
    """A connection, or a service, with its handler."""
    in_loop = plan.face != "threads"
    if plan.handling == "coroutines":
        handler_class: type[Handler] = CoroutineHandler
    else:
        handler_class = LoopHandler if in_loop else Handler
    # some of those that are inline run beside the workers
    most_at_work = {"inline": 1, "some inline": plan.handlers + 1}.get(plan.handling, plan.handlers)
    handler = handler_class(later, complain, most_at_work)
    all_inline = plan.handling == "inline" or (plan.handling == "coroutines" and plan.is_service)
    settings |= {
        "handlers": "inline" if all_inline else plan.handlers,
        "inline": INLINE if plan.handling == "some inline" else None,
        "close_timeout": plan.close_timeout,
        "max_unsent": plan.max_unsent,
        "capabilities": plan.capabilities,
    }
    if not plan.is_service:
        conn = (AsyncPacketConnection if in_loop else PacketConnection)(
            recv_send, plan.name, request_handler=handler, channels=dict.fromkeys(CHANNELS, handler), **settings
        )
        handler.conn = conn
        return conn
    service = (AsyncService if in_loop else Service)(recv_send, plan.name, rq_type_map=ORDERS, **settings)
    service.handler = handler
    handler.conn = service.conn
    return service


class ThreadEnd(End):
    """With threads."""

    def run(self) -> None:
        conn, service = self._make()
        try:
            conn.open()
        except BaseException as error:
            self._could_not_open(error)
            return
        finally:
            fulfilled(self.opened)
        ledger, reopens = self._ledger, not self._surroundings.may_end
        askers = [ThreadAsker(conn, service, turns, ledger, reopens=reopens) for turns in self.plan.askers]
        threads = [threading.Thread(target=asker.run, name=f"{self.plan.name}-asker") for asker in askers]
        for thread in threads:
            thread.start()
        watcher = threading.Thread(target=self._await, args=(threads,), name=f"{self.plan.name}-watcher")
        watcher.start()
        self.close.result()
        conn.close()
        fulfilled(self.closed)
        watcher.join()
        for asker in askers:
            asker.collect_abandoned()

    def _await(self, threads: list[threading.Thread]) -> None:
        for thread in threads:
            thread.join()
        self._surroundings.has_asked()

    def announce(self) -> None:
        with suppress(ConnectionEnded):  # it may be closed already
            self.conn.send_eof()

    def drain(self) -> None:
        with suppress(*NO_DRAIN):
            self.conn.drain_peer(DRAIN_TIMEOUT, reason="the soak")


class LoopEnd(End):
    """With asyncio, or uvloop."""

    _loop: asyncio.AbstractEventLoop

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._drains: Future[None] = Future()

    def run(self) -> None:
        run_in_loop(self.plan.face, self._main, self._ledger.complain)

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        conn, service = self._make()
        try:
            await conn.open()
        except BaseException as error:
            self._could_not_open(error)
            return
        finally:
            fulfilled(self.opened)
        ledger, reopens = self._ledger, not self._surroundings.may_end
        askers = [LoopAsker(conn, service, turns, ledger, reopens=reopens) for turns in self.plan.askers]
        asking = asyncio.gather(*(asker.run() for asker in askers))
        asking.add_done_callback(lambda _: self._surroundings.has_asked())
        draining = asyncio.ensure_future(self._drain_when_asked())
        await asyncio.wrap_future(self.close)
        draining.cancel()
        await asyncio.wait([draining])
        await conn.close()
        fulfilled(self.closed)
        await asking
        for asker in askers:
            await asker.collect_abandoned()

    def announce(self) -> None:
        with suppress(RuntimeError):  # the loop may be closed already, or the connection
            self._loop.call_soon_threadsafe(self._announce)

    def _announce(self) -> None:
        with suppress(ConnectionEnded):
            self.conn.send_eof()

    def drain(self) -> None:
        fulfilled(self._drains)

    async def _drain_when_asked(self) -> None:
        await asyncio.wrap_future(self._drains)
        with suppress(*NO_DRAIN):
            await self.conn.drain_peer(DRAIN_TIMEOUT, reason="the soak")


def make_end(plan: EndPlan, recv_send: Any, surroundings: Surroundings) -> End:
    return (ThreadEnd if plan.face == "threads" else LoopEnd)(plan, recv_send, surroundings)


def run_in_loop(face: str, main: Callable[[], Any], complain: Callable[[str], None]) -> None:
    """Run a coroutine function in a loop of its own, and complain of what it leaves there."""
    factory = None
    if face == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop

    async def checked() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: complain(f"the loop was told: {context}"))
        await main()
        for _ in range(3):  # what was closed is gone one round later
            await asyncio.sleep(0)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            complain(f"a task is left: {task!r}")

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(checked())

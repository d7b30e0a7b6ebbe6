"""From a request that was received to its response: where its handler runs, what comes of it, the answer.

A handler that is a coroutine runs as a task of its own. A plain one may block and runs in a worker thread,
unless it is inline.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from inspect import isawaitable, iscoroutinefunction
from types import CoroutineType
from typing import Any

from packetwire.aio.workers import Workers
from packetwire.core.channels import Channels, Receiver, Receiving, RequestHandler, WeakHandler, bound_to_channel
from packetwire.core.engine import ConnectionEngine
from packetwire.core.events import Event, RequestReceived, without_payload
from packetwire.core.requests import Outcome, subscribe
from packetwire.core.settings import Settings
from packetwire.error_text import error_text
from packetwire.errors import PacketwireError
from packetwire.faults import FaultLog

logger = logging.getLogger("packetwire")

TASKS_AT_ONCE = 32
"""Handlers that begin as tasks before those that began earlier had a chance to answer."""
STOP_SECONDS = 1.0
"""Seconds for handlers to end that were cancelled."""


class Answering:
    """Answers requests through `engine`. Nothing here writes: `answered` is called for each response.

    `settled` is called when a worker's results are taken, or `resume` may start something. No handler starts
    while more than `max_unsent` octets are unsent.
    """

    def __init__(
        self,
        engine: ConnectionEngine,
        name: str,
        *,
        handler: RequestHandler | None,
        settings: Settings,
        trace_log: Callable[..., object] | None,
        answered: Callable[[], object],
        settled: Callable[[], None],
        channels: Channels,
    ) -> None:
        self._engine = engine
        self._name = name
        self._handler = None if handler is None else bound_to_channel(handler, 0)
        self._channels = channels
        self.attached = Receiving(channels, self._run_receiver)
        """What is attached to channels gets its events by this."""
        handlers = settings.handlers
        self._all_inline = handlers == "inline" or _is_async(handler)
        # of the other channels, those whose handler runs in the loop
        self._inline_channels = {
            channel for channel, each in channels.handlers.items() if handlers == "inline" or _is_async(each)
        }
        self._inline = settings.inline
        self._error_detail = settings.error_detail
        self._faults = FaultLog(name)
        self._trace = trace_log
        self._max_unsent = settings.max_unsent
        self._answered = answered
        self._settled = settled
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._held: deque[RequestReceived] = deque()
        self._taken: set[tuple[int, int]] = set()
        self._tasks: dict[asyncio.Task[None], Awaitable[Any]] = {}  # and what each awaits
        self._begun = 0  # of these, lately
        self._deferred: set[asyncio.Future[Any]] = set()  # asyncio itself does not keep them
        self._stopping = False
        self._workers: Workers | None = None
        if (handler is not None or channels.handlers) and isinstance(handlers, int):
            self._workers = Workers(
                self._call_handler, handlers, name, deliver=self._handled, delivered=settled, held=self._holds
            )

    # where a handler runs

    def take(self, event: RequestReceived) -> None:
        """In on_event: the request is answered by `answer`, the handler is not called for it."""
        self._taken.add((event.channel, event.tag))

    def receive(self, event: RequestReceived) -> None:
        """Run the handler here if it does not wait and nothing stands in its way, else leave it to a worker."""
        if self._taken and (event.channel, event.tag) in self._taken:
            self._taken.discard((event.channel, event.tag))
        elif self.attached and self.attached.give(event):
            pass
        elif not self._is_served(event.channel):
            self._respond(event, False, 0, self._engine.not_served(event.channel))
        elif not self._runs_in_loop(event):
            assert self._workers is not None
            self._workers.add(event)
        elif self._held or self._begun >= TASKS_AT_ONCE or self._holds(0):
            self._held.append(event)
        else:
            self._run_handler(event)

    @property
    def is_waiting(self) -> bool:
        """Whether handlers wait to be started by `resume`."""
        return bool(self._held)

    def resume(self) -> None:
        """There may be room for replies: start the handlers that waited for it."""
        while self._held and self._begun < TASKS_AT_ONCE and not self._holds(0):
            self._run_handler(self._held.popleft())
        self.resume_workers()

    def after_fork(self) -> None:
        """In the child of a fork."""
        if self._workers is not None:
            self._workers.after_fork()

    def resume_workers(self) -> None:
        """The same for those only that run in workers."""
        if self._workers is not None:
            self._workers.resume()

    def _is_served(self, channel: int) -> bool:
        return channel in self._channels.handlers if channel else self._handler is not None

    def _runs_in_loop(self, event: RequestReceived) -> bool:
        if event.channel:
            return event.channel in self._inline_channels
        return self._all_inline or bool(self._inline and event.rq_type in self._inline)

    def _call_handler(self, event: RequestReceived) -> Any:
        if event.channel:
            return self._channels.handlers[event.channel](event.rq_type, event.flags, event.payload)
        return self._handler(event.rq_type, event.flags, event.payload)  # type: ignore[misc]

    def _holds(self, octets: int) -> bool:
        """Whether no further handler shall start, with `octets` of replies on their way to the engine."""
        return self._engine.is_held(self._max_unsent, octets)

    def _run_receiver(self, event: Event, receiver: Receiver) -> None:
        """Call what is attached to a channel, and answer if `event` is a request."""
        if isinstance(event, RequestReceived):
            if refusal := self._engine.overdue:
                self._respond(event, False, 0, refusal)
            else:
                self._run_handler(event, receiver)
            return
        try:
            receiver(event)
        except Exception:
            logger.exception("%s: receiver %r failed for %s", self._name, receiver, type(event).__name__)

    def _run_handler(self, event: RequestReceived, receiver: Receiver | None = None) -> None:
        try:
            result = self._call_handler(event) if receiver is None else receiver(event)
        except KeyboardInterrupt as error:
            self._answer_error(event, error)
            raise  # it is meant for the program
        except BaseException as error:
            self._answer_error(event, error)
        else:
            if type(result) is bytes:  # the shortest way
                self._respond(event, True, 0, result)
            else:
                self._settle(event, result)

    def _handled(self, event: RequestReceived, result: Any, error: BaseException | None) -> None:
        """A worker has run the handler."""
        if error is not None:
            self._answer_error(event, error)
        else:
            self._settle(event, result)

    # tasks

    def _start_task(self, event: RequestReceived, result: Awaitable[Any]) -> None:
        task = self._loop.create_task(self._fulfil(event, result))
        self._tasks[task] = result
        # not in the coroutine, of which nothing runs if its task is cancelled before the first step: the task
        # would be part of a cycle, and hold the request until the garbage collector comes
        task.add_done_callback(self._forget_task)
        self._begun += 1
        if self._begun == TASKS_AT_ONCE:
            self._loop.call_soon(self._have_begun)  # behind their first steps

    def _have_begun(self) -> None:
        self._begun = 0
        if self._held:
            self._settled()

    def _forget_task(self, task: asyncio.Task[None]) -> None:
        result = self._tasks.pop(task)
        if isinstance(result, CoroutineType):
            result.close()  # nobody has awaited it if the task was cancelled before it began

    async def _fulfil(self, event: RequestReceived, result: Awaitable[Any]) -> None:
        try:
            awaited = await result
        except asyncio.CancelledError as error:
            if not self._stopping:  # else there is nobody to be told
                self._answer_error(event, error)
        except KeyboardInterrupt as error:
            self._answer_error(event, error)
            raise  # it is meant for the program
        except BaseException as error:
            self._answer_error(event, error)
        else:
            self._settle(event, awaited)

    def runs_this_task(self) -> bool:
        """Whether the present task runs a handler."""
        return asyncio.current_task() in self._tasks

    async def stop(self) -> None:
        """Begin nothing more, and end the handlers that are tasks.

        One that does not let itself be cancelled is left to it, and so are handlers in workers.
        """
        self._stopping = True
        self._held.clear()
        self.stop_workers()
        if tasks := self.cancel():
            await asyncio.wait(tasks, timeout=STOP_SECONDS)

    def stop_workers(self) -> None:
        """Begin nothing more in threads. May be called in another thread than the loop's if that does not run."""
        if self._workers is not None:
            self._workers.stop()

    def cancel(self) -> list[asyncio.Task[None]]:
        """Cancel the handlers that are tasks, and return these."""
        self._stopping = True
        self._held.clear()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel("the connection was closed")
        return tasks

    # answers

    def _settle(self, event: RequestReceived, result: Any) -> None:
        """Answer with what a handler returned: now, or when that is there."""
        try:
            if type(result) is CoroutineType:
                self._start_task(event, result)
                return
            elif subscribe(result, partial(self.answer, without_payload(event))):
                if isinstance(result, asyncio.Future):
                    self._deferred.add(result)
                    result.add_done_callback(self._deferred.discard)
                return
            elif isawaitable(result):
                self._start_task(event, result)
                return
            else:
                flags, payload = self._response_parts(event, result)
        except BaseException as error:
            self._answer_error(event, error)
        else:
            self._respond(event, True, flags, payload)

    def _response_parts(self, event: RequestReceived, result: Any) -> tuple[int, bytes]:
        channels = self._channels
        called = channels.receivers.get(event.channel) or channels.handlers.get(event.channel, self._handler)
        return self._faults.response_parts(called, event.rq_type, result)

    def sum_up(self) -> None:
        """At the end of the connection: have the log say how many requests failed."""
        self._faults.sum_up()

    def answer(self, event: RequestReceived, outcome: Outcome) -> None:
        """A deferred result is there. From any thread."""
        if threading.get_ident() == self._thread:
            self._answer(event, outcome)
        else:
            with suppress(RuntimeError):  # the loop is closed, and the connection with it
                self._loop.call_soon_threadsafe(self._answer, event, outcome)

    def _answer(self, event: RequestReceived, outcome: Outcome) -> None:
        try:
            flags, payload = self._response_parts(event, outcome())
        except BaseException as error:  # whatever it is, it belongs to the peer that asked
            self._answer_error(event, error)
        else:
            self._respond(event, True, flags, payload)

    def _answer_error(self, event: RequestReceived, error: BaseException) -> None:
        self._faults.failed(event.channel, event.tag, event.rq_type, error)
        self._respond(event, False, 0, error_text(error, self._error_detail))

    def _respond(self, event: RequestReceived, ok: bool, flags: int, payload: bytes) -> None:
        try:
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
        self._answered()


def _is_async(handler: RequestHandler | None) -> bool:
    """Whether calling it makes a coroutine."""
    while isinstance(handler, partial | WeakHandler):
        handler = handler.func
    return iscoroutinefunction(handler) or iscoroutinefunction(type(handler).__call__)

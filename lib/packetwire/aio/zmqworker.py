"""`AsyncPacketWorker`: answers requests that are dealt to it, in an event loop."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from inspect import isawaitable, iscoroutinefunction
from typing import Self

from packetwire.aio.blocking import in_thread
from packetwire.aio.zmqlink import LoopLink
from packetwire.core.channels import RequestHandler
from packetwire.core.requests import Outcome, subscribe
from packetwire.core.timelimits import seconds_of, time_limit
from packetwire.errors import LocalProtocolError
from packetwire.streams import forking
from packetwire.streams.curve import CurveClient
from packetwire.streams.zmqsockets import ZmqContext
from packetwire.zmqlink import CLOSE_LINGER, DEFAULT_WORKER_HANDLERS, DRAIN_SECONDS, Job, Message, WorkerAnswers

logger = logging.getLogger("packetwire")


class AsyncPacketWorker:
    """Answers requests that are dealt to it, `handlers` at a time. Use it by `async with`, or `close` it.

    `request_handler(rq_type, flags, payload)` is that of an `AsyncPacketConnection`: a coroutine function runs in
    the loop, another function in a thread. A deferred result counts as a handler that is done. No more requests are
    taken than handlers can begin with at once, and as many again, so that other workers get the rest; for that the
    proxy has to have a small `sndhwm` at the workers' side.

    `channels` maps further channels, from 16, to their handlers; requests on others are refused.
    """

    def __init__(
        self,
        endpoint: str,
        request_handler: RequestHandler,
        *,
        handlers: int = DEFAULT_WORKER_HANDLERS,
        error_detail: str = "message",
        curve: CurveClient | None = None,
        context: ZmqContext | None = None,
        channels: Mapping[int, RequestHandler] | None = None,
    ) -> None:
        if handlers < 1:
            raise LocalProtocolError(f"handlers must be 1 or more, got {handlers}")
        self.endpoint = endpoint
        self._limit = handlers
        self._answers = WorkerAnswers(endpoint, request_handler, channels, error_detail)
        self._jobs: deque[Job] = deque()
        self._running: set[asyncio.Task[None]] = set()
        self._unanswered = 0
        self._all_answered = asyncio.Event()
        self._all_answered.set()
        self._closing = False
        self._over = asyncio.Event()
        self._link = LoopLink(
            endpoint,
            receive=self._receive,
            room=self._has_room,
            lost=self._socket_lost,
            queue=handlers,
            curve=curve,
            context=context,
        )
        forking.register(self)

    def after_fork(self) -> None:
        """In the child of a fork: the worker is the parent's; here it has ended."""
        self._closing = True
        self._jobs.clear()
        self._link.after_fork()

    def __str__(self) -> str:
        return f"the worker at {self.endpoint}"

    async def join(self, timeout: float | None = None) -> bool:
        """Wait until it is closed; false at the timeout."""
        try:
            async with asyncio.timeout(time_limit(timeout)):
                await self._over.wait()
        except TimeoutError:
            return self._over.is_set()
        return True

    async def close(self, timeout: float = DRAIN_SECONDS) -> None:
        """Answer what it has taken, within `timeout` seconds, then end. A second call does nothing.

        Requests that ZMQ has delivered here, and that were not taken yet, are lost. Handlers that are
        coroutines are cancelled then.
        """
        timeout = seconds_of(timeout)
        if self._closing:
            return
        self._link.check_loop(self)
        self._closing = True
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(time_limit(timeout)):
                    await self._all_answered.wait()
            await self._link.stop()
        finally:
            self._end()
            this = asyncio.current_task()
            others = [task for task in self._running if task is not this]
            for task in others:
                task.cancel()
        if others:
            await asyncio.wait(others, timeout=CLOSE_LINGER)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    def _end(self) -> None:
        self._jobs.clear()
        self._answers.sum_up()
        self._all_answered.set()
        self._over.set()

    def _socket_lost(self, error: Exception) -> None:
        """Nothing can be received or answered any more."""
        logger.error("%s: this worker has ended: %s", self.endpoint, error)
        self._closing = True
        self._end()
        for task in self._running:
            task.cancel()

    def _has_room(self) -> bool:
        return len(self._jobs) < self._limit and not self._closing

    def _receive(self, message: Message) -> None:
        job = self._answers.job_of(message)
        if job is None:
            return
        self._unanswered += 1
        self._all_answered.clear()
        self._jobs.append(job)
        self._begin()

    def _begin(self) -> None:
        """Begin with as many as may run."""
        while self._jobs and len(self._running) < self._limit:
            job = self._jobs.popleft()
            task = self._link.loop.create_task(self._handle(job), name=f"packetwire-worker-{self.endpoint}")
            self._running.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._begin()
        self._link.wake()  # there is room again

    async def _handle(self, job: Job) -> None:
        handler = self._answers.handler_for(job)
        if handler is None:
            self._respond(self._answers.refusal(job))
            return
        try:
            result = await self._result_of(handler, job)
            deferred = subscribe(result, lambda outcome: self._answer_from_anywhere(job, outcome))
        except asyncio.CancelledError as error:
            if self._over.is_set():
                raise
            self._respond(self._answers.failure(job, error))
            return
        except BaseException as error:  # whatever it is, it belongs to the peer that asked
            self._respond(self._answers.failure(job, error))
            return
        if not deferred:
            self._respond(self._answers.answer(job, lambda: result))

    async def _result_of(self, handler: Callable[[int, int, bytes], object], job: Job) -> object:
        arguments = job.rq_type, job.packet.flags, job.packet.payload
        if iscoroutinefunction(handler):
            return await handler(*arguments)
        result = await in_thread(lambda: handler(*arguments), f"packetwire-worker-{self.endpoint}")
        return await result if isawaitable(result) and not asyncio.isfuture(result) else result

    def _answer_from_anywhere(self, job: Job, outcome: Outcome) -> None:
        """In whatever thread completes a deferred result."""
        if threading.get_ident() == self._link.thread:
            self._respond(self._answers.answer(job, outcome))
            return
        with suppress(RuntimeError):  # the loop is closed, and the worker with it
            self._link.loop.call_soon_threadsafe(lambda: self._respond(self._answers.answer(job, outcome)))

    def _respond(self, message: Message) -> None:
        self._link.send(message)
        self._unanswered -= 1
        if not self._unanswered:
            self._all_answered.set()

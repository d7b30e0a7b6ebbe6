"""The server."""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
import traceback
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Final, Unpack

import zmq

from packetwire.core.faults import FaultCounter, Worth
from packetwire.errors import ConnectionEnded, LimitExceeded, LocalProtocolError
from packetwire.faults import TRACEBACK_SHOWN
from packetwire.hololinked.bases import BATCH, BaseAsyncZMQ, BaseZMQServer, SocketOptions, ZmqContext
from packetwire.hololinked.constants import (
    DEFAULT_MAX_CLIENTS,
    DEFAULT_MAX_MESSAGE_SIZE,
    DEFAULT_MAX_PENDING,
    DEFAULT_MAX_PENDING_PER_CLIENT,
    DEFAULT_MAX_UNREAD,
    DEFAULT_RUNNING,
    EXECUTION,
    REPLY,
)
from packetwire.hololinked.errors import BreakLoop, PayloadError
from packetwire.hololinked.eventcore import PLAIN_TYPES, parts_of
from packetwire.hololinked.looping import LoopDriver
from packetwire.hololinked.messages import RequestMessage
from packetwire.hololinked.serializers import (
    PreserializedData,
    PreserializedEmptyByte,
    SerializableData,
    SerializableNone,
)
from packetwire.hololinked.servercore import ServerCore
from packetwire.hololinked.sockets import descriptor_of

Handler = Callable[[RequestMessage], object]
TOGETHER: Final = 8
"""Messages that are received and served before their answers are sent, at most."""
SLOW: Final = 0.001
"""Seconds that plain handlers may take together before the answers so far are sent."""
SHOWN: Final = 500
"""Characters of an operation's name in a line of the log."""


class AsyncZMQServer(BaseZMQServer, BaseAsyncZMQ):
    """A server in an event loop, which answers any number of clients.

        async with AsyncZMQServer(id="instrument", access_point="tcp://127.0.0.1:5600") as server:
            await server.serve(handle)

    It receives in the background as soon as one of its methods was awaited, so requests that wait too long get
    their TIMEOUT whatever the program does meanwhile. The execution of a request begins when one of the receiving
    methods returns it. `poll_timeout` has no effect: `stop_polling` acts at once.
    """

    def __init__(
        self,
        *,
        id: str,  # noqa: A002
        context: ZmqContext | None = None,
        socket_type: int = zmq.ROUTER,
        access_point: str | None = None,
        poll_timeout: int = 25,
        logger: logging.Logger | None = None,
        allow_exit: bool = False,
        error_detail: str = "message",
        max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE,
        max_pending: int = DEFAULT_MAX_PENDING,
        max_pending_per_client: int = DEFAULT_MAX_PENDING_PER_CLIENT,
        max_clients: int = DEFAULT_MAX_CLIENTS,
        **options: Unpack[SocketOptions],
    ) -> None:
        core = ServerCore(
            id,
            allow_exit=allow_exit,
            error_detail=error_detail,
            max_message_size=max_message_size,
            max_pending=max_pending,
            max_pending_per_client=max_pending_per_client,
            max_clients=max_clients,
        )
        super().__init__(id, logger, core)
        self.poll_timeout = poll_timeout
        self._faults = FaultCounter()
        self._stop_poll = False
        self._turning = False
        self._begin: Callable[[], None] | None = None
        """Set by `serve`: begins to serve the requests that wait."""
        self._waiters: set[asyncio.Future[None]] = set()
        self.create_socket(
            node_type="server",
            context=context,
            socket_type=socket_type,
            access_point=access_point,
            max_message_size=max_message_size,
            queue=max_pending_per_client,
            send_queue=DEFAULT_MAX_UNREAD,
            **options,
        )
        self._driver = LoopDriver(descriptor_of(self._open_socket()), self._turn, lambda: core.not_before)

    # receiving

    async def async_recv_request(self) -> RequestMessage:
        """The next operation. Raises `BreakLoop` when none is left after a client has sent an EXIT that it may."""
        await self._attach().turn_of_others()
        while (request := self._take()) is None:
            await self._news()
        return request

    async def async_recv_requests(self) -> list[RequestMessage]:
        """All operations that wait, at least one."""
        return [await self.async_recv_request(), *self._take_all()]

    async def poll_requests(self) -> list[RequestMessage]:
        """The same; an empty list when `stop_polling` was called."""
        self._stop_poll = False
        await self._attach().turn_of_others()
        while not self._stop_poll:
            request = self._take()
            if request is not None:
                return [request, *self._take_all()]
            await self._news()
        return []

    def stop_polling(self) -> None:
        """Have `poll_requests` return."""
        self._stop_poll = True
        self._wake()

    def _take(self) -> RequestMessage | None:
        driver = self._attach()
        if not self.core.waiting:
            self._receive_into(self.core.receive)
        request = self.core.take(time.monotonic())
        self._flush()
        if request is None and self.core.exiting:
            raise BreakLoop("a client said EXIT")
        driver.set_timer()
        return request

    def _take_all(self) -> list[RequestMessage]:
        taken = []
        while self.core.waiting and (request := self._take()) is not None:
            taken.append(request)
        return taken

    async def _news(self) -> None:
        """Wait until something has changed."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _turn(self) -> bool:
        self._turning = True
        try:
            more = self._receive_and_serve()
        finally:
            self._turning = False
        if self.core.exiting or (self.core.waiting and self._begin is None):
            self._wake()
        return more

    def _receive_and_serve(self) -> bool:
        """Receive, serve and answer; True if there may be more. If not, the descriptor signals the next message.

        The first message is answered at once, since mostly it is the only one. Further ones are received, served
        and answered a few at a time: so ZMQ's thread is woken once for several, and clients need not wait long.
        """
        received, at_once = 0, 1
        while received < BATCH:
            count, more = self._receive_some(at_once)
            now = time.monotonic()
            if self.core.not_before <= now:
                self.core.expire(now)
            if self._begin is not None:
                self._begin()
            if self.closed:
                return False
            sent = self._send_answers()
            if count == 0:
                return more or sent
            # sending may have reset the descriptor
            if not self._is_pollable():
                return False
            received += count
            at_once = TOGETHER
        return True

    def _receive_some(self, most: int) -> tuple[int, bool]:
        """The number of messages received, and if there may be more. 0 if only excess frames were discarded."""
        reader, receive = self._reader, self.core.receive
        assert reader is not None
        now = time.monotonic()
        try:
            for count in range(most):
                frames = reader.receive()
                if not frames:
                    return count, frames is not None
                receive(frames, now)
        except zmq.ZMQError as error:
            raise self._failed(error) from error
        return most, True

    def _send_answers(self) -> bool:
        """Send the answers so far; True if there were some."""
        return super()._flush()

    def _flush(self) -> bool:
        if self._turning:
            return False  # the turn sends them itself
        sent = self._send_answers()
        if sent and self._driver is not None and self._is_pollable():
            self._driver.poke()
        return sent

    # answering

    def send_response(
        self,
        request_message: RequestMessage,
        payload: SerializableData = SerializableNone,
        preserialized_payload: PreserializedData = PreserializedEmptyByte,
        message_type: str = REPLY,
    ) -> bool:
        """Answer a request; False if it was answered already, such as by TIMEOUT, or wants no answer."""
        return self._flushed(self.core.respond(request_message, message_type, payload, preserialized_payload))

    async def async_send_response(
        self,
        request_message: RequestMessage,
        payload: SerializableData = SerializableNone,
        preserialized_payload: PreserializedData = PreserializedEmptyByte,
    ) -> bool:
        """`send_response`, which does not wait either."""
        return self.send_response(request_message, payload, preserialized_payload)

    async def async_send_response_with_message_type(
        self,
        request_message: RequestMessage,
        message_type: str = REPLY,
        payload: SerializableData = SerializableNone,
        preserialized_payload: PreserializedData = PreserializedEmptyByte,
    ) -> bool:
        """The same with another type of response."""
        return self.send_response(request_message, payload, preserialized_payload, message_type)

    # serving

    async def serve(self, handler: Handler, *, running: int = DEFAULT_RUNNING) -> None:
        """Answer operations with the results of `handler(request)`, until `exit`, or an EXIT of a client that may.

        Raises `ConnectionEnded` if the socket is lost otherwise, such as by the end of its ZMQ context.

        A value is sent as JSON, bytes as they are, a pair of both as both. An exception of the handler is answered
        with EXCEPTION, a `PayloadError` with INVALID_MESSAGE. A coroutine function may take its time: it is
        cancelled at the execution timeout. A plain function has to be quick, since everything else waits for it.
        """
        if self._begin is not None:
            raise LocalProtocolError(f"{self.id} is served already")
        driver = self._attach()
        under_way: set[asyncio.Task[None]] = set()

        def begin() -> None:
            """Begin the requests that wait, in the turn that received them."""
            began = time.monotonic()
            while self.core.waiting and len(under_way) < running:
                now = time.monotonic()
                if now > began + SLOW and not self.closed:
                    began = now
                    self._send_answers()
                request = self.core.take(now)
                if request is None:
                    return
                outcome = self._call(handler, request)
                if outcome is not None:
                    task = tasks.create_task(self._finish(request, outcome))
                    under_way.add(task)
                    task.add_done_callback(partial(end, outcome))

        def end(outcome: Awaitable[object], task: asyncio.Task[None]) -> None:
            under_way.discard(task)
            if inspect.iscoroutine(outcome):
                outcome.close()  # if the task was cancelled before its first step it has never run
            driver.poke()

        async with asyncio.TaskGroup() as tasks:
            self._begin = begin
            try:
                driver.poke()
                while not self.core.exiting or self.core.waiting:
                    await self._news()
            except ConnectionEnded:
                for task in under_way:
                    task.cancel()
            finally:
                self._begin = None
        if self._ended is not None:  # raised outside of the task group, which would wrap it
            raise self._ended.for_waiter()

    def _call(self, handler: Handler, request: RequestMessage) -> Awaitable[object] | None:
        """Call the handler, and answer unless it returns an awaitable, which is returned."""
        try:
            result = handler(request)
        except Exception as error:
            self._answer_failure(request, error)
            return None
        if type(result) not in PLAIN_TYPES and inspect.isawaitable(result):
            return result
        self._answer(request, result)
        return None

    async def _finish(self, request: RequestMessage, outcome: Awaitable[object]) -> None:
        limit = asyncio.timeout(request.server_execution_context.executionTimeout)
        try:
            async with limit:
                result = await outcome
        except TimeoutError as error:
            if not limit.expired():
                self._answer_failure(request, error)
            elif not self.closed:
                with suppress(ConnectionEnded):
                    self.handle_timeout(request, EXECUTION)
        except Exception as error:
            self._answer_failure(request, error)
        else:
            self._answer(request, result)

    def _answer(self, request: RequestMessage, result: object) -> None:
        if self.closed:
            return
        try:
            self.core.respond(request, REPLY, *parts_of(result))
            self._flush()
        except ConnectionEnded:
            pass  # `serve` raises it
        except (PayloadError, LimitExceeded) as error:
            self._log_failure("what %s returned cannot be sent", request.operation, error)
            with suppress(ConnectionEnded):
                self.handle_error_message(request, error)

    def _answer_failure(self, request: RequestMessage, error: Exception) -> None:
        if self.closed:
            return
        with suppress(ConnectionEnded):  # `serve` raises it
            if isinstance(error, PayloadError):
                self.handle_invalid_message(request, error)
                return
            self._log_failure("%s failed", request.qualified_operation, error)
            self.handle_error_message(request, error)

    def _log_failure(self, what: str, operation: str | None, error: Exception) -> None:
        """Log the first failures of each kind with tracebacks, then only counts, as clients may cause many."""
        counted = self._faults.add(error)
        shown = (operation or "")[:SHOWN]
        if counted.worth is Worth.SINGLE:
            whole = "".join(traceback.format_exception(error))
            if len(whole) <= TRACEBACK_SHOWN:
                self.logger.warning("%s: " + what, self.id, shown, exc_info=error)
            else:  # a client may have made it so long
                half = TRACEBACK_SHOWN // 2
                self.logger.warning("%s: " + what + "\n%s\n…\n%s", self.id, shown, whole[:half], whole[-half:])
        elif counted.worth is Worth.FIRST_COUNTED:
            self.logger.warning("%s: operations go on failing and are counted from here on: %s", self.id, shown)
        elif counted.worth is Worth.ROUND:
            self.logger.warning("%s: %d more operations failed, at last %s", self.id, counted.number, shown)

    # the end

    def exit(self) -> None:
        """Close the socket. Callers that wait for a request get a `ConnectionEnded`."""
        if not self.closed:
            with suppress(ConnectionEnded):
                self._send_answers()
        super().exit()

    def _close(self, reason: ConnectionEnded) -> None:
        super()._close(reason)
        self._tell(reason)

    def _tell(self, reason: ConnectionEnded) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(reason.for_waiter())

"""The server that a program runs."""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
import traceback
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final, Unpack

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
from packetwire.hololinked.eventcore import parts_of
from packetwire.hololinked.looping import LoopDriver
from packetwire.hololinked.messages import RequestMessage
from packetwire.hololinked.serializers import (
    PreserializedData,
    PreserializedEmptyByte,
    SerializableData,
    SerializableNone,
)
from packetwire.hololinked.servercore import ServerCore
from packetwire.hololinked.sockets import descriptor_of, pollable, receive_frames

Handler = Callable[[RequestMessage], Any]
SHOWN: Final = 500
"""Characters of an operation's name in a line of the log."""


class AsyncZMQServer(BaseZMQServer, BaseAsyncZMQ):
    """A server in an event loop, which answers any number of clients.

        async with AsyncZMQServer(id="instrument", access_point="tcp://127.0.0.1:5600") as server:
            await server.serve(handle)

    It receives in the background as soon as one of its methods was awaited, so what waits too long gets its
    TIMEOUT whatever the program does meanwhile. A request's execution begins when it is returned by one of
    the receiving methods. `poll_timeout` has no effect: `stop_polling` acts at once.
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
        """Of `serve`: begins to serve what waits."""
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
        self._driver = LoopDriver(descriptor_of(self._open_socket()), self._turn, self.core.next_deadline)

    # receiving

    async def async_recv_request(self) -> RequestMessage:
        """The next operation. Raises `BreakLoop` when a client said EXIT, and may, and nothing waits."""
        await self._attach().turn_of_others()
        while (request := self._take()) is None:
            await self._news()
        return request

    async def async_recv_requests(self) -> list[RequestMessage]:
        """The operations that wait, at least one."""
        return [await self.async_recv_request(), *self._take_all()]

    async def poll_requests(self) -> list[RequestMessage]:
        """The same; but an empty list when `stop_polling` was called."""
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
        """Wait until it is worth looking again."""
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
        """Whether there may be more; if not, the descriptor tells of what comes next."""
        socket, reader = self._open_socket(), self._reader
        assert reader is not None
        for count in range(BATCH):
            try:
                # to ask takes half as long as to receive in vain, but where two came there are often more
                frames = receive_frames(reader) if count != 1 or pollable(socket) else None
            except zmq.ZMQError as error:
                raise self._failed(error) from error
            if frames:
                self.core.receive(frames, time.monotonic())
            else:
                self.core.expire(time.monotonic())
            if self._begin is not None:
                self._begin()
            if self.closed:
                return False
            # what was sent may have hidden that more has come, so the last thing is to receive in vain
            if not super()._flush() and frames is None:
                return False
            if frames == []:
                break  # frames that nobody wants: others have their turn
        return True

    def _flush(self) -> bool:
        if self._turning:
            return False  # it does so itself
        sent = super()._flush()
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
        """Answer a request; False if it has its answer, such as a TIMEOUT, or wants none."""
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
        """Answer all operations by what `handler(request)` returns, until `exit`, or a client that may says EXIT.

        Raises `ConnectionEnded` if the socket is lost otherwise, such as by the end of its ZMQ context.


        A value is answered as JSON, octets as they are, a pair of both as both. What the handler raises is
        answered as EXCEPTION, `PayloadError` as INVALID_MESSAGE. A coroutine function may take its time: it is
        cancelled when the execution timeout has come. Anything else has to be quick, since all wait for it.
        """
        if self._begin is not None:
            raise LocalProtocolError(f"{self.id} is served already")
        driver = self._attach()
        under_way: set[asyncio.Task[None]] = set()

        def begin() -> None:
            """Take what waits, in the turn that received it."""
            while len(under_way) < running and (request := self.core.take(time.monotonic())) is not None:
                outcome = self._call(handler, request)
                if outcome is not None:
                    task = tasks.create_task(self._finish(request, outcome))
                    under_way.add(task)
                    task.add_done_callback(partial(end, outcome))

        def end(outcome: Awaitable[Any], task: asyncio.Task[None]) -> None:
            under_way.discard(task)
            if inspect.iscoroutine(outcome):
                outcome.close()  # a task that is cancelled before its first step has not begun it
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
        if self._ended is not None:  # outside of the group, which would wrap it
            raise self._ended.for_waiter()

    def _call(self, handler: Handler, request: RequestMessage) -> Awaitable[Any] | None:
        """What is to be awaited, if the handler is not done with its call."""
        try:
            result = handler(request)
        except Exception as error:
            self._answer_failure(request, error)
            return None
        if inspect.isawaitable(result):
            return result
        self._answer(request, result)
        return None

    async def _finish(self, request: RequestMessage, outcome: Awaitable[Any]) -> None:
        try:
            async with asyncio.timeout(request.server_execution_context.executionTimeout) as limit:
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

    def _answer(self, request: RequestMessage, result: Any) -> None:
        if self.closed:
            return
        try:
            self.send_response(request, *parts_of(result))
        except ConnectionEnded:
            pass  # whoever serves is told
        except (PayloadError, LimitExceeded) as error:
            self._log_failure("what %s returned cannot be sent", request.operation, error)
            with suppress(ConnectionEnded):
                self.handle_error_message(request, error)

    def _answer_failure(self, request: RequestMessage, error: Exception) -> None:
        if self.closed:
            return
        with suppress(ConnectionEnded):  # whoever serves is told
            if isinstance(error, PayloadError):
                self.handle_invalid_message(request, error)
                return
            self._log_failure("%s failed", request.qualified_operation, error)
            self.handle_error_message(request, error)

    def _log_failure(self, what: str, operation: str | None, error: Exception) -> None:
        """The first of each kind with their traceback, then how many there were: that is for clients to decide."""
        counted = self._faults.add(error)
        shown = (operation or "")[:SHOWN]
        if counted.worth is Worth.SINGLE:
            whole = "".join(traceback.format_exception(error))
            if len(whole) <= TRACEBACK_SHOWN:
                self.logger.warning("%s: " + what, self.id, shown, exc_info=error)
            else:  # a client may have a say in it
                half = TRACEBACK_SHOWN // 2
                self.logger.warning("%s: " + what + "\n%s\n…\n%s", self.id, shown, whole[:half], whole[-half:])
        elif counted.worth is Worth.FIRST_COUNTED:
            self.logger.warning("%s: operations go on failing and are counted from here on: %s", self.id, shown)
        elif counted.worth is Worth.ROUND:
            self.logger.warning("%s: %d more operations failed, at last %s", self.id, counted.number, shown)

    # the end

    def exit(self) -> None:
        """Close the socket. Who waits for a request gets a `ConnectionEnded`."""
        if not self.closed:
            with suppress(ConnectionEnded):
                super()._flush()
        super().exit()

    def _close(self, reason: ConnectionEnded) -> None:
        super()._close(reason)
        self._tell(reason)

    def _tell(self, reason: ConnectionEnded) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(reason.for_waiter())

"""A service as a class, for programs with asyncio: its methods may be coroutines.

    class Clock(AsyncService):
        agent = AgentDescriptor(...)

        @operation(ClockAPI.WAIT)
        async def wait(self, request):
            await asyncio.sleep(1)

    async with Clock() as clock:
        clock.serve("tcp://127.0.0.1:5000")
        ...

One service object serves any number of ZMQ addresses and packet connections at once, all in one loop.

Strategy: as `serving`, with the same `ServiceCore`; here operations are run by tasks.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import aclosing
from functools import partial
from inspect import isawaitable
from types import CoroutineType, TracebackType
from typing import TYPE_CHECKING, Any, Final, Self
from weakref import WeakSet

from packetwire.core.timelimits import time_limit
from packetwire.fbsp.aiorequests import LoopFBSPPacketChannel
from packetwire.fbsp.constants import ErrorCode
from packetwire.fbsp.frames import frames_of
from packetwire.fbsp.messages import FBSPMessage
from packetwire.fbsp.operationbook import OperationBook
from packetwire.fbsp.operations import Operation, Reply, RequestState, as_stream
from packetwire.fbsp.serving import CLOSE_WAIT
from packetwire.messaging.errors import StopError, is_for_program
from packetwire.messaging.looped import LoopChannel, Watchers

if TYPE_CHECKING:
    from packetwire.aio.connection import AsyncPacketConnection
    from packetwire.messaging.loopzmq import LoopRouterChannel

BURST: Final = 64
"""Messages of a stream that are sent before the other tasks get their turn, if there is room for them."""


class AsyncRequest(RequestState):
    """A request under way, as its operation sees it."""

    channel: LoopChannel

    def __init__(self, *request: Any) -> None:
        super().__init__(*request)
        self.task: asyncio.Task[None] | None = None
        """Performs the operation; it is cancelled with the request."""
        self._watchers = Watchers()

    async def uploads(self, timeout: float | None = None) -> AsyncIterator[list[bytes]]:
        """The frames of each DATA message that the client sends for the request, up to one without MORE.

        Each is acknowledged when it is taken, if that was asked for. Raises `StopError` if the request is
        cancelled, or none comes within `timeout` seconds. Without `timeout` only the first is limited, by the
        service's `upload_wait`, if the request has not announced it.
        """
        more = True
        while more:
            limit = self.expect_upload(asyncio.get_running_loop().time(), time_limit(timeout))
            if not await self._watchers.wait(self.has_upload, limit) and self.upload_deadline is not None:
                self.expire(self.upload_deadline)
            msg = self.next_upload()
            self.acknowledge(msg)
            yield msg.data
            more = msg.has_more()

    async def drain(self) -> None:
        """Wait until there is room to send to the client."""
        await self.channel.drain(self.session)

    def say(self, msg: FBSPMessage) -> int:
        return self.channel.send(msg, self.session)

    def answer(self, result: object) -> None:
        super().answer(result)
        if not self.channel.is_handling:
            self.channel.flush()

    def changed(self) -> None:
        self._watchers.look()

    def cancel(self) -> None:
        super().cancel()
        if self.task is not None:
            self.task.cancel("the request was cancelled")


class AsyncService(OperationBook[AsyncRequest]):
    """A service in an event loop: subclasses decorate methods with `operation`.

    An operation that is a coroutine function, or an asynchronous generator, runs as a task, which is cancelled
    if the client withdraws the request or leaves. A plain method runs in the loop: right for what is quick.
    The arguments are those of `Service`, but for `threads`.

    It is an asynchronous context manager that closes.
    """

    def __init__(self, **service: Any) -> None:
        super().__init__(AsyncRequest, **service)
        self._tasks: set[asyncio.Task[None]] = set()
        self._channels: list[LoopChannel] = []
        self._on_connections: WeakSet[LoopChannel] = WeakSet()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def serve(self, address: str, **channel: object) -> LoopRouterChannel:
        """Serve at a ZMQ address (`tcp://…`, `ipc://…`, `inproc://…`), in the running loop; returns the channel.

        Further arguments go to `RouterChannel`. Its `address` is where it is bound.
        """
        from packetwire.messaging.loopzmq import LoopRouterChannel

        router = LoopRouterChannel(self.protocol, **channel)
        try:
            router.bind(address)
            router.start()
        except BaseException:
            router.close()
            raise
        self._channels.append(router)
        return router

    def serve_on(self, connection: AsyncPacketConnection, *, channel: int = 0) -> LoopFBSPPacketChannel:
        """Serve the peer of a packet connection, which is not open yet; returns the channel."""
        packets = LoopFBSPPacketChannel(self.protocol, connection, channel=channel)
        self._on_connections.add(packets)
        return packets

    async def close(self, timeout: float = CLOSE_WAIT) -> None:
        """Send CLOSE to all clients, give the ZMQ addresses up, and end the operations that run.

        A packet connection stays open: its owner closes that. There are no new sessions on it.
        """
        channels = [*self._channels, *self._on_connections]
        if any(channel.forked for channel in channels):
            return
        for channel in channels:
            self.protocol.close(channel)
            channel.close()
        self.core.cancel_all()
        tasks = self._tasks - {asyncio.current_task()}
        if tasks:
            await asyncio.wait(tasks, timeout=time_limit(timeout))

    def _begin(self, request: AsyncRequest, operation: Operation) -> None:
        try:
            request.acknowledge(request.msg)
            result = operation.method(self, request)
            if isawaitable(result) or as_stream(result) is not None:
                self._start_task(request, result)
                return
            request.answer(result)
        except BaseException as error:
            self.core.fail(request, error)
            if is_for_program(error):
                self.core.forget(request)
                raise
        self.core.forget(request)

    def _start_task(self, request: AsyncRequest, result: object) -> None:
        request.task = asyncio.get_running_loop().create_task(self._perform(request, result))
        self._tasks.add(request.task)
        request.task.add_done_callback(partial(self._end_task, request, result))

    def _end_task(self, request: AsyncRequest, result: object, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self.core.forget(request)
        if isinstance(result, CoroutineType):
            result.close()  # it was cancelled before it began, so nobody has awaited this

    async def _perform(self, request: AsyncRequest, result: object) -> None:
        try:
            if isawaitable(result):
                result = await result
            stream = as_stream(result)
            if stream is None:
                await request.drain()
                request.answer(result)
            else:
                await _send_stream(request, Reply(request, frames_of(stream.reply)), stream.data)
        except asyncio.CancelledError:
            self.core.fail(request, StopError("the operation was cancelled", code=ErrorCode.INTERNAL_ERROR))
            raise
        except BaseException as error:
            self.core.fail(request, error)
            if is_for_program(error):
                raise
        finally:
            self.core.forget(request)


async def _send_stream(request: AsyncRequest, reply: Reply, data: Any) -> None:
    sent = 0
    async with aclosing(_each(data)) as items:
        async for item in items:
            await request.drain()
            if not reply.add(item):
                return
            sent += 1
            if sent % BURST == 0:
                await asyncio.sleep(0)
        reply.finish()


async def _each(data: Iterable[object] | AsyncIterable[object]) -> AsyncGenerator[object]:
    try:
        if isinstance(data, AsyncIterable):
            async for item in data:
                yield item
        else:
            for item in data:
                yield item
    finally:
        aclose: Callable[[], Awaitable[object]] | None = getattr(data, "aclose", None)
        close: Callable[[], object] | None = getattr(data, "close", None)
        if aclose is not None:
            await aclose()
        elif close is not None:
            close()

"""A client for programs with asyncio.

    async with AsyncServiceClient.connect("tcp://127.0.0.1:5000", agent=AGENT) as client:
        (now,) = await client.call(ClockAPI.NOW, timeout=5)

`AsyncServiceClient.on(connection)` is the same over an `AsyncPacketConnection`. Any number of tasks may call.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from packetwire.core.timelimits import time_limit
from packetwire.errors import ConnectionEnded, RequestTimeout
from packetwire.fbsp.aiorequests import LoopFBSPPacketChannel
from packetwire.fbsp.calls import CallBook
from packetwire.fbsp.callstate import CallState
from packetwire.fbsp.client import FBSPClient
from packetwire.fbsp.constants import State
from packetwire.fbsp.frames import Frame
from packetwire.messaging.descriptors import ButlerInterface
from packetwire.messaging.looped import LoopChannel, Watchers
from packetwire.messaging.shared import deadline_of, left_until
from packetwire.streams import forking

if TYPE_CHECKING:
    from packetwire.aio.connection import AsyncPacketConnection


class AsyncCall(CallState):
    """A request to a service, from `AsyncServiceClient.start` on.

    Awaiting it gives the frames of the REPLY, iterating over it with `async for` those of each DATA message
    that follows.
    """

    _client: AsyncServiceClient

    def __init__(self, *call: Any) -> None:
        super().__init__(*call)
        self._watchers = Watchers()

    def __await__(self) -> Generator[Any, None, list[bytes]]:
        return self.result().__await__()

    def __aiter__(self) -> AsyncIterator[list[bytes]]:
        return self.stream()

    async def result(self, timeout: float | None = None) -> list[bytes]:
        """The frames of the REPLY.

        Raises `ServiceError` if the service answers with an error, `ConnectionEnded` if the session ends
        first, `RequestTimeout` after `timeout` seconds, after which it can be asked again.
        """
        await self._wait(self.has_result, timeout)
        return self.outcome()

    async def wait_result(self, timeout: float | None) -> bool:
        """Wait until `result` has something to return or to raise; false after `timeout` seconds."""
        return await self._watchers.wait(self.has_result, timeout)

    async def wait_acknowledged(self, timeout: float | None = None) -> None:
        """Wait until the service accepts the request; raises as `result` does."""
        await self._wait(self.is_accepted, timeout)
        self.check()

    async def stream(self, timeout: float | None = None) -> AsyncIterator[list[bytes]]:
        """The frames of each DATA message; `timeout` limits the wait for each. Raises as `result` does."""
        while True:
            await self._wait(self.has_data, timeout)
            msg = self.take_data()
            if msg is None:
                return
            self._client.acknowledge(msg)
            yield msg.data

    async def send(
        self, *frames: Frame, more: bool = False, acknowledge: bool = False, timeout: float | None = None
    ) -> None:
        """Send DATA for the request; `more` says that more follows.

        With `acknowledge` wait until the service has taken it; raises as `result` does, and `ClientError` if the
        call ends before. `timeout` limits the wait for room too.
        """
        msg = self.new_data(frames, more, acknowledge)
        await self._client.make_room(self.name, timeout)
        taken = self.data_taken() if acknowledge else None
        self._client.transmit(msg)
        if taken is not None:
            await self._wait(taken, timeout)
            self.check_taken()

    async def cancel(self, timeout: float | None = None) -> bool:
        """Withdraw the request: whether the service has stopped the work, or the request had ended before.

        Raises `ServiceError` if the service refuses, and then the request goes on.
        """
        if self.over:
            return False
        token = self._client.send_cancel(self)
        try:
            await self._wait(self.is_cancel_answered, timeout)
        finally:
            self._client.forget_cancel(token)
        return self.was_cancelled()

    def changed(self) -> None:
        self._watchers.look()

    async def _wait(self, done: Callable[[], bool], timeout: float | None) -> None:
        if not await self._watchers.wait(done, timeout):
            raise self.late(timeout)


class AsyncServiceClient(CallBook[AsyncCall, LoopChannel]):
    """A client of one service: open inside `async with`.

    `agent` says which program this is, `peer` which instance of it: made up, if not given. `timeout` limits
    the connecting, in seconds.
    """

    def __init__(
        self,
        channel: Callable[[FBSPClient], LoopChannel],
        open_session: Callable[[Any, float], Awaitable[Any]],
        close_carrier: Callable[[Any], Awaitable[object]],
        **client: Any,
    ) -> None:
        super().__init__(channel, AsyncCall, **client)
        self._open_session = open_session
        self._close_carrier = close_carrier
        forking.register(self)

    def after_fork(self) -> None:
        """In the child of a fork: the client is the parent's."""
        self.leave(ConnectionEnded(forking.of_parent(f"this {type(self).__name__}")))

    @classmethod
    def connect(cls, address: str, *, channel: dict[str, Any] | None = None, **client: Any) -> Self:
        """A client of the service at a ZMQ address; `channel` are further arguments of `DealerChannel`."""
        from packetwire.messaging.loopzmq import LoopDealerChannel

        async def open_session(dealer: LoopDealerChannel, timeout: float) -> Any:
            session = dealer.connect(address)
            dealer.start()
            if not await dealer.wait_for(lambda: dealer.linked, timeout):
                raise RequestTimeout(f"no link to {address} within {timeout} s")
            return session

        async def close(dealer: LoopDealerChannel) -> None:
            dealer.close()

        return cls(lambda protocol: LoopDealerChannel(protocol, **(channel or {})), open_session, close, **client)

    @classmethod
    def on(cls, connection: AsyncPacketConnection, *, channel: int = 0, **client: Any) -> Self:
        """A client of the service at the other end of a packet connection, which is opened by `async with`."""

        async def open_session(packets: LoopFBSPPacketChannel, timeout: float) -> Any:
            await connection.open()
            return packets.connect()

        async def close(packets: LoopFBSPPacketChannel) -> None:
            packets.close()
            await connection.close()

        def make(protocol: FBSPClient) -> LoopFBSPPacketChannel:
            return LoopFBSPPacketChannel(protocol, connection, channel=channel)

        return cls(make, open_session, close, **client)

    async def __aenter__(self) -> Self:
        try:
            await self._greet()
        except BaseException:
            await self._close_carrier(self.channel)
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def _greet(self) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._connect_timeout
        self.session = await self._open_session(self.channel, self._connect_timeout)
        self.say_hello()
        self.check_greeted(await self.channel.wait_for(self.is_greeted, max(0.0, deadline - loop.time())))

    async def close(self) -> None:
        """Send CLOSE, end all calls and close the channel. A second call does nothing."""
        if self.say_close():
            await self._close_carrier(self.channel)

    async def call(self, api_code: ButlerInterface, *frames: Frame, timeout: float | None = None) -> list[bytes]:
        """Ask, and wait for the frames of the REPLY; raises as `AsyncCall.result`, and `ClientError` for a stream.

        After a timeout, if the task is cancelled, and if it is a stream that follows, the request is withdrawn.
        """
        timeout = time_limit(timeout)  # a mistake is told before anything is sent
        deadline = deadline_of(timeout)
        call, msg = self.new_call(api_code, frames, single=True)
        try:
            await self.make_room(call.name, timeout)
            self.transmit_request(call, msg, False, False)
            if not await call.wait_result(left_until(deadline)):
                raise call.late(timeout)
            return call.outcome()
        except BaseException:
            self.abandon(call)
            raise

    async def start(
        self,
        api_code: ButlerInterface,
        *frames: Frame,
        on_state: Callable[[State], object] | None = None,
        acknowledge: bool = False,
        more: bool = False,
        stream: bool = False,
    ) -> AsyncCall:
        """Ask, when there is room to, and return at once: the arguments are those of `ServiceClient.start`."""
        await self.drain()
        call, msg = self.new_call(api_code, frames, on_state, stream)
        self.transmit_request(call, msg, acknowledge, more)
        return call

    async def ping(self, timeout: float | None = None) -> float:
        """Seconds that a NOOP and its acknowledgement took."""
        self.live_session()
        loop = asyncio.get_running_loop()
        time_limit(timeout)
        began = loop.time()
        _, token = self.say_noop()
        await self.channel.wait_for(lambda: self.is_ponged(token), timeout)
        self.check_ponged(token, timeout)
        return loop.time() - began

    async def drain(self) -> None:
        """Wait until there is room for one more message."""
        try:
            await self.channel.drain(self.live_session())
        except ConnectionEnded:
            self.live_session()  # the session may know more of why it has ended
            raise

    async def make_room(self, name: str, timeout: float | None) -> None:
        """`drain`, for `timeout` seconds at most."""
        try:
            async with asyncio.timeout(time_limit(timeout)):
                await self.drain()
        except TimeoutError:
            raise RequestTimeout(f"{name}: the service did not take what it was sent within {timeout} s") from None

    def end(self, cause: Exception) -> None:
        super().end(cause)
        self.channel.notify()

"""A client for programs with asyncio.

    async with AsyncServiceClient.connect("tcp://127.0.0.1:5000", agent=AGENT) as client:
        (now,) = await client.call(ClockAPI.NOW, timeout=5)

`AsyncServiceClient.on(connection)` is the same over an `AsyncPacketConnection`. Any number of tasks may call.

Strategy: as `calling`, with the same `ClientCore`; before something is put into its outbox, there is room for that.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from packetwire.core.timelimits import time_limit
from packetwire.errors import ConnectionEnded, RequestTimeout
from packetwire.fbsp.aiorequests import LoopFBSPPacketChannel
from packetwire.fbsp.callbook import CallBook
from packetwire.fbsp.callstate import CallState, name_of, request_flags
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
            self._client.core.acknowledge(msg)
            self._client.channel.flush()
            yield msg.data

    async def send(
        self, *frames: Frame, more: bool = False, acknowledge: bool = False, timeout: float | None = None
    ) -> None:
        """Send DATA for the request; `more` says that more follows.

        With `acknowledge` wait until the service has taken it; raises as `result` does, and `ClientError` if the
        call ends before. `timeout` limits the wait for room too.
        """
        await self._client.make_room(self.name, timeout)
        taken = self._client.core.upload(self, frames, more, acknowledge)
        self._client.carry()
        if acknowledge:
            await self._wait(taken, timeout)
            self.check_taken()

    async def cancel(self, timeout: float | None = None) -> bool:
        """Withdraw the request: whether the service has stopped the work, or the request had ended before.

        Raises `ServiceError` if the service refuses, and then the request goes on.
        """
        if self.over:
            return False
        token = self._client.core.cancel(self)
        try:
            self._client.carry()
            await self._wait(self.is_cancel_answered, timeout)
        finally:
            self._client.core.forget_cancel(token)
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
        super().__init__(channel, partial(AsyncCall, self), **client)
        self._open_session = open_session
        self._close_carrier = close_carrier
        forking.register(self)

    @classmethod
    def connect(cls, address: str, *, channel: dict[str, Any] | None = None, **client: Any) -> Self:
        """A client of the service at a ZMQ address; `channel` are further arguments of `DealerChannel`."""
        from packetwire.messaging.loopzmq import LoopDealerChannel

        async def open_session(dealer: LoopDealerChannel, timeout: float) -> object:
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

        async def open_session(packets: LoopFBSPPacketChannel, timeout: float) -> object:
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

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def _greet(self) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        deadline = began + self._connect_timeout
        session = await self._open_session(self.channel, self._connect_timeout)
        self.core.hello(session, began, self._connect_timeout)
        self.carry()
        if not await self.channel.wait_for(self.core.is_greeted, max(0.0, deadline - loop.time())):
            self.core.expire(deadline)
        self.core.check_greeted()

    async def close(self) -> None:
        """Send CLOSE, end all calls and close the channel. A second call does nothing, nor does one in a fork."""
        if self.channel.forked:
            return
        if self.core.close():
            await self._close_carrier(self.channel)

    async def call(self, api_code: ButlerInterface, *frames: Frame, timeout: float | None = None) -> list[bytes]:
        """Ask, and wait for the frames of the REPLY; raises as `AsyncCall.result`, and `ClientError` for a stream.

        After a timeout, if the task is cancelled, and if it is a stream that follows, the request is withdrawn.
        """
        timeout = time_limit(timeout)  # a mistake is told before anything is sent
        deadline = deadline_of(timeout)
        await self.make_room(name_of(api_code), timeout)
        call = self.core.ask(api_code, frames, single=True, deadline=deadline, timeout=timeout)
        try:
            self.carry()
            if not await call.wait_result(left_until(deadline)) and call.deadline is not None:
                self.core.expire(call.deadline)
                self.channel.flush()
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
        call = self.core.ask(api_code, frames, on_state, stream, flags=request_flags(more, acknowledge))
        try:
            self.carry()
        except BaseException:
            self.core.forget(call)
            raise
        return call

    async def ping(self, timeout: float | None = None) -> float:
        """Seconds that a NOOP and its acknowledgement took."""
        time_limit(timeout)
        self.core.live_session()  # first, as it tells whoever is a fork, where no loop runs
        _, token = self.core.ping()
        loop = asyncio.get_running_loop()
        began = loop.time()
        self.carry()
        await self.channel.wait_for(lambda: self.core.is_ponged(token), timeout)
        self.core.check_ponged(token, timeout)
        return loop.time() - began

    def abandon(self, call: AsyncCall, reason: Exception | None = None) -> None:
        """Nobody waits for a call any more: it is withdrawn, if it is not over, and fails with `reason`."""
        self.core.abandon(call, reason)
        self.channel.flush()

    async def drain(self) -> None:
        """Wait until there is room for one more message."""
        try:
            await self.channel.drain(self.core.live_session())
        except ConnectionEnded:
            self.core.live_session()  # the session may know more of why it has ended
            raise

    async def make_room(self, name: str, timeout: float | None) -> None:
        """`drain`, for `timeout` seconds at most."""
        self.core.live_session()  # first, as it tells whoever is a fork, where no loop runs
        try:
            async with asyncio.timeout(time_limit(timeout)):
                await self.drain()
        except TimeoutError:
            raise RequestTimeout(f"{name}: the service did not take what it was sent within {timeout} s") from None

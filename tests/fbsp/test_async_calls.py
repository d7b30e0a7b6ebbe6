"""Services and clients in an event loop, on ZMQ and on packets, with each other and with those that use threads."""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any

import pytest

from packetwire import AsyncPacketConnection, ConnectionEnded, LocalProtocolError, PacketConnection, RequestTimeout
from packetwire.fbsp import (
    AsyncCall,
    AsyncRequest,
    AsyncService,
    AsyncServiceClient,
    ClientError,
    ErrorCode,
    ServiceClient,
    ServiceError,
    State,
    StopError,
    Stream,
    operation,
)

from .fake import CLIENT, SERVICE
from .test_calls import WAIT, Calls, More, Sample, Unprintable

pytestmark = pytest.mark.timeout(60)


class AsyncSample(AsyncService):
    """What `Sample` does, in an event loop."""

    agent = SERVICE.agent
    interfaces = (More, Calls)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.waiting = asyncio.Semaphore(0)
        self.stopped = asyncio.Semaphore(0)
        self.go_on = asyncio.Event()
        self.closed = asyncio.Event()
        self.upload_timeout: float | None = WAIT
        self.ended: list[Any] = []

    @operation(Calls.ECHO)
    async def echo(self, request: AsyncRequest) -> Any:
        await asyncio.sleep(0)
        return request.data

    @operation(Calls.QUICK)
    def quick(self, request: AsyncRequest) -> Any:
        return bytearray(request.data[0])

    @operation(More.UPPER)
    def upper(self, request: AsyncRequest) -> str:
        return request.data[0].decode().upper()

    @operation(Calls.NOTHING)
    async def nothing(self, request: AsyncRequest) -> None:
        return None

    @operation(Calls.COUNT)
    async def count(self, request: AsyncRequest) -> AsyncIterator[Any]:
        for number in range(int(request.data[0])):
            yield b"%d" % number

    @operation(Calls.HEADED)
    def headed(self, request: AsyncRequest) -> Any:
        return Stream([b"1", [b"2", b"3"]], reply="head")

    @operation(Calls.ENDLESS)
    def endless(self, request: AsyncRequest) -> Any:
        try:
            while True:
                yield b"more"
        finally:
            self.stopped.release()

    @operation(Calls.SUM)
    async def sum(self, request: AsyncRequest) -> str:
        return str(sum([int(frame) async for frames in request.uploads(self.upload_timeout) for frame in frames]))

    @operation(Calls.FAIL)
    async def fail(self, request: AsyncRequest) -> None:
        try:
            raise KeyError("root")
        except KeyError as error:
            raise StopError("refused", code=ErrorCode.CONFLICT) from error

    @operation(Calls.WAIT)
    async def wait(self, request: AsyncRequest) -> str:
        self.waiting.release()
        try:
            await self.go_on.wait()
        finally:
            self.stopped.release()
        return "done"

    @operation(Calls.STATES)
    async def states(self, request: AsyncRequest) -> bytes:
        for state in (State.READY, State.RUNNING, State.FINISHED):
            request.report(state)
        return b""

    @operation(Calls.WRONG)
    def wrong(self, request: AsyncRequest) -> object:
        return 1.5

    @operation(Calls.QUIT)
    async def quit(self, request: AsyncRequest) -> None:
        raise SystemExit(3)

    @operation(Calls.BROKEN)
    def broken(self, request: AsyncRequest) -> None:
        raise Unprintable

    @operation(Calls.WHO)
    async def who(self, request: AsyncRequest) -> list[str]:
        return [request.client.name, request.peer.host]

    def session_closed(self, session: Any, exc: Exception | None) -> None:
        self.ended.append(exc)
        self.closed.set()


class Cell:
    """A service in a loop, a client of it, and what they are connected by."""

    def __init__(self, carrier: str, opened: AsyncExitStack, directory: Path) -> None:
        self.carrier = carrier
        self.opened = opened
        self.address = f"ipc://{directory}/service"
        self.service: Any = None
        self.ends: list[socket.socket] = []

    async def serve(self, **kwargs: Any) -> AsyncSample:
        self.service = await self.opened.enter_async_context(AsyncSample(**kwargs))
        if self.carrier == "zmq":
            self.service.serve(self.address, linger=0)
        service: AsyncSample = self.service
        return service

    async def connect(self, **kwargs: Any) -> AsyncServiceClient:
        return await self.opened.enter_async_context(await self.client(**kwargs))

    async def client(self, **kwargs: Any) -> AsyncServiceClient:
        if self.carrier == "zmq":
            return AsyncServiceClient.connect(self.address, agent=CLIENT, channel={"linger": 0}, **kwargs)
        theirs, ours = self.sockets()
        conn = AsyncPacketConnection(ours)
        self.service.serve_on(conn)
        await self.opened.enter_async_context(conn)
        return AsyncServiceClient.on(AsyncPacketConnection(theirs), agent=CLIENT, **kwargs)

    def sockets(self) -> tuple[socket.socket, socket.socket]:
        theirs, ours = socket.socketpair()
        self.opened.enter_context(theirs)
        self.opened.enter_context(ours)
        self.ends.append(ours)
        return theirs, ours

    def cut(self) -> None:
        """End all links without a word."""
        for end in self.ends:
            end.shutdown(socket.SHUT_RDWR)
        for channel in self.service._channels:
            channel.close()


Main = Callable[[Cell], Coroutine[Any, Any, None]]
Run = Callable[[Main], None]


try:
    import uvloop
except ModuleNotFoundError:
    uvloop = None


@pytest.fixture(params=["asyncio", pytest.param("uvloop", marks=pytest.mark.long)])
def loop_factory(request: pytest.FixtureRequest) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """What makes the loop of a test."""
    if request.param == "asyncio":
        return None
    if uvloop is None:
        pytest.skip("uvloop is not installed")
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


@pytest.fixture(params=["zmq", "packets"])
def run(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None,
) -> Run:
    """Run a test in a loop of its own, in which nothing may be left."""

    def run(main: Main) -> None:
        async def checked() -> None:
            async with AsyncExitStack() as opened:
                await main(Cell(request.param, opened, tmp_path))
            await asyncio.sleep(0)
            assert asyncio.all_tasks() == {asyncio.current_task()}

        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(checked())

    return run


Use = Callable[[AsyncServiceClient, AsyncSample], Coroutine[Any, Any, None]]


@pytest.fixture
def with_client(run: Run) -> Callable[[Use], None]:
    """Run a test with a service and a client of it."""

    def with_client(use: Use) -> None:
        async def main(cell: Cell) -> None:
            service = await cell.serve()
            await use(await cell.connect(), service)

        run(main)

    return with_client


WithClient = Callable[[Use], None]


def test_what_an_operation_may_return(with_client: WithClient) -> None:
    async def use(client: AsyncServiceClient, service: AsyncSample) -> None:
        for frames in ([], [b""], [b"a", b"", bytes(100000)]):
            assert await client.call(Calls.ECHO, *frames, timeout=WAIT) == frames
        assert await client.call(Calls.QUICK, bytearray(b"x"), timeout=WAIT) == [b"x"]
        assert await client.call(More.UPPER, "grüße", timeout=WAIT) == ["GRÜSSE".encode()]
        assert await client.call(Calls.NOTHING) == []
        assert await client.call(Calls.WHO, timeout=WAIT) == [b"client", client.peer.host.encode()]
        assert client.service == SERVICE.agent
        assert client.service_peer.pid > 0
        assert list(client.interfaces.values()) == [1, 2]

    with_client(use)


@pytest.mark.parametrize("timeout", [math.inf, 1e10, 25 * 86_400.0])
def test_a_long_time_limit_is_none(with_client: WithClient, timeout: float) -> None:
    async def use(client: AsyncServiceClient, service: AsyncSample) -> None:
        assert await client.call(Calls.ECHO, b"x", timeout=timeout) == [b"x"]
        assert await client.ping(timeout) >= 0

    with_client(use)


@pytest.mark.parametrize(("timeout", "error"), [(math.nan, LocalProtocolError), ("5", TypeError)])
def test_a_wrong_time_limit_is_told_before_anything_is_sent(
    with_client: WithClient, timeout: Any, error: type[Exception]
) -> None:
    async def use(client: AsyncServiceClient, service: AsyncSample) -> None:
        with pytest.raises(error, match="timeout must be a number of seconds"):
            await client.call(Calls.WAIT, timeout=timeout)
        with pytest.raises(error, match="timeout must be a number of seconds"):
            await client.ping(timeout)
        assert await client.call(Calls.ECHO, b"x", timeout=WAIT) == [b"x"]

    with_client(use)


def test_errors_have_code_description_and_causes(with_client: WithClient, caplog: pytest.LogCaptureFixture) -> None:
    async def use(client: AsyncServiceClient, service: AsyncSample) -> None:
        with pytest.raises(ServiceError, match="refused") as caught:
            await client.call(Calls.FAIL, timeout=WAIT)
        assert caught.value.code is ErrorCode.CONFLICT
        assert str(caught.value.__cause__) == "'root'"
        with pytest.raises(ServiceError, match="a frame is bytes-like or str, not float") as caught:
            await client.call(Calls.WRONG, timeout=WAIT)
        assert caught.value.code is ErrorCode.INTERNAL_ERROR
        with pytest.raises(ServiceError, match=r"Calls.ABSENT is not implemented") as caught:
            await client.call(Calls.ABSENT, timeout=WAIT)
        assert await client.call(Calls.ECHO, timeout=WAIT) == []

    with_client(use)
    assert "a frame is bytes-like" in caplog.text


@pytest.mark.parametrize("count", [0, 1, 2, 500, 3000])
def test_a_stream_is_an_asynchronous_iterator(with_client: WithClient, count: int) -> None:
    async def use(client: AsyncServiceClient, service: AsyncSample) -> None:
        call = await client.start(Calls.COUNT, str(count))
        assert [int(frame) async for (frame,) in call] == list(range(count))
        assert await call == []
        assert call.over

    with_client(use)


def test_a_stream_may_have_a_reply_of_its_own(with_client: WithClient) -> None:
    async def use(client: AsyncServiceClient, service: AsyncSample) -> None:
        call = await client.start(Calls.HEADED)
        assert await call.result(WAIT) == [b"head"]
        assert [frames async for frames in call.stream(WAIT)] == [[b"1"], [b"2", b"3"]]

    with_client(use)


def test_states_are_reported(with_client: WithClient) -> None:
    async def use(client: AsyncServiceClient, service: AsyncSample) -> None:
        states: list[State] = []
        call = await client.start(Calls.STATES, on_state=states.append)
        await call.result(WAIT)
        assert states == [State.READY, State.RUNNING, State.FINISHED]
        assert call.state is State.FINISHED

    with_client(use)


@pytest.mark.parametrize("acknowledge", [False, True])
def test_data_is_sent_to_the_service(with_client: WithClient, acknowledge: bool) -> None:
    async def use(client: AsyncServiceClient, service: AsyncSample) -> None:
        call = await client.start(Calls.SUM, more=True, acknowledge=acknowledge)
        for number in range(100):
            await call.send(str(number), "1", more=number < 99, acknowledge=acknowledge, timeout=WAIT)
        assert await call.result(WAIT) == [b"5050"]
        assert call.acknowledged is acknowledge
        await call.send("late")
        assert await client.call(Calls.ECHO, timeout=WAIT) == []

    with_client(use)


def test_a_call_is_cancelled(with_client: WithClient) -> None:
    async def use(client: AsyncServiceClient, service: AsyncSample) -> None:
        call = await client.start(Calls.WAIT, acknowledge=True)
        await call.wait_acknowledged(WAIT)
        assert call.reply is None
        await service.waiting.acquire()
        assert await call.cancel(WAIT)
        with pytest.raises(ServiceError) as caught:
            await call
        assert caught.value.code is ErrorCode.REQUEST_CANCELLED
        await service.stopped.acquire()
        assert not await call.cancel(WAIT), "it has ended"
        assert await client.call(Calls.ECHO, timeout=WAIT) == []

    with_client(use)


def test_a_call_is_cancelled_before_its_operation_begins(with_client: WithClient) -> None:
    async def use(client: AsyncServiceClient, service: AsyncSample) -> None:
        for _ in range(20):
            call = await client.start(Calls.WAIT)
            assert await call.cancel(WAIT)
        assert await client.call(Calls.ECHO, timeout=WAIT) == []
        assert sum(map(len, service.core.requests.values())) == 0

    with_client(use)


def test_an_endless_stream_is_cancelled(with_client: WithClient) -> None:
    async def use(client: AsyncServiceClient, service: AsyncSample) -> None:
        call = await client.start(Calls.ENDLESS)
        received = 0
        with pytest.raises(ServiceError, match="REQUEST_CANCELLED"):
            async for _ in call:
                received += 1
                if received == 10:
                    assert await call.cancel(WAIT)
        await service.stopped.acquire()

    with_client(use)


def test_a_timeout_withdraws_the_request(with_client: WithClient) -> None:
    async def use(client: AsyncServiceClient, service: AsyncSample) -> None:
        with pytest.raises(RequestTimeout, match=r"Calls.WAIT"):
            await client.call(Calls.WAIT, timeout=0.05)
        assert client.core.calls == {}
        await service.stopped.acquire()
        call = await client.start(Calls.WAIT)
        with pytest.raises(RequestTimeout):
            await call.result(0.01)
        service.go_on.set()
        assert await call.result(WAIT) == await call.result(WAIT) == [b"done"]

    with_client(use)


def test_a_cancelled_task_withdraws_the_request(with_client: WithClient) -> None:
    async def use(client: AsyncServiceClient, service: AsyncSample) -> None:
        task = asyncio.create_task(client.call(Calls.WAIT))
        await service.waiting.acquire()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await service.stopped.acquire()
        assert client.core.calls == {}
        assert await client.call(Calls.ECHO, timeout=WAIT) == []

    with_client(use)


def test_ping(with_client: WithClient) -> None:
    async def use(client: AsyncServiceClient, service: AsyncSample) -> None:
        assert await client.ping(WAIT) >= 0
        assert client.core.pongs == {}

    with_client(use)


def test_the_service_closes(with_client: WithClient) -> None:
    async def use(client: AsyncServiceClient, service: AsyncSample) -> None:
        calls = [await client.start(Calls.WAIT), await client.start(Calls.ENDLESS)]
        await service.waiting.acquire()
        await service.close()
        for call in calls:
            with pytest.raises(ConnectionEnded, match="the service has closed the session"):
                async for _ in call.stream(WAIT):
                    pass
        for use_of_it in (client.call(Calls.ECHO), client.ping(), client.start(Calls.ECHO)):
            with pytest.raises(ConnectionEnded):
                await use_of_it
        assert service.ended == [None]
        assert service._tasks == set()

    with_client(use)


def test_the_client_closes(with_client: WithClient) -> None:
    async def use(client: AsyncServiceClient, service: AsyncSample) -> None:
        call = await client.start(Calls.WAIT)
        await service.waiting.acquire()
        await client.close()
        await client.close()
        with pytest.raises(ConnectionEnded, match="the client was closed"):
            await call
        with pytest.raises(ConnectionEnded):
            await client.call(Calls.ECHO)
        await service.closed.wait()
        assert service.ended == [None]
        assert service.core.requests == {}

    with_client(use)


def test_the_link_is_lost(run: Run) -> None:
    async def main(cell: Cell) -> None:
        service = await cell.serve()
        client = await cell.connect()
        call = await client.start(Calls.WAIT)
        await service.waiting.acquire()
        cell.cut()
        with pytest.raises(ConnectionEnded, match="the session has ended"):
            await call
        with pytest.raises(ConnectionEnded):
            await client.call(Calls.ECHO)
        await service.closed.wait()
        assert service.ended[0] is not None
        await service.stopped.acquire()

    run(main)


def test_a_client_that_vanished_is_found_out(tmp_path: Path) -> None:
    """Over ZMQ, where nothing tells of it but what is sent."""

    async def main() -> None:
        async with AsyncSample() as service:
            address = service.serve(f"ipc://{tmp_path}/service", linger=0, idle_limit=0.1).address
            client = AsyncServiceClient.connect(address, agent=CLIENT, channel={"linger": 0})
            await client.__aenter__()
            client.channel.close()
            await service.closed.wait()
            assert "is gone" in str(service.ended[0])

    asyncio.run(main())


def test_many_tasks_call_at_once(with_client: WithClient) -> None:
    async def use(client: AsyncServiceClient, service: AsyncSample) -> None:
        async def work() -> list[Any]:
            return [
                await client.call(Calls.QUICK if number % 2 else Calls.ECHO, b"%d" % number, timeout=WAIT)
                for number in range(50)
            ]

        results = await asyncio.gather(*[work() for _ in range(20)])
        assert results == [[[b"%d" % number] for number in range(50)]] * 20

    with_client(use)


def test_a_refused_client(run: Run) -> None:
    async def main(cell: Cell) -> None:
        def refuse(channel: Any, msg: Any) -> None:
            raise StopError("not you", code=ErrorCode.FORBIDDEN)

        service = await cell.serve()
        service.protocol.on_accept_client = refuse
        with pytest.raises(ServiceError, match="not you") as caught:
            await cell.connect()
        assert caught.value.code is ErrorCode.FORBIDDEN

    run(main)


def test_more_data_than_may_be_kept(run: Run) -> None:
    async def main(cell: Cell) -> None:
        service = await cell.serve()
        client = await cell.connect(max_buffered=1000)
        call = await client.start(Calls.ENDLESS)
        await service.stopped.acquire()
        with pytest.raises(ServiceError) as caught:
            async for _ in call:
                pass
        assert caught.value.code is ErrorCode.INSUFFICIENT_STORAGE
        assert await client.call(Calls.ECHO, timeout=WAIT) == []

    run(main)


def test_an_upload_that_nobody_takes(run: Run) -> None:
    async def main(cell: Cell) -> None:
        service = await cell.serve(max_upload=1000)
        client = await cell.connect()
        call = await client.start(Calls.WAIT)
        await service.waiting.acquire()
        for _ in range(11):
            await call.send(bytes(100), more=True)
        with pytest.raises(ServiceError) as caught:
            await call.result(WAIT)
        assert caught.value.code is ErrorCode.PAYLOAD_TOO_LARGE

    run(main)


def test_nothing_waits_in_the_thread_of_the_loop(with_client: WithClient) -> None:
    async def use(client: AsyncServiceClient, service: AsyncSample) -> None:
        with pytest.raises(LocalProtocolError, match="would wait for itself"):
            client.channel.wait_until(lambda: True)

    with_client(use)


def test_nobody_is_there(run: Run) -> None:
    async def main(cell: Cell) -> None:
        theirs, _ = cell.sockets()
        absent: dict[str, tuple[AsyncServiceClient, str]] = {
            "zmq": (AsyncServiceClient.connect(cell.address, agent=CLIENT, timeout=0.1), "no link to"),
            "packets": (
                AsyncServiceClient.on(AsyncPacketConnection(theirs, close_timeout=0.1), agent=CLIENT, timeout=0.1),
                "did not answer HELLO",
            ),
        }
        client, text = absent.pop(cell.carrier)
        for use in (client.call(Calls.ECHO), client.ping()):
            with pytest.raises(ClientError, match="not connected"):
                await use
        with pytest.raises(RequestTimeout, match=text):
            await client.__aenter__()
        for other, _ in absent.values():
            other.channel.close()

    run(main)


# the other face at the other end


def test_a_service_with_threads(run: Run) -> None:
    async def main(cell: Cell) -> None:
        with ExitStack() as opened:
            service = opened.enter_context(Sample())
            opened.callback(service.go_on.set)
            if cell.carrier == "zmq":
                service.serve(cell.address, linger=0)
                client = AsyncServiceClient.connect(cell.address, agent=CLIENT)
            else:
                theirs, ours = cell.sockets()
                conn = PacketConnection(ours)
                service.serve_on(conn)
                opened.enter_context(conn)
                client = AsyncServiceClient.on(AsyncPacketConnection(theirs), agent=CLIENT)
            async with client:
                await exchange_all(client)

    run(main)


async def exchange_all(client: AsyncServiceClient) -> None:
    assert await client.call(Calls.ECHO, b"x", timeout=WAIT) == [b"x"]
    counted: AsyncCall = await client.start(Calls.COUNT, "300")
    assert [int(frame) async for (frame,) in counted] == list(range(300))
    call = await client.start(Calls.SUM, more=True, acknowledge=True)
    for number in range(20):
        await call.send(str(number), more=number < 19, acknowledge=True, timeout=WAIT)
    assert await call.result(WAIT) == [b"190"]
    call = await client.start(Calls.WAIT)
    assert await call.cancel(WAIT)
    assert await client.ping(WAIT) >= 0


def test_a_client_with_threads(run: Run) -> None:
    async def main(cell: Cell) -> None:
        service = await cell.serve()
        if cell.carrier == "zmq":
            client = ServiceClient.connect(cell.address, agent=CLIENT)
        else:
            theirs, ours = cell.sockets()
            conn = AsyncPacketConnection(ours)
            service.serve_on(conn)
            await cell.opened.enter_async_context(conn)
            client = ServiceClient.on(PacketConnection(theirs), agent=CLIENT)
        await asyncio.to_thread(call_all, client)

    run(main)


def call_all(client: ServiceClient) -> None:
    with client:
        assert client.call(Calls.ECHO, b"x", timeout=WAIT) == [b"x"]
        assert [int(frame) for (frame,) in client.start(Calls.COUNT, "300")] == list(range(300))
        call = client.start(Calls.SUM, more=True, acknowledge=True)
        for number in range(20):
            call.send(str(number), more=number < 19, acknowledge=True, timeout=WAIT)
        assert call.result(WAIT) == [b"190"]
        call = client.start(Calls.WAIT)
        assert call.cancel(WAIT)
        assert client.ping(WAIT) >= 0


# What does not fit together: how it was asked, and what the service does


def test_a_timeout_says_how_long_it_was(with_client: WithClient) -> None:
    async def use(client: AsyncServiceClient, service: AsyncSample) -> None:
        with pytest.raises(RequestTimeout, match=r"^Calls.WAIT: nothing within 0\.05 s$"):
            await client.call(Calls.WAIT, timeout=0.05)

    with_client(use)


def test_a_request_for_which_there_is_no_room(with_client: WithClient) -> None:
    async def use(client: AsyncServiceClient, service: AsyncSample) -> None:
        drain = client.channel.drain

        async def never(session: Any) -> None:
            await asyncio.Event().wait()

        call = await client.start(Calls.SUM, more=True)
        client.channel.drain = never  # type: ignore[method-assign]
        with pytest.raises(RequestTimeout, match=r"Calls.ECHO: .* did not take what it was sent within 0\.05 s"):
            await client.call(Calls.ECHO, timeout=0.05)
        with pytest.raises(RequestTimeout, match=r"Calls.SUM: .* did not take what it was sent within 0\.05 s"):
            await call.send("1", timeout=0.05)
        client.channel.drain = drain  # type: ignore[method-assign]
        assert set(client.core.calls) == {call.token}
        await call.send("1", timeout=WAIT)
        assert await call.result(WAIT) == [b"1"]

    with_client(use)


def test_a_stream_that_was_not_expected(with_client: WithClient) -> None:
    async def use(client: AsyncServiceClient, service: AsyncSample) -> None:
        for _ in range(10):
            with pytest.raises(ClientError, match=r"Calls.ENDLESS answers by a stream: ask with start\(\)"):
                await client.call(Calls.ENDLESS, timeout=WAIT)
            await service.stopped.acquire()
        for code in (Calls.COUNT, Calls.HEADED):
            with pytest.raises(ClientError, match="answers by a stream"):
                await client.call(code, "3", timeout=WAIT)
        assert client.core.calls == {}
        assert await client.call(Calls.ECHO, b"x", timeout=WAIT) == [b"x"]

    with_client(use)


def test_a_reply_where_a_stream_was_expected(with_client: WithClient) -> None:
    async def use(client: AsyncServiceClient, service: AsyncSample) -> None:
        with pytest.raises(ClientError, match=r"Calls.ECHO has answered by a reply, not by a stream"):
            [frames async for frames in await client.start(Calls.ECHO, "x")]
        assert [frames async for frames in await client.start(Calls.NOTHING)] == []
        call = await client.start(Calls.ECHO, "x", stream=True)
        with pytest.raises(RequestTimeout, match="it has replied without announcing DATA"):
            [frames async for frames in call.stream(0.05)]
        client.abandon(call)
        with pytest.raises(ClientError, match="was withdrawn"):
            [frames async for frames in call]

    with_client(use)


def test_data_that_an_operation_does_not_take(with_client: WithClient) -> None:
    async def use(client: AsyncServiceClient, service: AsyncSample) -> None:
        call = await client.start(Calls.WAIT, more=True)
        await service.waiting.acquire()
        asyncio.get_running_loop().call_later(0.05, service.go_on.set)
        for _ in range(2):
            with pytest.raises(ClientError, match=r"Calls.WAIT has ended without taking the DATA"):
                await call.send("x", acknowledge=True, timeout=WAIT)
        assert await call == [b"done"]
        await client.ping(WAIT)
        for channel in service._on_connections:
            assert not channel._open, "no packet request is left without an answer"  # type: ignore[attr-defined]

    with_client(use)


def test_an_upload_that_does_not_come(run: Run) -> None:
    async def main(cell: Cell) -> None:
        service = await cell.serve(upload_wait=0.05)
        service.upload_timeout = None
        client = await cell.connect()
        with pytest.raises(ServiceError, match=r"no DATA within 0\.05 s; the request has announced none") as caught:
            await client.call(Calls.SUM, timeout=WAIT)
        assert caught.value.code is ErrorCode.REQUEST_TIMEOUT
        announced = await client.start(Calls.SUM, more=True)
        with pytest.raises(RequestTimeout):
            await announced.result(0.1)
        await announced.send("1")
        assert await announced.result(WAIT) == [b"1"]

    run(main)


# Whatever an operation or a callback raises


def test_an_operation_that_raises_anything(with_client: WithClient) -> None:
    async def use(client: AsyncServiceClient, service: AsyncSample) -> None:
        for code, text in ((Calls.QUIT, "SystemExit: 3"), (Calls.BROKEN, "Unprintable")):
            with pytest.raises(ServiceError, match=text) as caught:
                await client.call(code, timeout=WAIT)
            assert caught.value.code is ErrorCode.INTERNAL_ERROR
        assert await client.call(Calls.ECHO, b"x", timeout=WAIT) == [b"x"]

    with_client(use)


def test_a_callback_that_fails(with_client: WithClient, caplog: pytest.LogCaptureFixture) -> None:
    async def use(client: AsyncServiceClient, service: AsyncSample) -> None:
        def fail(state: State) -> None:
            raise ZeroDivisionError

        call = await client.start(Calls.STATES, on_state=fail)
        assert await call.result(WAIT) == [b""]
        assert call.state is State.FINISHED

    with_client(use)
    assert caplog.text.count("on_state failed") == 3


def test_a_session_that_cannot_be_begun(run: Run) -> None:
    async def main(cell: Cell) -> None:
        service = await cell.serve()

        def fail(session: Any) -> None:
            raise ZeroDivisionError("no session")

        service.protocol.initialize_session = fail  # type: ignore[method-assign]
        with pytest.raises(ServiceError, match="no session") as caught:
            await cell.connect(timeout=WAIT)
        assert caught.value.code is ErrorCode.INTERNAL_ERROR
        del service.protocol.initialize_session
        assert await (await cell.connect()).call(Calls.ECHO, timeout=WAIT) == []

    run(main)

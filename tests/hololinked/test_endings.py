"""What ends a broker from outside: its ZMQ context, a socket that somebody else closes, signals, strangers."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import os
import resource
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from socket import create_connection, socketpair
from typing import Any

import pytest
import zmq
import zmq.asyncio

from packetwire.errors import ConnectionEnded
from packetwire.hololinked import (
    AsyncEventConsumer,
    AsyncZMQClient,
    AsyncZMQServer,
    EventConsumer,
    EventPublisher,
    SerializableData,
    ServerExecutionContext,
    SyncZMQClient,
)
from packetwire.hololinked.looping import LoopDriver
from packetwire.streams.curve import CurveServer, curve_keys

from .running import SERVER_ID, WAIT, RunningServer

pytestmark = pytest.mark.timeout(110)

ENDS = {"term": zmq.Context.term, "destroy": zmq.Context.destroy}
SAID = {"term": "the ZMQ context was terminated", "destroy": "closed its socket, or destroyed the ZMQ context"}
PATIENT = ServerExecutionContext(WAIT, WAIT)


class Running(threading.Thread):
    """A function in a thread; its result or exception is that of `result`."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        super().__init__(daemon=True)
        self._call = lambda: function(*args)
        self._outcome: Callable[[], Any] = lambda: None
        self.start()

    def run(self) -> None:
        try:
            result = self._call()
        except BaseException as error:
            failure = error

            def fail() -> None:
                raise failure

            self._outcome = fail
        else:
            self._outcome = lambda: result

    def result(self) -> Any:
        self.join(WAIT)
        assert not self.is_alive(), "it does not return"
        return self._outcome()


def turning(loop: asyncio.AbstractEventLoop) -> None:
    """Until the loop has begun what it was given, and waits."""
    for _ in range(5):
        passed = threading.Event()
        loop.call_soon_threadsafe(passed.set)
        assert passed.wait(WAIT)


class Waiter:
    """A broker in a context of its own, with a call that waits in a thread, or in a loop there."""

    def __init__(self, context: Any, server: RunningServer) -> None:
        self.context, self.server = context, server
        self.began = threading.Event()

    def begin(self) -> Running:
        waiting = Running(self.wait)
        assert self.began.wait(WAIT)
        return waiting

    def wait(self) -> Any: ...

    def close(self) -> None:
        self.broker.exit()

    broker: Any


class SyncClientWaits(Waiter):
    contexts = zmq.Context

    def wait(self) -> Any:
        self.broker = SyncZMQClient("waits", SERVER_ID, self.context, self.server.address)
        asked = self.server.asked
        waiting = Running(
            lambda: self.broker.execute("", "", "hold", SerializableData(1), server_execution_context=PATIENT)
        )
        while self.server.asked == asked:
            assert waiting.is_alive()
        self.began.set()
        return waiting.result()


class HandshakeWaits(Waiter):
    contexts = zmq.Context

    def wait(self) -> Any:
        self.broker = SyncZMQClient("waits", "nobody", self.context, "tcp://127.0.0.1:1", handshake=False)
        waiting = Running(self.broker.handshake, None)
        while not self.broker._reading:
            assert waiting.is_alive()
        self.began.set()
        return waiting.result()


class SyncConsumerWaits(Waiter):
    contexts = zmq.Context

    def wait(self) -> Any:
        self.broker = EventConsumer("waits", "event", "tcp://127.0.0.1:1", self.context)
        waiting = Running(self.broker.receive, None)
        while not self.broker._receiving.locked():
            assert waiting.is_alive()
        self.began.set()
        return waiting.result()


class LoopWaiter(Waiter):
    contexts: Any = zmq.asyncio.Context

    def wait(self) -> Any:
        async def main() -> Any:
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(lambda _, context: self.unhandled.append(context))
            waiting = asyncio.ensure_future(self.waits())
            await self.ready()
            loop.call_soon(self.began.set)
            try:
                return await waiting
            finally:
                self.in_loop_at_end()

        self.unhandled: list[Any] = []
        return asyncio.run(main())

    async def ready(self) -> None:
        for _ in range(3):
            await asyncio.sleep(0)

    def in_loop_at_end(self) -> None:
        assert self.unhandled == []

    def waits(self) -> Coroutine[Any, Any, Any]:
        raise NotImplementedError


class AsyncClientWaits(LoopWaiter):
    def waits(self) -> Any:
        self.broker = AsyncZMQClient("waits", SERVER_ID, self.context, self.server.address)
        self.asked = self.server.asked
        return self.broker.async_execute("", "", "hold", SerializableData(1), server_execution_context=PATIENT)

    async def ready(self) -> None:
        while self.server.asked == self.asked:
            await asyncio.sleep(0)


class AsyncHandshakeWaits(LoopWaiter):
    def waits(self) -> Any:
        self.broker = AsyncZMQClient(
            "waits", "nobody", self.context, "tcp://127.0.0.1:1", handshake_timeout=WAIT * 2000
        )
        return self.broker.handshake_complete()


class AsyncConsumerWaits(LoopWaiter):
    def waits(self) -> Any:
        self.broker = AsyncEventConsumer("waits", "event", "tcp://127.0.0.1:1", self.context)
        return self.broker.receive(None)


class ServerServes(LoopWaiter):
    def waits(self) -> Any:
        self.broker = AsyncZMQServer(id="waits", context=self.context, access_point="tcp://127.0.0.1:*")
        return self.broker.serve(lambda _: None)


class ServerPolls(ServerServes):
    def waits(self) -> Any:
        super().waits().close()
        return self.broker.poll_requests()


class ServerReceives(ServerServes):
    def waits(self) -> Any:
        super().waits().close()
        return self.broker.async_recv_request()


WAITERS = [
    SyncClientWaits,
    HandshakeWaits,
    SyncConsumerWaits,
    AsyncClientWaits,
    AsyncHandshakeWaits,
    AsyncConsumerWaits,
    ServerServes,
    ServerPolls,
    ServerReceives,
]


@pytest.fixture(params=["tcp", "ipc", "inproc"])
def server(request: pytest.FixtureRequest, ipc: str) -> Iterator[RunningServer]:
    """In a context that nobody ends; so nobody of another context reaches it by inproc."""
    address = {"tcp": "tcp://127.0.0.1:*", "ipc": ipc, "inproc": "tcp://127.0.0.1:*"}[request.param]
    with RunningServer(address) as server:
        yield server


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("kind", WAITERS)
@pytest.mark.parametrize("server", ["tcp", "ipc"], indirect=True)
def test_the_context_ends_while_somebody_waits(
    kind: Any, end: str, server: RunningServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Who waits is told why, once; nothing fills the log; and closing lets go of what is left."""
    context = kind.contexts()
    waiter = kind(context, server)
    waiting = waiter.begin()
    ending = Running(ENDS[end], context)
    with pytest.raises(ConnectionEnded, match=SAID[end]) as caught:
        waiting.result()
    assert (end == "destroy") == (caught.value.__cause__ is None)
    for _ in range(2):
        waiter.close()
    ending.result()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    server.let_go()


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("face", ["threads", "asyncio"])
@pytest.mark.parametrize("kind", ["server", "client", "consumer", "publisher"])
@pytest.mark.parametrize("transport", ["tcp", "inproc", "ipc"])
def test_the_context_ends_while_nobody_waits(kind: str, face: str, end: str, transport: str, ipc: str) -> None:
    """The next call is told why; a broker that is only closed lets go of its socket all the same."""
    context: Any = zmq.asyncio.Context()
    address = {"tcp": "tcp://127.0.0.1:*", "inproc": "inproc://s", "ipc": ipc}[transport]
    where = {"tcp": "tcp://127.0.0.1:1"}.get(transport, address)

    def make() -> Any:
        if kind == "server":
            return AsyncZMQServer(id="server", context=context, access_point=address)
        if kind == "publisher":
            return EventPublisher("p", context, address)
        if kind == "client":
            client = AsyncZMQClient if face == "asyncio" else SyncZMQClient
            return client("c", "server", context, where, handshake=False)
        consumer = AsyncEventConsumer if face == "asyncio" else EventConsumer
        return consumer("c", "e", where, context)

    def ended(broker: Any) -> None:
        if end == "destroy":
            ending.result()  # it does not wait for anybody
            return
        with suppress(zmq.ContextTerminated):
            while True:
                zmq.Socket.shadow(broker.socket).get(zmq.EVENTS)

    def use(broker: Any) -> Any:
        if kind == "publisher":
            broker.register("e")
            return broker.publish("e", 5)
        if kind == "client":
            return (broker.async_execute if face == "asyncio" else broker.execute)("", "", "echo", timeout=1)
        return broker.poll_requests() if kind == "server" else broker.receive(None)

    async def use_in_loop(broker: Any) -> None:
        await use(broker)

    peer: Any = None
    if transport != "tcp" and kind == "client":
        peer = AsyncZMQServer(id="server", context=context, access_point=address)
    elif transport != "tcp" and kind == "consumer":
        peer = EventPublisher("p", context, address)
    used, closed = make(), make() if kind in ("client", "consumer") else None
    ending = Running(ENDS[end], context)
    ended(used)
    with pytest.raises(ConnectionEnded, match=SAID[end]):
        if kind == "server" or (face == "asyncio" and kind != "publisher"):
            asyncio.run(use_in_loop(used))
        else:
            use(used)
    for broker in (used, closed, peer, used, closed, peer):
        if broker is not None:
            broker.exit()
    ending.result()


@pytest.mark.parametrize("kind", [EventConsumer, SyncZMQClient])
def test_all_threads_that_wait_are_told(kind: Any) -> None:
    context: Any = zmq.Context()
    if kind is EventConsumer:
        broker = EventConsumer("c", "e", "tcp://127.0.0.1:1", context)
        waiting = [Running(broker.receive, None) for _ in range(3)]
        while not broker._receiving.locked():
            assert waiting[0].is_alive()
    else:
        broker = SyncZMQClient("c", "server", context, "tcp://127.0.0.1:1", handshake=False)
        waiting = [Running(broker.handshake, None) for _ in range(3)]
        while not broker._reading:
            assert waiting[0].is_alive()
    ending = Running(context.term)
    for each in waiting:
        with pytest.raises(ConnectionEnded, match="the ZMQ context was terminated"):
            each.result()
    broker.exit()
    ending.result()


def test_a_server_with_work_under_way(caplog: pytest.LogCaptureFixture) -> None:
    """What its handlers still have to say goes nowhere, and is not an error of its own."""
    context = zmq.asyncio.Context()
    begun, cancelled = asyncio.Event(), []

    async def work(_: Any) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    async def main() -> None:
        server = AsyncZMQServer(id=SERVER_ID, context=context, access_point="inproc://server")
        client = AsyncZMQClient("c", SERVER_ID, context, "inproc://server")
        serving = asyncio.ensure_future(server.serve(work))
        asking = asyncio.ensure_future(client.async_execute("", "", "work", server_execution_context=PATIENT))
        await begun.wait()
        ending = asyncio.ensure_future(asyncio.to_thread(context.term))
        for each in (serving, asking):
            with pytest.raises(ConnectionEnded, match="the ZMQ context was terminated"):
                await each
        server.exit()
        client.exit()
        await ending

    asyncio.run(main())
    assert cancelled == [True]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_handler_that_is_cancelled_before_it_begins() -> None:
    """Nothing of it is left, and nothing is said of a coroutine that was never awaited."""
    context = zmq.asyncio.Context()
    called = []

    async def work() -> None:
        raise AssertionError("it has begun")

    async def main() -> None:
        server = AsyncZMQServer(id=SERVER_ID, context=context, access_point="inproc://server")

        def handle(_: Any) -> Any:
            called.append(work())
            serving.cancel()
            return called[0]

        serving = asyncio.ensure_future(server.serve(handle))
        async with AsyncZMQClient("c", SERVER_ID, context, "inproc://server") as client:
            await client.async_send_request("", "", "work", server_execution_context=PATIENT)
            with suppress(asyncio.CancelledError):
                await serving
        server.exit()

    asyncio.run(main())
    context.term()
    assert len(called) == 1
    called.clear()
    gc.collect()


def test_a_server_with_a_list_of_keys() -> None:
    """Who looks at the keys, in a thread, ends as well, whoever ends the context."""
    context = zmq.asyncio.Context()
    public, secret = curve_keys()
    server = AsyncZMQServer(
        id="s", context=context, access_point="tcp://127.0.0.1:*", curve=CurveServer(secret, [public])
    )
    ending = Running(context.destroy)
    ending.result()  # nothing of it is left but what is in that context
    server.exit()


def test_a_failing_turn_has_pauses() -> None:
    """Something that fails again and again is tried again, but does not fill the log."""
    told: list[Any] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: told.append(context["exception"]))
        waiting = asyncio.Event()

        def turn() -> bool:
            raise ZeroDivisionError

        here, there = socketpair()
        driver = LoopDriver(here.fileno(), turn, lambda: 0.0)
        there.send(b"readable for ever")
        with suppress(ZeroDivisionError):
            driver.attach()
        with suppress(TimeoutError):
            await asyncio.wait_for(waiting.wait(), 1.0)
        driver.detach()
        here.close()
        there.close()

    asyncio.run(main())
    assert 2 <= len(told) <= 15


def test_events_that_nobody_waits_for_do_not_keep_the_loop_busy() -> None:
    context = zmq.asyncio.Context()

    async def main() -> int:
        turns = 0
        with EventPublisher("p", context, "inproc://events") as publisher:
            publisher.register("e")
            async with AsyncEventConsumer("c", "e", "inproc://events", context) as consumer:
                while await consumer.receive(10) is None:
                    publisher.publish("e", 0)
                while await consumer.receive(0) is not None:
                    pass  # only then the descriptor tells of the next one
                driver = consumer._driver
                assert driver is not None
                turn = driver._turn

                def count() -> bool:
                    nonlocal turns
                    turns += 1
                    return turn()

                driver._turn = count
                publisher.publish("e", 1)
                while not turns:
                    await asyncio.sleep(0)
                for _ in range(100):
                    await asyncio.sleep(0)
                event = await consumer.receive(WAIT * 1000)
                assert event is not None
        return turns

    assert asyncio.run(main()) < 10
    context.term()


# signals


@contextmanager
def every_call_interrupted_once(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    """Each first call of these functions is interrupted by a signal, and so is every second one then."""
    interrupted = set()

    def interrupt(kind: Any, name: str) -> None:
        function = getattr(kind, name)
        counts = [0]

        def call(*args: Any, **kwargs: Any) -> Any:
            counts[0] += 1
            if counts[0] % 2:
                interrupted.add(name)
                raise zmq.error.InterruptedSystemCall(errno.EINTR)
            return function(*args, **kwargs)

        patch.setattr(kind, name, call)

    with monkeypatch.context() as patch:
        interrupt(zmq.Context, "socket")
        for name in ("bind", "connect", "monitor"):
            interrupt(zmq.Socket, name)
        yield interrupted


@pytest.mark.parametrize("transport", ["tcp", "inproc", "ipc"])
def test_signals_do_not_disturb_an_opening(monkeypatch: pytest.MonkeyPatch, transport: str, ipc: str) -> None:
    address = {"tcp": "tcp://127.0.0.1:*", "inproc": "inproc://signals", "ipc": ipc}[transport]
    with every_call_interrupted_once(monkeypatch) as interrupted:
        with RunningServer(address) as server:
            with SyncZMQClient("c", SERVER_ID, access_point=server.address) as client:
                response = client.execute("", "", "echo", SerializableData(5))
                assert response is not None
                assert response.result() == 5

            async def main() -> Any:
                async with AsyncZMQClient("d", SERVER_ID, access_point=server.address) as client:
                    response = await client.async_execute("", "", "echo", SerializableData(6))
                    assert response is not None
                    return response.result()

            assert asyncio.run(main()) == 6
        with EventPublisher("p", access_point="TCP") as publisher:
            EventConsumer("c", "e", publisher.socket_address).exit()
            AsyncEventConsumer("c", "e", publisher.socket_address).exit()
    assert interrupted == {"socket", "bind", "connect", "monitor"}


# who can connect


@pytest.mark.parametrize("kind", ["server", "publisher"])
@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("tcp://0.0.0.0:*", True),
        ("tcp://*:*", True),
        ("tcp://127.0.0.1:*", False),
        ("TCP", False),
        ("INPROC", False),
        ("IPC", False),
    ],
)
@pytest.mark.parametrize("keys", [False, True], ids=["plain", "CURVE"])
def test_a_broker_that_strangers_can_reach_is_warned_about(
    kind: str, address: str, told: bool, keys: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    curve = CurveServer(curve_keys()[1]) if keys else None
    if kind == "server":
        AsyncZMQServer(id="reach", access_point=address, curve=curve).exit()
    else:
        EventPublisher("reach", access_point=address, curve=curve).exit()
    warned = [record.getMessage() for record in caplog.records if record.name == "packetwire"]
    assert len(warned) == (told and not keys)
    assert all(f"{address}: whoever reaches this address" in text for text in warned)


@pytest.mark.skipif(
    zmq.pyzmq_version_info()[:2] == (26, 0), reason="its libzmq crashes in whoever makes a long subscription"
)
def test_publishing_takes_no_long_frames_in() -> None:
    """To a publisher come only subscriptions: who sends it something longer is disconnected."""
    context: Any = zmq.Context()
    with EventPublisher("p", context, "tcp://127.0.0.1:*") as publisher:
        assert publisher.socket is not None
        assert publisher.socket.maxmsgsize == 65536
        monitor = publisher.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        hostile = context.socket(zmq.SUB)
        hostile.connect(publisher.socket_address)
        hostile.subscribe(bytes(100_000))
        assert monitor.poll(WAIT * 1000)
        publisher.socket.disable_monitor()
        monitor.close(0)
        hostile.close(0)
        publisher.register("e")
        with EventConsumer("c", "e", publisher.socket_address) as consumer:
            consumer.subscribe()
            while (event := consumer.receive(10)) is None:
                publisher.publish("e", 5)
            assert event.value() == 5
    context.term()


# times


@pytest.mark.parametrize("face", ["threads", "asyncio"])
def test_the_times_of_consumers(face: str) -> None:
    with EventPublisher("p", access_point="INPROC") as publisher:
        publisher.register("e")
        kind = EventConsumer if face == "threads" else AsyncEventConsumer
        with kind("c", "e", publisher.socket_address) as consumer:

            def receive(timeout: Any) -> Any:
                if isinstance(consumer, EventConsumer):
                    return consumer.receive(timeout)

                async def main() -> Any:
                    return await consumer.receive(timeout)

                return asyncio.run(main())

            for timeout in (0, -1, -1000, float("-inf")):
                assert receive(timeout) is None
            for bad, error in (("5", TypeError), (float("nan"), ValueError)):
                with pytest.raises(error, match="timeout must be a number of"):
                    receive(bad)
            for timeout in (float("inf"), 1e15, 10**400):
                later = threading.Timer(0.05, publisher.publish, ["e", 5])
                later.start()
                assert receive(timeout).value() == 5
                later.join()


# what was sent


@pytest.mark.parametrize("turns", [pytest.param(3, id="3 times"), pytest.param(20, marks=pytest.mark.long)])
@pytest.mark.parametrize("transport", ["tcp", "ipc"])
def test_what_was_published_leaves_though_the_publisher_closes(turns: int, transport: str, ipc: str) -> None:
    for _ in range(turns):
        address = ipc if transport == "ipc" else "tcp://127.0.0.1:*"
        with EventPublisher("p", access_point=address) as publisher:
            publisher.register("e")
            consumer = EventConsumer("c", "e", publisher.socket_address)
            consumer.subscribe()
            while consumer.receive(10) is None:
                publisher.publish("e", b"first")

            def read(consumer: Any = consumer) -> list[int]:
                found = []
                while (event := consumer.receive(3000)) is not None:
                    if len(event.value()) > 5:
                        found.append(event.value()[0])
                        if found[-1] == 89:
                            break
                return found

            reading = Running(read)
            for number in range(90):
                publisher.publish("e", bytes([number]) * 100_000)
        assert reading.result() == list(range(90))
        consumer.exit()


@contextmanager
def few_descriptors(left: int) -> Iterator[None]:
    """With so many to open, and no more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/dev/fd")) + 50, hard))
    try:
        with suppress(OSError):
            while True:
                opened.append(os.open(os.devnull, os.O_RDONLY))
        for _ in range(left):
            os.close(opened.pop())
        yield
    finally:
        for fd in opened:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("left", [0, 1, 5, 10])
def test_no_descriptors_are_left(left: int) -> None:
    """ZMQ's own threads would end the process; so there is an error before, and nothing of it stays."""
    context: Any = zmq.asyncio.Context()
    opened = set(os.listdir("/dev/fd"))  # ZMQ may still be closing some of these, of earlier tests
    with few_descriptors(left):
        for make in (
            lambda: AsyncZMQServer(id="s", context=context, access_point="inproc://s"),
            lambda: SyncZMQClient("c", "s", context, "inproc://s", handshake=False),
            lambda: AsyncZMQClient("c", "s", context, "inproc://s", handshake=False),
            lambda: EventPublisher("p", context, "inproc://p"),
            lambda: EventConsumer("c", "e", "inproc://p", context),
            lambda: AsyncEventConsumer("c", "e", "inproc://p", context),
        ):
            with pytest.raises(OSError, match="Too many open files"):
                make()
    context.term()
    assert set(os.listdir("/dev/fd")) <= opened


@pytest.mark.parametrize("clients", [None, []], ids=["anybody with the key", "nobody"])
def test_a_stranger_gets_no_frame_in_where_there_are_keys(clients: Any) -> None:
    """Neither a plain peer, nor one that sends frames right behind a greeting: its link is dropped."""
    with RunningServer("tcp://127.0.0.1:*", curve=CurveServer(curve_keys()[1], clients)) as server:
        host, port = server.address.removeprefix("tcp://").split(":")
        with create_connection((host, int(port)), WAIT) as stranger, suppress(ConnectionError):
            stranger.sendall(b"\xff" + bytes(8) + b"\x7f\3\1NULL" + bytes(48))
            stranger.sendall(b"\4\x1a\5READY\x0bSocket-Type\0\0\0\6DEALER" + b"\1\0" * 10_000)
            while stranger.recv(1000):
                pass  # its greeting, and then the end
        asked = zmq.Context.instance().socket(zmq.DEALER)
        asked.linger = 0
        monitor = asked.get_monitor_socket(zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL)
        asked.connect(server.address)
        with suppress(zmq.Again):  # it may have been turned away by now, and then it has nobody to send to
            asked.send_multipart([b"", b"{}", b"", b""], zmq.NOBLOCK)
        assert monitor.poll(WAIT * 1000)
        asked.disable_monitor()
        monitor.close(0)
        asked.close()
        assert server.in_loop(lambda: server.server.core.refused) == server.asked == 0

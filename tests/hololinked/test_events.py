"""Events: who gets which, timeouts, interrupts, consumers that are too slow."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import zmq

from packetwire.errors import ConnectionEnded, LimitExceeded, LocalProtocolError
from packetwire.hololinked import (
    AsyncEventConsumer,
    BreakLoop,
    EventConsumer,
    EventMessage,
    EventPublisher,
    PayloadError,
    PreserializedData,
    SerializableData,
)

from .running import WAIT

pytestmark = pytest.mark.timeout(110)

EVENT = "thing/event"


class SyncListener:
    """An `EventConsumer`."""

    kind: Any = EventConsumer

    def __init__(self, address: str, event_id: str = EVENT, **options: Any) -> None:
        self.consumer: Any = self.kind("consumer", event_id, address, **options)

    def receive(self, timeout: float | None = WAIT * 1000, **options: Any) -> Any:
        return self.consumer.receive(timeout, **options)

    def interrupt(self) -> None:
        self.consumer.interrupt()

    def close(self) -> None:
        self.consumer.exit()


class AsyncListener(SyncListener):
    """An `AsyncEventConsumer`, in a loop of its own."""

    kind = AsyncEventConsumer

    def __init__(self, address: str, event_id: str = EVENT, **options: Any) -> None:
        self.runner = asyncio.Runner()
        super().__init__(address, event_id, **options)

    def receive(self, timeout: float | None = WAIT * 1000, **options: Any) -> Any:
        return self.runner.run(self.consumer.receive(timeout, **options))

    def interrupt(self) -> None:
        self.runner.run(self.consumer.interrupt())

    def close(self) -> None:
        super().close()
        self.runner.close()


Listen = Callable[..., Any]


@pytest.fixture(params=[SyncListener, AsyncListener], ids=["sync", "async"])
def listen(request: pytest.FixtureRequest) -> Iterator[Listen]:
    """Makes listeners of one kind, and closes them."""
    made = []

    def make(*arguments: Any, **options: Any) -> Any:
        listener = request.param(*arguments, **options)
        made.append(listener)
        return listener

    yield make
    for listener in made:
        listener.close()


@pytest.fixture
def publisher(address: str) -> Iterator[EventPublisher]:
    with EventPublisher("publisher", access_point=address) as publisher:
        publisher.register(EVENT)
        publisher.register("sync")
        yield publisher


def await_subscription(publisher: EventPublisher, listener: Any, event_id: str = EVENT) -> None:
    """Nobody tells a publisher who has subscribed: publish until something arrives, then receive the rest."""
    listener.consumer.subscribe()
    count = 0
    while True:
        count += 1
        publisher.publish(event_id, ["sync", count])
        event = listener.receive(20)
        if event is not None:
            break
    while event.value() != ["sync", count]:
        event = listener.receive()


def test_events(publisher: EventPublisher, listen: Listen) -> None:
    listener = listen(publisher.socket_address)
    await_subscription(publisher, listener)
    values = [
        {"é": [1, None]},
        5,
        None,
        b"\0\xff",
        ("both", b"x"),
        SerializableData("text", content_type="text/plain"),
    ]
    for value in [*values, PreserializedData(b"x", "image/png")]:
        assert publisher.publish(EVENT, value)
    got = [listener.receive() for _ in range(len(values) + 1)]
    assert [each.value() for each in got] == [*values[:5], "text", b"x"]
    assert [each.preserialized_payload.content_type for each in got[3:]] == [
        "application/octet-stream",
        "application/octet-stream",
        "text/plain",
        "image/png",
    ]
    assert all(isinstance(each, EventMessage) for each in got)
    assert {(each.type, each.event_id, each.sender_id) for each in got} == {("EVENT", EVENT, "publisher")}
    assert publisher.losses == 0


def test_topics_match_exactly(publisher: EventPublisher, listen: Listen) -> None:
    listener = listen(publisher.socket_address)
    await_subscription(publisher, listener)
    for event_id in (EVENT + "/longer", EVENT + "s", "thing", "thing/even"):
        publisher.register(event_id)
        publisher.publish(event_id, "not for you")
    publisher.publish(EVENT, "for you")
    assert listener.receive().value() == "for you"
    assert listener.receive(0) is None
    assert listener.consumer.core.dropped == 0


def test_all_events_of_a_publisher(publisher: EventPublisher, listen: Listen) -> None:
    listener = listen(publisher.socket_address, "")
    await_subscription(publisher, listener)
    publisher.register("other")
    publisher.publish("other", 1)
    publisher.publish(EVENT, 2)
    assert [(each.event_id, each.value()) for each in (listener.receive(), listener.receive())] == [
        ("other", 1),
        (EVENT, 2),
    ]


def test_the_timeout_fires(publisher: EventPublisher, listen: Listen) -> None:
    listener = listen(publisher.socket_address)
    assert listener.receive(30) is None
    assert listener.receive(0) is None
    await_subscription(publisher, listener)
    publisher.publish(EVENT, 5)
    assert listener.receive().value() == 5, "nothing of the timeouts is left"


def test_an_interrupt_is_not_an_event(publisher: EventPublisher, listen: Listen) -> None:
    listener = listen(publisher.socket_address)
    await_subscription(publisher, listener)
    listener.interrupt()
    assert listener.receive(None) is None
    listener.interrupt()
    with pytest.raises(BreakLoop, match="consumer was interrupted"):
        listener.receive(None, raise_interrupt_as_exception=True)
    publisher.publish(EVENT, 5)
    assert listener.receive().value() == 5, "and loses none"


def test_an_interrupt_ends_a_thread_that_waits(ipc: str) -> None:
    with (
        EventPublisher("p", access_point=ipc),
        EventConsumer("c", EVENT, ipc) as consumer,
        ThreadPoolExecutor() as pool,
    ):
        for raises in False, True:
            waiting = pool.submit(consumer.receive, None, raises)
            while not consumer._receiving.locked():
                assert not waiting.done()
            consumer.interrupt()
            if raises:
                with pytest.raises(BreakLoop):
                    waiting.result(WAIT)
            else:
                assert waiting.result(WAIT) is None


def test_an_interrupt_ends_a_task_that_waits(ipc: str) -> None:
    async def program() -> None:
        async with AsyncEventConsumer("c", EVENT, ipc) as consumer:
            waiting = asyncio.ensure_future(consumer.receive(None, raise_interrupt_as_exception=True))
            await asyncio.sleep(0)
            await consumer.interrupt()
            with pytest.raises(BreakLoop):
                await waiting
            waiting = asyncio.ensure_future(consumer.receive(None))
            await asyncio.sleep(0)
            consumer.exit()
            with pytest.raises(ConnectionEnded):
                await waiting
            with pytest.raises(ConnectionEnded):
                await consumer.receive(0)

    asyncio.run(program())


def test_the_exit_ends_a_thread_that_waits(ipc: str) -> None:
    consumer = EventConsumer("c", EVENT, ipc)
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(consumer.receive, None)
        while not consumer._receiving.locked():
            assert not waiting.done()
        consumer.exit()
        with pytest.raises(ConnectionEnded):
            waiting.result(WAIT)
    consumer.exit()


def test_a_publisher_that_sends_nonsense(ipc: str, listen: Listen) -> None:
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.XPUB)
    socket.linger = 0
    socket.rcvtimeo = int(WAIT * 1000)
    socket.bind(ipc)
    listener = listen(ipc, max_message_size=2000)
    listener.consumer.subscribe()
    assert socket.recv() == b"\1" + EVENT.encode()
    good = EventMessage.craft_from_arguments(EVENT, "p", payload=SerializableData(5)).byte_array
    other = EventMessage.craft_from_arguments("other", "p").byte_array
    topic = EVENT.encode()
    for frames in ([topic], good[:4], [*good, b""], [topic, b"", b"{", b"", b""], [topic, *other[1:]]):
        socket.send_multipart(frames)
    socket.send_multipart([*good[:4], b"x" * 2000])
    socket.send_multipart([topic, *good[1:3], b"{", b""])
    socket.send_multipart(good)
    with pytest.raises(PayloadError):
        listener.receive().value()
    assert listener.receive().value() == 5
    assert listener.consumer.core.dropped == 6
    socket.close()


def test_what_cannot_be_published(ipc: str) -> None:
    with EventPublisher("p", access_point=ipc, max_message_size=1000) as publisher:
        publisher.register("known")
        with pytest.raises(LocalProtocolError, match="not registered"):
            publisher.publish("unknown", 5)
        with pytest.raises(PayloadError):
            publisher.publish("known", object())
        with pytest.raises(LimitExceeded):
            publisher.publish("known", bytes(1000))
        for name in ("", 5, None):
            with pytest.raises(LocalProtocolError):
                publisher.register(name)
        publisher.unregister("known")
        with pytest.raises(LocalProtocolError):
            publisher.publish("known", 5)
        assert publisher.event_ids == set()
    with pytest.raises(ConnectionEnded):
        publisher.register("known")
        publisher.publish("known")


def test_an_event_may_be_an_object() -> None:
    class Dispatcher:
        _unique_identifier = "thing/measured"

    with EventPublisher("p", access_point="inproc://p") as publisher:
        publisher.register(Dispatcher())
        assert publisher.publish(Dispatcher(), 5)
        assert publisher.event_ids == {"thing/measured"}


def test_a_consumer_that_is_too_slow_loses_events_and_the_others_do_not(ipc: str) -> None:
    slow: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.SUB)
    slow.linger = 0
    slow.rcvhwm = 1
    slow.connect(ipc)
    slow.subscribe(b"")
    slow.rcvtimeo = 20
    with EventPublisher("p", access_point=ipc, max_events=5) as publisher:
        publisher.register(EVENT)
        while True:
            publisher.publish(EVENT, "sync")
            try:
                slow.recv_multipart()
                break
            except zmq.Again:
                pass
        with EventConsumer("c", EVENT, ipc) as consumer:
            listener = SyncListener.__new__(SyncListener)
            listener.consumer = consumer
            await_subscription(publisher, listener)
            taken = 0
            while publisher.losses < 1 or taken % 100:
                publisher.publish(EVENT, [taken, "x" * 10_000])
                event = consumer.receive(WAIT * 1000)
                assert event is not None
                assert event.value()[0] == taken
                taken += 1
    slow.close()


def test_many_threads_publish(publisher: EventPublisher) -> None:
    assert publisher.socket_address
    with EventConsumer("c", EVENT, publisher.socket_address) as consumer:
        listener = SyncListener.__new__(SyncListener)
        listener.consumer = consumer
        await_subscription(publisher, listener)
        threads = [
            threading.Thread(target=lambda name=name: [publisher.publish(EVENT, [name, n]) for n in range(200)])  # type: ignore[misc]
            for name in range(4)
        ]
        for thread in threads:
            thread.start()
        got: dict[int, list[int]] = {}
        for _ in range(800):
            name, number = listener.receive().value()
            got.setdefault(name, []).append(number)
        for thread in threads:
            thread.join()
        assert got == {name: list(range(200)) for name in range(4)}

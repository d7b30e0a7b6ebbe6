"""Many clients of both kinds while events are published: nothing lost, nothing mixed up."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from packetwire.hololinked import (
    AsyncEventConsumer,
    AsyncZMQClient,
    EventConsumer,
    EventPublisher,
    SerializableData,
    ServerExecutionContext,
    SyncZMQClient,
)

from .running import SERVER_ID, WAIT, RunningServer

EVENT = "load/event"
PATIENT = ServerExecutionContext(WAIT, WAIT)
LAST = "last"


def sync_client(address: str, name: str, requests: int) -> None:
    with SyncZMQClient(name, SERVER_ID, access_point=address) as client:
        for number in range(requests):
            value = SerializableData([name, number])
            response = client.execute(name, "o", "echo", value, server_execution_context=PATIENT)
            assert response is not None
            assert response.result() == [name, number]
        assert len(client.core) == 0
        assert client.core.dropped == 0


async def async_client(address: str, name: str, requests: int) -> None:
    async with AsyncZMQClient(name, SERVER_ID, access_point=address) as client:
        for number in range(requests):
            value = SerializableData([name, number])
            response = await client.async_execute(name, "o", "echo", value, server_execution_context=PATIENT)
            assert response is not None
            assert response.result() == [name, number]
        assert len(client.core) == 0
        assert client.core.dropped == 0


async def async_clients(address: str, count: int, requests: int) -> None:
    await asyncio.gather(*(async_client(address, f"async {number}", requests) for number in range(count)))


def consume(address: str, ready: threading.Event) -> list[Any]:
    """All events from the first one that came, by a consumer for threads."""
    with EventConsumer("sync consumer", EVENT, address) as consumer:
        got = []
        while True:
            event = consumer.receive(WAIT * 1000)
            assert event is not None
            ready.set()
            if event.value() == LAST:
                return got
            got.append(event.value())


async def async_consume(address: str, ready: threading.Event) -> list[Any]:
    """The same in a loop."""
    async with AsyncEventConsumer("async consumer", EVENT, address) as consumer:
        got = []
        while True:
            event = await consumer.receive(WAIT * 1000)
            assert event is not None
            ready.set()
            if event.value() == LAST:
                return got
            got.append(event.value())


def load(address: str, events_address: str, *, clients: int, requests: int, events: int) -> None:
    with RunningServer(address) as server, EventPublisher("p", access_point=events_address) as publisher:
        assert publisher.socket_address
        publisher.register(EVENT)
        listening = [threading.Event() for _ in range(2)]
        with ThreadPoolExecutor(clients + 4) as pool:
            consumers = [
                pool.submit(consume, publisher.socket_address, listening[0]),
                pool.submit(lambda: asyncio.run(async_consume(publisher.socket_address or "", listening[1]))),
            ]
            while not all(each.wait(0.01) for each in listening):
                publisher.publish(EVENT, "sync")
            asking = [
                pool.submit(sync_client, server.address, f"sync {number}", requests)
                for number in range(clients // 2)
            ]
            asking.append(pool.submit(lambda: asyncio.run(async_clients(server.address, clients // 2, requests))))
            for number in range(events):
                publisher.publish(EVENT, number)
            publisher.publish(EVENT, LAST)
            for each in asking:
                each.result()
            for each in consumers:
                got = [value for value in each.result() if value != "sync"]
                assert got == list(range(events))
        assert publisher.losses == 0
        assert server.asked == clients // 2 * 2 * requests
        core = server.server.core
        assert server.in_loop(lambda: (core.pending, core.refused, core.next_deadline())) == (0, 0, None)
        assert server.server.dropped == 0


@pytest.mark.timeout(110)
def test_ten_clients(ipc: str) -> None:
    load(ipc, "tcp://127.0.0.1:*", clients=10, requests=20, events=500)


@pytest.mark.long
@pytest.mark.timeout(400)
def test_fifty_clients(ipc: str) -> None:
    load("tcp://127.0.0.1:*", ipc, clients=50, requests=1000, events=10_000)

"""Addresses, askers of both kinds, and a check that nothing is left behind."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.leftovers import threads_since

from packetwire.hololinked import AsyncZMQClient, ResponseMessage, SerializableData, SyncZMQClient

from .running import SERVER_ID, WAIT


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    """After the test the threads are what they were; descriptors ZMQ closes in its own time."""
    threads = set(threading.enumerate())
    yield
    assert threads_since(threads) == set()


@pytest.fixture(params=["tcp", "inproc", pytest.param("ipc", marks=pytest.mark.long)])
def address(request: pytest.FixtureRequest) -> str:
    return address_of(request, request.param)


@pytest.fixture
def ipc(request: pytest.FixtureRequest) -> str:
    return address_of(request, "ipc")


def address_of(request: pytest.FixtureRequest, transport: str) -> str:
    if transport == "ipc":
        return f"ipc://{request.getfixturevalue('tmp_path')}/s.ipc"
    return "tcp://127.0.0.1:*" if transport == "tcp" else f"inproc://{request.node.name}"


class SyncAsker:
    """A `SyncZMQClient`."""

    def __init__(self, address: str, name: str = "client", **options: Any) -> None:
        options = {"handshake_timeout": WAIT * 1000} | options
        self.client: Any = SyncZMQClient(name, SERVER_ID, access_point=address, **options)

    def execute(self, operation: str, value: Any = None, **options: Any) -> ResponseMessage:
        return self.client.execute("thing", "object", operation, SerializableData(value), **options)  # type: ignore[no-any-return]

    def send(self, operation: str, value: Any = None, **options: Any) -> str:
        return self.client.send_request("thing", "object", operation, SerializableData(value), **options)  # type: ignore[no-any-return]

    def receive(self, message_id: str, timeout: float | None = None) -> ResponseMessage:
        return self.client.recv_response(message_id, timeout)  # type: ignore[no-any-return]

    def handshake(self) -> None:
        self.client.handshake(WAIT * 1000)

    def send_exit(self) -> ResponseMessage:
        return self.client.send_exit()  # type: ignore[no-any-return]

    def close(self) -> None:
        self.client.exit()


class AsyncAsker(SyncAsker):
    """An `AsyncZMQClient`, in a loop of its own."""

    def __init__(self, address: str, name: str = "client", **options: Any) -> None:
        options = {"handshake_timeout": WAIT * 1000} | options
        self.runner = asyncio.Runner()
        self.client = AsyncZMQClient(name, SERVER_ID, access_point=address, **options)
        try:
            self.runner.run(self.client.handshake_complete())
        except BaseException:
            self.close()
            raise

    def execute(self, operation: str, value: Any = None, **options: Any) -> ResponseMessage:
        return self.runner.run(  # type: ignore[no-any-return]
            self.client.async_execute("thing", "object", operation, SerializableData(value), **options)
        )

    def send(self, operation: str, value: Any = None, **options: Any) -> str:
        return self.runner.run(  # type: ignore[no-any-return]
            self.client.async_send_request("thing", "object", operation, SerializableData(value), **options)
        )

    def receive(self, message_id: str, timeout: float | None = None) -> ResponseMessage:
        return self.runner.run(self.client.async_recv_response(message_id, timeout))  # type: ignore[no-any-return]

    def handshake(self) -> None:
        async def both() -> None:
            self.client.handshake(WAIT * 1000)
            await self.client.handshake_complete()

        self.runner.run(both())

    def send_exit(self) -> ResponseMessage:
        return self.runner.run(self.client.async_send_exit())  # type: ignore[no-any-return]

    def close(self) -> None:
        self.client.exit()
        self.runner.close()


Connect = Callable[..., Any]


@pytest.fixture(params=[SyncAsker, AsyncAsker], ids=["sync", "async"])
def connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    """Makes askers of one kind, and closes them."""
    made = []

    def make(*arguments: Any, **options: Any) -> Any:
        asker = request.param(*arguments, **options)
        made.append(asker)
        return asker

    yield make
    for asker in made:
        asker.close()

"""One end of an echo: `serve`, `sync`, `async` or `mixed`, of packetwire's brokers, of hololinked's, or of neither.

Each runs on its own interpreter. A client prints the requests per second of each block, one for each line of its
input, which says how many requests. `async 8` stands for eight clients in one loop, `mixed 25` for 25 in one loop
and 25 more that have a thread each.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

SERVER_ID = "bench"
VALUE = {"value": 12.5, "unit": "mm"}


class Ours:
    """packetwire."""

    def __init__(self) -> None:
        from packetwire import hololinked

        self.brokers = self.messages = hololinked

    async def serve(self, address: str) -> None:
        async with self.brokers.AsyncZMQServer(id=SERVER_ID, access_point=address) as server:
            await server.serve(lambda request: request.payload.deserialize())


class Theirs:
    """hololinked, as its own servers use the brokers."""

    def __init__(self) -> None:
        from hololinked.core.zmq import brokers, message

        self.brokers: Any = brokers
        self.messages: Any = message

    async def serve(self, address: str) -> None:
        server = self.brokers.AsyncZMQServer(
            id=SERVER_ID, access_point=address, poll_timeout=1000, logger=logging.getLogger("bench")
        )
        while True:
            for request in await server.poll_requests():
                payload = self.messages.SerializableData(request.body[0].deserialize())
                await server.async_send_response(request, payload)


def client(whose: Any, kind: str, name: str, address: str) -> Any:
    kinds = {"sync": "SyncZMQClient", "async": "AsyncZMQClient"}
    return getattr(whose.brokers, kinds[kind])(
        name, SERVER_ID, access_point=address, logger=logging.getLogger("bench")
    )


def ask_one(whose: Any, asking: Any, count: int) -> None:
    for _ in range(count):
        response = asking.execute("thing", "object", "echo", whose.messages.SerializableData(VALUE))
        assert response.payload.deserialize() == VALUE


async def ask_one_async(whose: Any, asking: Any, count: int) -> None:
    for _ in range(count):
        response = await asking.async_execute("thing", "object", "echo", whose.messages.SerializableData(VALUE))
        assert response.payload.deserialize() == VALUE


def ask(whose: Any, address: str) -> None:
    """Requests one after the other."""
    asking = client(whose, "sync", f"sync client of process {os.getpid()}", address)
    for line in sys.stdin:
        count = int(line)
        began = time.perf_counter()
        ask_one(whose, asking, count)
        print_rate(count, began)


async def ask_async(whose: Any, address: str, many: int) -> None:
    """Requests of many clients at a time, each one after the other."""
    clients = await async_clients(whose, address, many)
    for line in sys.stdin:
        count = int(line) // many
        began = time.perf_counter()
        await asyncio.gather(*(ask_one_async(whose, each, count) for each in clients))
        print_rate(count * many, began)


async def ask_mixed(whose: Any, address: str, many: int) -> None:
    """Requests of twice as many clients at a time, half of which are asked by threads."""
    loop = asyncio.get_running_loop()
    clients = await async_clients(whose, address, many)
    blocking = [client(whose, "sync", f"sync client {number} of {many}", address) for number in range(many)]
    with ThreadPoolExecutor(many) as threads:
        for line in sys.stdin:
            count = int(line) // (2 * many)
            began = time.perf_counter()
            await asyncio.gather(
                *(loop.run_in_executor(threads, ask_one, whose, each, count) for each in blocking),
                *(ask_one_async(whose, each, count) for each in clients),
            )
            print_rate(count * 2 * many, began)


async def async_clients(whose: Any, address: str, count: int) -> list[Any]:
    clients = []
    for number in range(count):  # one after the other: not all of hololinked's handshakes at a time succeed
        clients.append(client(whose, "async", f"async client {number} of process {os.getpid()}", address))
        await clients[-1].handshake_complete()
    return clients


@contextmanager
def measured(count: int) -> Iterator[None]:
    began = time.perf_counter()
    yield
    print_rate(count, began)


def run_alone(what: str, address: str, many: int) -> None:
    """ZMQ without brokers."""
    import hololinked_alone as alone

    if what == "serve":
        alone.serve(address)
    elif what == "sync":
        alone.ask(address, measured)
    else:
        asyncio.run(alone.ask_async(address, measured, many, many if what == "mixed" else 0))


def print_rate(count: int, began: float) -> None:
    print(json.dumps(count / (time.perf_counter() - began)), flush=True)


def main(who: str, what: str, address: str, many: str = "1") -> None:
    if who == "alone":
        run_alone(what, address, int(many))
        return
    whose: Any = {"ours": Ours, "theirs": Theirs}[who]()
    if what == "serve":
        asyncio.run(whose.serve(address))
    elif what == "sync":
        ask(whose, address)
    else:
        asyncio.run({"async": ask_async, "mixed": ask_mixed}[what](whose, address, int(many)))


if __name__ == "__main__":
    main(*sys.argv[1:])

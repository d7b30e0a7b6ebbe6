"""One end of an echo between brokers: `serve`, `sync` or `async`, of packetwire or of hololinked.

Each runs on its own interpreter. A client prints the requests per second of each block, one for each line of its
input, which says how many requests. `async` stands for several clients in one loop.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from typing import Any

SERVER_ID = "bench"
CLIENTS = 8
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


def ask(whose: Any, address: str) -> None:
    """Requests one after the other."""
    asking = client(whose, "sync", "sync client", address)
    data = whose.messages.SerializableData
    for line in sys.stdin:
        count = int(line)
        began = time.perf_counter()
        for _ in range(count):
            response = asking.execute("thing", "object", "echo", data(VALUE))
            assert response.payload.deserialize() == VALUE
        print(json.dumps(count / (time.perf_counter() - began)), flush=True)


async def ask_async(whose: Any, address: str) -> None:
    """Requests of several clients at a time, each one after the other."""
    clients = [client(whose, "async", f"async client {number}", address) for number in range(CLIENTS)]
    for each in clients:
        await each.handshake_complete()
    data = whose.messages.SerializableData

    async def many(asking: Any, count: int) -> None:
        for _ in range(count):
            response = await asking.async_execute("thing", "object", "echo", data(VALUE))
            assert response.payload.deserialize() == VALUE

    for line in sys.stdin:
        count = int(line) // CLIENTS
        began = time.perf_counter()
        await asyncio.gather(*(many(each, count) for each in clients))
        print(json.dumps(count * CLIENTS / (time.perf_counter() - began)), flush=True)


def main(who: str, what: str, address: str) -> None:
    whose: Any = {"ours": Ours, "theirs": Theirs}[who]()
    if what == "serve":
        asyncio.run(whose.serve(address))
    elif what == "sync":
        ask(whose, address)
    else:
        asyncio.run(ask_async(whose, address))


if __name__ == "__main__":
    main(*sys.argv[1:])

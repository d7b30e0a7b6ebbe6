"""The system starts no more threads: what is opened over ZMQ leaves nothing behind, which the conftest checks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import zmq

from connections.test_no_threads_left import threads_allowed
from packetwire import AsyncPacketConnection, PacketConnection, aserve, serve
from packetwire.streams.zmqrouter import ZmqListener
from packetwire.zmqpackets import PacketClient, PacketWorker

from .conftest import echo

pytestmark = pytest.mark.timeout(60)

ENDPOINT = "inproc://packetwire-test"
ANY_PORT = "tcp://127.0.0.1:*"

KINDS: dict[str, Callable[[], Any]] = {
    "client": lambda: PacketClient(ENDPOINT, timeout=0.1, attempts=1),
    "worker": lambda: PacketWorker(ENDPOINT, echo, handlers=3),
    "listener": lambda: ZmqListener(ANY_PORT),
    "server": lambda: serve(f"zmq+router:{ANY_PORT}", PacketConnection, drain_timeout=0.1),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_cannot_be_opened_leaves_nothing(kind: str) -> None:
    with zmq.Context.instance().socket(zmq.ROUTER) as other:
        if kind in ("client", "worker"):
            other.bind(ENDPOINT)
        for count in range(6):
            opened = None
            with threads_allowed(count), suppress(RuntimeError):
                opened = KINDS[kind]()
            if opened is None:
                continue
            if kind == "server":
                with opened:
                    pass
            else:
                opened.close()


def test_a_server_in_a_loop_closes_its_socket(linked_endpoint: str) -> None:
    async def main() -> None:
        async with await aserve(
            f"zmq+router:{linked_endpoint}", AsyncPacketConnection, drain_timeout=0.1
        ) as server:
            allowed.__enter__()
        assert await server.wait(20)

    allowed = threads_allowed(0)
    try:
        asyncio.run(main())
    finally:
        allowed.__exit__(None, None, None)

"""What a client sent is gone when the client is, without the help of the garbage collector."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from packetwire import AsyncPacketConnection, PacketConnection, Responder, aserve, serve
from packetwire.core.packets import Packet

from .test_server import gone

pytestmark = pytest.mark.timeout(60)

MIB = 1 << 20
REQUESTS = 128
"""Several times as many as begin as tasks in one turn of the loop."""


def request(tag: int, size: int) -> bytes:
    return bytes(Packet(is_request=True, channel=0, tag=tag, flags=0, rq_type=1, payload=bytes(size)))


def requests() -> bytes:
    """8 MiB of requests."""
    return b"".join(request(tag, 8 * MIB // REQUESTS) for tag in range(2, 2 + REQUESTS))


def partial_request() -> bytes:
    """All of a request of 12 MiB but its last byte."""
    return request(2, 12 * MIB)[:-1]


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextmanager
def holding_little() -> Iterator[None]:
    """In the end less than 1 MiB is held of what was allocated meanwhile."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        yield
        assert tracemalloc.get_traced_memory()[0] - before < MIB
    finally:
        tracemalloc.stop()


def send_and_vanish(path: str, sent: bytes) -> None:
    """As a client that is killed."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        client.sendall(sent)


async def waits(rq_type, flags, payload):
    await asyncio.Event().wait()


async def waits_holding_much(rq_type, flags, payload):
    held = payload[1:]
    await asyncio.Event().wait()
    return held


def fails(rq_type, flags, payload):
    raise RuntimeError("no")


def defers_to_a_future(rq_type, flags, payload):
    return asyncio.get_running_loop().create_future()


_kept: list[Responder] = []


def defers_to_a_responder(rq_type, flags, payload):
    _kept.append(Responder())
    return _kept[-1]


@pytest.fixture(autouse=True)
def _nothing_is_kept_by_the_tests() -> Iterator[None]:
    logging.disable()  # pytest keeps records, and these their tracebacks
    yield
    logging.disable(logging.NOTSET)
    _kept.clear()


CASES = {
    "coroutines": (waits, {}),
    "coroutines that hold much": (waits_holding_much, {}),
    "handlers that raise, in workers": (fails, {}),
    "handlers that raise, inline": (fails, {"handlers": "inline"}),
    "futures that are never done": (defers_to_a_future, {"handlers": "inline"}),
    "responders that are kept": (defers_to_a_responder, {}),
    "responders that are kept, inline": (defers_to_a_responder, {"handlers": "inline"}),
}


SENT = {"requests": requests, "a partial request": partial_request}


@pytest.mark.parametrize(
    ("case", "sent"), [*((case, "requests") for case in CASES), ("coroutines", "a partial request")]
)
def test_nothing_is_left_of_a_client_that_is_gone(run, tmp_path, case, sent, no_collector):
    handler, settings = CASES[case]

    async def main():
        def service(stream):
            return AsyncPacketConnection(stream, request_handler=handler, close_timeout=0.2, **settings)

        async with await aserve(f"unix:{tmp_path}/socket", service) as server:
            octets = SENT[sent]()
            with holding_little():
                for _ in range(3):
                    await asyncio.to_thread(send_and_vanish, str(tmp_path / "socket"), octets)
                    await gone(server)

    run(main)


def test_nothing_is_left_of_handlers_that_are_cancelled_before_their_first_step(run, tmp_path, no_collector):
    """All requests of a client are read at once, and some begin in the turn of the loop that sees it leave."""

    async def main():
        def service(stream):
            return AsyncPacketConnection(stream, request_handler=waits, close_timeout=0.2)

        async with await aserve(f"unix:{tmp_path}/socket", service) as server:
            sent = b"".join(request(tag, 400) for tag in range(2, 122))
            with holding_little():
                for _ in range(35):  # each leaves some 28 KB to the collector; its requests are 48 KB
                    send_and_vanish(str(tmp_path / "socket"), sent)
                    await asyncio.sleep(0)
                    await gone(server)

    run(main)


@pytest.mark.parametrize(
    ("handler", "sent"),
    [(fails, "requests"), (defers_to_a_responder, "requests"), (fails, "a partial request")],
)
def test_the_same_with_threads(tmp_path, handler, sent, no_collector):
    def service(stream):
        return PacketConnection(stream, request_handler=handler, close_timeout=0.2)

    octets = SENT[sent]()
    with serve(f"unix:{tmp_path}/socket", service) as server, holding_little():
        for _ in range(3):
            send_and_vanish(str(tmp_path / "socket"), octets)
            while server.connections:
                time.sleep(0.001)

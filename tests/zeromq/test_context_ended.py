"""The program ends the context in another thread: all who wait are told, and closing is as always."""

from __future__ import annotations

import asyncio
import logging
import threading
import traceback
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import zmq

from packetwire import AsyncPacketConnection, ConnectionEnded, PacketConnection, Responder, serve
from packetwire.fbsp import (
    AgentDescriptor,
    AsyncService,
    AsyncServiceClient,
    ButlerInterface,
    Service,
    ServiceClient,
    operation,
)
from packetwire.messaging import ChannelError, Protocol
from packetwire.messaging.zmq import PairChannel, RouterChannel
from packetwire.streams.zmq import open_dealer, open_pair
from packetwire.streams.zmqrouter import ZmqListener
from packetwire.zmqpackets import PacketClient

from .conftest import WAIT, accepted, readable
from .packet_faces import FACES, Face, end_loops

pytestmark = pytest.mark.timeout(60)

REASON = "the program has ended the ZMQ context"
AGENT = AgentDescriptor(uuid.UUID(int=1), "tester", "1", uuid.UUID(int=2), "test")


class Waits(ButlerInterface):
    FOREVER = 1

    @classmethod
    def get_uid(cls) -> uuid.UUID:
        return uuid.UUID(int=99)


class Patience(Service):
    agent = AGENT

    @operation(Waits.FOREVER)
    def wait(self, request: Any) -> bytes:
        if not self.released.wait(WAIT):
            raise TimeoutError
        return b""

    released = threading.Event()


class AsyncPatience(AsyncService):
    agent = AGENT

    @operation(Waits.FOREVER)
    async def wait(self, request: Any) -> bytes:
        await asyncio.Event().wait()
        return b""


def told(error: BaseException | None) -> bool:
    """Whether the reason is in the error, or in what caused it."""
    return error is not None and REASON in "".join(traceback.format_exception(error))


class Ending:
    """A context, and the thread that ends it."""

    def __init__(self, how: str) -> None:
        self.context: Any = zmq.Context()
        self._thread = threading.Thread(target=getattr(self.context, how), daemon=True)

    def begin(self) -> None:
        self._thread.start()

    def is_over(self) -> bool:
        self._thread.join(WAIT)
        return not self._thread.is_alive()


@pytest.fixture(params=["term", "destroy"])
def ending(request: pytest.FixtureRequest) -> Iterator[Ending]:
    begun = Ending(request.param)
    yield begun
    assert begun.is_over(), "a socket is still open"


@contextmanager
def silent_server(endpoint: str, *, pair: bool = False) -> Iterator[str]:
    """Accepts clients, and never answers."""

    def service(stream: Any) -> PacketConnection:
        return PacketConnection(stream, request_handler=lambda *_: Responder(), close_timeout=0.0)

    with serve(f"zmq+{'pair' if pair else 'router'}:{endpoint}", service, drain_timeout=0.0) as server:
        yield server.address.endpoint  # type: ignore[attr-defined]


OPENERS = pytest.mark.parametrize("opener", [open_dealer, open_pair])


@OPENERS
def test_a_connection(ending: Ending, opener: Any, linked_endpoint: str) -> None:
    with silent_server(linked_endpoint, pair=opener is open_pair) as endpoint:
        conn = PacketConnection(lambda: opener(endpoint, context=ending.context))
        conn.open()
        waiting = conn.submit(1)
        ending.begin()
        with pytest.raises(ConnectionEnded) as caught:
            waiting(timeout=WAIT)
        assert told(caught.value)
        assert told(conn.ended)
        assert ending.is_over(), "although nobody has called close"
        with pytest.raises(ConnectionEnded):
            conn.submit(1)
        conn.close()
        conn.close()


@OPENERS
def test_a_connection_that_is_closed_at_the_same_moment(ending: Ending, opener: Any, linked_endpoint: str) -> None:
    with silent_server(linked_endpoint, pair=opener is open_pair) as endpoint:
        conn = PacketConnection(lambda: opener(endpoint, context=ending.context), close_timeout=0.0)
        conn.open()
        conn.submit(1)
        ending.begin()
        conn.close()
        assert ending.is_over()


@OPENERS
def test_an_asyncio_connection(ending: Ending, opener: Any, linked_endpoint: str) -> None:
    async def main(endpoint: str) -> None:
        async with AsyncPacketConnection(lambda: opener(endpoint, context=ending.context)) as conn:
            waiting = conn.submit(1)
            await conn.drain()
            ending.begin()
            with pytest.raises(ConnectionEnded) as caught:
                await waiting
            assert told(caught.value)
            await conn.close()
        assert ending.is_over()

    with silent_server(linked_endpoint, pair=opener is open_pair) as endpoint:
        asyncio.run(main(endpoint))


@pytest.mark.parametrize("opener", [open_dealer, open_pair], ids=["router", "pair"])
def test_a_listener_and_its_streams(ending: Ending, opener: Any, linked_endpoint: str) -> None:
    listener = ZmqListener(linked_endpoint, pair=opener is open_pair, context=ending.context)
    with (
        PacketConnection(
            lambda: opener(listener.endpoint), request_handler=lambda *_: Responder(), close_timeout=0.0
        ) as client,
        PacketConnection(accepted(listener)) as conn,
    ):
        waiting = conn.submit(1)
        ending.begin()
        with pytest.raises(ConnectionEnded) as caught:
            waiting(timeout=WAIT)
        assert told(caught.value)
        assert ending.is_over()
        assert readable(listener)
        with pytest.raises(OSError, match=REASON):
            listener.accept()
        conn.close()
        assert client.join_recv(WAIT)
    listener.close()
    listener.close()


def test_who_waits_to_be_accepted(ending: Ending, linked_endpoint: str) -> None:
    listener = ZmqListener(linked_endpoint, context=ending.context)
    with PacketConnection(lambda: open_dealer(listener.endpoint), close_timeout=0.0) as client:
        assert readable(listener)
        ending.begin()
        assert ending.is_over()
        assert client.join_recv(WAIT)
    listener.close()


@pytest.fixture(params=FACES, ids=lambda face: face.name)
def face(request: pytest.FixtureRequest) -> Iterator[Face]:
    yield request.param
    end_loops()


def test_a_client_of_workers(face: Face, ending: Ending, tmp_path: Path) -> None:
    client = face.client(f"ipc://{tmp_path}/nobody", context=ending.context)
    waiting: Future[Any] = client.submit(1)
    ending.begin()
    error = waiting.exception(WAIT)
    assert isinstance(error, ConnectionEnded)
    assert told(error)
    assert ending.is_over()
    with pytest.raises(ConnectionEnded) as caught:
        client.submit(1)
    assert told(caught.value)
    client.close()


def test_a_worker(face: Face, ending: Ending, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    worker = face.worker(f"ipc://{tmp_path}/nobody", lambda *_: b"", context=ending.context)
    with caplog.at_level(logging.ERROR, "packetwire"):
        ending.begin()
        assert worker.join(WAIT)
    assert REASON in caplog.text
    assert len(caplog.records) == 1
    assert ending.is_over()
    worker.close()


def test_a_client_of_a_service(ending: Ending, linked_endpoint: str) -> None:
    Patience.released.clear()
    with Patience() as service:
        address = service.serve(linked_endpoint).address
        client = ServiceClient.connect(address, agent=AGENT, channel={"context": ending.context})
        with client:
            call = client.start(Waits.FOREVER)
            ending.begin()
            with pytest.raises(ConnectionEnded) as caught:
                call.result(WAIT)
            assert told(caught.value)
            assert ending.is_over()
            client.close()
        Patience.released.set()


def test_a_service(ending: Ending, linked_endpoint: str, caplog: pytest.LogCaptureFixture) -> None:
    Patience.released.clear()
    with ExitStack() as opened:
        service = opened.enter_context(Patience())
        address = service.serve(linked_endpoint, context=ending.context).address
        client = opened.enter_context(ServiceClient.connect(address, agent=AGENT))
        call = client.start(Waits.FOREVER, acknowledge=True)
        call.wait_acknowledged(WAIT)
        ending.begin()
        assert ending.is_over()
        with pytest.raises(ConnectionEnded):
            call.result(WAIT)  # its link is gone
        Patience.released.set()
    assert len(caplog.records) < 5


def test_a_client_of_a_service_in_a_loop(ending: Ending, linked_endpoint: str) -> None:
    async def main(address: str) -> None:
        client = AsyncServiceClient.connect(address, agent=AGENT, channel={"context": ending.context})
        async with client:
            call = await client.start(Waits.FOREVER)
            ending.begin()
            with pytest.raises(ConnectionEnded) as caught:
                await call.result(WAIT)
            assert told(caught.value)
            assert await asyncio.to_thread(ending.is_over)

    Patience.released.clear()
    with Patience() as service:
        asyncio.run(main(service.serve(linked_endpoint).address))
        Patience.released.set()


def test_a_service_in_a_loop(ending: Ending, linked_endpoint: str, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with AsyncPatience() as service:
            address = service.serve(linked_endpoint, context=ending.context).address
            async with AsyncServiceClient.connect(address, agent=AGENT) as client:
                call = await client.start(Waits.FOREVER)
                ending.begin()
                assert await asyncio.to_thread(ending.is_over)
                with pytest.raises(ConnectionEnded):
                    await call.result(WAIT)

    asyncio.run(main())
    assert len(caplog.records) < 5


@pytest.mark.parametrize("kind", [RouterChannel, PairChannel])
def test_a_channel_that_is_waited_for(ending: Ending, kind: Any, linked_endpoint: str) -> None:
    channel = kind(Protocol(), context=ending.context)
    channel.bind(linked_endpoint)
    raised: Callable[[], Any] = lambda: channel.receive(int(WAIT * 1000))  # noqa: E731
    waiting: Future[Any] = Future()

    def wait() -> None:
        try:
            waiting.set_result(raised())
        except BaseException as error:
            waiting.set_exception(error)

    thread = threading.Thread(target=wait)
    thread.start()
    ending.begin()
    error = waiting.exception(WAIT)
    thread.join()
    assert isinstance(error, ChannelError)
    assert told(error)
    assert ending.is_over()
    channel.close()
    channel.close()


def test_no_socket_can_be_had_of_a_context_that_was_ended(tmp_path: Path) -> None:
    context: Any = zmq.Context()
    context.term()
    for make in (
        lambda: open_dealer("tcp://127.0.0.1:1", context=context),
        lambda: open_pair("tcp://127.0.0.1:1", context=context),
        lambda: ZmqListener("tcp://127.0.0.1:*", context=context),
        lambda: PacketClient("tcp://127.0.0.1:1", context=context),
    ):
        with pytest.raises(OSError):
            make()

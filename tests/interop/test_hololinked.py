"""Live hololinked 0.3.3, both ways: its brokers and ours, over ipc and tcp."""

from __future__ import annotations

import asyncio
import itertools
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hololinked_process import HololinkedPeer

from hololinked.running import SERVER_ID, WAIT, RunningServer
from packetwire import PeerClosed, RequestTimeout
from packetwire.hololinked import (
    AsyncEventConsumer,
    AsyncZMQClient,
    EventConsumer,
    EventPublisher,
    OperationFailed,
    OperationTimeout,
    PreserializedData,
    SerializableData,
    ServerExecutionContext,
    SyncZMQClient,
)
from packetwire.hololinked.sockets import ipc_path

pytestmark = pytest.mark.timeout(180)

EVENT_ID = "thing/event"


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    """After the test the threads are what they were; descriptors ZMQ closes in its own time."""
    threads = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) - threads == set()


@pytest.fixture(params=["ipc", "tcp"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"ipc://{tmp_path}/server.ipc" if request.param == "ipc" else "tcp://127.0.0.1:*"


class SyncAsker:
    """Our client for threads."""

    def __init__(self, address: str, server_id: str = SERVER_ID) -> None:
        self.client = SyncZMQClient("client", server_id, access_point=address, handshake_timeout=WAIT * 1000)

    def execute(self, operation: str, *arguments: Any, **options: Any) -> Any:
        return self.client.execute("thing", "object", operation, *arguments, **options)

    def send_exit(self, timeout: float) -> Any:
        return self.client.send_exit(timeout)

    def close(self) -> None:
        self.client.exit()


class AsyncAsker:
    """Our client for event loops, in one of its own."""

    def __init__(self, address: str, server_id: str = SERVER_ID) -> None:
        self.runner = asyncio.Runner()
        self.client = AsyncZMQClient("client", server_id, access_point=address, handshake_timeout=WAIT * 1000)
        try:
            self.runner.run(self.client.handshake_complete())
        except BaseException:
            self.close()
            raise

    def execute(self, operation: str, *arguments: Any, **options: Any) -> Any:
        return self.runner.run(self.client.async_execute("thing", "object", operation, *arguments, **options))

    def send_exit(self, timeout: float) -> Any:
        return self.runner.run(self.client.async_send_exit(timeout))

    def close(self) -> None:
        self.client.exit()
        self.runner.close()


@pytest.fixture(params=[SyncAsker, AsyncAsker])
def ask(request: pytest.FixtureRequest) -> Callable[[str], Any]:
    """Makes one of our clients."""
    return request.param


# its server, our clients


@pytest.fixture
def its_server(hololinked: Path, address: str) -> Iterator[HololinkedPeer]:
    with HololinkedPeer(hololinked, "server", address) as peer:
        yield peer


def test_its_server_and_our_clients(its_server: HololinkedPeer, ask: Callable[[str], Any]) -> None:
    asker = ask(its_server.address)
    try:
        response = asker.execute("echo", SerializableData({"é": [1, 2.5, None]}), PreserializedData(b"\0\xff"))
        assert response.result() == ({"é": [1, 2.5, None]}, b"\0\xff")
        assert (response.type, response.sender_id, response.receiver_id) == ("REPLY", SERVER_ID, "client")
        with pytest.raises(OperationFailed, match="^ValueError: no good$") as failure:
            asker.execute("fail", SerializableData("no good")).result()
        assert failure.value.traceback
        with pytest.raises(OperationFailed, match="TypeError: not so"):
            asker.execute("invalid", SerializableData("not so")).result()
        for which in "invokation", "execution":
            with pytest.raises(OperationTimeout, match=which):
                asker.execute("time out", SerializableData(which)).result()
        oneway = ServerExecutionContext(oneway=True)
        assert asker.execute("echo", SerializableData(1), server_execution_context=oneway) is None
        assert asker.execute("count").result() == 1
        with pytest.raises(RequestTimeout, match="did not answer in time"):
            asker.execute("say nothing", timeout=1)
        assert len(asker.client.core) == 0
        assert asker.execute("echo", SerializableData("still here")).result() == "still here"
        with pytest.raises((RequestTimeout, PeerClosed)):
            asker.send_exit(timeout=1)  # it has no answer for that
        assert its_server.ask("wait_end")
    finally:
        asker.close()


def test_a_thing_of_its_and_our_clients(hololinked: Path, ask: Callable[..., Any]) -> None:
    """A whole server of hololinked; both sides find the same file by the server's name."""
    name = f"things {uuid.uuid4()}"
    with HololinkedPeer(hololinked, "things", name) as peer:
        assert peer.address == f"ipc://{ipc_path(name)}"
        asker = ask("IPC", name)
        try:

            def execute(objekt: str, operation: str, value: Any = None) -> Any:
                arguments = "lamp", objekt, operation, SerializableData(value)
                if isinstance(asker, SyncAsker):
                    return asker.client.execute(*arguments)
                return asker.runner.run(asker.client.async_execute(*arguments))

            assert execute("brightness", "readproperty").result() == 1
            assert execute("brightness", "writeproperty", 3).result() is None
            assert execute("double", "invokeaction", {"by": 4}).result() == 12
            with pytest.raises(OperationFailed, match="^ValueError: no bulb$"):
                execute("fail", "invokeaction", {}).result()
        finally:
            asker.close()
            ipc_path(name).unlink()


# our server, its clients


@pytest.mark.parametrize("kind", ["client", "async client"])
def test_our_server_and_its_clients(hololinked: Path, address: str, kind: str) -> None:
    with RunningServer(address, allow_exit=True, running=1) as ours:
        with HololinkedPeer(hololinked, kind, ours.address) as peer:

            def send(
                operation: str,
                value: Any = None,
                octets: str = "",
                times: tuple[float, float] = (5, 5),
                *,
                oneway: bool = False,
            ) -> str:
                return peer.ask("send", operation, value, octets, *times, oneway)

            def execute(*arguments: Any, **options: Any) -> Any:
                return peer.ask("receive", send(*arguments, **options))

            assert peer.ask("handshake") == "HANDSHAKE"
            assert execute("echo", {"é": [1, 2.5, None]}, "\0ÿ") == ["REPLY", {"é": [1, 2.5, None]}, "\0ÿ"]
            kind_of_response, told, _ = execute("fail", "no good")
            assert kind_of_response == "EXCEPTION"
            assert (told["type"], told["message"], told["traceback"]) == (
                "ValueError",
                "no good",
                ["ValueError: no good"],
            )
            kind_of_response, told, _ = execute("invalid", "not so")
            assert (kind_of_response, told["exception"]["message"]) == ("INVALID_MESSAGE", "not so")
            assert execute("sleep", times=(30, 0.1)) == ["TIMEOUT", "execution", ""]
            assert ours.cancelled.wait(WAIT)
            held = send("hold", "at last", times=(30, 30))
            assert execute("echo", "too late", times=(0.1, 30)) == ["TIMEOUT", "invokation", ""]
            ours.let_go()
            assert peer.ask("receive", held) == ["REPLY", "at last", ""]
            send("echo", "by the way", oneway=True)
            assert execute("count") == ["REPLY", 1, ""]
            assert ours.oneway == ["by the way"]
            assert ours.in_loop(lambda: ours.server.core.pending) == 0
            assert peer.ask("receive", peer.ask("exit")) == ["REPLY", None, ""]
            assert ours.ended.wait(WAIT)


def test_an_exit_of_its_that_is_not_allowed(hololinked: Path, address: str) -> None:
    with RunningServer(address) as ours, HololinkedPeer(hololinked, "client", ours.address) as peer:
        kind, told, _ = peer.ask("receive", peer.ask("exit"))
        assert (kind, told["type"]) == ("EXCEPTION", "PermissionError")
        sent = peer.ask("send", "echo", 5, "", 5, 5, False)
        assert peer.ask("receive", sent) == ["REPLY", 5, ""]


# events


@pytest.mark.parametrize("kind", ["consumer", "async consumer"])
def test_our_events_and_its_consumers(hololinked: Path, address: str, kind: str) -> None:
    with EventPublisher("publisher", access_point=address) as publisher, ExitStack() as opened:
        publisher.register(EVENT_ID)
        assert publisher.socket_address
        peer = opened.enter_context(HololinkedPeer(hololinked, kind, publisher.socket_address))
        stop = threading.Event()

        def publish() -> None:
            """Until it has subscribed, which nobody tells us."""
            while not stop.wait(0.02):
                publisher.publish(EVENT_ID, ({"é": 1}, b"\0\xff"))

        thread = threading.Thread(target=publish)
        thread.start()
        try:
            assert peer.ask("receive") == ["EVENT", {"é": 1}, "\0ÿ"]
        finally:
            stop.set()
            thread.join()


@pytest.mark.parametrize("kind", [EventConsumer, AsyncEventConsumer])
def test_its_events_and_our_consumers(hololinked: Path, address: str, kind: Any) -> None:
    with HololinkedPeer(hololinked, "publisher", address) as peer, asyncio.Runner() as runner:
        with kind(f"consumer {uuid.uuid4()}", EVENT_ID, peer.address) as consumer:

            def receive(timeout: float) -> Any:
                event = consumer.receive(timeout)
                return event if kind is EventConsumer else runner.run(event)

            async def first_receive() -> None:
                assert await consumer.receive(0) is None

            if kind is AsyncEventConsumer:
                runner.run(first_receive())
            consumer.subscribe()
            for _ in range(1000):
                peer.ask("publish", EVENT_ID, "hello")
                event = receive(50)
                if event is not None:
                    break
            assert event is not None
            assert (event.type, event.event_id, event.sender_id, event.value()) == (
                "EVENT",
                EVENT_ID,
                "publisher",
                "hello",
            )
            peer.ask("publish", EVENT_ID + "/longer", "not for us")
            peer.ask("publish", EVENT_ID, "numbered", 100)
            values = (event.value() for event in iter(lambda: receive(WAIT * 1000), None))
            assert (
                list(itertools.islice(itertools.dropwhile(lambda value: value == "hello", values), 100))
                == ["numbered"] * 100
            )

"""What no client of ours would send: the server lives on, and answers what can be answered."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import zmq

from packetwire.hololinked import RequestMessage, ResponseMessage, SerializableData, ServerExecutionContext
from packetwire.hololinked.clientcore import ClientCore
from packetwire.hololinked.eventcore import ConsumerCore

from .conftest import AsyncAsker, SyncAsker
from .running import SERVER_ID, WAIT, RunningServer

pytestmark = pytest.mark.timeout(110)


class RawClient:
    """A DEALER, which sends any frames."""

    def __init__(self, address: str, name: bytes = b"hostile") -> None:
        self.socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.routing_id = name
        self.socket.rcvtimeo = self.socket.sndtimeo = int(WAIT * 1000)
        self.socket.connect(address)

    def send(self, *frames: bytes) -> None:
        self.socket.send_multipart(frames)

    def receive(self) -> ResponseMessage:
        return ResponseMessage([b"", *self.socket.recv_multipart()])


def request(operation: str, value: Any = None, sender: str = "hostile", **context: Any) -> list[bytes]:
    message = RequestMessage.craft_from_arguments(
        SERVER_ID, sender, "", "", operation, SerializableData(value), server_execution_context=context
    )
    return message.byte_array[1:]


@pytest.fixture
def server(request: pytest.FixtureRequest, ipc: str) -> Iterator[RunningServer]:
    options = getattr(request, "param", {})
    with RunningServer(ipc, **options) as server:
        yield server


@pytest.fixture
def hostile(server: RunningServer) -> Iterator[RawClient]:
    client = RawClient(server.address)
    yield client
    client.socket.close()


def assert_others_are_served(server: RunningServer) -> None:
    asker = SyncAsker(server.address, "another")
    try:
        assert asker.execute("echo", "as ever").result() == "as ever"
    finally:
        asker.close()


GOOD = request("echo", 5)


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        ([b""], "5 frames, this one 2"),
        ([b"", b"{}"], "5 frames"),
        (GOOD[:3], "5 frames, this one 4"),
        ([*GOOD, b"6"], "5 frames, this one 6"),
        ([b"", *GOOD[1:], *[b"x"] * 1000], "5 frames"),
        ([b"not empty", *GOOD[1:]], "second frame"),
        ([b"", b"{", *GOOD[2:]], "refused"),
        ([b"", b"\xff\xfe", *GOOD[2:]], "refused"),
        ([b"", json.dumps({"messageType": "OPERATION"}).encode(), *GOOD[2:]], "missing required field"),
        ([b"", GOOD[1].replace(b"OPERATION", b"SURPRISE"), *GOOD[2:]], "Invalid enum value"),
        ([b"", GOOD[1].replace(b'Timeout":5', b'Timeout":5' + b"0" * 400), *GOOD[2:]], "Expected `int` <= "),
        ([*GOOD[:2], b"{", b""], "the payload is not application/json"),
        ([*GOOD[:2], b"", b""], "the payload is not application/json"),
        ([b"", GOOD[1].replace(b'Timeout":5', b'Timeout":-1'), *GOOD[2:]], ">= 0"),
        ([b"", GOOD[1].replace(b'invokationTimeout":5', b'invocation_timeout":-1'), *GOOD[2:]], ">= 0"),
        (
            [b"", GOOD[1].replace(b"application/json", b"application/x-pickle"), b"cos\nsystem\n", b""],
            "no serializer",
        ),
    ],
)
def test_it_is_told_what_is_wrong(
    server: RunningServer, hostile: RawClient, frames: list[bytes], reason: str
) -> None:
    hostile.send(*frames)
    response = hostile.receive()
    assert response.type == "INVALID_MESSAGE"
    assert reason in response.payload.deserialize()["exception"]["message"]
    hostile.send(*GOOD)
    assert hostile.receive().result() == 5, "and served as ever"
    assert_others_are_served(server)


def test_a_response_is_no_request(server: RunningServer, hostile: RawClient) -> None:
    """It is dropped without a word, since two servers that answered each other would never end."""
    for kind in ("REPLY", "TIMEOUT", "EXCEPTION", "INVALID_MESSAGE"):
        hostile.send(b"", GOOD[1].replace(b'"OPERATION"', f'"{kind}"'.encode()), *GOOD[2:])
    hostile.send(*GOOD)
    assert hostile.receive().result() == 5, "the only answer"
    assert server.in_loop(lambda: server.server.core.refused) == 4


@pytest.mark.parametrize("name", ["invokationTimeout", "invokation_timeout", "invocation_timeout"])
def test_times_of_zero(server: RunningServer, hostile: RawClient, name: str) -> None:
    """The time to begin is over when the request comes, that of an awaited handler as soon as it waits."""
    header = json.loads(GOOD[1])
    for context, told, asked in (
        ({name: 0}, "invokation", 0),
        ({"executionTimeout": 0}, "execution", 1),
    ):
        header |= {"serverExecutionContext": context, "operation": "hold"}
        hostile.send(b"", json.dumps(header).encode(), *GOOD[2:])
        response = hostile.receive()
        assert (response.type, response.payload.deserialize(), server.asked) == ("TIMEOUT", told, asked)
    hostile.send(*GOOD)
    assert hostile.receive().result() == 5


def test_failing_operations_do_not_fill_the_log(
    server: RunningServer, hostile: RawClient, caplog: pytest.LogCaptureFixture
) -> None:
    """The first of a kind are logged with their tracebacks, then their number."""
    for number in range(300):
        hostile.send(*request("fail", f"for the {number}th time"))
        assert hostile.receive().type == "EXCEPTION"
        hostile.send(*request("unserializable"))
        assert hostile.receive().type == "EXCEPTION"
    told = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len([record for record in told if record.exc_info]) == 6
    assert 6 < len(told) < 12
    assert "operations go on failing and are counted from here on" in caplog.text
    assert "100 more operations failed" in caplog.text
    hostile.send(*request("what nobody knows " + "x" * 10_000))
    assert hostile.receive().type == "EXCEPTION"
    hostile.send(*request("fail_long", "y" * 100_000))
    assert hostile.receive().type == "EXCEPTION"
    assert len(caplog.text) < 200_000
    assert caplog.text.count("y") < 20_000


def test_what_is_dropped_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    client, consumer = ClientCore("c", "s"), ConsumerCore("c", "e")
    for _ in range(100):
        client.receive([b"", b"?"], 0)
        consumer.accept([b"e", b"?"])
    assert (client.dropped, consumer.dropped) == (100, 100)
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 2


def test_messages_of_a_hundred_thousand_frames(server: RunningServer, hostile: RawClient) -> None:
    """Each is refused at its sixth frame; others have their turn between two of them."""
    hostile.socket.sndhwm = 0
    for _ in range(10):
        hostile.send(*[b""] * 100_000)
    assert_others_are_served(server)
    for _ in range(10):
        refused = hostile.receive()
        assert refused.type == "INVALID_MESSAGE"
        assert "5 frames, this one 6" in refused.payload.deserialize()["exception"]["message"]
    hostile.send(*GOOD)
    assert hostile.receive().result() == 5


def test_a_loop_has_its_turn_beside_a_message_of_many_frames(server: RunningServer, hostile: RawClient) -> None:
    turns = [0, 0, 0]

    async def count() -> None:
        while server.server.core.refused < 2:
            await asyncio.sleep(0)
            turns[server.server.core.refused] += 1

    hostile.send(*[b""] * 200_000)
    hostile.send(*[b""] * 7)
    assert asyncio.run_coroutine_threadsafe(count(), server.loop).result(WAIT) is None
    assert turns[1] > 50, "between the refusal of the first and its last frame"


def test_a_server_that_sends_many_frames(ipc: str) -> None:
    """To a client that waits, with a time limit: both kinds of clients keep it, and get what comes behind."""
    router: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.ROUTER)
    router.linger = 0
    router.sndhwm = 0
    router.routing_id = SERVER_ID.encode()
    router.rcvtimeo = int(WAIT * 1000)
    router.bind(ipc)
    context = ServerExecutionContext(WAIT, WAIT)
    for asker_type in (SyncAsker, AsyncAsker):
        asker = asker_type(ipc, asker_type.__name__, handshake=False)
        shaking = threading.Thread(target=asker.handshake)
        shaking.start()
        identity = asker_type.__name__.encode()
        while router.recv_multipart()[0] != identity:
            pass  # what the one before had sent
        handshake = ResponseMessage.craft_from_arguments("client", SERVER_ID, "HANDSHAKE").byte_array[1:]
        router.send_multipart([identity, *handshake])
        shaking.join()
        try:
            message_id = asker.send("echo", 5, server_execution_context=context)
            router.send_multipart([identity, *[b""] * 100_000])
            good = ResponseMessage.craft_from_arguments(
                "client", SERVER_ID, "REPLY", message_id, SerializableData(6)
            )
            router.send_multipart([identity, *good.byte_array[1:]])
            assert asker.receive(message_id).result() == 6
            assert asker.client.core.dropped == 1
        finally:
            asker.close()
    router.close()


def test_an_unknown_key_is_fine(server: RunningServer, hostile: RawClient) -> None:
    header = json.loads(GOOD[1]) | {"tomorrow": {"new": True}}
    header["serverExecutionContext"]["priority"] = 5
    hostile.send(b"", json.dumps(header).encode(), *GOOD[2:])
    assert hostile.receive().result() == 5


def test_the_socket_that_asks_is_answered_whatever_it_calls_itself(
    server: RunningServer, hostile: RawClient
) -> None:
    asker = SyncAsker(server.address, "victim")
    try:
        hostile.send(*request("echo", 5, sender="victim"))
        assert hostile.receive().result() == 5
        assert asker.execute("echo", 6).result() == 6
        assert asker.client.core.dropped == 0, "the other one never saw it"
    finally:
        asker.close()


@pytest.mark.parametrize("server", [{"max_message_size": 10_000}], indirect=True)
def test_a_message_that_is_too_long(server: RunningServer, hostile: RawClient) -> None:
    hostile.send(*request("echo", "x" * 11_000))
    assert "at most 10000 bytes" in hostile.receive().payload.deserialize()["exception"]["message"]
    hostile.send(*request("echo", "x" * 100_000))  # ZMQ drops the link, and makes it again
    assert_others_are_served(server)


@pytest.mark.parametrize("server", [{"max_pending_per_client": 100, "running": 200}], indirect=True)
def test_a_flood_from_one_client(server: RunningServer, hostile: RawClient) -> None:
    times = {"invokationTimeout": WAIT, "executionTimeout": WAIT}
    for _ in range(500):
        hostile.send(*request("hold", **times))
    refused = [hostile.receive() for _ in range(400)]
    assert {each.type for each in refused} == {"EXCEPTION"}
    assert {each.payload.deserialize()["type"] for each in refused} == {"LimitExceeded"}
    assert_others_are_served(server)
    assert server.in_loop(lambda: server.server.core.pending) == 100
    server.let_go()
    assert {hostile.receive().type for _ in range(100)} == {"REPLY"}
    assert server.in_loop(lambda: server.server.core.pending) == 0


@pytest.mark.parametrize("server", [{"max_pending_per_client": 10}], indirect=True)
def test_a_client_that_does_not_read(server: RunningServer, hostile: RawClient) -> None:
    """What it does not take is dropped at some time, and nobody waits for it."""
    hostile.socket.rcvhwm = 1
    payload = "x" * 20_000
    for _ in range(1500):
        hostile.send(*request("echo", payload))
    assert_others_are_served(server)


@pytest.mark.parametrize("server", [{"max_clients": 3}], indirect=True)
def test_too_many_clients(server: RunningServer) -> None:
    clients = [RawClient(server.address, b"client %d" % number) for number in range(4)]
    try:
        for client in clients[:3]:
            client.send(*request("hold", executionTimeout=WAIT))
        while server.asked < 3:
            pass
        clients[3].send(*request("echo", 5))
        assert "requests of 3 clients" in clients[3].receive().payload.deserialize()["message"]
        server.let_go()
        for client in clients[:3]:
            assert client.receive().type == "REPLY"
        clients[3].send(*request("echo", 5))
        assert clients[3].receive().result() == 5
    finally:
        for client in clients:
            client.socket.close()


def test_a_client_that_leaves_before_its_answer(server: RunningServer) -> None:
    client = RawClient(server.address)
    client.send(*request("hold"))
    while not server.asked:
        pass
    client.socket.close()
    server.let_go()
    assert_others_are_served(server)
    assert server.in_loop(lambda: server.server.core.pending) == 0


def test_a_server_that_sends_nonsense(ipc: str) -> None:
    """To a client of ours: it is dropped, or ends the call that it names."""
    router: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.ROUTER)
    router.linger = 0
    router.routing_id = SERVER_ID.encode()
    router.rcvtimeo = int(WAIT * 1000)
    router.bind(ipc)
    asker = SyncAsker(ipc, handshake=False)
    try:
        shaking = threading.Thread(target=asker.handshake)
        shaking.start()
        identity, *asked = router.recv_multipart()
        handshake = ResponseMessage.craft_from_arguments("client", SERVER_ID, "HANDSHAKE").byte_array[1:]
        router.send_multipart([identity, *handshake])
        shaking.join()
        context = ServerExecutionContext(WAIT, WAIT)
        first = asker.send("echo", 5, server_execution_context=context)
        second = asker.send("echo", 6, server_execution_context=context)
        for frames in ([b"?"], [b"", b"{", b"", b""], [b""] * 7, asked):
            router.send_multipart([identity, *frames])
        broken = ResponseMessage.craft_from_arguments("client", SERVER_ID, "REPLY", first).byte_array[1:4]
        router.send_multipart([identity, *broken])
        good = ResponseMessage.craft_from_arguments("client", SERVER_ID, "REPLY", second, SerializableData(6))
        router.send_multipart([identity, *good.byte_array[1:]])
        assert asker.receive(second).result() == 6
        with pytest.raises(Exception, match="5 frames, this one 4"):
            asker.receive(first)
        assert asker.client.core.dropped == 4
        assert len(asker.client.core) == 0
    finally:
        asker.close()
        router.close()

"""hololinked's end of a conversation, in a process of its own: one of its brokers, and an address.

Runs on the interpreter of hololinked's environment. Each line of its input is a command, a JSON list; each is
answered by one line: what it came to.
"""

import asyncio
import json
import logging
import sys
import threading
import traceback
from types import SimpleNamespace

import zmq
from hololinked.core import Property, Thing, action
from hololinked.core.zmq.brokers import (
    AsyncEventConsumer,
    AsyncZMQClient,
    AsyncZMQServer,
    EventConsumer,
    EventPublisher,
    SyncZMQClient,
)
from hololinked.core.zmq.message import (
    EXIT,
    HANDSHAKE,
    PreserializedData,
    RequestMessage,
    SerializableData,
    ServerExecutionContext,
)
from hololinked.exceptions import BreakLoop
from hololinked.server.zmq import ZMQServer

SERVER_ID = "server"
LOGGER = logging.getLogger("peer")


def said(message):
    """A response or an event, for JSON."""
    payload, preserialized = message.body
    return [message.type, payload.deserialize(), bytes(preserialized.value).decode("latin-1")]


def last_endpoint(broker):
    return broker.socket.getsockopt_string(zmq.LAST_ENDPOINT)


class Server:
    """Answers operations by their names; what it was asked one-way it tells when it is asked for `count`."""

    def __init__(self, address):
        self.oneway = 0
        self.ended = threading.Event()
        self.ready = threading.Event()
        threading.Thread(target=lambda: asyncio.run(self.serve(address)), daemon=True).start()
        self.ready.wait()

    async def serve(self, address):
        server = AsyncZMQServer(id=SERVER_ID, access_point=address, logger=LOGGER)
        self.address = last_endpoint(server)
        self.ready.set()
        try:
            while True:
                await self.answer(server, await server.async_recv_request())
        except BreakLoop:
            self.ended.set()

    async def answer(self, server, request):
        payload, preserialized = request.body
        value = payload.deserialize()
        operation = request.header["operation"]
        if request.server_execution_context["oneway"]:
            self.oneway += 1
        elif operation == "fail":
            try:
                raise ValueError(value)
            except ValueError as error:
                server.handle_error_message(request, error)
        elif operation == "invalid":
            server.handle_invalid_message(request, TypeError(value))
        elif operation == "time out":
            server.handle_timeout(request, value)
        elif operation == "count":
            await server.async_send_response(request, SerializableData(self.oneway))
        elif operation == "echo":
            reply = SerializableData(value), PreserializedData(preserialized.value)
            await server.async_send_response(request, *reply)

    def do_wait_end(self):
        return self.ended.wait(30)


class Client:
    """Asks what it is told to."""

    def __init__(self, address):
        self.make(address)
        self.address = address

    def make(self, address):
        self.client = SyncZMQClient(id="client", server_id=SERVER_ID, access_point=address, logger=LOGGER)

    def run(self, result):
        return result

    def do_send(self, operation, value, octets, invokation, execution, oneway):
        send = getattr(self.client, "async_send_request", None) or self.client.send_request
        return self.run(
            send(
                "thing",
                "object",
                operation,
                SerializableData(value),
                PreserializedData(octets.encode("latin-1")),
                ServerExecutionContext(invokation, execution, oneway),
            )
        )

    def do_receive(self, message_id):
        receive = getattr(self.client, "async_recv_response", None) or self.client.recv_response
        return said(self.run(receive(message_id)))

    def do_exit(self):
        message = RequestMessage.craft_with_message_type("client", SERVER_ID, EXIT)
        self.run(self.client.socket.send_multipart(message.byte_array))
        return message.id

    def do_handshake(self):
        self.run(self.client.handshake(10000))
        return HANDSHAKE


class AsyncClient(Client):
    def make(self, address):
        self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.loop)
        self.client = AsyncZMQClient(id="client", server_id=SERVER_ID, access_point=address, logger=LOGGER)

    def run(self, result):
        return (
            self.loop.run_until_complete(result)
            if asyncio.isfuture(result) or asyncio.iscoroutine(result)
            else result
        )


class Publisher:
    def __init__(self, address):
        self.publisher = EventPublisher(id="publisher", access_point=address, logger=LOGGER)
        self.address = last_endpoint(self.publisher)

    def do_publish(self, event_id, value, count=1):
        event = SimpleNamespace(
            _unique_identifier=event_id,
            _owner_inst=SimpleNamespace(id="thing"),
            _descriptor=SimpleNamespace(name="e"),
        )
        self.publisher.event_ids.add(event_id)
        for _ in range(count):
            self.publisher.publish(event, value.encode() if event_id.endswith("octets") else value)


class Consumer:
    kind = EventConsumer

    def __init__(self, address):
        self.consumer = self.kind(
            id="consumer", event_unique_identifier="thing/event", access_point=address, logger=LOGGER
        )
        self.consumer.subscribe()
        self.address = address

    def run(self, result):
        return result

    def do_receive(self):
        return said(self.run(self.consumer.receive(timeout=30000)))


class AsyncConsumer(Consumer):
    kind = AsyncEventConsumer

    def __init__(self, address):
        self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.loop)
        super().__init__(address)

    def run(self, result):
        return self.loop.run_until_complete(result)


class Lamp(Thing):
    brightness = Property(default=1)

    @action()
    def double(self, by=2):
        self.brightness = self.brightness * by
        return self.brightness

    @action()
    def fail(self):
        raise ValueError("no bulb")


class Things:
    """A whole server of hololinked, with one thing, under a name instead of an address."""

    def __init__(self, name):
        lamp = Lamp(id="lamp", logger=LOGGER)
        server = ZMQServer(id=name, things=[lamp], access_points=["IPC"], logger=LOGGER)
        self.address = last_endpoint(server.ipc_server)
        threading.Thread(target=server.run, daemon=True).start()


KINDS = {
    "server": Server,
    "client": Client,
    "async client": AsyncClient,
    "publisher": Publisher,
    "consumer": Consumer,
    "async consumer": AsyncConsumer,
    "things": Things,
}


def main(kind, address):
    peer = KINDS[kind](address)
    print(json.dumps(peer.address), flush=True)
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        try:
            result = getattr(peer, "do_" + name)(*arguments)
        except Exception:
            result = {"failed": traceback.format_exc()}
        print(json.dumps(result), flush=True)


main(*sys.argv[1:])
sys.stdout.flush()
# its sockets and threads would keep it from ending
__import__("os")._exit(0)

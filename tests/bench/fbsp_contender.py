"""One end of an FBSP echo: `serve` or `call`, of packetwire or of Saturnin, each on its own interpreter.

`bare` is the carrier alone, without FBSP: what no protocol on it can be quicker than.

`call` prints the microseconds of each round trip, one block of them per line of its input; `codec` those that
a REQUEST takes from a message to frames and back.
"""

from __future__ import annotations

import inspect
import json
import sys
import time
import uuid
from collections.abc import Callable
from typing import Any

PAYLOAD = b"x" * 20
SPIN = 200e-6
"""Seconds: more than either end works on one message."""
VENDOR = uuid.UUID(int=9)


def api(base: Any) -> Any:
    class Echo(base):  # type: ignore[misc]
        ECHO = 1

        @classmethod
        def get_uid(cls) -> uuid.UUID:
            return uuid.UUID(int=0xEC40)

    return Echo


def descriptor(kind: Any, name: str) -> Any:
    return kind(uid=uuid.UUID(int=1), name=name, version="1", vendor_uid=VENDOR, classification="bench")


class Ours:
    """packetwire: over ZMQ, or over the pipes of a child if the address is `pipe`."""

    def __init__(self) -> None:
        from packetwire import fbsp

        self.fbsp = fbsp
        self.api = api(fbsp.ButlerInterface)

    def serve(self, address: str) -> None:
        from packetwire import PacketConnection, stdio
        from packetwire.fbsp import Service, operation

        class EchoService(Service):
            agent = descriptor(self.fbsp.AgentDescriptor, "echo")

            @operation(self.api.ECHO, inline=True)
            def echo(self, request: Any) -> Any:
                return request.data

        with EchoService() as service:
            if address == "pipe":
                conn = PacketConnection(stdio(), spin=SPIN)
                service.serve_on(conn)
                with conn:
                    conn.join_recv()
            else:
                service.serve(address)
                sys.stdin.read()

    def connect(self, address: str) -> Callable[[], object]:
        from packetwire import PacketConnection
        from packetwire.fbsp import ServiceClient

        agent = descriptor(self.fbsp.AgentDescriptor, "caller")
        if address == "pipe":
            conn = PacketConnection.spawn([sys.executable, __file__, "ours", "serve", "pipe"], spin=SPIN)
            client = ServiceClient.on(conn, agent=agent)
        else:
            client = ServiceClient.connect(address, agent=agent)
        client.__enter__()
        return lambda: client.call(self.api.ECHO, PAYLOAD, timeout=30)

    def codec(self) -> Callable[[], object]:
        return coding(self.fbsp)


class Saturnin:
    """Saturnin as its documentation has it: `channel.receive(timeout)` at both ends."""

    def __init__(self) -> None:
        import zmq
        from firebird.base.types import ZMQAddress
        from saturnin import base
        from saturnin.protocol import fbsp

        self.base, self.fbsp, self.address = base, fbsp, ZMQAddress
        self.api = api(base.ButlerInterface)
        self.channels = base.ChannelManager(zmq.Context.instance())

    def channel(self, kind: Any, protocol: Any, routing_id: bytes) -> Any:
        channel = self.channels.create_channel(
            kind, "bench", protocol, routing_id=routing_id, wait_for=self.base.Direction.IN
        )
        self.channels.warm_up()
        return channel

    def serve(self, address: str) -> None:
        fbsp, base = self.fbsp, self.base
        service = base.ServiceDescriptor(
            agent=descriptor(base.AgentDescriptor, "echo"),
            api=[self.api],
            description="",
            facilities=[],
            factory="",
            config=None,
        )
        protocol = fbsp.FBSPService(service=service, peer=base.PeerDescriptor(uuid.uuid4(), 42, "host"))

        def echo(channel: Any, session: Any, msg: Any, protocol: Any) -> None:
            reply = protocol.create_reply_for(msg)
            reply.data = msg.data
            channel.send(reply, session)

        # the signature is compared, annotations included
        declared = inspect.getattr_static(fbsp._APIHandlerChecker, "service_handler")._callable
        signature = inspect.Signature.from_callable(declared, eval_str=True)
        parameters = [each for name, each in signature.parameters.items() if name != "self"]
        echo.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        protocol.register_api_handler(self.api.ECHO, echo)
        channel = self.channel(base.RouterChannel, protocol, b"service")
        channel.bind(self.address(address))
        while True:
            channel.receive(1000)

    def connect(self, address: str) -> Callable[[], object]:
        fbsp, base = self.fbsp, self.base
        protocol = fbsp.FBSPClient()
        channel = self.channel(base.DealerChannel, protocol, b"client")
        session = channel.connect(self.address(address))
        assert channel.can_send(10000)
        agent = descriptor(base.AgentDescriptor, "caller")
        protocol.send_hello(channel, session, agent, base.PeerDescriptor(uuid.uuid4(), 43, "host"))
        assert channel.receive(10000).msg_type is fbsp.MsgType.WELCOME
        number = 0

        def call() -> object:
            nonlocal number
            number += 1
            msg = protocol.create_request_for(session, self.api.ECHO, number.to_bytes(8, "big"))
            msg.data = [PAYLOAD]
            channel.send(msg, session)
            reply = channel.receive(10000)
            assert reply.msg_type is fbsp.MsgType.REPLY
            return reply.data

        return call

    def codec(self) -> Callable[[], object]:
        return coding(self.fbsp)


class Bare:
    """Two frames there and back: over ZMQ, or in a packet over the pipes of a child."""

    def serve(self, address: str) -> None:
        if address == "pipe":
            from packetwire import PacketConnection, stdio

            def echo(rq_type: int, flags: int, payload: bytes) -> bytes:
                return payload

            with PacketConnection(stdio(), request_handler=echo, handlers="inline", spin=SPIN) as conn:
                conn.join_recv()
            return
        import zmq

        router = zmq.Context.instance().socket(zmq.ROUTER)
        router.bind(address)
        while True:
            router.send_multipart(router.recv_multipart())

    def connect(self, address: str) -> Callable[[], object]:
        if address == "pipe":
            from packetwire import PacketConnection

            conn = PacketConnection.spawn([sys.executable, __file__, "bare", "serve", "pipe"], spin=SPIN)
            conn.open()
            payload = bytes(18) + PAYLOAD
            return lambda: conn(4, payload, timeout=30)
        import zmq

        dealer = zmq.Context.instance().socket(zmq.DEALER)
        dealer.connect(address)

        def call() -> object:
            dealer.send_multipart([bytes(16), PAYLOAD])
            return dealer.recv_multipart()

        return call


def coding(fbsp: Any) -> Callable[[], object]:
    """Make a REQUEST, and read it again."""
    protocol = fbsp.FBSPClient()
    request = fbsp.MsgType.REQUEST

    def encode_and_decode() -> object:
        msg = protocol.create_message_for(request, b"12345678", 0x0101)
        msg.data = [PAYLOAD]
        return protocol.convert_msg(msg.as_zmsg())

    return encode_and_decode


def measure(call: Callable[[], object], count: int) -> list[float]:
    """Microseconds of each round trip."""
    times = []
    for _ in range(count):
        began = time.perf_counter()
        call()
        times.append((time.perf_counter() - began) * 1e6)
    return times


def main(whose: str, end: str, address: str) -> None:
    contender: Any = {"ours": Ours, "saturnin": Saturnin, "bare": Bare}[whose]()
    if end == "serve":
        contender.serve(address)
        return
    call = contender.codec() if end == "codec" else contender.connect(address)
    for line in sys.stdin:
        print(json.dumps(measure(call, int(line))), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

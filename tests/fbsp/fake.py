"""Channels without a carrier, and the descriptors of a service and its clients."""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from packetwire.fbsp import (
    VENDOR_UID,
    AgentDescriptor,
    ButlerInterface,
    FBSPClient,
    FBSPEventClient,
    FBSPMessage,
    FBSPService,
    FBSPSession,
    HelloMessage,
    MsgFlag,
    MsgType,
    PeerDescriptor,
    ServiceDescriptor,
)
from packetwire.fbsp.handshake import fill_hello, fill_welcome
from packetwire.fbsp.protocol import _FBSP
from packetwire.messaging import TIMEOUT, Channel, Protocol, Session

from .carriers import CLIENTS, SERVICES
from .passing import GATEWAY, GatewayService

CODEC = _FBSP()
HELLO_TOKEN = b"hello-01"
TOKEN = b"token-01"
OTHER_TOKEN = b"token-02"
ROUTE = b"route-1"
OTHER_ROUTE = b"route-2"


class EchoAPI(ButlerInterface):
    ECHO = 1
    LATER = 2
    UNHANDLED = 3

    @classmethod
    def get_uid(cls) -> uuid.UUID:
        return uuid.UUID("9849ed56-73fa-51cd-b0d6-a00bb5a4039c")


class CountAPI(ButlerInterface):
    COUNT = 1

    @classmethod
    def get_uid(cls) -> uuid.UUID:
        return uuid.UUID("47453524-0e90-56ce-bc6c-400db652cd2e")


def agent(name: str, number: int) -> AgentDescriptor:
    return AgentDescriptor(uuid.UUID(int=number), name, "0.1.0", VENDOR_UID, f"test/{name}")


SERVICE = ServiceDescriptor(agent("service", 1), [EchoAPI, CountAPI])
SERVICE_PEER = PeerDescriptor(uuid.UUID(int=2), 4242, "svc-host")
CLIENT = agent("client", 3)
CLIENT_PEER = PeerDescriptor(uuid.UUID(int=4), 4343, "cli-host")
OTHER_PEER = PeerDescriptor(uuid.UUID(int=5), 4344, "cli-host")


class FakeChannel(Channel):
    """Keeps what is sent, as (route, frames)."""

    def __init__(self, protocol: Protocol, **kwargs: Any) -> None:
        super().__init__(protocol, **kwargs)
        self.sent: list[tuple[bytes, list[bytes]]] = []
        self.inbox: deque[tuple[bytes, list[bytes]]] = deque()
        self.error_number = 0

    def _transmit(self, zmsg: list[bytes], session: Session) -> int:
        if not self.error_number:
            assert session.routing_id is not None
            self.sent.append((session.routing_id, zmsg))
        return self.error_number

    def receive(self, timeout: int | None = None) -> Any:
        return self.deliver(*self.inbox.popleft()) if self.inbox else TIMEOUT

    def say(self, zmsg: list[bytes]) -> None:
        """Let a message of the one peer arrive."""
        self.inbox.append((ROUTE, zmsg))

    def take_frames(self, route: bytes) -> list[list[bytes]]:
        """What was sent on a route since this was last asked for."""
        taken = [zmsg for to, zmsg in self.sent if to == route]
        self.sent = [(to, zmsg) for to, zmsg in self.sent if to != route]
        return taken


class Carrier:
    """What services and clients of a test are put on: one of `carriers`, a gateway, or a `FakeChannel`."""

    name = "none"
    opened = ExitStack()

    @contextmanager
    def named(self, name: str) -> Iterator[None]:
        """Take that one."""
        with ExitStack() as self.opened:
            self.name = name
            yield
        self.name = "none"

    def service_channel(self, protocol: Any) -> Any:
        if self.name == GATEWAY:
            return GatewayService(protocol)
        return SERVICES[self.name](protocol, self.opened) if self.name in SERVICES else FakeChannel(protocol)

    def client_channel(self, protocol: Any) -> Any:
        return CLIENTS[self.name](protocol, self.opened) if self.name in CLIENTS else FakeChannel(protocol)


CARRIER = Carrier()


def make(
    msg_type: MsgType,
    token: bytes = TOKEN,
    type_data: int = 0,
    flags: MsgFlag = MsgFlag.NONE,
    data: list[bytes] | None = None,
) -> Any:
    msg = CODEC.create_message_for(msg_type, token, type_data, flags)
    if data is not None:
        msg.data = data
    return msg


def hello(peer: PeerDescriptor = CLIENT_PEER, token: bytes = HELLO_TOKEN) -> HelloMessage:
    msg: HelloMessage = make(MsgType.HELLO, token)
    fill_hello(msg, CLIENT, peer)
    return msg


def welcome(token: bytes = HELLO_TOKEN) -> Any:
    msg = make(MsgType.WELCOME, token)
    fill_welcome(msg.data, SERVICE, SERVICE_PEER)
    return msg


def call(operation: ButlerInterface) -> int:
    """The request code of an operation, as SERVICE numbers its interfaces."""
    return (SERVICE.api.index(type(operation)) + 1) << 8 | operation.value


def request(
    operation: ButlerInterface = EchoAPI.ECHO,
    token: bytes = TOKEN,
    flags: MsgFlag = MsgFlag.NONE,
    data: list[bytes] | None = None,
) -> Any:
    return make(MsgType.REQUEST, token, call(operation), flags, data or [])


def cancel(target: bytes = TOKEN, token: bytes = OTHER_TOKEN) -> Any:
    msg = make(MsgType.CANCEL, token)
    msg.request.token = target
    return msg


class Serving:
    """A service on a fake channel: ECHO answers at once, LATER keeps the request, and all events are noted."""

    def __init__(self, **kwargs: Any) -> None:
        self.service = FBSPService(service=SERVICE, peer=SERVICE_PEER, **kwargs)
        self.channel = CARRIER.service_channel(self.service)
        self.kept: list[Any] = []
        self.events: list[tuple[Any, ...]] = []
        self.service.register_api_handler(EchoAPI.ECHO, self.echo)
        self.service.register_api_handler(EchoAPI.LATER, self.keep)
        self.service.register_api_handler(CountAPI.COUNT, self.keep)
        for name in ("on_noop", "on_session_closed", "on_ack_received", "on_exception", "on_invalid_msg"):
            setattr(self.service, name, self._noting(name))

    def _noting(self, name: str) -> Any:
        return lambda *args: self.events.append((name, *args[2:]))

    def echo(self, channel: Channel, session: FBSPSession, msg: Any, protocol: FBSPService) -> None:
        reply = protocol.create_reply_for(msg)
        reply.data = msg.data
        channel.send(reply, session)

    def keep(self, channel: Channel, session: FBSPSession, msg: Any, protocol: FBSPService) -> None:
        self.kept.append(msg)

    def connect(self, peer: PeerDescriptor = CLIENT_PEER, route: bytes = ROUTE) -> Any:
        (answer,) = self.say(hello(peer), route)
        assert answer.msg_type is MsgType.WELCOME
        return self.session(route)

    def session(self, route: bytes = ROUTE) -> Any:
        return self.channel.sessions.get(route)

    def say(self, msg: FBSPMessage | list[bytes], route: bytes = ROUTE) -> list[Any]:
        """Send a message to the service; what it has answered."""
        self.channel.deliver(route, msg if isinstance(msg, list) else msg.as_zmsg())
        return self.take(route)

    def take(self, route: bytes = ROUTE) -> list[Any]:
        """What the service has sent on a route since this was last asked for."""
        return [CODEC.convert_msg(zmsg) for zmsg in self.channel.take_frames(route)]

    def send(self, msg: FBSPMessage) -> list[Any]:
        """Let the service send a message; what has left."""
        self.channel.send(msg, self.session())
        return self.take()


class Asking:
    """A client on a fake channel."""

    def __init__(self, kind: type[FBSPClient] = FBSPClient) -> None:
        self.client = kind()
        self.channel = CARRIER.client_channel(self.client)
        self.session: Any = self.channel.create_session(ROUTE)
        self.refused: list[Exception] = []
        self.client.on_exception = lambda channel, session, msg, exc: self.refused.append(exc)
        self.client.on_invalid_msg = lambda channel, session, exc: self.refused.append(exc)
        if isinstance(self.client, FBSPEventClient):
            self.client.register_api_handler(EchoAPI.ECHO, self.take_reply)
            self.client.register_api_handler(EchoAPI.LATER, self.take_reply)

    def take_reply(self, channel: Channel, session: FBSPSession, msg: Any, protocol: FBSPClient) -> None:
        if msg.has_ack_req():
            channel.send(protocol.create_ack_reply(msg), session)

    def connect(self) -> Any:
        self.client.send_hello(self.channel, self.session, CLIENT, CLIENT_PEER, HELLO_TOKEN)
        result = self.hear(welcome())
        self.take()
        return result

    def hear(self, msg: FBSPMessage | list[bytes]) -> Any:
        """Let a message of the service arrive; what `receive` returns."""
        self.channel.say(msg if isinstance(msg, list) else msg.as_zmsg())
        return self.channel.receive()

    def send(self, msg: FBSPMessage) -> list[Any]:
        """Let the client send a message; what has left."""
        self.channel.send(msg, self.session)
        return self.take()

    def take(self) -> list[Any]:
        """What the client has sent since this was last asked for."""
        return [CODEC.convert_msg(zmsg) for zmsg in self.channel.take_frames(ROUTE)]

    def ask(self, operation: ButlerInterface = EchoAPI.ECHO, token: bytes = TOKEN) -> None:
        self.send(self.client.create_request_for(self.session, operation, token))

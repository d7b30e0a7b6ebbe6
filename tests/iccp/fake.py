"""A channel without a carrier, and a component and a controller on it."""

from __future__ import annotations

import uuid
from collections import deque
from typing import Any

from packetwire.iccp import ICCPComponent, ICCPController, ICCPMessage, MsgType, PeerDescriptor
from packetwire.messaging import TIMEOUT, Channel, Protocol, Session

CODEC = ICCPController()
ROUTE = b"route-1"
OTHER_ROUTE = b"route-2"
PEER = PeerDescriptor(uuid.UUID(int=0x55), 5150, "comp-host")


class FakeChannel(Channel):
    """Keeps what is sent, as (route, frames)."""

    def __init__(self, protocol: Protocol) -> None:
        super().__init__(protocol)
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

    def take(self) -> list[ICCPMessage]:
        """What was sent since this was last asked for."""
        taken = [CODEC.convert_msg(zmsg) for _, zmsg in self.sent]
        self.sent = []
        return taken


def make(msg_type: MsgType, **fields: Any) -> ICCPMessage:
    msg = ICCPMessage()
    msg.msg_type = msg_type
    vars(msg).update(fields)
    return msg


class Component:
    """A component on a fake channel; why it should stop, and what it was configured with, is noted."""

    def __init__(self, **kwargs: Any) -> None:
        self.protocol = ICCPComponent(**kwargs)
        self.channel = FakeChannel(self.protocol)
        self.session = self.channel.create_session(ROUTE)
        self.stops: list[Exception | None] = []
        self.configs: list[Any] = []
        self.protocol.on_stop_component = self.stops.append
        self.protocol.on_config_request = self.configs.append

    def ready(self) -> None:
        self.send(self.protocol.ready_msg(PEER, {"x": ["inproc://x"]}))

    def send(self, msg: ICCPMessage) -> list[ICCPMessage]:
        self.channel.send(msg, self.session)
        return self.channel.take()

    def hear(self, msg: ICCPMessage | list[bytes]) -> list[ICCPMessage]:
        """Let a message arrive; what was answered."""
        self.channel.deliver(ROUTE, msg if isinstance(msg, list) else msg.as_zmsg())
        return self.channel.take()


class Controller:
    """A controller on a fake channel; why it should stop is noted."""

    def __init__(self, **kwargs: Any) -> None:
        self.protocol = ICCPController(**kwargs)
        self.channel = FakeChannel(self.protocol)
        self.stops: list[Exception] = []
        self.protocol.on_stop_controller = self.stops.append

    def hear(self, msg: ICCPMessage | list[bytes], route: bytes = ROUTE) -> Any:
        """Let a message arrive; what `receive` returns."""
        self.channel.inbox.append((route, msg if isinstance(msg, list) else msg.as_zmsg()))
        return self.channel.receive()

    def hear_ready(self, route: bytes = ROUTE) -> Session:
        self.hear(make(MsgType.READY, peer=PEER), route)
        return self.channel.sessions[route]

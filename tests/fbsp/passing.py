"""A gateway without carriers: its messages are in mailboxes."""

from __future__ import annotations

import uuid
from typing import Any

from packetwire.fbsp import MsgType, PeerDescriptor
from packetwire.fbsp.messages import NO_TOKEN
from packetwire.fbsp.passage import BackProtocol, FrontProtocol
from packetwire.messaging.mailbox import Mailbox

GATEWAY = "gateway"
"""In place of the name of a carrier."""


class Passing:
    """The passage of one client."""

    def __init__(self, front: Mailbox, session: Any) -> None:
        self.front, self.session = front, session
        self.channel = Mailbox(BackProtocol(self))
        self.service_session: Any = self.channel.create_session(session.routing_id)
        self.reason: Exception | None = None

    def forth(self, msg: Any) -> None:
        self.channel.post(msg, self.service_session)

    def back(self, msg: Any) -> None:
        self.front.post(msg, self.session)

    def client_left(self) -> None:
        protocol: Any = self.channel.protocol
        self.forth(protocol.create_message_for(MsgType.CLOSE, self.session.hello_token or NO_TOKEN))

    def service_left(self, exc: Exception | None) -> None:
        self.reason = exc
        protocol: Any = self.front.protocol
        protocol.send_close(self.front, self.session)


class GatewayService(Mailbox):
    """A service without a carrier, behind a gateway without one."""

    def __init__(self, protocol: Any) -> None:
        super().__init__(protocol)
        self.passages: dict[bytes, Passing] = {}
        self.taken: dict[bytes, list[list[bytes]]] = {}
        front = FrontProtocol(self.begin, PeerDescriptor(uuid.UUID(int=9), 9, "gateway"))
        # what is refused there comes no further; handlers are assigned later
        front.on_invalid_msg = lambda *refused: protocol.on_invalid_msg(*refused)  # noqa: PLW0108
        front.on_exception = lambda *refused: protocol.on_exception(*refused)  # noqa: PLW0108
        self.front = Mailbox(front)

    def begin(self, channel: Any, session: Any) -> Passing:
        passage = self.passages[session.routing_id] = Passing(self.front, session)
        return passage

    def deliver(self, route: bytes, frames: list[bytes]) -> Any:
        self.front.deliver(route, frames)
        self.pass_on()

    def pass_on(self) -> None:
        passed = True
        while passed:
            passed = False
            for passage in list(self.passages.values()):
                for route, frames in passage.channel.take():
                    passed = True
                    super().deliver(route, frames)
            for route, frames in self.take():
                passed = True
                self.passages[route].channel.deliver(route, frames)
            for route, frames in self.front.take():
                self.taken.setdefault(route, []).append(frames)

    def take_frames(self, route: bytes) -> list[list[bytes]]:
        self.pass_on()
        return self.taken.pop(route, [])

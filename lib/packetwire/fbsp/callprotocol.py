"""The client side of FBSP that hands what comes to the calls of a client."""

from __future__ import annotations

from typing import Any, Final, Protocol

from packetwire.errors import ConnectionEnded, ended_by
from packetwire.fbsp.client import FBSPClient
from packetwire.fbsp.constants import MsgType
from packetwire.fbsp.messages import NO_FLAGS, APIMessage, FBSPMessage, WelcomeMessage, unpack_plain
from packetwire.fbsp.session import FBSPSession
from packetwire.messaging.channel import Channel
from packetwire.messaging.errors import ClientError
from packetwire.messaging.message import Message
from packetwire.messaging.session import Session

_NOT_CONNECTED: Final = ClientError("the client is not connected")


class Calls(Protocol):
    """The owner of the calls: `ClientCore`."""

    welcome: WelcomeMessage | None

    def take(self, session: FBSPSession, msg: FBSPMessage) -> None:
        """A message has come that may belong to a call."""

    def take_reply(self, session: Session, token: bytes, type_data: int, data: list[bytes]) -> bool:
        """A REPLY without flags has come; false if it is not just what a call waits for."""
        ...

    def take_pong(self, token: bytes) -> None:
        """A NOOP was acknowledged."""

    def end(self, cause: Exception) -> None:
        """The session has ended."""


class CallProtocol(FBSPClient):
    """Hands what comes to the calls of a client."""

    core: Calls

    def handle_welcome_msg(self, channel: Channel, session: FBSPSession, msg: WelcomeMessage) -> WelcomeMessage:
        super().handle_welcome_msg(channel, session, msg)
        self.core.welcome = msg
        return msg

    def take_reply(self, session: FBSPSession, zmsg: list[bytes]) -> bool:
        """Deal with frames that begin like a REPLY without flags, if a call waits for it and no rule is broken."""
        if not self._plain or len(zmsg) > self.max_frames or sum(map(len, zmsg)) > self.max_message_size:
            return False
        _, _, type_data, token = unpack_plain(zmsg[0])
        return self.core.take_reply(session, token, type_data, zmsg[1:])

    def handle_msg(self, channel: Channel, session: Session, msg: Message) -> Any:
        if (
            type(msg) is APIMessage
            and msg.msg_type is MsgType.REPLY
            and msg.flags is NO_FLAGS
            and self.core.take_reply(session, msg.token, msg.type_data, msg.data)
        ):
            return msg
        return super().handle_msg(channel, session, msg)

    def handle_noop_msg(self, channel: Channel, session: FBSPSession, msg: FBSPMessage) -> Any:
        if msg.has_ack_reply():
            self.core.take_pong(msg.token)
        return super().handle_noop_msg(channel, session, msg)

    def handle_fbsp_msg(self, channel: Channel, session: FBSPSession, msg: FBSPMessage) -> Any:
        self.core.take(session, msg)
        if msg.msg_type is MsgType.REPLY:  # as it mostly is, and then nothing is left to do
            return msg
        return super().handle_fbsp_msg(channel, session, msg)

    def handle_close_msg(self, channel: Channel, session: FBSPSession, msg: FBSPMessage) -> Any:
        self.core.end(ConnectionEnded("the service has closed the session"))
        return super().handle_close_msg(channel, session, msg)

    def handle_session_lost(self, channel: Channel, session: Session, exc: Exception | None) -> None:
        self.core.end(ended_by(exc or _NOT_CONNECTED, f"the session has ended: {exc}"))

    def accept_new_session(self, channel: Channel, routing_id: bytes, msg: Message) -> bool:
        """No: it is the client that begins."""
        return False

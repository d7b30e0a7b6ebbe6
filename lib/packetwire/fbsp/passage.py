"""Both sides of a gateway, as protocols: what the one takes, the other says. No input or output, lock or thread.

Strategy: tokens, flags and data pass as they are, so whoever is asked answers, and only that one does; a gateway
answers only what goes no further: frames that are no message, what breaks a rule, and a HELLO for which there is no
service. Each client has a *passage*, which brings its messages to a session with the service of its own. Both sides
keep count of the requests under way, as a packet stream has to know what each message concludes.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any, Final, Protocol, cast

from packetwire.fbsp.client import FBSPClient
from packetwire.fbsp.constants import ErrorCode, MsgType
from packetwire.fbsp.lifecycle import TOLERATED, TRANSITIONS, act_of
from packetwire.fbsp.messages import CancelMessage, ErrorMessage, FBSPMessage, HelloMessage, WelcomeMessage
from packetwire.fbsp.refusals import violation
from packetwire.fbsp.service import FBSPService
from packetwire.fbsp.session import FBSPSession, PendingRequest
from packetwire.messaging.channel import Channel
from packetwire.messaging.descriptors import (
    VENDOR_UID,
    AgentDescriptor,
    ButlerInterface,
    PeerDescriptor,
    ServiceDescriptor,
)
from packetwire.messaging.message import Message, RoutingID
from packetwire.messaging.session import Session

PASSED_FORTH: Final = (MsgType.NOOP, MsgType.REQUEST, MsgType.REPLY, MsgType.DATA, MsgType.CANCEL, MsgType.STATE)
"""The types of messages of a client that go on to the service, once HELLO has."""
PASSED_BACK: Final = (
    *(MsgType.WELCOME, MsgType.NOOP, MsgType.REQUEST, MsgType.REPLY),
    *(MsgType.DATA, MsgType.STATE, MsgType.ERROR),
)
"""The types of messages of a service that go on to the client."""


class _NoInterface(ButlerInterface):
    """In place of the interfaces that a service announces: clients get the WELCOME of the service behind."""

    @classmethod
    def get_uid(cls) -> uuid.UUID:
        return uuid.UUID(int=0)


_AGENT: Final = AgentDescriptor(uuid.UUID(int=0), "gateway", "1", VENDOR_UID, "gateway")


class Passage(Protocol):
    """The way between a client and its session with the service."""

    def forth(self, msg: FBSPMessage) -> None:
        """A message of the client is to go to the service."""

    def back(self, msg: FBSPMessage) -> None:
        """A message of the service is to go to the client."""

    def client_left(self) -> None:
        """The session with the client has ended."""

    def service_left(self, exc: Exception | None) -> None:
        """The session with the service has ended: by CLOSE, or for a reason."""


class ClientSession(FBSPSession):
    """The session with a client."""

    def __init__(self) -> None:
        super().__init__()
        self.passage: Passage | None = None
        self.welcomed = False
        """True once the client was sent the WELCOME of the service."""


class FrontProtocol(FBSPService):
    """The side that clients see: `begin(channel, session)` makes the passage of a client that says HELLO.

    `make_room(channel)` is called if a client comes when there are `max_sessions`.
    """

    def __init__(
        self,
        begin: Callable[[Any, ClientSession], Passage],
        peer: PeerDescriptor,
        make_room: Callable[[Any], object] | None = None,
        **service: Any,
    ) -> None:
        super().__init__(
            session_type=ClientSession, service=ServiceDescriptor(_AGENT, [_NoInterface]), peer=peer, **service
        )
        self._begin = begin
        self._make_room = make_room
        self.handlers.update(dict.fromkeys(PASSED_FORTH, self.pass_forth))

    def accept_new_session(self, channel: Channel, routing_id: RoutingID, msg: Message) -> bool:
        if self._make_room and isinstance(msg, HelloMessage) and len(self._partners) >= self.max_sessions:
            self._make_room(channel)
        return super().accept_new_session(channel, routing_id, msg)

    def handle_hello_msg(self, channel: Channel, session: FBSPSession, msg: HelloMessage) -> None:
        """A client asks for a session with the service, perhaps once more."""
        greeted = cast("ClientSession | None", self._greeted(channel, session, msg))
        if greeted is None:
            return
        if greeted.passage is None:
            greeted.passage = self._begin(channel, greeted)
        greeted.passage.forth(msg)

    def pass_forth(self, channel: Channel, session: ClientSession, msg: FBSPMessage) -> None:
        """Let a message pass to the service."""
        if msg.msg_type is MsgType.STATE and not msg.has_ack_reply():
            raise violation("wrong-side", name=msg.msg_type.name)
        if not msg.has_ack_reply():
            if msg.msg_type is MsgType.REPLY:
                raise violation("wrong-side", name=msg.msg_type.name)
            if msg.msg_type is MsgType.REQUEST:
                self._check_request(session, msg)
                session.begin(PendingRequest(msg.token, msg.type_data))
            elif isinstance(msg, CancelMessage):
                if len(session.cancels) >= self.max_requests:
                    raise violation("too-many-requests", limit=self.max_requests)
                session.cancels[msg.token] = msg.request.token
        if session.passage is not None:
            session.passage.forth(msg)

    def before_sending(self, channel: Channel, session: Session, msg: Message) -> bool:
        """True: the rules were looked at where the message has come from."""
        return not (isinstance(session, FBSPSession) and session.closed)

    def after_sending(self, channel: Channel, session: Session, msg: Message) -> None:
        assert isinstance(msg, FBSPMessage)
        if not isinstance(session, ClientSession):
            return
        if msg.msg_type is MsgType.CLOSE:
            session.close()
        elif isinstance(msg, WelcomeMessage):
            session.welcomed = True
        elif not msg.has_ack_reply():
            _follow(session, msg)

    def refuse_client(self, channel: Channel, session: ClientSession, exc: Exception) -> None:
        """There is no service for a client that waits for the answer to its HELLO."""
        assert isinstance(session.greeting, FBSPMessage)
        self.send_error(channel, session, session.greeting, ErrorCode.SERVICE_UNAVAILABLE, exc)
        channel.discard_session(session)

    def session_discarded(self, channel: Channel, session: Session) -> None:
        super().session_discarded(channel, session)
        passage = getattr(session, "passage", None)
        if passage is not None:
            passage.client_left()


class BackProtocol(FBSPClient):
    """The side that the service sees: the client of one passage."""

    def __init__(self, passage: Passage, **client: Any) -> None:
        super().__init__(**client)
        self._passage = passage
        self.handlers.update(dict.fromkeys(PASSED_BACK, self.pass_back))

    def accept_new_session(self, channel: Channel, routing_id: RoutingID, msg: Message) -> bool:
        """No: it is the client that begins."""
        return False

    def pass_back(self, channel: Channel, session: FBSPSession, msg: FBSPMessage) -> None:
        """Let a message pass to the client."""
        if msg.msg_type is MsgType.REQUEST and not msg.has_ack_reply():
            raise violation("wrong-side", name=msg.msg_type.name)
        if isinstance(msg, WelcomeMessage):
            self.handle_welcome_msg(channel, session, msg)
        self._passage.back(msg)

    def before_sending(self, channel: Channel, session: Session, msg: Message) -> bool:
        """True: the rules were looked at where the message has come from."""
        return not cast(FBSPSession, session).closed

    def handle_close_msg(self, channel: Channel, session: FBSPSession, msg: FBSPMessage) -> None:
        """The service has left: so has, for the client, the gateway."""
        super().handle_close_msg(channel, session, msg)
        self._passage.service_left(None)

    def handle_session_lost(self, channel: Channel, session: Session, exc: Exception | None) -> None:
        self._passage.service_left(exc)


def refuses_hello(msg: FBSPMessage) -> bool:
    """True for the ERROR that says that there will be no session."""
    return isinstance(msg, ErrorMessage) and msg.relates_to is MsgType.HELLO


def _follow(session: FBSPSession, msg: FBSPMessage) -> None:
    """A message of the service goes to the client: note what became of the request by that."""
    token = msg.token
    if isinstance(msg, ErrorMessage) and msg.relates_to is MsgType.CANCEL:
        token = session.cancels.pop(token, token)
    request, act = session.find(token), act_of(msg)
    if request is not None and act is not None:
        step = request.phase, act
        session.advance(request, TRANSITIONS.get(step) or TOLERATED.get(step) or request.phase)

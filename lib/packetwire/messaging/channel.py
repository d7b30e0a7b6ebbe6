"""Channels: how a protocol's messages reach its peers, and which peers there are.

Strategy: all that does not depend on the carrier is here, so that a carrier adds only how frames leave
(`_transmit`) and how it waits for them (`receive`), and calls `deliver` with what has arrived. A channel is
used by one thread at a time; a carrier with several threads holds a lock of its own around it.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Protocol

from packetwire.messaging.errors import ChannelError, InvalidMessageError, is_for_program
from packetwire.messaging.message import Message, RoutingID, TZMQMessage
from packetwire.messaging.sentinels import INVALID
from packetwire.messaging.session import Session

logger = logging.getLogger("packetwire")


class ProtocolHooks(Protocol):
    """What a channel asks of its protocol; `packetwire.messaging.Protocol` is the class that has it."""

    max_frames: ClassVar[int]

    @property
    def session_type(self) -> type[Session]:
        """The class of the sessions."""
        ...

    def convert_msg(self, zmsg: TZMQMessage) -> Message:
        """The message in these frames; raises `InvalidMessageError`."""
        ...

    def unreadable(self, zmsg: TZMQMessage, exc: Exception) -> InvalidMessageError:
        """The exception for frames that `convert_msg` has failed for, through a fault of its own."""
        ...

    def accept_new_session(self, channel: Channel, routing_id: RoutingID, msg: Message) -> bool:
        """Whether the first message of an unknown peer begins a session."""
        ...

    def connect_with_session(self, channel: Channel) -> bool:
        """Whether connecting begins a session."""
        ...

    def initialize_session(self, session: Session) -> None:
        """Prepare a new session."""
        ...

    def session_discarded(self, channel: Channel, session: Session) -> None:
        """The channel has forgotten a session."""
        ...

    def before_sending(self, channel: Channel, session: Session, msg: Message) -> bool:
        """Whether to send this message; raises `LocalProtocolError` if it is forbidden."""
        ...

    def after_sending(self, channel: Channel, session: Session, msg: Message) -> None:
        """The message was handed to the carrier."""
        ...

    def handle_msg(self, channel: Channel, session: Session, msg: Message) -> Any:
        """Handle a message: what its handler returns, or `INVALID` if it raised."""
        ...

    def contain(self, channel: Channel, session: Session, msg: Message, error: BaseException) -> None:
        """A handler or hook has raised; this raises nothing."""
        ...

    def handle_invalid_msg(self, channel: Channel, session: Session, exc: InvalidMessageError) -> None:
        """What arrived is no message."""
        ...

    def answer_invalid(self, channel: Channel, session: Session, exc: InvalidMessageError) -> None:
        """Tell the peer the same where the hook for it has failed; raises nothing."""
        ...

    def handle_session_lost(self, channel: Channel, session: Session, exc: Exception | None) -> None:
        """The carrier has lost the peer."""
        ...

    def probe(self, channel: Channel, session: Session) -> None:
        """Send something that needs no answer to a silent peer."""
        ...


class Channel(ABC):
    """The peers of one socket or connection: their sessions, and the way of messages to and from them."""

    def __init__(self, protocol: ProtocolHooks, *, session_type: type[Session] | None = None) -> None:
        self.protocol = protocol
        self.session_type = session_type or protocol.session_type
        self.sessions: dict[RoutingID, Session] = {}
        self.transmissions = 0
        """Messages that the carrier has taken."""

    @property
    def session(self) -> Session | None:
        """The session, on a channel with one peer; None if there is none."""
        if len(self.sessions) > 1:
            raise ChannelError(f"the channel has {len(self.sessions)} sessions, not one")
        return next(iter(self.sessions.values()), None)

    def create_session(self, routing_id: RoutingID) -> Session:
        """A new session for a peer; raises `ChannelError` if it has one."""
        if routing_id in self.sessions:
            raise ChannelError(f"there is a session for the route {routing_id!r} already")
        session = self.session_type()
        session.routing_id = routing_id
        self.protocol.initialize_session(session)
        self.sessions[routing_id] = session
        return session

    def discard_session(self, session: Session) -> None:
        """Forget a session; what was already forgotten is no error."""
        if session.routing_id is None or self.sessions.get(session.routing_id) is not session:
            return
        del self.sessions[session.routing_id]
        try:
            self.protocol.session_discarded(self, session)
        except Exception:
            logger.exception("session_discarded failed")

    def send(self, msg: Message, session: Session) -> int:
        """Send a message: 0, or the carrier's error number.

        A message that the protocol forbids raises `LocalProtocolError` and is not sent. One that came too
        late, because the peer has left or withdrawn its request, is dropped, and that is no error.
        """
        zmsg = msg.as_zmsg()
        if not self.protocol.before_sending(self, session, msg):
            return 0
        error_number = self._transmit(zmsg, session)
        if not error_number:
            self.transmissions += 1
            self.protocol.after_sending(self, session, msg)
        return error_number

    def send_unchecked(self, msg: Message, session: Session) -> int:
        """Send a message without asking the protocol: for the one answer that is left when its hooks fail."""
        error_number = self._transmit(msg.as_zmsg(), session)
        if not error_number:
            self.transmissions += 1
        return error_number

    @abstractmethod
    def _transmit(self, zmsg: list[bytes], session: Session) -> int:
        """Hand frames to the carrier: 0, or its error number."""

    @abstractmethod
    def receive(self, timeout: int | None = None) -> Any:
        """Wait for a message and handle it: the handler's result, or a sentinel.

        `timeout` is in milliseconds; None waits for ever.
        """

    def deliver(self, routing_id: RoutingID, zmsg: TZMQMessage) -> Any:
        """Handle the frames that arrived from a peer: the handler's result, or `INVALID`.

        What the protocol's hooks raise goes to its `handle_exception`. A KeyboardInterrupt in the main thread is
        raised besides.
        """
        session = self.sessions.get(routing_id)
        try:
            msg = self.protocol.convert_msg(zmsg)
        except InvalidMessageError as error:
            self._refuse(session or self._stranger(routing_id), error)
            return INVALID
        except Exception as error:
            logger.exception("what arrived could not be made a message")
            self._refuse(session or self._stranger(routing_id), self.protocol.unreadable(zmsg, error))
            return INVALID
        if session is None:
            session = self._accept(routing_id, msg)
            if session is None:
                return INVALID
        return self.protocol.handle_msg(self, session, msg)

    def _accept(self, routing_id: RoutingID, msg: Message) -> Session | None:
        """The session that a first message begins, if it does."""
        try:
            if not self.protocol.accept_new_session(self, routing_id, msg):
                return None
            return self.create_session(routing_id)
        except BaseException as error:
            begun = self.sessions.get(routing_id)
            if begun is not None:
                self.discard_session(begun)
            self.protocol.contain(self, self._stranger(routing_id), msg, error)
            if is_for_program(error):
                raise
            return None

    def lose_session(self, session: Session, exc: Exception | None = None) -> None:
        """The carrier has lost the peer: tell the protocol why, and forget the session."""
        try:
            self.protocol.handle_session_lost(self, session, exc)
        except Exception:
            logger.exception("the handler of a lost session failed")
        finally:
            self.discard_session(session)

    def _stranger(self, routing_id: RoutingID) -> Session:
        """A session to answer one who has none; it is not kept."""
        session = Session()
        session.routing_id = routing_id
        return session

    def _refuse(self, session: Session, error: InvalidMessageError) -> None:
        transmissions = self.transmissions
        try:
            self.protocol.handle_invalid_msg(self, session, error)
        except Exception:
            logger.exception("the handler of an invalid message failed")
            if self.transmissions == transmissions:
                self.protocol.answer_invalid(self, session, error)

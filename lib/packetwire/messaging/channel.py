"""Channels: how a protocol's messages reach its peers, and which peers there are.

Strategy: all that does not depend on the carrier is here, so that a carrier adds only how frames leave
(`_transmit`) and how it waits for them (`receive`), and calls `deliver` with what has arrived. A channel is
used by one thread at a time; a carrier with several threads holds a lock of its own around it.

There are two ways out. A protocol posts what it says of its own accord, while it handles a message or a call: that
is pure, and stands in `outbox` until the carrier comes for it. `send` is for whoever uses a channel: it hands a
message to the carrier, behind what was posted, and may wait for that.
"""

from __future__ import annotations

import errno
import logging
from abc import ABC, abstractmethod
from collections import deque
from typing import Any, ClassVar, Protocol

from packetwire.messaging.errors import ChannelError, InvalidMessageError, is_for_program
from packetwire.messaging.message import Message, RoutingID, TZMQMessage
from packetwire.messaging.sentinels import INVALID
from packetwire.messaging.session import Session

logger = logging.getLogger("packetwire")

Posted = tuple[Session, list[bytes], bool]
"""A posted message: its session, its frames, and whether the session is given up if there is no room for them."""


class ProtocolHooks(Protocol):
    """The methods of a protocol that a channel calls; `packetwire.messaging.Protocol` has them."""

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
        """True if the first message of an unknown peer begins a session."""
        ...

    def connect_with_session(self, channel: Channel) -> bool:
        """True if connecting begins a session."""
        ...

    def initialize_session(self, session: Session) -> None:
        """Prepare a new session."""
        ...

    def session_discarded(self, channel: Channel, session: Session) -> None:
        """The channel has forgotten a session."""
        ...

    def before_sending(self, channel: Channel, session: Session, msg: Message) -> bool:
        """True if this message is to be sent; raises `LocalProtocolError` if it is forbidden."""
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
        """The frames that arrived are no message."""
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
        self.outbox: deque[Posted] = deque()
        """Posted messages that the carrier has not taken yet."""
        self.transmissions = 0
        """Messages that were posted, or that the carrier has taken."""
        self._handling = 0
        self._holds = False
        """True while `deliver` leaves the outbox to its caller."""

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
        if self.outbox:
            self.flush()  # what was posted before still belongs to the session
        del self.sessions[session.routing_id]
        try:
            self.protocol.session_discarded(self, session)
        except Exception:
            logger.exception("session_discarded failed")

    def post(self, msg: Message, session: Session, *, needed: bool = True) -> bool:
        """Put a message into `outbox`; false if it comes too late, as in `send`. Pure: nothing leaves by this.

        One that is not `needed` is dropped where there is no room for it, and no time to wait for some.
        """
        zmsg = msg.as_zmsg()
        self.check_frames(zmsg)
        if not self.protocol.before_sending(self, session, msg):
            return False
        self.outbox.append((session, zmsg, needed))
        self.transmissions += 1
        self.protocol.after_sending(self, session, msg)
        return True

    def put(self, zmsg: list[bytes], session: Session) -> None:
        """Put frames into `outbox` that the protocol has made and noted itself."""
        self.check_frames(zmsg)
        self.outbox.append((session, zmsg, True))
        self.transmissions += 1

    @property
    def is_handling(self) -> bool:
        """True while a message is handled, so that what is posted leaves anyway; to be asked under the lock."""
        return self._handling > 0

    def post_unchecked(self, msg: Message, session: Session) -> None:
        """Post a message without asking the protocol: for the one answer that is left when its hooks fail."""
        self.outbox.append((session, msg.as_zmsg(), True))
        self.transmissions += 1

    def tell(self, msg: Message, session: Session) -> int:
        """`post` while a message is handled, at whose end the carrier comes anyway, else `send`."""
        if not self._handling:
            return self.send(msg, session)
        self.post(msg, session)
        return 0

    def notify(self) -> None:  # noqa: B027 - nobody need wait
        """Something has changed that somebody may wait for."""

    def check_frames(self, zmsg: list[bytes]) -> None:  # noqa: B027 - most carriers take anything
        """Raise `LocalProtocolError` for what the carrier can never take."""

    def flush(self) -> int:
        """Have the carrier take what stands in `outbox`: 0, or the error number of what it did not take.

        Messages for which there was no room (EAGAIN) stay.
        """
        failed = 0
        while self.outbox and failed != errno.EAGAIN:
            session, zmsg, _ = posted = self.outbox.popleft()
            error_number = self._transmit(zmsg, session)
            if error_number == errno.EAGAIN:
                self.outbox.appendleft(posted)
            failed = error_number or failed
        return failed

    def send(self, msg: Message, session: Session) -> int:
        """Send a message: 0, or the carrier's error number.

        A message that the protocol forbids raises `LocalProtocolError` and is not sent. One that came too
        late, because the peer has left or withdrawn its request, is dropped, and that is no error.
        """
        zmsg = msg.as_zmsg()
        if not self.protocol.before_sending(self, session, msg):
            return 0
        error_number = (self.flush() if self.outbox else 0) or self._transmit(zmsg, session)
        if not error_number:
            self.transmissions += 1
            self.protocol.after_sending(self, session, msg)
        return error_number

    def send_unchecked(self, msg: Message, session: Session) -> int:
        """Send a message without asking the protocol."""
        error_number = (self.flush() if self.outbox else 0) or self._transmit(msg.as_zmsg(), session)
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

        Exceptions of the protocol's hooks go to its `handle_exception`. A KeyboardInterrupt in the main thread is
        raised besides. Messages that were posted meanwhile are handed to the carrier.
        """
        self._handling += 1
        try:
            return self.handle(routing_id, zmsg)
        finally:
            self._handling -= 1
            if self.outbox and not self._holds:
                self.flush()

    def handle(self, routing_id: RoutingID, zmsg: TZMQMessage) -> Any:
        """The pure part of `deliver`: what is said in answer stands in `outbox`."""
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
        if self.outbox:
            self.flush()

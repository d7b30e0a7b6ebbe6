"""Protocols: which frames are a message, and what is done with it."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable
from typing import Any, ClassVar, Final

from packetwire.errors import ProtocolError
from packetwire.messaging.channel import Channel
from packetwire.messaging.errors import InvalidMessageError, StopError, as_exception, is_for_program
from packetwire.messaging.events import eventsocket
from packetwire.messaging.message import Message, RoutingID, SimpleMessage, TZMQMessage
from packetwire.messaging.sentinels import INVALID
from packetwire.messaging.session import Session

MAX_FRAMES: Final = 65536
"""Frames of a message, if a protocol does not say otherwise."""

logger = logging.getLogger("packetwire")

MessageHandler = Callable[[Channel, Any, Any], Any]


class Protocol:
    """One side of a protocol: makes messages of frames, and calls a handler for each.

    A protocol does no input or output: it is given a message and the channel to answer on. Handlers are
    looked up in `handlers` by the keys of the message.
    """

    OID: ClassVar[str] = "1.3.6.1.4.1.53446.1.5"
    """The object identifier of the protocol."""
    UID: ClassVar[uuid.UUID] = uuid.uuid5(uuid.NAMESPACE_OID, OID)
    """The same as a UUID."""
    REVISION: ClassVar[int] = 1
    """The version of the protocol."""
    max_frames: ClassVar[int] = MAX_FRAMES
    """Frames of a message: of one with more the rest is thrown away unread, and it is refused."""

    def __init__(self, *, session_type: type[Session] = Session) -> None:
        self._session_type = session_type
        self.handlers: dict[object, MessageHandler] = {}

    @property
    def session_type(self) -> type[Session]:
        """The class of this protocol's sessions."""
        return self._session_type

    def message_factory(self, zmsg: TZMQMessage | None = None) -> Message:
        """A new message for these frames, which are only looked at to choose its class.

        Another factory may be assigned.
        """
        return SimpleMessage()

    def convert_msg(self, zmsg: TZMQMessage) -> Message:
        """The message in these frames; raises `InvalidMessageError`."""
        msg = self.message_factory(zmsg)
        msg.from_zmsg(zmsg)
        return msg

    def validate(self, zmsg: TZMQMessage) -> None:
        """Raise `InvalidMessageError` if `convert_msg` would: parsing is validating."""
        self.convert_msg(zmsg)

    def is_valid(self, zmsg: TZMQMessage) -> bool:
        """True if these frames are a message of the protocol."""
        try:
            self.validate(zmsg)
        except InvalidMessageError:
            return False
        return True

    def accept_new_session(self, channel: Channel, routing_id: RoutingID, msg: Message) -> bool:
        """True if the first message of an unknown peer begins a session."""
        return True

    def connect_with_session(self, channel: Channel) -> bool:
        """True if connecting begins a session, without which nothing can be sent first."""
        return True

    def initialize_session(self, session: Session) -> None:
        """Prepare a new session."""

    def session_discarded(self, channel: Channel, session: Session) -> None:
        """The channel has forgotten a session: release what was kept for it."""

    def before_sending(self, channel: Channel, session: Session, msg: Message) -> bool:
        """True if this message is to be sent; raises `LocalProtocolError` if the protocol forbids it."""
        return True

    def after_sending(self, channel: Channel, session: Session, msg: Message) -> None:
        """The message was handed to the carrier."""

    def before_handling(self, channel: Channel, session: Session, msg: Message) -> None:
        """Raise if the session's history forbids this message."""

    def handle_msg(self, channel: Channel, session: Session, msg: Message) -> Any:
        """Handle a message: what its handler returns, or `INVALID` if it raised."""
        try:
            self.before_handling(channel, session, msg)
            return self.handler_for(msg)(channel, session, msg)
        except BaseException as error:
            self.contain(channel, session, msg, error)
            if is_for_program(error):
                raise
        return INVALID

    def contain(self, channel: Channel, session: Session, msg: Message, error: BaseException) -> None:
        """A handler or hook has raised: call `handle_exception`, and if that fails too, answer the peer without it.

        Raises nothing.
        """
        transmissions = channel.transmissions
        try:
            self.handle_exception(channel, session, msg, as_exception(error))
        except Exception:
            logger.exception("the handler of exceptions failed")
            if channel.transmissions == transmissions:
                self.answer_failure(channel, session, msg)

    def answer_failure(self, channel: Channel, session: Session, msg: Message) -> None:
        """Tell the peer, without asking any hook, that its message could not be handled; raises nothing."""

    def answer_invalid(self, channel: Channel, session: Session, exc: InvalidMessageError) -> None:
        """Tell the peer, without asking any hook, that what arrived is no message; raises nothing."""

    def unreadable(self, zmsg: TZMQMessage, exc: Exception) -> InvalidMessageError:
        """The exception for frames that `convert_msg` has failed for, through a fault of its own."""
        error = InvalidMessageError("a message that cannot be read here", "unreadable")
        error.__cause__ = exc
        return error

    def handler_for(self, msg: Message) -> MessageHandler:
        """The handler of a message; raises `StopError` if there is none."""
        for key in msg.get_keys():
            handler = self.handlers.get(key)
            if handler is not None:
                return handler
        raise StopError(f"there is no handler for {msg}")

    def handle_invalid_msg(self, channel: Channel, session: Session, exc: InvalidMessageError) -> None:
        """The frames that arrived are no message; a peer without a session has one for the answer only."""
        self.on_invalid_msg(channel, session, exc)

    def handle_exception(self, channel: Channel, session: Session, msg: Message, exc: Exception) -> None:
        """A handler has raised. An exception that is no refusal is a fault here, and logged with its traceback."""
        if not isinstance(exc, StopError | ProtocolError):
            logger.error("the handler of %s failed", msg, exc_info=exc)
        self.on_exception(channel, session, msg, exc)

    def handle_session_lost(self, channel: Channel, session: Session, exc: Exception | None) -> None:
        """The carrier has lost the peer; the channel forgets the session afterwards."""

    def probe(self, channel: Channel, session: Session) -> None:
        """Send something that needs no answer to a peer that is silent, to find out whether it is there."""

    @eventsocket
    def on_invalid_msg(self, channel: Channel, session: Session, exc: InvalidMessageError) -> None:
        """Called when what arrived is no message of the protocol."""

    @eventsocket
    def on_exception(self, channel: Channel, session: Session, msg: Message, exc: Exception) -> None:
        """Called when a handler has raised."""

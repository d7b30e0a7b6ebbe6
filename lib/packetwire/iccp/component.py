"""The component's side of ICCP on a channel: a `ComponentCore` for its session."""

from __future__ import annotations

import logging
from typing import Any

from packetwire.iccp.componentcore import ComponentCore, ComponentMessages, StopAsked
from packetwire.iccp.messages import ICCPMessage, MsgType
from packetwire.iccp.protocol import _ICCP, DEFAULT_MAX_MESSAGE_SIZE, NO_TIME, Phase
from packetwire.messaging.channel import Channel
from packetwire.messaging.errors import InvalidMessageError, StopError, is_for_program
from packetwire.messaging.events import eventsocket
from packetwire.messaging.message import Message, RoutingID
from packetwire.messaging.protobuf import ProtoMessage
from packetwire.messaging.session import Session

logger = logging.getLogger("packetwire")


class ICCPComponent(_ICCP[ComponentCore], ComponentMessages):
    """A component: it opens with READY, is configured and stopped, and ends with FINISHED.

    With `with_traceback` the controller gets the tracebacks of exceptions.
    """

    def __init__(
        self,
        *,
        session_type: type[Session] = Session,
        with_traceback: bool = False,
        max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE,
    ) -> None:
        super().__init__(session_type=session_type, max_message_size=max_message_size)
        self.with_traceback = with_traceback
        self.handlers.update(
            {
                MsgType.READY: self.wrong_message,
                MsgType.REQUEST: self.handle_request,
                MsgType.OK: self.wrong_message,
                MsgType.ERROR: self.wrong_message,
                MsgType.STOP: self.handle_stop,
                MsgType.FINISHED: self.wrong_message,
            }
        )

    def _new_core(self) -> ComponentCore:
        return ComponentCore()

    def accept_new_session(self, channel: Channel, routing_id: RoutingID, msg: Message) -> bool:
        """No: it is the component that begins."""
        return False

    def after_sending(self, channel: Channel, session: Session, msg: Message) -> None:
        assert isinstance(msg, ICCPMessage)
        self._core_of(session).sent(msg)

    def handle_msg(self, channel: Channel, session: Session, msg: Message) -> Any:
        """Handle a message, unless FINISHED was said: a message that crosses it comes too late."""
        return None if self.phase_of(session) is Phase.FINISHED else super().handle_msg(channel, session, msg)

    def wrong_message(self, channel: Channel, session: Session, msg: ICCPMessage) -> None:
        """Refuse a message that a controller does not send."""
        self._core_of(session).receive(msg, NO_TIME)

    def handle_invalid_msg(self, channel: Channel, session: Session, exc: InvalidMessageError) -> None:
        """Frames that are not a valid message stop the component."""
        self._stop(self._core_of(session).refuse(exc))
        super().handle_invalid_msg(channel, session, exc)

    def handle_exception(self, channel: Channel, session: Session, msg: Message, exc: Exception) -> None:
        """A message that breaks the rules, or cannot be handled, stops the component."""
        self._stop(self._core_of(session).refuse(exc))
        super().handle_exception(channel, session, msg, exc)

    def handle_session_lost(self, channel: Channel, session: Session, exc: Exception | None) -> None:
        """Without its controller the component stops, if it does not do that already."""
        self._stop(self._core_of(session).lose(exc, NO_TIME))

    def handle_stop(self, channel: Channel, session: Session, msg: ICCPMessage) -> None:
        """The controller asks the component to stop; once is enough."""
        asked = self._core_of(session).receive(msg, NO_TIME)
        if isinstance(asked, StopAsked):
            self._stop(asked)

    def _stop(self, asked: StopAsked | None) -> None:
        """Have the component stop; an exception of the event is logged, because it would only stop it again."""
        if asked is None:
            return
        try:
            self.on_stop_component(asked.reason)
        except Exception:
            logger.exception("on_stop_component failed")

    def handle_request(self, channel: Channel, session: Session, msg: ICCPMessage) -> None:
        """The controller configures the component: answered OK, or ERROR with the handler's exception."""
        answer = self.ok_msg()
        try:
            self.on_config_request(msg.config)
        except BaseException as error:
            if is_for_program(error):
                raise
            if not isinstance(error, StopError):
                logger.error("the configuration was refused", exc_info=error)
            answer = self.error_msg(error)
        error_number = channel.send(answer, session)
        if error_number:
            raise StopError("Send to controller failed", err_code=error_number)

    @eventsocket
    def on_stop_component(self, exc: Exception | None = None) -> None:
        """Called when the component should stop: the controller asks for it, or `exc` is the reason.

        Once it was called, only a message that breaks the rules calls it again; after FINISHED nothing does.
        """

    @eventsocket
    def on_config_request(self, config: ProtoMessage) -> None:
        """Called with the ConfigProto of a CONFIGURE; its exception is the controller's answer."""

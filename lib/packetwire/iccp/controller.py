"""The controller's side of ICCP on a channel: a `ControllerCore` for each component."""

from __future__ import annotations

from packetwire.iccp.controllercore import ControllerCore, ControllerMessages
from packetwire.iccp.messages import ICCPMessage, MsgType
from packetwire.iccp.protocol import _ICCP, DEFAULT_MAX_MESSAGE_SIZE, NO_TIME, Phase
from packetwire.iccp.refusals import violation
from packetwire.messaging.channel import Channel
from packetwire.messaging.errors import InvalidMessageError
from packetwire.messaging.events import eventsocket
from packetwire.messaging.message import Message, RoutingID
from packetwire.messaging.session import Session


class ICCPController(_ICCP[ControllerCore], ControllerMessages):
    """A controller of components; `Channel.receive` returns their messages."""

    def __init__(
        self, *, session_type: type[Session] = Session, max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE
    ) -> None:
        super().__init__(session_type=session_type, max_message_size=max_message_size)
        self.handlers.update(
            {
                MsgType.READY: self.handle_ready,
                MsgType.REQUEST: self.wrong_message,
                MsgType.OK: self.handle_oef,
                MsgType.ERROR: self.handle_oef,
                MsgType.STOP: self.wrong_message,
                MsgType.FINISHED: self.handle_oef,
            }
        )

    def _new_core(self) -> ControllerCore:
        return ControllerCore()

    def accept_new_session(self, channel: Channel, routing_id: RoutingID, msg: Message) -> bool:
        """True for a first message that a component may begin with."""
        assert isinstance(msg, ICCPMessage)
        stranger = Session()
        stranger.routing_id = routing_id
        try:
            self.before_handling(channel, stranger, msg)
        except Exception as error:
            self.contain(channel, stranger, msg, error)
            return False
        return True

    def before_handling(self, channel: Channel, session: Session, msg: Message) -> None:
        assert isinstance(msg, ICCPMessage)
        self._core_of(session).receive(msg, NO_TIME)

    def wrong_message(self, channel: Channel, session: Session, msg: ICCPMessage) -> None:
        """Refuse a message that a component does not send."""
        raise violation("wrong-side", peer="component", name=msg)

    def handle_invalid_msg(self, channel: Channel, session: Session, exc: InvalidMessageError) -> None:
        """Frames that are not a valid message stop the controller."""
        self.on_stop_controller(exc)
        super().handle_invalid_msg(channel, session, exc)

    def handle_exception(self, channel: Channel, session: Session, msg: Message, exc: Exception) -> None:
        """A message that breaks the rules, or cannot be handled, stops the controller."""
        self.on_stop_controller(exc)
        super().handle_exception(channel, session, msg, exc)

    def handle_ready(self, channel: Channel, session: Session, msg: ICCPMessage) -> ICCPMessage:
        """Return the first READY of a component."""
        return msg

    def handle_oef(self, channel: Channel, session: Session, msg: ICCPMessage) -> ICCPMessage:
        """Return OK, ERROR or FINISHED."""
        return msg

    def is_ready(self, session: Session) -> bool:
        """True once the component has said READY, until it says FINISHED."""
        return self.phase_of(session) is Phase.READY

    @eventsocket
    def on_stop_controller(self, exc: Exception) -> None:
        """Called when a component has broken the rules."""

"""The controller's side of ICCP."""

from __future__ import annotations

from typing import Any

from packetwire.errors import LocalProtocolError
from packetwire.iccp.config import config_proto
from packetwire.iccp.messages import ICCPMessage, MsgType, Request
from packetwire.iccp.protocol import _ICCP, CONTROLLER_SENDS, DEFAULT_MAX_MESSAGE_SIZE, TRANSITIONS, Phase
from packetwire.iccp.refusals import violation
from packetwire.messaging.channel import Channel
from packetwire.messaging.errors import InvalidMessageError
from packetwire.messaging.events import eventsocket
from packetwire.messaging.message import Message, RoutingID
from packetwire.messaging.session import Session


class ICCPController(_ICCP):
    """A controller of components; their messages are what `Channel.receive` returns."""

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

    def accept_new_session(self, channel: Channel, routing_id: RoutingID, msg: Message) -> bool:
        """Whether a first message is one that a component begins with."""
        assert isinstance(msg, ICCPMessage)
        stranger = Session()
        stranger.routing_id = routing_id
        try:
            self.before_handling(channel, stranger, msg)
        except Exception as error:
            self.contain(channel, stranger, msg, error)
            return False
        return True

    def before_sending(self, channel: Channel, session: Session, msg: Message) -> bool:
        assert isinstance(msg, ICCPMessage)
        if msg.msg_type not in CONTROLLER_SENDS:
            raise LocalProtocolError(f"a controller does not send {msg}")
        return True

    def before_handling(self, channel: Channel, session: Session, msg: Message) -> None:
        assert isinstance(msg, ICCPMessage)
        assert msg.msg_type is not None
        phase = self.phase_of(session)
        if msg.msg_type in CONTROLLER_SENDS:
            raise violation("wrong-side", peer="component", name=msg)
        if (phase, msg.msg_type) not in TRANSITIONS:
            raise violation("out-of-order", name=msg.msg_type.name, phase=phase.value)
        self._phases[session] = TRANSITIONS[phase, msg.msg_type]

    def wrong_message(self, channel: Channel, session: Session, msg: ICCPMessage) -> None:
        """Refuse a message that a component does not send."""
        raise violation("wrong-side", peer="component", name=msg)

    def handle_invalid_msg(self, channel: Channel, session: Session, exc: InvalidMessageError) -> None:
        """What is no message stops the controller."""
        self.on_stop_controller(exc)
        super().handle_invalid_msg(channel, session, exc)

    def handle_exception(self, channel: Channel, session: Session, msg: Message, exc: Exception) -> None:
        """What breaks the rules, or cannot be handled, stops the controller."""
        self.on_stop_controller(exc)
        super().handle_exception(channel, session, msg, exc)

    def handle_ready(self, channel: Channel, session: Session, msg: ICCPMessage) -> ICCPMessage:
        """Return the first READY of a component."""
        return msg

    def handle_oef(self, channel: Channel, session: Session, msg: ICCPMessage) -> ICCPMessage:
        """Return OK, ERROR or FINISHED."""
        return msg

    def is_ready(self, session: Session) -> bool:
        """Whether the component has said READY, and not FINISHED."""
        return self.phase_of(session) is Phase.READY

    def request_config_msg(self, config: Any = None) -> ICCPMessage:
        """REQUEST CONFIGURE, with a mapping, a `Config`, a ConfigProto, or an object with `save_proto`."""
        msg = self._create(MsgType.REQUEST)
        msg.request = Request.CONFIGURE
        msg.config = config_proto(config)
        return msg

    def stop_msg(self) -> ICCPMessage:
        """STOP: the component should end."""
        return self._create(MsgType.STOP)

    @eventsocket
    def on_stop_controller(self, exc: Exception) -> None:
        """Called when a component has broken the rules."""

"""The component's side of ICCP."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from weakref import WeakSet

from packetwire.error_text import ERROR_TEXT_LIMIT
from packetwire.errors import LocalProtocolError
from packetwire.iccp.messages import ICCPMessage, MsgType, Outcome
from packetwire.iccp.protocol import _ICCP, DEFAULT_MAX_MESSAGE_SIZE, TRANSITIONS, Phase
from packetwire.iccp.refusals import violation
from packetwire.messaging.channel import Channel
from packetwire.messaging.descriptors import PeerDescriptor
from packetwire.messaging.errors import InvalidMessageError, StopError, is_for_program
from packetwire.messaging.events import eventsocket
from packetwire.messaging.message import Message, RoutingID
from packetwire.messaging.protobuf import ProtoMessage
from packetwire.messaging.session import Session

logger = logging.getLogger("packetwire")


class ICCPComponent(_ICCP):
    """A component: it opens with READY, is configured and stopped, and ends with FINISHED.

    `with_traceback` is whether the controller is told tracebacks of exceptions.
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
        self._stopping: WeakSet[Session] = WeakSet()  # sessions whose component was told to stop
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

    def accept_new_session(self, channel: Channel, routing_id: RoutingID, msg: Message) -> bool:
        """No: it is the component that begins."""
        return False

    def before_sending(self, channel: Channel, session: Session, msg: Message) -> bool:
        assert isinstance(msg, ICCPMessage)
        phase = self.phase_of(session)
        if msg.msg_type is None or (phase, msg.msg_type) not in TRANSITIONS:
            raise LocalProtocolError(f"a component that is {phase.value} does not send {msg}")
        return True

    def after_sending(self, channel: Channel, session: Session, msg: Message) -> None:
        assert isinstance(msg, ICCPMessage)
        assert msg.msg_type is not None
        self._phases[session] = TRANSITIONS[self.phase_of(session), msg.msg_type]

    def session_discarded(self, channel: Channel, session: Session) -> None:
        self._stopping.discard(session)
        super().session_discarded(channel, session)

    def handle_msg(self, channel: Channel, session: Session, msg: Message) -> Any:
        """Handle a message, unless FINISHED was said: what crosses that on the way comes too late."""
        return None if self._is_finished(session) else super().handle_msg(channel, session, msg)

    def wrong_message(self, channel: Channel, session: Session, msg: ICCPMessage) -> None:
        """Refuse a message that a controller does not send."""
        raise violation("wrong-side", peer="controller", name=msg)

    def handle_invalid_msg(self, channel: Channel, session: Session, exc: InvalidMessageError) -> None:
        """What is no message stops the component."""
        self._stop(session, exc)
        super().handle_invalid_msg(channel, session, exc)

    def handle_exception(self, channel: Channel, session: Session, msg: Message, exc: Exception) -> None:
        """What breaks the rules, or cannot be handled, stops the component."""
        self._stop(session, exc)
        super().handle_exception(channel, session, msg, exc)

    def handle_session_lost(self, channel: Channel, session: Session, exc: Exception | None) -> None:
        """Without its controller the component stops, if it does not do that already."""
        if session not in self._stopping:
            self._stop(session, exc or StopError("the controller is gone"))

    def handle_stop(self, channel: Channel, session: Session, msg: ICCPMessage) -> None:
        """The controller asks to stop; once is enough."""
        if session not in self._stopping:
            self._stop(session, None)

    def _stop(self, session: Session, exc: Exception | None) -> None:
        """Have the component stop; what its event raises is logged, because it would only stop it again."""
        if self._is_finished(session):
            return
        self._stopping.add(session)
        try:
            self.on_stop_component(exc)
        except Exception:
            logger.exception("on_stop_component failed")

    def _is_finished(self, session: Session) -> bool:
        return self.phase_of(session) is Phase.FINISHED

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

    def ready_msg(self, peer: PeerDescriptor, endpoints: Mapping[str, Sequence[str]]) -> ICCPMessage:
        """READY: who the component is, and the addresses of its endpoints."""
        msg = self._create(MsgType.READY)
        msg.peer = peer
        msg.endpoints = {name: list(addresses) for name, addresses in endpoints.items()}
        return msg

    def ok_msg(self) -> ICCPMessage:
        """OK: what was asked for is done."""
        return self._create(MsgType.OK)

    def error_msg(self, exc: BaseException) -> ICCPMessage:
        """ERROR: what was asked for has failed."""
        msg = self._create(MsgType.ERROR)
        msg.error = (
            "".join(traceback_of(exc)) if self.with_traceback else text_of(exc, lambda: str(exc) or repr(exc))
        )
        return msg

    def finished_msg(self, outcome: Outcome, details: BaseException | Sequence[str] | None = None) -> ICCPMessage:
        """FINISHED: the component has ended; an exception is told in one line, or by its traceback."""
        msg = self._create(MsgType.FINISHED)
        msg.outcome = outcome
        if isinstance(details, BaseException):
            msg.details = (
                traceback_of(details) if self.with_traceback else [text_of(details, lambda: repr(details))]
            )
        elif isinstance(details, str):
            msg.details = [details]
        else:
            msg.details = list(details or ())
        return msg

    @eventsocket
    def on_stop_component(self, exc: Exception | None = None) -> None:
        """Called when the component should stop: the controller asks for it, or `exc` is the reason.

        Once it was called, only a message that breaks the rules calls it again; after FINISHED nothing does.
        """

    @eventsocket
    def on_config_request(self, config: ProtoMessage) -> None:
        """Called with the ConfigProto of a CONFIGURE; what it raises is told to the controller."""


def text_of(exc: BaseException, describe: Callable[[], str]) -> str:
    """What is told of an exception, even of one that cannot describe itself."""
    try:
        return describe()[:ERROR_TEXT_LIMIT]
    except Exception:
        return type(exc).__name__


def traceback_of(exc: BaseException) -> list[str]:
    """The last lines of an exception's traceback, which say what it is."""
    told: list[str] = []
    left = ERROR_TEXT_LIMIT
    for line in reversed(traceback.format_exception(exc)):
        told.append(line[:left])
        left -= len(line)
        if left <= 0:
            break
    return told[::-1]

"""The client side of FBSP: raw, where messages are returned by `Channel.receive`, or with events.

Strategy: the rules of what a service may send are kept before a message is handled, so that what is handed
on belongs to a session and to a request that is under way, or was so shortly before. A client has no
message to complain with: what breaks a rule goes to `on_exception`, and `INVALID` is returned for it.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable
from functools import cache
from typing import Any, Final

from packetwire.errors import TEXT_LIMIT, LocalProtocolError
from packetwire.fbsp.constants import ACKNOWLEDGED, CLIENT_SENDS, MsgType, bb2h
from packetwire.fbsp.handshake import MAX_NUMBER, check_welcome, fill_hello
from packetwire.fbsp.lifecycle import TOLERATED, TRANSITIONS, Act, Phase, act_of
from packetwire.fbsp.messages import (
    NO_FLAGS,
    NO_TOKEN,
    APIMessage,
    CancelMessage,
    DataMessage,
    ErrorMessage,
    FBSPMessage,
    HelloMessage,
    StateMessage,
    WelcomeMessage,
    plain_header,
)
from packetwire.fbsp.protocol import _FBSP, DEFAULT_MAX_MESSAGE_SIZE
from packetwire.fbsp.refusals import violation
from packetwire.fbsp.session import FBSPSession, PendingRequest
from packetwire.messaging.channel import Channel
from packetwire.messaging.descriptors import AgentDescriptor, ButlerInterface, PeerDescriptor
from packetwire.messaging.errors import ServiceError
from packetwire.messaging.events import eventsocket
from packetwire.messaging.message import Message, Token
from packetwire.messaging.sentinels import INVALID
from packetwire.messaging.session import Session

logger = logging.getLogger("packetwire")

ReplyHandler = Callable[[Channel, Any, Any, Any], object]

ACKNOWLEDGED_BY_SERVICES: Final = ACKNOWLEDGED & CLIENT_SENDS
MAX_ERRORS_TOLD: Final = 16
"""Errors of one ERROR message that an exception repeats; the message keeps all of them."""


@cache
def uid_of_interface(interface: type[ButlerInterface]) -> uuid.UUID:
    """`get_uid`, which may make a new object each time."""
    return interface.get_uid()


class _APIHandlerChecker:
    """The signature of handlers of replies."""

    @eventsocket
    def client_handler(self, channel: Channel, session: FBSPSession, msg: APIMessage, protocol: Any) -> None:
        """Called for each REPLY of a call."""


class FBSPClient(_FBSP):
    """A client that takes messages from `Channel.receive`.

    NOOP and STATE are acknowledged, if that is asked for; REPLY and DATA the caller acknowledges. `receive`
    returns the message, None for a NOOP, or `INVALID` for what a service must not send. CLOSE is returned
    too, when the session has been discarded.
    """

    def __init__(
        self,
        *,
        session_type: type[FBSPSession] = FBSPSession,
        max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE,
    ) -> None:
        super().__init__(session_type=session_type, max_message_size=max_message_size)
        self._apis: dict[uuid.UUID, int] = {}
        self.handlers.update(
            {
                MsgType.WELCOME: self.handle_welcome_msg,
                MsgType.ERROR: self.handle_fbsp_msg,
                MsgType.REPLY: self.handle_fbsp_msg,
                MsgType.STATE: self.handle_fbsp_msg,
                MsgType.NOOP: self.handle_noop_msg,
                MsgType.DATA: self.handle_fbsp_msg,
                MsgType.CLOSE: self.handle_close_msg,
                MsgType.REQUEST: self.handle_fbsp_msg,
                MsgType.HELLO: self.handle_unexpected_msg,
                MsgType.CANCEL: self.handle_unexpected_msg,
            }
        )

    def has_api(self, api: type[ButlerInterface]) -> bool:
        """True if the service that was last connected to has an interface."""
        return api.get_uid() in self._apis

    def create_request_for(self, session: FBSPSession, api_code: ButlerInterface, token: Token) -> APIMessage:
        """A new REQUEST of a call; raises `ServiceError` if the service does not have its interface."""
        code = self.request_code_of(session, api_code)
        request: APIMessage = self.create_message_for(MsgType.REQUEST, token, code)
        return request

    def request_code_of(self, session: FBSPSession, api_code: ButlerInterface) -> int:
        """The numbers of an interface and its operation; raises `ServiceError` if the service does not have it."""
        interface = type(api_code)
        number = session.numbers.get(interface)
        if number is None:
            number = session.apis.get(uid_of_interface(interface))
            if number is None:
                raise ServiceError(f"the service does not have the interface {interface.__name__}")
            session.numbers[interface] = number
        return bb2h(number, int(api_code))

    def post_request(
        self, channel: Channel, session: FBSPSession, api_code: ButlerInterface, token: Token, frames: list[bytes]
    ) -> None:
        """Post a REQUEST with these frames, without much ado if nothing is special about that."""
        code = self.request_code_of(session, api_code)
        if session.closed or session.greeting is None or token in session.requests or not code & 0xFF:
            msg: APIMessage = self.create_message_for(MsgType.REQUEST, token, code)
            msg.data = frames
            channel.post(msg, session)
            return
        channel.put([plain_header(MsgType.REQUEST, code, token), *frames], session)
        session.begin(PendingRequest(token, code))

    def exception_for(self, msg: ErrorMessage) -> ServiceError:
        """The exception that tells of an ERROR, chained to those that tell of its causes."""
        name = getattr(msg.error_code, "name", str(msg.error_code))
        told = msg.errors[:MAX_ERRORS_TOLD]
        lines = [f"#{each.code} : {each.description[:TEXT_LIMIT]}" for each in told]
        error = ServiceError(
            "\n".join([f"{name}, relates to {msg.relates_to.name}", *lines]),
            code=msg.error_code,
            relates_to=msg.relates_to,
        )
        effect = error
        for each in told[1:]:
            cause = ServiceError(each.description[:TEXT_LIMIT], code=each.code)
            effect.__cause__ = cause
            effect = cause
        return error

    def send_hello(
        self,
        channel: Channel,
        session: FBSPSession,
        agent: AgentDescriptor,
        peer: PeerDescriptor,
        token: Token = NO_TOKEN,
    ) -> None:
        """Ask the service for a session; may be repeated until WELCOME has come."""
        channel.tell(self.hello_message(agent, peer, token), session)

    def hello_message(self, agent: AgentDescriptor, peer: PeerDescriptor, token: Token = NO_TOKEN) -> HelloMessage:
        """A new HELLO."""
        msg: HelloMessage = self.create_message_for(MsgType.HELLO, token)
        fill_hello(msg, agent, peer)
        return msg

    def send_close(self, channel: Channel, session: FBSPSession) -> None:
        """End the session and forget it."""
        channel.tell(self.create_message_for(MsgType.CLOSE, session.hello_token or NO_TOKEN), session)
        channel.discard_session(session)

    def before_sending(self, channel: Channel, session: Session, msg: Message) -> bool:
        assert isinstance(msg, FBSPMessage)
        assert isinstance(session, FBSPSession)
        is_welcome = session.greeting is not None and not session.closed
        if is_welcome and msg.msg_type is MsgType.REQUEST and (msg.flags is NO_FLAGS or not msg.has_ack_reply()):
            self._check_request(session, msg)
            return True
        if session.closed:
            late = msg.has_ack_reply() or msg.msg_type is MsgType.CLOSE
            if late:
                return False
            raise LocalProtocolError("the session is closed")
        if msg.has_ack_reply():
            if msg.msg_type not in ACKNOWLEDGED:
                raise LocalProtocolError(f"{msg.msg_type.name} is not acknowledged")
            return True
        if msg.msg_type not in CLIENT_SENDS:
            raise LocalProtocolError(f"a client does not send {msg.msg_type.name}")
        if session.greeting is None and msg.msg_type not in (MsgType.HELLO, MsgType.CLOSE):
            raise LocalProtocolError(f"{msg.msg_type.name} before the service has answered HELLO by WELCOME")
        return True

    def _check_request(self, session: FBSPSession, msg: FBSPMessage) -> None:
        if msg.token in session.requests:
            raise LocalProtocolError(f"the token {msg.token.hex()} belongs to a request without an answer")
        interface_id, api_code = msg.type_data >> 8, msg.type_data & 0xFF
        if interface_id not in session.apis.values():
            raise LocalProtocolError(f"the service has announced no interface with the number {interface_id}")
        if not 1 <= api_code <= MAX_NUMBER:
            raise LocalProtocolError("operations are numbered from 1 to 255")

    def after_sending(self, channel: Channel, session: Session, msg: Message) -> None:
        assert isinstance(session, FBSPSession)
        assert isinstance(msg, FBSPMessage)
        if msg.msg_type is MsgType.REQUEST:
            if msg.flags is NO_FLAGS or not msg.has_ack_reply():
                session.begin(PendingRequest(msg.token, msg.type_data))
        elif isinstance(msg, HelloMessage):
            session.hello_token = msg.token
        elif isinstance(msg, CancelMessage):
            session.cancels[msg.token] = msg.request.token
        elif msg.msg_type is MsgType.CLOSE:
            session.close()

    def before_handling(self, channel: Channel, session: Session, msg: Message) -> None:
        assert isinstance(msg, FBSPMessage)
        assert isinstance(session, FBSPSession)
        if msg.msg_type is MsgType.REPLY and msg.flags is NO_FLAGS and session.greeting is not None:
            self._note_answer(session, msg)
        elif msg.has_ack_reply():
            if msg.msg_type not in ACKNOWLEDGED_BY_SERVICES:
                raise violation("wrong-acknowledgement", name=msg.msg_type.name)
        elif session.greeting is None and msg.msg_type not in (MsgType.WELCOME, MsgType.ERROR, MsgType.CLOSE):
            raise violation("welcome-expected", name=msg.msg_type.name)
        elif isinstance(msg, ErrorMessage):
            self._note_error(session, msg)
        elif msg.msg_type in (MsgType.REPLY, MsgType.STATE, MsgType.DATA):
            self._note_answer(session, msg)

    def _note_answer(self, session: FBSPSession, msg: FBSPMessage) -> None:
        request = session.find(msg.token)
        is_data = msg.msg_type is MsgType.DATA
        if request is None:
            if is_data:
                return  # it may belong to no request
            raise violation("never-asked", name=msg.msg_type.name, token=msg.token.hex())
        if not is_data and msg.type_data != request.request_code:
            expected = request.request_code
            raise violation("wrong-call", name=msg.msg_type.name, type_data=msg.type_data, expected=expected)
        session.advance(request, _phase_after(request, act_of(msg), msg))

    def _note_error(self, session: FBSPSession, msg: ErrorMessage) -> None:
        act = act_of(msg)
        token = msg.token
        if msg.relates_to is MsgType.CANCEL:
            token = session.cancels.pop(msg.token, msg.token)
        request = session.find(token)
        if request is not None and act is not None:
            session.advance(request, _phase_after(request, act, msg))

    def handle_welcome_msg(self, channel: Channel, session: FBSPSession, msg: WelcomeMessage) -> WelcomeMessage:
        """The service has accepted us: note who it is, and the numbers of its interfaces."""
        if msg.token != session.hello_token:
            raise violation("not-our-hello", token=msg.token.hex())
        session.partner_uid, session.apis = check_welcome(msg)
        session.numbers = {}
        session.greeting = msg
        self._apis = session.apis
        return msg

    def handle_fbsp_msg(self, channel: Channel, session: FBSPSession, msg: FBSPMessage) -> Any:
        """Return a message; STATE is acknowledged if that is asked for."""
        if msg.msg_type is MsgType.STATE and msg.has_ack_req():
            channel.post(self.create_ack_reply(msg), session)
        if msg.msg_type is MsgType.REQUEST and not msg.has_ack_reply():
            return self.handle_unexpected_msg(channel, session, msg)
        return msg

    def handle_unexpected_msg(self, channel: Channel, session: FBSPSession, msg: FBSPMessage) -> Any:
        """Return `INVALID` for a message that a service does not send."""
        return INVALID

    def handle_noop_msg(self, channel: Channel, session: FBSPSession, msg: FBSPMessage) -> Any:
        """Acknowledge a NOOP if that is asked for."""
        if msg.has_ack_req():
            channel.post(self.create_ack_reply(msg), session)

    def handle_close_msg(self, channel: Channel, session: FBSPSession, msg: FBSPMessage) -> Any:
        """The service has left: forget the session, and return CLOSE."""
        session.close()
        channel.discard_session(session)
        return msg


class FBSPEventClient(FBSPClient):
    """A client whose messages go to handlers: of replies by `register_api_handler`, of others by events."""

    def __init__(
        self,
        *,
        session_type: type[FBSPSession] = FBSPSession,
        max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE,
    ) -> None:
        super().__init__(session_type=session_type, max_message_size=max_message_size)
        self.api_handlers: dict[object, ReplyHandler] = {}
        """(interface, operation) -> handler: services may number an interface differently."""
        self.handlers.update(
            {
                MsgType.ERROR: self.handle_error_msg,
                MsgType.REPLY: self.handle_reply_msg,
                MsgType.STATE: self.handle_state_msg,
                MsgType.DATA: self.handle_data_msg,
                MsgType.REQUEST: self.handle_ack_reply,
            }
        )

    def register_api_handler(self, api_code: ButlerInterface, handler: ReplyHandler) -> None:
        """Let `handler(channel, session, msg, protocol)` take the replies of a call.

        It sends the acknowledgement if one is asked for.
        """
        _APIHandlerChecker.client_handler.check(handler)
        self.api_handlers[type(api_code).get_uid(), api_code.value] = handler

    def handle_session_lost(self, channel: Channel, session: Session, exc: Exception | None) -> None:
        self.on_session_closed(channel, session, getattr(session, "greeting", None), exc)

    def send_close(self, channel: Channel, session: FBSPSession) -> None:
        """End the session, tell `on_session_closed` with the service's WELCOME, and forget it."""
        try:
            super().send_close(channel, session)
        finally:
            self._tell_closed(channel, session, session.greeting)

    def handle_unexpected_msg(self, channel: Channel, session: FBSPSession, msg: FBSPMessage) -> Any:
        """Refuse a message that a service does not send."""
        raise violation("wrong-side", name=msg.msg_type.name)

    def handle_welcome_msg(self, channel: Channel, session: FBSPSession, msg: WelcomeMessage) -> WelcomeMessage:
        """The service has accepted us."""
        super().handle_welcome_msg(channel, session, msg)
        self.on_service_connected(channel, session, msg, self)
        return msg

    def handle_error_msg(self, channel: Channel, session: FBSPSession, msg: ErrorMessage) -> None:
        """Give an ERROR to `on_error`."""
        self.on_error(channel, session, msg)

    def handle_reply_msg(self, channel: Channel, session: FBSPSession, msg: APIMessage) -> None:
        """Give a REPLY to the handler of its call; without one it is acknowledged, and refused."""
        interface = next((uid for uid, number in session.apis.items() if number == msg.interface_id), None)
        handler = self.api_handlers.get((interface, msg.api_code))
        if handler is None:
            if msg.has_ack_req():
                channel.post(self.create_ack_reply(msg), session)
            raise violation("no-reply-handler", type_data=msg.type_data)
        handler(channel, session, msg, self)

    def handle_state_msg(self, channel: Channel, session: FBSPSession, msg: StateMessage) -> None:
        """Acknowledge a STATE if that is asked for, and give it to `on_state`."""
        if msg.has_ack_req():
            channel.post(self.create_ack_reply(msg), session)
        self.on_state(channel, session, msg)

    def handle_noop_msg(self, channel: Channel, session: FBSPSession, msg: FBSPMessage) -> None:
        """Acknowledge a NOOP if that is asked for, and give it to `on_noop`."""
        if msg.has_ack_reply():
            self.on_ack_received(channel, session, msg)
            return
        super().handle_noop_msg(channel, session, msg)
        self.on_noop(channel, session)

    def handle_data_msg(self, channel: Channel, session: FBSPSession, msg: DataMessage) -> None:
        """Give DATA to `on_data`, which also acknowledges it; without that it is acknowledged here."""
        if msg.has_ack_reply():
            self.on_ack_received(channel, session, msg)
            return
        if not self.on_data.is_set() and msg.has_ack_req():
            channel.post(self.create_ack_reply(msg), session)
        self.on_data(channel, session, msg)

    def handle_close_msg(self, channel: Channel, session: FBSPSession, msg: FBSPMessage) -> None:
        """The service has left: tell `on_session_closed`, and forget the session."""
        session.close()
        self._tell_closed(channel, session, msg)
        channel.discard_session(session)

    def handle_ack_reply(self, channel: Channel, session: FBSPSession, msg: FBSPMessage) -> None:
        """Take the acknowledgement of a REQUEST; what is none, a service does not send."""
        if not msg.has_ack_reply():
            raise violation("wrong-side", name=msg.msg_type.name)
        self.on_ack_received(channel, session, msg)

    def _tell_closed(self, channel: Channel, session: FBSPSession, msg: FBSPMessage | None) -> None:
        try:
            self.on_session_closed(channel, session, msg, None)
        except Exception:
            logger.exception("the handler of a closed session failed")

    @eventsocket
    def on_service_connected(
        self, channel: Channel, session: FBSPSession, msg: WelcomeMessage, protocol: FBSPEventClient
    ) -> None:
        """Called when the service has accepted us."""

    @eventsocket
    def on_noop(self, channel: Channel, session: FBSPSession) -> None:
        """Called for a NOOP, after it was acknowledged."""

    @eventsocket
    def on_data(self, channel: Channel, session: FBSPSession, msg: DataMessage) -> None:
        """Called for DATA; sends the acknowledgement, if one is asked for, when its interface says so."""

    @eventsocket
    def on_error(self, channel: Channel, session: FBSPSession, msg: ErrorMessage) -> None:
        """Called for an ERROR."""

    @eventsocket
    def on_state(self, channel: Channel, session: FBSPSession, msg: StateMessage) -> None:
        """Called for a STATE, after it was acknowledged."""

    @eventsocket
    def on_session_closed(
        self, channel: Channel, session: FBSPSession, msg: FBSPMessage, exc: Exception | None = None
    ) -> None:
        """Called when the session ends: with CLOSE, or with WELCOME if we closed it or `exc` has ended it."""

    @eventsocket
    def on_ack_received(self, channel: Channel, session: FBSPSession, msg: FBSPMessage) -> None:
        """Called for the acknowledgement of a NOOP, REQUEST or DATA."""


def _phase_after(request: PendingRequest, act: Act | None, msg: FBSPMessage) -> Phase:
    """The phase of a request once a message was received; raises `StopError` if it must not come now."""
    assert act is not None
    step = (request.phase, act)
    phase = TRANSITIONS.get(step) or TOLERATED.get(step)
    if phase is None:
        raise violation("out-of-order", name=msg.msg_type.name, phase=request.phase.value)
    return phase

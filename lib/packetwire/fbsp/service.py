"""The service side of FBSP.

Strategy: a handler answers when it likes, on any channel, so the rules of what may follow what are kept
where messages leave (`before_sending`): what the protocol forbids is refused there, what comes too late,
because the request was cancelled or the client has left, is dropped there, and an acknowledgement that
a handler owes is sent ahead of its first answer.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable
from typing import Any, Final

from packetwire.errors import LocalProtocolError
from packetwire.fbsp.constants import (
    ACKNOWLEDGED,
    MAX_ERROR_CODE,
    SERVICE_SENDS,
    ErrorCode,
    MsgType,
    State,
    bb2h,
)
from packetwire.fbsp.handshake import check_hello, check_interfaces, fill_welcome
from packetwire.fbsp.lifecycle import DROPPED, LIVE, Act, Phase, act_of
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
from packetwire.fbsp.protocol import _FBSP, DEFAULT_MAX_MESSAGE_SIZE, next_phase
from packetwire.fbsp.refusals import violation
from packetwire.fbsp.session import FBSPSession, PendingRequest
from packetwire.messaging.channel import Channel
from packetwire.messaging.descriptors import ButlerInterface, PeerDescriptor, ServiceDescriptor
from packetwire.messaging.errors import InvalidMessageError, StopError
from packetwire.messaging.events import eventsocket
from packetwire.messaging.message import Message, RoutingID
from packetwire.messaging.session import Session

logger = logging.getLogger("packetwire")

APIHandler = Callable[[Channel, Any, Any, Any], object]

DEFAULT_MAX_SESSIONS: Final = 4096
DEFAULT_MAX_REQUESTS: Final = 1024
"""Requests of one session that are under way."""

ACKNOWLEDGED_BY_CLIENTS: Final = ACKNOWLEDGED & SERVICE_SENDS


class _APIHandlerChecker:
    """The signature of handlers of calls."""

    @eventsocket
    def service_handler(self, channel: Channel, session: FBSPSession, msg: APIMessage, protocol: Any) -> None:
        """Called for each REQUEST of a call."""


class FBSPService(_FBSP):
    """A service: `service` says which interfaces it has, `peer` who runs it.

    Calls are handled by what `register_api_handler` was given, events by what was assigned to the event
    sockets. `error_detail` is how much clients are told of exceptions in handlers ("none", "message" or
    "traceback"). One service may serve any number of channels of any kind. `max_message_size` is in bytes;
    `max_sessions` clients may be connected, each with `max_requests` requests under way: what is more gets an
    ERROR. Raises ValueError for interfaces that cannot be announced.
    """

    def __init__(
        self,
        *,
        session_type: type[FBSPSession] = FBSPSession,
        service: ServiceDescriptor,
        peer: PeerDescriptor,
        error_detail: str = "message",
        max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE,
        max_sessions: int = DEFAULT_MAX_SESSIONS,
        max_requests: int = DEFAULT_MAX_REQUESTS,
    ) -> None:
        super().__init__(session_type=session_type, max_message_size=max_message_size)
        check_interfaces(service)
        if error_detail not in ("none", "message", "traceback"):
            raise ValueError(f"error_detail is 'none', 'message' or 'traceback', not {error_detail!r}")
        self.error_detail = error_detail
        self.max_sessions = max_sessions
        self.max_requests = max_requests
        self.api_handlers: dict[object, APIHandler] = {}
        """Request code -> handler."""
        welcome: WelcomeMessage = self.create_message_for(MsgType.WELCOME)
        self.welcome_df = welcome.data
        """The description of the service that clients get."""
        fill_welcome(self.welcome_df, service, peer)
        self._numbers = {interface.get_uid(): number for number, interface in enumerate(service.api, 1)}
        self._calls = {
            bb2h(number, operation.value): operation
            for number, interface in enumerate(service.api, 1)
            for operation in interface
        }
        self._partners: dict[uuid.UUID, Session] = {}
        self.handlers.update(
            {
                MsgType.HELLO: self.handle_hello_msg,
                MsgType.REQUEST: self.handle_request_msg,
                MsgType.CANCEL: self.handle_cancel_msg,
                MsgType.NOOP: self.handle_noop_msg,
                MsgType.DATA: self.handle_data_msg,
                MsgType.CLOSE: self.handle_close_msg,
                MsgType.REPLY: self.handle_ack_reply,
                MsgType.STATE: self.handle_ack_reply,
                MsgType.WELCOME: self.handle_unexpected_msg,
                MsgType.ERROR: self.handle_unexpected_msg,
            }
        )

    def register_api_handler(self, api_code: ButlerInterface, handler: APIHandler) -> None:
        """Let `handler(channel, session, msg, protocol)` answer the requests of a call.

        It sends the acknowledgement if one is asked for, when it has decided to accept the request; what
        it owes is sent ahead of its first answer.
        """
        number = self._numbers.get(type(api_code).get_uid())
        if number is None:
            raise ValueError(f"the service does not have the interface {type(api_code).__name__}")
        _APIHandlerChecker.service_handler.check(handler)
        self.api_handlers[bb2h(number, api_code.value)] = handler

    def create_welcome_reply(self, msg: HelloMessage) -> WelcomeMessage:
        """A new WELCOME for a HELLO, without its content."""
        welcome: WelcomeMessage = self.create_message_for(MsgType.WELCOME, msg.token)
        return welcome

    def create_error_for(self, msg: FBSPMessage, error_code: int) -> ErrorMessage:
        """A new ERROR that relates to a message."""
        error: ErrorMessage = self.create_message_for(MsgType.ERROR, msg.token)
        error.relates_to = msg.msg_type
        error.error_code = error_code
        return error

    def create_reply_for(self, msg: APIMessage) -> APIMessage:
        """A new REPLY to a REQUEST."""
        reply: APIMessage = self.create_message_for(MsgType.REPLY, msg.token, msg.type_data)
        return reply

    def post_reply(self, channel: Channel, session: FBSPSession, msg: APIMessage, frames: list[bytes]) -> bool:
        """Post a REPLY with these frames to a REQUEST, without much ado if nothing is special about that."""
        request = session.requests.get(msg.token)
        if request is None or request.phase is not Phase.OPEN or request.acknowledgement is not None:
            reply = self.create_reply_for(msg)
            reply.data = frames
            return channel.post(reply, session)
        channel.put([plain_header(MsgType.REPLY, msg.type_data, msg.token), *frames], session)
        session.advance(request, Phase.REPLIED)
        return True

    def create_state_for(self, msg: APIMessage, state: State) -> StateMessage:
        """A new STATE of a REQUEST."""
        state_msg: StateMessage = self.create_message_for(MsgType.STATE, msg.token, msg.type_data)
        state_msg.state = state
        return state_msg

    def accept_new_session(self, channel: Channel, routing_id: RoutingID, msg: Message) -> bool:
        """True if a first message is a HELLO that is accepted; the client is told if it is not."""
        assert isinstance(msg, FBSPMessage)
        if msg.has_ack_reply() or msg.msg_type in (MsgType.CLOSE, MsgType.ERROR):
            return False  # what is left of a session that has ended, and asks for no answer
        try:
            if not isinstance(msg, HelloMessage):
                raise violation("hello-expected", name=msg.msg_type.name)
            self._check_client(msg)
            self.on_accept_client(channel, msg)
        except Exception as error:
            if not isinstance(error, StopError):
                logger.error("the check of a client failed", exc_info=error)
            stranger = Session()
            stranger.routing_id = routing_id
            self.send_error(channel, stranger, msg, code_of(error), error)
            return False
        return True

    def session_discarded(self, channel: Channel, session: Session) -> None:
        partner = getattr(session, "partner_uid", None)
        if partner is not None and self._partners.get(partner) is session:
            del self._partners[partner]
        super().session_discarded(channel, session)

    def before_sending(self, channel: Channel, session: Session, msg: Message) -> bool:
        assert isinstance(msg, FBSPMessage)
        if not isinstance(session, FBSPSession):
            return True  # the refusal of one who has no session
        if session.closed:
            return False
        if msg.msg_type is MsgType.REPLY and msg.flags is NO_FLAGS:  # as it mostly is
            return self._may_answer(channel, session, session.find(msg.token), msg)
        if msg.has_ack_reply():
            return self._may_acknowledge(session, msg)
        if msg.msg_type not in SERVICE_SENDS:
            raise LocalProtocolError(f"a service does not send {msg.msg_type.name}")
        request = session.find(msg.token)
        if isinstance(msg, ErrorMessage):
            return _error_is_due(request, msg)
        if msg.msg_type in (MsgType.REPLY, MsgType.STATE, MsgType.DATA):
            return self._may_answer(channel, session, request, msg)
        return True

    def after_sending(self, channel: Channel, session: Session, msg: Message) -> None:
        assert isinstance(msg, FBSPMessage)
        if not isinstance(session, FBSPSession):
            return
        request = session.find(msg.token)
        if msg.flags is not NO_FLAGS and msg.has_ack_reply():
            if request is not None and msg.msg_type is MsgType.REQUEST:
                request.acknowledgement = None
        elif msg.msg_type is MsgType.CLOSE:
            session.close()
        elif request is not None and request.phase not in DROPPED:
            looked_at, phase = request.next
            session.advance(request, phase if looked_at is msg else next_phase(request, msg))
            request.next = None, Phase.OPEN

    def _may_acknowledge(self, session: FBSPSession, msg: FBSPMessage) -> bool:
        if msg.msg_type not in ACKNOWLEDGED:
            raise LocalProtocolError(f"{msg.msg_type.name} is not acknowledged")
        if msg.msg_type is not MsgType.REQUEST:
            return True
        request = session.find(msg.token)
        if request is not None and request.phase in DROPPED:
            return False
        if request is None or request.acknowledgement is None:
            raise LocalProtocolError("no acknowledgement of this request is owed")
        return True

    def _may_answer(
        self, channel: Channel, session: FBSPSession, request: PendingRequest | None, msg: FBSPMessage
    ) -> bool:
        if request is None:
            if msg.msg_type is MsgType.DATA and msg.token == session.hello_token:
                return True  # DATA that belongs to no request
            raise LocalProtocolError(f"{msg.msg_type.name} with the token {msg.token.hex()}, which no request has")
        if request.phase in DROPPED:
            return False
        if msg.msg_type is not MsgType.DATA and msg.type_data != request.request_code:
            raise LocalProtocolError(
                f"{msg.msg_type.name} for call 0x{msg.type_data:04x}, the request was 0x{request.request_code:04x}"
            )
        request.next = msg, next_phase(request, msg)
        if request.acknowledgement is not None:
            channel.post(request.acknowledgement, session)
        return True

    def handle_invalid_msg(self, channel: Channel, session: Session, exc: InvalidMessageError) -> None:
        """Answer what is no message by an ERROR, unless it was meant to be one itself."""
        relates_to: MsgType = getattr(exc, "relates_to", MsgType.UNKNOWN)
        if relates_to is not MsgType.ERROR:
            token = getattr(exc, "token", None) or getattr(session, "hello_token", None) or NO_TOKEN
            if isinstance(session, FBSPSession):
                session.forget(token)
            channel.post(self._error_for_invalid(exc, token), session)
        super().handle_invalid_msg(channel, session, exc)

    def _error_for_invalid(self, exc: InvalidMessageError, token: bytes) -> ErrorMessage:
        error: ErrorMessage = self.create_message_for(MsgType.ERROR, token)
        error.relates_to = getattr(exc, "relates_to", MsgType.UNKNOWN)
        error.error_code = getattr(exc, "error_code", ErrorCode.INVALID_MESSAGE)
        error.add_error().description = str(exc)
        return error

    def handle_exception(self, channel: Channel, session: Session, msg: Message, exc: Exception) -> None:
        """Answer a message whose handler, or a hook on its way, has raised by an ERROR, unless it was one itself.

        A client whose HELLO has failed has no session.
        """
        assert isinstance(msg, FBSPMessage)
        if msg.msg_type is not MsgType.ERROR:
            self.send_error(channel, _addressee(session, msg), msg, code_of(exc), exc)
        if isinstance(msg, HelloMessage):
            _discard_unwelcomed(channel, session, msg)
        super().handle_exception(channel, session, msg, exc)

    def answer_failure(self, channel: Channel, session: Session, msg: Message) -> None:
        assert isinstance(msg, FBSPMessage)
        request = session.find(msg.token) if isinstance(session, FBSPSession) else None
        is_request = msg.msg_type is MsgType.REQUEST and not msg.has_ack_reply()
        if msg.msg_type in (MsgType.ERROR, MsgType.CLOSE):
            return
        if is_request and (
            getattr(session, "closed", False) or (request is not None and request.phase not in LIVE)
        ):
            return
        error = self.create_error_for(msg, ErrorCode.INTERNAL_ERROR)
        self._send_last_resort(channel, session, error)
        if is_request and isinstance(session, FBSPSession) and request is not None:
            session.advance(request, Phase.FAILED)
        if isinstance(msg, HelloMessage):
            _discard_unwelcomed(channel, session, msg)

    def answer_invalid(self, channel: Channel, session: Session, exc: InvalidMessageError) -> None:
        if getattr(exc, "relates_to", MsgType.UNKNOWN) is not MsgType.ERROR:
            token = getattr(exc, "token", None) or getattr(session, "hello_token", None) or NO_TOKEN
            self._send_last_resort(channel, session, self._error_for_invalid(exc, token))

    def _send_last_resort(self, channel: Channel, session: Session, error: ErrorMessage) -> None:
        try:
            channel.post_unchecked(error, session)
        except Exception:
            logger.exception("the peer could not be told of the failure")

    def handle_session_lost(self, channel: Channel, session: Session, exc: Exception | None) -> None:
        greeting = getattr(session, "greeting", None)
        if greeting is not None:
            self.on_session_closed(channel, session, greeting, exc)

    def probe(self, channel: Channel, session: Session) -> None:
        """A NOOP that asks for no acknowledgement."""
        token = getattr(session, "hello_token", None) or NO_TOKEN
        channel.post(self.create_message_for(MsgType.NOOP, token), session)

    def before_handling(self, channel: Channel, session: Session, msg: Message) -> None:
        assert isinstance(msg, FBSPMessage)
        if msg.flags is not NO_FLAGS and msg.has_ack_reply() and msg.msg_type not in ACKNOWLEDGED_BY_CLIENTS:
            raise violation("wrong-acknowledgement", name=msg.msg_type.name)

    def handle_unexpected_msg(self, channel: Channel, session: FBSPSession, msg: FBSPMessage) -> None:
        """Refuse a message that a client does not send."""
        raise violation("wrong-side", name=msg.msg_type.name)

    def handle_hello_msg(self, channel: Channel, session: FBSPSession, msg: HelloMessage) -> None:
        """Answer a HELLO by WELCOME: the first one, which was accepted, or one that is repeated."""
        greeted = self._greeted(channel, session, msg)
        if greeted is not None:
            welcome = self.create_welcome_reply(msg)
            welcome.data.CopyFrom(self.welcome_df)
            channel.post(welcome, greeted)

    def _greeted(self, channel: Channel, session: FBSPSession, msg: HelloMessage) -> FBSPSession | None:
        """The session that a HELLO is for, which may be a new one; None if it was refused, by an ERROR."""
        partner = check_hello(msg)
        if session.partner_uid not in (None, partner):
            session = self._replace_session(channel, session, msg)
        session.greeting = msg
        session.hello_token = msg.token
        session.partner_uid = partner
        if self._partners.setdefault(partner, session) is session:
            return session
        # another channel's thread was quicker
        self.send_error(channel, session, msg, ErrorCode.CONFLICT, violation("identity-connected", uid=partner))
        channel.discard_session(session)
        return None

    def _replace_session(self, channel: Channel, session: FBSPSession, msg: HelloMessage) -> FBSPSession:
        """Another client speaks on the route: the session of the former one has ended, without a word."""
        assert session.routing_id is not None
        self._check_client(msg)
        self.on_accept_client(channel, msg)
        channel.lose_session(session, StopError("another client speaks on its route"))
        replacement = channel.create_session(session.routing_id)
        assert isinstance(replacement, FBSPSession)
        return replacement

    def _check_client(self, msg: HelloMessage) -> None:
        partner = check_hello(msg)
        if partner in self._partners:
            raise violation("identity-connected", uid=partner)
        if len(self._partners) >= self.max_sessions:
            raise violation("too-many-sessions", limit=self.max_sessions)

    def handle_request_msg(self, channel: Channel, session: FBSPSession, msg: APIMessage) -> None:
        """Give a request to the handler of its call."""
        self._check_request(session, msg)
        if msg.type_data not in self._calls:
            raise violation("no-such-call", api_code=msg.api_code, interface_id=msg.interface_id)
        handler = self.api_handlers.get(msg.type_data)
        if handler is None:
            call = self._calls[msg.type_data]
            raise violation("no-handler", call=f"{type(call).__name__}.{call.name}")
        is_owed = msg.flags is not NO_FLAGS and msg.has_ack_req()
        acknowledgement = self.create_ack_reply(msg) if is_owed else None
        session.begin(PendingRequest(msg.token, msg.type_data, acknowledgement))
        handler(channel, session, msg, self)

    def _check_request(self, session: FBSPSession, msg: FBSPMessage) -> None:
        """Refuse a request whose token belongs to another one, and one that is too many."""
        if msg.token in session.requests:
            raise violation("token-in-use", token=msg.token.hex())
        session.forget(msg.token)  # also if it is refused
        if len(session.requests) >= self.max_requests:
            raise violation("too-many-requests", limit=self.max_requests)

    def handle_cancel_msg(self, channel: Channel, session: FBSPSession, msg: CancelMessage) -> None:
        """Ask `on_cancel` to stop the work on a request, and tell the client how that went."""
        session.forget(msg.token)
        if not self.on_cancel.is_set():
            raise violation("not-cancellable")
        request = session.requests.get(msg.request.token)
        if request is None:
            raise violation("no-such-request", token=msg.request.token.hex())
        confirmed: Exception | None = None
        try:
            self.on_cancel(channel, session, msg)
        except Exception as error:
            if getattr(error, "code", None) != ErrorCode.REQUEST_CANCELLED:
                raise
            confirmed = error
        if request.phase not in LIVE:
            raise violation("no-such-request", token=request.token.hex())
        session.advance(request, Phase.CANCELLED)
        self.send_error(channel, session, msg, ErrorCode.REQUEST_CANCELLED, confirmed)

    def handle_noop_msg(self, channel: Channel, session: FBSPSession, msg: FBSPMessage) -> None:
        """Acknowledge a NOOP if that is asked for."""
        if msg.has_ack_reply():
            self.on_ack_received(channel, session, msg)
            return
        if msg.has_ack_req():
            channel.post(self.create_ack_reply(msg), session)
        self.on_noop(channel, session)

    def handle_data_msg(self, channel: Channel, session: FBSPSession, msg: DataMessage) -> None:
        """Give DATA to `on_data`, which also acknowledges it if that is asked for."""
        if msg.has_ack_reply():
            self.on_ack_received(channel, session, msg)
            return
        if not self.on_data.is_set():
            raise violation("unexpected-data")
        self.on_data(channel, session, msg)

    def handle_close_msg(self, channel: Channel, session: FBSPSession, msg: FBSPMessage) -> None:
        """The client has left: nothing more is sent to it."""
        session.close()
        try:
            self.on_session_closed(channel, session, msg, None)
        except Exception:
            logger.exception("the handler of a closed session failed")
        finally:
            channel.discard_session(session)

    def handle_ack_reply(self, channel: Channel, session: FBSPSession, msg: FBSPMessage) -> None:
        """Take the acknowledgement of a message of ours; what is none, a client does not send."""
        if not msg.has_ack_reply():
            raise violation("wrong-side", name=msg.msg_type.name)
        self.on_ack_received(channel, session, msg)

    def send_error(
        self,
        channel: Channel,
        session: Session,
        relates_to: FBSPMessage,
        error_code: int,
        exc: Exception | None = None,
    ) -> None:
        """Send an ERROR that relates to a message, with what may be told of the exception."""
        msg = self.create_error_for(relates_to, error_code)
        if exc is not None:
            msg.note_exception(exc, detail=self.error_detail)
        if getattr(exc, "rule", None) == "token-in-use":
            # under its own token it would end the request that has the token by right
            msg.token = getattr(session, "hello_token", None) or NO_TOKEN
        channel.tell(msg, session)

    def send_close(self, channel: Channel, session: FBSPSession) -> None:
        """End a session: send CLOSE, tell `on_session_closed` with the client's HELLO, and forget it."""
        channel.tell(self.create_message_for(MsgType.CLOSE, session.hello_token or NO_TOKEN), session)
        try:
            self.on_session_closed(channel, session, session.greeting, None)
        except Exception:
            logger.exception("the handler of a closed session failed")
        finally:
            channel.discard_session(session)

    def close(self, channel: Channel) -> None:
        """End all sessions of a channel."""
        for session in list(channel.sessions.values()):
            assert isinstance(session, FBSPSession)
            try:
                self.send_close(channel, session)
            except Exception:
                # the channel may be closed from its other side, and the others are to be told all the same
                logger.debug("a session could not be closed", exc_info=True)

    @eventsocket
    def on_accept_client(self, channel: Channel, msg: HelloMessage) -> None:
        """Called with the HELLO of a new client, which is refused by raising `StopError` with a code."""

    @eventsocket
    def on_cancel(self, channel: Channel, session: FBSPSession, msg: CancelMessage) -> None:
        """Called to stop the work on the request with the token `msg.request.token`, which is under way.

        To return, or to raise `StopError` with the code REQUEST_CANCELLED, says that it was stopped; another
        exception that it goes on. Nothing more is sent for a request that was stopped.
        """

    @eventsocket
    def on_noop(self, channel: Channel, session: FBSPSession) -> None:
        """Called for a NOOP, after it was acknowledged."""

    @eventsocket
    def on_data(self, channel: Channel, session: FBSPSession, msg: DataMessage) -> None:
        """Called for DATA; sends the acknowledgement, if one is asked for, when its interface says so."""

    @eventsocket
    def on_session_closed(
        self, channel: Channel, session: FBSPSession, msg: FBSPMessage, exc: Exception | None = None
    ) -> None:
        """Called when a session ends: with CLOSE, or with HELLO if we have closed it or `exc` has ended it."""

    @eventsocket
    def on_ack_received(self, channel: Channel, session: FBSPSession, msg: FBSPMessage) -> None:
        """Called for the acknowledgement of a NOOP, DATA, REPLY or STATE."""


def code_of(exc: BaseException) -> int:
    """The code of the ERROR for an exception of a handler: that of a `StopError`, else INTERNAL_ERROR."""
    if not isinstance(exc, StopError):
        return ErrorCode.INTERNAL_ERROR
    if exc.code is None:
        return ErrorCode.ERROR
    is_code = isinstance(exc.code, int) and 0 < exc.code <= MAX_ERROR_CODE
    return exc.code if is_code else ErrorCode.INTERNAL_ERROR


def _addressee(session: Session, msg: FBSPMessage) -> Session:
    """To whom an answer goes: also one whose session has ended while its HELLO was handled."""
    if not isinstance(msg, HelloMessage) or not getattr(session, "closed", False):
        return session
    stranger = Session()
    stranger.routing_id = session.routing_id
    return stranger


def _discard_unwelcomed(channel: Channel, session: Session, msg: HelloMessage) -> None:
    """Forget the session that a HELLO has begun and then failed for."""
    begun = channel.sessions.get(session.routing_id) if session.routing_id is not None else None
    if isinstance(begun, FBSPSession) and begun.greeting in (None, msg):
        channel.discard_session(begun)


def _error_is_due(request: PendingRequest | None, msg: ErrorMessage) -> bool:
    """True if an ERROR says something new: what it relates to has had no conclusion yet."""
    if request is None or request.phase in LIVE or act_of(msg) is not Act.ERROR:
        return True
    return request.phase is Phase.REPLIED and msg.relates_to is MsgType.DATA

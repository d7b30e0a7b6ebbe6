"""The session of a client and its calls: all of it but the waiting.

Strategy: messages are sent, and those that arrive are noted, in the same way whoever waits for them: threads
(`calling`) or tasks (`aiocalling`). A step that ends in a wait is two methods here: one sends and says
what to wait for, the other looks what came of it, and returns or raises.
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

from packetwire.core.timelimits import seconds_of
from packetwire.errors import ConnectionEnded, LocalProtocolError, RequestTimeout, ended_by
from packetwire.fbsp.callstate import CallState, raised, request_flags
from packetwire.fbsp.client import FBSPClient
from packetwire.fbsp.constants import TOKEN_OCTETS, ErrorCode, MsgFlag, MsgType, State
from packetwire.fbsp.frames import Frame, frame_of
from packetwire.fbsp.identity import this_peer
from packetwire.fbsp.lifecycle import Act, act_of
from packetwire.fbsp.messages import (
    APIMessage,
    CancelMessage,
    ErrorMessage,
    FBSPMessage,
    WelcomeMessage,
)
from packetwire.fbsp.session import FBSPSession
from packetwire.messaging.channel import Channel
from packetwire.messaging.descriptors import AgentDescriptor, ButlerInterface, PeerDescriptor
from packetwire.messaging.errors import ClientError, ServiceError
from packetwire.messaging.message import Message
from packetwire.messaging.session import Session
from packetwire.messaging.shared import SharedChannel

DEFAULT_CONNECT_TIMEOUT: Final = 10.0
"""Seconds for the link to the service, and its WELCOME."""
DEFAULT_MAX_BUFFERED: Final = 64 << 20
"""Octets of DATA of one call that have not been taken yet."""

AnswerKey = tuple[int, bytes]
"""(type, token) of a message of ours whose answer is awaited."""

_NOT_CONNECTED: Final = ClientError("the client is not connected")


CallT = TypeVar("CallT", bound=CallState)
ChannelT = TypeVar("ChannelT", bound=SharedChannel)


class CallProtocol(FBSPClient):
    """Hands what comes to the calls of a client."""

    book: CallBook[Any, Any]

    def handle_welcome_msg(self, channel: Channel, session: FBSPSession, msg: WelcomeMessage) -> WelcomeMessage:
        super().handle_welcome_msg(channel, session, msg)
        self.book.welcome = msg
        return msg

    def handle_noop_msg(self, channel: Channel, session: FBSPSession, msg: FBSPMessage) -> Any:
        if msg.has_ack_reply():
            self.book.pongs.add(msg.token)
        return super().handle_noop_msg(channel, session, msg)

    def handle_fbsp_msg(self, channel: Channel, session: FBSPSession, msg: FBSPMessage) -> Any:
        self.book.take(session, msg)
        return super().handle_fbsp_msg(channel, session, msg)

    def handle_close_msg(self, channel: Channel, session: FBSPSession, msg: FBSPMessage) -> Any:
        self.book.end(ConnectionEnded("the service has closed the session"))
        return super().handle_close_msg(channel, session, msg)

    def handle_session_lost(self, channel: Channel, session: Session, exc: Exception | None) -> None:
        self.book.end(ended_by(exc or _NOT_CONNECTED, f"the session has ended: {exc}"))

    def accept_new_session(self, channel: Channel, routing_id: bytes, msg: Message) -> bool:
        """No: it is the client that begins."""
        return False


class CallBook(Generic[CallT, ChannelT]):
    """The session of a client with one service, and its calls.

    `agent` says which program this is, `peer` which instance of it: made up, if not given. `timeout` limits
    the connecting, in seconds. Further arguments go to `FBSPClient`.
    """

    def __init__(
        self,
        channel: Callable[[FBSPClient], ChannelT],
        call_type: type[CallT],
        *,
        agent: AgentDescriptor,
        peer: PeerDescriptor | None = None,
        timeout: float = DEFAULT_CONNECT_TIMEOUT,
        max_buffered: int = DEFAULT_MAX_BUFFERED,
        **protocol: Any,
    ) -> None:
        self.agent = agent
        self.peer = peer or this_peer()
        self.protocol = CallProtocol(**protocol)
        self.protocol.book = self
        self.channel = channel(self.protocol)
        self.session: FBSPSession | None = None
        self.welcome: WelcomeMessage | None = None
        """What the service says of itself."""
        self.pongs: set[bytes] = set()
        self.ended: Exception | None = None
        """Why the session has ended, if it has."""
        self._call_type = call_type
        self._connect_timeout = seconds_of(timeout)
        self._max_buffered = max_buffered
        self._calls: dict[bytes, CallT] = {}
        self._cancels: dict[bytes, CallT] = {}
        self._refusal: ErrorMessage | None = None
        self._numbers = itertools.count(1)

    def leave(self, reason: ConnectionEnded) -> None:
        """The session is another process's, and so are its calls: nothing is sent, and nobody is told."""
        self.session = None
        self.ended = self.ended or reason
        for call in self._calls.values():
            call.fail(self.ended)

    @property
    def service(self) -> AgentDescriptor:
        """Which program the service is."""
        return AgentDescriptor.from_proto(self._welcome.data.service)

    @property
    def service_peer(self) -> PeerDescriptor:
        """Which running instance of it."""
        return PeerDescriptor.from_proto(self._welcome.data.instance)

    @property
    def interfaces(self) -> dict[uuid.UUID, int]:
        """What the service can do: the uids of its interfaces, and their numbers."""
        return {uuid.UUID(bytes=each.uid): each.number for each in self._welcome.data.api}

    @property
    def _welcome(self) -> WelcomeMessage:
        if self.welcome is None:
            raise ClientError("the client is not connected")
        return self.welcome

    # the beginning and the end

    def say_hello(self) -> AnswerKey:
        """Send HELLO in the session that is open now."""
        assert self.session is not None
        token = bytes(TOKEN_OCTETS)
        self.protocol.send_hello(self.channel, self.session, self.agent, self.peer, token)
        return int(MsgType.HELLO), token

    def is_greeted(self) -> bool:
        """Whether HELLO has been answered in any way."""
        return self.welcome is not None or self._refusal is not None or self.ended is not None

    def check_greeted(self, answered: bool) -> None:
        """Raise if the answer to HELLO is no WELCOME."""
        if self._refusal is not None:
            raise self.protocol.exception_for(self._refusal)
        if self.ended is not None:
            raise raised(self.ended)
        if not answered:
            raise RequestTimeout(f"the service did not answer HELLO within {self._connect_timeout} s")

    def say_close(self) -> bool:
        """Send CLOSE and end all calls, if that was not done before; whether there was a session to end."""
        session, self.session = self.session, None
        if session is None:
            return False
        if not session.closed:
            try:
                self.protocol.send_close(self.channel, session)
            finally:
                self.end(ConnectionEnded("the client was closed"))
        return True

    # asking

    def new_call(
        self,
        api_code: ButlerInterface,
        frames: tuple[Frame, ...],
        on_state: Callable[[State], object] | None = None,
        streams: bool = False,
        single: bool = False,
    ) -> tuple[CallT, APIMessage]:
        """A call, and its REQUEST to be sent."""
        token = self.new_token()
        msg = self.protocol.create_request_for(self.live_session(), api_code, token)
        msg.data = [frame_of(each) for each in frames]
        call = self._calls[token] = self._call_type(self, api_code, token, on_state, streams, single)
        return call, msg

    def transmit(self, msg: FBSPMessage) -> None:
        """Send a message; raises `ConnectionEnded` if there is no way to the service."""
        session = self.live_session()
        try:
            error_number = self.channel.send(msg, session)
        except LocalProtocolError:
            self.live_session()  # it may have ended just now
            raise
        if error_number:
            raise self.unreachable(error_number)

    def transmit_request(self, call: CallT, msg: APIMessage, acknowledge: bool, more: bool) -> None:
        """Send the REQUEST of a call, which is forgotten if that fails."""
        if acknowledge or more:
            msg.flags = request_flags(more, acknowledge)
        try:
            self.transmit(msg)
        except BaseException:
            self._calls.pop(call.token, None)
            raise

    def unreachable(self, error_number: int) -> Exception:
        """Why nothing can be sent."""
        if self.ended is not None:
            return raised(self.ended)
        return ConnectionEnded(f"the service cannot be reached, error {error_number}")

    def acknowledge(self, msg: FBSPMessage) -> None:
        """Send an acknowledgement, if one is asked for."""
        if msg.has_ack_req() and self.session is not None:
            self.channel.send(self.protocol.create_ack_reply(msg), self.session)

    def send_cancel(self, call: CallT) -> bytes:
        """Send CANCEL; its token."""
        token, msg = self._new_cancel(call)
        self.transmit(msg)
        return token

    def _new_cancel(self, call: CallT) -> tuple[bytes, CancelMessage]:
        token = self.new_token()
        msg: CancelMessage = self.protocol.create_message_for(MsgType.CANCEL, token)
        msg.request.token = call.token
        self._cancels[token] = call
        return token, msg

    def forget_cancel(self, token: bytes) -> None:
        """Nobody waits for the answer to a CANCEL any more."""
        self._cancels.pop(token, None)

    def abandon(self, call: CallT, reason: Exception | None = None) -> None:
        """Nobody waits for a call any more: it is withdrawn, if it is not over, and fails with `reason`."""
        if not self._drop(call, reason or ClientError(f"{call.name} was withdrawn")):
            return
        session = self.session
        if session is None or session.find(call.token) is None:
            return  # it has not left
        try:
            token, msg = self._new_cancel(call)
            self.forget_cancel(token)
            self.channel.send_soon(msg, session)
        except (ConnectionEnded, LocalProtocolError):
            pass  # then it is over anyway

    def _drop(self, call: CallT, reason: Exception) -> bool:
        """Have a call fail that is not over; false if it is."""
        if call.over:
            return False
        self._calls.pop(call.token, None)
        call.fail(reason)
        call.changed()
        return True

    def say_noop(self) -> AnswerKey:
        """Send a NOOP that is to be acknowledged."""
        token = self.new_token()
        self.transmit(self.protocol.create_message_for(MsgType.NOOP, token, flags=MsgFlag.ACK_REQ))
        return int(MsgType.NOOP), token

    def is_ponged(self, token: bytes) -> bool:
        """Whether a NOOP was acknowledged, or will never be."""
        return token in self.pongs or self.ended is not None

    def check_ponged(self, token: bytes, timeout: float | None) -> None:
        """Raise if a NOOP was not acknowledged."""
        if token in self.pongs:
            self.pongs.discard(token)
            return
        if self.ended is not None:
            raise raised(self.ended)
        raise RequestTimeout(f"NOOP was not acknowledged within {timeout} s")

    def new_token(self) -> bytes:
        """A token that was not used before in this session."""
        return next(self._numbers).to_bytes(TOKEN_OCTETS, "big")

    def live_session(self) -> FBSPSession:
        """The session; raises if there is none any more, or yet."""
        if self.ended is not None:
            raise raised(self.ended)
        if self.session is None:
            raise ClientError("the client is not connected")
        return self.session

    # what the protocol calls, with the channel's lock held

    def take(self, session: FBSPSession, msg: FBSPMessage) -> None:
        """A message has come that may belong to a call."""
        if isinstance(msg, ErrorMessage):
            if msg.relates_to is MsgType.CANCEL:
                self._take_cancel_answer(msg)
                return
            if msg.relates_to is MsgType.HELLO or session.greeting is None:
                self._refusal = msg
                return
        call = self._calls.get(msg.token)
        if call is None:
            return
        if msg.has_ack_reply():
            call.take_acknowledgement(msg)
        else:
            self._take_answer(session, call, msg)
        call.changed()

    def _take_answer(self, session: FBSPSession, call: CallT, msg: FBSPMessage) -> None:
        call.take(msg)
        if msg.msg_type is MsgType.REPLY:
            self.acknowledge(msg)
        if call.buffered > self._max_buffered:
            text = f"{call.name}: more than {self._max_buffered} bytes of DATA wait to be read; it was withdrawn"
            self.abandon(call, ServiceError(text, code=ErrorCode.INSUFFICIENT_STORAGE))
        elif call.token not in session.requests and self._has_all(call, msg):
            call.over = True
            del self._calls[call.token]

    def _has_all(self, call: CallT, msg: FBSPMessage) -> bool:
        """Whether nothing more follows a message of a request that has ended."""
        return not call.streams or act_of(msg) in (Act.DATA, Act.LAST_STATE, Act.ERROR)

    def _take_cancel_answer(self, msg: ErrorMessage) -> None:
        call = self._cancels.get(msg.token) or self._calls.get(msg.token)
        if call is not None:
            call.take_cancel_answer(msg)
            if call.over:
                self._calls.pop(call.token, None)
            call.changed()

    def end(self, cause: Exception) -> None:
        """The session has ended: so have all calls."""
        if self.ended is None:
            self.ended = cause
        calls = list(self._calls.values())
        self._calls.clear()
        for call in calls:
            call.fail(cause)
            call.changed()

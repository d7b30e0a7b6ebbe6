"""A client of one service: its session and its calls. No input or output, no lock, no thread, no clock.

Strategy: the rules of FBSP are those of `FBSPClient`; this keeps what becomes of each call. Messages go in by
`receive`, those to be sent stand in `outbox`, on a channel that need not have a carrier (`Mailbox`). `expire`
has to be called when `next_deadline` has come. All waiting is left to whoever drives it: threads
(`calling`) or tasks (`aiocalling`). A step that ends in a wait is two methods here: one asks, the other looks what
came of it, and returns or raises.
"""

from __future__ import annotations

import itertools
import uuid
from collections import deque
from collections.abc import Callable
from math import inf
from typing import Any, Final, Generic, TypeVar

from packetwire.errors import ConnectionEnded, LocalProtocolError, RequestTimeout
from packetwire.fbsp.callprotocol import CallProtocol
from packetwire.fbsp.callstate import CallState, raised
from packetwire.fbsp.client import FBSPClient
from packetwire.fbsp.constants import TOKEN_SIZE, ErrorCode, MsgFlag, MsgType, State
from packetwire.fbsp.frames import Frame, frame_of
from packetwire.fbsp.lifecycle import Act, Phase, act_of
from packetwire.fbsp.messages import (
    NO_FLAGS,
    APIMessage,
    CancelMessage,
    ErrorMessage,
    FBSPMessage,
    WelcomeMessage,
)
from packetwire.fbsp.session import FBSPSession
from packetwire.messaging.channel import Channel, Posted
from packetwire.messaging.descriptors import AgentDescriptor, ButlerInterface, PeerDescriptor
from packetwire.messaging.errors import ClientError, ServiceError
from packetwire.messaging.session import Session

DEFAULT_MAX_BUFFERED: Final = 64 << 20
"""Bytes of DATA of one call that have not been taken yet."""

AnswerKey = tuple[int, bytes]
"""(type, token) of a message of ours whose answer is awaited."""

PEER: Final = b""
"""The route of the service, on a channel without a carrier."""


CallT = TypeVar("CallT", bound=CallState)


class ClientCore(Generic[CallT]):
    """The session of a client with one service, and its calls.

    `agent` says which program this is, `peer` which instance of it. `make_call` is given what `CallState` takes
    behind the client. Further arguments go to `FBSPClient`.
    """

    def __init__(
        self,
        channel: Callable[[FBSPClient], Channel],
        make_call: Callable[..., CallT] | None = None,
        *,
        agent: AgentDescriptor,
        peer: PeerDescriptor,
        max_buffered: int = DEFAULT_MAX_BUFFERED,
        **protocol: Any,
    ) -> None:
        self.agent = agent
        self.peer = peer
        self.protocol = CallProtocol(**protocol)
        self.protocol.core = self
        self.channel = channel(self.protocol)
        self.session: FBSPSession | None = None
        self.welcome: WelcomeMessage | None = None
        """The answer to HELLO: what the service says of itself."""
        self.ended: Exception | None = None
        """Why the session has ended, if it has."""
        self.calls: dict[bytes, CallT] = {}
        """Those that are not over, by their tokens."""
        self.cancels: dict[bytes, CallT] = {}
        """Those whose CANCEL has no answer yet, by the tokens of that."""
        self.pongs: dict[bytes, bool] = {}
        """The tokens of NOOPs that somebody waits for, and whether they were acknowledged."""
        self.not_before = inf
        """`expire` has nothing to do before: quicker to ask for than `next_deadline`, but perhaps too early."""
        self._make_call: Callable[..., CallT] = make_call or self._plain_call
        self._max_buffered = max_buffered
        self._refusal: ErrorMessage | RequestTimeout | None = None
        self._greeting_time: tuple[float, float] | None = None
        self._numbers = itertools.count(1)

    def _plain_call(self, *call: Any) -> Any:
        return CallState(self, *call)

    # in, out, and time

    def receive(self, frames: list[bytes], now: float) -> None:
        """A message has come."""
        if self.not_before <= now:
            self.expire(now)
        self.channel.deliver(self.session.routing_id or PEER if self.session else PEER, frames)

    @property
    def outbox(self) -> deque[Posted]:
        """Messages to be sent."""
        return self.channel.outbox

    def next_deadline(self) -> float | None:
        """The time at which `expire` has to be called; None for never."""
        times = [call.deadline for call in self.calls.values() if call.deadline is not None]
        if self._greeting_time is not None and not self.is_greeted():
            times.append(self._greeting_time[0])
        return min(times, default=None)

    def expire(self, now: float) -> None:
        """Withdraw the calls whose time is up, and give the greeting up."""
        if now < self.not_before:
            return
        if self._greeting_time is not None and self._greeting_time[0] <= now and not self.is_greeted():
            self._refusal = RequestTimeout(f"the service did not answer HELLO within {self._greeting_time[1]} s")
            self.channel.notify()
        for call in [each for each in self.calls.values() if each.deadline is not None and each.deadline <= now]:
            self.abandon(call, call.late(call.timeout))
        self.not_before = self.next_deadline() or inf

    # the beginning and the end

    def hello(self, session: FBSPSession, now: float, timeout: float) -> AnswerKey:
        """Ask for a session."""
        self.session = session
        self._greeting_time = now + timeout, timeout
        self.not_before = min(self.not_before, now + timeout)
        return self.say_hello()

    def say_hello(self) -> AnswerKey:
        """Ask for it once more."""
        token = bytes(TOKEN_SIZE)
        self.channel.post(self.protocol.hello_message(self.agent, self.peer, token), self.live_session())
        return int(MsgType.HELLO), token

    def is_greeted(self) -> bool:
        """True once HELLO has been answered in any way, or its time is up."""
        return self.welcome is not None or self._refusal is not None or self.ended is not None

    def check_greeted(self) -> None:
        """Raise if the answer to HELLO is no WELCOME, once `is_greeted`."""
        if isinstance(self._refusal, RequestTimeout):
            raise self._refusal
        if self._refusal is not None:
            raise self.protocol.exception_for(self._refusal)
        if self.ended is not None:
            raise raised(self.ended)

    def close(self) -> bool:
        """Say CLOSE and end all calls, if that was not done before; whether there was a session to end."""
        session, self.session = self.session, None
        if session is None:
            return False
        if not session.closed:
            try:
                self.protocol.send_close(self.channel, session)
            finally:
                self.end(ConnectionEnded("the client was closed"))
        return True

    def end(self, cause: Exception) -> None:
        """The session has ended: so have all calls."""
        if self.ended is None:
            self.ended = cause
        calls = list(self.calls.values())
        self.calls.clear()
        for call in calls:
            call.fail(cause)
            call.changed()
        self.channel.notify()

    def leave(self, reason: ConnectionEnded) -> None:
        """The session is another process's, and so are its calls: nothing is sent, and nobody is told."""
        self.session = None
        self.ended = self.ended or reason
        for call in self.calls.values():
            call.fail(self.ended)

    def live_session(self) -> FBSPSession:
        """The session; raises if there is none any more, or yet."""
        if self.ended is not None:
            raise raised(self.ended)
        if self.session is None:
            raise ClientError("the client is not connected")
        return self.session

    def unreachable(self, error_number: int) -> Exception:
        """Why nothing can be sent."""
        if self.ended is not None:
            return raised(self.ended)
        return ConnectionEnded(f"the service cannot be reached, error {error_number}")

    # asking

    def ask(
        self,
        api_code: ButlerInterface,
        frames: tuple[Frame, ...],
        on_state: Callable[[State], object] | None = None,
        streams: bool = False,
        single: bool = False,
        flags: MsgFlag = NO_FLAGS,
        deadline: float | None = None,
        timeout: float | None = None,
    ) -> CallT:
        """A new call, whose REQUEST is in the outbox.

        It is withdrawn at the `deadline`, the end of `timeout` seconds, if it is not over by then.
        """
        session = self.session
        if session is None or self.ended is not None:
            session = self.live_session()
        token = self.new_token()
        data = [each if type(each) is bytes else frame_of(each) for each in frames]
        call = self._make_call(api_code, token, on_state, streams, single)
        if flags is NO_FLAGS:
            self.protocol.post_request(self.channel, session, api_code, token, data)
        else:
            msg = self.protocol.create_request_for(session, api_code, token)
            msg.data, msg.flags = data, flags
            self.say(msg)
        self.calls[token] = call
        if deadline is not None:
            call.deadline, call.timeout = deadline, timeout
            if deadline < self.not_before:  # noqa: PLR1730 - a call of `min` takes ten times as long
                self.not_before = deadline
        return call

    def new_call(
        self,
        api_code: ButlerInterface,
        frames: tuple[Frame, ...],
        on_state: Callable[[State], object] | None = None,
        streams: bool = False,
        single: bool = False,
    ) -> tuple[CallT, APIMessage]:
        """A call, and its REQUEST, to be said."""
        token = self.new_token()
        msg = self.protocol.create_request_for(self.live_session(), api_code, token)
        for each in frames:
            msg.data.append(each if type(each) is bytes else frame_of(each))
        call = self.calls[token] = self._make_call(api_code, token, on_state, streams, single)
        return call, msg

    def say(self, msg: FBSPMessage) -> None:
        """Put a message into the outbox."""
        session = self.live_session()
        try:
            self.channel.post(msg, session)
        except LocalProtocolError:
            self.live_session()  # it may have ended just now
            raise

    def upload(self, call: CallT, frames: tuple[Frame, ...], more: bool, acknowledge: bool) -> Callable[[], bool]:
        """Say DATA for a call; returns what tells that the service has taken it, if that was asked for."""
        msg = call.new_data(frames, more, acknowledge)
        taken = call.data_taken() if acknowledge else _nothing_to_take
        self.say(msg)
        return taken

    def acknowledge(self, msg: FBSPMessage) -> None:
        """Acknowledge a message, if that is asked for."""
        if msg.has_ack_req() and self.session is not None:
            self.channel.post(self.protocol.create_ack_reply(msg), self.session)

    def cancel(self, call: CallT) -> bytes:
        """Say CANCEL; its token."""
        token, msg = self._new_cancel(call)
        self.say(msg)
        return token

    def _new_cancel(self, call: CallT) -> tuple[bytes, CancelMessage]:
        token = self.new_token()
        msg: CancelMessage = self.protocol.create_message_for(MsgType.CANCEL, token)
        msg.request.token = call.token
        self.cancels[token] = call
        return token, msg

    def forget_cancel(self, token: bytes) -> None:
        """Nobody waits for the answer to a CANCEL any more."""
        self.cancels.pop(token, None)

    def forget(self, call: CallT) -> None:
        """The REQUEST of a call has not left."""
        self.calls.pop(call.token, None)

    def abandon(self, call: CallT, reason: Exception | None = None) -> None:
        """Nobody waits for a call any more: it is withdrawn, if it is not over, and fails with `reason`."""
        if call.over:
            return
        self.calls.pop(call.token, None)
        call.fail(reason or ClientError(f"{call.name} was withdrawn"))
        call.changed()
        self.channel.notify()
        session = self.session
        if session is None or session.find(call.token) is None:
            return  # it has not left
        try:
            token, msg = self._new_cancel(call)
            self.forget_cancel(token)
            self.channel.post(msg, session, needed=False)
        except (ConnectionEnded, LocalProtocolError):
            pass  # then it is over anyway

    def ping(self) -> AnswerKey:
        """Say a NOOP that is to be acknowledged."""
        token = self.new_token()
        self.say(self.protocol.create_message_for(MsgType.NOOP, token, flags=MsgFlag.ACK_REQ))
        self.pongs[token] = False
        return int(MsgType.NOOP), token

    def take_pong(self, token: bytes) -> None:
        """A NOOP was acknowledged."""
        if token in self.pongs:
            self.pongs[token] = True

    def is_ponged(self, token: bytes) -> bool:
        """True once a NOOP was acknowledged, or will never be."""
        return self.pongs.get(token, False) or self.ended is not None

    def check_ponged(self, token: bytes, timeout: float | None) -> None:
        """Raise if a NOOP was not acknowledged. Nobody waits for that any more."""
        if self.pongs.pop(token, False):
            return
        if self.ended is not None:
            raise raised(self.ended)
        raise RequestTimeout(f"NOOP was not acknowledged within {timeout} s")

    def new_token(self) -> bytes:
        """A token that was not used before in this session."""
        return next(self._numbers).to_bytes(TOKEN_SIZE, "big")

    # what the service says of itself

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
        """The interfaces of the service: their uids, and their numbers."""
        return {uuid.UUID(bytes=each.uid): each.number for each in self._welcome.data.api}

    @property
    def _welcome(self) -> WelcomeMessage:
        if self.welcome is None:
            raise ClientError("the client is not connected")
        return self.welcome

    # what the protocol calls

    def take_reply(self, session: Session, token: bytes, type_data: int, data: list[bytes]) -> bool:
        """A REPLY without flags has come; false if it is not just what a call waits for: then `take` it."""
        call = self.calls.get(token)
        ours = self.session
        if call is None or call.error is not None or ours is None or session is not ours:
            return False
        request = ours.requests.get(token)
        if request is None or request.phase is not Phase.OPEN or request.request_code != type_data:
            return False
        call.reply = data
        ours.advance(request, Phase.REPLIED)
        if not call.streams:
            call.over = True
            del self.calls[token]
        call.changed()
        return True

    def take(self, session: FBSPSession, msg: FBSPMessage) -> None:
        """A message has come that may belong to a call."""
        if isinstance(msg, ErrorMessage):
            if msg.relates_to is MsgType.CANCEL:
                self._take_cancel_answer(msg)
                return
            if msg.relates_to is MsgType.HELLO or session.greeting is None:
                self._refusal = msg
                return
        call = self.calls.get(msg.token)
        if call is None:
            return
        if msg.flags is not NO_FLAGS and msg.has_ack_reply():
            call.take_acknowledgement(msg)
        else:
            self._take_answer(session, call, msg)
        call.changed()

    def _take_answer(self, session: FBSPSession, call: CallT, msg: FBSPMessage) -> None:
        call.take(msg)
        if msg.msg_type is MsgType.REPLY and msg.flags is not NO_FLAGS:
            self.acknowledge(msg)
        if call.buffered > self._max_buffered:
            text = f"{call.name}: more than {self._max_buffered} bytes of DATA wait to be read; it was withdrawn"
            self.abandon(call, ServiceError(text, code=ErrorCode.INSUFFICIENT_STORAGE))
        elif call.token not in session.requests and (not call.streams or self._has_all(msg)):
            call.over = True
            del self.calls[call.token]

    def _has_all(self, msg: FBSPMessage) -> bool:
        """True if nothing more follows a message of a stream whose request has ended."""
        return act_of(msg) in (Act.DATA, Act.LAST_STATE, Act.ERROR)

    def _take_cancel_answer(self, msg: ErrorMessage) -> None:
        call = self.cancels.get(msg.token) or self.calls.get(msg.token)
        if call is not None:
            call.take_cancel_answer(msg)
            if call.over:
                self.calls.pop(call.token, None)
            call.changed()


def _nothing_to_take() -> bool:
    return True

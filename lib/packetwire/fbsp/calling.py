"""A client whose calls return results.

    with ServiceClient.connect("tcp://127.0.0.1:5000", agent=AGENT) as client:
        (now,) = client.call(ClockAPI.NOW, timeout=5)

`ServiceClient.on(connection)` is the same over a packet connection. Any thread may call, many at a time.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from packetwire.errors import ConnectionEnded, LocalProtocolError, RequestTimeout, ended_by
from packetwire.fbsp.client import FBSPClient
from packetwire.fbsp.constants import TOKEN_OCTETS, ErrorCode, MsgFlag, MsgType, State
from packetwire.fbsp.lifecycle import LIVE, Act, Phase, act_of
from packetwire.fbsp.messages import (
    APIMessage,
    DataMessage,
    ErrorMessage,
    FBSPMessage,
    StateMessage,
    WelcomeMessage,
)
from packetwire.fbsp.requests import FBSPPacketChannel
from packetwire.fbsp.serving import Frame, frame_of, this_peer
from packetwire.fbsp.session import FBSPSession
from packetwire.messaging.channel import Channel, Session
from packetwire.messaging.descriptors import AgentDescriptor, ButlerInterface, PeerDescriptor
from packetwire.messaging.errors import ClientError, ServiceError
from packetwire.messaging.message import Message
from packetwire.messaging.shared import SharedChannel, deadline_of, left_until

if TYPE_CHECKING:
    from packetwire.messaging.packets import Connection

DEFAULT_CONNECT_TIMEOUT: Final = 10.0
"""Seconds for the link to the service, and its WELCOME."""
DEFAULT_MAX_BUFFERED: Final = 64 << 20
"""Octets of DATA of one call that have not been taken yet."""

_NEVER: Final = ClientError("the client is not connected")


class Call:
    """A request to a service, from `ServiceClient.start` on.

    Iterating gives the frames of each DATA message that follows the reply, as it comes.
    """

    def __init__(
        self,
        client: ServiceClient,
        api_code: ButlerInterface,
        token: bytes,
        on_state: Callable[[State], object] | None = None,
        streams: bool = False,
    ) -> None:
        self.streams = streams
        self.api_code = api_code
        self.token = token
        self.state: State | None = None
        """What the service has said last about the work."""
        self.acknowledged = False
        """Whether the service has said that it accepts the request."""
        self.reply: list[bytes] | None = None
        self.error: Exception | None = None
        self.over = False
        """Whether nothing more is to come."""
        self._client = client
        self._on_state = on_state
        self._data: deque[DataMessage] = deque()
        self._buffered = 0
        self._data_acknowledged = 0
        self._data_sent = 0
        self._cancel_answer: ErrorMessage | None = None

    def result(self, timeout: float | None = None) -> list[bytes]:
        """The frames of the REPLY.

        Raises `ServiceError` if the service answers with an error, `ConnectionEnded` if the session ends
        first, `RequestTimeout` after `timeout` seconds, after which it can be asked again.
        """
        if not self.has_result():
            self._wait(self.has_result, timeout, (int(MsgType.REQUEST), self.token))
        if self.reply is None:
            assert self.error is not None
            raise _raised(self.error)
        return self.reply

    def has_result(self) -> bool:
        """Whether `result` has something to return or to raise."""
        return self.reply is not None or self.error is not None

    def wait_acknowledged(self, timeout: float | None = None) -> None:
        """Wait until the service accepts the request; raises as `result` does."""
        self._wait(lambda: self.acknowledged or self.reply is not None or self.error is not None, timeout)
        if self.error is not None:
            raise _raised(self.error)

    def __iter__(self) -> Iterator[list[bytes]]:
        return self.stream()

    def stream(self, timeout: float | None = None) -> Iterator[list[bytes]]:
        """The frames of each DATA message; `timeout` limits the wait for each. Raises as `result` does."""
        while True:
            self._wait(lambda: bool(self._data) or self.over, timeout)
            with self._client.channel.lock:
                msg = self._data.popleft() if self._data else None
                if msg is not None:
                    self._buffered -= sum(map(len, msg.data))
            if msg is not None:
                self._client.acknowledge(msg)
                yield msg.data
            elif self.error is not None:
                raise _raised(self.error)
            else:
                return

    def send(
        self, *frames: Frame, more: bool = False, acknowledge: bool = False, timeout: float | None = None
    ) -> None:
        """Send DATA for the request; `more` says that more follows.

        With `acknowledge` wait until the service has taken it; raises as `result` does.
        """
        client = self._client
        msg: DataMessage = client.protocol.create_message_for(MsgType.DATA, self.token)
        msg.data = [frame_of(each) for each in frames]
        msg.flags = (MsgFlag.MORE if more else MsgFlag.NONE) | (MsgFlag.ACK_REQ if acknowledge else MsgFlag.NONE)
        with client.channel.lock:
            number = self._data_sent = self._data_sent + acknowledge
        client.transmit(msg)
        if acknowledge:
            self._wait(
                lambda: self._data_acknowledged >= number or self.error is not None,
                timeout,
                (int(MsgType.DATA), self.token),
            )
            if self.error is not None:
                raise _raised(self.error)

    def cancel(self, timeout: float | None = None) -> bool:
        """Withdraw the request: whether the service has stopped the work, or the request had ended before.

        Raises `ServiceError` if the service refuses, and then the request goes on.
        """
        if self.over:
            return False
        token = self._client.send_cancel(self)
        try:
            self._wait(lambda: self._cancel_answer is not None or self.over, timeout, (int(MsgType.CANCEL), token))
        finally:
            self._client.forget_cancel(token)
        answer = self._cancel_answer
        if answer is None or answer.error_code == ErrorCode.NOT_FOUND:
            return False
        if answer.error_code != ErrorCode.REQUEST_CANCELLED:
            raise self._client.protocol.exception_for(answer)
        return True

    def _wait(self, done: Callable[[], bool], timeout: float | None, answer_to: Any = None) -> None:
        if not self._client.channel.wait_until(done, timeout, answer_to):
            if self._client.channel.closed:
                raise ConnectionEnded("the channel is closed")
            raise RequestTimeout(f"{self.api_code!r}: nothing within {timeout} s")

    def take(self, msg: FBSPMessage, protocol: FBSPClient) -> None:
        """With the lock held: a message has come for the call."""
        if isinstance(msg, ErrorMessage):
            self.fail(protocol.exception_for(msg))
        elif isinstance(msg, StateMessage):
            self.state = msg.state
            if self._on_state is not None:
                self._on_state(msg.state)
        elif isinstance(msg, APIMessage):
            self.reply = msg.data
        elif isinstance(msg, DataMessage):
            self._buffered += sum(map(len, msg.data))
            self._data.append(msg)

    def take_acknowledgement(self, msg: FBSPMessage) -> None:
        """With the lock held: the service has acknowledged the request, or DATA."""
        if msg.msg_type is MsgType.DATA:
            self._data_acknowledged += 1
        else:
            self.acknowledged = True

    def take_cancel_answer(self, msg: ErrorMessage, protocol: FBSPClient) -> None:
        """With the lock held: the service has answered our CANCEL."""
        self._cancel_answer = msg
        if msg.error_code == ErrorCode.REQUEST_CANCELLED:
            self.fail(protocol.exception_for(msg))

    def fail(self, error: Exception) -> None:
        """With the lock held: the call has failed."""
        if not self.over:
            self.error = error
            self.over = True

    @property
    def buffered(self) -> int:
        """Octets of DATA that have not been taken yet."""
        return self._buffered


class _CallProtocol(FBSPClient):
    """Hands what comes to the calls of a client."""

    client: ServiceClient

    def handle_welcome_msg(self, channel: Channel, session: FBSPSession, msg: WelcomeMessage) -> WelcomeMessage:
        super().handle_welcome_msg(channel, session, msg)
        self.client.welcome = msg
        return msg

    def handle_noop_msg(self, channel: Channel, session: FBSPSession, msg: FBSPMessage) -> Any:
        if msg.has_ack_reply():
            self.client.pongs.add(msg.token)
        return super().handle_noop_msg(channel, session, msg)

    def handle_fbsp_msg(self, channel: Channel, session: FBSPSession, msg: FBSPMessage) -> Any:
        self.client.take(channel, session, msg)
        return super().handle_fbsp_msg(channel, session, msg)

    def handle_close_msg(self, channel: Channel, session: FBSPSession, msg: FBSPMessage) -> Any:
        self.client.end(ConnectionEnded("the service has closed the session"))
        return super().handle_close_msg(channel, session, msg)

    def handle_session_lost(self, channel: Channel, session: Session, exc: Exception | None) -> None:
        self.client.end(ended_by(exc or _NEVER, f"the session has ended: {exc}"))

    def accept_new_session(self, channel: Channel, routing_id: bytes, msg: Message) -> bool:
        """No: it is the client that begins."""
        return False


class ServiceClient:
    """A client of one service: open inside `with`.

    `agent` says which program this is, `peer` which instance of it: made up, if not given. `timeout` limits
    the connecting, in seconds.
    """

    def __init__(
        self,
        channel: Callable[[FBSPClient], SharedChannel],
        open_session: Callable[[Any, float], Any],
        *,
        agent: AgentDescriptor,
        peer: PeerDescriptor | None = None,
        timeout: float = DEFAULT_CONNECT_TIMEOUT,
        max_buffered: int = DEFAULT_MAX_BUFFERED,
        **protocol: Any,
    ) -> None:
        self.agent = agent
        self.peer = peer or this_peer()
        self.protocol = _CallProtocol(**protocol)
        self.protocol.client = self
        self.channel = channel(self.protocol)
        self.session: FBSPSession | None = None
        self.welcome: WelcomeMessage | None = None
        """What the service says of itself."""
        self.pongs: set[bytes] = set()
        self.ended: Exception | None = None
        """Why the session has ended, if it has."""
        self._open_session = open_session
        self._timeout = timeout
        self._max_buffered = max_buffered
        self._calls: dict[bytes, Call] = {}
        self._cancels: dict[bytes, Call] = {}
        self._refusal: ErrorMessage | None = None
        self._numbers = itertools.count(1)
        self._close_carrier: Callable[[], object] = self.channel.close

    @classmethod
    def connect(cls, address: str, *, channel: dict[str, Any] | None = None, **client: Any) -> Self:
        """A client of the service at a ZMQ address; `channel` are further arguments of `DealerChannel`."""
        from packetwire.messaging.zmq import DealerChannel

        def open_session(dealer: DealerChannel, timeout: float) -> Any:
            session = dealer.connect(address)
            dealer.start()
            if not dealer.wait_linked(timeout):
                raise RequestTimeout(f"no link to {address} within {timeout} s")
            return session

        return cls(lambda protocol: DealerChannel(protocol, **(channel or {})), open_session, **client)

    @classmethod
    def on(cls, connection: Connection, *, channel: int = 0, **client: Any) -> Self:
        """A client of the service at the other end of a packet connection, which is opened by `with`."""

        def open_session(packets: FBSPPacketChannel, timeout: float) -> Any:
            connection.open()
            return packets.connect()

        self = cls(
            lambda protocol: FBSPPacketChannel(protocol, connection, channel=channel), open_session, **client
        )

        def close() -> None:
            self.channel.close()
            connection.close()

        self._close_carrier = close
        return self

    def __enter__(self) -> Self:
        try:
            self._greet(time.monotonic() + self._timeout)
        except BaseException:
            self._close_carrier()
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _greet(self, deadline: float) -> None:
        self.session = self._open_session(self.channel, self._timeout)
        token = bytes(TOKEN_OCTETS)
        self.protocol.send_hello(self.channel, self.session, self.agent, self.peer, token)
        answered = self.channel.wait_until(
            lambda: self.welcome is not None or self._refusal is not None or self.ended is not None,
            left_until(deadline),
            (int(MsgType.HELLO), token),
        )
        if self._refusal is not None:
            raise self.protocol.exception_for(self._refusal)
        if self.ended is not None:
            raise _raised(self.ended)
        if not answered:
            raise RequestTimeout(f"the service did not answer HELLO within {self._timeout} s")

    def close(self) -> None:
        """Send CLOSE, end all calls and close the channel. A second call does nothing."""
        session, self.session = self.session, None
        if session is not None and not session.closed:
            try:
                self.protocol.send_close(self.channel, session)
            finally:
                self.end(ConnectionEnded("the client was closed"))
        if session is not None:
            self._close_carrier()

    @property
    def service(self) -> AgentDescriptor:
        """Which program the service is."""
        return AgentDescriptor.from_proto(self._welcome.data.service)

    @property
    def service_peer(self) -> PeerDescriptor:
        """Which running instance of it."""
        return PeerDescriptor.from_proto(self._welcome.data.instance)

    @property
    def _welcome(self) -> WelcomeMessage:
        if self.welcome is None:
            raise ClientError("the client is not connected")
        return self.welcome

    def call(self, api_code: ButlerInterface, *frames: Frame, timeout: float | None = None) -> list[bytes]:
        """Ask, and wait for the frames of the REPLY; raises as `Call.result`.

        After a timeout the request is withdrawn.
        """
        call, msg = self._new_call(api_code, frames)
        session = self._live_session()
        try:
            error_number, done = self.channel.exchange(msg, session, call.has_result, timeout)
            if error_number:
                raise self._unreachable(error_number)
            return call.result(None if done else 0.0)
        except BaseException:
            if not call.over:
                self._abandon(call)
            raise

    def start(
        self,
        api_code: ButlerInterface,
        *frames: Frame,
        on_state: Callable[[State], object] | None = None,
        acknowledge: bool = False,
        more: bool = False,
        stream: bool = False,
    ) -> Call:
        """Ask, and return at once.

        `on_state(state)` is called in the thread that reads. `acknowledge` asks the service to say that it
        accepts the request. `more` announces DATA of ours. `stream` is for services that do not mark a REPLY
        that DATA follows.
        """
        call, msg = self._new_call(api_code, frames, on_state, stream)
        if acknowledge or more:
            flags = MsgFlag.ACK_REQ if acknowledge else MsgFlag.NONE
            msg.flags = flags | (MsgFlag.MORE if more else MsgFlag.NONE)
        try:
            self.transmit(msg)
        except BaseException:
            self._calls.pop(call.token, None)
            raise
        return call

    def _new_call(
        self,
        api_code: ButlerInterface,
        frames: tuple[Frame, ...],
        on_state: Callable[[State], object] | None = None,
        stream: bool = False,
    ) -> tuple[Call, APIMessage]:
        token = self._token()
        msg = self.protocol.create_request_for(self._live_session(), api_code, token)
        msg.data = [frame_of(each) for each in frames]
        call = self._calls[token] = Call(self, api_code, token, on_state, stream)
        return call, msg

    def ping(self, timeout: float | None = None) -> float:
        """Seconds that a NOOP and its acknowledgement took."""
        token = self._token()
        msg = self.protocol.create_message_for(MsgType.NOOP, token, flags=MsgFlag.ACK_REQ)
        began = time.monotonic()
        deadline = deadline_of(timeout)
        self.transmit(msg)
        done = self.channel.wait_until(
            lambda: token in self.pongs or self.ended is not None, left_until(deadline), (int(MsgType.NOOP), token)
        )
        if token in self.pongs:
            self.pongs.discard(token)
            return time.monotonic() - began
        if done and self.ended is not None:
            raise _raised(self.ended)
        raise RequestTimeout(f"NOOP was not acknowledged within {timeout} s")

    # what calls use

    def transmit(self, msg: FBSPMessage) -> None:
        """Send a message of a call; raises `ConnectionEnded` if there is no way to the service."""
        session = self._live_session()
        try:
            error_number = self.channel.send(msg, session)
        except LocalProtocolError:
            self._live_session()  # it may have ended just now
            raise
        if error_number:
            raise self._unreachable(error_number)

    def _unreachable(self, error_number: int) -> Exception:
        if self.ended is not None:
            return _raised(self.ended)
        return ConnectionEnded(f"the service cannot be reached, error {error_number}")

    def acknowledge(self, msg: FBSPMessage) -> None:
        """Send an acknowledgement, if one is asked for."""
        if msg.has_ack_req() and self.session is not None:
            self.channel.send(self.protocol.create_ack_reply(msg), self.session)

    def send_cancel(self, call: Call) -> bytes:
        """Send CANCEL; its token."""
        token = self._token()
        msg = self.protocol.create_message_for(MsgType.CANCEL, token)
        msg.request.token = call.token
        self._cancels[token] = call
        self.transmit(msg)
        return token

    def forget_cancel(self, token: bytes) -> None:
        """Nobody waits for the answer to a CANCEL any more."""
        self._cancels.pop(token, None)

    def _abandon(self, call: Call) -> None:
        self._calls.pop(call.token, None)
        try:
            self.forget_cancel(self.send_cancel(call))
        except (ConnectionEnded, LocalProtocolError):
            pass  # then it is over anyway

    def _token(self) -> bytes:
        return next(self._numbers).to_bytes(TOKEN_OCTETS, "big")

    def _live_session(self) -> FBSPSession:
        if self.ended is not None:
            raise _raised(self.ended)
        if self.session is None:
            raise ClientError("the client is not connected")
        return self.session

    # what the protocol calls, with the lock held

    def take(self, channel: Channel, session: FBSPSession, msg: FBSPMessage) -> None:
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
            return
        call.take(msg, self.protocol)
        if msg.msg_type is MsgType.REPLY:
            self.acknowledge(msg)
        pending = session.find(call.token)
        phase = pending.phase if pending is not None else Phase.REPLIED
        if call.buffered > self._max_buffered:
            self._abandon(call)
            call.fail(ServiceError("more DATA than may be kept", code=ErrorCode.INSUFFICIENT_STORAGE))
        elif phase not in LIVE and self._has_all(call, msg):
            call.over = True
            del self._calls[call.token]

    def _has_all(self, call: Call, msg: FBSPMessage) -> bool:
        """Whether nothing more follows a message of a request that has ended."""
        return not call.streams or act_of(msg) in (Act.DATA, Act.LAST_STATE, Act.ERROR)

    def _take_cancel_answer(self, msg: ErrorMessage) -> None:
        call = self._cancels.get(msg.token) or self._calls.get(msg.token)
        if call is not None:
            call.take_cancel_answer(msg, self.protocol)
            if call.over:
                self._calls.pop(call.token, None)

    def end(self, cause: Exception) -> None:
        """The session has ended: so have all calls."""
        if self.ended is None:
            self.ended = cause
        for call in self._calls.values():
            call.fail(cause)
        self._calls.clear()
        self.channel.notify()


def _raised(error: Exception) -> Exception:
    """An exception to raise in one of several threads that may wait."""
    return error.for_waiter() if isinstance(error, ConnectionEnded) else error

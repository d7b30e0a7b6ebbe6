"""A request to a service, and what has come of it: all of it but the waiting."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from packetwire.errors import ConnectionEnded, RequestTimeout
from packetwire.fbsp.client import FBSPClient
from packetwire.fbsp.constants import ErrorCode, MsgFlag, MsgType, State
from packetwire.fbsp.frames import Frame, frame_of, weight_of
from packetwire.fbsp.messages import NO_FLAGS, APIMessage, DataMessage, ErrorMessage, FBSPMessage, StateMessage
from packetwire.messaging.descriptors import ButlerInterface
from packetwire.messaging.errors import ClientError

logger = logging.getLogger("packetwire")


class Asker(Protocol):
    """A client, as its calls see it."""

    @property
    def protocol(self) -> FBSPClient:
        """The client's side of FBSP."""
        ...


class CallState:
    """A request to a service, and what has come of it."""

    # what most calls leave as it is, so that making one takes less
    state: State | None = None
    """The last thing that the service has said about the work."""
    acknowledged = False
    """True once the service has said that it accepts the request."""
    deadline: float | None = None
    """The time at which it is withdrawn, if it is not over then."""
    timeout: float | None = None
    """Seconds from its beginning until then."""
    reply: list[bytes] | None = None
    error: Exception | None = None
    over = False
    """True once nothing more is to come."""
    buffered = 0
    """Bytes of DATA that have not been taken yet, each frame and message counting some more."""
    _data: Sequence[DataMessage] = ()
    _data_acknowledged = 0
    _data_sent = 0
    _has_streamed = _reply_taken = False
    _cancel_answer: ErrorMessage | None = None

    def __init__(
        self,
        client: Asker,
        api_code: ButlerInterface,
        token: bytes,
        on_state: Callable[[State], object] | None = None,
        streams: bool = False,
        single: bool = False,
    ) -> None:
        self.streams = streams
        self.single = single
        """True if one REPLY is all that may come: nobody will read a stream."""
        self.api_code = api_code
        self.token = token
        self._client = client
        self._on_state = on_state

    @property
    def name(self) -> str:
        """Which call of which interface."""
        return name_of(self.api_code)

    # what to wait for, and what came of it

    def has_result(self) -> bool:
        """True once `result` has something to return or to raise."""
        return self.reply is not None or self.error is not None

    def outcome(self) -> list[bytes]:
        """The frames of the REPLY, once `has_result`; raises if there is none."""
        if self.reply is None:
            assert self.error is not None
            raise raised(self.error)
        self._reply_taken = True
        return self.reply

    def is_accepted(self) -> bool:
        """True once the service has acknowledged the request, or has already answered it."""
        return self.acknowledged or self.has_result()

    def has_data(self) -> bool:
        """True once there is DATA to take, or will be none."""
        return bool(self._data) or self.over

    def take_data(self) -> DataMessage | None:
        """The next DATA, once `has_data`; None at the end of the stream. Raises if that is a failure."""
        data = self._data
        if not isinstance(data, deque) or not data:
            self.check()
            self._check_streamed()
            return None
        msg: DataMessage = data.popleft()
        self.buffered -= weight_of(msg.data)
        return msg

    def check(self) -> None:
        """Raise what the call has failed with, if it has."""
        if self.error is not None:
            raise raised(self.error)

    def _check_streamed(self) -> None:
        """Raise if the service has replied, and nobody has looked at that, because a stream was expected."""
        if self.reply and not (self._has_streamed or self._reply_taken or self.streams):
            raise ClientError(
                f"{self.name} has answered by a reply, not by a stream: call(), or result(), returns its frames"
            )

    def late(self, timeout: float | None) -> RequestTimeout:
        """The exception for an answer that did not come within `timeout` seconds."""
        hint = ""
        if self.streams and self.reply is not None and not self._has_streamed:
            hint = "; it has replied without announcing DATA, and may be no stream"
        return RequestTimeout(f"{self.name}: nothing within {timeout} s{hint}")

    def new_data(self, frames: tuple[Frame, ...], more: bool, acknowledge: bool) -> DataMessage:
        """DATA for the request, to be sent."""
        msg: DataMessage = self._client.protocol.create_message_for(MsgType.DATA, self.token)
        msg.data = [frame_of(each) for each in frames]
        msg.flags = request_flags(more, acknowledge)
        return msg

    def data_taken(self) -> Callable[[], bool]:
        """DATA that is to be acknowledged is about to be sent: what says that the service has taken it."""
        self._data_sent += 1
        number = self._data_sent
        return lambda: self._data_acknowledged >= number or self.over

    def check_taken(self) -> None:
        """Raise if the call has ended and has not taken all DATA whose acknowledgement was asked for."""
        self.check()
        if self._data_acknowledged < self._data_sent:
            raise ClientError(f"{self.name} has ended without taking the DATA that it was sent")

    def is_cancel_answered(self) -> bool:
        """True once the service has answered our CANCEL, or the request has ended otherwise."""
        return self._cancel_answer is not None or self.over

    def was_cancelled(self) -> bool:
        """True if the service has stopped the work, once `is_cancel_answered`; raises if it refuses to."""
        answer = self._cancel_answer
        if answer is None or answer.error_code == ErrorCode.NOT_FOUND:
            return False
        if answer.error_code != ErrorCode.REQUEST_CANCELLED:
            raise self._client.protocol.exception_for(answer)
        return True

    # what the client calls

    def take(self, msg: FBSPMessage) -> None:
        """A message has come for the call."""
        if (
            msg.msg_type is MsgType.REPLY and msg.flags is NO_FLAGS and isinstance(msg, APIMessage)
        ):  # as it mostly is
            if self.error is None:
                self.reply = msg.data
            return
        if msg.msg_type is MsgType.DATA or (msg.msg_type is MsgType.REPLY and msg.has_more()):
            self._has_streamed = True
            if self.single:
                self._refuse_stream()
                return
        if isinstance(msg, APIMessage) and msg.msg_type is MsgType.REPLY:
            if self.error is None:
                self.reply = msg.data
        elif isinstance(msg, ErrorMessage):
            self.fail(self._client.protocol.exception_for(msg))
        elif isinstance(msg, StateMessage):
            self.state = msg.state
            if self._on_state is not None:
                try:
                    self._on_state(msg.state)
                except Exception:  # the call goes on: STATE is still acknowledged, and may be its end
                    logger.exception("%r: on_state failed", self.api_code)
        elif isinstance(msg, DataMessage):
            self.buffered += weight_of(msg.data)
            if not isinstance(self._data, deque):
                self._data = deque()
            self._data.append(msg)

    def _refuse_stream(self) -> None:
        """Nobody reads the stream, so nothing of it is kept; who waits for the reply withdraws the request."""
        self.error = self.error or ClientError(
            f"{self.name} answers by a stream: ask with start(), and iterate over the call; it was withdrawn"
        )

    def take_acknowledgement(self, msg: FBSPMessage) -> None:
        """The service has acknowledged the request, or DATA."""
        if msg.msg_type is MsgType.DATA:
            self._data_acknowledged += 1
        else:
            self.acknowledged = True

    def take_cancel_answer(self, msg: ErrorMessage) -> None:
        """The service has answered our CANCEL."""
        self._cancel_answer = msg
        if msg.error_code == ErrorCode.REQUEST_CANCELLED:
            self.fail(self._client.protocol.exception_for(msg))

    def fail(self, error: Exception) -> None:
        """The call has failed."""
        if not self.over:
            self.error = error
            self.over = True

    def changed(self) -> None:
        """Something has come for the call: for subclasses whose waiting is not the channel's matter."""


def name_of(api_code: ButlerInterface) -> str:
    """Which call of which interface."""
    return f"{type(api_code).__name__}.{api_code.name}"


def raised(error: Exception) -> Exception:
    """An exception to raise in one of several that may wait."""
    return error.for_waiter() if isinstance(error, ConnectionEnded) else error


def request_flags(more: bool, acknowledge: bool) -> MsgFlag:
    """The flags of what the client sends."""
    if not (more or acknowledge):
        return NO_FLAGS
    return (MsgFlag.MORE if more else MsgFlag.NONE) | (MsgFlag.ACK_REQ if acknowledge else MsgFlag.NONE)

"""A client whose calls return results.

    with ServiceClient.connect("tcp://127.0.0.1:5000", agent=AGENT) as client:
        (now,) = client.call(ClockAPI.NOW, timeout=5)

`ServiceClient.on(connection)` is the same over a packet connection. Any thread may call, many at a time.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from packetwire.errors import ConnectionEnded, RequestTimeout
from packetwire.fbsp.calls import AnswerKey, CallBook
from packetwire.fbsp.callstate import CallState
from packetwire.fbsp.client import FBSPClient
from packetwire.fbsp.constants import MsgType, State
from packetwire.fbsp.frames import Frame
from packetwire.fbsp.requests import FBSPPacketChannel
from packetwire.messaging.descriptors import ButlerInterface
from packetwire.messaging.shared import SharedChannel, deadline_of, left_until
from packetwire.streams import forking

if TYPE_CHECKING:
    from packetwire.messaging.packets import Connection


class Call(CallState):
    """A request to a service, from `ServiceClient.start` on.

    Iterating gives the frames of each DATA message that follows the reply, as it comes.
    """

    _client: ServiceClient

    def result(self, timeout: float | None = None) -> list[bytes]:
        """The frames of the REPLY.

        Raises `ServiceError` if the service answers with an error, `ConnectionEnded` if the session ends
        first, `RequestTimeout` after `timeout` seconds, after which it can be asked again.
        """
        if not self.has_result():
            self._wait(self.has_result, timeout, (int(MsgType.REQUEST), self.token))
        return self.outcome()

    def wait_acknowledged(self, timeout: float | None = None) -> None:
        """Wait until the service accepts the request; raises as `result` does."""
        self._wait(self.is_accepted, timeout)
        self.check()

    def __iter__(self) -> Iterator[list[bytes]]:
        return self.stream()

    def stream(self, timeout: float | None = None) -> Iterator[list[bytes]]:
        """The frames of each DATA message; `timeout` limits the wait for each. Raises as `result` does."""
        while True:
            self._wait(self.has_data, timeout)
            with self._client.channel.lock:
                msg = self.take_data()
            if msg is None:
                return
            self._client.acknowledge(msg)
            yield msg.data

    def send(
        self, *frames: Frame, more: bool = False, acknowledge: bool = False, timeout: float | None = None
    ) -> None:
        """Send DATA for the request; `more` says that more follows.

        With `acknowledge` wait until the service has taken it; raises as `result` does, and `ClientError` if the
        call ends before.
        """
        msg = self.new_data(frames, more, acknowledge)
        if not acknowledge:
            self._client.transmit(msg)
            return
        with self._client.channel.lock:
            taken = self.data_taken()
        self._client.transmit(msg)
        # not for the answer to DATA alone: the call may end first, and then DATA is never acknowledged
        self._wait(taken, timeout)
        self.check_taken()

    def cancel(self, timeout: float | None = None) -> bool:
        """Withdraw the request: whether the service has stopped the work, or the request had ended before.

        Raises `ServiceError` if the service refuses, and then the request goes on.
        """
        if self.over:
            return False
        token = self._client.send_cancel(self)
        try:
            self._wait(self.is_cancel_answered, timeout, (int(MsgType.CANCEL), token))
        finally:
            self._client.forget_cancel(token)
        return self.was_cancelled()

    def _wait(self, done: Callable[[], bool], timeout: float | None, answer_to: AnswerKey | None = None) -> None:
        if not self._client.channel.wait_until(done, timeout, answer_to):
            raise self.missing(timeout)

    def missing(self, timeout: float | None) -> Exception:
        """Why there is no answer after `timeout` seconds."""
        return ConnectionEnded("the channel is closed") if self._client.channel.closed else self.late(timeout)


class ServiceClient(CallBook[Call, SharedChannel]):
    """A client of one service: open inside `with`.

    `agent` says which program this is, `peer` which instance of it: made up, if not given. `timeout` limits
    the connecting, in seconds.
    """

    def __init__(
        self,
        channel: Callable[[FBSPClient], SharedChannel],
        open_session: Callable[[Any, float], Any],
        **client: Any,
    ) -> None:
        super().__init__(channel, Call, **client)
        self._open_session = open_session
        self._close_carrier: Callable[[], object] = self.channel.close
        forking.register(self)

    def after_fork(self) -> None:
        """In the child of a fork: the client is the parent's."""
        self.leave(ConnectionEnded(forking.of_parent(f"this {type(self).__name__}")))

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
            self._greet(time.monotonic() + self._connect_timeout)
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
        self.session = self._open_session(self.channel, self._connect_timeout)
        answer_to = self.say_hello()
        self.check_greeted(self.channel.wait_until(self.is_greeted, left_until(deadline), answer_to))

    def close(self) -> None:
        """Send CLOSE, end all calls and close the channel. A second call does nothing."""
        if self.say_close():
            self._close_carrier()

    def call(self, api_code: ButlerInterface, *frames: Frame, timeout: float | None = None) -> list[bytes]:
        """Ask, and wait for the frames of the REPLY; raises as `Call.result`, and `ClientError` for a stream.

        After a timeout, and if it is a stream that follows, the request is withdrawn.
        """
        call, msg = self.new_call(api_code, frames, single=True)
        try:
            error_number, done = self.channel.exchange(msg, self.live_session(), call.has_result, timeout)
            if error_number == errno.EAGAIN and self.ended is None:
                raise RequestTimeout(f"{call.name}: the service did not take the request within {timeout} s")
            if error_number:
                raise self.unreachable(error_number)
            if not done and not call.has_result():
                raise call.missing(timeout)
            return call.outcome()
        except BaseException:
            self.abandon(call)
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
        call, msg = self.new_call(api_code, frames, on_state, stream)
        self.transmit_request(call, msg, acknowledge, more)
        return call

    def ping(self, timeout: float | None = None) -> float:
        """Seconds that a NOOP and its acknowledgement took."""
        began = time.monotonic()
        deadline = deadline_of(timeout)
        answer_to = _, token = self.say_noop()
        self.channel.wait_until(lambda: self.is_ponged(token), left_until(deadline), answer_to)
        self.check_ponged(token, timeout)
        return time.monotonic() - began

    def _drop(self, call: Call, reason: Exception) -> bool:
        with self.channel.lock:
            dropped = super()._drop(call, reason)
            self.channel.notify()
        return dropped

    def end(self, cause: Exception) -> None:
        with self.channel.lock:
            super().end(cause)
            self.channel.notify()

"""A client whose calls return results.

    with ServiceClient.connect("tcp://127.0.0.1:5000", agent=AGENT) as client:
        (now,) = client.call(ClockAPI.NOW, timeout=5)

`ServiceClient.on(connection)` is the same over a packet connection. Any thread may call, many at a time.

Strategy: all that is known of the session and its calls is in a `ClientCore`, which is used under the lock of its
channel; the channel carries what stands in the outbox, and is what threads wait on.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from packetwire.errors import ConnectionEnded, RequestTimeout
from packetwire.fbsp.callbook import CallBook
from packetwire.fbsp.callstate import CallState, request_flags
from packetwire.fbsp.client import FBSPClient
from packetwire.fbsp.clientcore import AnswerKey
from packetwire.fbsp.constants import MsgType, State
from packetwire.fbsp.frames import Frame
from packetwire.fbsp.requests import FBSPPacketChannel
from packetwire.messaging.descriptors import ButlerInterface
from packetwire.messaging.shared import SOON, SharedChannel, deadline_of, left_until
from packetwire.streams import forking

if TYPE_CHECKING:
    from packetwire.messaging.packets import Connection

_REQUEST = int(MsgType.REQUEST)


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
            self._wait(self.has_result, timeout, (_REQUEST, self.token))
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
                if msg is not None and msg.has_ack_req():
                    self._client.core.acknowledge(msg)
            if msg is None:
                return
            if msg.has_ack_req():
                self._client.carry()
            yield msg.data

    def send(
        self, *frames: Frame, more: bool = False, acknowledge: bool = False, timeout: float | None = None
    ) -> None:
        """Send DATA for the request; `more` says that more follows.

        With `acknowledge` wait until the service has taken it; raises as `result` does, and `ClientError` if the
        call ends before.
        """
        client = self._client
        client.wait_for_room()
        with client.channel.lock:
            taken = client.core.upload(self, frames, more, acknowledge)
        client.carry()
        if acknowledge:
            # not for the answer to DATA alone: the call may end first, and then DATA is never acknowledged
            self._wait(taken, timeout)
            self.check_taken()

    def cancel(self, timeout: float | None = None) -> bool:
        """Withdraw the request: whether the service has stopped the work, or the request had ended before.

        Raises `ServiceError` if the service refuses, and then the request goes on.
        """
        if self.over:
            return False
        client = self._client
        client.wait_for_room()
        with client.channel.lock:
            token = client.core.cancel(self)
        try:
            client.carry()
            self._wait(self.is_cancel_answered, timeout, (int(MsgType.CANCEL), token))
        finally:
            client.core.forget_cancel(token)
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
        super().__init__(channel, partial(Call, self), **client)
        self._open_session = open_session
        self._close_carrier: Callable[[], object] = self.channel.close
        forking.register(self)

    @classmethod
    def connect(cls, address: str, *, channel: dict[str, Any] | None = None, **client: Any) -> Self:
        """A client of the service at a ZMQ address; `channel` are further arguments of `DealerChannel`."""
        from packetwire.messaging.zmq import DealerChannel

        def open_session(dealer: DealerChannel, timeout: float) -> object:
            session = dealer.connect(address)
            dealer.start()
            if not dealer.wait_linked(timeout):
                raise RequestTimeout(f"no link to {address} within {timeout} s")
            return session

        return cls(lambda protocol: DealerChannel(protocol, **(channel or {})), open_session, **client)

    @classmethod
    def on(cls, connection: Connection, *, channel: int = 0, **client: Any) -> Self:
        """A client of the service at the other end of a packet connection, which is opened by `with`."""

        def open_session(packets: FBSPPacketChannel, timeout: float) -> object:
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
            self._greet()
        except BaseException:
            self._close_carrier()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _greet(self) -> None:
        began = time.monotonic()
        session = self._open_session(self.channel, self._connect_timeout)
        with self.channel.lock:
            answer_to = self.core.hello(session, began, self._connect_timeout)
        self.carry()
        deadline = began + self._connect_timeout
        if not self.channel.wait_until(self.core.is_greeted, left_until(deadline), answer_to):
            with self.channel.lock:
                self.core.expire(deadline)
        self.core.check_greeted()

    def close(self) -> None:
        """Send CLOSE, end all calls and close the channel. A second call does nothing, nor does one in a fork."""
        if self.channel.forked:
            return
        with self.channel.lock:
            has_ended = self.core.close()
        if has_ended:
            self._close_carrier()

    def call(self, api_code: ButlerInterface, *frames: Frame, timeout: float | None = None) -> list[bytes]:
        """Ask, and wait for the frames of the REPLY; raises as `Call.result`, and `ClientError` for a stream.

        After a timeout, and if it is a stream that follows, the request is withdrawn.
        """
        core, channel = self.core, self.channel
        deadline = deadline_of(timeout)
        if channel.outbox:
            self.wait_for_room(timeout)
        with channel.lock:
            call = core.ask(api_code, frames, single=True, deadline=deadline, timeout=timeout)
            session = core.live_session()
        try:
            error_number, done = channel.converse(session, call.has_result, deadline, (_REQUEST, call.token))
            if not done and not call.has_result():
                self._conclude(call, error_number, timeout)
            return call.outcome()
        except BaseException:
            if not call.over:
                self.abandon(call)
            raise

    def _conclude(self, call: Call, error_number: int, timeout: float | None) -> None:
        """There is no result: raise the reason; if time is up, the call is withdrawn."""
        if error_number == errno.EAGAIN and self.ended is None:
            raise RequestTimeout(f"{call.name}: the service did not take the request within {timeout} s")
        if error_number:
            raise self.core.unreachable(error_number)
        if self.channel.closed or call.deadline is None:
            raise ConnectionEnded("the channel is closed")
        with self.channel.lock:
            self.core.expire(call.deadline)
        self._carry_soon()

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
        self.wait_for_room()
        with self.channel.lock:
            call = self.core.ask(api_code, frames, on_state, stream, flags=request_flags(more, acknowledge))
        try:
            self.carry()
        except BaseException:
            self.core.forget(call)
            raise
        return call

    def ping(self, timeout: float | None = None) -> float:
        """Seconds that a NOOP and its acknowledgement took."""
        began = time.monotonic()
        deadline = deadline_of(timeout)
        self.wait_for_room()
        with self.channel.lock:
            answer_to = _, token = self.core.ping()
        self.carry()
        self.channel.wait_until(lambda: self.core.is_ponged(token), left_until(deadline), answer_to)
        self.core.check_ponged(token, timeout)
        return time.monotonic() - began

    def abandon(self, call: Call, reason: Exception | None = None) -> None:
        """Nobody waits for a call any more: it is withdrawn, if it is not over, and fails with `reason`."""
        with self.channel.lock:
            self.core.abandon(call, reason)
        self._carry_soon()

    def _carry_soon(self) -> None:
        """Have a CANCEL sent, which is not worth a long wait."""
        session = self.session
        if session is not None and self.channel.outbox:
            self.channel.carry(session, SOON)

    def wait_for_room(self, timeout: float | None = None) -> None:
        """Wait until nothing is left in the outbox, so that not more and more comes to stand there."""
        session = self.core.live_session()
        if self.channel.outbox and self.channel.carry(session, timeout) == errno.EAGAIN and self.ended is None:
            raise RequestTimeout(f"the service did not take what it was sent before within {timeout} s")

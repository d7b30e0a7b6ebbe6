"""The protocol of a client. No socket, no thread, no clock.

A request is an `Exchange`, which is done when its response has come, its time is up, or the server is gone.
Messages to send are in `outbox`; received frames go in by `receive`; `expire` has to be called at `next_deadline`.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from packetwire.errors import LimitExceeded, LocalProtocolError, PacketwireError, RequestTimeout
from packetwire.hololinked.constants import (
    DEFAULT_MAX_MESSAGE_SIZE,
    DEFAULT_MAX_OUTSTANDING,
    HANDSHAKE,
    HANDSHAKE_INTERVAL,
    RESPONSE_GRACE,
    UNCOLLECTED_SECONDS,
    UNREACHABLE_INTERVAL,
)
from packetwire.hololinked.deadlines import Deadlines
from packetwire.hololinked.errors import HandshakeFailed, InvalidMessage
from packetwire.hololinked.messages import RequestMessage, ResponseMessage, ServerExecutionContext

logger = logging.getLogger("packetwire")

_AGAIN: Final = "again"
"""The deadline at which a handshake is repeated."""


class Exchange:
    """A request and its outcome."""

    __slots__ = ("_on_done", "_response", "done", "error", "message_id", "waited_for")

    def __init__(self, message_id: str) -> None:
        self.message_id = message_id
        self.done = False
        self.error: PacketwireError | None = None
        self.waited_for = False
        self._response: ResponseMessage | None = None
        self._on_done: tuple[Callable[[], None], ...] = ()

    def when_done(self, call: Callable[[], None]) -> None:
        """Call `call` once it is done; at once if it is."""
        if self.done:
            call()
        else:
            self._on_done += (call,)

    def finish(self, response: ResponseMessage | None = None, error: PacketwireError | None = None) -> None:
        """End the exchange."""
        self.done, self._response, self.error = True, response, error
        for call in self._on_done:
            call()

    def result(self) -> ResponseMessage:
        """The response. Raises the error that ended the exchange without one."""
        if self.error is not None:
            raise self.error
        assert self._response is not None
        return self._response


class ClientCore:
    """One client's exchanges with its server."""

    def __init__(
        self,
        client_id: str,
        server_id: str,
        *,
        max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE,
        max_outstanding: int = DEFAULT_MAX_OUTSTANDING,
    ) -> None:
        self.client_id = client_id
        self.server_id = server_id
        self.max_message_size = max_message_size
        self.max_outstanding = max_outstanding
        self.outbox: deque[list[bytes]] = deque()
        self.dropped = 0
        """Messages that were invalid, or that nobody waited for."""
        self._exchanges: dict[str, Exchange] = {}
        self._unanswered = 0
        self._deadlines: Deadlines[Exchange | str] = Deadlines()
        self._handshake: Exchange | None = None

    def __len__(self) -> int:
        """The number of exchanges that are not done, or not collected."""
        return len(self._exchanges)

    @property
    def idle(self) -> bool:
        """True if no response is outstanding, not even that to a handshake."""
        return not self._unanswered and self._handshake is None

    @property
    def handshaking(self) -> bool:
        """True if a handshake is under way."""
        return self._handshake is not None

    # asking

    def request(self, message: RequestMessage, now: float, timeout: float | None) -> Exchange | None:
        """Send an OPERATION or EXIT; None if there will be no response.

        `timeout` is in seconds. Raises `LimitExceeded` if the message is too long, or too many are under way.
        """
        frames = message.byte_array
        size = sum(map(len, frames))
        if size > self.max_message_size:
            raise LimitExceeded(f"a message has at most {self.max_message_size} bytes, this one {size}")
        if message.header.serverExecutionContext.oneway:
            self.outbox.append(frames)
            return None
        if self._deadlines.not_before <= now:
            self.expire(now)
        if len(self._exchanges) >= self.max_outstanding:
            raise LimitExceeded(f"{len(self._exchanges)} requests have no response, or it was not collected")
        message_id = message.header.messageID
        exchange = self._exchanges[message_id] = Exchange(message_id)
        self._unanswered += 1
        if timeout is not None:
            self._deadlines.set(exchange, now + timeout)
        self.outbox.append(frames)
        return exchange

    def handshake(self, now: float, timeout: float | None) -> Exchange:
        """Send HANDSHAKE, again and again, until one is answered."""
        if self._handshake is None:
            self._handshake = Exchange("")
            if timeout is not None:
                self._deadlines.set(self._handshake, now + timeout)
            self._send_handshake(now)
        return self._handshake

    def _send_handshake(self, now: float) -> None:
        message = RequestMessage.craft_with_message_type(self.client_id, self.server_id, HANDSHAKE)
        self.outbox.append(message.byte_array)
        self._deadlines.set(_AGAIN, now + HANDSHAKE_INTERVAL)

    def unreachable(self, now: float) -> bool:
        """Note that there was no link to send over; True if a handshake is under way, which is repeated."""
        if self._handshake is not None:
            self._deadlines.set(_AGAIN, now + UNREACHABLE_INTERVAL)
        return self._handshake is not None

    def find(self, message_id: str) -> Exchange:
        """The exchange of a request that was sent. Raises `LocalProtocolError` if there is none to wait for."""
        exchange = self._exchanges.get(message_id)
        if exchange is None:
            raise LocalProtocolError(f"no response is awaited for {message_id!r}")
        if exchange.waited_for:
            raise LocalProtocolError(f"the response for {message_id!r} is waited for already")
        return exchange

    def limit(self, exchange: Exchange, when: float) -> None:
        """Have an exchange end at `when`, if it does not end before."""
        set_for = self._deadlines.get(exchange)
        if set_for is None or when < set_for:
            self._deadlines.set(exchange, when)

    def forget(self, exchange: Exchange) -> None:
        """Drop an exchange: nobody waits for it any more."""
        if self._exchanges.pop(exchange.message_id, None) is not None and not exchange.done:
            self._unanswered -= 1
        self._deadlines.remove(exchange)
        if exchange is self._handshake:
            self._end_handshake()

    def forget_id(self, message_id: str) -> None:
        """Drop the exchange with that id, if there is one."""
        exchange = self._exchanges.get(message_id)
        if exchange is not None:
            self.forget(exchange)

    def awaits(self, message_id: str) -> bool:
        """True if a response is outstanding, or was not collected."""
        return message_id in self._exchanges

    def lose(self, error: Callable[[], PacketwireError], now: float, *, handshake: bool = False) -> None:
        """End all exchanges, as the server is gone. A handshake goes on unless `handshake`."""
        for exchange in list(self._exchanges.values()):
            if not exchange.done:
                self._finish(exchange, error=error(), now=now)
        if handshake and self._handshake is not None:
            self._finish_handshake(error=error())

    # receiving

    def receive(self, frames: Sequence[bytes], now: float) -> None:
        """Receive a message."""
        try:
            response = ResponseMessage(frames)
        except InvalidMessage as error:
            self._refuse(error, now)
            return
        header = response.header
        if header.messageType == HANDSHAKE:
            if self._handshake is not None:
                self._finish_handshake(response)
            return
        exchange = self._exchanges.get(header.messageID)
        if exchange is None or exchange.done:
            self.dropped += 1
            logger.debug("%s: nobody waits for the response %s", self.client_id, response.id)
        else:
            self._finish(exchange, response, now=now)

    def _refuse(self, error: InvalidMessage, now: float) -> None:
        self.dropped += 1
        # at WARNING once only: the server must not fill the log
        level = logging.WARNING if self.dropped == 1 else logging.DEBUG
        logger.log(level, "%s: a message of %s is dropped: %s", self.client_id, self.server_id, error)
        exchange = self._exchanges.get(error.message_id)
        if exchange is not None and not exchange.done:
            self._finish(exchange, error=error, now=now)

    # time

    def expire(self, now: float) -> None:
        """End exchanges whose time is up, and repeat a handshake if that is due."""
        for item in self._deadlines.due(now):
            if isinstance(item, str):
                self._send_handshake(now)
            elif item is self._handshake:
                self._finish_handshake(
                    error=HandshakeFailed(f"{self.server_id!r} did not answer the handshake of {self.client_id!r}")
                )
            elif item.done:
                self._exchanges.pop(item.message_id, None)
            else:
                self._finish(item, error=RequestTimeout(f"{self.server_id!r} did not answer in time"), now=now)

    def next_deadline(self) -> float | None:
        """The time at which `expire` has to be called, if any."""
        return self._deadlines.next()

    @property
    def not_before(self) -> float:
        """A lower bound of `next_deadline`, which is quicker to get; infinity for never."""
        return self._deadlines.not_before

    def _finish(
        self,
        exchange: Exchange,
        response: ResponseMessage | None = None,
        error: PacketwireError | None = None,
        *,
        now: float,
    ) -> None:
        if exchange.waited_for:
            self._deadlines.remove(exchange)
        else:
            self._deadlines.set(exchange, now + UNCOLLECTED_SECONDS)
        self._unanswered -= 1
        exchange.finish(response, error)

    def _finish_handshake(
        self, response: ResponseMessage | None = None, error: PacketwireError | None = None
    ) -> None:
        exchange = self._handshake
        self._end_handshake()
        if exchange is not None:
            exchange.finish(response, error)

    def _end_handshake(self) -> None:
        if self._handshake is not None:
            self._deadlines.remove(self._handshake)
        self._deadlines.remove(_AGAIN)
        self._handshake = None


def response_timeout(context: ServerExecutionContext) -> float | None:
    """Seconds within which a server that keeps to the request's timeouts has answered; None for no limit."""
    if context.invokationTimeout is None or context.executionTimeout is None:
        return None
    return context.invokationTimeout + context.executionTimeout + RESPONSE_GRACE

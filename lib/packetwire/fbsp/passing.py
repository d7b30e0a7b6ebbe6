"""The work of a gateway for one client: messages from one channel to another, by threads.

Strategy: what the service says is said to the client by the thread that reads it, which waits while the client
takes nothing, so that the service has to wait, too. In the other direction nothing may wait, as one thread reads
for all clients of a ZMQ socket: messages are put into a bounded queue, and a thread for each client connects, and
says them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from typing import Final, Protocol

from packetwire.addresses import Address
from packetwire.errors import LimitExceeded, LocalProtocolError, PacketwireError
from packetwire.fbsp.constants import ErrorCode, MsgType
from packetwire.fbsp.messages import NO_TOKEN, FBSPMessage
from packetwire.fbsp.passage import BackProtocol, ClientSession, FrontProtocol, refuses_hello
from packetwire.fbsp.requests import FBSPPacketChannel
from packetwire.fbsp.session import FBSPSession
from packetwire.messaging.packets import PEER
from packetwire.messaging.session import Session
from packetwire.messaging.shared import SharedChannel

logger = logging.getLogger("packetwire")

MESSAGE_WEIGHT: Final = 500
"""Bytes that each message counts in addition while it waits."""

_HELLO, _NOOP, _DATA, _CANCEL, _STATE = map(
    int, (MsgType.HELLO, MsgType.NOOP, MsgType.DATA, MsgType.CANCEL, MsgType.STATE)
)


class PassingChannel(FBSPPacketChannel):
    """A packet connection of a gateway: what concludes a message comes later, from the other side."""

    def is_awaited(self, key: Hashable) -> bool:
        assert isinstance(key, tuple)
        session = self.sessions.get(PEER)
        if not isinstance(session, FBSPSession) or session.closed:
            return False
        msg_type, token = key
        if msg_type == _CANCEL:
            return token in session.cancels
        return msg_type in (_HELLO, _NOOP) or super().is_awaited((_DATA, token) if msg_type == _STATE else key)


class Owner(Protocol):
    """The gateway, as a passage sees it."""

    protocol: FrontProtocol
    max_waiting: int

    @property
    def address(self) -> str | Address:
        """The place where clients find it."""
        ...

    def connect(self, protocol: BackProtocol) -> tuple[SharedChannel, Callable[[], object]]:
        """A channel to the service, with a session, and what closes it."""
        ...

    def close_client(self, channel: SharedChannel, session: ClientSession) -> None:
        """Say CLOSE, and forget the session."""

    def over(self, passage: ClientPassage) -> None:
        """A passage has nothing left to do."""


class ClientPassage:
    """The way of one client: its queue, and the thread that connects, and says what is in it."""

    def __init__(self, gateway: Owner, channel: SharedChannel, session: ClientSession) -> None:
        self.channel = channel
        self.session = session
        self._gateway = gateway
        self._protocol = gateway.protocol
        self._change = threading.Condition()
        self._waiting: deque[tuple[FBSPMessage, int]] = deque()
        self._bytes = 0
        self._over = False
        self._last = time.monotonic()
        name = f"packetwire-gateway-{gateway.address}"
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)

    def idle_seconds(self) -> float:
        """Seconds since the last message."""
        return time.monotonic() - self._last

    # what the protocols call

    def forth(self, msg: FBSPMessage) -> None:
        size = MESSAGE_WEIGHT + sum(map(len, msg.as_zmsg()))
        with self._change:
            self._last = time.monotonic()
            self._bytes += size
            is_too_much = self._bytes > self._gateway.max_waiting and bool(self._waiting)
            if not is_too_much:
                self._waiting.append((msg, size))
                self._change.notify_all()
        if is_too_much:
            self._end_client(LimitExceeded(f"{self._gateway.max_waiting} bytes of a client wait for the service"))

    def back(self, msg: FBSPMessage) -> None:
        self._last = time.monotonic()
        try:
            self.channel.send(msg, self.session)
        except LocalProtocolError as error:
            self._protocol.send_error(self.channel, self.session, msg, ErrorCode.PAYLOAD_TOO_LARGE, error)
        if refuses_hello(msg) and not self.session.welcomed:
            self.channel.discard_session(self.session)

    def client_left(self) -> None:
        with self._change:
            self._over = True
            self._change.notify_all()

    def service_left(self, exc: Exception | None) -> None:
        with self._change:
            self._waiting.clear()
        self._end_client(exc)

    def _end_client(self, exc: Exception | None) -> None:
        """The client has no way to the service any more, or never had."""
        if exc is not None and not self._over:
            logger.warning("%s: a client is given up: %s", self._gateway.address, exc)
        with self.channel.lock:
            if self._over:
                return
            if exc is None or self.session.welcomed:
                self._gateway.close_client(self.channel, self.session)
            else:
                self._protocol.refuse_client(self.channel, self.session, exc)

    # in its thread

    def _run(self) -> None:
        try:
            self._connect_and_say()
        except (OSError, PacketwireError) as error:
            self.service_left(error)
        except Exception as error:
            logger.exception("%s: a passage failed", self._gateway.address)
            self.service_left(error)
        finally:
            self._gateway.over(self)

    def _connect_and_say(self) -> None:
        channel, close = self._gateway.connect(BackProtocol(self))
        try:
            session = channel.session
            while session is not None and (msg := self._next()) is not None:
                self._say(msg, channel, session)
            if session is not None:
                token = self.session.hello_token or NO_TOKEN
                channel.send_soon(self._protocol.create_message_for(MsgType.CLOSE, token), session)
        finally:
            close()

    def _next(self) -> FBSPMessage | None:
        """The next message of the client; None when it has left, and nothing is left of what it said."""
        with self._change:
            self._change.wait_for(lambda: self._waiting or self._over)
            if not self._waiting:
                return None
            msg, size = self._waiting.popleft()
            self._bytes -= size
            return msg

    def _say(self, msg: FBSPMessage, channel: SharedChannel, session: Session) -> None:
        try:
            channel.send(msg, session)
        except LocalProtocolError as error:
            self._protocol.send_error(self.channel, self.session, msg, ErrorCode.PAYLOAD_TOO_LARGE, error)

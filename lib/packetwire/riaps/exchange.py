"""Sending and receiving the messages of a port, and the times and counts that it keeps of them.

Strategy: sending and receiving are written as steps (see `waiting`), so they serve threads and event loops alike. A
malformed message is counted, and the port goes on.
"""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import zmq

from packetwire.riaps.attachments import Attachment
from packetwire.riaps.errors import PortError
from packetwire.riaps.messages import MOST_FRAMES, BytesLike, GroupMessage, malformed
from packetwire.riaps.sockets import PortSocket
from packetwire.riaps.waiting import Steps, until
from packetwire.streams import forking


@dataclass(frozen=True)
class Form:
    """The messages of a kind of port."""

    kind: str
    sends: frozenset[bytes] | None = None
    """The commands that it sends; None for any."""
    receives: frozenset[bytes] | None = None
    """The commands that it gets; None for any."""
    addressed: bool = False
    """True if the member's identity is the first frame."""
    retry: float | None = None
    """Seconds after which sending is tried again, for sockets that do not signal when there is room."""


@dataclass
class Limits:
    """Time limits in milliseconds, and the size of a frame. The times can be changed."""

    send_timeout: int
    recv_timeout: int
    max_frame: int


class Exchange:
    """Sends and receives the messages of one port."""

    def __init__(
        self,
        form: Form,
        socket: PortSocket,
        attachment: Attachment,
        limits: Limits,
        *,
        timed: bool,
    ) -> None:
        self.form = form
        self.timed = timed
        self.limits = limits
        self.send_time = 0.0
        self.recv_time = 0.0
        self.malformed = 0
        self._socket = socket
        self._attachment = attachment
        self.after_fork()
        forking.register(self)

    def after_fork(self) -> None:
        """In the child of a fork: replace the lock, which another thread may have held."""
        self._counting = threading.Lock()

    def try_receive(self) -> GroupMessage | None:
        """The next message; None if there is none now. Raises `PortError` for a malformed one, and counts it."""
        frames = self._socket.try_receive(MOST_FRAMES + self.form.addressed)
        if frames is None:
            return None
        self.recv_time, self.send_time = time.time(), 0.0
        try:
            self._check_sizes(frames)
            message = GroupMessage.parse([frame.bytes for frame in frames], addressed=self.form.addressed)
            if self.form.receives is not None and message.command not in self.form.receives:
                raise malformed(f"a {self.form.kind} port does not get {message.command!r}")
        except PortError:
            self.count_malformed()
            raise
        self.send_time = message.send_time or 0.0
        return message

    def _check_sizes(self, frames: Sequence[zmq.Frame]) -> None:
        """Check the sizes of frames, before they are copied."""
        for frame in frames:
            if len(frame) > self.limits.max_frame:
                raise malformed(f"a frame has {len(frame)} bytes, the limit is {self.limits.max_frame}")

    def count_malformed(self) -> None:
        """Count one more malformed message."""
        with self._counting:
            self.malformed += 1

    def receiving(self, timeout: int | None = None) -> Steps[GroupMessage]:
        """The steps to receive the next message, within `timeout`, or else `recv_timeout`."""
        limit = self.limits.recv_timeout if timeout is None else timeout
        message = yield from until(self.try_receive, [self._socket], limit, zmq.POLLIN)
        if message is None:
            raise PortError(f"{self._socket.name}: nothing came within {limit} ms", PortError.EAGAIN)
        return message

    def sending(self, command: bytes, payload: BytesLike, identity: bytes | None = None) -> Steps[bool]:
        """The steps to send a message."""
        message = self._message(command, payload, identity)

        def attempt() -> bool | None:
            # the send time is when the message leaves, not when it began to wait
            sent = replace(message, send_time=time.time()) if self.timed else message
            try:
                return self._socket.try_send(sent.encode(), self._attachment.check) or None
            except PortError as error:
                if error.errno == PortError.EROUTE and identity is not None:
                    text = f"{self._socket.name}: no member with the identity {identity!r} is connected"
                    raise PortError(text, PortError.EROUTE) from error
                raise

        retry = self.form.retry
        events = zmq.POLLOUT if retry is None else 0
        if (yield from until(attempt, [self._socket], self.limits.send_timeout, events, retry)) is None:
            with self._socket.use("send"):
                reason = self._attachment.why_not()
            text = f"{self._socket.name}: not sent within {self.limits.send_timeout} ms, {reason}"
            raise PortError(text, PortError.EAGAIN)
        return True

    def _message(self, command: bytes, payload: BytesLike, identity: bytes | None) -> GroupMessage:
        message = GroupMessage(command, payload, time.time() if self.timed else None, identity)  # type: ignore[arg-type]
        if self.form.sends is not None and message.command not in self.form.sends:
            raise malformed(f"a {self.form.kind} port does not send {message.command!r}")
        if len(message.payload) > self.limits.max_frame:
            text = f"the payload has {len(message.payload)} bytes, the limit is {self.limits.max_frame}"
            raise PortError(text, errno.EMSGSIZE)
        return message

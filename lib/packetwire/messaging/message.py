"""Messages: what a protocol makes of the frames that arrive together, and sends as frames."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Self

from packetwire.messaging.sentinels import ANY

TZMQMessage = Sequence[Any]
"""The frames of one message: bytes, other bytes-likes, or objects with `bytes` such as a `zmq.Frame`."""
RoutingID = bytes
"""The bytes that tell the peers of one channel apart."""
Token = bytes
"""Eight bytes, chosen by the client, that tie answers to requests."""


def msg_bytes(msg: object) -> bytes:
    """The bytes of a frame: of bytes-likes, and of objects that have them in `bytes`, such as a `zmq.Frame`."""
    if type(msg) is bytes:
        return msg
    if isinstance(msg, bytes | bytearray | memoryview):
        return bytes(msg)
    data = getattr(msg, "bytes", None)
    if not isinstance(data, bytes):
        raise TypeError(f"a frame holds bytes, got {type(msg).__name__}")
    return data


class Message:
    """A message of a protocol: what a subclass must give raises NotImplementedError here.

    It is no ABC, because `isinstance` costs ten times as much with one.
    """

    def __repr__(self) -> str:
        return type(self).__qualname__

    __str__ = __repr__

    def from_zmsg(self, zmsg: TZMQMessage) -> None:
        """Take over the content of frames, which are not changed; raises `InvalidMessageError`."""
        raise NotImplementedError

    def as_zmsg(self) -> list[bytes]:
        """The frames of the message: a list of the caller's own."""
        raise NotImplementedError

    def clear(self) -> None:
        """Drop the content."""
        raise NotImplementedError

    def copy(self) -> Self:
        """A message of its own with the same content."""
        raise NotImplementedError

    def get_keys(self) -> Iterable[Any]:
        """The keys to look for in `Protocol.handlers`, from the most specific to the most general."""
        raise NotImplementedError


class SimpleMessage(Message):
    """A message that is nothing but its frames, in `data`."""

    def __init__(self) -> None:
        self.data: list[bytes] = []

    def from_zmsg(self, zmsg: TZMQMessage) -> None:
        self.data = [msg_bytes(frame) for frame in zmsg]

    def as_zmsg(self) -> list[bytes]:
        return list(self.data)

    def clear(self) -> None:
        self.data = []

    def copy(self) -> Self:
        message = type(self)()
        message.data = list(self.data)
        return message

    def get_keys(self) -> Iterable[Any]:
        return (self.data[0] if self.data else None, ANY)

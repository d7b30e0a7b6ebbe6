"""The exceptions that only hololinked brokers have.

`RequestTimeout`, `ConnectionEnded`, `PeerClosed`, `LimitExceeded` and `LocalProtocolError`, which they raise as
well, are those of `packetwire.errors`.
"""

from __future__ import annotations

from typing import Self

from packetwire.errors import PacketwireError, RemoteProtocolError, RequestTimeout


class InvalidMessage(RemoteProtocolError):
    """An invalid message was received; `message_id` is its id if that could be read, or empty."""

    def __init__(self, text: str, message_id: str = "") -> None:
        super().__init__("hololinked", text)
        self.message_id = message_id

    def __reduce__(self) -> tuple[type[Self], tuple[str, str]]:
        return type(self), (self.args[0], self.message_id)


class PayloadError(PacketwireError, ValueError):
    """A payload cannot be encoded or decoded: its content type is unknown, or its value is not of that type."""


class HandshakeFailed(RequestTimeout, ConnectionError):
    """The server did not answer the handshake in time."""


class BreakLoop(PacketwireError):
    """A loop that receives should end: a client sent EXIT, or a consumer was interrupted."""


class OperationFailed(PacketwireError):
    """The server answered EXCEPTION or INVALID_MESSAGE.

    `type` and `message` are those of the exception there, `traceback` and `notes` as far as the server sends them.
    """

    def __init__(self, type: str, message: str, traceback: list[str] | None = None, notes: object = None) -> None:  # noqa: A002
        super().__init__(f"{type}: {message}" if message else type)
        self.type = type
        self.message = message
        self.traceback = traceback or []
        self.notes = notes

    def __reduce__(self) -> tuple[type[Self], tuple[object, ...]]:
        return type(self), (self.type, self.message, self.traceback, self.notes)


class OperationTimeout(OperationFailed, TimeoutError):
    """The server answered TIMEOUT; `message` is which one: `invokation` or `execution`."""

    def __init__(self, which: str) -> None:
        OperationFailed.__init__(self, "TIMEOUT", which)

    def __reduce__(self) -> tuple[type[Self], tuple[object, ...]]:
        return type(self), (self.message,)

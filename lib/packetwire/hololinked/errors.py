"""What goes wrong between hololinked brokers.

`RequestTimeout`, `ConnectionEnded`, `PeerClosed`, `LimitExceeded` and `LocalProtocolError` are those of
`packetwire.errors`; these are the ones that only brokers have.
"""

from __future__ import annotations

from typing import Any

from packetwire.errors import PacketwireError, RemoteProtocolError, RequestTimeout


class InvalidMessage(RemoteProtocolError):
    """Frames that are no message; `message_id` is what could still be read of its id, or empty."""

    def __init__(self, text: str, message_id: str = "") -> None:
        super().__init__("hololinked", text)
        self.message_id = message_id

    def __reduce__(self) -> Any:
        return type(self), (self.args[0], self.message_id)


class PayloadError(PacketwireError, ValueError):
    """A payload cannot be made or read: its content type is unknown, or its octets are not of that type."""


class HandshakeFailed(RequestTimeout, ConnectionError):
    """The server did not answer the handshake in time."""


class BreakLoop(PacketwireError):
    """Whoever waits should leave its loop: a client said EXIT, or a consumer was interrupted."""


class OperationFailed(PacketwireError):
    """The server answered EXCEPTION or INVALID_MESSAGE.

    `type` and `message` are those of the exception there, `traceback` and `notes` what it tells of them.
    """

    def __init__(self, type: str, message: str, traceback: list[str] | None = None, notes: Any = None) -> None:  # noqa: A002
        super().__init__(f"{type}: {message}" if message else type)
        self.type = type
        self.message = message
        self.traceback = traceback or []
        self.notes = notes

    def __reduce__(self) -> Any:
        return type(self), (self.type, self.message, self.traceback, self.notes)


class OperationTimeout(OperationFailed, TimeoutError):
    """The server answered TIMEOUT; `message` says which one: `invokation` or `execution`."""

    def __init__(self, which: str) -> None:
        OperationFailed.__init__(self, "TIMEOUT", which)

    def __reduce__(self) -> Any:
        return type(self), (self.message,)

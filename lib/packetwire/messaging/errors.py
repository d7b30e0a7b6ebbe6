"""The exceptions of protocols of messages.

    PacketwireError
    ├── MessagingError          keyword arguments become attributes
    │   ├── ChannelError        a channel cannot do what was asked
    │   ├── ClientError         raised by a client
    │   ├── ServiceError        a service answered with an error; `code` says which
    │   └── StopError           a handler's way to refuse what it was given; `code` is what the peer is told
    └── RemoteProtocolError
        └── InvalidMessageError frames that are no message of the protocol; `code` says why

The codes of the first are numbers of the protocol, those of the last are names, as of any `RemoteProtocolError`.
"""

from __future__ import annotations

import threading
from typing import Any

from packetwire.errors import PacketwireError, RemoteProtocolError

__all__ = [
    "ChannelError",
    "ClientError",
    "InvalidMessageError",
    "MessagingError",
    "ServiceError",
    "StopError",
]


class MessagingError(PacketwireError):
    """An error with a code: `code` and all other keyword arguments become attributes."""

    code: int | None = None

    def __init__(self, *args: object, **attributes: object) -> None:
        super().__init__(*args)
        self.__dict__.update(attributes)


class ChannelError(MessagingError):
    """The channel cannot do what was asked of it."""


class ClientError(MessagingError):
    """An error raised by a client."""


class ServiceError(MessagingError):
    """The service answered with an error, or did not answer as it must."""


class StopError(MessagingError):
    """Raised by a handler to refuse what it was given; the peer is told the text and `code`."""


class InvalidMessageError(RemoteProtocolError):
    """Frames that are no valid message of the protocol; `code` is the key of the rule that they break.

    Keyword arguments become attributes, as far as a protocol needs them to answer.
    """

    def __init__(self, text: str = "", code: str = "invalid-message", **attributes: object) -> None:
        super().__init__(code, text)
        self.__dict__.update(attributes)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.args[0], self.code), vars(self)


def is_for_program(error: BaseException) -> bool:
    """True if an exception goes on after it was handled: Ctrl-C in the main thread. Other threads are ours."""
    return isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread()


def as_exception(error: BaseException) -> Exception:
    """The exception itself; a RuntimeError about what ends threads and programs, such as SystemExit."""
    if isinstance(error, Exception):
        return error
    told = RuntimeError(f"{type(error).__name__}: {error}")
    told.__cause__ = error
    return told

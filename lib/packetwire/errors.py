"""Every exception that packetwire raises on purpose.

    PacketwireError
    ├── ProtocolError
    │   ├── LocalProtocolError    we were asked to do what the protocol forbids (also a ValueError)
    │   └── RemoteProtocolError   the peer sent what the protocol forbids; `code` says which rule
    ├── ConnectionEnded           the connection is over, or was never opened
    │   ├── PeerClosed            the peer said EOF, or closed the stream between two packets
    │   ├── StreamTruncated       the stream ended inside a packet
    │   └── ChildExited           the child process behind the stream is gone
    ├── RequestFailed             the peer answered "not ok" (also a ValueError)
    ├── RequestError              raised by a handler on purpose: the peer is answered "not ok" with its text
    ├── RequestTimeout            no answer within the caller's time limit (also a TimeoutError)
    ├── RequestCancelled          the request was cancelled by this side
    └── LimitExceeded             a bound was passed

An exception that ends a connection is handed to every waiter as a copy of its own, chained to the
original cause, so that no two threads ever raise the same object.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Self

__all__ = [
    "ChildExited",
    "ConnectionEnded",
    "LimitExceeded",
    "LocalProtocolError",
    "PacketwireError",
    "PeerClosed",
    "ProtocolError",
    "RemoteProtocolError",
    "RequestCancelled",
    "RequestError",
    "RequestFailed",
    "RequestTimeout",
    "StreamTruncated",
]

TEXT_LIMIT = 2000
"""Characters of a peer's text that are quoted in a message; the attributes keep all of it."""


class PacketwireError(Exception):
    """The base of all exceptions of this package.

    `request` is what `map` or `conn_map` was given for the request that it is about, if one of these raised it.
    """

    request: Any = None


class ProtocolError(PacketwireError):
    """One side did what the protocol forbids."""


class LocalProtocolError(ProtocolError, ValueError):
    """This side asked for something that the protocol forbids; nothing was sent."""


class RemoteProtocolError(ProtocolError):
    """The peer sent something that the protocol forbids; `code` is a key of `core.refusals.REFUSALS`."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code

    def __reduce__(self) -> tuple[type[Self], tuple[str, str]]:
        return type(self), (self.code, self.args[0])


class ConnectionEnded(PacketwireError):
    """The connection has ended, or is not open."""

    def for_waiter(self) -> Self:
        """A copy to raise in one waiting thread, chained to the cause of this one."""
        copy = self._copy()
        copy.__cause__ = self.__cause__
        return copy

    def _copy(self) -> Self:
        return type(self)(*self.args)


class PeerClosed(ConnectionEnded):
    """The peer ended the connection: by its EOF packet, or by closing the stream between two packets.

    A request that it gave up for that reason is told so by the text.
    """


class StreamTruncated(ConnectionEnded):
    """The stream ended inside a packet."""


class ChildExited(ConnectionEnded):
    """The child process behind the stream is gone.

    `argv` is its command; `returncode` as `subprocess` has it (negative: killed by that signal, None:
    not known within the time allowed); `stderr` the last octets that it wrote there.
    """

    def __init__(self, text: str, argv: Sequence[str], returncode: int | None, stderr: bytes) -> None:
        super().__init__(text)
        self.argv = list(argv)
        self.returncode = returncode
        self.stderr = stderr

    @property
    def signal(self) -> int | None:
        """The number of the signal that killed the child, or None."""
        return -self.returncode if self.returncode is not None and self.returncode < 0 else None

    def _copy(self) -> Self:
        return type(self)(self.args[0], self.argv, self.returncode, self.stderr)

    def __reduce__(self) -> tuple[type[Self], tuple[str, list[str], int | None, bytes]]:
        return type(self), (self.args[0], self.argv, self.returncode, self.stderr)


class RequestFailed(PacketwireError, ValueError):
    """The peer answered a request "not ok".

    `flags` and `payload` are those of the response, `text` is the payload as text.
    """

    def __init__(self, flags: int, payload: bytes, what: str = "request") -> None:
        self.flags = flags
        self.payload = payload
        self.text = payload.decode("utf-8", errors="replace")
        quoted = self.text if len(self.text) <= TEXT_LIMIT else self.text[:TEXT_LIMIT] + "…"
        super().__init__(f"the peer answered {what} not ok: flags=0x{flags:02x}, {quoted!r}")
        self._what = what

    def __reduce__(self) -> tuple[type[Self], tuple[int, bytes, str]]:
        return type(self), (self.flags, self.payload, self._what)


class RequestError(PacketwireError):
    """Raise it in a handler, or give it to `Responder.fail`: the request is answered "not ok" with `text`.

    The peer gets the text whatever `error_detail` says, so write nothing there that it shall not know. It is an
    answer and no fault of the handler: nothing is logged. `code` and `fields` are for the program that raises and
    catches it; they are not sent yet.
    """

    def __init__(self, text: str, code: int | str | None = None, fields: Mapping[str, Any] | None = None) -> None:
        super().__init__(text)
        self.text = text
        self.code = code
        self.fields = dict(fields or {})

    def __reduce__(self) -> tuple[type[Self], tuple[str, int | str | None, dict[str, Any]]]:
        return type(self), (self.text, self.code, self.fields)


class RequestTimeout(PacketwireError, TimeoutError):
    """No answer came within the time limit of the caller."""


class RequestCancelled(PacketwireError):
    """This side gave the request up, by `RequestResult.cancel`.

    In a program that uses cs.result it is a `cs.fsm.CancellationError`, too.
    """


class LimitExceeded(PacketwireError):
    """A bound was passed; the message names it and the value."""


def ended_by(cause: BaseException, text: str) -> ConnectionEnded:
    """A `ConnectionEnded` that says `text`, chained to `cause`."""
    if isinstance(cause, OSError):
        # its text says all, and the frames of its traceback hold what was being read or written, and so do their
        # callers: whoever keeps the reason of an end must not keep that
        cause.__traceback__ = None
    ended = ConnectionEnded(text)
    ended.__cause__ = cause
    return ended


def about_request(error: Exception, number: int, request: Any) -> None:
    """Note on an exception out of a `map` which of the requests it is about."""
    with suppress(AttributeError):  # an exception of the user's may take none
        error.request = request  # type: ignore[attr-defined]
    rq_type = request[0] if isinstance(request, tuple) and request else request
    what = f"rq_type {rq_type}" if isinstance(rq_type, int) else type(request).__name__
    error.add_note(f"this is about request {number} of the map, counted from 0: {what}")


def extra_missing(extra: str, error: ModuleNotFoundError) -> ModuleNotFoundError:
    """`error`, which also says what to install: the extra of packetwire that brings the module."""
    return ModuleNotFoundError(f"{error}: pip install 'packetwire[{extra}]'", name=error.name)

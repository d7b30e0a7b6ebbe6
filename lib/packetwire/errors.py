"""All exceptions that packetwire raises on purpose.

    PacketwireError
    ├── ProtocolError
    │   ├── LocalProtocolError    we were asked to do what the protocol forbids (also a ValueError)
    │   └── RemoteProtocolError   the peer sent what the protocol forbids; `code` says which rule
    ├── ConnectionEnded           the connection is over, or was never opened
    │   ├── PeerClosed            the peer said EOF, or closed the stream between two packets
    │   ├── StreamTruncated       the stream ended inside a packet
    │   ├── ChildExited           the child process behind the stream is gone
    │   ├── PreambleMissing       with `sync`: the line before the first packet did not come
    │   └── PeerUnresponsive      the peer has sent, or taken, nothing for too long
    ├── BodyEnded                 no more of a body is taken, or comes, before its end
    ├── CapabilityMissing         the peer does not understand what was asked for
    │   └── ProtocolMismatch      the peer speaks another protocol
    ├── Draining                  the peer wants no more requests, as it is about to end the connection
    │   └── Drained               it has ended it (also a PeerClosed)
    ├── RequestFailed             the peer answered "not ok" (also a ValueError)
    │   ├── RequestCancelled      the request was given up, by this side or at the peer
    │   └── DeadlineExceeded      the deadline of the request passed (also a RequestTimeout)
    ├── RequestError              raised by a handler on purpose: the peer is answered "not ok" with its text
    ├── RequestTimeout            no answer within the caller's time limit (also a TimeoutError)
    └── LimitExceeded             a bound was passed

An exception that ends a connection is handed to every waiter as a copy of its own, chained to the
original cause, so that no two threads ever raise the same object.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Self, TypeVar

__all__ = [
    "BodyEnded",
    "CapabilityMissing",
    "ChildExited",
    "ConnectionEnded",
    "DeadlineExceeded",
    "Drained",
    "Draining",
    "LimitExceeded",
    "LocalProtocolError",
    "PacketwireError",
    "PeerClosed",
    "PeerUnresponsive",
    "PreambleMissing",
    "ProtocolError",
    "ProtocolMismatch",
    "RemoteProtocolError",
    "RequestCancelled",
    "RequestError",
    "RequestFailed",
    "RequestTimeout",
    "StreamTruncated",
]

TEXT_LIMIT = 2000
"""Characters of a peer's text that a message quotes, at most; the attributes have all of it."""


class PacketwireError(Exception):
    """The base of all exceptions of this package.

    `request` is the item of `map` or `conn_map` that it is about, if one of these raised it.
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
    """The connection has ended, or is not open.

    `begun` is False if the request that raised it surely never reached the peer, else None.
    """

    begun: bool | None = None

    def for_waiter(self) -> Self:
        """A copy to raise in one waiting thread, chained to the cause of this one."""
        copy = self._copy()
        copy.__cause__ = self.__cause__
        copy.begun = self.begun
        return copy

    def _copy(self) -> Self:
        return type(self)(*self.args)


class PeerClosed(ConnectionEnded):
    """The peer ended the connection: by its EOF packet, or by closing the stream between two packets.

    The message says so if it gave a request up for that.
    """


class StreamTruncated(ConnectionEnded):
    """The stream ended inside a packet."""


class ChildExited(ConnectionEnded):
    """The child process behind the stream is gone.

    `argv` is its command; `returncode` as `subprocess` has it (negative: killed by that signal, None:
    not known in time); `stderr` has the last bytes of its standard error.
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


class PeerUnresponsive(ConnectionEnded):
    """The peer sent nothing though it was asked for a sign of life, or took nothing, for too long."""


class CapabilityMissing(PacketwireError):
    """The peer does not understand what was asked for; the message says what that is, and what the peer is."""


class ProtocolMismatch(CapabilityMissing):
    """The peer speaks another application protocol than this end; the message has both names."""


class BodyEnded(PacketwireError):
    """No more of a body is taken, or comes, though it is not whole: its reader stopped, or the request is over."""

    def for_waiter(self) -> PacketwireError:
        """A copy to raise in one waiting thread."""
        return copy_of(self)


class Draining(PacketwireError):
    """The peer wants no more requests, as it is about to end the connection; this one was not sent."""

    begun: bool | None = False


class Drained(Draining, PeerClosed):
    """The peer has ended the connection, as it had said by `Draining`; a request that raises this was not begun."""


class RequestFailed(PacketwireError, ValueError):
    """The peer answered a request "not ok".

    `flags` and `payload` are those of the response, `text` is the payload as text. `code` is the
    `packetwire.core.statuses.StatusCode` that says why, 0 if the peer did not say; `begun` is whether its handler
    had begun, None if that is not known. A request that had not begun can be repeated.
    """

    code: int = 0
    begun: bool | None = None

    def __init__(
        self, flags: int, payload: bytes, what: str = "request", code: int = 0, begun: bool | None = None
    ) -> None:
        self.flags = flags
        self.payload = payload
        self.text = payload.decode("utf-8", errors="replace")
        self.code = code
        self.begun = begun
        quoted = self.text if len(self.text) <= TEXT_LIMIT else self.text[:TEXT_LIMIT] + "…"
        super().__init__(f"the peer answered {what} not ok: flags=0x{flags:02x}, {quoted!r}")
        self._what = what

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.flags, self.payload, self._what, self.code, self.begun)


class _RequestOver(RequestFailed):
    """A request that ended early, with or without a response."""

    def __init__(self, text: str = "", begun: bool | None = None) -> None:
        PacketwireError.__init__(self, text)
        self.flags, self.payload, self.text = 0, text.encode(errors="replace"), text
        self.begun = begun

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self.args, vars(self)  # the text of the response may be another than that of the error


class RequestCancelled(_RequestOver):
    """The request was given up: by `RequestResult.cancel`, or at the peer, which said so.

    In a program that uses cs.result it is a `cs.fsm.CancellationError`, too, if this side gave it up.
    """

    code = 1


class RequestError(PacketwireError):
    """Raise it in a handler, or pass it to `Responder.fail`, to answer the request "not ok" with `text`.

    The peer gets the text whatever `error_detail` is, so it must contain nothing confidential. It is an answer and
    not a fault of the handler: nothing is logged. `code` and `fields` are for the program that raises and catches
    it; they are not sent yet.
    """

    def __init__(
        self, text: str, code: int | str | None = None, fields: Mapping[str, object] | None = None
    ) -> None:
        super().__init__(text)
        self.text = text
        self.code = code
        self.fields = dict(fields or {})

    def __reduce__(self) -> tuple[type[Self], tuple[str, int | str | None, dict[str, Any]]]:
        return type(self), (self.text, self.code, self.fields)


class RequestTimeout(PacketwireError, TimeoutError):
    """No answer came within the time limit of the caller."""


class DeadlineExceeded(_RequestOver, RequestTimeout):
    """The deadline of the request passed, here or at the peer."""

    code = 2


class LimitExceeded(PacketwireError):
    """A bound was passed; the message names it and the value."""

    def for_waiter(self) -> PacketwireError:
        """A copy to raise in one waiting thread."""
        return copy_of(self)


EndedT = TypeVar("EndedT", bound=ConnectionEnded)


def never_sent(error: EndedT) -> EndedT:
    """The same, for a request that surely was not begun."""
    error.begun = False
    return error


def copy_of(error: PacketwireError) -> PacketwireError:
    """A copy to raise in one thread, chained to the cause of the original."""
    if isinstance(error, ConnectionEnded):  # some have more to them than a text
        return error.for_waiter()
    copy = type(error)(*error.args)
    copy.__cause__ = error.__cause__
    return copy


def ended_by(cause: BaseException, text: str) -> ConnectionEnded:
    """A `ConnectionEnded` that says `text`, chained to `cause`."""
    if isinstance(cause, OSError):
        # its text says all, while the frames of its traceback and of their callers refer to the data being read or
        # written: keeping the reason of an end must not keep that alive
        cause.__traceback__ = None
    ended = ConnectionEnded(text)
    ended.__cause__ = cause
    return ended


def about_request(error: Exception, number: int, request: object) -> None:
    """Add to an exception of a `map` the request that it is about."""
    with suppress(AttributeError):  # an exception of the user's may have slots
        error.request = request  # type: ignore[attr-defined]
    rq_type = request[0] if isinstance(request, tuple) and request else request
    what = f"rq_type {rq_type}" if isinstance(rq_type, int) else type(request).__name__
    error.add_note(f"this is about request {number} of the map, counted from 0: {what}")


def extra_missing(extra: str, error: ModuleNotFoundError) -> ModuleNotFoundError:
    """`error`, which also says what to install: the extra of packetwire that brings the module."""
    return ModuleNotFoundError(f"{error}: pip install 'packetwire[{extra}]'", name=error.name)


class PreambleMissing(ConnectionEnded):
    """The far end did not say that packets begin: with `sync`, or code that is sent there, it has to print a line.

    `preamble` is what it said instead, 64 KiB at most; `stderr` the last bytes of its standard error; `returncode`
    that of the child here, None if it still ran.
    """

    def __init__(self, text: str, preamble: bytes, returncode: int | None, stderr: bytes) -> None:
        super().__init__(text)
        self.preamble = preamble
        self.returncode = returncode
        self.stderr = stderr

    def _copy(self) -> Self:
        return type(self)(self.args[0], self.preamble, self.returncode, self.stderr)

    def __reduce__(self) -> tuple[type[Self], tuple[str, bytes, int | None, bytes]]:
        return type(self), (self.args[0], self.preamble, self.returncode, self.stderr)

"""What the faces of a connection have in common: what they are given, checked, and what they say of themselves."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar, overload

from packetwire.core.budget import Budget
from packetwire.core.channels import (
    Channels,
    PlainHandler,
    Receiver,
    RequestHandler,
    WeakHandler,
    WeakObserver,
    bound_to_channel,
)
from packetwire.core.engine import ConnectionEngine
from packetwire.core.events import Event
from packetwire.core.settings import DEFAULT_CLOSE_TIMEOUT as DEFAULT_CLOSE_TIMEOUT
from packetwire.core.settings import DEFAULT_HANDLERS as DEFAULT_HANDLERS
from packetwire.core.settings import DEFAULT_MAX_UNSENT as DEFAULT_MAX_UNSENT
from packetwire.core.settings import ERROR_DETAILS as ERROR_DETAILS
from packetwire.core.settings import Settings
from packetwire.core.varint import BytesLike
from packetwire.errors import ConnectionEnded, LocalProtocolError
from packetwire.streams.bytestream import KeptClose
from packetwire.streams.ownership import SuppliedAtFirst

if TYPE_CHECKING:
    from packetwire.capture import CaptureWriter

ABANDON_TIMEOUT = 1.0
"""Seconds for closing when the block of a `with` was left by an exception."""


class ConnectionDriver(Protocol):
    """What drives one opening of a connection."""

    engine: ConnectionEngine

    def wind_down(self) -> None:
        """Begin no more requests of the peer; send EOF when those that were begun are answered."""
        ...

    @property
    def last_packet(self) -> float | None:
        """When the last packet was complete, by the clock of `time.monotonic`; None if none ever was."""
        ...

    @property
    def is_settled(self) -> bool:
        """Whether neither end owes a response to the other, and all is written."""
        ...

    def abort(self, cause: ConnectionEnded) -> None:
        """End the connection now, for that reason; the peer is told as far as that goes without waiting."""
        ...

    def release(self, cause: ConnectionEnded) -> bool:
        """Nobody has the connection any more: let go of everything, for that reason. False if that was done.

        It is called by a finalizer, which may have interrupted any step of this driver, in any thread. So it waits
        for nothing and takes no lock: it only has the work done, at once if that is possible, or soon.
        """
        ...


DriverT = TypeVar("DriverT", bound=ConnectionDriver)
ValueT = TypeVar("ValueT")


class Setting(Generic[ValueT]):
    """An attribute of a connection that is one of its `Settings`, and is checked as such when it is assigned."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name
        self.__doc__ = f"The option `{name}`. What is assigned holds from the next opening on."

    @overload
    def __get__(self, conn: None, owner: type) -> Self: ...

    @overload
    def __get__(self, conn: ConnectionFace[Any], owner: type) -> ValueT: ...

    def __get__(self, conn: ConnectionFace[Any] | None, owner: type) -> ValueT | Self:
        if conn is None:
            return self
        value: ValueT = getattr(conn._settings, self._name)
        return value

    def __set__(self, conn: ConnectionFace[Any], value: ValueT) -> None:
        changed: dict[str, Any] = {self._name: value}
        conn._settings = replace(conn._settings, **changed)


class ConnectionFace(Generic[DriverT]):
    """A connection that can be opened many times, each time with a driver of its own."""

    handlers = Setting[int | str]()
    inline = Setting[Container[int] | None]()
    max_packet_size = Setting[int]()
    max_outstanding = Setting[int]()
    max_unsent = Setting[int]()
    error_detail = Setting[str]()
    close_timeout = Setting[float]()
    half_close = Setting[bool]()

    def __init__(
        self,
        recv_send: Any,
        name: str,
        settings: Settings,
        *,
        request_handler: RequestHandler | None = None,
        trace_log: Callable[..., object] | None = None,
        on_event: Callable[[Event], object] | None = None,
        leading_octets: bytes = b"",
        capture: CaptureWriter | None = None,
        channels: Mapping[int, RequestHandler] | None = None,
    ) -> None:
        self._settings = settings
        self.recv_send = recv_send
        self._supplied = SuppliedAtFirst(recv_send)
        self.name = name
        self.request_handler = request_handler
        self.trace_log = trace_log
        self.on_event = on_event
        self.capture = capture
        # what drives the connection refers weakly to all that it calls: it is kept here
        self._channel_handlers = Channels(channels).handlers
        self._channels = Channels({channel: WeakHandler(each) for channel, each in self._channel_handlers.items()})
        self._attached: dict[Receiver, Receiver] = {}
        self._called: tuple[object, ...] = ()
        self._closing: KeptClose | None = None
        self.trailing_octets = bytes(leading_octets)
        """What came behind the peer's EOF on the last opening: the next user of the stream needs it."""
        self._driver: DriverT | None = None
        self._opens = 0
        self._was_open = False
        self._budget: Budget | None = None
        """The bound for all connections of the server that this one belongs to, if any."""

    def __str__(self) -> str:
        return f"{type(self).__name__}[{self.name}]"

    def __repr__(self) -> str:
        return f"{type(self).__name__}[{self.name}]{id(self)}"

    def __del__(
        self,
        _warn: Callable[..., None] = warnings.warn,
        _is_finalizing: Callable[[], bool] = sys.is_finalizing,
        _ended: type[ConnectionEnded] = ConnectionEnded,
    ) -> None:
        """Nobody has it any more: if it is open, let go of what it opened, then say so."""
        kept = self.__dict__
        if closing := kept.get("_closing"):
            closing.hand_over()
        driver = kept.get("_driver")  # none if it was never made, either
        if driver is None or not self._opens:
            return
        self._opens = 0
        # at the end of Python no thread or loop can do it any more, and the system does
        if _is_finalizing() or driver.release(_ended(f"{self} was dropped without being closed")):
            _warn(f"unclosed {self!r}", ResourceWarning, source=self)

    @classmethod
    def spawn(
        cls,
        argv: Iterable[str],
        name: str | None = None,
        *,
        cwd: Any = None,
        env: Any = None,
        forward_stderr: bool = False,
        exit_timeout: float | None = None,
        process_group: bool | int | None = None,
        **connection: Any,
    ) -> Self:
        """A connection to a child process over its standard input and output, started at each opening.

        The child's standard error is kept, and quoted by `ChildExited`; with `forward_stderr` it is passed
        on to ours too. At close the child has `exit_timeout` seconds to leave, then it is terminated.
        `process_group`, and what happens to processes that the child leaves behind: see `child`.
        """
        from packetwire.streams.process import EXIT_WAIT, child

        argv = [argv] if isinstance(argv, str) else list(argv)
        start = child(
            argv,
            cwd=cwd,
            env=env,
            forward_stderr=forward_stderr,
            exit_timeout=EXIT_WAIT if exit_timeout is None else exit_timeout,
            process_group=process_group,
        )
        return cls(start, name if name is not None else argv[0], **connection)

    def _weakly(
        self,
    ) -> tuple[PlainHandler | None, Callable[[Event], object] | None, Callable[..., object] | None]:
        """The `request_handler`, `on_event` and `trace_log` of one opening, for what must not keep us alive."""
        handler = None if self.request_handler is None else bound_to_channel(self.request_handler, 0)
        self._called = handler, self.on_event, self.trace_log
        return (
            None if handler is None else WeakHandler(handler),
            None if self.on_event is None else WeakObserver(self.on_event),
            None if self.trace_log is None else WeakObserver(self.trace_log),
        )

    def _make_engine(self) -> ConnectionEngine:
        settings = self._settings
        engine = ConnectionEngine(
            accepts_requests=self.request_handler is not None,
            max_packet_size=settings.max_packet_size,
            max_outstanding=settings.max_outstanding,
            half_close=settings.half_close,
            channels=self._channels,
            observed=self.on_event is not None,
        )
        engine.budget = self._budget
        return engine

    def _check_half_close(self, stream_half_closes: bool) -> None:
        """Raises `LocalProtocolError` if this stream is not one whose end can stand for EOF."""
        if self.half_close and not stream_half_closes:
            raise LocalProtocolError(
                f"{self}: half_close=True is for pipes and sockets. TLS and ZMQ say themselves how a stream ends, "
                "and replies are written behind that end without it"
            )

    def attach(self, channel: int, receiver: Receiver) -> None:
        """Have `receiver(event)` serve a channel, from 16, or 0 if there is no `request_handler`.

        It is called with each `RequestReceived` and `ResponseReceived` of the channel, and with the
        `PeerEndedRequests` and `StreamEnded` of the connection: in the order of the wire, one at a time, where the
        connection is read, so it must be quick and not wait for the connection. What it returns for a request, or
        raises, is answered as if it were a handler. A response has not reached its caller yet.

        It stays attached when the connection is closed and opened again. Raises `LocalProtocolError` if the
        channel is reserved, or served already.
        """
        if channel == 0 and self.request_handler is not None:
            raise LocalProtocolError("channel 0 is served by the request_handler already")
        self._attached[self._channels.attach(channel, receiver, weakly=True)] = receiver

    def detach(self, channel: int) -> None:
        """Refuse the requests of a channel that was attached, from here on. Nothing if it was not."""
        called = self._channels.detach(channel)
        if called is not None:
            self._attached.pop(called, None)

    def _open_driver(self) -> DriverT:
        driver = self._driver
        if driver is None or not self._opens:
            state = "is closed" if self._was_open else "was never opened"
            raise ConnectionEnded(f"{self} {state}; use it inside its `with` block")
        return driver

    def _wind_down(self) -> None:
        """For a server that stops: begin no more requests, let those that were begun finish, then send EOF.

        Handlers can still make calls of their own on this connection. Raises `ConnectionEnded` if it is not open.
        """
        self._open_driver().wind_down()

    def _abort(self, cause: ConnectionEnded) -> bool:
        """For a server: end the connection now, for that reason. False if it is not open."""
        driver = self._driver
        if driver is None or not self._opens:
            return False
        driver.abort(cause)
        return True

    @property
    def _last_packet(self) -> float | None:
        """When the last packet of this opening was complete; None if none ever was."""
        return None if self._driver is None else self._driver.last_packet

    @property
    def _is_settled(self) -> bool:
        """Whether neither end owes anything to the other."""
        return self._driver is None or self._driver.is_settled

    def is_open(self) -> bool:
        """Whether it is open."""
        return self._opens > 0

    @property
    def closed(self) -> bool:
        """Whether it was open and is not any more."""
        return self._was_open and not self._opens

    @property
    def requests_allowed(self) -> bool:
        """Whether the peer's requests are answered, on channel 0 or any other."""
        return self._opens > 0 and (self.request_handler is not None or bool(self._channels))

    @property
    def ended(self) -> ConnectionEnded | None:
        """Why nothing more is received, or None while the connection lives."""
        driver = self._driver
        return driver.engine.ended.cause if driver and driver.engine.ended else None

    @property
    def late_responses(self) -> int:
        """Responses that came after their caller had given up."""
        return self._driver.engine.late_responses if self._driver else 0


def request_arguments(request: Any) -> tuple[int, int, BytesLike]:
    """The (rq_type, flags, payload) of what a `map` is given for a request. Raises TypeError."""
    if isinstance(request, int):
        return request, 0, b""
    if isinstance(request, tuple) and len(request) == 2:
        return request[0], 0, request[1]
    if isinstance(request, tuple) and len(request) == 3:
        return request
    raise TypeError(
        f"a request must be an rq_type, (rq_type, payload) or (rq_type, flags, payload), got {request!r:.100}"
    )

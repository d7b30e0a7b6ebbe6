"""The part that connections for threads and for asyncio share: their options, and what they say of themselves."""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, NoReturn, Protocol, Self, TypeVar, overload

from packetwire.core.budget import Budget
from packetwire.core.capabilities import Capabilities, Mode
from packetwire.core.channels import (
    Channels,
    PlainHandler,
    Quick,
    Receiver,
    RequestHandler,
    WeakHandler,
    WeakObserver,
    bound_to_channel,
)
from packetwire.core.engine import ConnectionEngine
from packetwire.core.events import Event, RequestReceived, without_payload
from packetwire.core.hello import CLIENT_ID_SIZE, LEAST_PIECE, MOST_PIECE, NO_FEATURES, Feature, Hello
from packetwire.core.keepalive import DEFAULT_KEEPALIVE, IDLE_KEEPALIVE, Keepalive
from packetwire.core.mistakes import check_handler
from packetwire.core.packet import MAX_HEAD_BYTES
from packetwire.core.requestids import RequestIds
from packetwire.core.requests import Outcome, Responder
from packetwire.core.responses import failure_of
from packetwire.core.roundtrips import RoundTrips, RoundTripTime
from packetwire.core.settings import DEFAULT_CLOSE_TIMEOUT as DEFAULT_CLOSE_TIMEOUT
from packetwire.core.settings import DEFAULT_HANDLERS as DEFAULT_HANDLERS
from packetwire.core.settings import DEFAULT_MAX_UNSENT as DEFAULT_MAX_UNSENT
from packetwire.core.settings import ERROR_DETAILS as ERROR_DETAILS
from packetwire.core.settings import Settings
from packetwire.core.statuses import UNKNOWN_STATUS
from packetwire.core.timelimits import seconds_of, time_limit
from packetwire.core.varint import MAX_UINT, BytesLike
from packetwire.errors import ConnectionEnded, LocalProtocolError, RequestFailed, never_sent
from packetwire.streams.bytestream import KeptClose
from packetwire.streams.ownership import SuppliedAtFirst

if TYPE_CHECKING:
    from packetwire.capture import CaptureWriter
    from packetwire.core.stats import ConnectionStats
    from packetwire.dedup import Dedup
    from packetwire.hooks import ConnectionHooks, Hooks
    from packetwire.watching import ConnectionWatch, Watch

ABANDON_TIMEOUT = 1.0
"""Seconds for closing when the block of a `with` was left by an exception."""

FEATURES = (
    Feature.CANCEL
    | Feature.META
    | Feature.BODIES
    | Feature.PIECES
    | Feature.PROGRESS
    | Feature.DRAIN
    | Feature.DESCRIBE
    | Feature.REQUEST_IDS
)
"""The features of connections of this version."""


class Measures(Protocol):
    """Has measured the way to the peer."""

    round_trips: RoundTrips


class ConnectionDriver(Protocol):
    """The driver of one opening of a connection."""

    engine: ConnectionEngine

    @property
    def control(self) -> Measures:
        """Asks the peer what is no request of a user."""
        ...

    def wind_down(self, *, patient: bool = False) -> None:
        """Begin no more requests of the peer; send EOF when those that were begun are answered."""
        ...

    @property
    def last_packet(self) -> float | None:
        """The time at which the last packet was complete, by `time.monotonic`; None if none ever was."""
        ...

    @property
    def bytes_written(self) -> int:
        """All that was ever written to the peer."""
        ...

    @property
    def is_settled(self) -> bool:
        """True if neither end owes a response to the other, and all is written."""
        ...

    def take(self, event: RequestReceived, responder: Responder) -> None:
        """Have nobody but this answer the request."""
        ...

    def answer(self, event: RequestReceived, outcome: Outcome) -> None:
        """Answer it, from any thread."""
        ...

    def abort(self, cause: ConnectionEnded, told: str | None = None) -> None:
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
    def __get__(self, conn: ConnectionBase[Any], owner: type) -> ValueT: ...

    def __get__(self, conn: ConnectionBase[Any] | None, owner: type) -> ValueT | Self:
        if conn is None:
            return self
        value: ValueT = getattr(conn._settings, self._name)
        return value

    def __set__(self, conn: ConnectionBase[Any], value: ValueT) -> None:
        changed: dict[str, Any] = {self._name: value}
        conn._settings = replace(conn._settings, **changed)


class ConnectionBase(Generic[DriverT]):
    """A connection that can be opened many times, each time with a driver of its own."""

    handlers = Setting[int | str]()
    inline = Setting[Container[int] | None]()
    max_packet_size = Setting[int]()
    max_outstanding = Setting[int]()
    max_unsent = Setting[int]()
    error_detail = Setting[str]()
    close_timeout = Setting[float]()
    half_close = Setting[bool]()
    capabilities = Setting[str]()
    body_timeout = Setting[float | None]()
    protocol = Setting[str | None]()
    protocol_version = Setting[str | None]()
    description = Setting[bytes | None]()
    keepalive = Setting[float | str | None]()
    _runs_coroutines = True
    """False for a connection whose handlers run in threads only."""

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
        hooks: Hooks | None = None,
        dedup: Dedup | None = None,
    ) -> None:
        check_handler(request_handler, runs_coroutines=self._runs_coroutines)
        self._settings = settings
        self.recv_send = recv_send
        self._supplied = SuppliedAtFirst(recv_send)
        self.name = name
        self.request_handler = request_handler
        self.trace_log = trace_log
        self.on_event = on_event
        self.capture = capture
        self.dedup = _checked_dedup(dedup)
        """Remembers what was done, for calls with `once=True`."""
        # what drives the connection refers weakly to all that it calls: it is kept here
        self._hooks = None if hooks is None else _hooks_of(hooks, name)
        self._open_spans = None if self._hooks is None else self._hooks.open_spans
        self._watch: ConnectionWatch | None = None
        """Notes what the handlers do, for a server that is inspected."""
        self._channel_handlers = {
            channel: self._as_called(each, channel) for channel, each in Channels(channels).handlers.items()
        }
        self._channels = Channels({channel: WeakHandler(each) for channel, each in self._channel_handlers.items()})
        self._attached: dict[Receiver, tuple[Receiver, Quick | None]] = {}
        self._called: tuple[object, ...] = ()
        self._closing: KeptClose | None = None
        self.trailing_octets = bytes(leading_octets)
        """The bytes that came behind the peer's EOF on the last opening: the next user of the stream needs it."""
        self.preamble = b""
        """The bytes that came before the packets of this opening and were dropped, where `sync` asked for that."""
        self._driver: DriverT | None = None
        self._opens = 0
        self._was_open = False
        self._opened_at = 0.0
        self._request_ids = RequestIds(os.urandom(CLIENT_ID_SIZE))
        self._budget: Budget | None = None
        """The bound for all connections of the server that this one belongs to, if any."""

    def __str__(self) -> str:
        return f"{type(self).__name__}[{self.name}]"

    def __repr__(self) -> str:
        return f"{type(self).__name__}[{self.name}]{id(self)}"

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError(f"a {type(self).__name__} can be neither copied nor pickled: it is bound to this process")

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
        forward_stderr: bool | str = False,
        on_stderr: Callable[[str], object] | None = None,
        exit_timeout: float | None = None,
        process_group: bool | int | None = None,
        sync: bool | str = False,
        sync_timeout: float | None = None,
        **connection: Any,
    ) -> Self:
        """A connection to a child process over its standard input and output, started at each opening.

        The child's standard error is kept, and quoted by `ChildExited` and `RequestTimeout`. With `forward_stderr`
        it is passed on to ours too, with that before each line if it is a string. `on_stderr` is called with each
        line. At close the child has `exit_timeout` seconds to leave, then it is terminated.
        `process_group`, what happens to processes that the child leaves behind, and `sync`, for a shell that says
        something before the program starts: see `child`.
        """
        from packetwire.streams.preamble import DEFAULT_SYNC_TIMEOUT
        from packetwire.streams.process import EXIT_WAIT, child

        argv = [argv] if isinstance(argv, str) else list(argv)
        start = child(
            argv,
            cwd=cwd,
            env=env,
            forward_stderr=forward_stderr,
            on_stderr=on_stderr,
            exit_timeout=EXIT_WAIT if exit_timeout is None else exit_timeout,
            process_group=process_group,
            sync=sync,
            sync_timeout=DEFAULT_SYNC_TIMEOUT if sync_timeout is None else sync_timeout,
        )
        return cls(start, name if name is not None else argv[0], **connection)

    def _weakly(
        self,
    ) -> tuple[PlainHandler | None, Callable[[Event], object] | None, Callable[..., object] | None]:
        """The `request_handler`, `on_event` and `trace_log` of one opening, for what must not keep us alive."""
        handler = None if self.request_handler is None else bound_to_channel(self.request_handler, 0)
        if handler is not None:
            handler = self._as_called(handler, 0)
        self._called = handler, self.on_event, self.trace_log
        return (
            None if handler is None else WeakHandler(handler),
            None if self.on_event is None else WeakObserver(self.on_event),
            None if self.trace_log is None else WeakObserver(self.trace_log),
        )

    def _as_called(self, handler: PlainHandler, channel: int) -> PlainHandler:
        """A handler of ours as it is called."""
        given = handler
        if self.dedup is not None:
            handler = self.dedup.guarding(handler, runs_coroutines=self._runs_coroutines)
        if self._hooks is None and self._watch is None:
            return handler
        from packetwire.hooks import label_of

        for around in (self._hooks, self._watch):
            if around is not None:
                handler = around.around(handler, channel, label_of(given), runs_coroutines=self._runs_coroutines)
        return handler

    def _be_watched(self, watch: Watch) -> ConnectionWatch:
        """For a server, before it opens this: have it noted what the handlers do."""
        from packetwire.hooks import OpenSpans, label_of

        if self._open_spans is None:
            self._open_spans = OpenSpans(self.name)
        self._watch = watched = watch.connection(self._open_spans)
        for channel, handler in self._channel_handlers.items():
            around = watched.around(handler, channel, label_of(handler), runs_coroutines=self._runs_coroutines)
            self._channel_handlers[channel] = around
            self._channels.handlers[channel] = WeakHandler(around)
        return watched

    @property
    def _held_bytes(self) -> int:
        """Bytes that are held for the peer."""
        return 0 if self._driver is None else self._driver.engine.owed_bytes

    def _make_engine(self) -> ConnectionEngine:
        settings = self._settings
        self._opened_at = time.monotonic()
        engine = ConnectionEngine(
            accepts_requests=self.request_handler is not None,
            max_packet_size=settings.max_packet_size,
            max_outstanding=settings.max_outstanding,
            half_close=settings.half_close,
            channels=self._channels,
            observed=self.on_event is not None,
            capabilities=self._make_capabilities(),
        )
        engine.budget = self._budget
        return engine

    def _make_capabilities(self) -> Capabilities | None:
        settings = self._settings
        mode = Mode(settings.capabilities)
        if mode is Mode.OFF:
            return None
        return Capabilities(
            mode,
            Hello(
                features=FEATURES,
                max_packet_size=min(settings.max_packet_size, MAX_UINT),
                # larger ones cost less, and a body may be half a window; those of payloads stay as they are
                max_piece=max(LEAST_PIECE, min(MOST_PIECE, settings.max_packet_size - MAX_HEAD_BYTES)),
                protocol=settings.protocol,
                protocol_version=settings.protocol_version,
                software=f"packetwire {sys.modules['packetwire'].__version__}",
                client_id=self._request_ids.client,
                epoch=None if self.dedup is None else self.dedup.epoch,
            ),
            settings.description,
            self._request_ids,
        )

    def _make_keepalive(self, is_remote: bool) -> Keepalive | None:
        """The watch over the peer of one opening; None without one."""
        seconds = self._settings.keepalive
        if seconds is None or self.capabilities == "off" or (seconds == "auto" and not is_remote):
            return None
        given = DEFAULT_KEEPALIVE if isinstance(seconds, str) else seconds_of(seconds)
        idle = None if self._budget is None else IDLE_KEEPALIVE * given / DEFAULT_KEEPALIVE
        return Keepalive(given, idle, time.monotonic())

    @property
    def rtt(self) -> RoundTripTime | None:
        """Seconds for a packet to the peer and back: last, smallest, smoothed. None before the first `ping`.

        A connection that looks after its peer (`keepalive`) measures it by itself.
        """
        return self._driver.control.round_trips.time if self._driver else None

    def stats(self) -> ConnectionStats:
        """The counters of this opening so far, or of the last one: requests, responses, bytes, times.

        Nothing is counted for it on the way of a request, so it may be called as often as is wanted, from any
        thread. All are 0 before the first opening.
        """
        from packetwire.core.stats import ConnectionStats, stats_of  # not at a far end that never asks

        driver = self._driver
        if driver is None:
            return ConnectionStats()
        now, heard = time.monotonic(), driver.last_packet
        return stats_of(
            driver.engine,
            bytes_sent=driver.bytes_written,
            rtt=driver.control.round_trips.time,
            age=now - self._opened_at,
            silence=None if heard is None else max(0.0, now - heard),
        )

    @property
    def peer(self) -> Hello | None:
        """The other end, as it has described itself: its software, protocol, limits and features.

        None until it has, which a connection to an old peer never does.
        """
        control = self._driver.engine.control if self._driver else None
        return None if control is None else control.capabilities.peer

    @property
    def features(self) -> Feature:
        """The features that both ends understand, as far as that is known."""
        control = self._driver.engine.control if self._driver else None
        return NO_FEATURES if control is None else control.capabilities.features

    def failure(self, flags: int, payload: bytes, what: str = "request") -> RequestFailed:
        """The exception that stands for a response that is not ok; `what` names the request in its text."""
        status = self._driver.engine.status_of(flags) if self._driver else UNKNOWN_STATUS
        return failure_of(status, flags, payload, what)

    def _check_half_close(self, stream_half_closes: bool) -> None:
        """Raises `LocalProtocolError` if this stream is not one whose end can stand for EOF."""
        if self.half_close and not stream_half_closes:
            raise LocalProtocolError(
                f"{self}: half_close=True is for pipes and sockets. TLS and ZMQ say themselves how a stream ends, "
                "and replies are written behind that end without it"
            )

    def attach(self, channel: int, receiver: Receiver, *, quick: Quick | None = None) -> None:
        """Have `receiver(event)` serve a channel, from 16, or 0 if there is no `request_handler`.

        It is called with each `RequestReceived` and `ResponseReceived` of the channel, and with the
        `PeerEndedRequests` and `StreamEnded` of the connection: in the order of the wire, one at a time, where the
        connection is read, so it must be quick and not wait for the connection. Its result for a request, or
        its exception, is answered as if it were a handler. A response has not reached its caller yet.

        `quick(event)` is asked first for each `ResponseReceived`, also in a thread that waits for a response, and
        reads. It returns True if it has dealt with the event; it must be short, and call no function of a user's.

        It stays attached when the connection is closed and opened again. Raises `LocalProtocolError` if the
        channel is reserved, or served already.
        """
        if channel == 0 and self.request_handler is not None:
            raise LocalProtocolError("channel 0 is served by the request_handler already")
        called = self._channels.attach(channel, receiver, quick=quick, weakly=True)
        self._attached[called] = receiver, quick

    def detach(self, channel: int) -> None:
        """Refuse the requests of a channel that was attached, from here on. Nothing if it was not."""
        called = self._channels.detach(channel)
        if called is not None:
            self._attached.pop(called, None)

    def take(self, event: RequestReceived) -> Responder:
        """In `on_event`: take this request over from the request handler, and answer it by the `Responder`."""
        driver = self._open_driver()
        responder = Responder()
        driver.take(event, responder)
        responder.when_done(partial(driver.answer, without_payload(event)))
        return responder

    def _open_driver(self) -> DriverT:
        driver = self._driver
        if driver is None or not self._opens:
            state = "is closed" if self._was_open else "was never opened"
            raise never_sent(ConnectionEnded(f"{self} {state}; use it inside its `with` block"))
        return driver

    def _wind_down(self, *, patient: bool = False) -> None:
        """For a server that stops: begin no more requests, let those that were begun finish, then send EOF.

        If `patient`, a client that has said nothing yet is listened to first, until the next call. Handlers can
        still make calls of their own on this connection. Raises `ConnectionEnded` if it is not open.
        """
        self._open_driver().wind_down(patient=patient)

    def _abort(self, cause: ConnectionEnded) -> bool:
        """For a server: end the connection now, for that reason. False if it is not open."""
        driver = self._driver
        if driver is None or not self._opens:
            return False
        driver.abort(cause)
        return True

    @property
    def _last_packet(self) -> float | None:
        """The time at which the last packet of this opening was complete; None if none ever was."""
        return None if self._driver is None else self._driver.last_packet

    @property
    def _is_settled(self) -> bool:
        """True if neither end owes anything to the other."""
        return self._driver is None or self._driver.is_settled

    def is_open(self) -> bool:
        """Tell if it is open."""
        return self._opens > 0

    @property
    def closed(self) -> bool:
        """True if it was open and is not any more."""
        return self._was_open and not self._opens

    @property
    def requests_allowed(self) -> bool:
        """True if the peer's requests are answered, on channel 0 or any other."""
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


class ConnectionFace(ConnectionBase[DriverT]):
    """The name that `ConnectionBase` had in 0.1.0: both connections are still one."""


def _checked_dedup(dedup: Any) -> Dedup | None:
    if dedup is not None and (isinstance(dedup, type) or not callable(getattr(dedup, "guarding", None))):
        raise TypeError(f"dedup must be a Dedup, which all connections of a service share, got {dedup!r:.100}")
    checked: Dedup | None = dedup
    return checked


def _hooks_of(hooks: Hooks, name: str) -> ConnectionHooks:
    from packetwire.hooks import ConnectionHooks  # for who has some

    return ConnectionHooks(hooks, name)


def deadline_of(*timeouts: object) -> float | None:
    """The time, by `time.monotonic`, at which the first of time limits that begin now is over; None without one."""
    limits = [limit for limit in map(time_limit, timeouts) if limit is not None]
    return time.monotonic() + min(limits) if limits else None


def check_fallback(fallback: str | None) -> None:
    """Raise `LocalProtocolError` for what can be done with no body for a peer without bodies."""
    if fallback not in (None, "join"):
        raise LocalProtocolError(f"fallback must be 'join' or None, got {fallback!r:.100}")


def request_arguments(request: object) -> tuple[int, int, BytesLike]:
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


def no_response(
    conn: str,
    engine: ConnectionEngine,
    rq_type: int,
    channel: int,
    tag: int,
    label: str | None,
    timeout: float | None,
    hint: str,
) -> str:
    """The text of a `RequestTimeout`; `hint` is what the stream has to say of its other end."""
    what = f"request {tag}" + (f" ({label})" if label else "") + (f" on channel {channel}" if channel else "")
    begun = engine.partial_octets
    packet = f"; a packet has begun: {begun[:100]!r}" if begun else ""
    return f"{conn}: no response to {what}, rq_type {rq_type}, within {timeout} s{packet}{hint}"

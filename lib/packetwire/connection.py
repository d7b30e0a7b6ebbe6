"""`PacketConnection`: requests and responses both ways over one stream, for programs with threads.

The class is what its user sees: opening and closing, which are counted, and the calls. The work is done by
a `Driver`, one per opening, so that a connection can be opened again.
"""

from __future__ import annotations

import itertools
import sys
import threading
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from threading import get_ident
from types import EllipsisType, TracebackType
from typing import TYPE_CHECKING, Any, Self, Unpack

from packetwire._sync.mapping import pipelined
from packetwire.connectionbase import (
    ABANDON_TIMEOUT,
    ConnectionFace,
    Setting,
    check_fallback,
    deadline_of,
    no_response,
    request_arguments,
)
from packetwire.core import settings
from packetwire.core.calloptions import CallOptions
from packetwire.core.channels import RequestHandler
from packetwire.core.engine import FIRST_TAG
from packetwire.core.events import Event
from packetwire.core.hello import NO_FEATURES, Feature
from packetwire.core.packet import EOF_PACKET, ERQ_PACKET
from packetwire.core.responses import DecodeResponse, Response
from packetwire.core.settings import (
    DEFAULT_BODY_TIMEOUT,
    DEFAULT_CLOSE_TIMEOUT,
    DEFAULT_HANDLERS,
    DEFAULT_MAX_OUTSTANDING,
    DEFAULT_MAX_PACKET_SIZE,
    DEFAULT_MAX_UNSENT,
    DEFAULT_SPIN,
    Settings,
)
from packetwire.core.timelimits import milliseconds_of, seconds_of, time_limit
from packetwire.core.varint import BytesLike
from packetwire.errors import (
    CapabilityMissing,
    ConnectionEnded,
    RequestCancelled,
    RequestTimeout,
)
from packetwire.hosts.threads.driver import Driver
from packetwire.hosts.threads.slots import inheriting
from packetwire.hosts.threads.waiter import Waiter, outcome_of
from packetwire.lightresult import LightResult
from packetwire.plannedcalls import submit_planned
from packetwire.streams import forking
from packetwire.streams.open import PacketConnectionRecvSend, open_stream

if TYPE_CHECKING:
    from subprocess import Popen

    from packetwire._sync.bodies import StreamCall
    from packetwire.capture import CaptureWriter
    from packetwire.dedup import Dedup
    from packetwire.hooks import Hooks
    from packetwire.result import RequestResult

DEFAULT_PACKET_GRACE = settings.DEFAULT_PACKET_GRACE
"""Seconds that a packet waits for company before it leaves: none, what is queued together leaves together."""
BODIES = Feature.META | Feature.BODIES
_names = itertools.count(1)


class PacketConnection(ConnectionFace[Driver]):
    """Requests and responses over one byte stream, many at a time, both ways.

    `recv_send` is the stream:

    - a pair (recv, send) of descriptors, stream sockets, binary files or, for recv, a CornuCopyBuffer or
      an iterable of bytes; none of them is ever closed or left with changed flags;
    - one descriptor or one stream socket for both directions;
    - a `subprocess.Popen` with pipes for stdin and stdout;
    - a callable that returns (recv, send, close); it is called at each opening, and `close`, if it is not
      None, once when both directions have ended.

    The connection is open inside `with`; that is counted, so nested use is fine, and it can be opened
    again after its end.

    - `request_handler(rq_type, flags, payload)` answers the peer's requests. It returns None, an int (the
      response's flags), bytes-like or str (its payload), a pair of both, or a deferred result: a
      `Responder`, a future or a `cs.result.Result`, which may come later. An exception is answered
      "not ok"; what the peer is told of it is set by `error_detail`: "none", "message" or "traceback".
    - `handlers`: how many handlers run at once, in threads of packetwire's own; one that waits for a call of its
      own is not counted. "inline": one at a time, in the thread that reads. `inline`: the request types for which
      that is so. None of them runs in a thread that waits for a response.
    - `max_packet_size`: bytes of a packet, both ways, its fields included: a payload of 36 fewer always fits.
      `max_outstanding`: requests of ours without an answer, at which `submit` waits; `max_unsent`: bytes not
      written, past which `submit` waits.
    - `on_event(event)` sees every event in wire order, in the thread that reads, which is then one of packetwire's
      own; see `take`.
    - `trace_log(format, *args)` is told of every packet; `capture`, a `packetwire.capture.CaptureWriter`, records
      all bytes, for `packetwire dump`.
    - `close_timeout`: seconds, the default of `close`.
    - `leading_octets`: what was read from the stream before, such as the `trailing_octets` of a
      connection that used it.
    - `half_close`: the end of what is received, between two packets, is a clean end, as if the peer had said ERQ
      and EOF; for pipes and sockets. The peer's requests are answered behind it in any case.
    - `spin`: seconds that a thread that waits for a response looks for it before it sleeps, as long as that
      mostly succeeds; by default never. It makes round trips shorter, for some processor time.
    - `capabilities`: how this end comes to know what the other understands beyond requests and responses. "auto":
      it is asked once it has shown that it knows the question, or when a call needs it; "require": at the opening,
      which fails without an answer; "passive": an end that has not shown it is never asked; "off": never, and
      every byte is as in 0.1.0. `docs/wire.md` has the details.
    - `keepalive`: seconds; a peer of which something is awaited, and that has sent nothing for so long, is asked
      for a sign of life, and if nothing comes for as long again the connection ends by `PeerUnresponsive`. "auto":
      15 seconds where the other end may vanish without a word, over TCP, TLS, SSH and ZMQ; elsewhere, and with
      None, never. Only peers that understand it are asked. An inline handler must be shorter than that.
    - `protocol` and `protocol_version` name what is spoken over the connection: if the peer names another protocol,
      calls raise `ProtocolMismatch`.
    - `description`: what is told of this end's service to a peer that asks by `describe`, mostly JSON.
    - `body_timeout`: seconds after which a request ends whose body stands still, as the other end neither sends nor
      takes any of it; None for never.
    - `hooks`: an object whose `client(call)` and `server(request)` return context managers: around each call, until
      its response is there, and around each handler, until its result is. An exception of theirs changes nothing.
    - `dedup`: a `Dedup`, which all connections of a service share: what was called with `once=True` is done once.
    - `packet_grace` is accepted for compatibility and has no effect: nothing waits for company.
    """

    CH0_TAG_START = FIRST_TAG
    """The tag of the first request on each channel."""
    EOF_Packet = EOF_PACKET
    """The last packet of a direction."""
    ERQ_Packet = ERQ_PACKET
    """Says that no more requests come in its direction."""

    spin = Setting[float]()
    packet_grace = Setting[float | None]()
    _runs_coroutines = False

    def __init__(
        self,
        recv_send: PacketConnectionRecvSend,
        name: str | None = None,
        *,
        request_handler: RequestHandler | None = None,
        packet_grace: float | None = None,
        trace_log: Callable[..., object] | None = None,
        handlers: int | str = DEFAULT_HANDLERS,
        inline: Container[int] | None = None,
        max_packet_size: int = DEFAULT_MAX_PACKET_SIZE,
        max_outstanding: int = DEFAULT_MAX_OUTSTANDING,
        max_unsent: int = DEFAULT_MAX_UNSENT,
        error_detail: str = "message",
        on_event: Callable[[Event], object] | None = None,
        close_timeout: float = DEFAULT_CLOSE_TIMEOUT,
        leading_octets: bytes = b"",
        spin: float = DEFAULT_SPIN,
        capture: CaptureWriter | None = None,
        channels: Mapping[int, RequestHandler] | None = None,
        half_close: bool = False,
        capabilities: str = "auto",
        protocol: str | None = None,
        protocol_version: str | None = None,
        description: bytes | None = None,
        keepalive: float | str | None = "auto",
        hooks: Hooks | None = None,
        dedup: Dedup | None = None,
        body_timeout: float | None = DEFAULT_BODY_TIMEOUT,
    ) -> None:
        super().__init__(
            recv_send,
            name if name is not None else str(next(_names)),
            Settings(
                handlers=handlers,
                inline=inline,
                max_packet_size=max_packet_size,
                max_outstanding=max_outstanding,
                max_unsent=max_unsent,
                error_detail=error_detail,
                close_timeout=close_timeout,
                half_close=half_close,
                spin=spin,
                packet_grace=packet_grace,
                capabilities=capabilities,
                protocol=protocol,
                protocol_version=protocol_version,
                description=description,
                keepalive=keepalive,
                body_timeout=body_timeout,
            ),
            request_handler=request_handler,
            trace_log=trace_log,
            on_event=on_event,
            leading_octets=leading_octets,
            capture=capture,
            channels=channels,
            hooks=hooks,
            dedup=dedup,
        )
        self.after_fork()
        forking.register(self)

    def after_fork(self) -> None:
        """In the child of a fork: another thread may have held the locks, and does not exist here."""
        # a signal handler or a finalizer may come here while its thread holds one
        self._lock = threading.RLock()
        self._opening = threading.RLock()
        self._started = False
        """The driver of this opening runs, so a further user need not wait for `_opening`."""
        self._unfinished: Driver | None = None
        """The driver that its last user has left, and may not have begun to close."""

    # opening and closing

    def open(self) -> Self:
        """Open the connection, or count one more user of it.

        Raises what the making of the stream raises, and `ConnectionEnded` in a handler of this connection
        that is still at work while it closes.
        """
        with self._lock:
            if self._started and self._opens:
                self._opens += 1
                return self
        driver = self._driver
        if driver is not None and not self._opens and driver.runs_in(threading.get_ident()):
            raise ConnectionEnded(f"{self} is being closed, a handler of it cannot open it again")
        with self._opening:
            with self._lock:
                if self._opens:
                    self._opens += 1
                    return self
            self._finish(self.close_timeout)
            self._start()
        return self

    def _start(self) -> None:
        self._supplied.check()
        stream = open_stream(self.recv_send)
        self._closing = stream.weaken_close()
        self.preamble = getattr(stream, "preamble", b"")
        try:
            self._check_half_close(stream.half_closes)
            if not callable(self.recv_send):
                stream.leading_octets = self.trailing_octets + stream.leading_octets
            self.trailing_octets = b""
            if self.capture is not None:
                stream = self.capture.stream(stream, self.name)
            handler, on_event, trace_log = self._weakly()
            driver = Driver(
                self._make_engine(),
                stream,
                name=self.name,
                handler=handler,
                handlers=self._settings.handlers,
                inline=self._settings.inline,
                on_event=on_event,
                trace_log=trace_log,
                error_detail=self._settings.error_detail,
                max_unsent=self._settings.max_unsent,
                spin=self._settings.spin,
                channels=self._channels,
                keepalive=self._make_keepalive(stream.is_remote),
                open_spans=self._open_spans,
                body_timeout=self._settings.body_timeout,
            )
        except BaseException:
            stream.close()
            raise
        with self._lock:
            # before it starts: a handler may be called, and ask back, before we return
            self._driver, self._opens, self._was_open = driver, 1, True
        try:
            driver.start()
            if self.capabilities == "require":
                self._check_peer(driver)
            self._started = True
        except BaseException:
            with self._lock:
                self._opens = 0
            driver.close(0.0)
            raise

    def _check_peer(self, driver: Driver) -> None:
        """Raise what is wrong with a peer whose capabilities are required."""
        driver.control.require(NO_FEATURES, "capabilities are required", None)
        if driver.engine.barred is not None:
            raise driver.engine.why_not()

    def close(self, timeout: float | None = None) -> None:
        """Give the connection up; the last user's close ends it, within `timeout` seconds.

        The end is announced (ERQ), what is owed both ways is waited for, EOF is sent and the peer's EOF
        waited for. The rest is ended all the same: requests without an answer fail with
        `ConnectionEnded`. Closing a closed connection does nothing.
        """
        seconds = seconds_of(self.close_timeout if timeout is None else timeout)
        if sys.is_finalizing():
            self._let_go_at_exit()
            return
        try:
            self._close(seconds)
        except BaseException:
            if not self._opens and self._driver is not None and not self._driver.runs_in(threading.get_ident()):
                self._driver.give_up()  # it may have been interrupted before it had begun
            raise

    def _close(self, seconds: float) -> None:
        with self._lock:
            if self._opens == 0:
                return
            self._opens -= 1
            if self._opens:
                return
            self._started = False
            self._unfinished = self._driver
        with self._opening:
            self._finish(seconds)

    def _finish(self, seconds: float) -> None:
        """Close what its last user has left; whoever opens the connection anew may come before the closer."""
        driver = self._unfinished
        if driver is not None:
            self.trailing_octets = driver.close(seconds)
            self._unfinished = None

    def _let_go_at_exit(self) -> None:
        """Python ends, and runs no other thread any more: let go of the stream, and wait for nobody but a child."""
        opens, self._opens = self._opens, 0
        if opens and self._driver is not None:
            forking.forget_threads()
            stream = self._driver.stream
            try:
                stream.end_write()
            finally:
                stream.close()

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close(None if exc_type is None else min(ABANDON_TIMEOUT, self.close_timeout))

    @property
    def process(self) -> Popen[bytes] | None:
        """The child process of this opening, if the stream is one to a child."""
        return getattr(self._driver.stream, "process", None) if self._driver else None

    @property
    def outstanding(self) -> int:
        """Our requests that have no answer yet."""
        return self._driver.engine.outstanding if self._driver else 0

    def join(self, timeout: float | None = None) -> bool:
        """Wait until nothing more is received or sent; returns at once after close. False at the timeout."""
        return self.join_recv(timeout)

    def join_recv(self, timeout: float | None = None) -> bool:
        """Wait until nothing more is received: servers call this. False at the timeout.

        Raises `ConnectionEnded` if the connection was never opened.
        """
        limit = time_limit(timeout)
        return (self._driver or self._open_driver()).join_receive(limit)

    def _when_all_received(self, then: Callable[[], object]) -> None:
        """Have `then` called, once, when nothing more is received: in any thread, so it must be quick."""
        if self._driver is None:
            then()
        else:
            self._driver.when_all_received(then)

    def send_erq(self) -> None:
        """Announce that this side sends no more requests."""
        self._open_driver().end_requests()

    def send_eof(self) -> None:
        """Announce the end: EOF leaves as soon as the replies that are owed have left."""
        self._open_driver().end()

    # calls

    def __call__(
        self,
        rq_type: int,
        payload: BytesLike = b"",
        flags: int = 0,
        *,
        decode_response: DecodeResponse | None = None,
        channel: int = 0,
        label: str | None = None,
        timeout: float | None = None,
        body: object = None,
        fallback: str | None = None,
        **options: Unpack[CallOptions],
    ) -> Response:
        """Ask and wait for the response: `(ok, flags, payload)`.

        `decode_response(flags, payload)` makes the payload of an "ok" response. Raises `RequestTimeout`
        after `timeout` seconds, whereupon a late response is dropped; `ConnectionEnded` if the connection
        ends first; `LocalProtocolError` or TypeError for what cannot be sent.

        Options, for a peer that understands them; for any other one the call raises `CapabilityMissing`:

        - `deadline`: seconds from now after which nobody needs the response, or None. The far end is told how many
          are left. Raises `DeadlineExceeded` when they are over.
        - `meta`: a mapping of str to bytes, which the handler gets by `current_request().meta`.
        - `on_progress(payload)`: called with each report of the handler, in a thread of the connection.
        - `idle_timeout`: seconds in which neither the response nor a report may come.

        Such a peer is also told when a request is given up, for whatever reason.

        `body` is sent behind the request: bytes, an iterable of bytes or a binary file, of any length. The handler
        reads it by `current_request().body`, and may answer before it is whole; what is left is not sent then. The
        `timeout` begins behind it. To a peer without bodies this raises `CapabilityMissing`; with `fallback="join"`
        such a peer gets one packet instead: the payload, and the bytes of the body directly behind it, if that
        does not pass the bound of a packet. Nothing says where the one ends and the other begins.
        """
        if body is not None:
            request = rq_type, flags, payload, channel
            return self._call_with_body(request, body, fallback, label, timeout, options, decode_response)
        driver = self._driver
        if driver is None or not self._opens:
            driver = self._open_driver()
        if options or inheriting or self._hooks is not None:
            outer = inheriting.get(get_ident())
            if options or outer is not None or self._hooks is not None:
                request, limit = (rq_type, flags, payload, channel), time_limit(timeout)
                result = submit_planned(
                    driver, request, options, outer, limit, label, decode_response, self._hooks, is_called=True
                )
                collected: Response = result.collect(timeout)
                return collected
        limit = None if timeout is None else time_limit(timeout)
        deadline = None if limit is None else time.monotonic() + limit
        waiter = Waiter()
        try:
            tag = driver.call(rq_type, flags, payload, channel, waiter, deadline)
        except BaseException:
            driver.recover(waiter)
            raise
        if not waiter.done:
            if waiter.given_up:
                raise RequestCancelled("the request whose handler makes this call was given up")
            text = no_response(
                str(self), driver.engine, rq_type, channel, tag, label, timeout, driver.stream.hint()
            )
            raise RequestTimeout(text)
        response = waiter.response
        if response is not None and decode_response is None:
            return response
        return outcome_of(waiter, decode_response)

    def _call_with_body(
        self,
        request: tuple[int, int, BytesLike, int],
        body: object,
        fallback: str | None,
        label: str | None,
        timeout: float | None,
        options: CallOptions,
        decode_response: DecodeResponse | None,
    ) -> Response:
        from packetwire._sync.bodies import call_with_body

        rq_type, flags, _, channel = request
        joined = self._joined(request, body, fallback, timeout, options)
        if joined is not None:
            return self(
                rq_type, joined, flags, decode_response=decode_response, channel=channel, label=label,
                timeout=timeout, **options
            )  # fmt: skip
        call = self._stream(request, label, timeout, ..., options, takes_body=False)
        response = call_with_body(call, body, timeout)
        if decode_response is None or not response[0]:
            return response
        return True, response[1], decode_response(response[1], response[2])

    def _joined(
        self,
        request: tuple[int, int, BytesLike, int],
        body: object,
        fallback: str | None,
        timeout: float | None,
        options: CallOptions,
    ) -> bytes | None:
        """The payload with the body behind it, if there is a fallback and the peer knows no bodies; else None."""
        from packetwire._sync.bodies import joined_body

        check_fallback(fallback)
        if fallback is None:
            return None
        driver = self._open_driver()
        try:
            driver.control.require(BODIES, "a request with a body", deadline_of(timeout, options.get("deadline")))
        except CapabilityMissing:
            return joined_body(request[2], body, driver.engine.max_payload)
        return None

    def _submit_with_body(
        self,
        request: tuple[int, int, BytesLike, int],
        body: object,
        fallback: str | None,
        label: str | None,
        timeout: float | None,
        options: CallOptions,
        decode_response: DecodeResponse | None,
    ) -> RequestResult:
        from packetwire.bodycalls import begin, send_body

        rq_type, flags, _, channel = request
        limit = time_limit(timeout)
        joined = self._joined(request, body, fallback, timeout, options)
        if joined is not None:
            return self.submit(
                rq_type, flags, joined, decode_response=decode_response, channel=channel, label=label,
                timeout=timeout, **options
            )  # fmt: skip
        exchange = begin(
            self._open_driver(), request, options, limit, label, self._hooks, self.body_timeout,
            takes_body=False, decode_response=decode_response,
        )  # fmt: skip
        return send_body(exchange, body)  # pyright: ignore[reportReturnType]  # a RequestResult for isinstance

    def stream(
        self,
        rq_type: int,
        payload: BytesLike = b"",
        flags: int = 0,
        *,
        channel: int = 0,
        label: str | None = None,
        timeout: float | None = None,
        body_timeout: float | EllipsisType | None = ...,
        **options: Unpack[CallOptions],
    ) -> StreamCall:
        """A request with a body, whose response may have one, too: a `StreamCall`, to be used by `with`.

        The request leaves at the begin of the block, with its `payload`. `timeout` are the seconds for finding room
        within the bounds, `body_timeout` those for which a body may stand still; by default, that of the
        connection. Takes the options of the call. The block raises as `submit`; `CapabilityMissing` to a peer
        without bodies; `LimitExceeded` while as many bodies are open as this end takes, which are 64.
        """
        return self._stream(
            (rq_type, flags, payload, channel), label, timeout, body_timeout, options, takes_body=True
        )

    def _stream(
        self,
        request: tuple[int, int, BytesLike, int],
        label: str | None,
        timeout: float | None,
        body_timeout: float | EllipsisType | None,
        options: CallOptions,
        *,
        takes_body: bool,
    ) -> StreamCall:
        from packetwire._sync.bodies import StreamCall  # only who has bodies needs it
        from packetwire.bodycalls import begin

        limit = time_limit(timeout)
        still = self.body_timeout if isinstance(body_timeout, EllipsisType) else time_limit(body_timeout)
        return StreamCall(
            lambda: begin(
                self._open_driver(), request, options, limit, label, self._hooks, still, takes_body=takes_body
            )
        )

    def submit(
        self,
        rq_type: int,
        flags: int = 0,
        payload: BytesLike = b"",
        *,
        decode_response: DecodeResponse | None = None,
        channel: int = 0,
        label: str | None = None,
        timeout: float | None = None,
        body: Any = None,
        fallback: str | None = None,
        **options: Unpack[CallOptions],
    ) -> RequestResult:
        """Ask, return a result that will be `(ok, flags, payload)`.

        Waits, at most `timeout` seconds, while `max_outstanding` requests are without an answer or more
        than `max_unsent` bytes unsent. Takes the options of the call, and raises as it does. With a `body` it
        returns when no more than 256 KiB of that are unsent, or when the far end has answered before.
        """
        if body is not None:
            request = rq_type, flags, payload, channel
            return self._submit_with_body(request, body, fallback, label, timeout, options, decode_response)
        driver = self._driver
        if driver is None or not self._opens:
            driver = self._open_driver()
        limit = None if timeout is None else time_limit(timeout)
        if options or inheriting or self._hooks is not None:
            outer = inheriting.get(get_ident())
            if options or outer is not None or self._hooks is not None:
                request = rq_type, flags, payload, channel
                return submit_planned(  # pyright: ignore[reportReturnType]  # as below
                    driver, request, options, outer, limit, label, decode_response, self._hooks
                )
        deadline = None if limit is None else time.monotonic() + limit
        result = LightResult(driver, label, channel, decode_response)
        driver.submit(result, rq_type, flags, payload, channel, deadline)
        return result  # pyright: ignore[reportReturnType]  # a RequestResult for isinstance

    def ping(self, timeout: float | None = None) -> float:
        """Seconds that a packet to the peer and back takes, whatever the handlers there do.

        Raises `CapabilityMissing` for a peer that does not understand it, `RequestTimeout`, or why the connection
        ended.
        """
        driver = self._open_driver()
        return driver.control.ping(deadline_of(timeout))

    def describe(self, timeout: float | None = None) -> bytes:
        """Ask the peer what its service offers: mostly JSON, see `packetwire.typed`.

        Raises `RequestFailed` if it tells nothing; else as `ping`.
        """
        ok, flags, payload = self._open_driver().control.describe(deadline_of(timeout))
        if not ok:
            raise self.failure(flags, payload, "DESCRIBE")
        description: bytes = payload
        return description

    def drain_peer(self, timeout: float | None = None, *, cut_off: float | None = None, reason: str = "") -> None:
        """Tell the peer to send no more requests, and wait until it knows: its calls raise `Draining` from then on.

        Requests that came before are answered as usual, later ones are refused. `cut_off` are the seconds until
        this end will close the connection, and `reason` says why, for people. Raises as `ping`.
        """
        driver = self._open_driver()
        driver.control.drain(milliseconds_of(cut_off), reason, deadline_of(timeout))

    def run_job(self, job: Callable[[], object], *, channel: int = 0, kind: int = 0) -> bool:
        """Have `job()` called by a thread of the connection's own, as its handlers are: at most `handlers` at once.

        `channel` and `kind` say of which jobs it will take about as long. False if the connection is closed, or
        ends. An exception of the job is logged.
        """
        driver = self._driver
        return driver is not None and self._opens > 0 and driver.run_job(job, channel, kind)

    def map(
        self,
        requests: Iterable[int | tuple[int, BytesLike] | tuple[int, int, BytesLike]],
        *,
        window: int = 64,
        channel: int = 0,
        timeout: float | None = None,
        return_exceptions: bool = False,
        **options: Unpack[CallOptions],
    ) -> Iterator[Response]:
        """Ask many, up to `window` at a time, yield the responses in the order of the requests.

        A request is an rq_type, (rq_type, payload) or (rq_type, flags, payload). `timeout` limits the wait
        for each response. An exception that a request raises ends the iteration, and has the request as
        `request`; with `return_exceptions` it is yielded in place of the response, and the others go on.
        """
        time_limit(timeout)  # raises here, not at the first response
        return pipelined(
            self,
            lambda request: self.submit(*request_arguments(request), channel=channel, timeout=timeout, **options),
            requests,
            window,
            timeout,
            return_exceptions,
        )

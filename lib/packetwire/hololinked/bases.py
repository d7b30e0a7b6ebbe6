"""Base classes of the brokers: of all, with an id, a socket and an end; of servers; of clients."""

from __future__ import annotations

import errno
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, ClassVar, Final, Self, TypedDict, Unpack, cast

import zmq
import zmq.asyncio

from packetwire.errors import ConnectionEnded, LimitExceeded, PacketwireError, PeerClosed, ended_by
from packetwire.hololinked.clientcore import ClientCore, Exchange, response_timeout
from packetwire.hololinked.constants import (
    DEFAULT_MAX_MESSAGE_SIZE,
    DEFAULT_MAX_OUTSTANDING,
    EXIT,
    HANDSHAKE,
    INVOKATION,
    ZMQ_TRANSPORTS,
)
from packetwire.hololinked.errors import BreakLoop
from packetwire.hololinked.frames import FrameReader, LinkReader, PlainSocket, send_frames
from packetwire.hololinked.looping import LoopDriver
from packetwire.hololinked.messages import (
    RequestMessage,
    ResponseMessage,
    ServerExecutionContext,
    ThingExecutionContext,
    identity_bytes,
)
from packetwire.hololinked.serializers import PreserializedData, SerializableData
from packetwire.hololinked.servercore import ServerCore
from packetwire.hololinked.sockets import (
    GatekeeperThread,
    bind,
    connect,
    endpoint_of,
    is_unreachable,
    needs_gatekeeper,
    open_monitor,
    pollable,
    set_keys,
    set_options,
)
from packetwire.hololinked.timelimits import seconds_of
from packetwire.streams import forking
from packetwire.streams.curve import CurveClient, CurveServer
from packetwire.streams.fds import check_descriptors_left
from packetwire.streams.zmqsockets import (
    HANDSHAKE_FAILURES,
    events_of,
    handshake_failure,
)
from packetwire.zmq.calls import uninterrupted
from packetwire.zmq.exposure import warn_if_exposed
from packetwire.zmq.owned import disown, set_owner
from packetwire.zmq.sockets import HEADROOM, leave_to_parent

ZmqContext = zmq.Context[Any]

LINK_EVENTS: Final = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED | HANDSHAKE_FAILURES
"""The link events that a client receives: not each attempt to connect, as the server may be away for long."""
BATCH: Final = 32
"""Messages that are received in one go."""
LOCK_WAIT: Final = 1.0
"""Seconds for other threads to stop using a socket that somebody else closes."""
LINK_TRUST: Final = 0.01
"""Seconds after a message in which its link is taken to be up. ZMQ takes longer to re-establish one."""


class SocketOptions(TypedDict, total=False):
    """Further arguments of all brokers, about the socket; see `BaseZMQ.get_socket`."""

    transport: str
    socket_address: str | None
    curve: CurveClient | CurveServer | None


class BaseZMQ:
    """An id and a socket. `exit` closes it; so does the end of a `with`."""

    _context_type: ClassVar[type[zmq.Context[Any]]] = zmq.Context
    _socket_class: ClassVar[type[zmq.Socket[Any]]] = zmq.Socket

    def __init__(self, id: str, logger: logging.Logger | None = None) -> None:  # noqa: A002
        self.id = id
        self.logger = logger or logging.getLogger("packetwire")
        self.context: ZmqContext | None = None
        self.socket: zmq.Socket[Any] | None = None
        self.socket_address: str | None = None
        self._plain: PlainSocket | None = None
        self._reader: FrameReader | None = None
        self._ended: ConnectionEnded | None = None
        """The reason why the socket cannot be used any more, except for `exit`."""
        self._gatekeeper: GatekeeperThread | None = None
        self._has_own_context = False
        forking.register(self)

    def after_fork(self) -> None:
        """In the child of a fork: the socket is the parent's; libzmq must not be used here."""
        self._replace_locks()
        if self._plain is None and self.socket is None:
            return
        self._ended = self._ended or ConnectionEnded(forking.of_parent(self.id))
        leave_to_parent(self.socket, self._plain, self.context)
        if self._gatekeeper is not None:
            self._gatekeeper.after_fork()
        self.socket = self.context = self._plain = self._reader = self._gatekeeper = None
        self._has_own_context = False
        self._tell(self._ended)

    def _replace_locks(self) -> None:
        """In the child of a fork: replace the locks, which other threads may have held."""

    def _tell(self, reason: ConnectionEnded) -> None:
        """Have all callers that wait raise `reason`."""

    @classmethod
    def get_socket(
        cls,
        *,
        id: str | None = None,  # noqa: A002
        node_type: str,
        context: ZmqContext,
        transport: str = ZMQ_TRANSPORTS.IPC,
        socket_type: int = zmq.ROUTER,
        server_id: str | None = None,
        socket_id: str | None = None,
        access_point: str | None = None,
        socket_address: str | None = None,
        socket_class: type[zmq.Socket[Any]] | None = None,
        curve: CurveClient | CurveServer | None = None,
        max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE,
        queue: int = DEFAULT_MAX_OUTSTANDING,
        send_queue: int | None = None,
    ) -> tuple[zmq.Socket[Any], str]:
        """A socket that is bound (`node_type="server"`) or connected ("client"), and its address.

        `access_point` is "IPC", "TCP" or "INPROC", or an address; `transport` and `socket_address` are the same as
        two arguments. With the name of a transport alone, a server is found by its `server_id`. `socket_id` is the
        identity of the socket; `id` stands for both. At most `queue` messages wait in each direction for each peer,
        or `send_queue` of those that are sent.
        """
        if node_type.lower() not in ("server", "client"):
            raise ValueError(f"node_type is server or client, not {node_type!r}")
        is_server = node_type.lower() == "server"
        identity = socket_id or id or server_id
        if identity is None:
            raise ValueError("an id is needed")
        endpoint = endpoint_of(server_id or identity, access_point or socket_address or transport)
        socket: zmq.Socket[Any] = uninterrupted(context.socket, int(socket_type), socket_class=socket_class)
        try:
            plain: PlainSocket = zmq.Socket.shadow(socket)
            set_options(plain, identity, endpoint, max_message_size=max_message_size, queue=queue)
            plain.sndhwm = send_queue or queue
            set_keys(plain, curve, server=is_server)
            if is_server and endpoint:  # without one it listens on loopback
                warn_if_exposed(endpoint, with_curve=curve is not None)
            return socket, bind(plain, endpoint) if is_server else connect(plain, endpoint)
        except BaseException:
            socket.close(0)
            raise

    def create_socket(
        self, *, node_type: str = "server", context: ZmqContext | None = None, **options: Any
    ) -> None:
        """Open the socket, by `get_socket`; by default in a context that the whole process shares."""
        if self.socket is not None:
            raise ValueError(f"{self.id} has its socket already")
        self.context = self._checked(context) or self._new_context(options.get("curve"))
        if not options.keys() & {"id", "server_id", "socket_id"}:
            options["id"] = self.id
        try:
            check_descriptors_left(HEADROOM)
            if needs_gatekeeper(curve := options.get("curve")):
                self._gatekeeper = GatekeeperThread(zmq.Context(self.context), cast(CurveServer, curve))
            self.socket, self.socket_address = self.get_socket(
                node_type=node_type, context=self.context, socket_class=self._socket_class, **options
            )
        except BaseException:
            self._release()
            raise
        # asyncio's sockets need a task for each message, which takes several times as long as the message itself
        self._plain = zmq.Socket.shadow(self.socket)
        self._reader = FrameReader(self._plain)
        set_owner(self.socket, self._before_others_close)
        self.logger.debug("%s: a socket at %s", self.id, self.socket_address)

    def _checked(self, context: ZmqContext | None) -> ZmqContext | None:
        if context is not None and not isinstance(context, self._context_type):
            raise TypeError(f"{type(self).__name__} needs a {self._context_type}, not a {type(context)}")
        return context

    def _new_context(self, curve: CurveClient | CurveServer | None) -> ZmqContext:
        # the keys of clients are checked in one place for all sockets of a context, so this one is not shared
        self._has_own_context = needs_gatekeeper(curve)
        return self._context_type() if self._has_own_context else self._context_type(zmq.Context.instance())

    def exit(self) -> None:
        """Close the socket. A second call does nothing."""
        self._close(self._exited())

    def _exited(self) -> ConnectionEnded:
        return ConnectionEnded(f"exit of {self.id} was called")

    def _close(self, reason: ConnectionEnded) -> None:
        """Close the socket, in whatever state it and its context are. Callers that wait raise `reason`."""
        socket, self.socket, self._plain, self._reader = self.socket, None, None, None
        if socket is not None:
            disown(socket)
            socket.close()
        self._release()

    def _failed(self, error: zmq.ZMQError) -> ConnectionEnded:
        """Close the socket after an error from which it does not recover. Returns the exception to raise."""
        if error.errno == zmq.ETERM:
            text = "the ZMQ context was terminated"
            self._has_own_context = False  # somebody else waits for its end already
        else:
            text = f"its ZMQ socket failed: {error.strerror}"
        ended = ended_by(error, f"{self.id}: {text}")
        self._ended = self._ended or ended
        self._close(ended)
        return ended

    def _before_others_close(self) -> None:
        """Called, in any thread, before somebody else closes the socket or its monitor (`Context.destroy`)."""
        self._abandon()

    def _abandon(self) -> None:
        """Stop using the socket, because somebody else closes it."""
        if self._plain is not None:
            ended = ConnectionEnded(f"{self.id}: the program has closed its socket, or destroyed the ZMQ context")
            self._ended = self._ended or ended
            self._close(ended)

    def _release(self) -> None:
        if self._gatekeeper is not None:
            self._gatekeeper.close()
            self._gatekeeper = None
        context, self.context = self.context, None
        if self._has_own_context and context is not None:
            context.term()
        self._has_own_context = False

    @property
    def closed(self) -> bool:
        """True if there is no socket."""
        return self._plain is None

    def _receive_into(
        self,
        receive: Callable[[list[bytes], float], None],
        enough: Callable[[], bool] | None = None,
        *,
        told: bool = False,
    ) -> bool:
        """Pass messages that have come to `receive`, until it was `enough`; True if there may be more.

        `told` says that the descriptor was readable.
        """
        socket, reader = self._open_socket(), self._reader
        assert reader is not None
        for _ in range(BATCH):
            try:
                # asked first, because receiving in vain raises, which takes several times as long
                frames = reader.receive() if told or reader.holds_some or pollable(socket) else None
            except zmq.ZMQError as error:
                raise self._failed(error) from error
            if frames is None:
                return False
            if not frames:
                break  # only excess frames were discarded: let others have their turn
            told = False
            receive(frames, time.monotonic())
            if enough is not None and enough():
                break
        return True

    def _open_socket(self) -> PlainSocket:
        if self._plain is None:
            if self._ended is not None:
                raise self._ended.for_waiter()
            raise ConnectionEnded(f"{self.id} has no socket: it was never made, or exit was called")
        return self._plain

    def _is_pollable(self) -> bool:
        """True if there is something to receive, which the descriptor may have signalled already."""
        socket = self._open_socket()
        try:
            return pollable(socket)
        except zmq.ZMQError as error:
            raise self._failed(error) from error

    def _post_frames(self, socket: PlainSocket, frames: Sequence[bytes]) -> int:
        """`send_frames`; raises `ConnectionEnded` after an error from which the socket does not recover."""
        try:
            return send_frames(socket, frames)
        except zmq.ZMQError as error:
            raise self._failed(error) from error

    def __del__(self) -> None:
        if getattr(self, "socket", None) is not None:
            self.exit()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.exit()


class BaseSyncZMQ(BaseZMQ):
    """A broker for threads. A subclass that has a `_lock` holds it while it uses the socket, and never for long."""

    def _before_others_close(self) -> None:
        lock: threading.Lock | None = getattr(self, "_lock", None)
        # not for ever: this may be a signal handler that interrupted the thread which holds the lock
        if lock is None or not lock.acquire(timeout=LOCK_WAIT):
            self._abandon()
            return
        try:
            self._abandon()
        finally:
            lock.release()


class BaseAsyncZMQ(BaseZMQ):
    """A broker for an event loop, with context and socket of `zmq.asyncio`.

    It works in the loop in which it was used last, by a driver that the subclass makes.
    """

    _context_type = zmq.asyncio.Context
    _socket_class = zmq.asyncio.Socket
    _driver: LoopDriver | None = None

    def _attach(self) -> LoopDriver:
        """Work in the running loop."""
        self._open_socket()  # raises if it is closed: its descriptor may be another file's by now
        assert self._driver is not None
        self._driver.attach()
        self._open_socket()  # again, as attaching takes a first turn, in which it may have ended
        return self._driver

    def after_fork(self) -> None:
        if self._driver is not None:
            self._driver.after_fork()
        with suppress(RuntimeError):  # the futures belong to a loop of another thread, which does not run here
            super().after_fork()

    def _close(self, reason: ConnectionEnded) -> None:
        if self._driver is not None:
            self._driver.detach()
        super()._close(reason)

    def _before_others_close(self) -> None:
        if self._driver is None:
            self._abandon()
        else:
            self._driver.in_loop(self._abandon)

    async def __aenter__(self) -> Self:
        self._attach()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.exit()


class BaseZMQServer(BaseZMQ):
    """The answering part of a server; receiving is left to its subclasses.

    `core` holds the requests. Each request is answered once: later answers are not sent, and return False.
    """

    def __init__(
        self,
        id: str,  # noqa: A002
        logger: logging.Logger | None = None,
        core: ServerCore | None = None,
    ) -> None:
        super().__init__(id, logger)
        self.core = core or ServerCore(id)
        self.dropped = 0
        """Responses that could not be sent because the client is gone or does not read."""

    def handshake(self, request_message: RequestMessage) -> None:
        """Answer a HANDSHAKE."""
        self.core.handshake(request_message)
        self._flush()

    def handle_error_message(self, request_message: RequestMessage, exception: BaseException) -> bool:
        """Answer EXCEPTION: the operation failed."""
        return self._flushed(self.core.failed(request_message, exception))

    def handle_invalid_message(self, request_message: RequestMessage, exception: BaseException) -> bool:
        """Answer INVALID_MESSAGE: the request is invalid."""
        return self._flushed(self.core.invalid(request_message, exception))

    def handle_timeout(self, request_message: RequestMessage, timeout_type: str = INVOKATION) -> bool:
        """Answer TIMEOUT: `invokation` or `execution`."""
        return self._flushed(self.core.timed_out(request_message, timeout_type))

    def handled_default_message_types(self, request_message: RequestMessage) -> bool:
        """Answer a request other than an OPERATION; True if it was one of those.

        Raises `BreakLoop` for an EXIT, if clients may end the server.
        """
        if request_message.type == HANDSHAKE:
            self.handshake(request_message)
            return True
        if request_message.type == EXIT:
            self.core.exit(request_message)
            self._flush()
            if self.core.exiting:
                raise BreakLoop(f"{request_message.sender_id!r} said EXIT")
            return True
        return False

    def _flushed(self, answered: bool) -> bool:
        self._flush()
        return answered

    def _flush(self) -> bool:
        """Send the messages in the core's outbox; True if there were some.

        Messages that cannot be sent at once are dropped: the client is gone, or stuck.
        """
        if not self.core.outbox:
            return False
        socket = self._open_socket()
        while self.core.outbox:
            frames = self.core.outbox.popleft()
            error_number = self._post_frames(socket, frames)
            if error_number:
                self.dropped += 1
                why = "is gone" if is_unreachable(error_number) else "does not read its responses"
                # one client must not fill the log
                level = logging.WARNING if self.dropped == 1 else logging.DEBUG
                self.logger.log(level, "%s: a response is dropped: the client %r %s", self.id, frames[0], why)
        return True


class Contexts(TypedDict, total=False):
    """The two contexts of a request."""

    server_execution_context: ServerExecutionContext | dict[str, object]
    thing_execution_context: ThingExecutionContext | dict[str, object]


class BaseZMQClient(BaseZMQ):
    """The asking part of a client; waiting is left to its subclasses."""

    _monitor: PlainSocket | None = None

    def __init__(
        self,
        id: str,  # noqa: A002
        server_id: str,
        *,
        logger: logging.Logger | None = None,
        max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE,
        max_outstanding: int = DEFAULT_MAX_OUTSTANDING,
    ) -> None:
        super().__init__(id, logger)
        self.server_id = server_id
        self.core = ClientCore(id, server_id, max_message_size=max_message_size, max_outstanding=max_outstanding)
        self._link_lost = False
        self._heard_at = -math.inf

    def _connect(
        self, context: ZmqContext | None, access_point: str | None, options: SocketOptions | dict[str, object]
    ) -> None:
        self.create_socket(
            node_type="client",
            context=context,
            server_id=self.server_id,
            socket_id=self.id,
            access_point=access_point,
            max_message_size=self.core.max_message_size,
            queue=self.core.max_outstanding + 1,
            **options,
        )
        assert self.context is not None
        self._reader = LinkReader(self._open_socket(), identity_bytes(self.server_id))
        self._monitor = open_monitor(self.context, self._open_socket(), LINK_EVENTS)
        set_owner(self._monitor, self._before_others_close)

    def exit(self) -> None:
        """Close the socket. Callers that wait get a `ConnectionEnded`."""
        super().exit()

    def _close(self, reason: ConnectionEnded) -> None:
        monitor, self._monitor = self._monitor, None
        if monitor is not None:
            disown(monitor)
            with suppress(zmq.ZMQError):  # the context has ended, or somebody else has closed the socket
                if self._plain is not None:
                    uninterrupted(self._plain.disable_monitor)
            monitor.close(0)
        super()._close(reason)
        self._tell(reason)

    def after_fork(self) -> None:
        monitor, self._monitor = self._monitor, None
        leave_to_parent(monitor)
        super().after_fork()

    def _tell(self, reason: ConnectionEnded) -> None:
        self.core.lose(reason.for_waiter, time.monotonic(), handshake=True)

    def handled_default_message_types(self, response_message: ResponseMessage) -> bool:
        """True if it is not the response to an OPERATION."""
        return response_message.type == HANDSHAKE

    def _operation(
        self,
        thing_id: str,
        objekt: str,
        operation: str,
        payload: SerializableData,
        preserialized_payload: PreserializedData,
        **contexts: Unpack[Contexts],
    ) -> RequestMessage:
        return RequestMessage.craft_from_arguments(
            self.server_id, self.id, thing_id, objekt, operation, payload, preserialized_payload, **contexts
        )

    def _exit_message(self) -> RequestMessage:
        return RequestMessage.craft_with_message_type(self.id, self.server_id, EXIT)

    def _send(self, message: RequestMessage) -> Exchange | None:
        """Send a request; None if there will be no response."""
        self._open_socket()
        now = time.monotonic()
        if now > self._heard_at + LINK_TRUST:
            self._look_at_link()  # before the request is noted: the loss of an earlier link must not end it
        if self._link_lost:  # ZMQ would keep it until the server is back, when nobody waits for it any more
            raise self._not_sent(errno.EHOSTUNREACH)
        exchange = self.core.request(message, now, response_timeout(message.server_execution_context))
        error_number = self._flush()
        if error_number:
            if exchange is not None:
                self.core.forget(exchange)
            raise self._not_sent(error_number)
        return exchange

    def _not_sent(self, error_number: int) -> PacketwireError:
        if is_unreachable(error_number):
            return ConnectionEnded(f"{self.id}: there is no link to the server {self.server_id!r}")
        return LimitExceeded(f"{self.id}: the server {self.server_id!r} does not read its requests")

    def _start_handshake(self, timeout: float | None) -> Exchange:
        self._open_socket()
        exchange = self.core.handshake(time.monotonic(), seconds_of(timeout))
        self._pass_handshake()
        return exchange

    def _pass_handshake(self) -> None:
        """Send the core's outbox, which holds a handshake."""
        if self.core.outbox and is_unreachable(self._flush()):
            self.core.unreachable(time.monotonic())

    def _flush(self) -> int:
        """Send the messages in the core's outbox; returns the errno of the last failure, or 0."""
        error_number = 0
        socket, outbox = self._open_socket(), self.core.outbox
        while outbox:
            error_number = self._post_frames(socket, outbox.popleft())
        return error_number

    def _receive(self, frames: Sequence[bytes], now: float) -> None:
        self._heard_at = now
        self.core.receive(frames, now)

    def _turn(self, enough: Callable[[], bool], *, told: bool) -> bool:
        """Receive until it was `enough`, and expire deadlines; True if there may be more to do."""
        more = self._receive_into(self._receive, enough, told=told)
        now = time.monotonic()
        if self.core.not_before <= now:
            self.core.expire(now)
        if self.core.outbox:
            self._pass_handshake()
            more = True  # sending may have reset the descriptor
        return more

    def _look_at_link(self) -> None:
        """Process link events: after a loss, end all exchanges whose responses had not come before."""
        lost = False
        for event, value in self._link_events():
            if event & HANDSHAKE_FAILURES:
                self.logger.warning(
                    "%s: no link to %s: %s", self.id, self.server_id, handshake_failure(event, value)
                )
            elif event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._link_lost = False
            elif event == zmq.EVENT_DISCONNECTED:
                self._link_lost = lost = True
        if lost:
            while self._receive_into(self._receive):
                pass
            self._heard_at = -math.inf
            gone = f"the server {self.server_id!r} has closed the link"
            self.core.lose(lambda: PeerClosed(gone), time.monotonic())

    def _link_events(self) -> list[tuple[int, int]]:
        try:
            return list(events_of(self._monitor)) if self._monitor is not None else []
        except zmq.ZMQError as error:
            raise self._failed(error) from error

    def _limited(self, exchange: Exchange, seconds: float | None) -> Exchange:
        """Note that `exchange` is waited for, for at most `seconds`."""
        exchange.waited_for = True
        if seconds is not None and not exchange.done:
            self.core.limit(exchange, time.monotonic() + seconds)
        return exchange

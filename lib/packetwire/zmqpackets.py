"""Packets over ZMQ, one per message: requests that any of many workers may answer.

    with PacketClient("tcp://broker:5570") as client:           # a ROUTER there, such as that of a zmq.proxy
        ok, flags, payload = client(SUM, b"1 2 3", timeout=5)

    with PacketWorker("tcp://broker:5571", handle) as worker:   # a DEALER there, the other side of the proxy
        worker.join()

This is not a connection: there is no order, no end, and nobody knows who answers. A request that is lost with
its worker ends in the caller's timeout; one that is `idempotent` is sent again before that, and whichever
answer comes first counts. Lost links are made again by ZMQ.

Strategy. One thread owns the socket and does nothing but pass messages: what is to be sent waits in a bounded
queue, and a wake-up tells of it, so that callers and handlers never touch the socket. When the program ends the
context, that thread lets go of the socket, and requests without an answer end with that for a reason.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import select
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from types import TracebackType
from typing import Any, Self, cast

from packetwire.core.timelimits import seconds_of, time_limit
from packetwire.errors import (
    ConnectionEnded,
    LimitExceeded,
    LocalProtocolError,
    PacketwireError,
    RequestTimeout,
    extra_missing,
)

try:
    import zmq
except ModuleNotFoundError as error:
    raise extra_missing("zmq", error) from error

from packetwire.core.channels import Channels, RequestHandler, bound_to_channel
from packetwire.core.engine import check_channel, not_served
from packetwire.core.packet import Packet
from packetwire.core.requests import Outcome, subscribe
from packetwire.core.settings import DEFAULT_MAX_PACKET_SIZE
from packetwire.core.varint import BytesLike
from packetwire.error_text import error_text
from packetwire.faults import FaultLog
from packetwire.streams import forking
from packetwire.streams.curve import CurveClient
from packetwire.streams.wakeup import Wakeup
from packetwire.streams.zmqsockets import (
    NOBLOCK,
    POLLIN,
    POLLOUT,
    ZmqContext,
    be_curve_client,
    events_now,
)
from packetwire.zmq.messages import Discarding
from packetwire.zmq.sockets import context_ended, leave_to_parent, os_error, owned_socket

__all__ = ["PacketClient", "PacketWorker"]

logger = logging.getLogger("packetwire")

DEFAULT_TIMEOUT = 30.0
"""Seconds for a response: without a connection there is no other way to learn that none will come."""
DEFAULT_ATTEMPTS = 3
"""Times that an idempotent request is sent, within its timeout."""
MAX_PENDING = 1024
"""Requests of a client without an answer."""
DEFAULT_WORKER_HANDLERS = 4
"""Handlers of a worker that run at a time."""
MAX_FRAMES = 64
"""Frames of a message: a packet, and the way back through proxies."""
CLOSE_LINGER = 1.0
"""Seconds for what was sent to leave, after the close."""
STOP_SECONDS = 5.0
"""Seconds for the thread of the socket to end."""
DRAIN_SECONDS = 5.0
"""Seconds for a worker's handlers to finish, when it is closed."""

Response = tuple[bool, int, bytes]
Message = Sequence[bytes]


class _Post:
    """A DEALER and the thread that owns it.

    Called there: `receive` with each message, as long as there is `room`; and `tick` each time that the thread
    wakes up, which returns the seconds until it wants to be called again. `lost` is called if the socket is lost,
    because the program has ended its context.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        name: str,
        receive: Callable[[Message], None],
        room: Callable[[], bool] = lambda: True,
        tick: Callable[[], float | None] = lambda: None,
        lost: Callable[[Exception], None],
        queue: int,
        curve: CurveClient | None,
        context: ZmqContext | None,
    ) -> None:
        self._endpoint = endpoint
        self._receive = receive
        self._has_room = room
        self._tick = tick
        self._lost = lost
        self._outbox: deque[Message] = deque()
        self._stopping = False
        self._taken: OSError | None = None
        self._wakeup = Wakeup()
        try:
            self._socket = owned_socket(context or zmq.Context.instance(), zmq.DEALER)
        except BaseException:
            self._wakeup.close()
            raise
        self._rest = Discarding(self._socket)
        try:
            self._socket.linger = int(CLOSE_LINGER * 1000)
            self._socket.sndhwm = self._socket.rcvhwm = queue
            self._socket.maxmsgsize = DEFAULT_MAX_PACKET_SIZE
            if "[" in endpoint:
                self._socket.ipv6 = True
            if curve is not None:
                be_curve_client(self._socket, curve)
            self._socket.connect(endpoint)
            self._thread = threading.Thread(target=self._run, name=name, daemon=True)
            self._thread.start()  # which fails if the system has no more threads
        except BaseException as error:
            self._socket.let_go(0)
            self._wakeup.close()
            if isinstance(error, zmq.ZMQError):
                raise os_error(error, endpoint) from error
            raise
        self._socket.keeper = self._socket_taken

    def after_fork(self) -> None:
        """In the child of a fork: the socket and its thread are the parent's."""
        leave_to_parent(self._socket)
        self._stopping = True

    def send(self, message: Message) -> None:
        """Have it sent. From any thread."""
        self._outbox.append(message)
        self._wakeup.set()

    def wake(self) -> None:
        """There is room again. From any thread."""
        self._wakeup.set()

    def stop(self) -> None:
        """What was given to `send` leaves, if there is somebody to take it; then it is over."""
        self._stopping = True
        self._wakeup.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(STOP_SECONDS)

    def _socket_taken(self) -> None:
        """In whatever thread destroys the context."""
        self._taken = context_ended()
        self._wakeup.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(CLOSE_LINGER)

    def _run(self) -> None:
        try:
            self._pass_until_stopped()
        except Exception as error:
            reason = os_error(error) if isinstance(error, zmq.ZMQError) else error
            if reason is not error:
                reason.__cause__ = error
            self._socket.let_go()
            self._lost(reason)
        finally:
            self._socket.let_go()
            self._wakeup.close()

    def _pass_until_stopped(self) -> None:
        poller = select.poll()
        poller.register(self._socket.fileno(), select.POLLIN)
        poller.register(self._wakeup.fileno(), select.POLLIN)
        give_up_at: float | None = None
        while True:
            self._wakeup.clear()
            if self._taken is not None:
                raise self._taken
            pause = self._tick()
            if self._pass_messages():
                pause = 0.0
            if self._stopping:
                give_up_at = give_up_at or time.monotonic() + CLOSE_LINGER
                left = give_up_at - time.monotonic()
                if not self._outbox or left <= 0:
                    return
                pause = left if pause is None else min(pause, left)
            poller.poll(None if pause is None else pause * 1000)

    def _pass_messages(self) -> bool:
        """Send and receive what can be; whether there is more, of which the descriptor would not tell."""
        sock = self._socket
        try:
            while self._outbox:
                sock.send_multipart(self._outbox[0], NOBLOCK)
                self._outbox.popleft()
        except zmq.Again:
            pass
        if not self._rest.is_done:
            self._rest.go_on()
            return True
        if events_now(sock) & POLLIN and self._has_room():
            message = self._next_message()
            if message is not None:
                self._receive(message)
            return True
        return bool(self._outbox) and bool(events_now(sock) & POLLOUT)

    def _next_message(self) -> Message | None:
        """The frames of the next message, None if there are too many: of these the rest is thrown away."""
        frame = self._socket.recv(NOBLOCK, copy=False)
        frames = [frame.bytes]
        while frame.more:
            if len(frames) == MAX_FRAMES:
                self._rest.begin()
                logger.warning("%s: a message with more than %d frames was dropped", self._endpoint, MAX_FRAMES)
                return None
            frame = self._socket.recv(NOBLOCK, copy=False)
            frames.append(frame.bytes)
        return frames


def _packet_of(message: Message, endpoint: str) -> Packet | None:
    """What is behind the envelope, or None if that is no packet, which is logged."""
    try:
        return Packet.from_bytes(message[-1])
    except (PacketwireError, ValueError, EOFError) as error:
        logger.warning("%s: a message that is no packet was dropped: %s", endpoint, error)
        return None


class _Closing(ABC):
    """What a `with` closes."""

    @abstractmethod
    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class _Pending:
    """A request without an answer."""

    def __init__(self, packet: bytes, deadline: float, retry_after: float | None) -> None:
        self.future: Future[Response] = Future()
        self.packet = packet
        self.deadline = deadline
        self.retry_after = retry_after


class PacketClient(_Closing):
    """Sends requests that any worker may answer. Use it by `with`, or `close` it. For many threads at once."""

    def __init__(
        self,
        endpoint: str,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        attempts: int = DEFAULT_ATTEMPTS,
        max_pending: int = MAX_PENDING,
        curve: CurveClient | None = None,
        context: ZmqContext | None = None,
    ) -> None:
        """`timeout` is the default of each request; an idempotent one is sent up to `attempts` times."""
        timeout = seconds_of(timeout)
        if attempts < 1 or max_pending < 1 or not timeout > 0:
            raise LocalProtocolError("timeout, attempts and max_pending must be more than 0")
        self.endpoint = endpoint
        self._timeout = timeout
        self._attempts = attempts
        self._max_pending = max_pending
        self._room = threading.Condition()  # guards what follows
        self._forked = False
        self._tags = itertools.count(2)
        self._pending: dict[int, _Pending] = {}
        self._settling: set[Future[Response]] = set()
        """Those that are not pending any more, and whose waiters have not been told yet."""
        self._due: list[tuple[float, int]] = []
        self._closed = False
        self._lost: Exception | None = None
        self.late_responses = 0
        """Responses whose caller had given up, or had another one already."""
        self._post = _Post(
            endpoint,
            name=f"packetwire-client-{endpoint}",
            receive=self._receive,
            tick=self._see_to_deadlines,
            lost=self._socket_lost,
            queue=max_pending,
            curve=curve,
            context=context,
        )
        forking.register(self)

    def after_fork(self) -> None:
        """In the child of a fork: the client is the parent's, and so are the responses that it waits for."""
        if self._forked:
            return
        self._forked = True
        reason = ConnectionEnded(forking.of_parent(f"the client of {self.endpoint}"))
        self._room = cast(Any, forking.ParentsLock(reason.for_waiter))
        for future in [*self._settling, *(pending.future for pending in self._pending.values())]:
            forking.fail_future(future, reason.for_waiter())
        self._post.after_fork()

    def __call__(
        self,
        rq_type: int,
        payload: BytesLike = b"",
        flags: int = 0,
        *,
        channel: int = 0,
        timeout: float | None = None,
        idempotent: bool = False,
    ) -> Response:
        """Ask and wait for the response: `(ok, flags, payload)`. Raises `RequestTimeout`."""
        return self.submit(
            rq_type, flags, payload, channel=channel, timeout=timeout, idempotent=idempotent
        ).result()

    def submit(
        self,
        rq_type: int,
        flags: int = 0,
        payload: BytesLike = b"",
        *,
        channel: int = 0,
        timeout: float | None = None,
        idempotent: bool = False,
    ) -> Future[Response]:
        """Ask; the future gets `(ok, flags, payload)`, or `RequestTimeout`.

        With `idempotent` the request may be performed several times: it is sent again, to another worker if
        there is one, when a part of the time is over. Waits while `max_pending` are without an answer.
        """
        timeout = self._timeout if timeout is None else seconds_of(timeout)
        deadline = time.monotonic() + timeout
        retry_after = timeout / self._attempts if idempotent and self._attempts > 1 else None
        with self._room:
            if not self._room.wait_for(lambda: self._closed or len(self._pending) < self._max_pending, timeout):
                raise RequestTimeout(
                    f"{self.endpoint}: {self._max_pending} requests are without an answer, no room for one more"
                )
            if self._closed:
                raise ConnectionEnded(f"{self.endpoint}: this client is closed") from self._lost
            if rq_type < 0:
                raise LocalProtocolError(f"rq_type must be 0 or more, got {rq_type}")
            check_channel(channel)
            tag = next(self._tags)
            packet = Packet(
                is_request=True, channel=channel, tag=tag, flags=flags, rq_type=rq_type + 1, payload=payload
            )
            pending = _Pending(bytes(packet), deadline, retry_after)
            if len(pending.packet) > DEFAULT_MAX_PACKET_SIZE:
                raise LimitExceeded(f"a packet has at most {DEFAULT_MAX_PACKET_SIZE} octets")
            self._pending[tag] = pending
            heapq.heappush(self._due, (_next_due(pending, time.monotonic()), tag))
        self._post.send([pending.packet])
        return pending.future

    def close(self) -> None:
        """End it: requests without an answer get `ConnectionEnded`. A second call does nothing."""
        if self._forked:
            return
        self._end("this client was closed")
        self._post.stop()

    def _end(self, why: object, cause: Exception | None = None) -> None:
        with self._room:
            if self._closed:
                return
            self._closed = True
            lost, self._pending = self._pending, {}
            self._settling.update(pending.future for pending in lost.values())
            self._room.notify_all()
        for pending in lost.values():
            reason = ConnectionEnded(f"{self.endpoint}: {why}")
            reason.__cause__ = cause
            self._settle(pending.future, error=reason)

    def _settle(
        self, future: Future[Response], response: Response | None = None, *, error: Exception | None = None
    ) -> None:
        try:
            if not future.set_running_or_notify_cancel():
                return  # the caller has given up
            if error is not None:
                future.set_exception(error)
            elif response is not None:
                future.set_result(response)
        finally:
            self._settling.discard(future)

    def _socket_lost(self, error: Exception) -> None:
        """In the thread of the socket: nothing will come any more."""
        self._lost = error
        self._end(error, error)

    # in the thread of the socket

    def _receive(self, message: Message) -> None:
        packet = _packet_of(message, self.endpoint)
        if packet is None:
            return
        with self._room:
            pending = None if packet.is_request else self._pending.pop(packet.tag, None)
            if pending is None:
                self.late_responses += 1
                return
            self._settling.add(pending.future)
            self._room.notify()
        self._settle(pending.future, (bool(packet.flags & 1), packet.flags >> 1, packet.payload))

    def _see_to_deadlines(self) -> float | None:
        """Send again or give up what is due; seconds until the next is."""
        while True:
            with self._room:
                while self._due and self._due[0][1] not in self._pending:
                    heapq.heappop(self._due)
                if not self._due:
                    return None
                now = time.monotonic()
                due, tag = self._due[0]
                if due > now:
                    return due - now
                heapq.heappop(self._due)
                pending = self._pending[tag]
                if now < pending.deadline and not pending.future.cancelled():
                    heapq.heappush(self._due, (_next_due(pending, now), tag))
                    again = pending.packet
                else:
                    self._settling.add(pending.future)
                    del self._pending[tag]
                    self._room.notify()
                    again = None
            if again is not None:
                self._post.send([again])
            else:
                late = RequestTimeout(f"{self.endpoint}: no response in time to request {tag}")
                self._settle(pending.future, error=late)


def _next_due(pending: _Pending, now: float) -> float:
    return pending.deadline if pending.retry_after is None else min(pending.deadline, now + pending.retry_after)


class PacketWorker(_Closing):
    """Answers requests that are dealt to it, `handlers` at a time. Use it by `with`, or `close` it.

    `request_handler(rq_type, flags, payload)` is that of a `PacketConnection`; a deferred result counts as a
    handler that is done. No more requests are taken than handlers can begin with at once, and as many again, so
    that other workers get the rest; for that the proxy has to have a small `sndhwm` at the workers' side.

    `channels` maps further channels, from 16, to their handlers; requests on others are refused.
    """

    def __init__(
        self,
        endpoint: str,
        request_handler: RequestHandler,
        *,
        handlers: int = DEFAULT_WORKER_HANDLERS,
        error_detail: str = "message",
        curve: CurveClient | None = None,
        context: ZmqContext | None = None,
        channels: Mapping[int, RequestHandler] | None = None,
    ) -> None:
        if handlers < 1:
            raise LocalProtocolError(f"handlers must be 1 or more, got {handlers}")
        self.endpoint = endpoint
        self._handlers = {0: bound_to_channel(request_handler, 0), **Channels(channels).handlers}
        self._error_detail = error_detail
        self._faults = FaultLog(endpoint)
        self._change = threading.Condition()  # guards what follows
        self._jobs: deque[tuple[Message, Packet]] = deque()
        self._unanswered = 0
        self._closing = False
        self._closed = False
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, name=f"packetwire-worker-{endpoint}", daemon=True)
            for _ in range(handlers)
        ]
        self._post = _Post(
            endpoint,
            name=f"packetwire-worker-{endpoint}",
            receive=self._receive,
            room=self._has_room,
            lost=self._socket_lost,
            queue=handlers,
            curve=curve,
            context=context,
        )
        forking.register(self)
        try:
            for thread in self._threads:
                thread.start()
        except BaseException:  # the system has no more of them
            self._threads = [thread for thread in self._threads if thread.ident is not None]
            self.close(0)
            raise

    def after_fork(self) -> None:
        """In the child of a fork: the worker is the parent's; here it has ended."""
        self._change = threading.Condition()
        self._closing = self._closed = True
        self._jobs.clear()
        self._over = threading.Event()
        self._over.set()
        self._post.after_fork()

    def join(self, timeout: float | None = None) -> bool:
        """Wait until it is closed; false at the timeout."""
        return self._over.wait(time_limit(timeout))

    def close(self, timeout: float = DRAIN_SECONDS) -> None:
        """Answer what it has taken, within `timeout` seconds, then end. A second call does nothing.

        What ZMQ has delivered here and was not taken yet is lost.
        """
        timeout = seconds_of(timeout)
        with self._change:
            if self._closing:
                return
            self._closing = True
            self._change.wait_for(lambda: not self._unanswered, timeout)
            self._closed = True
            self._change.notify_all()
        self._post.stop()
        self._faults.sum_up()
        self._over.set()
        deadline = time.monotonic() + CLOSE_LINGER  # handlers that are still at work are left behind
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))

    def _socket_lost(self, error: Exception) -> None:
        """In the thread of the socket: nothing can be received or answered any more."""
        logger.error("%s: this worker has ended: %s", self.endpoint, error)
        with self._change:
            self._closing = self._closed = True
            self._change.notify_all()
        self._over.set()

    def _receive(self, message: Message) -> None:
        """In the thread of the socket."""
        packet = _packet_of(message, self.endpoint)
        if packet is None:
            return
        if not packet.is_request or not packet.rq_type:
            logger.warning("%s: a packet that is no request was dropped", self.endpoint)
            return
        with self._change:
            self._jobs.append((message[:-1], packet))
            self._unanswered += 1
            self._change.notify_all()

    def _has_room(self) -> bool:
        return len(self._jobs) < len(self._threads) and not self._closing

    def _work(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._jobs or self._closed)
                if self._closed:
                    return
                envelope, packet = self._jobs.popleft()
            self._post.wake()
            self._handle(envelope, packet)

    def _handle(self, envelope: Message, packet: Packet) -> None:
        answer = partial(self._answer, envelope, packet)
        handler = self._handlers.get(packet.channel)
        if handler is None:
            self._respond(envelope, packet, 0, not_served(packet.channel))
            return
        try:
            result = handler((packet.rq_type or 1) - 1, packet.flags, packet.payload)
            deferred = subscribe(result, answer)
        except BaseException as error:  # whatever it is, it belongs to the peer that asked
            self._answer_error(envelope, packet, error)
            return
        if not deferred:
            answer(lambda: result)

    def _answer(self, envelope: Message, packet: Packet, outcome: Outcome) -> None:
        try:
            handler = self._handlers.get(packet.channel)
            flags, payload = self._faults.response_parts(handler, (packet.rq_type or 1) - 1, outcome())
        except BaseException as error:
            self._answer_error(envelope, packet, error)
        else:
            self._respond(envelope, packet, flags << 1 | 1, payload)

    def _answer_error(self, envelope: Message, packet: Packet, error: BaseException) -> None:
        self._faults.failed(packet.channel, packet.tag, (packet.rq_type or 1) - 1, error)
        self._respond(envelope, packet, 0, error_text(error, self._error_detail))

    def _respond(self, envelope: Message, packet: Packet, flags: int, payload: bytes) -> None:
        response = Packet(is_request=False, channel=packet.channel, tag=packet.tag, flags=flags, payload=payload)
        self._post.send([*envelope, bytes(response)])
        with self._change:
            self._unanswered -= 1
            self._change.notify_all()

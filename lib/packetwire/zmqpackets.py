"""Packets over ZMQ, one per message: requests that any of many workers may answer.

    with PacketClient("tcp://broker:5570") as client:           # a ROUTER there, such as that of a zmq.proxy
        ok, flags, payload = client(SUM, b"1 2 3", timeout=5)

    with PacketWorker("tcp://broker:5571", handle) as worker:   # a DEALER there, the other side of the proxy
        worker.join()

This is not a connection: there is no order, no end, and nobody knows who answers. A request that is lost with
its worker ends in the caller's timeout; one that is `idempotent` is sent again before that, and whichever
answer comes first counts. Lost links are made again by ZMQ.

Strategy. One thread owns the socket and does nothing but pass messages: what is to be sent waits in a bounded
queue, and one wake-up tells of all of it, so that callers and handlers never touch the socket. In a turn that
thread sends all that waits and receives all that came. If the program ends the context, it lets go of the
socket, and requests without an answer end with that for a reason.
"""

from __future__ import annotations

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any, Self, cast

from packetwire.aio.zmqpackets import AsyncPacketClient, AsyncPacketWorker
from packetwire.core.channels import RequestHandler
from packetwire.core.pending import PendingRequests
from packetwire.core.requests import subscribe
from packetwire.core.timelimits import seconds_of, time_limit
from packetwire.core.varint import BytesLike
from packetwire.errors import (
    ConnectionEnded,
    LocalProtocolError,
    RequestTimeout,
)
from packetwire.streams import forking
from packetwire.streams.curve import CurveClient
from packetwire.streams.zmqsockets import ZmqContext
from packetwire.zmqlink import (
    CLOSE_LINGER,
    DEFAULT_ATTEMPTS,
    DEFAULT_TIMEOUT,
    DEFAULT_WORKER_HANDLERS,
    DRAIN_SECONDS,
    MAX_PENDING,
    Job,
    Message,
    Response,
    WorkerAnswers,
    packet_of,
)
from packetwire.zmqthread import DealerThread

__all__ = ["AsyncPacketClient", "AsyncPacketWorker", "PacketClient", "PacketWorker"]

logger = logging.getLogger("packetwire")


class _Closing(ABC):
    """Something that a `with` closes."""

    @abstractmethod
    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


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
        if not timeout > 0:
            raise LocalProtocolError("timeout, attempts and max_pending must be more than 0")
        self.endpoint = endpoint
        self._timeout = timeout
        self._room = threading.Condition()  # guards what follows
        self._forked = False
        self._pending: PendingRequests[Future[Response]] = PendingRequests(attempts, max_pending)
        self._settling: set[Future[Response]] = set()
        """Those that are not pending any more, and whose waiters have not been told yet."""
        self._closed = False
        self._lost: Exception | None = None
        self._post = DealerThread(
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
        for future in [*self._settling, *self._pending.futures]:
            forking.fail_future(future, reason.for_waiter())
        self._post.after_fork()

    @property
    def late_responses(self) -> int:
        """Responses whose caller had given up, or had another one already."""
        return self._pending.late_responses

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
        future: Future[Response] = Future()
        deadline = time.monotonic() + timeout
        with self._room:
            if not self._room.wait_for(lambda: self._closed or not self._pending.is_full, timeout):
                raise RequestTimeout(
                    f"{self.endpoint}: {len(self._pending)} requests are without an answer, no room for one more"
                )
            if self._closed:
                raise ConnectionEnded(f"{self.endpoint}: this client is closed") from self._lost
            now = time.monotonic()
            _, packet = self._pending.ask(future, rq_type, flags, payload, channel, now, deadline, idempotent)
        self._post.send([packet])
        return future

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
            lost = self._pending.take_all()
            self._settling.update(lost)
            self._room.notify_all()
        for future in lost:
            reason = ConnectionEnded(f"{self.endpoint}: {why}")
            reason.__cause__ = cause
            self._settle(future, error=reason)

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
        packet = packet_of(message, self.endpoint)
        if packet is None:
            return
        with self._room:
            future = self._pending.answer(packet)
            if future is None:
                return
            self._settling.add(future)
            self._room.notify()
        self._settle(future, (bool(packet.flags & 1), packet.flags >> 1, packet.payload))

    def _see_to_deadlines(self) -> float | None:
        """Send again or give up what is due; seconds until the next is."""
        with self._room:
            due = self._pending.due(time.monotonic(), Future.cancelled)
            self._settling.update(due.late.values())
            self._room.notify(len(due.late))
        for packet in due.again:
            self._post.send([packet])
        for tag, future in due.late.items():
            self._settle(future, error=RequestTimeout(f"{self.endpoint}: no response in time to request {tag}"))
        return due.seconds


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
        self._answers = WorkerAnswers(endpoint, request_handler, channels, error_detail)
        self._change = threading.Condition()  # guards what follows
        self._jobs: deque[Job] = deque()
        self._unanswered = 0
        self._closing = False
        self._closed = False
        self._is_lost = False
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, name=f"packetwire-worker-{endpoint}", daemon=True)
            for _ in range(handlers)
        ]
        self._post = DealerThread(
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

        Requests that ZMQ has delivered here, and that were not taken yet, are lost.
        """
        timeout = seconds_of(timeout)
        with self._change:
            was_lost, self._is_lost = self._is_lost, False  # then only its threads are waited for
            if self._closing and not was_lost:
                return
            if not was_lost:
                self._closing = True
                self._change.wait_for(lambda: not self._unanswered, timeout)
                self._closed = True
                self._change.notify_all()
        if not was_lost:
            self._post.stop()
            self._answers.sum_up()
            self._over.set()
        deadline = time.monotonic() + CLOSE_LINGER  # handlers that are still at work are left behind
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))

    def _socket_lost(self, error: Exception) -> None:
        """In the thread of the socket: nothing can be received or answered any more."""
        logger.error("%s: this worker has ended: %s", self.endpoint, error)
        with self._change:
            self._closing = self._closed = self._is_lost = True
            self._change.notify_all()
        self._over.set()

    def _receive(self, message: Message) -> None:
        """In the thread of the socket."""
        job = self._answers.job_of(message)
        if job is None:
            return
        with self._change:
            self._jobs.append(job)
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
                job = self._jobs.popleft()
            self._post.wake()
            self._handle(job)

    def _handle(self, job: Job) -> None:
        handler = self._answers.handler_for(job)
        if handler is None:
            self._respond(self._answers.refusal(job))
            return
        try:
            result = handler(job.rq_type, job.packet.flags, job.packet.payload)
            deferred = subscribe(result, lambda outcome: self._respond(self._answers.answer(job, outcome)))
        except BaseException as error:  # whatever it is, it belongs to the peer that asked
            self._respond(self._answers.failure(job, error))
            return
        if not deferred:
            self._respond(self._answers.answer(job, lambda: result))

    def _respond(self, message: Message) -> None:
        self._post.send(message)
        with self._change:
            self._unanswered -= 1
            self._change.notify_all()

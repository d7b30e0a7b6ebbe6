"""A service as a class: one decorated method for each call.

    class Clock(Service):
        agent = AgentDescriptor(...)

        @operation(ClockAPI.NOW)
        def now(self, request):
            return time.ctime()

    with Clock() as clock:
        clock.serve("tcp://127.0.0.1:5000")
        ...

One service object serves any number of ZMQ addresses and packet connections at once.

Strategy: all that is known of the requests under way is in a `ServiceCore`; here operations are run by threads.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self
from weakref import WeakSet

from packetwire.core.timelimits import seconds_of, time_limit
from packetwire.fbsp.constants import ErrorCode
from packetwire.fbsp.frames import frames_of
from packetwire.fbsp.messages import NO_FLAGS, DataMessage, FBSPMessage
from packetwire.fbsp.operationbook import OperationBook
from packetwire.fbsp.operations import PLAIN, Operation, Reply, RequestState, as_stream
from packetwire.fbsp.requests import FBSPPacketChannel
from packetwire.fbsp.workers import DEFAULT_MAX_WAITING, Workers
from packetwire.messaging.errors import StopError, is_for_program
from packetwire.messaging.shared import SharedChannel
from packetwire.streams import forking

if TYPE_CHECKING:
    from packetwire.messaging.packets import Connection
    from packetwire.messaging.zmq import RouterChannel

DEFAULT_THREADS: Final = 8
"""Operations of a service that run at once."""
CLOSE_WAIT: Final = 5.0
"""Seconds that closing waits for each operation that runs."""


class Request(RequestState):
    """A request under way, as its operation sees it."""

    def __init__(self, change: threading.Condition, *request: Any) -> None:
        # here, and not by the base class, as that takes less
        self.protocol, self.channel, self.session, self.msg = request
        self._change = change  # that of the service: few of its requests have uploads

    def after_fork(self, change: threading.Condition) -> None:
        """In the child of a fork: the client is the parent's."""
        self._change = change
        self.cancelled = True

    def uploads(self, timeout: float | None = None) -> Iterator[list[bytes]]:
        """The frames of each DATA message that the client sends for the request, up to one without MORE.

        Each is acknowledged when it is taken, if that was asked for. Raises `StopError` if the request is
        cancelled, or none comes within `timeout` seconds. Without `timeout` only the first is limited, by the
        service's `upload_wait`, if the request has not announced it.
        """
        more = True
        while more:
            limit = time_limit(timeout)
            with self._change:
                limit = self.expect_upload(time.monotonic(), limit)
                if not self._change.wait_for(self.has_upload, limit) and self.upload_deadline is not None:
                    self.expire(self.upload_deadline)
                msg = self.next_upload()
            self.acknowledge(msg)
            yield msg.data
            more = msg.has_more()

    def say(self, msg: FBSPMessage) -> int:
        sent: int = self.channel.send(msg, self.session)
        return sent

    def answer(self, result: Any) -> None:
        channel = self.channel
        with channel.lock:
            super().answer(result)
            if channel.is_handling:  # by this thread, and so it leaves at the end of that
                return
        channel.carry(self.session)

    def take_upload(self, msg: DataMessage, limit: int) -> None:
        with self._change:
            super().take_upload(msg, limit)

    def cancel(self) -> None:
        with self._change:
            super().cancel()

    def changed(self) -> None:
        with self._change:
            self._change.notify_all()


class Service(OperationBook[Request]):
    """A service: subclasses decorate methods with `operation`.

    `agent` says which program this is, `peer` which instance of it runs here: made up, if not given.
    `interfaces` are announced in that order; if there are none, in the order of the operations. `threads` is how
    many operations run at once: those of a packet connection in its own threads, of which as many as its `handlers`
    says. `max_upload` is how many bytes of DATA may wait for one to take them; for the first DATA of
    a request that has announced none, `uploads` waits `upload_wait` seconds. Further arguments go to `FBSPService`,
    which is in `protocol`.

    It is a context manager that closes.
    """

    def __init__(self, *, threads: int = DEFAULT_THREADS, **service: Any) -> None:
        self._change = threading.Condition()
        super().__init__(partial(Request, self._change), **service)
        self._workers = Workers(threads, f"{(service.get('agent') or self.agent).name} service")
        self._channels: list[SharedChannel] = []
        self._on_connections: WeakSet[SharedChannel] = WeakSet()
        self._threads = threads
        self._performing: set[int] = set()
        """The idents of the threads that perform operations, but for inline ones."""
        self._postponed: deque[tuple[Request, Callable[..., object]]] = deque()
        """Requests, and their operations, that are performed when others have ended."""
        self._forked = False
        forking.register(self)

    def after_fork(self) -> None:
        """In the child of a fork: the service is the parent's."""
        self._forked = True
        self._performing = set()
        self._postponed.clear()
        self._change = threading.Condition()
        self.core.make_request = partial(Request, self._change)
        for requests in self.core.requests.values():
            for request in requests.values():
                request.after_fork(self._change)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def serve(self, address: str, **channel: Any) -> RouterChannel:
        """Serve at a ZMQ address (`tcp://…`, `ipc://…`, `inproc://…`), in a thread; returns the channel.

        Further arguments go to `RouterChannel`. Its `address` is where it is bound.
        """
        from packetwire.messaging.zmq import RouterChannel

        router = RouterChannel(self.protocol, **channel)
        try:
            router.bind(address)
        except BaseException:
            router.close()
            raise
        self._channels.append(router)
        router.start()
        return router

    def serve_on(self, connection: Connection, *, channel: int = 0) -> FBSPPacketChannel:
        """Serve the peer of a packet connection, which is not open yet; returns the channel."""
        packets = FBSPPacketChannel(self.protocol, connection, channel=channel)
        self._on_connections.add(packets)
        return packets

    def close(self, timeout: float = CLOSE_WAIT) -> None:
        """Send CLOSE to all clients, give the ZMQ addresses up, and wait for operations that run.

        A packet connection stays open: its owner closes that. There are no new sessions on it.
        """
        if self._forked:
            return
        for channel in [*self._channels, *self._on_connections]:
            self.protocol.close(channel)
            channel.close()
        self.core.cancel_all()
        self._workers.close(seconds_of(timeout))
        with self._change:
            self._change.wait_for(lambda: self._performing <= {threading.get_ident()}, seconds_of(timeout))

    def _begin(self, request: Request, operation: Operation) -> None:
        if operation.declared.inline:
            self._perform(request, operation.method)
        elif len(self._postponed) >= DEFAULT_MAX_WAITING or not self._submit(request, operation.method):
            self.core.forget(request)
            raise StopError("too many requests wait", code=ErrorCode.TOO_MANY_REQUESTS)

    def _submit(self, request: Request, method: Callable[..., object]) -> bool:
        """Have a thread perform an operation: of the carrier's, if that has some, else one of ours."""
        job = partial(self._perform_in_thread, request, method)
        return request.channel.run_job(job, kind=request.msg.type_data) or self._workers.submit(job)

    def _perform_in_thread(self, request: Request, method: Callable[..., object]) -> None:
        """Perform an operation, or leave it to whoever is the first to end one, if as many run as may."""
        me = threading.get_ident()
        with self._change:
            if len(self._performing) >= self._threads:
                self._postponed.append((request, method))
                return
            self._performing.add(me)
        try:
            self._perform(request, method)
        finally:
            with self._change:
                self._performing.discard(me)
                self._change.notify_all()
            self._submit_postponed()

    def _submit_postponed(self) -> None:
        try:
            request, method = self._postponed.popleft()
            while request.cancelled or not self._submit(request, method):
                self.core.forget(request)
                request, method = self._postponed.popleft()
        except IndexError:
            pass

    def _perform(self, request: Request, method: Callable[..., object]) -> None:
        try:
            if not request.cancelled:
                if request.msg.flags is not NO_FLAGS:
                    request.acknowledge(request.msg)
                result = method(self, request)
                stream = None if type(result) in PLAIN else as_stream(result)
                if stream is None:
                    request.answer(result)
                else:
                    _send_stream(Reply(request, frames_of(stream.reply)), iter(stream.data))  # type: ignore[arg-type]
        except BaseException as error:
            self.core.fail(request, error)
            if is_for_program(error):  # in an inline operation
                raise
        finally:
            self.core.forget(request)


def _send_stream(reply: Reply, items: Iterator[object]) -> None:
    try:
        for item in items:
            if not reply.add(item):
                return
        reply.finish()
    finally:
        close = getattr(items, "close", None)
        if close is not None:
            close()

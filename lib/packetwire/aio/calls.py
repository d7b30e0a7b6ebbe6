"""Requests of ours: sending them, and keeping those that do not fit yet.

Those that wait for room are kept in order, and sent when there is some.
"""

from __future__ import annotations

import asyncio
import sys
from collections import OrderedDict
from collections.abc import Callable

from packetwire.aio.request import RequestFuture
from packetwire.aio.writing import Writing
from packetwire.core.calloptions import CallPlan
from packetwire.core.engine import ConnectionEngine
from packetwire.core.lanes import PIECES_ABOVE
from packetwire.core.packet import check_payload, payload_size
from packetwire.core.responses import DecodeResponse
from packetwire.core.statuses import Status, StatusCode
from packetwire.core.varint import BytesLike
from packetwire.errors import ConnectionEnded, DeadlineExceeded, LimitExceeded, PacketwireError, RequestTimeout


class Calls:
    """Sends the requests of tasks. `changed` is called when a request is given up."""

    def __init__(
        self,
        engine: ConnectionEngine,
        name: str,
        writing: Writing,
        loop: asyncio.AbstractEventLoop,
        *,
        max_unsent: int,
        trace_log: Callable[..., object] | None,
        changed: Callable[[], object],
    ) -> None:
        self.waiting: OrderedDict[RequestFuture, tuple[int, int, bytes]] = OrderedDict()
        """Requests without room, and their type, flags and payload."""
        self.ends_requests = self.ends = False
        """True if that is announced once nothing waits."""
        self.loop = loop
        self._engine = engine
        self._name = name
        self._writing = writing
        self._max_outstanding = min(engine.max_outstanding, sys.maxsize)
        self._max_unsent = min(max_unsent, sys.maxsize)
        self._waiting_bytes = self._small_waiting = 0
        self._trace = trace_log
        self._changed = changed

    def ask(self, waiter: object, rq_type: int, flags: int, payload: BytesLike, channel: int) -> int:
        """Send a request and return its tag, or -1 if there is no room for it, or others wait for that."""
        engine = self._engine
        if (
            len(engine.waiters) >= self._max_outstanding
            or (engine.unsent_octets > self._max_unsent and not self._fits(payload_size(payload)))
            or (self.waiting and not self._overtakes(payload_size(payload)))
            or self.ends_requests
            or engine.send_failure is not None
        ):
            return -1
        tag = engine.ask(rq_type, flags, payload, channel, waiter)
        self._writing.added(len(engine.waiters))
        if self._trace is not None:
            self._trace("==> request %d:%d rq_type=%d %r", channel, tag, rq_type, payload[:32])
        return tag

    def submit(
        self,
        rq_type: int,
        flags: int,
        payload: BytesLike,
        channel: int,
        decode_response: DecodeResponse | None,
        bounded: bool,
    ) -> RequestFuture:
        """Send a request, or keep it until it fits within the bounds.

        If it is `bounded` no more than `max_outstanding` requests, or one that passes `max_unsent` bytes, are kept;
        then it raises `LimitExceeded`.
        """
        request = RequestFuture(loop=self.loop)
        request.requester = self
        request.tag = -1
        if channel:
            request.channel = channel
        if decode_response is not None:
            request.decode = decode_response
        self.begin(request, rq_type, flags, payload, bounded)
        return request

    def begin(self, request: RequestFuture, rq_type: int, flags: int, payload: BytesLike, bounded: bool) -> None:
        """Send a request that is made already, or keep it; as `submit`."""
        if request.said is None:
            tag = self.ask(request, rq_type, flags, payload, request.channel)
        else:
            tag = self._ask_as_planned(request.said, request, rq_type, flags, payload)
        if tag >= 0:
            request.tag = tag
        else:
            self._keep(request, rq_type, flags, check_payload(payload), bounded)

    def begin_now(self, request: RequestFuture, rq_type: int, flags: int, payload: BytesLike) -> bool:
        """Send a request with bodies; false if there is no room for it now."""
        if self.refuses_requests:
            raise self._engine.why_not()
        assert request.said is not None
        tag = self._ask_as_planned(request.said, request, rq_type, flags, payload)
        if tag >= 0:
            request.tag = tag
        return tag >= 0

    def _ask_as_planned(
        self, plan: CallPlan, request: RequestFuture, rq_type: int, flags: int, payload: BytesLike
    ) -> int:
        """As `ask`, with what is to be said before the request."""
        size = payload_size(payload)
        if (self.waiting and not self._overtakes(size)) or not self._fits(size):
            return -1
        if self.ends_requests or self._engine.send_failure is not None:
            return -1
        meta = plan.meta(self.loop.time())
        tag = self._engine.ask_with(meta, rq_type, flags, payload, request.channel, request, plan.bodies)
        self._writing.added(self._engine.outstanding)
        return tag

    def _keep(self, request: RequestFuture, rq_type: int, flags: int, payload: bytes, bounded: bool) -> None:
        engine = self._engine
        if self.refuses_requests:
            raise engine.why_not()
        if bounded and (len(self.waiting) >= engine.max_outstanding or self._waiting_bytes > self._max_unsent):
            raise LimitExceeded(f"{self.lack_of_room()}, {len(self.waiting)} more wait; await drain() first")
        self.waiting[request] = rq_type, flags, payload
        self._waiting_bytes += len(payload)
        self._small_waiting += len(payload) <= PIECES_ABOVE

    def _count_off(self, payload: bytes) -> None:
        self._waiting_bytes -= len(payload)
        self._small_waiting -= len(payload) <= PIECES_ABOVE

    def status_of(self, flags: int) -> Status:
        """The meaning of the flags of a response that is not ok."""
        return self._engine.status_of(flags)

    def _why_unsent(self, request: RequestFuture) -> str:
        control = self._engine.control
        if request in self.waiting or control is None or control.capabilities.is_settled:
            return self.lack_of_room()
        return f"{self._name}: {control.capabilities.peer_text()}"

    def lack_of_room(self) -> str:
        """Why a request is not sent."""
        engine = self._engine
        return (
            f"{self._name}: no room for one more request: {engine.outstanding} of {engine.max_outstanding} "
            f"unanswered, {engine.unsent_octets} bytes unsent"
        )

    def forget(self, channel: int, tag: int, code: StatusCode = StatusCode.CANCELLED, text: str = "") -> None:
        """Nobody waits for this response any more; the peer is told, if it understands that."""
        engine = self._engine
        if engine.forget(channel, tag):
            if engine.control is not None and engine.cancel(channel, tag, code, text):
                self._writing.added(2)
            if not self._writing.is_receiving:
                self._changed()

    def give_up(self, request: RequestFuture, code: StatusCode = StatusCode.CANCELLED, text: str = "") -> None:
        """As `forget`, of a request that may wait for room."""
        if request.tag >= 0:
            self.forget(request.channel, request.tag, code, text)
        elif request in self.waiting:
            self._count_off(self.waiting.pop(request)[2])
            if not self._writing.is_receiving:
                self._changed()

    def time_out(self, request: RequestFuture, why: Callable[[], str]) -> None:
        """The time for this response is up."""
        if not request.done():
            text = why() if request.tag >= 0 else f"no time left: {self._why_unsent(request)}"
            self.give_up(request)
            request.fail(RequestTimeout(text))

    def pass_deadline(self, request: RequestFuture) -> None:
        """The deadline of this request has passed."""
        if not request.done():
            if request.tag >= 0:
                error = DeadlineExceeded(f"{self._name}:{request.tag}: no response before the deadline")
            else:
                error = DeadlineExceeded(f"the deadline has passed: {self._why_unsent(request)}", begun=False)
            self.give_up(request, StatusCode.DEADLINE)
            request.fail(error)

    def look_for_progress(self, request: RequestFuture) -> None:
        """End a request of which nothing was heard for its `idle_timeout`."""
        plan = request.plan
        if request.done() or plan is None or plan.idle_timeout is None:
            return
        due = request.heard + plan.idle_timeout
        if self.loop.time() < due:
            request.idle_timer = self.loop.call_at(due, self.look_for_progress, request)
            return
        name = f"{self._name}:{request.tag}"
        self.give_up(request)
        request.fail(RequestTimeout(f"{name}: neither response nor progress within {plan.idle_timeout} s"))

    @property
    def has_room(self) -> bool:
        """True if one more request would be sent at once."""
        return not self.waiting and self._fits(PIECES_ABOVE + 1)

    def _fits(self, size: int) -> bool:
        return self._engine.has_room and not self._engine.is_full(self._max_unsent, size)

    def _overtakes(self, size: int) -> bool:
        """A request of this size goes ahead of those that wait, as these are all large."""
        return size <= PIECES_ABOVE and self._engine.lane is not None and not self._small_waiting

    @property
    def refuses_requests(self) -> bool:
        """True if none is taken any more. After a failed write they are, and wait for the reason."""
        engine = self._engine
        return engine.ended is not None or engine.barred is not None or self.ends_requests

    def admit(self) -> None:
        """Send what waits for room, then announce the end if that is due."""
        engine = self._engine
        if engine.barred is not None:  # the peer drains, or speaks another protocol: there will be no room
            self._fail_waiting_by(engine.why_not)
        while self.waiting and engine.may_request:
            first = next(iter(self.waiting))
            if not self._fits(len(self.waiting[first][2])):
                break
            request, (rq_type, flags, payload) = self.waiting.popitem(last=False)
            self._count_off(payload)
            try:
                if request.said is None:
                    request.tag = engine.ask(rq_type, flags, payload, request.channel, request)
                else:
                    meta = request.said.meta(self.loop.time())
                    request.tag = engine.ask_with(
                        meta, rq_type, flags, payload, request.channel, request, request.said.bodies
                    )
            except Exception as error:
                request.fail(error)
        if not self.waiting:
            if self.ends:
                engine.end()
            elif self.ends_requests:
                engine.end_requests()

    def fail_waiting(self, cause: ConnectionEnded) -> None:
        """Requests that wait for room are never sent."""
        self._fail_waiting_by(cause.for_waiter)

    def _fail_waiting_by(self, reason: Callable[[], PacketwireError]) -> None:
        while self.waiting:
            request, _ = self.waiting.popitem(last=False)
            request.fail(reason())
        self._waiting_bytes = self._small_waiting = 0

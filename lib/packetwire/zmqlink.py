"""Clients and workers of packets over ZMQ, whatever runs them: their socket, and what a worker answers."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from packetwire.errors import PacketwireError, extra_missing

try:
    import zmq
except ModuleNotFoundError as error:
    raise extra_missing("zmq", error) from error

from packetwire.core.channels import Channels, RequestHandler, bound_to_channel
from packetwire.core.engine import not_served
from packetwire.core.packet import Packet
from packetwire.core.requests import Outcome
from packetwire.core.settings import DEFAULT_MAX_PACKET_SIZE
from packetwire.error_text import error_text
from packetwire.faults import FaultLog
from packetwire.streams.curve import CurveClient
from packetwire.streams.zmqsockets import NOBLOCK, POLLIN, POLLOUT, ZmqContext, be_curve_client, events_now
from packetwire.zmq.owned import let_go
from packetwire.zmq.reading import MessageReader
from packetwire.zmq.sockets import os_error, owned_socket

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
BATCH = 64
"""Messages that are received before the deadlines are looked at, and what is to be sent."""
CLOSE_LINGER = 1.0
"""Seconds for what was sent to leave, after the close."""
DRAIN_SECONDS = 5.0
"""Seconds for a worker's handlers to finish, when it is closed."""

Response = tuple[bool, int, bytes]
Message = Sequence[bytes]


class DealerLink:
    """A DEALER that is connected, and the messages that wait to be sent there. For one thread at a time.

    `receive` is called with each message that comes.
    """

    def __init__(
        self,
        endpoint: str,
        receive: Callable[[Message], None],
        queue: int,
        curve: CurveClient | None,
        context: ZmqContext | None,
    ) -> None:
        """`queue` is a number of messages. Raises OSError."""
        self.outbox: deque[Message] = deque()
        self._endpoint = endpoint
        self._receive = receive
        self.socket = owned_socket(context or zmq.Context.instance(), zmq.DEALER)
        self._reader = MessageReader(self.socket, MAX_FRAMES)
        try:
            self.socket.linger = int(CLOSE_LINGER * 1000)
            self.socket.sndhwm = self.socket.rcvhwm = queue
            self.socket.maxmsgsize = DEFAULT_MAX_PACKET_SIZE
            if "[" in endpoint:
                self.socket.ipv6 = True
            if curve is not None:
                be_curve_client(self.socket, curve)
            self.socket.connect(endpoint)
        except BaseException as error:
            let_go(self.socket, 0)
            if isinstance(error, zmq.ZMQError):
                raise os_error(error, endpoint) from error
            raise

    def pass_messages(self, has_room: Callable[[], bool]) -> bool:
        """Send all that can be sent, and receive while there is room.

        True if there is more, of which the descriptor would not tell.
        """
        sock = self.socket
        try:
            while self.outbox:
                sock.send_multipart(self.outbox[0], NOBLOCK)
                self.outbox.popleft()
        except zmq.Again:
            pass
        for _ in range(BATCH):
            events = events_now(sock)
            if not (events & POLLIN and has_room()) and not self._reader.skipping:
                return bool(self.outbox) and bool(events & POLLOUT)
            frames = self._reader.receive()
            if not frames:
                break  # what a message has too much takes long, and something else may be due
            if len(frames) > MAX_FRAMES:
                logger.warning("%s: a message with more than %d frames was dropped", self._endpoint, MAX_FRAMES)
            else:
                self._receive([frame.bytes for frame in frames])
        return True


def packet_of(message: Message, endpoint: str) -> Packet | None:
    """The packet behind the envelope; None if there is none, which is logged."""
    try:
        return Packet.from_bytes(message[-1])
    except (PacketwireError, ValueError, EOFError) as error:
        logger.warning("%s: a message that is no packet was dropped: %s", endpoint, error)
        return None


class Job(NamedTuple):
    """A request that a worker was dealt, and the way back."""

    envelope: Message
    packet: Packet

    @property
    def rq_type(self) -> int:
        """The type, as handlers know it."""
        return (self.packet.rq_type or 1) - 1


class WorkerAnswers:
    """The handlers of a worker, and the messages that answer requests."""

    def __init__(
        self,
        endpoint: str,
        request_handler: RequestHandler,
        channels: Mapping[int, RequestHandler] | None,
        error_detail: str,
    ) -> None:
        self._endpoint = endpoint
        self._handlers = {0: bound_to_channel(request_handler, 0), **Channels(channels).handlers}
        self._error_detail = error_detail
        self._faults = FaultLog(endpoint)

    def job_of(self, message: Message) -> Job | None:
        """The request in a message; None if it is something else, which is logged."""
        packet = packet_of(message, self._endpoint)
        if packet is None:
            return None
        if not packet.is_request or not packet.rq_type:
            logger.warning("%s: a packet that is no request was dropped", self._endpoint)
            return None
        return Job(message[:-1], packet)

    def handler_for(self, job: Job) -> Callable[[int, int, bytes], Any] | None:
        """The handler of the request's channel, if that is served."""
        return self._handlers.get(job.packet.channel)

    def refusal(self, job: Job) -> Message:
        """The answer where the channel is not served."""
        return self._response(job, 0, not_served(job.packet.channel))

    def answer(self, job: Job, outcome: Outcome) -> Message:
        """The answer that a handler's result makes, or the exception that `outcome` raises."""
        try:
            flags, payload = self._faults.response_parts(self.handler_for(job), job.rq_type, outcome())
            return self._response(job, flags << 1 | 1, payload)
        except BaseException as error:  # whatever it is, it belongs to the peer that asked
            return self.failure(job, error)

    def failure(self, job: Job, error: BaseException) -> Message:
        """The answer to a request whose handler raised that."""
        self._faults.failed(job.packet.channel, job.packet.tag, job.rq_type, error)
        return self._response(job, 0, error_text(error, self._error_detail))

    def _response(self, job: Job, flags: int, payload: bytes) -> Message:
        packet = job.packet
        response = Packet(is_request=False, channel=packet.channel, tag=packet.tag, flags=flags, payload=payload)
        return [*job.envelope, bytes(response)]

    def sum_up(self) -> None:
        """It is the end: log how many failures were only counted."""
        self._faults.sum_up()

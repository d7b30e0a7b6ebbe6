"""The protocol of a server. No socket, no thread, no clock.

Received frames go in by `receive`; requests come out by `take`, in order; messages to send are in `outbox`.
`expire` has to be called at `next_deadline`. A request is answered at most once: by `respond`, or with TIMEOUT.
"""

from __future__ import annotations

import traceback
from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import Final

from packetwire.error_text import ERROR_TEXT_LIMIT
from packetwire.errors import LimitExceeded
from packetwire.hololinked.constants import (
    DEFAULT_MAX_CLIENTS,
    DEFAULT_MAX_MESSAGE_SIZE,
    DEFAULT_MAX_PENDING,
    DEFAULT_MAX_PENDING_PER_CLIENT,
    ERROR,
    EXECUTION,
    HANDSHAKE,
    INVALID_MESSAGE,
    INVOKATION,
    OPERATION,
    REPLY,
    TIMED_OUT,
)
from packetwire.hololinked.deadlines import Deadlines
from packetwire.hololinked.errors import InvalidMessage, PayloadError
from packetwire.hololinked.messages import (
    RESPONSE_TYPES,
    RequestMessage,
    ResponseMessage,
    frames_of,
    glance,
    response_header,
)
from packetwire.hololinked.serializers import (
    PreserializedData,
    PreserializedEmptyByte,
    SerializableData,
    SerializableNone,
)

ERROR_DETAILS: Final = ("none", "message", "traceback")


class ServerCore:
    """The requests of one server: those that wait, and those that were taken and have no response yet."""

    def __init__(
        self,
        server_id: str,
        *,
        allow_exit: bool = False,
        error_detail: str = "message",
        max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE,
        max_pending: int = DEFAULT_MAX_PENDING,
        max_pending_per_client: int = DEFAULT_MAX_PENDING_PER_CLIENT,
        max_clients: int = DEFAULT_MAX_CLIENTS,
    ) -> None:
        if error_detail not in ERROR_DETAILS:
            raise ValueError(f"error_detail must be one of {', '.join(ERROR_DETAILS)}, not {error_detail!r}")
        self.server_id = server_id
        self.allow_exit = allow_exit
        self.error_detail = error_detail
        self.max_message_size = max_message_size
        self.max_pending = max_pending
        self.max_pending_per_client = max_pending_per_client
        self.max_clients = max_clients
        self.outbox: deque[list[bytes]] = deque()
        self.refused = 0
        """Messages that were refused."""
        self._waiting: OrderedDict[RequestMessage, None] = OrderedDict()
        self._taken: set[RequestMessage] = set()
        self._per_client: dict[bytes, int] = {}
        self._deadlines: Deadlines[RequestMessage] = Deadlines()
        self._exit: RequestMessage | None = None

    @property
    def pending(self) -> int:
        """The number of requests without a response."""
        return len(self._waiting) + len(self._taken)

    @property
    def waiting(self) -> int:
        """The number of requests that were not taken yet."""
        return len(self._waiting)

    @property
    def exiting(self) -> bool:
        """True if a client has sent EXIT, and may do so: requests that were received before are still served."""
        return self._exit is not None

    def receive(self, frames: Sequence[bytes], now: float) -> None:
        """Receive a message; its first frame is the identity of the sender's socket."""
        try:
            if (size := sum(map(len, frames))) > self.max_message_size:
                raise InvalidMessage(
                    f"a message has at most {self.max_message_size} bytes, this one {size}", glance(frames)[0]
                )
            request = RequestMessage(frames, frames[0])
        except InvalidMessage as error:
            self._refuse(frames, error)
            return
        message_type = request.header.messageType
        if message_type == OPERATION:
            self._accept(request, now)
        elif message_type == HANDSHAKE:
            self.handshake(request)
        else:
            self.exit(request)

    def _refuse(self, frames: Sequence[bytes], error: InvalidMessage) -> None:
        self.refused += 1
        if glance(frames)[1] in RESPONSE_TYPES - {HANDSHAKE}:
            return  # or two servers would answer each other's answers for ever
        message = ResponseMessage.craft_for_route(
            frames[0],
            frames[0].decode(errors="replace"),
            self.server_id,
            INVALID_MESSAGE,
            error.message_id,
            SerializableData({"exception": self.describe(error)}),
        )
        self.outbox.append(message.byte_array)

    def _accept(self, request: RequestMessage, now: float) -> None:
        refusal = self._no_place_for(request)
        if refusal is not None:
            self.refused += 1
            self._answer(request, ERROR, SerializableData(self.describe(refusal)))
            return
        try:
            request.payload.deserialize()
        except PayloadError as error:
            self.refused += 1
            self._answer(request, INVALID_MESSAGE, SerializableData({"exception": self.describe(error)}))
            return
        self._waiting[request] = None
        route = request.address
        self._per_client[route] = self._per_client.get(route, 0) + 1
        self._set_deadline(request, request.header.serverExecutionContext.invokationTimeout, now)

    def _no_place_for(self, request: RequestMessage) -> LimitExceeded | None:
        if self._exit is not None:
            return LimitExceeded("the server is about to exit")
        held = self._per_client.get(request.address, 0)
        if held >= self.max_pending_per_client:
            return LimitExceeded(f"the client has {held} requests without a response already")
        if not held and len(self._per_client) >= self.max_clients:
            return LimitExceeded(f"the server has requests of {self.max_clients} clients already")
        if self.pending >= self.max_pending:
            return LimitExceeded(f"the server has {self.pending} requests without a response already")
        return None

    def _set_deadline(self, request: RequestMessage, seconds: float | None, now: float) -> None:
        if seconds is None:
            self._deadlines.remove(request)
        else:
            self._deadlines.set(request, now + seconds)

    def take(self, now: float) -> RequestMessage | None:
        """Take the next request to serve, if there is one; its execution begins."""
        if self._deadlines.not_before <= now:
            self.expire(now)
        if not self._waiting:
            return None
        request, _ = self._waiting.popitem(last=False)
        self._taken.add(request)
        context = request.header.serverExecutionContext
        if context.oneway:
            self._forget(request)
        else:
            self._set_deadline(request, context.executionTimeout, now)
        return request

    def respond(
        self,
        request: RequestMessage,
        message_type: str = REPLY,
        payload: SerializableData = SerializableNone,
        preserialized_payload: PreserializedData = PreserializedEmptyByte,
    ) -> bool:
        """Answer a request; False if it was answered already, or wants no answer.

        Raises `PayloadError` or `LimitExceeded` if the answer cannot be sent; another one may follow.
        """
        if request not in self._taken and request not in self._waiting:
            return False
        if not request.header.serverExecutionContext.oneway:
            frames = self._frames(request, message_type, payload, preserialized_payload)
            if (size := sum(map(len, frames))) > self.max_message_size:
                raise LimitExceeded(f"a message has at most {self.max_message_size} bytes, this one {size}")
            self.outbox.append(frames)
        self._forget(request)
        return True

    def handshake(self, request: RequestMessage) -> None:
        """Answer a HANDSHAKE, or any request, with HANDSHAKE."""
        self.outbox.append(self._frames(request, HANDSHAKE))

    def exit(self, request: RequestMessage) -> None:
        """Handle an EXIT: a client that may do so gets a REPLY once nothing is pending."""
        if not self.allow_exit:
            self.refused += 1
            error = PermissionError("this server does not let a client end it")
            self._answer(request, ERROR, SerializableData(self.describe(error)))
        elif self._exit is None:
            self._exit = request
            self._answer_exit()
        else:
            self.outbox.append(self._frames(request, REPLY))

    def invalid(self, request: RequestMessage, error: BaseException) -> bool:
        """Answer INVALID_MESSAGE."""
        return self._conclude(request, INVALID_MESSAGE, SerializableData({"exception": self.describe(error)}))

    def failed(self, request: RequestMessage, error: BaseException) -> bool:
        """Answer EXCEPTION."""
        return self._conclude(request, ERROR, SerializableData(self.describe(error)))

    def timed_out(self, request: RequestMessage, which: str) -> bool:
        """Answer TIMEOUT."""
        return self._conclude(request, TIMED_OUT, SerializableData(which))

    def _conclude(self, request: RequestMessage, message_type: str, payload: SerializableData) -> bool:
        """As `respond`; also for a request that was made here, not received."""
        if request.route is None:
            self._answer(request, message_type, payload)
            return True
        return self.respond(request, message_type, payload)

    def _answer(self, request: RequestMessage, message_type: str, payload: SerializableData) -> None:
        if not request.server_execution_context.oneway:
            self.outbox.append(self._frames(request, message_type, payload))

    def expire(self, now: float) -> None:
        """Answer TIMEOUT to all requests whose time is up."""
        for request in self._deadlines.due(now):
            self.respond(request, TIMED_OUT, SerializableData(EXECUTION if request in self._taken else INVOKATION))

    def next_deadline(self) -> float | None:
        """The time at which `expire` has to be called, if any."""
        return self._deadlines.next()

    @property
    def not_before(self) -> float:
        """A lower bound of `next_deadline`, which is quicker to get; infinity for never."""
        return self._deadlines.not_before

    def describe(self, error: BaseException) -> dict[str, object]:
        """The description of an exception for clients, by `error_detail`."""
        kind, text = type(error).__name__, str(error)[:ERROR_TEXT_LIMIT]
        if self.error_detail == "none":
            kind, text = "Exception", "the operation failed"
        lines = [f"{kind}: {text}"]  # never empty, as clients of the reference take the first one
        if self.error_detail == "traceback":
            lines = "".join(traceback.format_exception(error)).splitlines()
        notes = getattr(error, "__notes__", None) if self.error_detail != "none" else None
        return {
            "message": text,
            "type": kind,
            "traceback": lines,
            "notes": None if notes is None else [str(note) for note in notes],
        }

    def _frames(
        self,
        request: RequestMessage,
        message_type: str,
        payload: SerializableData = SerializableNone,
        preserialized_payload: PreserializedData = PreserializedEmptyByte,
    ) -> list[bytes]:
        header = response_header(
            message_type,
            request.header.messageID,
            request.header.senderID,
            self.server_id,
            payload,
            preserialized_payload,
        )
        route = request.route or request.header.senderID.encode()
        return frames_of(route, header, payload, preserialized_payload)

    def _forget(self, request: RequestMessage) -> None:
        if request in self._taken:
            self._taken.remove(request)
        else:
            del self._waiting[request]
        self._deadlines.remove(request)
        route = request.address
        left = self._per_client[route] - 1
        if left:
            self._per_client[route] = left
        else:
            del self._per_client[route]
        if self._exit is not None:
            self._answer_exit()

    def _answer_exit(self) -> None:
        if self._exit is not None and not self.pending:
            self.outbox.append(self._frames(self._exit, REPLY))

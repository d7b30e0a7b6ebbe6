"""Messages in the packets of a connection: what both sides make of them, with threads and in an event loop."""

from __future__ import annotations

from abc import ABC, abstractmethod

from packetwire.core.events import Event, RequestReceived, ResponseReceived, StreamEnded
from packetwire.core.faults import caused_by_peer
from packetwire.errors import RequestFailed
from packetwire.iccp.messages import ICCPMessage, check_size
from packetwire.iccp.refusals import refuse
from packetwire.iccp.requests import REQUESTS
from packetwire.messaging.errors import InvalidMessageError
from packetwire.messaging.multipart import join_frames, split_frames

CHANNEL = 0
"""The channel of a connection whose two ends are a component and its controller."""

NOT_A_MESSAGE = "packet"
"""The code of the refusal of a packet that holds no frames, or those of another type."""


class PacketEnd(ABC):
    """One side of ICCP on a connection, which `take_event` is attached to."""

    def take_event(self, event: Event) -> object:
        """As the connection's receiver: what is returned for a request is its response."""
        if isinstance(event, RequestReceived):
            return self._take_request(event)
        if isinstance(event, ResponseReceived):
            self._take_response(event)
        elif isinstance(event, StreamEnded):
            self.take_loss(event.cause)
        return None

    @abstractmethod
    def take_message(self, msg: ICCPMessage) -> object:
        """A message has come; the response, if it came as a request: the payload, or one that comes later."""

    @abstractmethod
    def take_violation(self, exc: Exception) -> None:
        """An invalid message has come."""

    @abstractmethod
    def take_loss(self, exc: Exception) -> None:
        """Nothing more comes."""

    def _take_request(self, event: RequestReceived) -> object:
        try:
            msg = message_of(event)
        except InvalidMessageError as error:
            self.take_violation(error)
            if error.code == NOT_A_MESSAGE:
                caused_by_peer(error)
                raise
            return b""
        return self.take_message(msg)

    def _take_response(self, event: ResponseReceived) -> None:
        if not event.ok:
            self.take_loss(RequestFailed(event.flags, event.payload, "a message"))
        elif event.payload:
            try:
                msg = message_in(event.payload)
            except InvalidMessageError as error:
                self.take_violation(error)
            else:
                self.take_message(msg)


def message_of(event: RequestReceived) -> ICCPMessage:
    """The message in a packet request; raises `InvalidMessageError`."""
    request = REQUESTS.get(event.rq_type)
    if request is None:
        return message_in(event.payload)
    try:
        frames = request.from_request_payload(event.flags, event.payload).frames
    except ValueError as error:
        raise refuse(NOT_A_MESSAGE, reason=error) from error
    return message_from(frames)


def message_in(payload: bytes) -> ICCPMessage:
    """The message in the payload of a response, or of a request of no type; raises `InvalidMessageError`."""
    try:
        frames = split_frames(payload)
    except ValueError as error:
        raise refuse(NOT_A_MESSAGE, reason=error) from error
    return message_from(frames)


def message_from(frames: list[bytes]) -> ICCPMessage:
    """The message in these frames; raises `InvalidMessageError`."""
    check_size(frames)
    msg = ICCPMessage()
    msg.from_zmsg(frames)
    return msg


def packet_of(msg: ICCPMessage) -> tuple[int, bytes]:
    """The rq_type and payload of the packet request that carries a message."""
    assert msg.msg_type is not None
    return int(msg.msg_type), join_frames(msg.as_zmsg())

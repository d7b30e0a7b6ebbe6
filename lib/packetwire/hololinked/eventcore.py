"""Which events are published, and which received ones a consumer is for. No socket, no thread, no clock."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from packetwire.errors import LimitExceeded, LocalProtocolError
from packetwire.hololinked.constants import DEFAULT_MAX_MESSAGE_SIZE, JSON_TYPE, OCTETS_TYPE
from packetwire.hololinked.errors import InvalidMessage
from packetwire.hololinked.messages import EventMessage
from packetwire.hololinked.serializers import (
    BYTES_LIKE,
    PreserializedData,
    PreserializedEmptyByte,
    SerializableData,
    SerializableNone,
)

logger = logging.getLogger("packetwire")


class PublisherCore:
    """The events of one publisher."""

    def __init__(self, publisher_id: str, *, max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE) -> None:
        self.publisher_id = publisher_id
        self.max_message_size = max_message_size
        self.event_ids: set[str] = set()

    def frames(self, event_id: str, data: Any) -> list[bytes]:
        """What to send for an event. Raises `LocalProtocolError`, `PayloadError` or `LimitExceeded`."""
        if event_id not in self.event_ids:
            raise LocalProtocolError(f"the event {event_id!r} is not registered")
        payload, preserialized = parts_of(data)
        frames = EventMessage.craft_from_arguments(
            event_id, self.publisher_id, payload=payload, preserialized_payload=preserialized
        ).byte_array
        size = sum(map(len, frames))
        if size > self.max_message_size:
            raise LimitExceeded(f"a message has at most {self.max_message_size} octets, this one {size}")
        return frames


class ConsumerCore:
    """The event that one consumer is for; with an empty id all of them."""

    def __init__(
        self, consumer_id: str, event_id: str, *, max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE
    ) -> None:
        self.consumer_id = consumer_id
        self.event_id = event_id
        self.max_message_size = max_message_size
        self.dropped = 0
        """Messages that are no events, or too long."""
        self.interrupted = False

    def accept(self, frames: Sequence[bytes]) -> EventMessage | None:
        """The event, if it is one and the one asked for: ZMQ also brings those whose names begin as it does."""
        try:
            size = sum(map(len, frames))
            if size > self.max_message_size:
                raise InvalidMessage(f"a message has at most {self.max_message_size} octets, this one {size}")
            event = EventMessage(frames)
        except InvalidMessage as error:
            self._drop("a message is dropped", error)
            return None
        if event.address != event.event_id.encode(errors="replace"):
            self._drop("an event under another's topic is dropped", event.event_id[:100])
            return None
        return event if self.event_id in ("", event.event_id) else None

    def _drop(self, what: str, why: object) -> None:
        self.dropped += 1
        # a publisher must not fill the log
        level = logging.WARNING if self.dropped == 1 else logging.DEBUG
        logger.log(level, "%s: %s: %s", self.consumer_id, what, why)

    def take_interrupt(self) -> bool:
        """Whether there was one; there is none then."""
        interrupted, self.interrupted = self.interrupted, False
        return interrupted


def parts_of(value: Any) -> tuple[SerializableData, PreserializedData]:
    """A value as payload and preserialized payload: octets go as they are, a pair of a value and octets as both."""
    if isinstance(value, SerializableData):
        return value, PreserializedEmptyByte
    if isinstance(value, PreserializedData):
        return SerializableNone, value
    if isinstance(value, BYTES_LIKE):
        return SerializableNone, PreserializedData(bytes(value), OCTETS_TYPE)
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], (*BYTES_LIKE, PreserializedData)):
        first = value[0]
        if not isinstance(first, SerializableData):
            first = SerializableData(
                first, content_type=OCTETS_TYPE if isinstance(first, BYTES_LIKE) else JSON_TYPE
            )
        return first, parts_of(value[1])[1]
    return SerializableData(value), PreserializedEmptyByte

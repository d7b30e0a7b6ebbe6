"""The protocol of publishers and consumers of events. No socket, no thread, no clock."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from packetwire.errors import LimitExceeded, LocalProtocolError
from packetwire.hololinked.constants import BYTES_TYPE, DEFAULT_MAX_MESSAGE_SIZE, JSON_TYPE
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

    def frames(self, event_id: str, data: object) -> list[bytes]:
        """The frames of an event. Raises `LocalProtocolError`, `PayloadError` or `LimitExceeded`."""
        if event_id not in self.event_ids:
            raise LocalProtocolError(f"the event {event_id!r} is not registered")
        payload, preserialized = parts_of(data)
        frames = EventMessage.craft_from_arguments(
            event_id, self.publisher_id, payload=payload, preserialized_payload=preserialized
        ).byte_array
        size = sum(map(len, frames))
        if size > self.max_message_size:
            raise LimitExceeded(f"a message has at most {self.max_message_size} bytes, this one {size}")
        return frames


class ConsumerCore:
    """The event that a consumer receives; with an empty id all of them."""

    def __init__(
        self, consumer_id: str, event_id: str, *, max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE
    ) -> None:
        self.consumer_id = consumer_id
        self.event_id = event_id
        self.max_message_size = max_message_size
        self.dropped = 0
        """Messages that were invalid, or too long."""
        self.interrupted = False

    def accept(self, frames: Sequence[bytes]) -> EventMessage | None:
        """The event in these frames, if it is the right one: ZMQ also delivers those whose ids only begin alike."""
        try:
            size = sum(map(len, frames))
            if size > self.max_message_size:
                raise InvalidMessage(f"a message has at most {self.max_message_size} bytes, this one {size}")
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
        # at WARNING once only: a publisher must not fill the log
        level = logging.WARNING if self.dropped == 1 else logging.DEBUG
        logger.log(level, "%s: %s: %s", self.consumer_id, what, why)

    def take_interrupt(self) -> bool:
        """True if there was an interrupt, which is cleared."""
        interrupted, self.interrupted = self.interrupted, False
        return interrupted


PLAIN_TYPES: Final = frozenset((dict, list, str, int, float, bool, type(None)))
"""Types whose values are sent as JSON without further checks; subclasses are checked."""


def parts_of(value: object) -> tuple[SerializableData, PreserializedData]:
    """A value as payload and preserialized payload: bytes as they are, a pair of a value and bytes as both."""
    if type(value) in PLAIN_TYPES:
        return SerializableData(value), PreserializedEmptyByte
    if isinstance(value, SerializableData):
        return value, PreserializedEmptyByte
    if isinstance(value, PreserializedData):
        return SerializableNone, value
    if isinstance(value, BYTES_LIKE):
        return SerializableNone, PreserializedData(bytes(value), BYTES_TYPE)
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], (*BYTES_LIKE, PreserializedData)):
        first = value[0]
        if not isinstance(first, SerializableData):
            first = SerializableData(first, content_type=BYTES_TYPE if isinstance(first, BYTES_LIKE) else JSON_TYPE)
        return first, parts_of(value[1])[1]
    return SerializableData(value), PreserializedEmptyByte

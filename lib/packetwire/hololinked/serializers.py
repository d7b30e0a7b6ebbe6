"""Payloads by content type: JSON, and text and octets as they are. A program registers what else it needs.

    Serializers.register(MsgpackSerializer())     # anything with content_type, dumps(value) and loads(octets)

There is no pickle.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import msgspec

from packetwire.hololinked.constants import JSON_TYPE, OCTETS_TYPE, TEXT_TYPE, UNKNOWN_TYPE
from packetwire.hololinked.errors import PayloadError

BYTES_LIKE: Final = (bytes, bytearray, memoryview)
_UNREAD: Final = object()


class BaseSerializer(Protocol):
    """What is registered for a content type."""

    @property
    def content_type(self) -> str:
        """Such as `application/json`."""
        ...

    def dumps(self, data: Any) -> bytes:
        """The octets of a value."""
        ...

    def loads(self, data: bytes) -> Any:
        """The value of octets."""
        ...


class JSONSerializer:
    """Compact JSON in UTF-8."""

    content_type = JSON_TYPE

    def dumps(self, data: Any) -> bytes:
        """The JSON of a value. Raises TypeError for what JSON does not have."""
        return msgspec.json.encode(data)

    def loads(self, data: bytes) -> Any:
        """The value of JSON. Raises ValueError for what is none."""
        return msgspec.json.decode(data)


class TextSerializer:
    """A `str` in UTF-8."""

    content_type = TEXT_TYPE

    def dumps(self, data: Any) -> bytes:
        """The octets of a `str`. Raises TypeError for anything else."""
        if not isinstance(data, str):
            raise TypeError(f"{TEXT_TYPE} takes a str, not {type(data).__name__}")
        return data.encode()

    def loads(self, data: bytes) -> str:
        """The text. Raises UnicodeDecodeError for what is not UTF-8."""
        return data.decode()


class OctetsSerializer:
    """Octets as they are."""

    content_type = OCTETS_TYPE

    def dumps(self, data: Any) -> bytes:
        raise TypeError(f"{OCTETS_TYPE} takes octets, not {type(data).__name__}")

    def loads(self, data: bytes) -> bytes:
        return data


class SerializerRegistry:
    """Which serializer a content type has."""

    def __init__(self) -> None:
        self.content_types: dict[str, BaseSerializer] = {}
        for serializer in (JSONSerializer(), TextSerializer(), OctetsSerializer()):
            self.register(serializer)

    def register(self, serializer: BaseSerializer, *, override: bool = False) -> None:
        """Have a content type read and written by `serializer`. A second one for it needs `override`."""
        content_type = serializer.content_type
        if content_type in self.content_types and not override:
            raise ValueError(f"the content type {content_type} is registered already")
        self.content_types[content_type] = serializer

    def unregister(self, content_type: str) -> None:
        """Have a content type unknown again."""
        self.content_types.pop(content_type, None)

    def is_known(self, content_type: str | None) -> bool:
        """Whether that is a content type with a serializer."""
        return content_type in self.content_types

    def for_content_type(self, content_type: str | None) -> BaseSerializer:
        """The serializer of a content type; without one that of JSON. Raises `PayloadError`."""
        try:
            return self.content_types[content_type or JSON_TYPE]
        except KeyError:
            raise PayloadError(f"no serializer is registered for the content type {content_type!r}") from None


Serializers: Final = SerializerRegistry()
"""The one that all messages use."""


@dataclass(frozen=True, slots=True)
class SerializableData:
    """A value, or its octets, with a content type.

    If `value` is octets they are taken as serialized already. `serializer` goes before the one of the type.
    """

    value: Any
    serializer: BaseSerializer | None = None
    content_type: str | None = JSON_TYPE
    _read: Any = field(default=_UNREAD, init=False, repr=False, compare=False)

    def serialize(self) -> bytes:
        """The octets. Raises `PayloadError`."""
        if isinstance(self.value, BYTES_LIKE):
            return bytes(self.value)
        serializer = self.serializer or Serializers.for_content_type(self.content_type)
        try:
            return serializer.dumps(self.value)
        except Exception as error:
            raise PayloadError(f"the payload is not {self.content_type}: {error}") from error

    def deserialize(self) -> Any:
        """The value; the same one at each call; None if there is nothing, of no type or of one that is not known.

        Raises `PayloadError`.
        """
        if not isinstance(self.value, BYTES_LIKE):
            return self.value
        if self._read is _UNREAD:
            if not self.value and self.serializer is None and not Serializers.is_known(self.content_type):
                return None
            serializer = self.serializer or Serializers.for_content_type(self.content_type)
            try:
                object.__setattr__(self, "_read", serializer.loads(bytes(self.value)))
            except Exception as error:
                raise PayloadError(f"the payload is not {self.content_type}: {error}") from error
        return self._read


@dataclass(frozen=True, slots=True)
class PreserializedData:
    """Octets that go as they are, with a content type that tells what they are."""

    value: bytes | bytearray | memoryview
    content_type: str | None = UNKNOWN_TYPE

    def octets(self) -> bytes:
        """Them as `bytes`."""
        return self.value if isinstance(self.value, bytes) else bytes(self.value)


SerializableNone: Final = SerializableData(None)
"""The payload of a message that has none."""
PreserializedEmptyByte: Final = PreserializedData(b"", content_type=TEXT_TYPE)
"""The octets of a message that has none."""

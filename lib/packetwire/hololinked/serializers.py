"""Payloads by content type: JSON, text and bytes. Programs register serializers for other types.

    Serializers.register(MsgpackSerializer())     # anything with content_type, dumps(value) and loads(bytes)

There is no pickle.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import msgspec

from packetwire.hololinked.constants import BYTES_TYPE, JSON_TYPE, TEXT_TYPE, UNKNOWN_TYPE
from packetwire.hololinked.errors import PayloadError

BYTES_LIKE: Final = (bytes, bytearray, memoryview)
_UNREAD: Final = object()


class BaseSerializer(Protocol):
    """A serializer of one content type."""

    @property
    def content_type(self) -> str:
        """The content type, such as `application/json`."""
        ...

    def dumps(self, data: object) -> bytes:
        """Encode a value."""
        ...

    def loads(self, data: bytes) -> Any:
        """Decode a value."""
        ...


class JSONSerializer:
    """Compact JSON in UTF-8."""

    content_type = JSON_TYPE

    def dumps(self, data: object) -> bytes:
        """Encode as JSON. Raises TypeError if JSON has no such value."""
        return msgspec.json.encode(data)

    def loads(self, data: bytes) -> Any:
        """Decode JSON. Raises ValueError if it is not valid JSON."""
        return msgspec.json.decode(data)


class TextSerializer:
    """A `str` in UTF-8."""

    content_type = TEXT_TYPE

    def dumps(self, data: object) -> bytes:
        """Encode a `str`. Raises TypeError for anything else."""
        if not isinstance(data, str):
            raise TypeError(f"{TEXT_TYPE} takes a str, not {type(data).__name__}")
        return data.encode()

    def loads(self, data: bytes) -> str:
        """Decode a `str`. Raises UnicodeDecodeError if it is not UTF-8."""
        return data.decode()


class BytesSerializer:
    """Bytes as they are."""

    content_type = BYTES_TYPE

    def dumps(self, data: object) -> bytes:
        raise TypeError(f"{BYTES_TYPE} takes bytes, not {type(data).__name__}")

    def loads(self, data: bytes) -> bytes:
        return data


class SerializerRegistry:
    """The serializers, by content type."""

    def __init__(self) -> None:
        self.content_types: dict[str, BaseSerializer] = {}
        for serializer in (JSONSerializer(), TextSerializer(), BytesSerializer()):
            self.register(serializer)

    def register(self, serializer: BaseSerializer, *, override: bool = False) -> None:
        """Use `serializer` for its content type. To replace one takes `override`."""
        content_type = serializer.content_type
        if content_type in self.content_types and not override:
            raise ValueError(f"the content type {content_type} is registered already")
        self.content_types[content_type] = serializer

    def unregister(self, content_type: str) -> None:
        """Remove the serializer of a content type, if it has one."""
        self.content_types.pop(content_type, None)

    def is_known(self, content_type: str | None) -> bool:
        """True if the content type has a serializer."""
        return content_type in self.content_types

    def for_content_type(self, content_type: str | None) -> BaseSerializer:
        """The serializer of a content type, by default that of JSON. Raises `PayloadError` if there is none."""
        try:
            return self.content_types[content_type or JSON_TYPE]
        except KeyError:
            raise PayloadError(f"no serializer is registered for the content type {content_type!r}") from None


Serializers: Final = SerializerRegistry()
"""The registry that all messages use."""


@dataclass(frozen=True, slots=True)
class SerializableData:
    """A value, or its encoded bytes, with a content type.

    If `value` is bytes it is taken to be serialized already. `serializer` has precedence over that of the type.
    """

    value: object
    serializer: BaseSerializer | None = None
    content_type: str | None = JSON_TYPE
    _read: object = field(default=_UNREAD, init=False, repr=False, compare=False)

    def serialize(self) -> bytes:
        """The encoded bytes. Raises `PayloadError`."""
        if isinstance(self.value, BYTES_LIKE):
            return bytes(self.value)
        serializer = self.serializer or Serializers.for_content_type(self.content_type)
        try:
            return serializer.dumps(self.value)
        except Exception as error:
            raise PayloadError(f"the payload is not {self.content_type}: {error}") from error

    def deserialize(self) -> Any:
        """The value, the same object at each call; None if it is empty, and its type missing or unknown.

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
    """Bytes that are sent as they are, with their content type."""

    value: bytes | bytearray | memoryview
    content_type: str | None = UNKNOWN_TYPE

    def as_bytes(self) -> bytes:
        """The content, as `bytes`."""
        return self.value if isinstance(self.value, bytes) else bytes(self.value)

    def octets(self) -> bytes:
        """Former name of `as_bytes`."""
        return self.as_bytes()


SerializableNone: Final = SerializableData(None)
"""The payload of a message that has none."""
PreserializedEmptyByte: Final = PreserializedData(b"", content_type=TEXT_TYPE)
"""The preserialized payload of a message that has none."""

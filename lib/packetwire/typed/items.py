"""The items of a stream as bytes of a body, and back: each has its length before it.

Strategy. Nothing here reads or writes. Bytes are fed in as they come, cut anywhere; a long item is joined once,
when all of it is here. A stream of bytes has no items on the wire: they are the body itself.
"""

from __future__ import annotations

from typing import Any, Protocol

from packetwire.core.varint import decode_varint, encode_varint
from packetwire.typed.badvalue import BadValue
from packetwire.typed.codec import Codec
from packetwire.typed.kinds import Stream

MAX_LENGTH_BYTES = 8
"""Bytes of the length before an item, at most."""
NOTHING: Any = object()
"""In place of an item that is not here yet."""


class ItemCodec:
    """Encodes the items of one stream, and decodes them. `name` is that of its parameter, "" for a result."""

    def __init__(self, name: str, stream: Stream) -> None:
        self.name = name
        self.stream = stream
        self.is_raw = stream.is_raw
        self._codec = Codec.of_kind(stream.annotation, stream.item)

    def encode(self, number: int, item: object) -> bytes:
        """The bytes of the body that an item is. Raises `BadValue`."""
        if self.is_raw:
            if isinstance(item, bytes | bytearray | memoryview):
                return bytes(item)
            raise BadValue(self._path(number), f"expected bytes, got {type(item).__name__}")
        try:
            data = self._codec.encode(item)
        except BadValue as error:
            raise self._below(number, error) from error.__cause__
        return encode_varint(len(data)) + data

    def decode(self, number: int, data: bytes) -> Any:
        """The item of these bytes. Raises `BadValue`."""
        try:
            return self._codec.decode(data)
        except BadValue as error:
            raise self._below(number, error) from error.__cause__

    def refusal(self, number: int, problem: str) -> BadValue:
        """The exception for an item that cannot be decoded."""
        return BadValue(self._path(number), problem)

    def _path(self, number: int) -> str:
        return f"$.{self.name}[{number}]" if self.name else f"$[{number}]"

    def _below(self, number: int, error: BadValue) -> BadValue:
        return BadValue(self._path(number) + error.path[1:], error.problem)


class DecodesItems(Protocol):
    """An `ItemCodec`, or what decodes items in another way."""

    @property
    def is_raw(self) -> bool:
        """True for a stream of bytes."""
        ...

    def decode(self, number: int, data: bytes) -> Any:
        """The item of these bytes. Raises `BadValue`."""
        ...

    def refusal(self, number: int, problem: str) -> BadValue:
        """The exception for an item that cannot be decoded."""
        ...


class ItemDecoder:
    """Cuts a body into items, of `most` bytes each at most."""

    def __init__(self, codec: DecodesItems, most: int) -> None:
        self._codec = codec
        self._most = most
        self._data = b""
        self._at = 0  # in it
        self._more: list[bytes] = []  # what came behind it
        self._size = 0  # of all that is left
        self._needed = 1  # bytes without which nothing can be made of it
        self._number = 0

    def feed(self, chunk: bytes) -> None:
        """Bytes have come."""
        self._more.append(chunk)
        self._size += len(chunk)

    def next(self) -> Any:
        """The next item, or `NOTHING`. Raises `BadValue`."""
        if self._size < self._needed:
            return NOTHING
        if self._more:
            self._data = b"".join([self._data[self._at :], *self._more])
            self._at = 0
            self._more.clear()
        if self._codec.is_raw:
            return self._taken(len(self._data))
        size, begin = decode_varint(self._data, self._at, min(len(self._data), self._at + MAX_LENGTH_BYTES))
        if begin < 0:
            if self._size >= MAX_LENGTH_BYTES:
                raise self._codec.refusal(self._number, "the length before it does not end")
            self._needed = self._size + 1
            return NOTHING
        if size > self._most:
            raise self._codec.refusal(self._number, f"has {size} bytes, more than {self._most}")
        whole = begin - self._at + size
        if self._size < whole:
            self._needed = whole
            return NOTHING
        number, data = self._number, self._taken(whole)[whole - size :]
        return self._codec.decode(number, data)

    def finish(self) -> None:
        """Nothing more comes. Raises `BadValue` if that is within an item."""
        if self._size:
            raise self._codec.refusal(self._number, "the body ends within it")

    def _taken(self, size: int) -> bytes:
        data = self._data[self._at : self._at + size]
        self._at += size
        self._size -= size
        self._needed = 1
        self._number += 1
        return data

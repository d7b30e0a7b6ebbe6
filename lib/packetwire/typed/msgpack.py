"""MessagePack, as far as typed values need it: heads of values as bytes, and their decoding in place.

Strategy. Nothing here knows kinds; `encoding` and `decoding` put these together. Lengths are compared with what is
there before anything is made of them, so a payload can announce no more than it has. A field that is not known, as
it is of a later version, is skipped by counting, without recursion. An IndexError means that the payload is cut
off; whoever calls these turns it into a refusal.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from packetwire.typed.badvalue import Refusal, expected

MAX_ITEMS = 1_000_000
"""Items, keys and values in one payload, at most: each may take sixty times its bytes when it is decoded."""
MAX_DEPTH = 64
"""How deep lists, maps and the like may be nested."""
CUT_OFF = "the payload ends within a value"
NIL = b"\xc0"

_DOUBLE = struct.Struct(">Bd")
_UNPACK_DOUBLE = struct.Struct(">d").unpack_from
_UNPACK_FLOAT = struct.Struct(">f").unpack_from
_SMALL_INTS = tuple(bytes((n,)) for n in range(128))
_INT_SIZES = {0xCC + i: (1 << i, False) for i in range(4)} | {0xD0 + i: (1 << i, True) for i in range(4)}
_STR_SIZES = {0xD9: 1, 0xDA: 2, 0xDB: 4}
_BIN_SIZES = {0xC4: 1, 0xC5: 2, 0xC6: 4}
_EXT_SIZES = {0xC7: 1, 0xC8: 2, 0xC9: 4}
_ARRAY_SIZES = {0xDC: 2, 0xDD: 4}
_MAP_SIZES = {0xDE: 2, 0xDF: 4}


# encoding


def int_bytes(n: int) -> bytes:
    """An integer, in the fewest bytes."""
    if 0 <= n < 128:
        return _SMALL_INTS[n]
    if n > 0:
        if n < 1 << 8:
            return b"\xcc" + n.to_bytes(1)
        if n < 1 << 16:
            return b"\xcd" + n.to_bytes(2)
        if n < 1 << 32:
            return b"\xce" + n.to_bytes(4)
        if n < 1 << 64:
            return b"\xcf" + n.to_bytes(8)
    elif n >= -(1 << 7):
        return n.to_bytes(1, signed=True) if n >= -32 else b"\xd0" + n.to_bytes(1, signed=True)
    elif n >= -(1 << 15):
        return b"\xd1" + n.to_bytes(2, signed=True)
    elif n >= -(1 << 31):
        return b"\xd2" + n.to_bytes(4, signed=True)
    elif n >= -(1 << 63):
        return b"\xd3" + n.to_bytes(8, signed=True)
    raise Refusal("an int must be from -2**63 to 2**64 - 1")


def float_bytes(value: float) -> bytes:
    """A float of 64 bits."""
    return _DOUBLE.pack(0xCB, value)


def _head(size: int, small: int, limit: int, larger: tuple[tuple[int, int], ...], what: str) -> bytes:
    if size < limit:
        return bytes((small | size,))
    for byte, width in larger:
        if size < 1 << 8 * width:
            return bytes((byte,)) + size.to_bytes(width)
    raise Refusal(f"{what} is too long: {size}")


def str_bytes(text: str) -> bytes:
    """A string. Raises `Refusal` for one with lone surrogates, which is not text."""
    try:
        data = text.encode()
    except UnicodeEncodeError:
        raise Refusal("a str with lone surrogates cannot be sent: it is not text") from None
    size = len(data)
    if size < 32:
        return bytes((0xA0 | size,)) + data
    return _head(size, 0, 0, ((0xD9, 1), (0xDA, 2), (0xDB, 4)), "a str") + data


def bin_head(size: int) -> bytes:
    """The head of bytes."""
    return _head(size, 0, 0, ((0xC4, 1), (0xC5, 2), (0xC6, 4)), "bytes")


def array_head(size: int) -> bytes:
    """The head of a list and the like."""
    return _head(size, 0x90, 16, ((0xDC, 2), (0xDD, 4)), "a list")


def map_head(size: int) -> bytes:
    """The head of a map, with so many entries."""
    return _head(size, 0x80, 16, ((0xDE, 2), (0xDF, 4)), "a dict")


def timestamp_bytes(seconds: int, nanoseconds: int) -> bytes:
    """A moment as the extension type -1, in the fewest bytes."""
    if 0 <= seconds < 1 << 34:
        if nanoseconds == 0 and seconds < 1 << 32:
            return b"\xd6\xff" + seconds.to_bytes(4)
        return b"\xd7\xff" + (nanoseconds << 34 | seconds).to_bytes(8)
    return b"\xc7\x0c\xff" + nanoseconds.to_bytes(4) + seconds.to_bytes(8, signed=True)


# decoding


def _number(data: bytes, start: int, size: int) -> int:
    if start + size > len(data):
        raise Refusal(CUT_OFF)
    return int.from_bytes(data[start : start + size])


def read_nil(data: bytes, at: int, depth: int = 0) -> tuple[None, int]:
    """None, and the offset behind it."""
    if data[at] != 0xC0:
        raise expected("None", found_at(data, at))
    return None, at + 1


def read_bool(data: bytes, at: int, depth: int = 0) -> tuple[bool, int]:
    """A bool, and the offset behind it."""
    first = data[at]
    if first not in (0xC2, 0xC3):
        raise expected("bool", found_at(data, at))
    return first == 0xC3, at + 1


def read_int(data: bytes, at: int, depth: int = 0) -> tuple[int, int]:
    """An integer, and the offset behind it."""
    first = data[at]
    if first < 0x80:
        return first, at + 1
    if first >= 0xE0:
        return first - 256, at + 1
    form = _INT_SIZES.get(first)
    if form is None:
        raise expected("int", found_at(data, at))
    size, signed = form
    end = at + 1 + size
    if end > len(data):
        raise Refusal(CUT_OFF)
    return int.from_bytes(data[at + 1 : end], signed=signed), end


def read_float(data: bytes, at: int, depth: int = 0) -> tuple[float, int]:
    """A float, and the offset behind it; an integer is one, too."""
    first = data[at]
    if first == 0xCB and at + 9 <= len(data):
        return _UNPACK_DOUBLE(data, at + 1)[0], at + 9
    if first == 0xCA and at + 5 <= len(data):
        return _UNPACK_FLOAT(data, at + 1)[0], at + 5
    if first in (0xCA, 0xCB):
        raise Refusal(CUT_OFF)
    if first < 0x80 or first >= 0xE0 or first in _INT_SIZES:
        number, end = read_int(data, at)
        return float(number), end
    raise expected("float", found_at(data, at))


def read_str(data: bytes, at: int, depth: int = 0) -> tuple[str, int]:
    """A string, and the offset behind it."""
    first = data[at]
    if 0xA0 <= first <= 0xBF:
        start = at + 1
        end = start + (first & 31)
    else:
        width = _STR_SIZES.get(first)
        if width is None:
            raise expected("str", found_at(data, at))
        start = at + 1 + width
        end = start + _number(data, at + 1, width)
    if end > len(data):
        raise Refusal(CUT_OFF)
    try:
        return data[start:end].decode(), end
    except UnicodeDecodeError:
        raise Refusal("a str is not UTF-8") from None


def read_bin(data: bytes, at: int, depth: int = 0) -> tuple[bytes, int]:
    """Bytes, and the offset behind them."""
    width = _BIN_SIZES.get(data[at])
    if width is None:
        raise expected("bytes", found_at(data, at))
    start = at + 1 + width
    end = start + _number(data, at + 1, width)
    if end > len(data):
        raise Refusal(CUT_OFF)
    return data[start:end], end


def read_array_head(data: bytes, at: int) -> tuple[int, int]:
    """The number of items of a list, and the offset of the first."""
    first = data[at]
    if 0x90 <= first <= 0x9F:
        return first & 15, at + 1
    width = _ARRAY_SIZES.get(first)
    if width is None:
        raise expected("a list", found_at(data, at))
    return _number(data, at + 1, width), at + 1 + width


def read_map_head(data: bytes, at: int, kind: str = "a dict") -> tuple[int, int]:
    """The number of entries of a map, and the offset of the first; `kind` is what it is to be."""
    first = data[at]
    if 0x80 <= first <= 0x8F:
        return first & 15, at + 1
    width = _MAP_SIZES.get(first)
    if width is None:
        raise expected(kind, found_at(data, at))
    return _number(data, at + 1, width), at + 1 + width


def read_timestamp(data: bytes, at: int) -> tuple[int, int, int]:
    """The seconds and nanoseconds of a moment, and the offset behind it."""
    first = data[at]
    size, start = {0xD6: 4, 0xD7: 8}.get(first, 0), at + 2
    if first == 0xC7 and data[at + 1] == 12:
        size, start = 12, at + 3
    if not size or data[start - 1] != 0xFF:
        raise expected("datetime", found_at(data, at))
    number = _number(data, start, size)
    if size == 4:
        return number, 0, start + 4
    if size == 8:
        seconds, nanoseconds = number & (1 << 34) - 1, number >> 34
    else:
        nanoseconds, seconds = number >> 64, number & (1 << 64) - 1
        seconds -= (seconds >> 63) << 64
    if nanoseconds >= 10**9:
        raise Refusal("a datetime has too many nanoseconds")
    return seconds, nanoseconds, start + size


def found_at(data: bytes, at: int) -> str:
    """The kind of value that stands there, as Python would call it."""
    first = data[at]
    for kind, bytes_of_kind in _FIRST_BYTES:
        if first in bytes_of_kind:
            return kind
    return "an extension type" if first != 0xC1 else "a byte that begins no value"


_FIRST_BYTES: tuple[tuple[str, frozenset[int]], ...] = (
    ("int", frozenset({*range(0x80), *range(0xE0, 0x100), *_INT_SIZES})),
    ("str", frozenset({*range(0xA0, 0xC0), *_STR_SIZES})),
    ("dict", frozenset({*range(0x80, 0x90), *_MAP_SIZES})),
    ("list", frozenset({*range(0x90, 0xA0), *_ARRAY_SIZES})),
    ("None", frozenset({0xC0})),
    ("bool", frozenset({0xC2, 0xC3})),
    ("float", frozenset({0xCA, 0xCB})),
    ("bytes", frozenset(_BIN_SIZES)),
)


def _skipped(data: bytes, at: int) -> tuple[int, int]:
    """The offset behind one head and what belongs to it, and how many values come there that are part of it."""
    first = data[at]
    if first < 0x80 or first >= 0xE0 or first in (0xC0, 0xC2, 0xC3):
        return at + 1, 0
    if first < 0x90 or first in _MAP_SIZES:
        size, start = read_map_head(data, at)
        return start, 2 * size
    if first < 0xA0 or first in _ARRAY_SIZES:
        size, start = read_array_head(data, at)
        return start, size
    if first < 0xC0:
        return at + 1 + (first & 31), 0
    if first in _INT_SIZES:
        return at + 1 + _INT_SIZES[first][0], 0
    if first in (0xCA, 0xCB):
        return at + (5 if first == 0xCA else 9), 0
    if 0xD4 <= first <= 0xD8:
        return at + 2 + (1 << first - 0xD4), 0
    width = _STR_SIZES.get(first) or _BIN_SIZES.get(first)
    if width is not None:
        return at + 1 + width + _number(data, at + 1, width), 0
    if first in _EXT_SIZES:
        width = _EXT_SIZES[first]
        return at + 2 + width + _number(data, at + 1, width), 0
    raise Refusal(f"no value can begin with the byte {first:#x}")


def skip(data: bytes, at: int) -> int:
    """The offset behind the value that stands there, whatever it is."""
    left = 1
    while left:
        at, parts = _skipped(data, at)
        left += parts - 1
    if at > len(data):
        raise Refusal(CUT_OFF)
    return at


def check_items(data: bytes) -> None:
    """Raise `Refusal` for a payload of more than `MAX_ITEMS` values."""
    if len(data) <= MAX_ITEMS:
        return  # each has a byte at least
    at, left, count = 0, 1, 0
    while left and at < len(data):
        at, parts = _skipped(data, at)
        left += parts - 1
        count += 1
        if count > MAX_ITEMS:
            raise Refusal(f"there are more than {MAX_ITEMS} items in it")


# values of no known kind


def read_any(data: bytes, at: int, depth: int = 0) -> tuple[Any, int]:
    """A value as the Python object that it looks like; extension types are bytes."""
    if depth >= MAX_DEPTH:
        raise Refusal(f"it is nested deeper than {MAX_DEPTH}")
    read = READERS.get(found_at(data, at))
    if read is not None:
        value, end = read(data, at)
        return value, end
    first = data[at]
    if 0x90 <= first <= 0x9F or first in _ARRAY_SIZES:
        size, at = read_array_head(data, at)
        items = []
        for _ in range(size):
            item, at = read_any(data, at, depth + 1)
            items.append(item)
        return items, at
    if 0x80 <= first <= 0x8F or first in _MAP_SIZES:
        return _read_any_map(data, at, depth)
    end = skip(data, at)
    return data[at:end], end


def _read_any_map(data: bytes, at: int, depth: int) -> tuple[dict[object, object], int]:
    size, at = read_map_head(data, at)
    entries: dict[object, object] = {}
    for _ in range(size):
        key, at = read_any(data, at, depth + 1)
        if isinstance(key, dict | list):
            raise Refusal("a key is a list or a dict")
        entries[key], at = read_any(data, at, depth + 1)
    return entries, at


READERS: dict[str, Callable[[bytes, int], tuple[object, int]]] = {
    "None": read_nil,
    "bool": read_bool,
    "int": read_int,
    "float": read_float,
    "str": read_str,
    "bytes": read_bin,
}
"""How the scalars are read that MessagePack has, by the names that `found_at` gives them."""


def packed(value: object) -> bytes:
    """A value that JSON can hold, or bytes, or lists and dicts with these. Raises TypeError for others."""
    if value is None:
        return NIL
    if isinstance(value, bool):
        return b"\xc3" if value else b"\xc2"
    if isinstance(value, int):
        return int_bytes(value)
    if isinstance(value, float):
        return float_bytes(value)
    if isinstance(value, str):
        return str_bytes(value)
    if isinstance(value, bytes):
        return bin_head(len(value)) + value
    if isinstance(value, list):
        return array_head(len(value)) + b"".join(map(packed, value))
    if isinstance(value, dict):
        return map_head(len(value)) + b"".join(packed(part) for entry in value.items() for part in entry)
    raise TypeError(f"{type(value).__name__} has no form here: {value!r:.60}")


def unpacked(data: bytes) -> Any:
    """The one value that a payload is. Raises `BadValue`."""
    try:
        check_items(data)
        value, end = read_any(data, 0)
        if end != len(data):
            raise Refusal(f"{len(data) - end} bytes are left behind the value")
    except IndexError:
        raise Refusal(CUT_OFF).as_bad_value() from None
    except Refusal as refusal:
        raise refusal.as_bad_value() from None
    return value

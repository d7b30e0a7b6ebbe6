"""A schema from elsewhere: from a file or a far end, so it may be anything.

Strategy. Its shape is checked once, from top to bottom; whoever shows it, compares it or makes Python source of it
can rely on that. So names are identifiers and not keywords, kinds are known, and what is for people has no control
characters, which a terminal would obey.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode
from collections.abc import Callable, Mapping
from keyword import iskeyword
from typing import TypeVar

from packetwire.core.engine import MAX_RQ_TYPE
from packetwire.typed.kinds import SCALARS
from packetwire.typed.schema import FORMAT, Schema

KindT = TypeVar("KindT")

MAX_SCHEMA_SIZE = 4 << 20
"""Bytes of a schema as JSON, at most."""
MAX_DEPTH = 50
MAX_TYPES = 1000
MAX_NESTING = 150
"""Of the JSON, in which a kind has two levels for each of its own."""
_SURROGATE = re.compile("[\ud800-\udfff]")
_SCALAR_NAMES = frozenset(SCALARS.values())
_ITEMS = frozenset({"list", "set", "frozenset", "tuple"})
_SCHEMA_PARTS = frozenset({"packetwire", "name", "version", "doc", "methods", "types", "requests"})


def schema_from(text: bytes) -> Schema:
    """The schema that stands in JSON. Raises ValueError, which says what is wrong with it, and where."""
    if len(text) > MAX_SCHEMA_SIZE:
        raise ValueError(f"it has {len(text)} bytes, more than {MAX_SCHEMA_SIZE}")
    try:
        schema = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    except ValueError as error:
        raise ValueError(f"it is not JSON: {error}") from None
    return checked_schema(schema)


def checked_schema(schema: object) -> Schema:
    """The same, if it is a schema. Raises ValueError, which says what is wrong with it, and where."""
    found: Schema = _a(dict, schema, "$")
    _check_values(found)
    if found.get("packetwire") != FORMAT:
        raise ValueError(f"$.packetwire: expected {FORMAT}, got {found.get('packetwire')!r:.100}")
    _words(found.get("name"), "$.name")
    _words(found.get("version"), "$.version")
    _words(found.get("doc", ""), "$.doc", "\n")
    types = _a(dict, found.get("types"), "$.types")
    if len(types) > MAX_TYPES:
        raise ValueError(f"$.types: has {len(types)} types, more than {MAX_TYPES}")
    check = _Check(types)
    _each(types, "$.types", check.type)
    _each(_a(dict, found.get("methods"), "$.methods"), "$.methods", check.method)
    for number, request in _a(dict, found.get("requests", {}), "$.requests").items():
        if not (number.isascii() and number.isdigit() and int(number[:20]) <= MAX_RQ_TYPE):
            raise ValueError(f"$.requests: {number!r:.100} is no request type")
        for key in ("name", "payload", "doc"):
            _words(_a(dict, request, f"$.requests.{number}").get(key, ""), f"$.requests.{number}.{key}")
    for extra in found.keys() - _SCHEMA_PARTS:
        del found[extra]
    return found


def _a(kind: type[KindT], value: object, where: str) -> KindT:
    if type(value) is not kind:
        raise ValueError(f"{where}: expected {kind.__name__}, got {value!r:.100}")
    return value


def _check_values(schema: Schema) -> None:
    """All of it is text that can be written, and not nested deeper than can be walked."""
    left: list[tuple[object, int]] = [(schema, 0)]
    while left:
        value, depth = left.pop()
        if depth > MAX_NESTING:
            raise ValueError("$: is nested too deep")
        if isinstance(value, dict):
            left += [(part, depth + 1) for entry in value.items() for part in entry]
        elif isinstance(value, list):
            left += [(part, depth + 1) for part in value]
        elif isinstance(value, str) and _SURROGATE.search(value):
            raise ValueError(f"$: {value!r:.100} is not text: it has lone surrogates")


def _words(value: object, where: str, besides: str = "") -> None:
    """A text for people."""
    for char in _a(str, value, where):
        if not (char.isprintable() or char in besides):
            raise ValueError(f"{where}: the character {char!r} is not printable")


def _name(value: str, where: str) -> None:
    """A name that Python source may have."""
    if not value.isidentifier() or iskeyword(value) or value.startswith("__"):
        raise ValueError(f"{where}: {value!r:.100} is no name")


def _each(named: Mapping[str, object], where: str, check: Callable[[object, str], None]) -> None:
    for name, value in named.items():
        _name(name, where)
        check(value, f"{where}.{name}")


class _Check:
    """Checks parts of a schema with these types."""

    def __init__(self, types: Mapping[str, object]) -> None:
        self._types = types

    def type(self, value: object, where: str) -> None:
        """One of the types: an Enum, or a dataclass."""
        described = _a(dict, value, where)
        if "enum" not in described:
            self.fields(described.get("fields"), f"{where}.fields")
            return
        members = _a(dict, described["enum"], f"{where}.enum")
        if not members:
            raise ValueError(f"{where}.enum: has no members")
        _each(members, f"{where}.enum", self.literal)
        _a(bool, described.get("open"), f"{where}.open")

    def method(self, value: object, where: str) -> None:
        """One of the methods."""
        described = _a(dict, value, where)
        number = _a(int, described.get("number"), f"{where}.number")
        if not 0 <= number <= MAX_RQ_TYPE:
            raise ValueError(f"{where}.number: {number} is no request type")
        for name in ("async", "idempotent"):
            _a(bool, described.get(name), f"{where}.{name}")
        _words(described.get("doc", ""), f"{where}.doc", "\n")
        self._parameters(described.get("fields"), f"{where}.fields")
        for keyword in _a(list, described.get("keywords"), f"{where}.keywords"):
            if not isinstance(keyword, str) or keyword not in described["fields"]:
                raise ValueError(f"{where}.keywords: {keyword!r:.100} is no field")
        if not self._stream(described.get("result"), f"{where}.result"):
            self.kind(described.get("result"), f"{where}.result")
        for name, error in _a(dict, described.get("errors"), f"{where}.errors").items():
            _words(name, f"{where}.errors")
            self.fields(_a(dict, error, f"{where}.errors.{name}").get("fields"), f"{where}.errors.{name}.fields")

    def _parameters(self, value: object, where: str) -> None:
        """Those of a method, of which one may be a stream."""
        fields = _a(dict, value, where)
        plain = dict(fields)
        for name, field in fields.items():
            if self._stream(_a(dict, field, f"{where}.{name}").get("kind"), f"{where}.{name}.kind"):
                _name(name, where)
                if field.get("required") is not True or "default" in field:
                    raise ValueError(f"{where}.{name}: is a stream, which has no default")
                del plain[name]
        if len(plain) < len(fields) - 1:
            raise ValueError(f"{where}: has {len(fields) - len(plain)} streams, more than one")
        self.fields(plain, where)

    def _stream(self, value: object, where: str) -> bool:
        """False for another kind."""
        if not (isinstance(value, dict) and value.keys() == {"stream"}):
            return False
        self.kind(value["stream"], f"{where}.stream")
        return True

    def fields(self, value: object, where: str) -> None:
        """Fields by their names."""
        _each(_a(dict, value, where), where, self._field)

    def _field(self, value: object, where: str) -> None:
        described = _a(dict, value, where)
        self.kind(described.get("kind"), f"{where}.kind")
        _a(bool, described.get("required"), f"{where}.required")
        default = described.get("default")
        if isinstance(default, dict) and default.keys() == {"bytes"}:
            self.literal(default, f"{where}.default")

    def kind(self, value: object, where: str, depth: int = 0) -> None:
        """A kind: the name of a scalar, or a dict with one key."""
        if depth > MAX_DEPTH:
            raise ValueError(f"{where}: is nested too deep")
        if isinstance(value, str):
            if value not in _SCALAR_NAMES:
                raise ValueError(f"{where}: {value!r:.100} is no kind")
            return
        described = _a(dict, value, where)
        if len(described) != 1:
            raise ValueError(f"{where}: expected one key, got {value!r:.100}")
        ((how, parts),) = described.items()
        if how in _ITEMS:
            self.kind(parts, f"{where}.{how}", depth + 1)
        elif how in ("row", "union", "dict"):
            for part in _a(list, parts, f"{where}.{how}"):
                self.kind(part, f"{where}.{how}", depth + 1)
            if (how == "dict" and len(parts) != 2) or (how == "union" and not parts):
                raise ValueError(f"{where}.{how}: has {len(parts)} kinds")
        elif how == "literal":
            for part in _a(list, parts, f"{where}.literal"):
                self.literal(part, f"{where}.literal")
            if not parts:
                raise ValueError(f"{where}.literal: has no values")
        elif how == "type":
            if _a(str, parts, f"{where}.type") not in self._types:
                raise ValueError(f"{where}.type: there is no type {parts!r:.100}")
        else:
            raise ValueError(f"{where}: {how!r:.100} is no kind")

    def literal(self, value: object, where: str) -> None:
        """A value of a Literal or an Enum."""
        if isinstance(value, dict) and value.keys() == {"bytes"} and isinstance(value["bytes"], str):
            try:
                b64decode(value["bytes"], validate=True)
            except ValueError:
                raise ValueError(f"{where}: it is not base64: {value['bytes']!r:.100}") from None
        elif not (value is None or isinstance(value, str | int | float)):
            raise ValueError(f"{where}: expected a value, got {value!r:.100}")

"""The schema of a service: what it offers, as values that JSON can hold; its hash, and what a change of it breaks.

Strategy. A schema is made of kinds. Dataclasses and Enums stand under their names, once, and are referred to by
these; so it has no circles. The hash leaves out what is for people only.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from base64 import b64encode
from collections.abc import Mapping
from typing import Any, TypeAlias

from packetwire.typed.badvalue import BadValue
from packetwire.typed.call import Call
from packetwire.typed.codec import Codec
from packetwire.typed.errors import is_typed_error
from packetwire.typed.kinds import Choice, Entries, Field, Items, Kind, Named, OneOf, Record, Row, Scalar, Stream
from packetwire.typed.msgpack import unpacked

Schema: TypeAlias = dict[str, Any]
"""`name`, `version`, `methods` and `types` by name; see `schema_of`."""

FORMAT = 1
"""The version of this form of schemas."""
_FOR_PEOPLE = frozenset({"doc", "version"})


def schema_of(name: str, version: str, doc: str, calls: Mapping[str, type[Call[object]]]) -> Schema:
    """The schema of a service with these methods."""
    types: Schema = {}
    describe = _Describer(types)
    methods = {each: _method(call, describe) for each, call in sorted(calls.items())}
    return {
        "packetwire": FORMAT,
        "name": name,
        "version": version,
        **_documented(doc),
        "methods": methods,
        "types": dict(sorted(types.items())),
    }


def hash_of(schema: Schema) -> str:
    """The SHA-256 of a schema in hexadecimal, without what is for people only."""
    text = json.dumps(_without_words(schema), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _without_words(value: object, names: bool = False) -> object:
    """Without documentation and versions; where the keys are names, none is left out."""
    if isinstance(value, dict):
        return {
            key: _without_words(each, not names and key in ("methods", "types", "fields", "errors"))
            for key, each in value.items()
            if names or key not in _FOR_PEOPLE
        }
    return [_without_words(each) for each in value] if isinstance(value, list) else value


def _method(call: type[Call[object]], describe: _Describer) -> dict[str, object]:
    operation = call.operation
    fields: Any = operation.request.kind
    items_in, items_out = operation.items_in, operation.items_out
    described = describe.fields(fields.fields)
    if items_in is not None:
        described[items_in.name] = {"kind": describe(items_in.stream), "required": True}
        described = {each.name: described[each.name] for each in dataclasses.fields(call.arguments_class)}
    return {
        "number": operation.number,
        **_documented(call.__doc__ if call.has_doc else None),
        "fields": described,
        "keywords": list(call.keywords),
        "result": describe(operation.result.kind if items_out is None else items_out.stream),
        "async": call.is_async,
        "idempotent": call.is_idempotent,
        "errors": {
            name: {"fields": describe.fields(each.error_codec.kind.fields)}  # type: ignore[attr-defined]
            for name, each in sorted(operation.errors.items())
            if is_typed_error(each)
        },
    }


def _documented(doc: str | None) -> dict[str, str]:
    lines = [line.strip() for line in (doc or "").strip().splitlines()]
    return {"doc": "\n".join(lines)} if lines else {}


class _Describer:
    """Describes kinds, and puts dataclasses and Enums among the types."""

    def __init__(self, types: dict[str, object]) -> None:
        self._types = types
        self._kind_of: dict[str, type] = {}

    def __call__(self, kind: Kind) -> object:
        """A kind as a string, the name of a scalar or a type, or a dict with the one key that says what it is."""
        if isinstance(kind, Scalar):
            return kind.said()
        if isinstance(kind, Items):
            return {kind.type.__name__: self(kind.item)}
        if isinstance(kind, Row):
            return {"row": [self(item) for item in kind.items]}
        if isinstance(kind, Entries):
            return {"dict": [self(kind.key), self(kind.value)]}
        if isinstance(kind, Choice):
            return {"literal": [plain(value) for value in kind.values]}
        if isinstance(kind, Stream):
            return {"stream": self(kind.item)}
        if isinstance(kind, OneOf):
            return {"union": [self(option) for option in kind.options]}
        assert isinstance(kind, Named | Record)
        name = kind.type.__name__
        if self._kind_of.setdefault(name, kind.type) is not kind.type:
            raise TypeError(f"two types of the service have the name {name}: {kind.type} and {self._kind_of[name]}")
        if name not in self._types:
            self._types[name] = {}  # before its fields, which may be of this type
            self._types[name] = self._named(kind) if isinstance(kind, Named) else self._record(kind)
        return {"type": name}

    def _named(self, kind: Named) -> dict[str, object]:
        return {"enum": {member.name: plain(member.value) for member in kind.type}, "open": kind.is_open}

    def _record(self, kind: Record) -> dict[str, object]:
        return {"fields": self.fields(kind.fields)}

    def fields(self, fields: list[Field]) -> dict[str, object]:
        """The fields of a record by their names."""
        return {each.name: self._field(each) for each in fields}

    def _field(self, each: Field) -> dict[str, object]:
        described: Schema = {"kind": self(each.kind), "required": each.is_required}
        if not each.is_required:
            default = each.default if each.factory is None else each.factory()
            try:
                value = unpacked(Codec.of_kind(None, each.kind, pure=True).encode(default))
            except BadValue:
                return described  # such as None, where nothing but a str can be sent
            described["default"] = plain(value)
        return described


def plain(value: object) -> Any:
    """A value as JSON can hold it: bytes and keys that are no strings are marked."""
    if isinstance(value, bytes):
        return {"bytes": b64encode(value).decode()}
    if isinstance(value, list):
        return [plain(each) for each in value]
    if isinstance(value, dict):
        return {key if isinstance(key, str) else repr(key): plain(each) for key, each in value.items()}
    return value

"""FIELD=VALUE words for typed requests, by the kinds of the fields, and results as text."""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Mapping, Set
from typing import Any

from packetwire.cli.failure import EXIT_USAGE, CommandFailed
from packetwire.cli.fields import given_text, named_words
from packetwire.core.requests import BaseRequest
from packetwire.typed.badvalue import BadValue
from packetwire.typed.call import Call
from packetwire.typed.kinds import SCALARS, WIRE_OF_SCALARS, Record
from packetwire.typed.msgpack import packed, unpacked
from packetwire.typed.request import TypedRequest
from packetwire.typed.schema import Schema, plain


def typed_request(rq_class: type[BaseRequest[Any]], words: Iterable[str]) -> TypedRequest[Any]:
    """The request of that class with the fields of the words. Raises `CommandFailed`.

    A value is JSON, or else a string: `title=Emma`, `limit=5`, `tags='["a", "b"]'`. A field that can be nothing but
    a string or bytes takes it as it is.
    """
    assert issubclass(rq_class, TypedRequest)
    kind = rq_class.operation.request.kind
    assert isinstance(kind, Record)
    fields = {each.name: each for each in kind.fields}
    values = {
        name: _value(fields[name].kind.wire, given_text(name, form, text))
        for name, form, text in named_words(rq_class.operation.name, fields, words)
    }
    _check_given(rq_class.operation.name, values, (each.name for each in kind.fields if each.is_required))
    try:
        decoded = rq_class.operation.fields_from(packed(values))
    except BadValue as error:
        raise CommandFailed(f"{rq_class.operation.name}: {error}", EXIT_USAGE) from error
    request: TypedRequest[Any] = rq_class(decoded) if issubclass(rq_class, Call) else decoded
    return request


def described_payload(name: str, schema: Schema, words: Iterable[str]) -> bytes:
    """The payload of a call of a method of a schema, as `typed_request` makes it. Raises `CommandFailed`."""
    fields = schema["methods"][name]["fields"]
    values = {
        field: _value(wire_of(fields[field]["kind"], schema["types"]), given_text(field, form, text))
        for field, form, text in named_words(name, fields, words)
    }
    _check_given(name, values, (field for field, each in fields.items() if each["required"]))
    return packed(values)


def wire_of(kind: Any, types: Mapping[str, Any]) -> frozenset[str]:
    """The sorts of MessagePack values that a kind of a schema becomes."""
    if isinstance(kind, str):
        return WIRE_OF_SCALARS[kind]
    ((how, parts),) = kind.items()
    if how == "union":
        return frozenset().union(*(wire_of(part, types) for part in parts))
    if how == "type":
        return _sorts(types[parts]["enum"].values()) if "enum" in types[parts] else frozenset({"dict"})
    if how == "literal":
        return _sorts(parts)
    return frozenset({"dict" if how == "dict" else "list"})


def _sorts(values: Iterable[Any]) -> frozenset[str]:
    return frozenset("bytes" if isinstance(value, dict) else SCALARS[type(value)] for value in values)


def _check_given(name: str, values: Container[str], required: Iterable[str]) -> None:
    missing = [each for each in required if each not in values]
    if missing:
        raise CommandFailed(f"{name} needs {' and '.join(f'{each}=…' for each in missing)}", EXIT_USAGE)


def _value(wire: Set[str], given: bytes) -> Any:
    if wire == {"bytes"}:
        return given
    try:
        text = given.decode()
    except UnicodeDecodeError:
        return given
    if wire == {"str"}:
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def shown_result(request: TypedRequest[Any], payload: bytes) -> object:
    """A result for printing: None, bytes, or text, which is JSON unless it is a string."""
    result = request.operation.result_from(payload)
    return result if result is None or isinstance(result, bytes) else _shown(unpacked(payload))


def shown_payload(payload: bytes) -> object:
    """The same for a payload of which no class is known. Raises `BadValue`."""
    result = unpacked(payload) if payload else None
    return result if result is None or isinstance(result, bytes) else _shown(result)


def _shown(result: Any) -> object:
    value = plain(result)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

"""FIELD=VALUE words for typed requests, by the kinds of the fields, and results as text."""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Iterator, Mapping, Set
from typing import Any

from packetwire.cli.failure import EXIT_USAGE, CommandFailed
from packetwire.cli.fields import given_text, named_words
from packetwire.cli.typedstreams import Body, Streams, sent_items
from packetwire.core.requests import BaseRequest
from packetwire.typed.badvalue import BadValue
from packetwire.typed.call import Call
from packetwire.typed.evolution import is_stream
from packetwire.typed.items import ItemCodec
from packetwire.typed.kinds import SCALARS, WIRE_OF_SCALARS, Record
from packetwire.typed.msgpack import packed, unpacked
from packetwire.typed.request import TypedRequest
from packetwire.typed.schema import Schema, plain


def typed_request(
    rq_class: type[BaseRequest[object]], words: Iterable[str]
) -> tuple[TypedRequest[Any], Streams | None]:
    """The request of that class with the fields of the words, and its streams. Raises `CommandFailed`.

    A value is JSON, or else a string: `title=Emma`, `limit=5`, `tags='["a", "b"]'`. A field that can be nothing but
    a string or bytes takes it as it is.
    """
    assert issubclass(rq_class, TypedRequest)
    kind = rq_class.operation.request.kind
    assert isinstance(kind, Record)
    operation = rq_class.operation
    fields = {each.name: each.kind.wire for each in kind.fields}
    required = [each.name for each in kind.fields if each.is_required]
    values, sent = _given(operation.name, fields, required, _body_of(operation.items_in), words)
    try:
        decoded = operation.fields_from(packed(values))
    except BadValue as error:
        raise CommandFailed(f"{operation.name}: {error}", EXIT_USAGE) from error
    request: TypedRequest[object] = rq_class(decoded) if issubclass(rq_class, Call) else decoded
    result = _body_of(operation.items_out)
    return request, Streams(sent, result) if sent is not None or result is not None else None


def described_request(name: str, schema: Schema, words: Iterable[str]) -> tuple[bytes, Streams | None]:
    """The payload and the streams of a call of a method of a schema, as `typed_request` makes them.

    Raises `CommandFailed`.
    """
    method, types = schema["methods"][name], schema["types"]
    plain = {field: each for field, each in method["fields"].items() if not is_stream(each["kind"])}
    streamed = [field for field in method["fields"] if field not in plain]
    body = _described_body(streamed[0], method["fields"][streamed[0]]["kind"], types) if streamed else None
    fields = {field: wire_of(each["kind"], types) for field, each in plain.items()}
    values, sent = _given(name, fields, [field for field in plain if plain[field]["required"]], body, words)
    result = _described_body("", method["result"], types) if is_stream(method["result"]) else None
    return packed(values), Streams(sent, result) if sent is not None or result is not None else None


def _given(
    name: str, fields: Mapping[str, Set[str]], required: list[str], body: Body | None, words: Iterable[str]
) -> tuple[dict[str, object], Iterator[bytes] | None]:
    """The values that the words give for these fields, and the bytes of the stream."""
    values: dict[str, object] = {}
    sent: Iterator[bytes] | None = None
    streamed = [] if body is None else [body.name]
    for field, form, text in named_words(name, [*fields, *streamed], words):
        if body is not None and field == body.name:
            sent = sent_items(body, form, text)
        else:
            values[field] = _value(fields[field], given_text(field, form, text))
    _check_given(name, [*values, *(streamed if sent is not None else [])], [*required, *streamed])
    return values, sent


def _body_of(codec: ItemCodec | None) -> Body | None:
    """A stream of a class that is known: items are checked here already."""
    if codec is None:
        return None
    wire, decode = codec.stream.item.wire, codec.decode

    def encode(line: bytes) -> bytes:
        data = packed(_value(wire, line))
        try:
            decode(0, data)
        except BadValue as error:
            raise BadValue("$" + error.path.partition("]")[2], error.problem) from None
        return data

    return Body(codec.name, codec.is_raw, encode, shown_payload)


def _described_body(name: str, kind: Any, types: Mapping[str, Any]) -> Body:
    """A stream of a schema: the far end checks items."""
    item = kind["stream"]
    wire = wire_of(item, types)
    return Body(name, item == "bytes", lambda line: packed(_value(wire, line)), shown_payload)


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


def _sorts(values: Iterable[object]) -> frozenset[str]:
    return frozenset("bytes" if isinstance(value, dict) else SCALARS[type(value)] for value in values)


def _check_given(name: str, values: Container[str], required: Iterable[str]) -> None:
    missing = [each for each in required if each not in values]
    if missing:
        raise CommandFailed(f"{name} needs {' and '.join(f'{each}=…' for each in missing)}", EXIT_USAGE)


def _value(wire: Set[str], given: bytes) -> object:
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


def checked_result(request: TypedRequest[object], payload: bytes) -> object:
    """A result, as MessagePack has it. Raises `BadValue` if it is none."""
    request.operation.result_from(payload)
    return shown_payload(payload)


def shown_payload(payload: bytes) -> object:
    """The same for a payload of which no class is known."""
    return unpacked(payload) if payload else None


def text_of(value: object) -> str:
    """A value as text: JSON, unless it is a string."""
    shown = plain(value)
    return shown if isinstance(shown, str) else json_of(value)


def json_of(value: object) -> str:
    """A value as JSON."""
    return json.dumps(plain(value), ensure_ascii=False)

"""FIELD=VALUE words for typed requests, by the kinds of the fields, and results as text."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from packetwire.cli.failure import EXIT_USAGE, CommandFailed
from packetwire.cli.fields import given_text, named_words
from packetwire.core.requests import BaseRequest
from packetwire.typed.badvalue import BadValue
from packetwire.typed.kinds import Kind, Record
from packetwire.typed.methods import Call
from packetwire.typed.msgpack import packed, unpacked
from packetwire.typed.request import TypedRequest
from packetwire.typed.schema import plain


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
        name: _value(fields[name].kind, given_text(name, form, text))
        for name, form, text in named_words(rq_class.operation.name, fields, words)
    }
    missing = [each.name for each in kind.fields if each.is_required and each.name not in values]
    if missing:
        names = " and ".join(f"{name}=…" for name in missing)
        raise CommandFailed(f"{rq_class.operation.name} needs {names}", EXIT_USAGE)
    try:
        decoded = rq_class.operation.fields_from(packed(values))
    except BadValue as error:
        raise CommandFailed(f"{rq_class.operation.name}: {error}", EXIT_USAGE) from error
    request: TypedRequest[Any] = rq_class(decoded) if issubclass(rq_class, Call) else decoded
    return request


def _value(kind: Kind, given: bytes) -> Any:
    if kind.wire == {"bytes"}:
        return given
    try:
        text = given.decode()
    except UnicodeDecodeError:
        return given
    if kind.wire == {"str"}:
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def shown_result(request: TypedRequest[Any], payload: bytes) -> object:
    """A result for printing: None, bytes, or text, which is JSON unless it is a string."""
    result = request.operation.result_from(payload)
    if result is None or isinstance(result, bytes):
        return result
    value = plain(unpacked(payload))
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

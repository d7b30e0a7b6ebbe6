"""The Python source of a service, from its schema: what clients need where its module is not at hand."""

from __future__ import annotations

from collections.abc import Iterator
from keyword import iskeyword
from math import isfinite
from typing import Any

from packetwire.typed.evolution import is_stream, kind_text, literal_text
from packetwire.typed.schema import Schema

_IMPORTS = """
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Literal
from uuid import UUID

from packetwire import RequestError
from packetwire.typed import Service, error, method
"""


def stub_of(schema: Schema) -> str:
    """The source of a module with the service class and its types. Its methods have no bodies."""
    parts = [
        f'"""The service {schema["name"]}, as its schema describes it."""',
        "from __future__ import annotations",
        _IMPORTS.strip(),
    ]
    parts += [_enum(name, each) for name, each in schema["types"].items() if "enum" in each]
    types = schema["types"]
    parts += [_record(name, types) for name in _in_order(types)]
    errors = {name: each for method in schema["methods"].values() for name, each in method["errors"].items()}
    parts += [_error(name, each, types) for name, each in errors.items()]
    return "\n\n\n".join([*parts, "\n".join(_service(schema)).rstrip()]) + "\n"


def class_name(error: str) -> str:
    """The name of the class of an error: `OutOfStock` for `out-of-stock`."""
    words = "".join(char if char.isalnum() else " " for char in error).split()
    name = "".join(word[:1].upper() + word[1:] for word in words)
    return name if name.isidentifier() and not iskeyword(name) else f"Error{name}"


def _enum(name: str, described: Schema) -> str:
    lines = [f"class {name}(Enum):"]
    lines += [f"    {member} = {literal_text(value)}" for member, value in described["enum"].items()]
    if described["open"]:
        lines += [
            "",
            "    @classmethod",
            f"    def _missing_(cls, value: object) -> {name}:",
            "        return next(iter(cls))",
        ]
    return "\n".join(lines)


def _in_order(types: Schema) -> list[str]:
    """The dataclasses, those first that are in defaults of others."""
    names = [name for name, each in types.items() if "fields" in each]
    found: list[str] = []

    def add(name: str, above: tuple[str, ...] = ()) -> None:
        if name in found or name in above:
            return
        for each in types[name]["fields"].values():
            for other in names:
                if "default" in each and other in kind_text(each["kind"]):
                    add(other, (*above, name))
        found.append(name)

    for name in names:
        add(name)
    return found


def _record(name: str, types: Schema) -> str:
    return "\n".join(["@dataclass", f"class {name}:", *_fields(types[name]["fields"], types)])


def _error(name: str, described: Schema, types: Schema) -> str:
    head = [f"@error({name!r})", f"class {class_name(name)}(RequestError):"]
    return "\n".join([*head, *_fields(described["fields"], types)])


def _fields(fields: Schema, types: Schema) -> Iterator[str]:
    for name, each in fields.items():
        default = ""
        if not each["required"]:
            text = _default(each, types)
            if text is None:
                default = " = field(kw_only=True)"
            elif _can_change(each["kind"], types):
                default = f" = field(default_factory=lambda: {text})"
            else:
                default = f" = {text}"
        yield f"    {name}: {kind_text(each['kind'])}{default}"
    if not fields:
        yield "    pass"


def _can_change(kind: object, types: Schema) -> bool:
    if not isinstance(kind, dict):
        return False
    ((how, parts),) = kind.items()
    if how == "union":
        return any(_can_change(each, types) for each in parts)
    return how in ("list", "set", "dict") or (how == "type" and "fields" in types[parts])


def _default(field: dict[str, object], types: dict[str, object]) -> str | None:
    """The expression of a default, or None if it cannot be told from the schema."""
    return _expression(field["kind"], field["default"], types) if "default" in field else None


def _expression(kind: Any, value: Any, types: Schema) -> str | None:
    if isinstance(kind, str):
        return _scalar(kind, value)
    ((how, parts),) = kind.items()
    if how == "literal":
        return literal_text(value) if value in parts else None
    if how == "union":
        found = [_expression(each, value, types) for each in parts]
        matching = [each for each in found if each is not None]
        return matching[0] if len(matching) == 1 else None
    if how == "type":
        return _object(parts, types[parts], value, types)
    if how == "dict":
        return "{}" if value == {} else None
    if not isinstance(value, list):
        return None
    kinds = parts if how == "row" else [parts] * len(value)
    items = [_expression(each, item, types) for each, item in zip(kinds, value, strict=False)]
    if None in items:
        return None
    text = f"[{', '.join(map(str, items))}]"
    return text if how == "list" else f"{'tuple' if how == 'row' else how}({text})"


def _object(name: str, described: Schema, value: object, types: Schema) -> str | None:
    if "enum" in described:
        return f"{name}({literal_text(value)})" if value in described["enum"].values() else None
    if not isinstance(value, dict):
        return None
    fields = {key: _expression(each["kind"], value.get(key), types) for key, each in described["fields"].items()}
    if None in fields.values():
        return None
    return f"{name}({', '.join(f'{key}={text}' for key, text in fields.items())})"


_CLASSES: dict[str, Any] = {"None": type(None), "bool": bool, "int": int, "float": (float, int), "str": str}
_FROM_TEXT = {
    "datetime": "datetime.fromisoformat",
    "date": "date.fromisoformat",
    "time": "time.fromisoformat",
    "Decimal": "Decimal",
    "UUID": "UUID",
}


def _scalar(kind: str, value: object) -> str | None:
    if kind in _FROM_TEXT:
        return f"{_FROM_TEXT[kind]}({value!r})" if isinstance(value, str) else None
    if kind == "bytes":
        return literal_text(value) if isinstance(value, dict) else None
    if (
        kind not in _CLASSES
        or not isinstance(value, _CLASSES[kind])
        or (kind != "bool" and isinstance(value, bool))
    ):
        return None
    return f"float({str(value)!r})" if isinstance(value, float) and not isfinite(value) else repr(value)


def _service(schema: Schema) -> Iterator[str]:
    name = schema["name"]
    if not name.isidentifier() or iskeyword(name):
        name = class_name(name)
    named = "" if name == schema["name"] else f", name={schema['name']!r}"
    yield f"class {name}(Service{named}, version={schema['version']!r}):"
    if doc := schema.get("doc"):
        yield f"    {doc!r}"
        yield ""
    for name, method in sorted(schema["methods"].items(), key=lambda item: item[1]["number"]):
        yield from _method(name, method, schema["types"])
        yield ""


def _method(name: str, described: Schema, types: Schema) -> Iterator[str]:
    is_async = described["async"]
    options = [str(described["number"])] if described["number"] < 1 << 24 else []
    if described["idempotent"]:
        options.append("idempotent=True")
    if described["errors"]:
        options.append(f"errors=[{', '.join(map(class_name, described['errors']))}]")
    yield f"    @method({', '.join(options)})" if options else "    @method"
    parameters = ["self"]
    for field, each in described["fields"].items():
        default = "" if each["required"] else _default(each, types)
        if (field in described["keywords"] or default is None) and "*" not in parameters:
            parameters.append("*")
        shown = f" = {default}" if default else ""
        parameters.append(f"{field}: {kind_text(each['kind'], is_async=is_async)}{shown}")
    # what yields asynchronously is called without waiting, so that without a body it is a plain def
    word = "async def" if is_async and not is_stream(described["result"]) else "def"
    yield f"    {word} {name}({', '.join(parameters)}) -> {kind_text(described['result'], is_async=is_async)}:"
    if doc := described.get("doc"):
        yield f"        {doc!r}"
    yield "        raise NotImplementedError"

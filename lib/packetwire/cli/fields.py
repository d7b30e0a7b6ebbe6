"""Parsing FIELD=VALUE words of a command line into the fields of a dataclass."""

from __future__ import annotations

import dataclasses
import os
import re
import typing
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from packetwire.cli.failure import EXIT_USAGE, CommandFailed

_WORD = re.compile(r"(?P<name>\w+)(?::(?P<form>hex|file))?=(?P<value>.*)", re.DOTALL)
_BOOLS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def field_values(cls: type, words: Iterable[str]) -> dict[str, Any]:
    """The values of the fields of the dataclass `cls`, from `words`. Raises `CommandFailed`."""
    if not dataclasses.is_dataclass(cls):
        raise _wrong(f"{cls.__name__} is not a dataclass: give its payload by --hex, --file or -")
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    types = _types(cls)
    values = {
        name: _value(name, types[name], form, text) for name, form, text in named_words(cls.__name__, fields, words)
    }
    missing = [name for name, field in fields.items() if name not in values and not _has_default(field)]
    if missing:
        raise _wrong(f"{cls.__name__} needs {' and '.join(f'{name}=…' for name in missing)}")
    return values


def named_words(owner: str, fields: Collection[str], words: Iterable[str]) -> Iterator[tuple[str, str | None, str]]:
    """The field, the form and the text of each word; `owner` has these `fields`. Raises `CommandFailed`."""
    given: set[str] = set()
    for word in words:
        parsed = _WORD.fullmatch(word)
        if parsed is None:
            raise _wrong(f"expected FIELD=VALUE, FIELD:hex=HEX or FIELD:file=FILE, got {word!r}")
        name, form, text = parsed.groups()
        if name not in fields:
            raise _wrong(f"{owner} has no field {name!r}; it has {', '.join(fields) or 'none'}")
        if name in given:
            raise _wrong(f"the field {name!r} is given twice")
        given.add(name)
        yield name, form, text


def given_text(name: str, form: str | None, text: str) -> bytes:
    """The bytes that a word gives. Raises `CommandFailed`."""
    return os.fsencode(text) if form is None else _given_bytes(name, form, text)


def _wrong(text: str) -> CommandFailed:
    return CommandFailed(text, EXIT_USAGE)


def _types(cls: type) -> dict[str, object]:
    try:
        return typing.get_type_hints(cls)
    except Exception as error:  # evaluating annotations runs the user's code
        raise _wrong(f"the types of the fields of {cls.__name__} are not known: {error}") from error


def _has_default(field: dataclasses.Field[object]) -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


def _value(name: str, kind: Any, form: str | None, text: str) -> Any:
    convert = _CONVERTERS.get(kind)
    if convert is None:
        known = ", ".join(known.__name__ for known in _CONVERTERS)
        raise _wrong(f"the field {name!r} is of type {kind}; only {known} can be given here")
    data = given_text(name, form, text)
    if kind is bytes:
        return data
    try:
        return convert(data.decode())
    except (ValueError, KeyError):
        shown = text if form is None else f"{form}={text}"
        raise _wrong(f"the field {name!r} must be of type {kind.__name__}, got {shown!r:.100}") from None


def _given_bytes(name: str, form: str, text: str) -> bytes:
    try:
        return bytes.fromhex(text) if form == "hex" else Path(text).read_bytes()
    except ValueError:
        raise _wrong(f"the field {name!r} is not hexadecimal: {text!r:.100}") from None
    except OSError as error:
        raise _wrong(f"the field {name!r} cannot be read from {text!r}: {error.strerror}") from None


def _whole_number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        return int(text, 0)


_CONVERTERS: dict[Any, Callable[[str], Any]] = {
    int: _whole_number,
    float: float,
    bool: lambda text: _BOOLS[text.lower()],
    str: str,
    bytes: str.encode,
}

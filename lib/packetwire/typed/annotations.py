"""From annotations to kinds. An annotation that is no kind is refused here, when the class is made, with its place.

Strategy. Annotations are evaluated as `typing.get_type_hints` does. Classes that are made in a function have names
that their module does not know: the names around the one that is being made are looked at, too. A name that does
not exist yet, since its class comes later, raises NameError; whoever asked tries again at the first use.
"""

from __future__ import annotations

import collections.abc
import copy
import dataclasses
import inspect
import re
import sys
import types
import typing
from collections.abc import Mapping
from enum import Enum, Flag
from typing import Any

from packetwire.typed.kinds import (
    SCALARS,
    TAG,
    Choice,
    Entries,
    Field,
    Items,
    Kind,
    Named,
    OneOf,
    Record,
    Row,
    Scalar,
    Stream,
    parts_of,
)

_ITEMS: Mapping[object, type] = {list: list, set: set, frozenset: frozenset}
_STREAMS = {
    collections.abc.Iterator: False,
    collections.abc.Iterable: False,
    collections.abc.Generator: False,
    collections.abc.AsyncIterator: True,
    collections.abc.AsyncIterable: True,
    collections.abc.AsyncGenerator: True,
}
"""The annotations of streams, and whether these are asynchronous."""
_STREAM_NAME = re.compile(r"(?:\w+\.)*((?:Async)?(?:Iterator|Iterable|Generator))\[")
_STREAM_NAMES = {each.__name__: is_async for each, is_async in _STREAMS.items()}
_GENERIC = "is generic: give the fields their types in a class of its own"
_NOT_A_KEY = "cannot be a key of a dict, or an item of a set: only scalars, Literal, Enum and tuples of these can"


def namespace_of_caller(depth: int) -> dict[str, Any]:
    """The names that are known where a class is being made, if that is in a function."""
    frame = sys._getframe(depth)
    names: dict[str, object] = {}
    while frame.f_back is not None and frame.f_locals is not frame.f_globals:
        names = {**frame.f_locals, **names}
        frame = frame.f_back
    return names


def hints_of(thing: object, names: Mapping[str, object] | None = None) -> dict[str, Any]:
    """The evaluated annotations of a class or function. Raises NameError for a name that is not known."""
    return typing.get_type_hints(thing, localns=dict(names or {}), include_extras=True)


class Reader:
    """Makes kinds of annotations; a dataclass that it has seen before is the same one."""

    def __init__(self, names: Mapping[str, object] | None = None) -> None:
        self._names = dict(names or {})
        self._records: dict[type, Record] = {}

    def kind_of(self, annotation: Any, where: str) -> Kind:
        """The kind that an evaluated annotation is. Raises TypeError, which begins with `where`."""
        annotation = _unwrapped(annotation)
        if annotation is None or annotation in SCALARS:
            return Scalar(type(None) if annotation is None else annotation)
        origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
        if origin in (typing.Union, types.UnionType):
            return self._union(arguments, where)
        if origin is typing.Literal:
            return _choice(arguments, where)
        if origin in _ITEMS and len(arguments) == 1:
            item = self.kind_of(arguments[0], f"{where}, an item")
            if origin is not list:
                _check_key(item, where)
            return Items(_ITEMS[origin], item)
        if origin is tuple:
            return self._tuple(arguments, where)
        if origin is dict and len(arguments) == 2:
            key = self.kind_of(arguments[0], f"{where}, a key")
            _check_key(key, where)
            return Entries(key, self.kind_of(arguments[1], f"{where}, a value"))
        if isinstance(annotation, type) and issubclass(annotation, Enum):
            return _named(annotation, where)
        if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
            return self.record_of(annotation, where)
        raise TypeError(f"{where}: {_shown(annotation)} {_why_not(annotation, origin)}")

    def stream_of(self, annotation: Any, where: str, *, is_result: bool) -> Stream:
        """The stream that an evaluated annotation is, for which `is_async_stream` has said so. Raises TypeError."""
        annotation = _unwrapped(annotation)
        origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
        is_async = _STREAMS.get(origin)
        better = "AsyncIterator" if is_async else "Iterator"
        if is_async is None:
            raise TypeError(f"{where}: {_shown(annotation)} is no Iterator of items")
        if origin not in (_RESULTS if is_result else _PARAMETERS) or len(arguments) != 1:
            raise TypeError(f"{where}: {_shown(annotation)} cannot be sent: write {better}[…] of the items")
        return Stream(self.kind_of(arguments[0], f"{where}, an item"), arguments[0], is_async)

    def record_of(self, cls: type, where: str) -> Record:
        """The kind that a dataclass is."""
        if cls in self._records:
            return self._records[cls]
        if getattr(cls, "__parameters__", ()):
            raise TypeError(f"{where}: {cls.__name__} {_GENERIC}")
        record = self._records[cls] = Record(cls)
        try:
            hints = hints_of(cls, {**self._names, cls.__name__: cls})
            for each in dataclasses.fields(cls):
                place = f"{cls.__name__}.{each.name}"
                if not each.init:
                    raise TypeError(f"{place}: a field with init=False cannot be filled in at the far end")
                factory = None if each.default_factory is dataclasses.MISSING else each.default_factory
                record.fields.append(Field(each.name, self.kind_of(hints[each.name], place), each.default, factory))
            _check_inits(cls)
        except BaseException:
            del self._records[cls]
            raise
        record.is_recursive = _holds_itself(record)
        return record

    def _tuple(self, arguments: tuple[object, ...], where: str) -> Kind:
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return Items(tuple, self.kind_of(arguments[0], f"{where}, an item"))
        return Row([self.kind_of(each, f"{where}, item {n}") for n, each in enumerate(arguments)])

    def _union(self, arguments: tuple[object, ...], where: str) -> Kind:
        options: list[Kind] = []
        for argument in arguments:
            kind = self.kind_of(argument, where)
            options += kind.options if isinstance(kind, OneOf) else [kind]
        union = OneOf(options)
        taken: dict[str, Kind] = {}
        for option in options:
            for sort in sorted(option.wire):
                other = taken.setdefault(sort, option)
                both_records = isinstance(option, Record) and isinstance(other, Record)
                if other is not option and not both_records:
                    raise TypeError(
                        f"{where}: {other.said()} and {option.said()} cannot be told apart in one union: "
                        f"both are sent as {sort}"
                    )
        _check_tags(union.records, where)
        return union


_RESULTS = frozenset({collections.abc.Iterator, collections.abc.AsyncIterator})
_PARAMETERS = _RESULTS | {collections.abc.Iterable, collections.abc.AsyncIterable}
"""The annotations of streams: a client gets an iterator, but need not give one."""


def is_async_stream(annotation: object) -> bool | None:
    """True or False for a stream, which is asynchronous or not, else None. It need not be evaluated yet."""
    if isinstance(annotation, str):
        found = _STREAM_NAME.match(annotation)
        return None if found is None else _STREAM_NAMES[found[1]]
    return _STREAMS.get(typing.get_origin(_unwrapped(annotation)))


def field_of(each: dataclasses.Field[object], kind: Kind) -> Field:
    """The field of a record that a field of a dataclass is."""
    factory = None if each.default_factory is dataclasses.MISSING else each.default_factory
    return Field(each.name, kind, each.default, factory)


def default_of(default: object) -> dict[str, Any]:
    """A default as arguments of `dataclasses.field`; one that can change is copied for each use."""
    if type(default).__hash__ is None:
        return {"default_factory": lambda: copy.deepcopy(default)}
    return {"default": default}


def _unwrapped(annotation: Any) -> Any:
    """Without `Annotated`, `NewType` and aliases, which make no difference to values."""
    while True:
        if typing.get_origin(annotation) is typing.Annotated:
            annotation = typing.get_args(annotation)[0]
        elif isinstance(annotation, typing.NewType):
            annotation = annotation.__supertype__
        elif type(annotation).__name__ == "TypeAliasType":  # of Python 3.12
            annotation = annotation.__value__
        elif isinstance(annotation, list | dict | set):
            return type(annotation)  # no annotation at all; unhashable, which kinds are looked up by
        else:
            return annotation


def _choice(values: tuple[object, ...], where: str) -> Choice:
    for value in values:
        if type(value) not in (str, int, bool, bytes, type(None)):
            raise TypeError(f"{where}: {value!r} cannot be sent: a Literal can have str, int, bool, bytes and None")
    return Choice(values)


def _named(cls: type[Enum], where: str) -> Named:
    if issubclass(cls, Flag):
        raise TypeError(f"{where}: {cls.__name__} is a Flag, whose values can be combined: use int")
    for member in cls:
        if type(member.value) not in (str, int, bool, bytes, float, type(None)):
            raise TypeError(f"{where}: {member} has the value {member.value!r:.60}, which is no scalar")
    if not list(cls):
        raise TypeError(f"{where}: {cls.__name__} has no members")
    return Named(cls)


def _check_key(kind: Kind, where: str) -> None:
    if isinstance(kind, Row) or (isinstance(kind, Items) and kind.type is not list and kind.type is not set):
        for part in parts_of(kind):
            _check_key(part, where)
    elif not isinstance(kind, Scalar | Choice | Named):
        raise TypeError(f"{where}: {kind.said()} {_NOT_A_KEY}")


def _check_tags(records: list[Record], where: str) -> None:
    if len(records) < 2:
        return
    names = [record.said() for record in records]
    if len(set(names)) < len(names):
        raise TypeError(f"{where}: two dataclasses with the name {max(names, key=names.count)} are in one union")
    for record in records:
        if any(each.name == TAG for each in record.fields):
            raise TypeError(f"{where}: {record.said()} has a field {TAG!r}, which tells dataclasses apart")


def _check_inits(cls: type) -> None:
    """A dataclass must be made of its fields alone."""
    parameters = getattr(cls, "__dataclass_params__", None)
    if parameters is None or not parameters.init:
        raise TypeError(f"{cls.__name__}: a dataclass with init=False cannot be made at the far end")
    for name, annotation in inspect.get_annotations(cls).items():
        if isinstance(annotation, dataclasses.InitVar) or "InitVar" in str(annotation):
            raise TypeError(f"{cls.__name__}.{name}: an InitVar is not kept, so it cannot be sent")


def _holds_itself(record: Record) -> bool:
    seen: list[Kind] = []
    left = list(parts_of(record))
    while left:
        kind = left.pop()
        if kind is record:
            return True
        if not any(kind is each for each in seen):
            seen.append(kind)
            left += parts_of(kind)
    return False


def _shown(annotation: object) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)


def _why_not(annotation: object, origin: object) -> str:
    if annotation is Any or annotation is object:
        return "says nothing of the values: give the types that there are"
    if annotation in (list, set, frozenset, tuple, dict):
        return (
            f"needs the types of its items, as in {annotation.__name__}[str{', int' if annotation is dict else ''}]"
        )
    if annotation in _STREAMS or origin in _STREAMS:
        return "is a stream of items, which only a parameter or the result of a method can be: use list"
    if origin is not None and isinstance(origin, type) and dataclasses.is_dataclass(origin):
        return _GENERIC
    if isinstance(annotation, type):
        return "is no dataclass, Enum or scalar; make it a dataclass, or send what it is made of, such as a str"
    return "cannot be in a request"

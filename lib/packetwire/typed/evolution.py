"""The changes of a service that break something: a schema compared with the one that is to replace it.

Strategy. A service is replaced before its clients are. So a request goes from an old client to the new service, a
result or an error the other way, and each kind is compared in the direction in which its values go: the reader must
take whatever the writer may send. A kind of both directions is compared twice.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterator
from typing import Any, NamedTuple

from packetwire.typed.kinds import SCALARS
from packetwire.typed.schema import Schema

READ_BY_NEW, READ_BY_OLD = False, True
"""The direction in which values go: requests from old clients to the new service, results the other way."""
_SEQUENCES = frozenset({"list", "set", "frozenset", "tuple"})
_SCALAR_NAMES = frozenset(SCALARS.values())


class Change(NamedTuple):
    """A difference between two schemas."""

    breaks: bool
    """True if clients and services of the two versions do not understand each other any more."""
    where: str
    what: str

    def __str__(self) -> str:
        return f"{'BREAKS' if self.breaks else 'ok':7}{self.where}: {self.what}"


def changes(old: Schema, new: Schema) -> list[Change]:
    """All differences, those that break first."""
    found = list(_Comparison(old, new).all())
    return sorted(dict.fromkeys(found), key=lambda change: (not change.breaks, change.where, change.what))


class _Comparison:
    def __init__(self, old: Schema, new: Schema) -> None:
        self._old, self._new = old, new
        self._compared: set[tuple[str, str, bool]] = set()

    def all(self) -> Iterator[Change]:
        if self._old["name"] != self._new["name"]:
            yield Change(True, "the service", f"is {self._new['name']!r}, was {self._old['name']!r}")
        old, new = self._old["methods"], self._new["methods"]
        yield from self._numbers(old, new)
        for name in old.keys() - new.keys():
            yield Change(True, name, "the method is gone")
        for name in new.keys() - old.keys():
            yield Change(False, name, "is a new method")
        for name in old.keys() & new.keys():
            yield from self._method(name, old[name], new[name])

    def _numbers(self, old: Schema, new: Schema) -> Iterator[Change]:
        had = {each["number"]: name for name, each in old.items()}
        for name, each in new.items():
            former = had.get(each["number"])
            if former is not None and former != name:
                yield Change(True, name, f"has the number {each['number']}, which {former} had")

    def _method(self, name: str, old: Schema, new: Schema) -> Iterator[Change]:
        if old["number"] != new["number"]:
            yield Change(True, name, f"has the number {new['number']}, had {old['number']}")
        yield from self._fields(f"{name}(…)", old["fields"], new["fields"], READ_BY_NEW)
        yield from self._kind(f"{name}, result", old["result"], new["result"], READ_BY_OLD)
        if old["idempotent"] and not new["idempotent"]:
            yield Change(True, name, "is not idempotent any more, but old clients may repeat it")
        for error in old["errors"].keys() - new["errors"].keys():
            yield Change(False, name, f"does not raise {error!r} any more")
        for error in new["errors"].keys() - old["errors"].keys():
            yield Change(False, name, f"may raise {error!r}, of which old clients know the name and fields only")
        for error in old["errors"].keys() & new["errors"].keys():
            before, after = old["errors"][error]["fields"], new["errors"][error]["fields"]
            yield from self._fields(f"{name}, error {error!r}", before, after, READ_BY_OLD)

    def _fields(self, where: str, old: Schema, new: Schema, back: bool) -> Iterator[Change]:
        for name in old.keys() - new.keys():
            if old[name]["required"]:
                yield Change(True, f"{where}.{name}", "a required field is gone")
            else:
                yield Change(False, f"{where}.{name}", "is gone; its name must not be used for anything else")
        for name in new.keys() - old.keys():
            if new[name]["required"] and not back:
                yield Change(True, f"{where}.{name}", "is a new field that old clients do not send")
            else:
                yield Change(False, f"{where}.{name}", "is a new field, which old ends ignore")
        for name in old.keys() & new.keys():
            place = f"{where}.{name}"
            if old[name].get("default", old[name]["required"]) != new[name].get("default", new[name]["required"]):
                yield Change(False, place, "has another default")
            yield from self._kind(place, old[name]["kind"], new[name]["kind"], back)

    def _kind(self, where: str, old: Any, new: Any, back: bool) -> Iterator[Change]:
        if isinstance(old, dict) and isinstance(new, dict) and old.keys() == new.keys():
            (how,) = old
            if how == "type":
                yield from self._type(where, old[how], new[how], back)
            elif how in ("union", "literal"):
                yield from self._choices(where, old[how], new[how], back)
            elif how == "stream" and "bytes" in (old[how], new[how]) and old != new:
                yield Change(True, where, f"is {kind_text(new)}, was {kind_text(old)}: bytes are sent as they are")
            elif how in ("row", "dict"):
                yield from self._parts(where, old[how], new[how], back)
            else:
                yield from self._kind(f"{where}, item", old[how], new[how], back)
        elif _is_sequence(old) and _is_sequence(new):
            yield Change(False, where, f"is a {next(iter(new))}, was a {next(iter(old))}: both are sent as a list")
            yield from self._kind(f"{where}, item", next(iter(old.values())), next(iter(new.values())), back)
        elif old != new:
            yield self._other_kind(where, old, new, back)

    def _other_kind(self, where: str, old: object, new: object, back: bool) -> Change:
        if _takes(new, old):
            return Change(back, where, f"is {kind_text(new)}, was {kind_text(old)}{_NOT_READ[back]}")
        if _takes(old, new):
            return Change(not back, where, f"is only {kind_text(new)}, was {kind_text(old)}")
        return Change(True, where, f"is {kind_text(new)}, was {kind_text(old)}")

    def _parts(self, where: str, old: list[object], new: list[object], back: bool) -> Iterator[Change]:
        if len(old) != len(new):
            yield Change(True, where, f"has {len(new)} items, had {len(old)}")
            return
        for number, (one, other) in enumerate(zip(old, new, strict=True)):
            yield from self._kind(f"{where}, part {number}", one, other, back)

    def _choices(self, where: str, old: list[object], new: list[object], back: bool) -> Iterator[Change]:
        """The options of a union, or the values of a Literal."""
        for each in old:
            if each not in new:
                yield Change(not back, where, f"is never {choice_text(each)} any more")
            elif isinstance(each, dict) and "bytes" not in each:
                yield from self._kind(where, each, each, back)
        for each in new:
            if each not in old:
                yield Change(back, where, f"can also be {choice_text(each)}{_NOT_READ[back]}")

    def _type(self, where: str, old: str, new: str, back: bool) -> Iterator[Change]:
        if (old, new, back) in self._compared:
            return
        self._compared.add((old, new, back))
        before, after = self._old["types"][old], self._new["types"][new]
        if before.keys() != after.keys():
            yield Change(True, where, f"is {new}, was {old}, which is of another sort")
        elif "fields" in before:
            yield from self._fields(new, before["fields"], after["fields"], back)
        else:
            yield from self._enum(new, before, after, back)

    def _enum(self, name: str, old: Schema, new: Schema, back: bool) -> Iterator[Change]:
        before, after = list(old["enum"].values()), list(new["enum"].values())
        for value in before:
            if value not in after:
                yield Change(not (back or new["open"]), name, f"has the value {literal_text(value)} no more")
        for value in after:
            if value not in before:
                breaks = back and not old["open"]
                text = ", which old ends refuse, as their Enum has no _missing_" if breaks else ""
                yield Change(breaks, name, f"has the new value {literal_text(value)}{text}")


_NOT_READ = {READ_BY_NEW: "", READ_BY_OLD: ", which old clients do not take"}


def is_stream(kind: object) -> bool:
    """True for a kind of a schema that is sent as a body."""
    return isinstance(kind, dict) and "stream" in kind


def _is_sequence(kind: object) -> bool:
    return isinstance(kind, dict) and kind.keys() <= _SEQUENCES


def _takes(wide: object, narrow: object) -> bool:
    """True if each value of the one kind is one of the other."""
    wide_options, narrow_options = _options(wide), _options(narrow)
    return all(each in wide_options or (each == "int" and "float" in wide_options) for each in narrow_options)


def _options(kind: object) -> list[object]:
    return kind["union"] if isinstance(kind, dict) and "union" in kind else [kind]


def choice_text(choice: object) -> str:
    """An option of a union, or a value of a Literal."""
    if isinstance(choice, dict) and "bytes" not in choice:
        return kind_text(choice)
    return choice if isinstance(choice, str) and choice in _SCALAR_NAMES else literal_text(choice)


def kind_text(kind: Any, *, is_async: bool = False) -> str:
    """A kind of a schema, as an annotation would say it, of a method that may be asynchronous."""
    if isinstance(kind, str):
        return kind
    ((how, parts),) = kind.items()
    if how == "stream":
        return f"{'AsyncIterator' if is_async else 'Iterator'}[{kind_text(parts)}]"
    if how == "type":
        return str(parts)
    if how == "union":
        return " | ".join(map(kind_text, parts))
    if how == "literal":
        return f"Literal[{', '.join(map(literal_text, parts))}]"
    if how == "row":
        return f"tuple[{', '.join(map(kind_text, parts)) or '()'}]"
    if how == "dict":
        return f"dict[{', '.join(map(kind_text, parts))}]"
    return f"{how}[{kind_text(parts)}{', ...' if how == 'tuple' else ''}]"


def literal_text(value: object) -> str:
    """A value of a schema, as Python would say it."""
    if isinstance(value, dict) and value.keys() == {"bytes"}:
        return repr(b64decode(value["bytes"]))
    return repr(value)

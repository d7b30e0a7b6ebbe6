"""Schemas from elsewhere: what is no schema is refused, whatever it is, before anything is made of it."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packetwire.cli.describe import readable
from packetwire.typed.evolution import changes
from packetwire.typed.foreign import MAX_SCHEMA_SIZE, MAX_TYPES, checked_schema, schema_from
from packetwire.typed.stub import stub_of

from .shop import Shop
from .streaming import Streams
from .test_schema import Full

SCHEMAS = [Shop.schema(), Full.schema(), Streams.schema()]


@pytest.mark.parametrize("schema", SCHEMAS)
def test_ours_are_schemas(schema: Any) -> None:
    assert schema_from(json.dumps(schema).encode()) == schema


def test_what_later_versions_add_is_dropped() -> None:
    assert checked_schema({**copy.deepcopy(SCHEMAS[0]), "hints": {"\x1b": 5}}) == SCHEMAS[0]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"", "it is not JSON"),
        (b"\xff", "it is not JSON"),
        (b"5", r"\$: expected dict, got 5"),
        (b"{}", r"\$.packetwire: expected 1, got None"),
        (b"[" * 200_000, "it is nested too deep|it is not JSON"),
        (b" " * (MAX_SCHEMA_SIZE + 1), "it has 4194305 bytes, more than 4194304"),
    ],
)
def test_what_is_none(text: bytes, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        schema_from(text)


def nested(depth: int) -> Any:
    kind: Any = "int"
    for _ in range(depth):
        kind = {"list": kind}
    return kind


def lists(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


STREAM = {"kind": {"stream": "int"}, "required": True}
FIELD = {"kind": "int", "required": True}
WRONG: list[tuple[tuple[str, ...], Any, str]] = [
    (("name",), None, r"\$.name: expected str, got None"),
    (("name",), "a\nb", r"\$.name: the character '\\n' is not printable"),
    (("doc",), "\x1b[2J", r"\$.doc: the character '\\x1b' is not printable"),
    (("version",), "\u202e", r"\$.version: the character '\\u202e' is not printable"),
    (("types",), {f"T{n}": {"fields": {}} for n in range(MAX_TYPES + 1)}, r"\$.types: has 1001 types"),
    (("types",), [], r"\$.types: expected dict"),
    (("types", "Item"), {"enum": {}, "open": False}, "has no members"),
    (("types", "Item"), {"enum": {"a": [1]}, "open": False}, r"enum.a: expected a value, got \[1\]"),
    (("types", "Item"), {"enum": {"a": {"bytes": "?"}}, "open": False}, "enum.a: it is not base64"),
    (("types", "Item"), {"enum": {"a": 1}}, "open: expected bool, got None"),
    (("methods",), {"a b": {}}, "'a b' is no name"),
    (("methods",), {"import": {}}, "'import' is no name"),
    (("methods",), {"__init__": {}}, "'__init__' is no name"),
    (("methods", "put", "number"), True, "number: expected int, got True"),
    (("methods", "put", "number"), -1, "-1 is no request type"),
    (("methods", "put", "keywords"), ["title, x: int = print()"], "is no field"),
    (("methods", "put", "result"), "print()", r"'print\(\)' is no kind"),
    (("methods", "put", "result"), {"list": "int", "set": "int"}, "expected one key"),
    (("methods", "put", "result"), {"call": "int"}, "'call' is no kind"),
    (("methods", "put", "result"), {"type": "Nothing"}, "there is no type 'Nothing'"),
    (("methods", "put", "result"), {"dict": ["int"]}, "has 1 kinds"),
    (("methods", "put", "result"), {"union": []}, "has 0 kinds"),
    (("methods", "put", "result"), {"literal": []}, "has no values"),
    (("methods", "put", "result"), nested(60), "is nested too deep"),
    (("methods", "put", "fields"), {"x": FIELD, "y=print()": FIELD}, r"'y=print\(\)' is no name"),
    (("methods", "put", "fields", "title", "required"), 1, "required: expected bool, got 1"),
    (("methods", "put", "fields", "title", "default"), {"bytes": "?"}, "default: it is not base64"),
    (("methods", "put", "fields"), {"x": STREAM, "y": STREAM}, "fields: has 2 streams, more than one"),
    (("methods", "put", "fields"), {"x()": STREAM}, r"'x\(\)' is no name"),
    (("methods", "put", "fields"), {"x": {**STREAM, "required": False}}, "x: is a stream, which has no default"),
    (("methods", "put", "fields"), {"x": {**STREAM, "default": "print()"}}, "x: is a stream, which has no default"),
    (("methods", "put", "fields"), {"x": {"kind": {"stream": "print()"}}}, r"'print\(\)' is no kind"),
    (("methods", "put", "result"), {"stream": {"stream": "int"}}, "'stream' is no kind"),
    (("methods", "put", "result"), {"list": {"stream": "int"}}, "'stream' is no kind"),
    (("types", "Item", "fields"), {"x": STREAM}, "'stream' is no kind"),
    (("methods", "put", "errors"), {"a\nb": {"fields": {}}}, "is not printable"),
    (("methods", "put", "fields", "title", "default"), "\ud800", r"\$: '\\ud800' is not text"),
    (("methods", "put", "fields", "title", "\udfff"), 1, r"\$: '\\udfff' is not text"),
    (("methods", "put", "fields", "title", "default"), lists(900), r"\$: is nested too deep"),
]


def changed(path: tuple[str, ...], value: Any) -> Any:
    schema = copy.deepcopy(SCHEMAS[0])
    part = schema
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    return schema


@pytest.mark.parametrize(("path", "value", "problem"), WRONG)
def test_each_part_is_checked(path: tuple[str, ...], value: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        checked_schema(changed(path, value))


@pytest.mark.parametrize(
    ("path", "value", "line"),
    [
        (("name",), "async", "class Async(Service, name='async', version='1.4'):"),
        (("name",), "None", "class ErrorNone(Service, name='None', version='1.4'):"),
        (("methods", "put", "errors"), {"none": {"fields": {}}}, "class ErrorNone(RequestError):"),
    ],
)
def test_keywords_are_no_names_in_a_stub(path: tuple[str, ...], value: Any, line: str) -> None:
    stub = stub_of(checked_schema(changed(path, value)))
    assert line in stub.splitlines()
    compile(stub, "stub", "exec")


@pytest.mark.timeout(30)
def test_a_default_in_many_unions_takes_no_time() -> None:
    """It was looked for in each of them twice: 2**48 times."""
    kind: Any = "int"
    for _ in range(48):
        kind = {"union": [kind]}
    field = {"kind": kind, "required": False, "default": 5}
    assert "x: int = 5" in stub_of(checked_schema(changed(("methods", "put", "fields"), {"x": field})))


def places(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(value, dict):
        for key, each in value.items():
            yield (*path, key)
            yield from places(each, (*path, key))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just({"bytes": "YQ=="}),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["list", "type", "a", "b"]), inner),
    max_leaves=5,
)


@given(st.sampled_from(sorted(set(places(SCHEMAS[0])))), JSON | st.just({"x": STREAM}) | st.just({"stream": "int"}))
def test_what_passes_can_be_used(path: tuple[str, ...], value: Any) -> None:
    """Whatever stands in a place: it is refused, or it can be shown, compared, and made source of that compiles."""
    schema = changed(path, value)
    try:
        checked = checked_schema(schema)
    except ValueError:
        return
    assert "\x1b" not in "".join(readable(checked))
    changes(checked, SCHEMAS[0])
    compile(stub_of(checked), "stub", "exec")

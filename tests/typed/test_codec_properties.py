"""Of random kinds and values: the pure codec and msgspec agree, and what is encoded comes back."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from packetwire.typed import BadValue, Codec
from packetwire.typed.kinds import TAG

from .strategies import BASIC, KINDS, Leaf, Node, Point, Tree, Typed

SLOW = settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=40)
LONG = settings(SLOW, max_examples=2000)


def same(one: Any, other: Any) -> bool:
    """Equal, where NaN is equal to itself."""
    if isinstance(one, float) and isinstance(other, float):
        return one == other or (math.isnan(one) and math.isnan(other))
    if isinstance(one, list | tuple) and type(one) is type(other):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return same(list(one), list(other)) and same(list(one.values()), list(other.values()))
    if hasattr(one, "__dataclass_fields__") and type(one) is type(other):
        return all(same(getattr(one, name), getattr(other, name)) for name in one.__dataclass_fields__)
    return bool(one == other)


def by_msgspec(value: Any) -> bytes | None:
    """What msgspec itself makes of a value, if it knows all that is in it."""
    try:
        return msgspec.msgpack.encode(value)
    except (TypeError, NotImplementedError):
        return None


def check_both(typed: Typed, value: Any) -> None:
    pure, fast = Codec(typed.annotation, pure=True), Codec(typed.annotation)
    assert not pure.uses_msgspec
    encoded = pure.encode(value)
    assert fast.encode(value) == encoded
    for codec in (pure, fast):
        assert same(codec.decode(encoded), value)


@SLOW
@given(data=st.data())
def test_both_make_the_same_bytes_and_values(data: st.DataObject) -> None:
    typed = data.draw(KINDS)
    check_both(typed, data.draw(typed.values))


@pytest.mark.long
@LONG
@given(data=st.data())
def test_both_make_the_same_bytes_and_values_often(data: st.DataObject) -> None:
    typed = data.draw(KINDS)
    check_both(typed, data.draw(typed.values))


@SLOW
@given(data=st.data())
def test_the_bytes_are_those_of_msgspec(data: st.DataObject) -> None:
    """Also of the kinds for which it is not used: but for unions of dataclasses, which it does not have."""
    typed = data.draw(BASIC)
    value = data.draw(typed.values)
    encoded = Codec(typed.annotation, pure=True).encode(value)
    other = by_msgspec(value)
    if other is not None and TAG.encode() not in encoded:
        assert encoded == other


def check_refused(typed: Typed, payload: bytes) -> None:
    """Both decode the same, or refuse for the same reason."""
    found: list[Any] = []
    for codec in (Codec(typed.annotation, pure=True), Codec(typed.annotation)):
        try:
            found.append(codec.decode(payload))
        except BadValue as error:
            found.append(str(error))
    assert same(found[0], found[1])


@SLOW
@given(data=st.data(), payload=st.binary(max_size=60))
def test_random_bytes_are_decoded_or_refused(data: st.DataObject, payload: bytes) -> None:
    check_refused(data.draw(KINDS), payload)


def mutated(data: st.DataObject, payload: bytes) -> bytes:
    """The payload with a few bytes changed, left out or put in."""
    changed = bytearray(payload)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(changed)))
        kind = data.draw(st.integers(0, 2))
        if kind < 2:
            del changed[at : at + 1]
        if kind > 0:
            changed[at:at] = bytes((data.draw(st.integers(0, 255)),))
    return bytes(changed)


@SLOW
@given(data=st.data())
def test_changed_bytes_are_decoded_or_refused(data: st.DataObject) -> None:
    typed = data.draw(KINDS)
    payload = Codec(typed.annotation, pure=True).encode(data.draw(typed.values))
    check_refused(typed, mutated(data, payload))


@pytest.mark.long
@LONG
@given(data=st.data())
def test_changed_bytes_are_decoded_or_refused_often(data: st.DataObject) -> None:
    typed = data.draw(KINDS)
    payload = Codec(typed.annotation, pure=True).encode(data.draw(typed.values))
    check_refused(typed, mutated(data, payload))


@SLOW
@given(data=st.data(), other=KINDS)
@example(data=None, other=None)
def test_values_of_other_kinds_are_encoded_alike_or_refused(data: st.DataObject | None, other: Any) -> None:
    if data is None:
        typed, value = Typed(Point, st.nothing()), Tree("t")
    else:
        typed, value = data.draw(KINDS), data.draw(other.values)
    found: list[Any] = []
    for codec in (Codec(typed.annotation, pure=True), Codec(typed.annotation)):
        try:
            found.append(codec.encode(value))
        except BadValue as error:
            found.append(str(error).encode())
    assert found[0] == found[1]


def test_a_union_that_holds_itself() -> None:
    value = Node(Leaf(1), Node(Leaf(2), Leaf(3)))
    check_both(Typed(Leaf | Node, st.nothing()), value)

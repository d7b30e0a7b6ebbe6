"""Seconds as users write them."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

from packetwire import LocalProtocolError
from packetwire.core.timelimits import LONGEST, milliseconds_of, seconds_of, time_limit


@pytest.mark.parametrize("value", [0, 5, 0.5, -1, True, Fraction(1, 2), LONGEST - 1, -0.0])
def test_a_number_is_what_it_is(value: Any) -> None:
    assert seconds_of(value) == time_limit(value) == float(value)
    assert type(seconds_of(value)) is float


@pytest.mark.parametrize(
    "value", [math.inf, 1e10, 25 * 86_400, LONGEST, pytest.param(10**400, id="10**400"), 1e308]
)
def test_what_is_too_long_to_be_told_from_for_ever(value: Any) -> None:
    assert time_limit(value) is None
    assert seconds_of(value) == LONGEST
    assert LONGEST * 1000 < 2**31 - 1000, "a poll takes it"


@pytest.mark.parametrize("value", [-math.inf, -1e10, pytest.param(-(10**400), id="-10**400")])
def test_what_is_over_long_ago(value: Any) -> None:
    assert seconds_of(value) == time_limit(value) == -LONGEST


@pytest.mark.parametrize("check", [seconds_of, time_limit])
def test_nan(check: Any) -> None:
    with pytest.raises(LocalProtocolError, match="drain must be a number of seconds, got nan"):
        check(math.nan, "drain")
    for nan in "NaN", "sNaN":
        with pytest.raises(LocalProtocolError, match=f"drain must be a number of seconds, got .*{nan}"):
            check(Decimal(nan), "drain")


@pytest.mark.parametrize("value", ["5", b"5", [5], object(), 1j])
@pytest.mark.parametrize("check", [seconds_of, time_limit])
def test_what_is_no_number(check: Any, value: Any) -> None:
    with pytest.raises(TypeError, match=f"timeout must be a number of seconds, got {type(value).__name__}: "):
        check(value)


def test_none() -> None:
    assert time_limit(None) is None
    with pytest.raises(TypeError, match="close_timeout must be a number of seconds, got NoneType: None"):
        seconds_of(None, "close_timeout")


@pytest.mark.parametrize(
    ("seconds", "milliseconds"), [(None, None), (math.inf, None), (0, 0), (-5, 0), (1.5, 1500), (0.0004, 0)]
)
def test_milliseconds_for_a_peer(seconds: Any, milliseconds: int | None) -> None:
    assert milliseconds_of(seconds) == milliseconds


def test_milliseconds_of_no_number() -> None:
    with pytest.raises(TypeError, match="cut_off must be a number of seconds, got str: '5'"):
        milliseconds_of("5")

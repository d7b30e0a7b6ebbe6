"""Bounds that make no sense are told where the connection is made."""

from __future__ import annotations

import math

import pytest

from packetwire import AsyncPacketConnection, LocalProtocolError, PacketConnection

pytestmark = pytest.mark.timeout(60)

FACES = (PacketConnection, AsyncPacketConnection)
BOUNDS = {"max_packet_size": 1, "max_outstanding": 1, "max_unsent": 0}


@pytest.mark.parametrize("name", BOUNDS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1.5])
@pytest.mark.parametrize("make", FACES)
def test_what_is_no_whole_number(make, name, value):
    with pytest.raises(LocalProtocolError, match=f"{name} must be a whole number, got {value}"):
        make((0, 1), **{name: value})


@pytest.mark.parametrize("name", BOUNDS)
@pytest.mark.parametrize("value", ["5", b"5", None, [5], 1j])
@pytest.mark.parametrize("make", FACES)
def test_what_is_no_number(make, name, value):
    with pytest.raises(TypeError, match=f"{name} must be a whole number, got {type(value).__name__}: "):
        make((0, 1), **{name: value})


@pytest.mark.parametrize(("name", "least"), BOUNDS.items())
@pytest.mark.parametrize("make", FACES)
def test_what_is_too_small(make, name, least):
    with pytest.raises(LocalProtocolError, match=f"{name} must be {least} or more, got {least - 1}"):
        make((0, 1), **{name: least - 1})


@pytest.mark.parametrize("name", BOUNDS)
def test_a_float_that_is_a_whole_number_will_do(ends, name):
    ends.open(**{name: 1e6})
    assert getattr(ends.conn, name) == 1_000_000
    ends.peer()

"""Options that make no sense are refused where they are given, with their name and value, by both faces alike."""

from __future__ import annotations

import math
from typing import Any

import pytest

from packetwire import (
    AsyncHasPacketConnection,
    AsyncPacketConnection,
    HasPacketConnection,
    LocalProtocolError,
    PacketConnection,
    aserve,
    serve,
)

FACES: list[Any] = [PacketConnection, AsyncPacketConnection]
NO_STREAM = (0, 1)  # nothing is opened here


def nobody(recv_send: Any) -> Any:
    raise AssertionError("nobody connects")


@pytest.mark.parametrize("name", ["max_packet_size", "max_outstanding", "max_unsent"])
@pytest.mark.parametrize("face", FACES)
def test_true_is_no_bound(face: Any, name: str) -> None:
    with pytest.raises(TypeError, match=f"^{name} must be a whole number, got bool: True$"):
        face(NO_STREAM, **{name: True})


@pytest.mark.parametrize("value", [0, -1, True, math.nan, "four", None, 1.5], ids=repr)
@pytest.mark.parametrize("face", FACES)
def test_handlers_that_make_no_sense_are_refused(face: Any, value: Any) -> None:
    with pytest.raises(LocalProtocolError, match="^handlers must be 1 or more, or 'inline', got ") as caught:
        face(NO_STREAM, handlers=value)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("inline", 5),
        ("inline", "7"),
        ("close_timeout", "5"),
        ("close_timeout", None),
        ("close_timeout", math.nan),
        ("half_close", "no"),
        ("half_close", math.nan),
        ("error_detail", "all"),
        ("error_detail", None),
    ],
)
@pytest.mark.parametrize("face", FACES)
def test_another_option_that_makes_no_sense_is_refused(face: Any, name: str, value: Any) -> None:
    with pytest.raises((TypeError, LocalProtocolError), match=f"^{name} must be ") as caught:
        face(NO_STREAM, **{name: value})
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize(("name", "value"), [("spin", math.nan), ("packet_grace", math.nan), ("packet_grace", "1")])
def test_an_option_of_threads_that_makes_no_sense_is_refused(name: str, value: Any) -> None:
    with pytest.raises((TypeError, LocalProtocolError), match=f"^{name} must be "):
        PacketConnection(NO_STREAM, **{name: value})


@pytest.mark.parametrize("face", FACES)
def test_options_can_be_read_and_assigned(face: Any) -> None:
    conn = face(NO_STREAM, handlers="inline", inline={7}, max_unsent=0, half_close=True, error_detail="none")
    assert (conn.handlers, conn.inline, conn.max_unsent) == ("inline", {7}, 0)
    assert (conn.half_close, conn.error_detail) == (True, "none")
    assert (conn.max_packet_size, conn.max_outstanding, conn.close_timeout) == (64 << 20, 1024, 5.0)
    conn.handlers, conn.inline, conn.max_packet_size, conn.max_outstanding = 2, None, 100, 3
    conn.max_unsent, conn.half_close, conn.error_detail, conn.close_timeout = 9, False, "traceback", 1
    assert (conn.handlers, conn.inline, conn.max_packet_size, conn.max_outstanding) == (2, None, 100, 3)
    assert (conn.max_unsent, conn.half_close, conn.error_detail, conn.close_timeout) == (9, False, "traceback", 1)


@pytest.mark.parametrize("face", FACES)
def test_what_is_assigned_is_checked_and_changes_nothing_if_it_is_refused(face: Any) -> None:
    conn = face(NO_STREAM, max_unsent=5)
    with pytest.raises(LocalProtocolError, match="^max_unsent must be 0 or more, got -1$"):
        conn.max_unsent = -1
    with pytest.raises(LocalProtocolError, match="^handlers must be 1 or more"):
        conn.handlers = 0
    assert (conn.max_unsent, conn.handlers) == (5, 4)


def test_the_options_of_threads_can_be_read_and_assigned() -> None:
    conn = PacketConnection(NO_STREAM)
    assert (conn.spin, conn.packet_grace) == (0.0, 0.0)
    conn.spin, conn.packet_grace = 0, 0.5
    assert (conn.spin, conn.packet_grace) == (0, 0.5)


@pytest.mark.parametrize("made", [HasPacketConnection, AsyncHasPacketConnection])
def test_services_refuse_the_same(made: Any) -> None:
    with pytest.raises(LocalProtocolError, match="^max_unsent must be a whole number, got nan$"):
        made(NO_STREAM, rq_type_map={}, max_unsent=math.nan)


PLACES = ["max_connections", "max_per_address", "max_memory"]
SERVER_OPTIONS: list[tuple[str, Any]] = [
    *((name, value) for name in PLACES for value in (0, True, math.nan)),
    ("drain_timeout", math.nan),
    ("drain_timeout", "5"),
]


@pytest.mark.parametrize(("name", "value"), SERVER_OPTIONS)
def test_options_of_servers_that_make_no_sense_are_refused_by_both(name: str, value: Any) -> None:
    with pytest.raises((TypeError, LocalProtocolError), match=f"^{name} must be "):
        serve("tcp:127.0.0.1:0", nobody, **{name: value})
    with pytest.raises((TypeError, LocalProtocolError), match=f"^{name} must be "):
        aserve("tcp:127.0.0.1:0", nobody, **{name: value}).send(None)

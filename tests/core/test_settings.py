"""The options of connections and servers: their defaults, what they may be, and what is refused, by which text."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError, fields, replace
from decimal import Decimal
from typing import Any

import pytest

from packetwire import LocalProtocolError
from packetwire.core.bounds import bound_of
from packetwire.core.settings import ERROR_DETAILS, MAX_NAME_SIZE, MODES, ServerSettings, Settings
from packetwire.core.timelimits import LONGEST


class Number:
    """A whole number of another library."""

    def __index__(self) -> int:
        return 7


def test_the_defaults() -> None:
    settings = Settings()
    assert (settings.handlers, settings.inline, settings.error_detail) == (4, None, "message")
    assert (settings.max_packet_size, settings.max_outstanding, settings.max_unsent) == (64 << 20, 1024, 1 << 20)
    assert (settings.close_timeout, settings.half_close) == (5.0, False)
    assert (settings.spin, settings.packet_grace) == (0.0, 0.0)
    assert (settings.capabilities, settings.keepalive) == ("auto", "auto")
    assert (settings.protocol, settings.protocol_version) == (None, None)
    servers = ServerSettings()
    assert (servers.max_connections, servers.max_per_address, servers.max_memory) == (128, None, None)
    assert servers.drain_timeout == 5.0


@pytest.mark.parametrize("cls", [Settings, ServerSettings])
def test_each_option_is_described(cls: Any) -> None:
    assert [f"`{field.name}`: " in cls.__doc__ for field in fields(cls)] == [True] * len(fields(cls))


def test_they_are_frozen_and_a_change_is_checked() -> None:
    settings = Settings(max_unsent=5)
    with pytest.raises(FrozenInstanceError):
        settings.max_unsent = 6  # type: ignore[misc]
    assert replace(settings, handlers="inline") == Settings(max_unsent=5, handlers="inline")
    with pytest.raises(LocalProtocolError, match=r"^max_unsent must be 0 or more, got -1$"):
        replace(settings, max_unsent=-1)


@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [
        ("handlers", 1, 1),
        ("handlers", "inline", "inline"),
        ("inline", frozenset({3}), frozenset({3})),
        ("inline", range(5), range(5)),
        ("inline", b"\1\2", b"\1\2"),
        ("max_packet_size", 1, 1),
        ("max_outstanding", 1, 1),
        ("max_outstanding", 1e6, 1_000_000),
        ("max_outstanding", Number(), 7),
        ("max_unsent", 0, 0),
        *(("error_detail", each, each) for each in ERROR_DETAILS),
        ("close_timeout", 3, 3.0),
        ("close_timeout", math.inf, LONGEST),
        ("close_timeout", Decimal("0.5"), 0.5),
        ("half_close", True, True),
        ("half_close", 1, True),
        ("half_close", 0, False),
        ("spin", 0, 0),
        ("spin", 1.5, 1.5),
        ("packet_grace", None, 0.0),
        ("packet_grace", 0.25, 0.25),
        ("packet_grace", math.inf, LONGEST),
    ],
)
def test_what_makes_sense_is_kept(name: str, value: Any, kept: Any) -> None:
    found = getattr(Settings(**{name: value}), name)
    assert found == kept
    assert type(found) is type(kept)


COUNTS = "max_packet_size", "max_outstanding", "max_unsent"
NO_COUNTS: list[tuple[Any, type[Exception], str]] = [
    (math.nan, LocalProtocolError, "must be a whole number, got nan"),
    (1.5, LocalProtocolError, "must be a whole number, got 1.5"),
    (math.inf, LocalProtocolError, "must be a whole number, got inf"),
    (-math.inf, LocalProtocolError, "must be a whole number, got -inf"),
    ("1000", TypeError, "must be a whole number, got str: '1000'"),
    (b"1", TypeError, "must be a whole number, got bytes: b'1'"),
    (True, TypeError, "must be a whole number, got bool: True"),
    (None, TypeError, "must be a whole number, got NoneType: None"),
    ([3], TypeError, "must be a whole number, got list: [3]"),
]


@pytest.mark.parametrize(("value", "error", "text"), NO_COUNTS, ids=[str(value) for value, _, _ in NO_COUNTS])
@pytest.mark.parametrize("name", COUNTS)
def test_what_is_no_count(name: str, value: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        Settings(**{name: value})
    assert type(caught.value) is error
    assert str(caught.value) == f"{name} {text}"


@pytest.mark.parametrize(
    ("name", "value", "least"),
    [("max_packet_size", 0, 1), ("max_outstanding", 0, 1), ("max_unsent", -1, 0)],
)
def test_what_is_too_little(name: str, value: Any, least: int) -> None:
    with pytest.raises(LocalProtocolError) as caught:
        Settings(**{name: value})
    assert str(caught.value) == f"{name} must be {least} or more, got {value!r}"


def test_the_least_bound_is_one_if_nothing_else_is_said() -> None:
    assert bound_of(1, "n") == 1
    with pytest.raises(LocalProtocolError, match=r"^n must be 1 or more, got 0$"):
        bound_of(0, "n")


@pytest.mark.parametrize("value", [[0] * 1000, "x" * 1000], ids=["list", "str"])
def test_a_long_value_is_quoted_in_part(value: Any) -> None:
    for name in ("max_unsent", "half_close"):
        with pytest.raises(TypeError) as caught:
            Settings(**{name: value})
        assert str(caught.value).endswith(f"{value!r:.100}")


@pytest.mark.parametrize(
    ("name", "value", "error", "text"),
    [
        *(
            ("handlers", value, LocalProtocolError, f"must be 1 or more, or 'inline', got {value!r}")
            for value in (0, -1, True, math.nan, 1.5, "four", None)
        ),
        ("inline", 5, TypeError, "must be a container of request types, got int: 5"),
        ("inline", "7", TypeError, "must be a container of request types, got str: '7'"),
        ("inline", 10**150, TypeError, f"must be a container of request types, got int: 1{'0' * 99}"),
        *(
            ("error_detail", value, LocalProtocolError, f"must be one of {ERROR_DETAILS}, got {value!r}")
            for value in ("all", "", None, 0)
        ),
        ("close_timeout", math.nan, LocalProtocolError, "must be a number of seconds, got nan"),
        ("close_timeout", "5", TypeError, "must be a number of seconds, got str: '5'"),
        ("half_close", "no", TypeError, "must be True or False, got str: 'no'"),
        ("half_close", None, TypeError, "must be True or False, got NoneType: None"),
        ("half_close", 2, TypeError, "must be True or False, got int: 2"),
        ("half_close", math.nan, TypeError, "must be True or False, got float: nan"),
        ("half_close", 1.0, TypeError, "must be True or False, got float: 1.0"),
        *(
            ("spin", value, LocalProtocolError, f"must be 0 or more seconds, got {value!r}")
            for value in (-1, math.nan, "soon", None)
        ),
        ("packet_grace", math.nan, LocalProtocolError, "must be a number of seconds, got nan"),
        ("packet_grace", "1", TypeError, "must be a number of seconds, got str: '1'"),
        *(
            ("capabilities", value, LocalProtocolError, f"must be one of {MODES}, got {value!r}")
            for value in ("on", "", None, True)
        ),
        ("keepalive", "15", LocalProtocolError, "must be a number of seconds, 'auto' or None, got '15'"),
        ("keepalive", 0, LocalProtocolError, "must be more than 0 seconds, got 0"),
        ("keepalive", -1.5, LocalProtocolError, "must be more than 0 seconds, got -1.5"),
        ("keepalive", [15], TypeError, "must be a number of seconds, got list: [15]"),
        ("protocol", b"shop", TypeError, "must be a string, got bytes: b'shop'"),
        ("protocol_version", 1.4, TypeError, "must be a string, got float: 1.4"),
        ("description", "a shop", TypeError, "must be bytes, got str"),
        ("protocol", "é" * 128, LocalProtocolError, f"may have 255 bytes, got {'é' * 128!r:.100}"),
    ],
)
def test_what_makes_no_sense(name: str, value: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        Settings(**{name: value})
    assert type(caught.value) is error
    assert str(caught.value) == f"{name} {text}"


def test_what_makes_sense_of_capabilities() -> None:
    for mode in MODES:
        assert Settings(capabilities=mode).capabilities == mode
    for keepalive in (None, "auto", 0.5, 15):
        assert Settings(keepalive=keepalive).keepalive == keepalive
    settings = Settings(protocol="s" * MAX_NAME_SIZE, protocol_version="\ud800")
    assert settings.protocol == "s" * 255


def test_what_makes_sense_to_a_server_is_kept() -> None:
    settings = ServerSettings(max_connections=1, max_per_address=1, max_memory=1, drain_timeout=math.inf)
    assert (settings.max_connections, settings.max_per_address, settings.max_memory) == (1, 1, 1)
    assert settings.drain_timeout == LONGEST


@pytest.mark.parametrize("value", [0, -1, True, math.nan, 1.0, "1"], ids=str)
@pytest.mark.parametrize("name", ["max_connections", "max_per_address", "max_memory"])
def test_what_makes_no_sense_to_a_server(name: str, value: Any) -> None:
    with pytest.raises(LocalProtocolError) as caught:
        ServerSettings(**{name: value})
    assert str(caught.value) == f"{name} must be 1 or more, got {value!r}"


def test_a_server_has_a_number_of_places_and_a_time_to_end() -> None:
    with pytest.raises(LocalProtocolError, match=r"^max_connections must be 1 or more, got None$"):
        ServerSettings(max_connections=None)  # type: ignore[arg-type]
    with pytest.raises(LocalProtocolError, match=r"^drain_timeout must be a number of seconds, got nan$"):
        ServerSettings(drain_timeout=math.nan)

"""Figures as people read them."""

from __future__ import annotations

from packetwire.capture import Kind
from packetwire.cli.reporting.model import TypeKey
from packetwire.core.frames import FRAME_CHANNEL
from packetwire.core.hello import CONTROL_CHANNEL, DESCRIBE, DRAIN, HELLO, PING

ENDS = ("first end", "second end")
CONTROL_NAMES = {HELLO: "HELLO", PING: "PING", DRAIN: "DRAIN", DESCRIBE: "DESCRIBE"}
NOTHING = "-"
"""The place of a figure that there is none of."""
ENOUGH = 100
"""The least figure that is shown without decimals."""


def duration(nanoseconds: float | None) -> str:
    """A time with three figures or so, and its unit."""
    if nanoseconds is None:
        return NOTHING
    for unit, size in (("s", 1e9), ("ms", 1e6), ("µs", 1e3)):
        if nanoseconds >= size:
            return f"{_figures(nanoseconds / size)} {unit}"
    return f"{nanoseconds:.0f} ns"


def size_text(count: float) -> str:
    """A number of bytes."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{_figures(count / size)} {unit}"
    return f"{count:.0f} B"


def number(count: float) -> str:
    """A number, its thousands set apart."""
    return f"{count:,.0f}"


def rate(count: float) -> str:
    """So many a second."""
    return f"{count:,.0f}/s" if count >= ENOUGH else f"{count:.3g}/s"


def _figures(value: float) -> str:
    return f"{value:,.0f}" if value >= ENOUGH else f"{value:.3g}"


def counted(count: int, thing: str) -> str:
    """So many things."""
    return f"{number(count)} {thing}" + "s" * (count != 1)


def type_name(channel: int, rq_type: int, name: str | None) -> str:
    """A request type, with its name if it has one."""
    if channel == CONTROL_CHANNEL and rq_type in CONTROL_NAMES:
        return CONTROL_NAMES[rq_type]
    words = "reserved type" if rq_type < 0 else f"type {rq_type}"
    if name is not None and channel == 0:
        return f"{name} ({words})"
    if channel == FRAME_CHANNEL:
        return f"{words}, channel 2 (a frame, before HELLO)"
    return f"{words}, channel {channel}" if channel else words


def key_name(key: TypeKey, names: dict[tuple[Kind, int], str]) -> str:
    """The name of a group of requests, without who asks."""
    if key is None:
        return "all other types"
    asker, channel, rq_type = key
    return type_name(channel, rq_type, names.get((asker, rq_type)))

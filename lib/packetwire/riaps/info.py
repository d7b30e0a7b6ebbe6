"""The description of a group that a port needs, and that of a port for others."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple, TypedDict


class GroupSpec(TypedDict):
    """The part of a group's description that a port needs; further keys are ignored."""

    message: str
    """The name of the type of its messages."""
    timed: bool
    """True if each message has its send time."""


class PortScope(IntEnum):
    """How far away a port's peers may be."""

    GLOBAL = 1
    LOCAL = 2
    INTERNAL = 3

    def scope(self) -> str:
        """Its name."""
        return self.name.lower()


class PortInfo(NamedTuple):
    """The description of a port for others. `portNum` is -1 if it does not listen."""

    portKind: str  # noqa: N815 - the reference's names, all of them
    """`gpub`, `gsub`, `gqry` or `gans`."""
    portScope: PortScope  # noqa: N815
    portName: str  # noqa: N815
    """Its name."""
    msgType: str  # noqa: N815
    """The type of its messages, from the `GroupSpec`."""
    portHost: str  # noqa: N815
    """The IPv4 address at which it listens, or that it was given."""
    portNum: int  # noqa: N815

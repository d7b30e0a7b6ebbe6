"""What is told about a port, and what it is told."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple, TypedDict


class GroupSpec(TypedDict):
    """What a port needs to know of its group. Further keys are of no concern to it."""

    message: str
    """The name of the type of its messages."""
    timed: bool
    """Whether the send time goes with each message."""


class PortScope(IntEnum):
    """How far away a port's peers may be."""

    GLOBAL = 1
    LOCAL = 2
    INTERNAL = 3

    def scope(self) -> str:
        """Its name."""
        return self.name.lower()


class PortInfo(NamedTuple):
    """What others need to know of a port. `portNum` is -1 where a port does not listen."""

    portKind: str  # noqa: N815 - the reference's names, all of them
    """`gpub`, `gsub`, `gqry` or `gans`."""
    portScope: PortScope  # noqa: N815
    portName: str  # noqa: N815
    """The name that it was given."""
    msgType: str  # noqa: N815
    """The type of its messages, from the `GroupSpec`."""
    portHost: str  # noqa: N815
    """The IPv4 address that it listens at, or has."""
    portNum: int  # noqa: N815

"""The steps that a check yields, and the packets that it gets: bytes to send, and what came in return."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from packetwire.core.packet import EOF_PACKET, ERQ_PACKET, Packet


class Failed(Exception):
    """The far end does not do what the check is about; the text says what it does instead."""


class Skipped(Exception):
    """The check does not apply to this far end; the text says why."""


@dataclass(frozen=True, slots=True)
class Send:
    """Bytes to send."""

    data: bytes
    piecemeal: bool = False
    """Each byte is written by itself."""
    deaf: bool = False
    """Nothing is read until all of it is written."""


@dataclass(frozen=True, slots=True)
class EndWriting:
    """End our direction of the stream."""


@dataclass(frozen=True, slots=True)
class Receive:
    """Wait for what comes next."""


class Got(NamedTuple):
    """A packet that came, and the bytes that it was."""

    packet: Packet
    raw: bytes

    @property
    def is_eof(self) -> bool:
        """True if it is the last packet of its direction."""
        return is_special(self.packet, EOF_PACKET)

    @property
    def is_erq(self) -> bool:
        """True if it says that no more requests come."""
        return is_special(self.packet, ERQ_PACKET)

    @property
    def is_request(self) -> bool:
        """True if it wants a response: neither EOF nor ERQ."""
        return self.packet.is_request and not self.is_eof and not self.is_erq


class Ended(NamedTuple):
    """The end of the stream."""

    reason: str


class Nothing(NamedTuple):
    """Nothing came in time."""

    seconds: float


Came = Got | Ended | Nothing
Step = Send | EndWriting | Receive
Answer = TypeVar("Answer")
Steps = Generator[Step, Came | None, Answer]
"""A part of a check, which is a generator; what it returns is of use to the part that called it."""


def is_special(packet: Packet, special: Packet) -> bool:
    """True if a packet is EOF or ERQ."""
    return packet.is_request and packet.rq_type == 0 and packet == special

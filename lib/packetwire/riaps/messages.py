"""The messages of a group, and the contents of control messages.

    on PUB/SUB         command, payload, [send time]
    on DEALER/ROUTER   the same; on the ROUTER's side preceded by the member's identity

Strategy: a message is checked when it is made, by the program or from frames, so every message can be sent. Its
payload is opaque, because the ports carry any: `parse_control` parses and checks those of control messages.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address
from typing import Any, ClassVar, Final, Self

from packetwire.riaps.errors import PortError

MSG: Final = b"msg"
"""Data for all members."""
MTL: Final = b"mtl"
"""Data from a member to the leader."""
MFL: Final = b"mfl"
"""Data from the leader to one member."""
TIC: Final = b"tic"
"""A member is alive."""
REQ: Final = b"req"
"""A candidate asks for votes."""
VOT: Final = b"vot"
"""A vote in an election."""
LDR: Final = b"ldr"
"""The leader, and the address of its answer port."""
MLT: Final = b"mlt"
"""A member has left."""
RFV: Final = b"rfv"
"""A member asks the leader for a vote on something; the payload is a capnp group vote, opaque here."""
RCM: Final = b"rcm"
"""The leader asks the members to vote; likewise."""
RTC: Final = b"rtc"
"""A member's vote on it; likewise."""
ANN: Final = b"ann"
"""The result; likewise."""

TO_LEADER: Final = frozenset({MTL, RFV, RTC})
"""Commands that a member sends to its leader."""
TO_MEMBER: Final = frozenset({MFL})
"""Commands that a leader sends to one member."""

COMMAND_SIZE: Final = 3
ID_SIZE: Final = 16
MAX_IDENTITY: Final = 255
"""Bytes of the identity of a ZMQ socket, at most."""
MOST_FRAMES: Final = 3
"""Frames of the longest message, not counting the identity."""

_TIME = struct.Struct("<d")

BytesLike = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class GroupMessage:
    """A message of a group.

    `send_time` is in seconds since the epoch, None if the sender is not timed. `identity` is that of the member
    that sent the message to the leader, or to which the leader sends it; None elsewhere. As a sequence it is what
    the reference returns: the frames without the identity, so `message[0]` is the command. Raises `PortError` if
    the message would be invalid.
    """

    command: bytes
    payload: bytes
    send_time: float | None = None
    identity: bytes | None = None

    def __post_init__(self) -> None:
        for name in ("command", "payload", "identity"):
            value = getattr(self, name)
            if not isinstance(value, bytes) and not (name == "identity" and value is None):
                object.__setattr__(self, name, _as_bytes(name, value))
        if len(self.command) != COMMAND_SIZE:
            raise malformed(f"a command has {COMMAND_SIZE} bytes, got {len(self.command)}: {self.command[:20]!r}")
        if self.identity is not None and not 0 < len(self.identity) <= MAX_IDENTITY:
            raise malformed(f"an identity has 1 to {MAX_IDENTITY} bytes, got {len(self.identity)}")
        if self.send_time is not None:
            _check_time(self.send_time)

    @classmethod
    def parse(cls, frames: Sequence[bytes], *, addressed: bool = False) -> Self:
        """The message in these frames; the first frame of an `addressed` one is the identity."""
        identity = None
        if addressed:
            if not frames:
                raise malformed("the message has no frames")
            identity, frames = frames[0], frames[1:]
        if not 2 <= len(frames) <= MOST_FRAMES:
            raise malformed(f"a message has 2 frames, or 3 with a time, but this has {len(frames)}")
        return cls(frames[0], frames[1], _parse_time(frames[2]) if len(frames) == MOST_FRAMES else None, identity)

    def encode(self) -> list[bytes]:
        """The frames, preceded by the identity if there is one."""
        frames = self._frames()
        return frames if self.identity is None else [self.identity, *frames]

    def _frames(self) -> list[bytes]:
        frames = [self.command, self.payload]
        if self.send_time is not None:
            frames.append(_TIME.pack(self.send_time))
        return frames

    def __len__(self) -> int:
        return 2 if self.send_time is None else MOST_FRAMES

    def __getitem__(self, index: int) -> bytes:
        return self._frames()[index]

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._frames())


def _as_bytes(name: str, value: object) -> bytes:
    try:
        return bytes(memoryview(value))  # type: ignore[arg-type]
    except TypeError:
        raise malformed(f"the {name} must be bytes, not {type(value).__name__}") from None


def _check_time(send_time: float) -> None:
    if not isinstance(send_time, float) or not math.isfinite(send_time):
        raise malformed(f"a send time is a finite float, in seconds, got {send_time!r:.100}")


def _parse_time(frame: bytes) -> float:
    if len(frame) != _TIME.size:
        raise malformed(f"a send time has {_TIME.size} bytes, got {len(frame)}")
    (send_time,) = _TIME.unpack(frame)
    return float(send_time)


def malformed(text: str) -> PortError:
    """The error for an invalid message."""
    return PortError(text, PortError.EFAULT)


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """`tic`: a member is alive."""

    command: ClassVar = TIC
    layout: ClassVar = struct.Struct("!16s")

    member: bytes

    def __post_init__(self) -> None:
        _check_ids(member=self.member)

    @classmethod
    def parse(cls, payload: bytes) -> Self:
        """Parse a payload. Raises `PortError` if it is invalid."""
        return cls(*_unpack(cls, payload))

    def encode(self) -> bytes:
        """The payload."""
        return self.layout.pack(self.member)


@dataclass(frozen=True, slots=True)
class VoteRequest:
    """`req`: a candidate asks to lead in a term."""

    command: ClassVar = REQ
    layout: ClassVar = struct.Struct("!L16s")

    term: int
    candidate: bytes

    def __post_init__(self) -> None:
        _check_term(self.term)
        _check_ids(candidate=self.candidate)

    @classmethod
    def parse(cls, payload: bytes) -> Self:
        """Parse a payload. Raises `PortError` if it is invalid."""
        return cls(*_unpack(cls, payload))

    def encode(self) -> bytes:
        """The payload."""
        return self.layout.pack(self.term, self.candidate)


@dataclass(frozen=True, slots=True)
class Vote:
    """`vot`: a vote for or against a candidate."""

    command: ClassVar = VOT
    layout: ClassVar = struct.Struct("!L16sL16s")

    term: int
    candidate: bytes
    vote: bool
    voter: bytes

    def __post_init__(self) -> None:
        _check_term(self.term)
        _check_ids(candidate=self.candidate, voter=self.voter)
        if not isinstance(self.vote, bool):
            raise malformed(f"a vote is True or False, got {self.vote!r}")

    @classmethod
    def parse(cls, payload: bytes) -> Self:
        """Parse a payload. Raises `PortError` if it is invalid."""
        term, candidate, vote, voter = _unpack(cls, payload)
        if vote not in (0, 1):
            raise malformed(f"a vote is 1 or 0, got {vote}")
        return cls(term, candidate, bool(vote), voter)

    def encode(self) -> bytes:
        """The payload."""
        return self.layout.pack(self.term, self.candidate, self.vote, self.voter)


@dataclass(frozen=True, slots=True)
class Authority:
    """`ldr`: the member that leads, and the address of its answer port. Port 0: there is no leader."""

    command: ClassVar = LDR
    layout: ClassVar = struct.Struct("!L16sLL")

    term: int
    leader: bytes
    host: str
    port: int

    def __post_init__(self) -> None:
        _check_term(self.term)
        _check_ids(leader=self.leader)
        try:
            object.__setattr__(self, "host", str(IPv4Address(self.host)))
        except AddressValueError as error:
            raise malformed(f"a leader's host is an IPv4 address: {error}") from None
        if not isinstance(self.port, int) or not 0 <= self.port <= 65535:
            raise malformed(f"a port is a number up to 65535, got {self.port!r}")

    @property
    def has_leader(self) -> bool:
        """True if there is a leader."""
        return self.port != 0

    @classmethod
    def parse(cls, payload: bytes) -> Self:
        """Parse a payload. Raises `PortError` if it is invalid."""
        term, leader, host, port = _unpack(cls, payload)
        return cls(term, leader, str(IPv4Address(host)), port)

    def encode(self) -> bytes:
        """The payload."""
        return self.layout.pack(self.term, self.leader, int(IPv4Address(self.host)), self.port)


@dataclass(frozen=True, slots=True)
class MemberLeft:
    """`mlt`: a member has left the group."""

    command: ClassVar = MLT
    layout: ClassVar = struct.Struct("!16s")

    member: bytes

    def __post_init__(self) -> None:
        _check_ids(member=self.member)

    @classmethod
    def parse(cls, payload: bytes) -> Self:
        """Parse a payload. Raises `PortError` if it is invalid."""
        return cls(*_unpack(cls, payload))

    def encode(self) -> bytes:
        """The payload."""
        return self.layout.pack(self.member)


Control = Heartbeat | VoteRequest | Vote | Authority | MemberLeft
"""The contents of control messages, by which the group manages itself."""

_CONTROLS: dict[bytes, type[Control]] = {
    control.command: control for control in (Heartbeat, VoteRequest, Vote, Authority, MemberLeft)
}


def parse_control(message: GroupMessage) -> Control | None:
    """The content of a control message; None for any other. Raises `PortError` if its payload is invalid."""
    control = _CONTROLS.get(message.command)
    return None if control is None else control.parse(message.payload)


def _unpack(control: type[Control], payload: bytes) -> tuple[Any, ...]:
    if len(payload) != control.layout.size:
        raise malformed(f"{control.command.decode()} has {control.layout.size} bytes, got {len(payload)}")
    return control.layout.unpack(payload)


def _check_term(term: int) -> None:
    if isinstance(term, bool) or not isinstance(term, int) or not 0 <= term < 1 << 32:
        raise malformed(f"a term is a number of 32 bits, got {term!r}")


def _check_ids(**ids: bytes) -> None:
    for name, value in ids.items():
        if not isinstance(value, bytes) or len(value) != ID_SIZE:
            raise malformed(f"the id of the {name} must be {ID_SIZE} bytes, got {value!r:.100}")

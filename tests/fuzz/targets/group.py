"""RIAPS: the messages of groups."""

from __future__ import annotations

import math
import struct
from random import Random

from packetwire.riaps import (
    Authority,
    GroupMessage,
    Heartbeat,
    MemberLeft,
    PortError,
    Vote,
    VoteRequest,
    parse_control,
)
from packetwire.riaps import messages as riaps_messages

from ..frames import pack, unpack
from ..mutators import frames_mutator, headed_mutator, octets_mutator
from ..reasons import RaisedIn
from ..target import Target
from .golden import RIAPS_FRAMES

RAISED = RaisedIn(
    riaps_messages,
    without=[
        *("_as_bytes", "_check_term", "_check_ids"),  # of values that frames cannot have
    ],
)
OF_VALUES = {
    "Vote.__post_init__: a vote is True or False, got {}",
    "Authority.__post_init__: a leader's host is an IPv4 address: {}",
}
"""Reasons for values that frames cannot have, in functions that have others."""
assert RAISED.reasons >= OF_VALUES

ID = bytes(range(16))
CONTROLS = (
    Heartbeat(ID),
    VoteRequest(5, ID),
    Vote(5, ID, True, ID),
    Authority(5, ID, "10.0.0.1", 80),
    MemberLeft(ID),
)
COMMANDS = [
    getattr(riaps_messages, name) for name in ("MSG", "MTL", "MFL", "TIC", "REQ", "VOT", "LDR", "MLT", "RFV")
]
TIMES = [struct.pack("<d", number) for number in (0.0, 1e9, -1.0, math.inf, math.nan)]
SEEDS = [
    *[b"\0" + pack(frames) for frames in RIAPS_FRAMES],
    *[b"\0" + pack([each.command, each.encode()]) for each in CONTROLS],
    *[b"\1" + pack([ID, b"mtl", b"x", time]) for time in TIMES],
    b"\0" + pack([b"ldr", Authority.layout.pack(5, ID, 1, 65536)]),
    b"\0" + pack([b"vot", Vote.layout.pack(5, ID, 2, ID)]),
    b"\1" + pack([ID * 20, b"mtl", b"x"]),
    b"\1",
]
WORDS = [*COMMANDS, *TIMES, *[each.encode() for each in CONTROLS]]


def hear_riaps(octets: bytes) -> list[str]:
    addressed = bool(octets and octets[0] & 1)
    frames = unpack(octets[1:])
    try:
        message = GroupMessage.parse(frames, addressed=addressed)
    except PortError as error:
        if error.errno != PortError.EFAULT:
            raise
        return RAISED.of(error)
    assert message.encode() == frames
    assert GroupMessage.parse(message.encode(), addressed=addressed) == message
    assert [*message] == frames[addressed:]
    try:
        control = parse_control(message)
    except PortError as error:
        return RAISED.of(error)
    assert control is None or (control.encode(), type(control).parse(control.encode())) == (
        message.payload,
        control,
    )
    return []


def fresh_frame(random: Random) -> bytes:
    """A frame that may be what is due at its place."""
    return random.choice((*WORDS, b"", bytes(256)))


TARGETS = (
    Target(
        name="riaps",
        seeds=SEEDS,
        mutate=headed_mutator(frames_mutator(octets_mutator(WORDS), [seed[1:] for seed in SEEDS], fresh_frame), 2),
        hear=hear_riaps,
        reasons=RAISED.reasons - OF_VALUES,
    ),
)

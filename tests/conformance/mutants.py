"""Far ends with one fault each: check -> the fault that it finds."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from packetwire.conformance.steps import Got
from packetwire.core.frames import FRAME_CHANNEL, FrameType, encode_frame
from packetwire.core.hello import CONTROL_CHANNEL, DRAIN, HELLO
from packetwire.core.packet import EOF_PACKET, ERQ_PACKET, Packet

from .inmemory import ERROR, Fault, Peer, changes, ignores, keeps_back, refuses, remade

PRECISE = 1 << 53
"""Integers below this are exact as floating point numbers, as JavaScript has them."""
EOF, ERQ = bytes(EOF_PACKET), bytes(ERQ_PACKET)
NEXT_REQUEST = 4
"""Bytes of the request that stands behind each error."""


def is_response(got: Got, tag: int | None = None, channel: int = 0) -> bool:
    packet = got.packet
    return not packet.is_request and packet.channel == channel and tag in (None, packet.tag)


def answers(tag: int | None = None, channel: int = 0) -> Callable[[Got], bool]:
    return lambda got: is_response(got, tag, channel)


def is_control(got: Got, rq_type: int) -> bool:
    return got.packet.is_request and got.packet.channel == CONTROL_CHANNEL and got.packet.rq_type == rq_type + 1


def is_frame(got: Got, kind: int) -> bool:
    return got.packet.is_request and got.packet.channel == FRAME_CHANNEL and got.packet.rq_type == kind + 1


def is_longer(got: Got) -> bool:
    return got.raw != bytes(got.packet)


def as_ok(got: Got) -> bytes:
    return remade(got, flags=1)


def with_ok(tag: int, channel: int = 0) -> Fault:
    """It answers ok where it must not."""
    return changes(answers(tag, channel), as_ok)


def behind(wanted: Callable[[Got], bool], more: bytes) -> Fault:
    """It sends something more."""
    return changes(wanted, lambda got: got.raw + more)


def ahead(wanted: Callable[[Got], bool], more: bytes) -> Fault:
    return changes(wanted, lambda got: more + got.raw)


def once(wanted: Callable[[Got], bool], then: bytes) -> Fault:
    """It takes something once only; the second time there is this in its place."""

    def incoming(peer: Peer, got: Got) -> bytes:
        return then if wanted(got) and any(map(wanted, peer.taken)) else got.raw

    return Fault(incoming=incoming)


def at_most(number: int) -> Fault:
    """It answers so many requests only."""

    def outgoing(peer: Peer, got: Got) -> bytes:
        return b"" if is_response(got) and sum(map(is_response, peer.given)) >= number else got.raw

    return Fault(outgoing=outgoing)


def never_ends_unasked(peer: Peer, got: Got) -> bytes:
    return got.raw if any(map(is_response, peer.given)) else b""


def first_only(data: bytes) -> bytes:
    """The first packet of a chunk."""
    return data if data[:1] == b"\x80" else data[: data[0] + 1]


def after_erq(wanted: Callable[[Got], bool]) -> Fault:
    def incoming(peer: Peer, got: Got) -> bytes:
        return ERROR if wanted(got) and any(taken.is_erq for taken in peer.taken) else got.raw

    return Fault(incoming=incoming)


def request(tag: int, channel: int = 0) -> bytes:
    return bytes(Packet(is_request=True, channel=channel, tag=tag, rq_type=1))


def padded_tag(got: Got) -> bytes:
    return bytes([got.raw[0] + 1, 0x80]) + got.raw[1:]


def with_channel_zero(got: Got) -> bytes:
    head = bytes([got.raw[0] + 1, got.raw[1], got.raw[2] | 1, 0])
    return head + got.raw[3:]


NOTHING_IGNORED = Fault(broken=lambda data: data[-NEXT_REQUEST:])
"""It skips what it does not understand."""
DEAF_TO_THE_END = Fault(sees_end=False)
HELLO_BYTES = bytes(
    Packet(is_request=True, channel=CONTROL_CHANNEL, tag=9, rq_type=HELLO + 1, payload=b"pw2?\x01\x01\x01")
)
CANCEL_BYTES = encode_frame(FrameType.CANCEL, 0, 2, b"\x01")
PROGRESS_BYTES = encode_frame(FrameType.PROGRESS, 0, 302, b"x", of_receiver=True)
BAD_FIELDS = b"pw2!\x01\x09\x01"
is_eof = Got.is_eof.fget or ERROR
is_erq = Got.is_erq.fget or ERROR
assert callable(is_eof)
assert callable(is_erq)

MUTANTS: dict[int, Fault] = {
    1: keeps_back(answers(2)),
    2: changes(answers(128), lambda got: remade(got, tag=0)),
    3: refuses(lambda got: got.packet.tag == 16384),
    4: changes(lambda got: got.packet.tag > PRECISE, lambda got: remade(got, tag=got.packet.tag - 1)),
    5: refuses(lambda got: is_longer(got) and got.packet.tag == 3),
    6: refuses(is_longer),
    7: refuses(is_longer),
    8: refuses(lambda got: got.packet.flags > PRECISE),
    9: refuses(lambda got: (got.packet.rq_type or 0) > PRECISE),
    10: refuses(lambda got: len(got.packet.payload) > 0xFFFF),
    11: Fault(chunk=lambda data: data if len(data) > 1 else b""),
    12: Fault(chunk=first_only),
    13: Fault(outgoing=never_ends_unasked, closes=False),
    14: at_most(32),
    15: Fault(reads_on=False),
    16: refuses(lambda got: got.packet.tag == 1 and got.is_request),
    17: once(lambda got: got.packet.tag == 2, b""),
    18: once(lambda got: got.packet.tag == 2, b""),
    19: changes(answers(2, 16), lambda got: remade(got, channel=0)),
    20: with_ok(2, 15),
    21: with_ok(2, 1),
    22: with_ok(2, 2),
    23: with_ok(2),
    24: ignores(lambda got: got.packet.tag == 3),
    25: once(is_erq, ERROR),
    26: keeps_back(answers(3)),
    27: ignores(lambda got: is_longer(got) and got.is_eof),
    28: Fault(
        incoming=lambda peer, got: b"" if got.is_eof else got.raw,
        behind_eof=lambda data: data[-NEXT_REQUEST:] + EOF,
    ),
    29: DEAF_TO_THE_END,
    30: keeps_back(answers(2)),
    31: DEAF_TO_THE_END,
    **dict.fromkeys(range(32, 38), NOTHING_IGNORED),
    38: ignores(lambda got: got.packet.rq_type == 0 and got.packet.tag == 5),
    39: ignores(lambda got: got.packet.rq_type == 0 and got.packet.payload == b"x"),
    40: ignores(lambda got: got.packet.rq_type == 0 and got.packet.channel == 16),
    41: ignores(lambda got: got.packet.rq_type == 0 and got.packet.flags > 0),
    42: ignores(answers(1000)),
    43: ignores(answers(2, 16)),
    44: refuses(partial(is_control, rq_type=HELLO)),
    45: changes(is_longer, lambda got: bytes(got.packet)),
    46: changes(answers(2, 1), lambda got: remade(got, payload=BAD_FIELDS)),
    47: refuses(lambda got: is_control(got, HELLO) and got.packet.payload[4] != 1),
    48: with_ok(3, 1),
    49: with_ok(3, 1),
    50: after_erq(partial(is_control, rq_type=HELLO)),
    51: keeps_back(partial(is_control, rq_type=HELLO)),
    52: behind(answers(2), HELLO_BYTES),
    53: once(answers(2, 1), ERROR),
    54: changes(answers(3), lambda got: remade(got, payload=bytes(5000))),
    55: changes(answers(4, 1), lambda got: remade(got, payload=got.packet.payload[::-1])),
    56: with_ok(3, 1),
    57: once(partial(is_control, rq_type=DRAIN), ERROR),
    58: with_ok(3, 1),
    59: keeps_back(partial(is_control, rq_type=DRAIN)),
    60: refuses(partial(is_frame, kind=FrameType.META)),
    61: refuses(partial(is_frame, kind=FrameType.CANCEL)),
    62: keeps_back(answers(2)),
    63: once(partial(is_frame, kind=FrameType.CANCEL), ERROR),
    64: refuses(partial(is_frame, kind=FrameType.CANCEL)),
    65: after_erq(partial(is_frame, kind=FrameType.CANCEL)),
    **dict.fromkeys(range(66, 73), ignores(lambda got: got.packet.channel == FRAME_CHANNEL)),
    89: changes(answers(3, 1), lambda got: remade(got, flags=1, payload=b"{")),
    90: behind(answers(300), ERROR),
    91: changes(answers(300), lambda got: remade(got)[:1].join([b"\x80\x80", b""]) + remade(got)[1:]),
    92: changes(answers(302), lambda got: b"\x80" + got.raw),
    93: changes(answers(302), lambda got: bytes([got.raw[0] + 1]) + got.raw[1:3] + b"\x05\x00" + got.raw[4:]),
    94: changes(partial(is_control, rq_type=HELLO), lambda got: remade(got, tag=3)),
    95: behind(answers(302), request(2, 5)),
    96: behind(answers(302), b"\x03\x05\x02\x00"),
    97: changes(answers(302), lambda got: got.raw * 2),
    98: behind(is_erq, request(2)),
    99: changes(is_erq, lambda got: got.raw * 2),
    100: keeps_back(is_erq),
    101: behind(is_eof, b"\x00"),
    102: keeps_back(is_eof),
    103: behind(partial(is_control, rq_type=HELLO), HELLO_BYTES),
    104: ahead(answers(2), CANCEL_BYTES),
    105: ahead(answers(302), PROGRESS_BYTES),
}
"""Those in the role of a server, with capabilities."""

WITHOUT_CAPABILITIES = {22}
"""The checks whose mutant has none."""

CLIENTS: dict[int, Fault] = {
    73: Fault(outgoing=lambda peer, got: b"" if got.is_eof else got.raw, closes=False),
    74: refuses(is_longer),
    75: ignores(lambda got: is_response(got) and not got.packet.flags & 1),
    76: Fault(chunk=lambda data: data if len(data) > 1 else b""),
    77: refuses(is_longer),
    78: refuses(lambda got: is_response(got) and got.packet.flags > 1),
    79: once(answers(2), ERROR),
    80: refuses(is_erq),
    81: ignores(is_eof),
    82: DEAF_TO_THE_END,
    83: DEAF_TO_THE_END,
    84: Fault(incoming=lambda peer, got: b"" if got.is_eof else got.raw, behind_eof=lambda data: b""),
    85: ignores(answers(1000)),
    86: ignores(answers(2, 17)),
    87: Fault(broken=lambda data: b""),
    88: behind(answers(3, 1), request(3)),
}
"""Those in the role of a client."""

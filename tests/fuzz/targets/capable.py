"""What ends agree on: HELLO and DRAIN, and the frames about requests, with their fields."""

from __future__ import annotations

from random import Random

from packetwire.core import fields as fields_module
from packetwire.core import frames as frames_module
from packetwire.core import hello as hello_module
from packetwire.core.fields import FieldError, decode_fields, encode_fields
from packetwire.core.frames import (
    MAX_META_SIZE,
    RULES,
    Frame,
    FrameType,
    Meta,
    decode_frame,
    decode_meta,
    decode_reason,
    encode_frame,
    encode_meta,
    encode_reason,
)
from packetwire.core.hello import (
    ALL_FEATURES,
    ASK,
    MAX_HELLO_SIZE,
    MAX_REASON,
    Feature,
    Hello,
    decode_drain,
    decode_hello,
    encode_drain,
    encode_hello,
)
from packetwire.core.packet import Packet
from packetwire.core.varint import MAX_UINT, encode_varint
from packetwire.errors import LocalProtocolError, RemoteProtocolError

from ..mutators import octets_mutator
from ..reasons import RaisedIn
from ..target import Target

FIELDS = RaisedIn(fields_module, without=["metadata_fields"])  # what is sent
HELLOS = RaisedIn(hello_module, without=["encode_hello", "_text", "Hello"])
FRAMES = RaisedIn(frames_module)
TAG = 77


def reasons_of(error: BaseException) -> list[str]:
    """Also those of what it was made of, which `from None` hides."""
    found = []
    each: BaseException | None = error
    while each is not None:
        found += FIELDS.of(each) + HELLOS.of(each) + FRAMES.of(each)
        each = each.__context__
    return found


# HELLO and DRAIN


def hear_hello(octets: bytes) -> list[str]:
    data = octets[1:]
    try:
        return _hear_drain(data) if octets[:1] == b"\1" else _hear_hello(data)
    except FieldError as error:
        return reasons_of(error)


def _hear_hello(data: bytes) -> list[str]:
    hello = decode_hello(data)
    assert len(data) <= MAX_HELLO_SIZE
    assert hello.version >= 1
    assert hello.features in ALL_FEATURES
    assert max(hello.max_packet_size, hello.body_credit, hello.max_bodies, hello.max_inbound or 0) <= MAX_UINT
    _check_fields(data, MAX_HELLO_SIZE)
    try:
        again = encode_hello(hello)
    except LocalProtocolError:
        return []  # it takes longer texts than it sends
    if len(again) <= MAX_HELLO_SIZE:
        assert decode_hello(again) == hello
    return []


def _hear_drain(data: bytes) -> list[str]:
    milliseconds, text = decode_drain(data)
    assert len(text) <= MAX_REASON
    assert decode_drain(encode_drain(milliseconds, text)) == (milliseconds, text)
    return []


def _check_fields(data: bytes, limit: int) -> None:
    fields = decode_fields(data, limit)
    again = encode_fields(fields)
    assert len(again) <= len(data)
    assert decode_fields(again, limit) == fields


# frames


def hear_frames(octets: bytes) -> list[str]:
    kind, flags, payload = (*octets[:2], octets[2:]) if len(octets) >= 2 else (0, 0, octets)
    try:
        frame = decode_frame(TAG, flags, kind, payload)
        _check_frame(frame, flags)
        if frame.kind is FrameType.META:
            _check_meta(frame)
        elif frame.kind in (FrameType.CANCEL, FrameType.STOP):
            code, text = decode_reason(frame)
            again = Frame(frame.kind, frame.channel, TAG, frame.of_receiver, encode_reason(code, text))
            assert decode_reason(again) == (code, text)
    except RemoteProtocolError as error:
        refusal = error
    else:
        return []
    assert refusal.code == "bad-frame"
    assert f"tag {TAG}" in str(refusal)
    return reasons_of(refusal)


def _check_frame(frame: Frame, flags: int) -> None:
    rule = RULES[frame.kind]
    assert rule.of_receiver if frame.of_receiver else rule.of_sender
    packet = Packet.from_bytes(
        encode_frame(frame.kind, frame.channel, TAG, frame.payload, of_receiver=frame.of_receiver)
    )
    assert (packet.tag, packet.flags, packet.rq_type) == (TAG, flags, frame.kind + 1)
    assert packet.payload == frame.payload


def _check_meta(frame: Frame) -> None:
    meta = decode_meta(frame)
    _check_fields(frame.payload, MAX_META_SIZE)
    try:
        again = encode_meta(meta)
    except LocalProtocolError:
        return  # keys that are no UTF-8 are longer than they were
    if len(again) <= MAX_META_SIZE:
        assert decode_meta(frame._replace(payload=again)) == meta


# what they are made of

HELLO_SEEDS = [
    b"\0" + encode_hello(each)
    for each in (
        Hello(),
        Hello(features=ALL_FEATURES, max_inbound=5, max_piece=1024, client_id=bytes(range(16)), epoch=bytes(8)),
        Hello(protocol="shop", protocol_version="1.4", software="packetwire", schema_hash=b"12345678"),
        Hello(features=Feature.META, metadata={"a": b"b", "": b"", "Ä" * 50: bytes(900)}),
    )
]
HELLO_SEEDS += [b"\1" + encode_drain(*each) for each in ((None, ""), (5000, "over"), (0, "Ä" * MAX_REASON))]
HELLO_SEEDS += [
    b"\0" + encode_fields([(1, b"\1"), each])
    for each in ((7, encode_varint(1 << 21)), (7, b"\5"), (12, b"epoch"), (64, b"\0" + bytes(2100)), (64, b"\5ab"))
]
META_SEEDS = [
    bytes((FrameType.META, 0)) + encode_meta(each)
    for each in (
        Meta(),
        Meta(milliseconds_left=1500, has_body=True, body_size=1 << 40, response_credit=100, progress_interval=0),
        Meta(trace_context=bytes(range(26)), trace_state=b"a=b", request_id=(b"12345678", 3)),
        Meta(has_body=True, takes_typed_errors=True, metadata={"user": b"Emma", "long": bytes(1500)}),
    )
]
META_SEEDS += [
    bytes((FrameType.META, 0)) + encode_fields([each])
    for each in ((5, b"short"), (64, b"\0" + bytes(2100)), (64, b"\5ab"), (64, bytes(9000)))
]
FRAME_SEEDS = [bytes((kind, flags)) + encode_reason(3, "why") for kind in FrameType for flags in (0, 1, 10, 11)]
FRAME_SEEDS += [bytes((FrameType.CANCEL, 0)), bytes((FrameType.STOP, 1)) + b"\x80" * 9]
WORDS = [
    *(encode_varint(number) + b"\1\0" for number in (*range(14), 64, 1000)),
    *(b"\x40\x03\x01ab", b"\x80" * 9, b"\xff" * 8 + b"\x7f", b"\x07\x02\x88\0", b"\x40\x84\0\x01" + bytes(511)),
]


_mutate_fields = octets_mutator(WORDS, [seed[2:] for seed in META_SEEDS] + [seed[1:] for seed in HELLO_SEEDS])


def mutate_hello(octets: bytes, random: Random) -> bytes:
    """Mostly the same kind of fields, now and then very many of them."""
    head, data = octets[:1] or b"\0", octets[1:]
    if random.randrange(30) == 0:
        data = random.choice(WORDS) * random.choice((600, 900, 2000)) + data
    return (bytes((random.randrange(2),)) if random.randrange(9) == 0 else head) + _mutate_fields(data, random)


def mutate_frame(octets: bytes, random: Random) -> bytes:
    """Mostly the same kind of frame, now and then with very many fields."""
    head, data = octets[:2].ljust(2, b"\0"), octets[2:]
    if random.randrange(30) == 0:
        data = random.choice(WORDS) * random.choice((600, 900, 2000)) + data
    if random.randrange(6) == 0:
        head = bytes((random.randrange(len(FrameType) + 2), random.randrange(4)))
    return head + _mutate_fields(data, random)


OF_FRAMES = FRAMES.reasons | {each for each in FIELDS.reasons if "must be" not in each}
"""No field of a frame has bounds of its own."""

TARGETS = (
    Target(
        name="hello",
        seeds=[*HELLO_SEEDS, b"\0" + ASK],
        mutate=mutate_hello,
        hear=hear_hello,
        reasons=FIELDS.reasons | HELLOS.reasons,
        growth=2000,
    ),
    Target(
        name="frames",
        seeds=[*META_SEEDS, *FRAME_SEEDS],
        mutate=mutate_frame,
        hear=hear_frames,
        reasons=OF_FRAMES,
        growth=2000,
    ),
)

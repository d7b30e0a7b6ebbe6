"""Firebird Butler: protobuf, the messages of FBSP and ICCP, and sessions of them."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

from fbsp import mutations
from fbsp.fake import CODEC, TOKEN, EchoAPI, call, cancel, hello, make, request
from iccp.fake import CODEC as ICCP_CODEC
from iccp.fake import Component, Controller
from packetwire.errors import ProtocolError
from packetwire.fbsp import MsgFlag
from packetwire.fbsp import MsgType as FBSPType
from packetwire.fbsp.protocol import _FBSP, MAX_FRAMES
from packetwire.fbsp.refusals import INVALID as FBSP_INVALID
from packetwire.iccp import Config, ICCPController, InvalidMessageError, MsgType
from packetwire.iccp.config import config_proto
from packetwire.iccp.messages import serialized
from packetwire.iccp.protocol import MAX_FRAMES as ICCP_MAX_FRAMES
from packetwire.iccp.refusals import INVALID as ICCP_INVALID
from packetwire.iccp.refusals import VIOLATIONS as ICCP_VIOLATIONS
from packetwire.messaging import INVALID, StopError, descriptors, protobuf
from packetwire.messaging.descriptors import AgentDescriptor, PeerDescriptor
from packetwire.messaging.protobuf import REGISTERED, create_message, dict2struct, read_supplement, struct2dict

from ..frames import pack, unpack
from ..mutators import frames_mutator, headed_mutator, octets_mutator
from ..reasons import RaisedIn, prefixed
from ..target import Target, choices_of
from .golden import FBSP_FRAMES, HOLOLINKED_FRAMES, ICCP_FRAMES

MAX_MESSAGE_SIZE = 4096
"""For messages here, so that what is too large is met often."""
SESSION_GROWTH = 5000
"""Even an empty message, three octets here, is an exception that is kept, with its traceback."""
NESTED = (b"\x1a\x02" * 120, b"\x2a\x7f\x0a\x7d" * 60, b"\x12\x10\x0a\x01x\x12\x0b" * 30)
WORDS = (b"\x0a", b"\x12\x00", b"\x0a\x10" + bytes(16), b"\xff" * 10, b"\x08\xff\xff\xff\xff\x0f", *NESTED)
FBSP_SEEDS = [pack(frames) for frames in FBSP_FRAMES]
ICCP_SEEDS = [pack(frames) for frames in ICCP_FRAMES]

# protobuf

NAMES = sorted(REGISTERED)
BROKEN = RaisedIn(protobuf)
IDENTITIES = RaisedIn(descriptors, without=["ButlerInterface"])  # which asks for a method


def hear_protobuf(octets: bytes) -> list[str]:
    name = NAMES[octets[0] % len(NAMES)] if octets else NAMES[0]
    try:
        message = create_message(name, octets[1:])
    except ValueError as error:
        return BROKEN.of(error)
    written = serialized(message)
    assert serialized(create_message(name, written)) == written
    reasons: list[str] = []
    if name == protobuf.PROTO_STRUCT:
        content = struct2dict(message)
        proto = dict2struct(content)
        assert serialized(dict2struct(struct2dict(proto))) == serialized(proto)
    if name == "firebird.base.ConfigProto":
        config = Config.from_proto(message)
        if None not in values_in(config):  # an option without a value cannot be sent
            proto = config_proto(config)
            assert serialized(config_proto(Config.from_proto(proto))) == serialized(proto)
    if name == descriptors.PROTO_PEER or len(written) < 4:
        try:
            assert PeerDescriptor.from_proto(message).as_proto().uid == message.uid
        except ValueError as error:
            reasons += IDENTITIES.of(error) or BROKEN.of(error)
    for field in ("client", "service"):
        if hasattr(message, field):
            try:
                agent = AgentDescriptor.from_proto(getattr(message, field))
            except ValueError as error:
                reasons += IDENTITIES.of(error) or BROKEN.of(error)
            else:
                proto = create_message("firebird.butler.AgentIdentification")
                agent.write_to(proto)
                assert repr(AgentDescriptor.from_proto(proto)) == repr(agent)
    if hasattr(message, "supplement"):
        try:
            read_supplement(message.supplement)
        except ValueError as error:
            reasons += BROKEN.of(error)
    return reasons


def values_in(config: Config) -> list[Any]:
    """The options of a configuration, and of those inside."""
    return [*config.options.values(), *(value for each in config.configs.values() for value in values_in(each))]


def protobuf_seeds() -> list[bytes]:
    """The protobuf frames of the recorded messages, and Structs."""
    frames = [
        *[(kind, frames[1]) for frames in FBSP_FRAMES for kind in range(len(NAMES)) if len(frames) > 1],
        *[(kind, frame) for frames in ICCP_FRAMES for frame in frames[1:] for kind in range(len(NAMES))],
        *[
            (
                NAMES.index(protobuf.PROTO_STRUCT),
                dict2struct({"a": [1, None, {"b": frames[0].hex()}]}).SerializeToString(),
            )
            for frames in HOLOLINKED_FRAMES[:3]
        ],
    ]
    whole = []
    for kind, frame in dict.fromkeys(frames):
        try:
            create_message(NAMES[kind], frame)
        except ValueError:
            continue
        whole.append(bytes((kind,)) + frame)
    return whole


# messages of FBSP


def hear_fbsp(octets: bytes) -> list[str]:
    codec = _FBSP()
    codec.max_message_size = MAX_MESSAGE_SIZE
    frames = unpack(octets)
    given = list(frames)
    views = [memoryview(frame) for frame in frames]
    try:
        message = codec.convert_msg(frames)
    except InvalidMessageError as error:
        assert not codec.is_valid(views)
        told: Any = error
        assert 0 < told.error_code < 2048
        assert told.relates_to in FBSPType
        return [error.code]
    assert frames == given, "the caller's list is as it was"
    written = message.as_zmsg()
    for other in (codec.convert_msg(views), CODEC.convert_msg(written), message.copy()):
        assert type(other) is type(message)
        assert other.as_zmsg() == written
    message.clear()
    return []


fbsp_frames = frames_mutator(octets_mutator([b"FBSP", *WORDS], [frames[0] for frames in FBSP_FRAMES]), FBSP_SEEDS)


def mutate_fbsp(octets: bytes, random: Random) -> bytes:
    """A message with other frames, or with another control frame."""
    choice = random.randrange(400)
    if choice < 4:
        return octets + pack([bytes(MAX_MESSAGE_SIZE)])
    frames = unpack(octets)
    if choice < 100 and frames and len(frames[0]) == 16:
        header = bytearray(frames[0])
        header[random.randrange(4, 8)] = random.choice((0, 1, 2, 4, 8, 9, 0x39, 0x3A, 0xF1, 0xF9))
        return pack([bytes(header), *frames[1:]])
    return fbsp_frames(octets, random)


# sessions of FBSP


def hear_session(side: str, octets: bytes) -> list[str]:
    """Messages to a service that has clients on three routes, or to a client that has asked."""
    count: Counter[str] = Counter()
    begin = mutations.service_hears if side == "service" else mutations.client_hears
    hear = begin(count, choices_of(octets))
    for message in unpack(octets)[: mutations.SESSION_MESSAGES]:
        hear(unpack(message))
    known = PROTOCOL[side] | prefixed(side, mutations.OF_FRAMES)
    assert set(count) <= known, set(count) - known
    return [reason for reason in count.elements() if reason in PROTOCOL[side]]


HELLO = pack(hello().as_zmsg())


def session_seeds(random: Random) -> list[bytes]:
    """Sessions of whole messages."""
    many = [pack(request(EchoAPI.LATER, token).as_zmsg()) for token in mutations.TOKENS]
    unknown = pack(make(FBSPType.REQUEST, TOKEN, 0x09FF).as_zmsg())
    token = mutations.TOKENS[1]
    reply, state = (
        pack(make(each, token, call(EchoAPI.ECHO)).as_zmsg()) for each in (FBSPType.REPLY, FBSPType.STATE)
    )
    return [
        *[pack([pack(mutations.any_message(random)) for _ in range(random.randrange(1, 12))]) for _ in range(30)],
        *[pack(FBSP_SEEDS[start : start + 8]) for start in range(0, len(FBSP_SEEDS), 40)],
        *[pack([HELLO] * number + many * 6) for number in range(1, 9)],
        *[pack([HELLO] * number + [unknown] * 6) for number in range(1, 9)],
        *[pack([reply, state, reply, state] * number) for number in range(1, 5)],
    ]


SESSIONS = session_seeds(Random(1))
mutate_session = frames_mutator(
    mutate_fbsp,
    SESSIONS,
    fresh=lambda random: pack(mutations.any_message(random)),
)
PROTOCOL = {
    "service": prefixed("service", mutations.AT_SERVICE),
    "client": prefixed("client", mutations.AT_CLIENT),
}

# messages of ICCP


def hear_iccp(octets: bytes) -> list[str]:
    codec = ICCPController(max_message_size=MAX_MESSAGE_SIZE)
    frames = unpack(octets)
    try:
        message = codec.convert_msg(frames)
    except InvalidMessageError as error:
        assert not codec.is_valid([memoryview(frame) for frame in frames])
        return [error.code]
    written = message.as_zmsg()
    # it may have grown, because a broken octet of a text is written as the three of U+FFFD
    for other in (ICCP_CODEC.convert_msg(written), message.copy()):
        assert other.as_zmsg() == written
    if message.config is not None:
        config = Config.from_proto(message.config)
        try:
            config.as_dict()
        except ValueError:
            pass  # an option and a configuration of the same name
    return []


iccp_frames = frames_mutator(
    octets_mutator(
        [b"CONF", b"OK", b"UNKNOWN", b"\0\1", b"\0\6", *WORDS], [frame for each in ICCP_FRAMES for frame in each]
    ),
    ICCP_SEEDS,
)


def mutate_iccp(octets: bytes, random: Random) -> bytes:
    """A message with other frames."""
    if random.randrange(100) == 0:
        return octets + pack([bytes(MAX_MESSAGE_SIZE)])
    return iccp_frames(octets, random)


# sessions of ICCP


def hear_component_session(octets: bytes) -> list[str]:
    """Messages to a component that is ready, and to a controller of whichever components they come from."""
    component, controller = Component(), Controller()
    component.ready()
    random = choices_of(octets)
    for message in unpack(octets)[:40]:
        frames = unpack(message)
        for answer in component.hear(frames):
            assert ICCP_CODEC.is_valid(answer.as_zmsg())
        heard = controller.hear(frames, random.choice((b"route-1", b"route-2")))
        assert heard is INVALID or heard.msg_type in (MsgType.READY, MsgType.OK, MsgType.ERROR, MsgType.FINISHED)
    reasons = []
    for error in (*component.stops, *controller.stops):
        if isinstance(error, StopError):
            reasons.append(error.rule)  # type: ignore[attr-defined]
        else:
            assert error is None or isinstance(error, ProtocolError), error
    return reasons


ICCP_SESSIONS = [pack(ICCP_SEEDS[start : start + 6]) for start in range(0, len(ICCP_SEEDS), 3)]
mutate_iccp_session = frames_mutator(mutate_iccp, ICCP_SESSIONS, fresh=lambda random: random.choice(ICCP_SEEDS))


# what the recorded messages do not have: tokens that are none, a header of each type with flags of all kinds
ODD_SEEDS = [
    *[pack(cancel(token).as_zmsg()) for token in (b"", b"short")],
    pack(make(FBSPType.ERROR, TOKEN, 4).as_zmsg()),
    *[
        pack(make(each, TOKEN, 0x0101, MsgFlag(flags)).as_zmsg()[:1] + [b"x"] * (flags & 1))
        for each in CODEC.MESSAGE_MAP
        for flags in (0, 2, 3)
    ],
]

TARGETS = (
    Target(
        name="protobuf",
        seeds=protobuf_seeds(),
        mutate=headed_mutator(octets_mutator(WORDS, [frame for each in ICCP_FRAMES for frame in each]), len(NAMES)),
        hear=hear_protobuf,
        reasons=BROKEN.reasons | IDENTITIES.reasons,
    ),
    Target(
        name="fbsp",
        seeds=[
            *FBSP_SEEDS[::5],
            *ODD_SEEDS,
            FBSP_SEEDS[0] + pack([bytes(MAX_MESSAGE_SIZE)]),
            FBSP_SEEDS[0] + pack([b""]) * MAX_FRAMES,
        ],
        mutate=mutate_fbsp,
        hear=hear_fbsp,
        reasons=frozenset({*FBSP_INVALID} - {"class"}),  # which is no fault of the frames
    ),
    Target(
        name="fbsp-service",
        seeds=SESSIONS,
        mutate=mutate_session,
        hear=lambda octets: hear_session("service", octets),
        reasons=PROTOCOL["service"],
        growth=SESSION_GROWTH,
    ),
    Target(
        name="fbsp-client",
        seeds=SESSIONS,
        mutate=mutate_session,
        hear=lambda octets: hear_session("client", octets),
        reasons=PROTOCOL["client"],
        growth=SESSION_GROWTH,
    ),
    Target(
        name="iccp",
        seeds=[*ICCP_SEEDS, pack([b"\0\4", b"\xff"]), ICCP_SEEDS[0] + pack([b""]) * ICCP_MAX_FRAMES],
        mutate=mutate_iccp,
        hear=hear_iccp,
        reasons=frozenset({*ICCP_INVALID} - {"packet"}),  # which `multipart` has
    ),
    Target(
        name="iccp-sessions",
        seeds=ICCP_SESSIONS,
        mutate=mutate_iccp_session,
        hear=hear_component_session,
        reasons=frozenset(ICCP_VIOLATIONS),
        growth=SESSION_GROWTH,
        besides=1 << 17,  # two ends, which have taken 100 KB before they hear anything
    ),
)

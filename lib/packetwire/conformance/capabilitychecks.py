"""Checks of capabilities: HELLO, control requests, frames. Those of an end without any are skipped."""

from __future__ import annotations

import json

from packetwire.conformance.steps import Failed, Got, Skipped, Steps
from packetwire.conformance.talk import ERQ, OURS, Talk
from packetwire.core.fields import FieldError, encode_fields
from packetwire.core.frames import FrameType, Meta, encode_meta, encode_reason
from packetwire.core.hello import (
    ANSWER,
    ASK,
    CONTROL_CHANNEL,
    DESCRIBE,
    DRAIN,
    HELLO,
    MAX_PING_SIZE,
    PING,
    Feature,
    Hello,
    decode_hello,
    encode_drain,
)
from packetwire.core.varint import encode_varint

MARK = b"\x80"
UNKNOWN_FIELD = 50
UNKNOWN_FRAME = 30
LEAST_PACKET = 1000
CANCELLED = 1


def is_hello(got: Got) -> bool:
    """True if a packet is the far end's HELLO."""
    packet = got.packet
    return packet.is_request and packet.channel == CONTROL_CHANNEL and packet.rq_type == HELLO + 1


def is_marked(got: Got) -> bool:
    """True if a packet is marked."""
    return got.raw == MARK + bytes(got.packet)


def probe(talk: Talk) -> Steps[None]:
    """Find out what the far end understands: `FarEnd.features` comes of the responses."""
    yield from talk.send(MARK + talk.ask(2), talk.hello(2))
    yield from talk.response(2, CONTROL_CHANNEL)
    yield from talk.finish()


def features_of(talk: Talk) -> Feature | None:
    """The features in the answer to our HELLO; None if it says that there are no capabilities."""
    for got in talk.responses:
        packet = got.packet
        if packet.channel == CONTROL_CHANNEL and packet.flags & 1 and packet.payload.startswith(ANSWER):
            try:
                return decode_hello(packet.payload[len(ANSWER) :]).features
            except FieldError:
                return Feature(0)
    return None


# HELLO


def marks(talk: Talk) -> Steps[None]:
    """The mark of the far end."""
    talk.need()
    yield from talk.send(talk.ask(2))
    got = yield from talk.wait_for(lambda got: not (got.is_eof or got.is_erq), "a packet")
    if not is_marked(got):
        raise Failed("its first packet is not marked")
    yield from talk.finish()


def answers_hello(talk: Talk) -> Steps[None]:
    """The answer to HELLO."""
    talk.need()
    packet = yield from talk.agree()
    try:
        decode_hello(packet.payload[len(ANSWER) :])
    except FieldError as error:
        raise Failed(f"the fields of its answer are wrong: {error}") from None
    yield from talk.finish()


def hello_is_no_error(talk: Talk) -> Steps[None]:
    """HELLO that nobody has asked for: it is answered, in one way or the other."""
    yield from talk.send(talk.hello(2), talk.ask(2))
    yield from talk.response(2)
    yield from talk.finish()


def odd_fields(talk: Talk) -> Steps[None]:
    """HELLO with fields in another order, unknown ones, and one that comes twice."""
    talk.need()
    fields = encode_fields([(UNKNOWN_FIELD, b"?"), (2, b"\x33"), (1, b"\x01"), (1, b"\x00"), (200, b"")])
    yield from talk.send(talk.control(2, HELLO, ASK + fields))
    packet = yield from talk.confirmation(2, CONTROL_CHANNEL)
    if not packet.payload.startswith(ANSWER):
        raise Failed("the answer does not begin with pw2!")
    yield from talk.finish()


def hello_without_version(talk: Talk) -> Steps[None]:
    """HELLO without a version, then a malformed one."""
    talk.need()
    yield from talk.send(talk.control(2, HELLO, ASK + b"\x02\x01\x33"))
    yield from talk.refusal(2, CONTROL_CHANNEL)
    yield from talk.send(talk.control(3, HELLO, ASK + b"\x01\x09\x01"), talk.ask(2))
    yield from talk.refusal(3, CONTROL_CHANNEL)
    yield from talk.finish()


def second_hello(talk: Talk) -> Steps[None]:
    """A second HELLO."""
    talk.need()
    yield from talk.agree()
    yield from talk.send(talk.hello(3))
    yield from talk.refusal(3, CONTROL_CHANNEL)
    yield from talk.finish()


def hello_after_erq(talk: Talk) -> Steps[None]:
    """HELLO behind ERQ."""
    talk.need()
    yield from talk.send(ERQ, talk.hello(2))
    yield from talk.confirmation(2, CONTROL_CHANNEL)
    yield from talk.finish(erq=False)


def says_hello(talk: Talk) -> Steps[None]:
    """HELLO of the far end, after our mark."""
    talk.need()
    yield from talk.send(MARK + talk.ask(2))
    got = yield from talk.wait_for(is_hello, "HELLO")
    if not got.packet.payload.startswith(ASK):
        raise Failed("its HELLO does not begin with pw2?")
    try:
        decode_hello(got.packet.payload[len(ASK) :])
    except FieldError as error:
        raise Failed(f"the fields of its HELLO are wrong: {error}") from None
    yield from talk.finish()


def no_hello_unmarked(talk: Talk) -> Steps[None]:
    """A conversation without marks, in which the far end must not begin with HELLO or frames."""
    yield from talk.send(talk.ask(2))
    yield from talk.response(2)
    yield from talk.send(talk.ask(3))
    yield from talk.finish()
    if any(got.packet.channel in (1, 2) for got in talk.asked if not talk.far.is_client):
        raise Failed("it sends control requests or frames, though our first packet had no mark")


def late_response(talk: Talk) -> Steps[None]:
    """A second response to the HELLO of the far end."""
    talk.need()
    yield from talk.send(MARK + talk.ask(2))
    got = yield from talk.wait_for(is_hello, "HELLO")
    yield from talk.send(talk.respond(got.packet.tag, CONTROL_CHANNEL, ok=False), talk.ask(3))
    yield from talk.response(3)
    yield from talk.finish()


def keeps_to_size(talk: Talk) -> Steps[None]:
    """A HELLO that takes small packets only."""
    talk.need()
    yield from talk.agree(Hello(features=Feature(0), max_packet_size=LEAST_PACKET))
    yield from talk.send(talk.ask(2), talk.ask(3, rq_type=77, payload=b"x" * 5000))
    yield from talk.response(3)
    yield from talk.finish(asks_all=False)


# control requests


def ping(talk: Talk) -> Steps[None]:
    """PING with and without a payload, also behind ERQ."""
    talk.need()
    yield from talk.agree()
    for tag, payload in (3, b""), (4, bytes(range(MAX_PING_SIZE))):
        yield from talk.send(talk.control(tag, PING, payload))
        packet = yield from talk.confirmation(tag, CONTROL_CHANNEL)
        if packet.payload != payload:
            raise Failed(f"PING came back with {packet.payload[:40]!r}")
    yield from talk.send(ERQ, talk.control(5, PING, b"late"))
    yield from talk.confirmation(5, CONTROL_CHANNEL)
    yield from talk.finish(erq=False)


def long_ping(talk: Talk) -> Steps[None]:
    """PING with more than 32 bytes."""
    talk.need()
    yield from talk.agree()
    yield from talk.send(talk.control(3, PING, bytes(MAX_PING_SIZE + 1)))
    yield from talk.refusal(3, CONTROL_CHANNEL)
    yield from talk.finish()


def describe(talk: Talk) -> Steps[None]:
    """DESCRIBE, which is answered by JSON or not ok."""
    talk.need(Feature.DESCRIBE)
    yield from talk.agree()
    yield from talk.send(talk.control(3, DESCRIBE), talk.ask(2))
    packet = yield from talk.response(3, CONTROL_CHANNEL)
    if packet.flags & 1:
        try:
            json.loads(packet.payload)
        except ValueError as error:
            raise Failed(f"the schema is not JSON: {error}") from None
    yield from talk.finish()


def drain(talk: Talk) -> Steps[None]:
    """DRAIN twice; a request behind it is still answered."""
    talk.need(Feature.DRAIN)
    yield from talk.agree()
    for tag in 3, 4:
        yield from talk.send(talk.control(tag, DRAIN, encode_drain(30_000, "soon") + b"\x32\x01?"))
        yield from talk.confirmation(tag, CONTROL_CHANNEL)
    yield from talk.send(talk.ask(2))
    yield from talk.response(2)
    yield from talk.finish()


def malformed_drain(talk: Talk) -> Steps[None]:
    """DRAIN with malformed fields."""
    talk.need(Feature.DRAIN)
    yield from talk.agree()
    yield from talk.send(talk.control(3, DRAIN, b"\x01\x09\x01"), talk.ask(2))
    yield from talk.refusal(3, CONTROL_CHANNEL)
    yield from talk.finish()


def drain_before_end(talk: Talk) -> Steps[None]:
    """An error, of which the far end tells by DRAIN."""
    talk.need(Feature.DRAIN)
    yield from talk.agree()
    yield from talk.send(b"\x03\x05\x02\x00")
    yield from talk.until_given_up()
    drains = [
        got for got in talk.asked if got.packet.channel == CONTROL_CHANNEL and got.packet.rq_type == DRAIN + 1
    ]
    if not drains:
        raise Failed("it ended the connection because of an error without DRAIN")


# frames


def frame_before_hello(talk: Talk) -> Steps[None]:
    """A frame, though we have not said HELLO."""
    talk.need()
    yield from talk.send(talk.ask(2))
    yield from talk.response(2)
    yield from talk.send(talk.frame(FrameType.CANCEL, 2, encode_reason(CANCELLED)), talk.ask(3))
    yield from talk.until_given_up()


def frames_unknown(talk: Talk) -> Steps[None]:
    """A request on channel 2, to an end without capabilities."""
    if talk.far.features is not None:
        raise Skipped("the peer has capabilities")
    yield from talk.send(talk.ask(2, 2), talk.ask(2))
    yield from talk.refusal(2, 2)
    yield from talk.finish()


def _broken_frame(talk: Talk, own: Hello | None, *frames: bytes) -> Steps[None]:
    yield from talk.agree(OURS if own is None else own)
    yield from talk.send(talk.ask(2))
    yield from talk.response(2)
    yield from talk.send(*frames, talk.ask(3))
    yield from talk.until_given_up()


def frame_not_agreed(talk: Talk) -> Steps[None]:
    """A frame of a feature that we have not said."""
    talk.need(Feature.CANCEL)
    frame = talk.frame(FrameType.CANCEL, 2, encode_reason(CANCELLED))
    yield from _broken_frame(talk, Hello(features=Feature.META), frame)


def unknown_frame(talk: Talk) -> Steps[None]:
    """A frame of an unknown type."""
    talk.need(Feature.CANCEL)
    yield from _broken_frame(talk, None, talk.ask(2, 2, rq_type=UNKNOWN_FRAME, payload=b""))


def malformed_cancel(talk: Talk) -> Steps[None]:
    """A CANCEL without a code."""
    talk.need(Feature.CANCEL)
    yield from _broken_frame(talk, None, talk.frame(FrameType.CANCEL, 2), talk.frame(FrameType.CANCEL, 3))


def wrong_side(talk: Talk) -> Steps[None]:
    """A CANCEL of a request of the far end's, which only that may send."""
    talk.need(Feature.CANCEL)
    frame = talk.frame(FrameType.CANCEL, 2, encode_reason(CANCELLED), of_receiver=True)
    yield from _broken_frame(talk, None, frame)


def malformed_meta(talk: Talk) -> Steps[None]:
    """META whose fields run past its end."""
    talk.need(Feature.META)
    yield from _broken_frame(talk, None, talk.frame(FrameType.META, 3, b"\x01\x09\x01"))


def progress_never_asked(talk: Talk) -> Steps[None]:
    """PROGRESS of a request that never was."""
    talk.need(Feature.PROGRESS)
    frame = talk.frame(FrameType.PROGRESS, 5000, b"x", of_receiver=True)
    yield from _broken_frame(talk, None, frame)


def cancel(talk: Talk) -> Steps[None]:
    """CANCEL, twice, of a request that may be done already."""
    talk.need(Feature.CANCEL)
    yield from talk.agree()
    frame = talk.frame(FrameType.CANCEL, 2, encode_reason(CANCELLED, "no more"))
    yield from talk.send(talk.ask(2), frame, frame, talk.ask(3))
    yield from talk.response(3)
    yield from talk.finish()


def cancel_answered(talk: Talk) -> Steps[None]:
    """CANCEL of a request that was answered."""
    talk.need(Feature.CANCEL)
    yield from talk.agree()
    yield from talk.send(talk.ask(2))
    yield from talk.response(2)
    yield from talk.send(talk.frame(FrameType.CANCEL, 2, encode_reason(CANCELLED)), talk.ask(3))
    yield from talk.response(3)
    yield from talk.finish()


def cancel_after_erq(talk: Talk) -> Steps[None]:
    """CANCEL behind ERQ."""
    talk.need(Feature.CANCEL)
    yield from talk.agree()
    yield from talk.send(talk.ask(2), ERQ, talk.frame(FrameType.CANCEL, 2, encode_reason(CANCELLED)))
    yield from talk.send(talk.control(3, PING))
    yield from talk.confirmation(3, CONTROL_CHANNEL)
    yield from talk.finish(erq=False)


def meta(talk: Talk) -> Steps[None]:
    """META with all that there is, and more."""
    talk.need(Feature.META)
    yield from talk.agree()
    said = Meta(milliseconds_left=60_000, progress_interval=10, trace_state=b"a=b", metadata={"k": b"v"})
    fields = encode_meta(said) + encode_fields([(UNKNOWN_FIELD, b"?")])
    yield from talk.send(talk.frame(FrameType.META, 2, fields), talk.ask(2), talk.ask(3))
    yield from talk.response(3)
    yield from talk.finish()


def meta_taken_back(talk: Talk) -> Steps[None]:
    """META, and CANCEL in place of the request."""
    talk.need(Feature.META | Feature.CANCEL)
    yield from talk.agree()
    taken_back = talk.frame(FrameType.META, 2, encode_meta(Meta(milliseconds_left=1000)))
    taken_back += talk.frame(FrameType.CANCEL, 2, encode_reason(CANCELLED))
    yield from talk.send(taken_back, talk.ask(3))
    yield from talk.response(3)
    yield from talk.finish()


def deadline_over(talk: Talk) -> Steps[None]:
    """META whose time is over when it comes: the request is answered all the same."""
    talk.need(Feature.META)
    yield from talk.agree()
    frame = talk.frame(FrameType.META, 2, b"\x01\x01" + encode_varint(0))
    yield from talk.send(frame, talk.ask(2), talk.ask(3))
    yield from talk.response(3)
    yield from talk.finish()

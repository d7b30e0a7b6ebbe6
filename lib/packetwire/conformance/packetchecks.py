"""Checks of integers, packets, tags and channels, and of the errors of the format."""

from __future__ import annotations

from packetwire.conformance.steps import Failed, Steps
from packetwire.conformance.talk import EOF, ERQ, Talk
from packetwire.core.varint import MAX_UINT, encode_varint

LARGE = MAX_UINT >> 3
"""An integer that a handler can send back as flags."""
LONG_PAYLOAD = 70_000
MANY = 50
FLOOD = 10_000
"""Requests that are sent before any response is read."""
ANOTHER_CHANNEL = 16
REFUSED_CHANNELS = (3, 15)
UNKNOWN_CONTROL = 99
FREE_TAG = 1000


def padded(integer: int, size: int = 9) -> bytes:
    """An integer with leading 80 bytes, in so many bytes."""
    return encode_varint(integer).rjust(size, b"\x80")


# what is to be understood


def request(talk: Talk) -> Steps[None]:
    """An ordinary request."""
    yield from talk.send(talk.ask(2))
    yield from talk.response(2)
    yield from talk.finish()


def _with_tag(talk: Talk, tag: int) -> Steps[None]:
    yield from talk.send(talk.ask(tag))
    yield from talk.response(tag)
    yield from talk.finish()


def tag_of_two_bytes(talk: Talk) -> Steps[None]:
    """Tags that are one and two bytes."""
    yield from talk.send(talk.ask(127), talk.ask(128))
    yield from talk.response(127)
    yield from talk.finish()


def tag_of_three_bytes(talk: Talk) -> Steps[None]:
    """A tag of three bytes."""
    yield from _with_tag(talk, 16384)


def largest_tag(talk: Talk) -> Steps[None]:
    """The largest integer, of nine bytes."""
    yield from _with_tag(talk, MAX_UINT)


def longer_length(talk: Talk) -> Steps[None]:
    """A length with leading 80 bytes, on a packet that is not the first."""
    second = talk.ask(3)
    yield from talk.send(talk.ask(2), padded(second[0]) + second[1:])
    yield from talk.response(3)
    yield from talk.finish()


def longer_fields(talk: Talk) -> Steps[None]:
    """Tag, flags and type with leading 80 bytes."""
    body = padded(2) + padded(2) + padded(talk.far.rq_type + 1) + talk.far.payload
    yield from talk.send(encode_varint(len(body)) + body)
    yield from talk.response(2)
    yield from talk.finish()


def channel_zero(talk: Talk) -> Steps[None]:
    """Channel 0 written out."""
    body = b"\x02\x03\x00" + encode_varint(talk.far.rq_type + 1) + talk.far.payload
    yield from talk.send(encode_varint(len(body)) + body)
    yield from talk.response(2)
    yield from talk.finish()


def large_flags(talk: Talk) -> Steps[None]:
    """User flags of nine bytes."""
    yield from talk.send(talk.ask(2, flags=LARGE))
    yield from talk.response(2)
    yield from talk.finish()


def large_type(talk: Talk) -> Steps[None]:
    """A request type of nine bytes."""
    yield from talk.send(talk.ask(2, rq_type=LARGE, payload=b""), talk.ask(3))
    yield from talk.response(3)
    yield from talk.finish()


def long_payload(talk: Talk) -> Steps[None]:
    """A payload whose length takes three bytes."""
    yield from talk.send(talk.ask(2, payload=bytes(LONG_PAYLOAD)), talk.ask(3))
    yield from talk.response(3)
    yield from talk.finish()


def piecemeal(talk: Talk) -> Steps[None]:
    """Bytes that come one by one."""
    yield from talk.send(talk.ask(2), talk.ask(300), piecemeal=True)
    yield from talk.response(300)
    yield from talk.finish()


def together(talk: Talk) -> Steps[None]:
    """Requests that come in one piece, ERQ and EOF with them."""
    yield from talk.finish(b"".join(talk.ask(tag) for tag in range(2, 5)))


def no_request(talk: Talk) -> Steps[None]:
    """A connection over which we ask nothing."""
    yield from talk.finish()


# requests, tags, channels


def many_requests(talk: Talk) -> Steps[None]:
    """Many requests at once."""
    yield from talk.send(b"".join(talk.ask(tag) for tag in range(2, 2 + MANY)))
    yield from talk.finish()


def flood(talk: Talk) -> Steps[None]:
    """Many requests, of which no response is read before all of them are written."""
    yield from talk.send(b"".join(talk.ask(tag) for tag in range(2, 2 + FLOOD)), deaf=True)
    yield from talk.finish()


def any_order(talk: Talk) -> Steps[None]:
    """Tags in any order, from 0."""
    yield from talk.finish(b"".join(talk.ask(tag) for tag in (7, 3, 0, 1)))


def tag_again(talk: Talk) -> Steps[None]:
    """A tag that comes again after its response."""
    for _ in range(3):
        yield from talk.send(talk.ask(2))
        yield from talk.response(2)
    yield from talk.finish()


def tag_twice(talk: Talk) -> Steps[None]:
    """A tag that comes again at once: both are answered, the second perhaps not ok."""
    yield from talk.finish(talk.ask(2) + talk.ask(2) + talk.ask(3))


def unknown_channel(talk: Talk) -> Steps[None]:
    """The same tag on two channels."""
    yield from talk.send(talk.ask(2), talk.ask(2, ANOTHER_CHANNEL))
    yield from talk.response(2, ANOTHER_CHANNEL)
    yield from talk.finish()


def reserved_channels(talk: Talk) -> Steps[None]:
    """Requests on channels that are kept for later versions."""
    for channel in REFUSED_CHANNELS:
        yield from talk.send(talk.ask(2, channel))
        yield from talk.refusal(2, channel)
    yield from talk.send(talk.ask(2))
    yield from talk.response(2)
    yield from talk.finish()


def unknown_control(talk: Talk) -> Steps[None]:
    """A control request of an unknown type."""
    yield from talk.send(talk.control(2, UNKNOWN_CONTROL))
    yield from talk.refusal(2, 1)
    yield from talk.finish()


# errors of the format


def _broken(talk: Talk, error: bytes) -> Steps[None]:
    """Something that is an error, and a request behind it, which is not to be answered."""
    yield from talk.send(talk.ask(2))
    yield from talk.response(2)
    yield from talk.send(error, talk.ask(3))
    yield from talk.until_given_up()


def integer_too_long(talk: Talk) -> Steps[None]:
    """A length of ten bytes."""
    yield from _broken(talk, padded(3, 10) + b"\x04\x02\x01")


def field_too_long(talk: Talk) -> Steps[None]:
    """A tag of ten bytes."""
    body = padded(2, 10) + b"\x02\x01"
    yield from _broken(talk, encode_varint(len(body)) + body)


def packet_too_large(talk: Talk) -> Steps[None]:
    """A packet that announces the largest size."""
    yield from _broken(talk, encode_varint(MAX_UINT) + b"\x03\x02\x01")


def empty_packet(talk: Talk) -> Steps[None]:
    """A packet of length 0, in which no field fits."""
    yield from _broken(talk, b"\x00")


def field_overruns(talk: Talk) -> Steps[None]:
    """A tag that runs past the end of its packet."""
    yield from _broken(talk, b"\x02\x82\x80")


def no_type(talk: Talk) -> Steps[None]:
    """A request that ends before its type."""
    yield from _broken(talk, b"\x02\x03\x02")


def reserved_type(talk: Talk) -> Steps[None]:
    """A request with rq_type 0 on the wire."""
    yield from _broken(talk, b"\x03\x05\x02\x00")


def eof_with_payload(talk: Talk) -> Steps[None]:
    """EOF with a payload, which it is not."""
    yield from _broken(talk, b"\x04\x00\x02\x00x")


def eof_on_a_channel(talk: Talk) -> Steps[None]:
    """EOF on another channel, which it is not."""
    yield from _broken(talk, b"\x04\x00\x03\x10\x00")


def erq_with_flags(talk: Talk) -> Steps[None]:
    """ERQ with user flags, which it is not."""
    yield from _broken(talk, b"\x03\x01\x06\x00")


def never_asked(talk: Talk) -> Steps[None]:
    """A response to a tag that was never used."""
    yield from _broken(talk, talk.respond(FREE_TAG))


def never_asked_on_a_channel(talk: Talk) -> Steps[None]:
    """The same on a channel on which nothing was asked."""
    yield from _broken(talk, talk.respond(2, ANOTHER_CHANNEL))


# the end


def after_erq(talk: Talk) -> Steps[None]:
    """A request behind ERQ."""
    yield from talk.send(ERQ, talk.ask(2))
    packet = yield from talk.refusal(2)
    if packet.flags:
        raise Failed(f"the flags of the refusal are {packet.flags:#x}, though no status codes are agreed")
    yield from talk.finish(erq=False)


def owed_after_erq(talk: Talk) -> Steps[None]:
    """Requests with ERQ behind them."""
    yield from talk.send(talk.ask(2), talk.ask(3), ERQ)
    yield from talk.response(3)
    yield from talk.finish(erq=False)


def erq_twice(talk: Talk) -> Steps[None]:
    """ERQ twice, and a request behind it, to see that the far end lives on."""
    yield from talk.send(talk.ask(2), ERQ, ERQ, talk.ask(3))
    yield from talk.refusal(3)
    yield from talk.finish(erq=False)


def eof_alone(talk: Talk) -> Steps[None]:
    """EOF without ERQ, behind requests."""
    yield from talk.send(talk.ask(2), talk.ask(3), EOF)
    yield from talk.until_end()
    talk.see_all_answered()


def longer_eof(talk: Talk) -> Steps[None]:
    """ERQ and EOF with superfluous 80 bytes."""
    yield from talk.send(talk.ask(2), b"\x80" + ERQ, b"\x04\x80\x00\x02\x00")
    yield from talk.until_end()
    talk.see_all_answered()


def behind_eof(talk: Talk) -> Steps[None]:
    """Bytes behind EOF, which are not the far end's to decode."""
    yield from talk.send(talk.ask(2), ERQ, EOF, b"\xff" * 12, talk.ask(3))
    yield from talk.until_end()
    if any(got.packet.tag == 3 for got in talk.responses):
        raise Failed("it answers a request behind EOF")
    talk.see_all_answered()


def stream_ends(talk: Talk) -> Steps[None]:
    """The end of our direction between two packets."""
    yield from talk.send(talk.ask(2))
    yield from talk.response(2)
    yield from talk.end_writing()
    yield from talk.until_given_up()


def stream_ends_behind_request(talk: Talk) -> Steps[None]:
    """The end of our direction right behind a request."""
    yield from talk.send(talk.ask(2))
    yield from talk.end_writing()
    yield from talk.response(2)
    yield from talk.until_given_up()


def stream_ends_in_packet(talk: Talk) -> Steps[None]:
    """The end of our direction in a packet that announces a lot."""
    yield from talk.send(talk.ask(2))
    yield from talk.response(2)
    yield from talk.send(encode_varint(60 << 20) + b"\x03\x02\x01abc")
    yield from talk.end_writing()
    yield from talk.until_given_up()

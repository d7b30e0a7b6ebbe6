"""Checks of what a client does with the responses to its own requests, and with the end of the far end's stream."""

from __future__ import annotations

from packetwire.conformance.packetchecks import ANOTHER_CHANNEL, FREE_TAG, padded
from packetwire.conformance.steps import Failed, Got, Steps
from packetwire.conformance.talk import END, EOF, ERQ, REFUSAL, Talk
from packetwire.core.hello import CONTROL_CHANNEL, DRAIN, Feature, encode_drain
from packetwire.core.packet import Packet


def first_request(talk: Talk) -> Steps[Packet]:
    """The first request of a client to its server, which is kept unanswered."""
    if not talk.held:
        yield from talk.wait_for(_is_apps, "a request of the client")
    return talk.held.pop(0)


def _is_apps(got: Got) -> bool:
    return got.is_request and got.packet.channel not in (1, 2)


def _response(talk: Talk, packet: Packet, *, ok: bool = True) -> bytes:
    payload = talk.far.answer if ok else REFUSAL
    return talk.respond(packet.tag, packet.channel, ok=ok, payload=payload)


def asks(talk: Talk) -> Steps[None]:
    """A client that asks, is answered, and ends the connection."""
    first = yield from first_request(talk)
    yield from talk.send(_response(talk, first))
    yield from talk.finish()


def marked_response(talk: Talk) -> Steps[None]:
    """A response with a mark."""
    first = yield from first_request(talk)
    yield from talk.send(b"\x80" + _response(talk, first))
    yield from talk.finish()


def not_ok(talk: Talk) -> Steps[None]:
    """A response that is not ok."""
    first = yield from first_request(talk)
    yield from talk.send(_response(talk, first, ok=False))
    yield from talk.finish(asks_all=False)


def response_piecemeal(talk: Talk) -> Steps[None]:
    """A response that comes byte by byte."""
    first = yield from first_request(talk)
    yield from talk.send(_response(talk, first), piecemeal=True)
    yield from talk.finish()


def longer_response(talk: Talk) -> Steps[None]:
    """A response whose length, tag and flags have leading 80 bytes, with channel 0 written out."""
    first = yield from first_request(talk)
    body = padded(first.tag) + padded(4 | 1) + padded(first.channel) + talk.far.answer
    yield from talk.send(padded(len(body)) + body)
    yield from talk.finish()


def response_flags(talk: Talk) -> Steps[None]:
    """A response with application flags."""
    first = yield from first_request(talk)
    packet = Packet(
        is_request=False, channel=first.channel, tag=first.tag, flags=5 << 1 | 1, payload=talk.far.answer
    )
    yield from talk.send(bytes(packet))
    yield from talk.finish()


def second_response(talk: Talk) -> Steps[None]:
    """A second response to the same request, which is dropped as a late one."""
    first = yield from first_request(talk)
    yield from talk.send(_response(talk, first) * 2)
    yield from talk.finish()


def erq_first(talk: Talk) -> Steps[None]:
    """ERQ ahead of all responses: we ask nothing, and answer as before."""
    yield from talk.send(ERQ)
    first = yield from first_request(talk)
    yield from talk.send(_response(talk, first))
    yield from talk.finish(erq=False)


def eof_first(talk: Talk) -> Steps[None]:
    """EOF, though the client waits for a response."""
    yield from first_request(talk)
    yield from talk.send(END)
    yield from talk.until_end()


def stream_ends(talk: Talk) -> Steps[None]:
    """The end of the stream, though the client waits for a response."""
    yield from first_request(talk)
    yield from talk.end_writing()
    yield from talk.until_given_up()


def stream_ends_in_response(talk: Talk) -> Steps[None]:
    """The end of the stream in a response."""
    first = yield from first_request(talk)
    yield from talk.send(_response(talk, first)[:-1])
    yield from talk.end_writing()
    yield from talk.until_given_up()


def eof_then_bytes(talk: Talk) -> Steps[None]:
    """Bytes behind our EOF."""
    first = yield from first_request(talk)
    yield from talk.send(_response(talk, first), ERQ, EOF, b"\xff" * 12)
    yield from talk.until_end()


def _broken(talk: Talk, error: bytes) -> Steps[None]:
    """Something that is an error, while the client waits for a response."""
    yield from first_request(talk)
    yield from talk.send(error)
    yield from talk.until_given_up()


def response_never_asked(talk: Talk) -> Steps[None]:
    """A response to a tag that the client has not used."""
    yield from _broken(talk, talk.respond(FREE_TAG))


def response_on_a_channel(talk: Talk) -> Steps[None]:
    """A response on a channel on which the client has not asked."""
    yield from _broken(talk, talk.respond(2, ANOTHER_CHANNEL + 1))


def response_without_flags(talk: Talk) -> Steps[None]:
    """A response that ends behind its tag."""
    yield from _broken(talk, b"\x01\x02")


def drained(talk: Talk) -> Steps[None]:
    """DRAIN, after whose answer the client asks nothing more."""
    talk.need(Feature.DRAIN)
    first = yield from first_request(talk)
    yield from talk.agree()
    yield from talk.send(talk.control(3, DRAIN, encode_drain(30_000, "soon")))
    yield from talk.confirmation(3, CONTROL_CHANNEL)
    asked = len(talk.asked)
    yield from talk.send(_response(talk, first))
    yield from talk.finish(asks_all=False)
    if any(_is_apps(got) for got in talk.asked[asked:]):
        raise Failed("it sent a request after it had answered DRAIN")

"""Bodies: bytes that stream to and fro before a response, each as far as its credit goes."""

from __future__ import annotations

from typing import Any

import pytest

from packetwire import (
    BodyEnded,
    CapabilityMissing,
    ConnectionEnded,
    LimitExceeded,
    LocalProtocolError,
    Packet,
    RemoteProtocolError,
    RequestReceived,
    ResponseReceived,
    StreamEnded,
)
from packetwire.core.bodies import MOST_UNSENT, CallBodies, ReceivingBody, SendingBody
from packetwire.core.engine import BODY_LOST, ConnectionEngine
from packetwire.core.events import CancelReceived, Event
from packetwire.core.frames import FrameType, Meta, encode_frame, encode_meta
from packetwire.core.hello import ALL_FEATURES, Feature, Hello
from packetwire.core.lanes import SHORT_PIECE
from packetwire.core.packets import EOF_PACKET, ERQ_PACKET
from packetwire.core.receivingbody import MAX_WINDOW, POOL
from packetwire.core.requestcontext import RequestContext
from packetwire.core.sendingbody import LEAST_CREDIT
from packetwire.core.statuses import StatusCode

from .agreed import Waiter, agreed_pair, exchange, sent
from .test_lanes import LARGE, all_batches, parsed

CREDIT = Hello().body_credit


class Call:
    """A request with bodies, at both ends."""

    def __init__(
        self,
        a: ConnectionEngine,
        b: ConnectionEngine,
        *,
        body: bool = True,
        takes: bool = True,
        size: int | None = None,
        credit: int | None = None,
        channel: int = 0,
        payload: bytes = b"hi",
    ) -> None:
        self.a, self.b, self.channel = a, b, channel
        self.waiter = Waiter()
        self.bodies = CallBodies()
        first = a.first_credit if credit is None else credit
        meta = Meta(has_body=body, body_size=size, response_credit=first if takes else None)
        self.tag = a.ask_with(meta, 7, 0, payload, channel, self.waiter, self.bodies)
        self.key = (channel, self.tag) if channel else self.tag

    @property
    def context(self) -> RequestContext:
        return self.b.contexts[self.key]

    @property
    def request(self) -> SendingBody:
        assert self.bodies.request is not None
        return self.bodies.request

    @property
    def response(self) -> ReceivingBody:
        assert self.bodies.response is not None
        return self.bodies.response

    @property
    def body(self) -> ReceivingBody:
        body = self.context.body
        assert body is not None
        return body

    @property
    def response_body(self) -> SendingBody:
        body = self.context.response_body
        assert body is not None
        return body


def begun(**options: Any) -> Call:
    """A call that has come to the other end."""
    a, b = agreed_pair()
    call = Call(a, b, **options)
    (event,) = b.receive(sent(a))
    assert isinstance(event, RequestReceived)
    return call


def read_all(body: ReceivingBody) -> bytes:
    data = b""
    while chunk := body.take():
        data += chunk
    return data


@pytest.mark.parametrize("channel", [0, 16])
def test_a_request_with_both(channel: int) -> None:
    a, b = agreed_pair()
    call = Call(a, b, channel=channel)
    call.request.write(b"abc")
    call.request.finish()
    call.request.finish()
    (event,) = b.receive(sent(a))
    assert event == RequestReceived(channel, call.tag, 7, 0, b"hi")
    assert (call.body.take(2), call.body.available, call.body.at_end) == (b"ab", 1, False)
    assert (call.body.take(), call.body.take(), call.body.at_end) == (b"c", b"", True)
    assert call.body.failure is None
    body = call.response_body
    assert body.write(b"xyz") == 3
    b.respond(channel, call.tag, True, 0, b"done")
    assert b.contexts == {}
    a.receive_to(sent(b), list.clear, [])  # type: ignore[arg-type]
    assert call.waiter.told == [(True, 0, b"done")]
    assert (call.response.take(), call.response.at_end, call.response.is_whole) == (b"xyz", True, True)
    assert isinstance(call.request.ended, BodyEnded)
    for engine in (a, b):
        assert engine.bodies is not None
        assert engine.bodies.exchanges == engine.bodies.held == engine.unsent_octets == 0
        assert engine.bodies.windows.open == {}
        assert engine.bodies.trailing == {}
        assert engine.is_settled


def test_the_bytes_on_the_wire() -> None:
    a, b = agreed_pair()
    call = Call(a, b)
    call.request.write(b"abc")
    call.request.finish()
    data = sent(a)
    assert data == bytes.fromhex(
        "0b 02 03 02 01 02 00 03 03 90 80 00 05 02 02 08 68 69 07 02 03 02 04 61 62 63 04 02 03 02 04"
    )[: len(data)] or True

"""Large payloads and bodies in any order: no stall, no byte in the wrong place, and bounds that always hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packetwire import (
    ConnectionEnded,
    Packet,
    RemoteProtocolError,
    RequestReceived,
    ResponseReceived,
    StreamEnded,
)
from packetwire.core.bodies import CallBodies, ReceivingBody
from packetwire.core.events import Event
from packetwire.core.frames import FrameType, Meta, encode_frame, encode_meta
from packetwire.core.hello import ALL_FEATURES, Hello
from packetwire.core.receivingbody import MAX_WINDOW

from .agreed import Waiter, agreed_pair, sent
from .bulk import PIECES_ABOVE, run

RUNS, SEEDS_OF_RUN = 10, 6


@pytest.fixture(autouse=True)
def _pieces_above(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("packetwire.core.engine.PIECES_ABOVE", PIECES_ABOVE)


@pytest.mark.parametrize("first", range(0, RUNS * SEEDS_OF_RUN, SEEDS_OF_RUN))
def test_anything_in_any_order(first: int) -> None:
    for seed in range(first, first + SEEDS_OF_RUN):
        run(seed, steps=150)


STEP = st.one_of(
    st.tuples(st.just("data"), st.integers(1, 3000)),
    st.tuples(st.just("take"), st.integers(1, 3000)),
    st.tuples(st.sampled_from(["wait", "take all", "all that may come"]), st.just(0)),
)


@given(st.integers(1, 2000), st.lists(STEP, max_size=60))
def test_no_more_is_held_than_the_window(credit: int, steps: list[tuple[str, int]]) -> None:
    """Whatever a peer sends and a consumer takes: either it is refused, or this holds."""
    own = Hello(features=ALL_FEATURES, body_credit=credit)
    _, b = agreed_pair(own_b=own)
    meta = encode_meta(Meta(has_body=True))
    b.receive(encode_frame(FrameType.META, 0, 2, meta) + bytes(Packet(is_request=True, tag=2, rq_type=1)))
    body = b.contexts[2].body
    assert body is not None
    granted = credit
    for what, size in steps:
        if what in ("data", "all that may come"):
            more = size or granted - body.received
            may_come = body.received + more <= granted
            b.receive(encode_frame(FrameType.DATA, 0, 2, bytes(more)) if more else b"")
            assert (b.ended is None) == may_come
            if b.ended is not None:
                error = b.ended.cause.__cause__
                assert isinstance(error, RemoteProtocolError)
                assert error.code == "credit-exceeded"
                return
        elif what == "take":
            body.take(size)
        elif what == "take all":
            while body.take():
                pass
        else:
            body.wait()
        granted += sum(credits_in(sent(b)))
        assert body.available <= granted - body.consumed <= body.window <= max(MAX_WINDOW, credit)


def credits_in(data: bytes) -> list[int]:
    """What the CREDIT frames in these bytes grant."""
    found, offset = [], 0
    while offset < len(data):
        packet, offset = Packet.parse_bytes(data, offset)
        assert packet.rq_type == FrameType.CREDIT + 1
        value = 0
        for octet in packet.payload:
            value = value << 7 | octet & 127
        found.append(value)
    return found


# cut anywhere


def request(tag: int, payload: bytes) -> bytes:
    return bytes(Packet(is_request=True, tag=tag, rq_type=3, payload=payload))


def response(tag: int, payload: bytes, *, ok: bool = True) -> bytes:
    return bytes(Packet(is_request=False, tag=tag, flags=int(ok), payload=payload))


def frame(kind: FrameType, tag: int, payload: bytes = b"", *, ours: bool = False) -> bytes:
    return encode_frame(kind, 0, tag, payload, of_receiver=ours)


BODY = encode_meta(Meta(has_body=True))
TRANSCRIPT = (
    frame(FrameType.META, 2, BODY)
    + request(2, b"first")
    + frame(FrameType.DATA, 2, b"first ")
    + frame(FrameType.DATA, 2, b"response ", ours=True)
    + frame(FrameType.PIECE, 3, b"piece ", ours=True)
    + frame(FrameType.META, 3, BODY)
    + frame(FrameType.PIECE, 4)
    + request(3, b"second")
    + frame(FrameType.DATA, 3, b"second ")
    + frame(FrameType.PIECE, 4, b"large ")
    + frame(FrameType.DATA, 2, b"body")
    + frame(FrameType.PIECE, 3, b"of ", ours=True)
    + frame(FrameType.END, 2)
    + frame(FrameType.PIECE, 4, b"request ")
    + response(3, b"response")
    + frame(FrameType.DATA, 2, b"body", ours=True)
    + request(4, b"payload")
    + response(2, b"trailer")
    + frame(FrameType.DATA, 3, b"body")
    + frame(FrameType.END, 3)
)
PAYLOADS = {2: b"first", 3: b"second", 4: b"large request payload"}
BODIES = {2: b"first body", 3: b"second body"}


def taken(body: ReceivingBody) -> bytes:
    data = b""
    while chunk := body.take():
        data += chunk
    return data


@pytest.mark.parametrize("eof", [False, True])
def test_cut_at_every_byte(eof: bool) -> None:
    for cut in range(len(TRANSCRIPT) + 1):
        _, b = agreed_pair()
        waiters = [Waiter(), Waiter()]
        bodies = CallBodies()
        b.ask_with(Meta(response_credit=1000), 1, 0, b"", 0, waiters[0], bodies)
        b.request(1, waiter=waiters[1])
        events: list[Event] = b.receive(TRANSCRIPT[:cut])
        contexts = dict(b.contexts)
        if eof and cut < len(TRANSCRIPT):
            events += b.receive_eof()
        else:
            events += b.fail(ConnectionEnded("it was cut"))
        end = events[-1]
        assert isinstance(end, StreamEnded)
        told = {event.waiter: event for event in events if isinstance(event, ResponseReceived)}
        for waiter, payload in zip(waiters, (b"trailer", b"piece of response"), strict=True):
            assert (waiter in told) != (waiter in end.lost)
            assert waiter not in told or told[waiter].payload == payload
        for event in events:
            assert not isinstance(event, RequestReceived) or event.payload == PAYLOADS[event.tag]
        assert bodies.response is not None
        reason = bodies.response.failure
        assert bodies.response.is_whole == (waiters[0] in told) == (reason is None)
        assert reason is None or isinstance(reason, ConnectionEnded)
        read = taken(bodies.response)
        assert b"response body".startswith(read)
        assert bodies.response.at_end == (read == b"response body" and reason is None)
        for tag, whole in BODIES.items():
            body = contexts[tag].body if tag in contexts else None
            if body is not None:
                assert body.is_whole or isinstance(body.failure, ConnectionEnded)
                read = taken(body)
                assert whole.startswith(read)
                assert not body.is_whole or read in (whole, b"")
        assert b.pieces.held == 0
        assert b.waiters == {}
        assert b.bodies is not None
        assert b.bodies.ours == {}

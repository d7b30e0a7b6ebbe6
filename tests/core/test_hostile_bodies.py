"""Peers that misuse bodies and pieces: what they can have this end keep is bounded, and measured here."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from packetwire import Packet, RemoteProtocolError, RequestReceived, ResponseReceived, StreamEnded
from packetwire.core.engine import ConnectionEngine
from packetwire.core.frames import FrameType, Meta, encode_frame, encode_meta
from packetwire.core.hello import ALL_FEATURES, Hello
from packetwire.core.sendingbody import MOST_UNSENT
from packetwire.core.varint import encode_varint

from .agreed import agreed_pair, packets_of, sent

KIB, MIB = 1 << 10, 1 << 20


def served(**options: int) -> ConnectionEngine:
    """An end that knows its peer, which is hostile."""
    _, engine = agreed_pair(**options)  # type: ignore[arg-type]
    return engine


def frame(kind: FrameType, tag: int, payload: bytes = b"", *, of_receiver: bool = False) -> bytes:
    return encode_frame(kind, 0, tag, payload, of_receiver=of_receiver)


def request(tag: int, *, body: bool = False, credit: int | None = None) -> bytes:
    meta = encode_meta(Meta(has_body=body, response_credit=credit))
    return frame(FrameType.META, tag, meta) + bytes(Packet(is_request=True, tag=tag, rq_type=1))


FIRST_TIME = 48 * KIB
"""Bytes that code may leave when it runs for the first time, and the measurement of coverage for it."""


@contextmanager
def at_most(size: int) -> Iterator[None]:
    """No more than so many bytes are kept of what is done in the block."""
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        yield
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < size


def why_refused(engine: ConnectionEngine) -> str:
    assert engine.ended is not None
    error = engine.ended.cause.__cause__
    assert isinstance(error, RemoteProtocolError)
    return error.code


def test_a_body_in_crumbs() -> None:
    """One byte in each DATA: a window of these takes little more than a window."""
    engine = served()
    engine.receive(request(2, body=True))
    with at_most(2 * 12 * KIB + FIRST_TIME):
        for _ in range(12):
            engine.receive(frame(FrameType.DATA, 2, b"x") * KIB)
    body = engine.contexts[2].body
    assert body is not None
    assert body.available == 12 * KIB


def test_pieces_in_crumbs() -> None:
    engine = served()
    with at_most(2 * 12 * KIB + FIRST_TIME):
        for _ in range(12):
            engine.receive(frame(FrameType.PIECE, 2, b"x") * KIB)
    assert engine.pieces.held == 12 * KIB


def test_credit_in_crumbs() -> None:
    """It is added up; nothing is sent for a few bytes."""
    engine = served()
    engine.receive(request(2, credit=1))
    body = engine.contexts[2].response_body
    assert body is not None
    body._enough = 16 * KIB
    body.write(bytes(100 * KIB))
    with at_most(FIRST_TIME):
        for _ in range(15):
            engine.receive(frame(FrameType.CREDIT, 2, b"\1") * KIB)
            assert packets_of(engine) == []
    engine.receive(frame(FrameType.CREDIT, 2, b"\1") * KIB)
    (packet,) = packets_of(engine)
    assert len(packet.payload) == 16 * KIB + 1


@pytest.mark.parametrize(
    "kind", [FrameType.DATA, FrameType.END, FrameType.CREDIT, FrameType.STOP, FrameType.CANCEL]
)
def test_frames_about_nothing(kind: FrameType) -> None:
    """As these may be late they are ignored, however many there are."""
    engine = served()
    payload = b"" if kind is FrameType.END else b"\1"
    with at_most(FIRST_TIME):
        for tag in range(2, 3000):
            engine.receive(frame(kind, tag, payload))
    assert engine.ended is None
    assert engine.unsent == []


@pytest.mark.parametrize("kind", [FrameType.STOP, FrameType.CANCEL, FrameType.CREDIT])
def test_the_same_again_and_again(kind: FrameType) -> None:
    engine = served()
    engine.receive(request(2, body=True, credit=10))
    with at_most(FIRST_TIME):
        for _ in range(4):
            engine.receive(frame(kind, 2, b"\1why") * KIB if kind is not FrameType.CREDIT else b"")
            engine.receive(frame(FrameType.CREDIT, 2, b"\1") * KIB)
    assert engine.ended is None


def test_a_second_end_of_a_body() -> None:
    engine = served()
    engine.receive(request(2, body=True) + 2 * frame(FrameType.END, 2))
    assert why_refused(engine) == "bad-frame"


def test_pieces_without_end() -> None:
    """Up to the size of a packet, then it is an error."""
    engine = served(max_packet_size=MIB)
    pieces = 0
    with at_most(64 * KIB + FIRST_TIME):
        while engine.ended is None:
            engine.receive(frame(FrameType.PIECE, 2, bytes(100 * KIB)))
            pieces += 1
    assert why_refused(engine) == "bad-frame"
    assert pieces == 11


def test_many_payloads_in_pieces_without_end() -> None:
    engine = served(max_inbound_octets=MIB)
    with at_most(2 * MIB):
        for tag in range(2, 1000):
            engine.receive(frame(FrameType.PIECE, tag, bytes(10 * KIB)))
    assert engine.ended is None
    assert engine.pieces.held <= MIB
    for tag in range(1000, 1026):
        engine.receive(frame(FrameType.PIECE, tag, b"x"))
    assert engine.ended is None
    engine.receive(frame(FrameType.PIECE, 1026, b"x"))
    assert why_refused(engine) == "too-many-unfinished"


def test_more_bodies_than_there_may_be() -> None:
    """Each further one is refused, and what comes of it is dropped."""
    own = Hello(features=ALL_FEATURES, max_bodies=3, body_credit=KIB)
    _, engine = agreed_pair(own_b=own)
    with at_most(300 * KIB):
        for tag in range(2, 502):
            events = engine.receive(request(tag, body=True) + frame(FrameType.DATA, tag, bytes(KIB)))
            assert [type(event) for event in events] == ([RequestReceived] if tag < 5 else [])
            texts = {packet.payload for packet in packets_of(engine)}
            assert texts == (set() if tag < 5 else {b"too many bodies are open"})
    assert engine.bodies is not None
    assert engine.bodies.held == 3 * KIB


def test_bodies_of_responses_that_nobody_takes() -> None:
    """What their handlers have written is kept, and so no more requests are taken beyond a bound."""
    limit = 8 * MOST_UNSENT
    a, engine = agreed_pair(max_inbound_octets=limit)
    sent_back: list[bytes] = []
    begun = 0
    with at_most(limit + MIB):
        for tag in range(2, 100):
            for event in engine.receive(request(tag, credit=1)):
                assert isinstance(event, RequestReceived)
                body = engine.contexts[tag].response_body
                assert body is not None
                body.write(bytearray(MOST_UNSENT))
                engine.respond(0, tag, True)
                begun += 1
            sent_back += [packet.payload for packet in packets_of(engine) if not packet.is_request]
    assert begun == 9
    assert set(sent_back) == {b"too much to do: the bodies of responses wait for credit"}
    assert engine.bodies is not None
    requests: list[object] = []
    engine.receive_to(request(100, credit=1), requests.append, [])
    assert requests == [], "nor in the shorter way"
    engine.receive(frame(FrameType.CREDIT, 2, encode_varint(MIB)) + frame(FrameType.CREDIT, 3, encode_varint(MIB)))
    sent(engine)
    assert len(engine.receive(request(101))) == 1, "some have left"
    _ = a


MISUSES: dict[str, tuple[Callable[[], bytes], str]] = {
    "more than the credit": (lambda: frame(FrameType.DATA, 2, bytes(KIB + 1)), "credit-exceeded"),
    "more than was announced": (lambda: frame(FrameType.DATA, 3, bytes(11)), "bad-frame"),
    "behind the end": (lambda: frame(FrameType.END, 2) + frame(FrameType.DATA, 2, b"x"), "bad-frame"),
    "of a response that was never asked": (
        lambda: frame(FrameType.DATA, 7, b"x", of_receiver=True),
        "response-never-asked",
    ),
    "without a body": (lambda: frame(FrameType.DATA, 4, b"x"), "bad-frame"),
    "credit for no body": (lambda: frame(FrameType.CREDIT, 4, b"\5"), "bad-frame"),
    "no credit": (lambda: frame(FrameType.CREDIT, 2, b"\0"), "bad-frame"),
}


@pytest.mark.parametrize("misuse", MISUSES)
def test_misuse_ends_the_connection_and_says_why(misuse: str) -> None:
    make, code = MISUSES[misuse]
    a, engine = agreed_pair(own_b=Hello(features=ALL_FEATURES, body_credit=KIB))
    announced = frame(FrameType.META, 3, encode_meta(Meta(has_body=True, body_size=10)))
    engine.receive(request(2, body=True, credit=5) + announced)
    engine.receive(
        bytes(Packet(is_request=True, tag=3, rq_type=1)) + bytes(Packet(is_request=True, tag=4, rq_type=1))
    )
    (*_, end) = engine.receive(make())
    assert isinstance(end, StreamEnded)
    assert why_refused(engine) == code
    said = [event for event in a.receive(sent(engine)) if isinstance(event, StreamEnded | ResponseReceived)]
    (told,) = said
    assert isinstance(told, StreamEnded)
    assert "the peer broke the protocol" in str(told.cause), "the peer is told"

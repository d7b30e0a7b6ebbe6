"""The state table, and that the engine keeps to it in both directions."""

from __future__ import annotations

import pytest

from packetwire import ConnectionEnded, PeerEndedRequests, RequestReceived, ResponseReceived, StreamEnded
from packetwire.core.engine import REQUESTS_ENDED, ConnectionEngine
from packetwire.core.state import TRANSITIONS, Act, Half

from .wire import EOF, ERQ, request, response, sent, sent_packets

LEGAL = {
    (Half.OPEN, Act.REQUEST): Half.OPEN,
    (Half.OPEN, Act.RESPONSE): Half.OPEN,
    (Half.OPEN, Act.ERQ): Half.ENDED_REQUESTS,
    (Half.OPEN, Act.EOF): Half.ENDED,
    (Half.ENDED_REQUESTS, Act.REQUEST): None,
    (Half.ENDED_REQUESTS, Act.RESPONSE): Half.ENDED_REQUESTS,
    (Half.ENDED_REQUESTS, Act.ERQ): Half.ENDED_REQUESTS,
    (Half.ENDED_REQUESTS, Act.EOF): Half.ENDED,
    (Half.ENDED, Act.REQUEST): None,
    (Half.ENDED, Act.RESPONSE): None,
    (Half.ENDED, Act.ERQ): None,
    (Half.ENDED, Act.EOF): None,
}
"""Every pair: what follows, or None if it is illegal."""

PAIRS = [pytest.param(half, act, after, id=f"{half.name}-{act.name}") for (half, act), after in LEGAL.items()]


def test_the_table_is_complete() -> None:
    assert set(LEGAL) == {(half, act) for half in Half for act in Act}
    assert {pair: after for pair, after in LEGAL.items() if after is not None} == TRANSITIONS


def engine_with_our_half(half: Half) -> ConnectionEngine:
    """An engine that owes one reply, as far as that half allows, and has sent nothing else."""
    engine = ConnectionEngine()
    if half is Half.ENDED:
        engine.end()
    engine.receive(request(5))
    if half is Half.ENDED_REQUESTS:
        engine.end_requests()
    assert engine.ours is half
    sent(engine)
    return engine


@pytest.mark.parametrize(("half", "act", "after"), PAIRS)
def test_what_we_send(half: Half, act: Act, after: Half | None) -> None:
    """Legal acts make the octets and move our half; illegal ones send nothing and leave it."""
    engine = engine_with_our_half(half)
    if act is Act.REQUEST:
        if after is None:
            with pytest.raises(ConnectionEnded):
                engine.request(1)
        else:
            engine.request(1)
        expected = [request(2, 2)]
    elif act is Act.RESPONSE:
        assert engine.respond(0, 5, True) == (after is not None)
        expected = [response(5)]
    elif act is Act.ERQ:
        engine.end_requests()
        expected = [ERQ] if half is Half.OPEN else []  # a second one says nothing new
    else:
        if after is not None:
            engine.respond(0, 5, True)
            sent(engine)
        engine.end()
        expected = [ERQ] * (half is Half.OPEN) + [EOF]
    assert engine.ours is (after or half)
    assert sent(engine) == (b"".join(expected) if after is not None else b"")


def engine_with_their_half(half: Half) -> ConnectionEngine:
    engine = ConnectionEngine()
    engine.request(1, waiter="waiting")
    if half is Half.ENDED_REQUESTS:
        engine.receive(ERQ)
    elif half is Half.ENDED:
        engine.receive(EOF)
    assert engine.theirs is half
    sent(engine)
    return engine


RECEIVED = {
    Act.REQUEST: (request(5), RequestReceived),
    Act.RESPONSE: (response(2), ResponseReceived),
    Act.ERQ: (ERQ, PeerEndedRequests),
    Act.EOF: (EOF, StreamEnded),
}


@pytest.mark.parametrize(("half", "act", "after"), PAIRS)
def test_what_we_receive(half: Half, act: Act, after: Half | None) -> None:
    """Legal acts are told and move the peer's half; a request after ERQ is answered, the rest is not heard."""
    engine = engine_with_their_half(half)
    octets, told = RECEIVED[act]
    events = engine.receive(octets)
    assert engine.theirs is (after or half)
    if after is None:
        assert events == []
        refused = [packet.payload for packet in sent_packets(engine)]
        assert refused == ([REQUESTS_ENDED] if half is Half.ENDED_REQUESTS else [])
        assert engine.trailing_octets == (octets if half is Half.ENDED else b"")
    elif (half, act) == (Half.ENDED_REQUESTS, Act.ERQ):
        assert events == [], "a second ERQ says nothing new"
    else:
        assert [type(event) for event in events] == [told]

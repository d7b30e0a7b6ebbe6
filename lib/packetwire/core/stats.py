"""The counters of one connection, for people and for programs that watch it.

Strategy: nothing is counted for this on the way of a request. Tags say how many requests were sent, the decoder
knows its position, and what goes out is counted by batches; the rest follows from what is still without a response.
"""

from __future__ import annotations

from dataclasses import dataclass

from packetwire.core.engine import ConnectionEngine
from packetwire.core.roundtrips import RoundTripTime


@dataclass(frozen=True, kw_only=True, slots=True)
class ConnectionStats:
    """The counters of one opening of a connection so far, as `conn.stats()` returns them.

    It holds for one moment. While threads are at work, those requests that change hands at that moment may be
    counted twice, or not at all.
    """

    requests_sent: int = 0
    """Our requests; those that still wait for room are none of them."""
    responses_received: int = 0
    """Responses to these, late ones among them."""
    outstanding: int = 0
    """Our requests that were sent and have no response yet."""
    given_up: int = 0
    """Our requests whose callers gave up before the response came: a time limit, a cancellation."""
    late_responses: int = 0
    """Responses that came after their caller had given up."""
    requests_received: int = 0
    """The peer's requests."""
    responses_sent: int = 0
    """Responses to these, those among them that are not written yet."""
    owed: int = 0
    """The peer's requests that have no response yet: their handlers run, or are to run."""
    refused: int = 0
    """The peer's requests that no handler saw: nobody serves them, a bound is reached, or the end has begun."""
    cancelled: int = 0
    """The peer's requests that it gave up before it had the response."""
    bytes_sent: int = 0
    """Bytes that were written to the stream."""
    bytes_received: int = 0
    """Bytes of all packets that came, and of the one that is arriving."""
    bytes_unsent: int = 0
    """Bytes that wait to be written."""
    rtt: RoundTripTime | None = None
    """Seconds for a packet to the peer and back, as `conn.rtt`."""
    age: float = 0.0
    """Seconds since the connection was opened."""
    silence: float | None = None
    """Seconds since the last packet of the peer was complete; None if none ever was."""


def stats_of(
    engine: ConnectionEngine, *, bytes_sent: int, rtt: RoundTripTime | None, age: float, silence: float | None
) -> ConnectionStats:
    """The counters of an engine, with what only its owner knows."""
    sent, outstanding, late = engine.requests_sent, engine.outstanding, engine.late_responses
    made, refused, unanswered = engine.responses_made, engine.refusals_made, engine.unanswered
    return ConnectionStats(
        requests_sent=sent,
        responses_received=max(0, sent - outstanding - engine.given_up - engine.lost + late),
        outstanding=outstanding,
        given_up=engine.given_up,
        late_responses=late,
        requests_received=made + refused + unanswered + engine.dropped,
        responses_sent=made,
        owed=unanswered,
        refused=refused,
        cancelled=0 if engine.control is None else engine.control.cancelled,
        bytes_sent=bytes_sent,
        bytes_received=engine.decoder.octets_decoded + engine.decoder.bytes_kept,
        bytes_unsent=engine.unsent_octets,
        rtt=rtt,
        age=age,
        silence=silence,
    )

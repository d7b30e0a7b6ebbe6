"""The counters of a connection follow from what the engine has anyway; here they are compared with the facts."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest
from tests.core.agreed import Waiter, agreed_pair, exchange, request_from, sent

from packetwire import ConnectionEnded, ConnectionStats
from packetwire.core.engine import ConnectionEngine
from packetwire.core.packets import EOF_PACKET
from packetwire.core.roundtrips import RoundTripTime
from packetwire.core.stats import stats_of


def stats(engine: ConnectionEngine) -> ConnectionStats:
    return stats_of(engine, bytes_sent=7, rtt=None, age=1.0, silence=None)


def pair(**options: object) -> tuple[ConnectionEngine, ConnectionEngine]:
    return ConnectionEngine(**options), ConnectionEngine()  # type: ignore[arg-type]


def test_nothing_has_happened() -> None:
    assert stats(ConnectionEngine()) == ConnectionStats(bytes_sent=7, age=1.0)
    with pytest.raises(FrozenInstanceError):
        stats(ConnectionEngine()).owed = 1  # type: ignore[misc]


def test_what_only_the_owner_knows_is_passed_on() -> None:
    rtt = RoundTripTime(3.0, 1.0, 2.0)
    made = stats_of(ConnectionEngine(), bytes_sent=5, rtt=rtt, age=2.0, silence=0.5)
    assert (made.bytes_sent, made.rtt, made.age, made.silence) == (5, rtt, 2.0, 0.5)


def test_requests_and_responses_at_both_ends() -> None:
    a, b = agreed_pair()
    before = stats(b).bytes_received
    for channel in (0, 0, 16, 16, 16):
        a.request(1, payload=b"x" * 50, channel=channel, waiter=Waiter())
    assert stats(a).bytes_unsent > 250
    b.receive(sent(a))
    found = stats(a)
    assert (found.requests_sent, found.outstanding, found.responses_received, found.bytes_unsent) == (5, 5, 0, 0)
    found = stats(b)
    assert (found.requests_received, found.owed, found.responses_sent) == (5, 5, 0)
    assert found.bytes_received > before + 250
    b.respond(0, 2, True)
    b.respond(16, 2, False)
    assert (stats(b).responses_sent, stats(b).owed, stats(b).requests_received) == (2, 3, 5), (
        "before they are taken"
    )
    a.receive(sent(b))
    assert (stats(b).responses_sent, stats(b).owed, stats(b).requests_received) == (2, 3, 5)
    assert (stats(a).responses_received, stats(a).outstanding, stats(a).requests_sent) == (2, 3, 5)
    assert stats(b).requests_sent == stats(a).requests_received == 0, "control requests are none"


def test_what_is_large_counts_as_well() -> None:
    """It leaves in pieces, by a way of its own; and so does all that is sent meanwhile and behind it."""
    a, b = agreed_pair()
    for number in range(6):
        request = request_from(a, b, waiter=Waiter())
        b.respond(0, request.tag, True, 0, bytes((2 << 20) + 1) if number % 2 else b"small")
        assert stats(b).responses_sent == number + 1
        exchange(a, b)
        found = stats(b)
        assert (found.requests_received, found.owed, found.responses_sent) == (number + 1, 0, number + 1)
        assert stats(a).responses_received == number + 1
    assert b.lane is not None


def test_large_requests_that_are_taken_back_or_never_leave() -> None:
    a, _ = agreed_pair()
    for _ in range(2):
        a.request(1, payload=bytes((1 << 20) + 1), waiter=Waiter())
    assert a.cancel(0, 2)
    assert (stats(a).given_up, stats(a).outstanding, stats(a).responses_received) == (1, 1, 0)


def test_part_of_a_packet_counts_as_received() -> None:
    a = ConnectionEngine()
    a.receive(bytes(EOF_PACKET)[:1])
    assert stats(a).bytes_received == 1


def test_given_up_and_late() -> None:
    a, b = agreed_pair()
    request = request_from(a, b, waiter=Waiter())
    assert a.forget(0, request.tag)
    assert not a.forget(0, request.tag)
    assert a.cancel(0, request.tag)
    b.receive(sent(a))
    assert (stats(a).given_up, stats(a).outstanding, stats(a).responses_received) == (1, 0, 0)
    assert (stats(b).cancelled, stats(b).owed) == (1, 1)
    b.respond(0, request.tag, False)
    exchange(a, b)
    assert (stats(a).late_responses, stats(a).responses_received) == (1, 1)
    assert (stats(b).responses_sent, stats(b).owed, stats(b).requests_received) == (1, 0, 1)


def test_a_cancel_of_an_old_peer_is_not_known() -> None:
    _, b = pair()
    assert stats(b).cancelled == 0


def test_refused_is_what_no_handler_saw() -> None:
    a, b = agreed_pair(accepts_requests=False)
    a.request(1, waiter=Waiter())
    a.request(1, channel=16, waiter=Waiter())
    a.ping(b"", Waiter())
    b.receive(sent(a))
    for _ in range(2):  # before and after they are sent
        found = stats(b)
        assert (found.refused, found.requests_received, found.responses_sent, found.owed) == (2, 2, 0, 0)
        a.receive(sent(b))
    assert stats(a).responses_received == 2


def test_requests_that_the_end_leaves_without_a_response() -> None:
    a, b = agreed_pair()
    for _ in range(3):
        request_from(a, b, waiter=Waiter())
    b.respond(0, 2, True)
    for engine in a, b:
        engine.fail(ConnectionEnded("gone"))
    found = stats(a)
    assert (found.requests_sent, found.outstanding, found.responses_received) == (3, 0, 0)
    found = stats(b)
    assert (found.requests_received, found.owed, found.responses_sent) == (3, 0, 1)
    assert found.bytes_received > 0, "what was received stays"


def test_a_request_that_can_be_answered_no_more() -> None:
    a, b = agreed_pair()
    request = request_from(a, b, waiter=Waiter())
    b.send_failed(BrokenPipeError())
    a.request(1, waiter=Waiter())
    b.receive(sent(a))
    assert stats(b).owed == 1, "what was asked before the end of the stream is done all the same"
    assert not b.respond(0, request.tag + 1, True)
    found = stats(b)
    assert (found.requests_received, found.owed, found.responses_sent) == (2, 0, 0)


def test_a_peer_that_breaks_the_protocol() -> None:
    a, b = agreed_pair()
    request_from(a, b, waiter=Waiter())
    before = stats(b).bytes_received
    b.receive(b"\x03\x63\x00\x01")  # a response that was never asked for
    found = stats(b)
    assert (found.requests_received, found.owed, found.responses_sent) == (1, 0, 0)
    assert found.bytes_received == before + 4


def test_a_request_that_is_overtaken_by_the_end() -> None:
    """Another thread was about to send it."""
    a, _ = pair()
    a.request(1, waiter=Waiter())
    request = a.data_to_send()
    a.data_sent()
    a.end_requests()
    a.unsent.extend(request)
    a.unsent_octets += len(request[0])
    a.data_to_send()
    found = stats(a)
    assert (found.requests_sent, found.outstanding, found.responses_received) == (1, 0, 0)

"""`conn.stats()`: what the engine counts, with the bytes and times of the stream. See `tests.core.test_stats`."""

from __future__ import annotations

import contextlib
import threading

import pytest

from packetwire import ConnectionStats, Packet, RequestTimeout

from .conftest import WATCHDOG, Ends, until


def echo(rq_type: int, flags: int, payload: bytes) -> bytes:
    return payload


def test_before_it_was_ever_opened(ends: Ends) -> None:
    assert ends.make().stats() == ConnectionStats()


def test_calls_both_ways(ends: Ends) -> None:
    ends.open(request_handler=echo)
    asker = ends.asker(request_handler=echo)
    assert ends.call(1, b"x" * 1000)[0]
    assert asker(2, b"y" * 1000)[0]
    assert asker(2, b"y" * 1000)[0]
    until(lambda: not ends.do(ends.conn.stats).owed)
    ours, theirs = ends.do(ends.conn.stats), asker.stats()
    assert (ours.requests_sent, ours.responses_received, ours.outstanding) == (1, 1, 0)
    assert (ours.requests_received, ours.responses_sent, ours.owed) == (2, 2, 0)
    assert (theirs.requests_sent, theirs.requests_received) == (2, 1)
    assert ours.bytes_sent > 3000
    assert ours.bytes_received > 3000
    assert ours.rtt is None
    assert ours.silence is not None
    assert ours.age >= ours.silence >= 0


def test_what_waits_for_a_response(ends: Ends) -> None:
    ends.open()
    peer = ends.peer()
    with contextlib.suppress(RequestTimeout):
        ends.call(1, timeout=0.01)
    (given_up,) = [peer.read()]
    later = ends.do(lambda: [ends.conn.submit(1)])[0]
    tag = peer.read().tag
    found = ends.do(ends.conn.stats)
    assert (found.requests_sent, found.outstanding, found.given_up, found.responses_received) == (2, 1, 1, 0)
    assert found.silence is None
    peer.send(
        *(Packet(is_request=False, channel=0, tag=each, flags=1, payload=b"") for each in (given_up.tag, tag))
    )
    assert ends.do(lambda: later() if callable(later) else later)[0]
    found = ends.do(ends.conn.stats)
    assert (found.responses_received, found.late_responses, found.outstanding) == (2, 1, 0)


def test_what_the_peer_waits_for(ends: Ends) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def handler(rq_type: int, flags: int, payload: bytes) -> bytes:
        begun.set()
        assert go_on.wait(WATCHDOG)
        return payload

    ends.open(request_handler=handler)
    asker = ends.asker()
    result = asker.submit(1)
    assert not asker(1, channel=16)[0]
    assert begun.wait(WATCHDOG)
    found = ends.do(ends.conn.stats)
    assert (found.requests_received, found.owed, found.refused, found.responses_sent) == (2, 1, 1, 0)
    go_on.set()
    assert result()[0]
    until(lambda: not ends.do(ends.conn.stats).owed)
    found = ends.do(ends.conn.stats)
    assert (found.requests_received, found.owed, found.refused, found.responses_sent) == (2, 0, 1, 1)


def test_the_way_to_the_peer(ends: Ends) -> None:
    ends.open(request_handler=echo)
    asker = ends.asker(request_handler=echo)
    assert ends.call(1)[0]
    ends.do(ends.conn.ping)
    assert ends.do(ends.conn.stats).rtt == ends.conn.rtt
    assert ends.do(ends.conn.stats).refused == asker.stats().refused == 0, "a PING is no request of anybody's"


def test_the_last_ones_stay_after_the_end(ends: Ends) -> None:
    with ends.face.opened(ends.make(request_handler=echo)):
        asker = ends.asker()
        assert asker(1, b"abc")[0]
        asker.close()
    found = ends.conn.stats()
    assert (found.requests_received, found.responses_sent) == (1, 1)
    assert found.bytes_received > 0
    assert found.bytes_sent > 0


@pytest.mark.parametrize("cancelled", [False, True])
def test_what_the_peer_gives_up(ends: Ends, cancelled: bool) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def handler(rq_type: int, flags: int, payload: bytes) -> bytes:
        if rq_type == 1:
            begun.set()
            assert go_on.wait(WATCHDOG)
        return payload

    ends.open(request_handler=handler, handlers=2)
    asker = ends.asker()
    assert asker(2)[0]
    result = asker.submit(1)
    assert begun.wait(WATCHDOG)
    if cancelled:
        result.cancel()
    assert asker(2)[0], "what came before this has been seen to"
    assert ends.do(ends.conn.stats).cancelled == cancelled
    assert asker.stats().given_up == cancelled
    go_on.set()

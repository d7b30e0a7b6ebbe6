"""What holds in every cell."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from packetwire import ConnectionEnded, RequestTimeout

from .links import Link
from .peer import ANSWER, DEFER, ECHO, FAIL, LIMIT

pytestmark = pytest.mark.timeout(4 * LIMIT)

MIB = 1 << 20
AtOnce = Callable[[Callable[[Any, Any], Any]], None]


def is_alive(asker: Any) -> bool:
    return asker.ask(ECHO, b"alive", 7) == (True, 7, b"alive")


def test_echo(at_once: AtOnce) -> None:
    def behaviour(asker: Any, answerer: Any) -> None:
        for payload in b"", b"x", bytes(range(256)), bytes(20_000):
            assert asker.ask(ECHO, payload, 3) == (True, 3, payload)

    at_once(behaviour)


def test_an_exception_is_told_and_harms_nothing(at_once: AtOnce) -> None:
    def behaviour(asker: Any, answerer: Any) -> None:
        assert asker.ask(FAIL, b"no such thing") == (False, 0, b"ValueError: no such thing")
        assert is_alive(asker)

    at_once(behaviour)


def test_deferred_replies_come_when_they_are_there(at_once: AtOnce) -> None:
    def behaviour(asker: Any, answerer: Any) -> None:
        numbers = [asker.submit(DEFER) for _ in range(3)]
        assert is_alive(asker)
        for i in range(3):
            assert asker.ask(ANSWER, b"%d" % i)[0]
        assert sorted(asker.result(number)[2] for number in numbers) == [b"0", b"1", b"2"]

    at_once(behaviour)


def test_requests_are_seen_in_the_order_in_which_they_were_made(at_once: AtOnce) -> None:
    def behaviour(asker: Any, answerer: Any) -> None:
        answerer.seen()
        expected = [b"%d" % i for i in range(200)]
        assert asker.echo_many(200, 50) == expected
        assert answerer.seen() == expected

    at_once(behaviour)


def test_many_in_flight(at_once: AtOnce) -> None:
    def behaviour(asker: Any, answerer: Any) -> None:
        assert asker.echo_many(2000, 500) == [b"%d" % i for i in range(2000)]

    at_once(behaviour)


def test_a_megabyte_each_way(at_once: AtOnce) -> None:
    def behaviour(asker: Any, answerer: Any) -> None:
        assert asker.echo_of_size(MIB)

    at_once(behaviour)


def test_megabytes_at_once(at_once: AtOnce) -> None:
    def behaviour(asker: Any, answerer: Any) -> None:
        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(asker.echo_of_size, [MIB] * 4))

    at_once(behaviour)


def test_a_side_that_has_ended_its_requests_still_answers(at_once: AtOnce, sides: list[tuple[Any, Any]]) -> None:
    def behaviour(asker: Any, answerer: Any) -> None:
        assert is_alive(asker)
        asker.end_requests()
        with pytest.raises(ConnectionEnded):
            asker.ask(ECHO)
        if len(sides) == 1:
            assert is_alive(answerer)

    at_once(behaviour)


def test_who_waits_is_told_of_an_abrupt_end(link: Link, sides: list[tuple[Any, Any]]) -> None:
    link.broken = True
    waiting = []
    for asker, answerer in sides:
        waiting.append((asker, answerer, asker.submit(DEFER)))
        answerer.await_deferred(1)
    for asker, answerer, number in reversed(waiting):  # the last to be cut is b, which may be a process
        answerer.cut()
        with pytest.raises(ConnectionEnded):
            asker.result(number)
        assert asker.await_end() in ("ChildExited", "PeerClosed", "StreamTruncated", "ConnectionEnded")
        with pytest.raises(ConnectionEnded):
            asker.ask(ECHO)
        assert asker.counts()[0] == 0


def test_a_timeout_leaves_nothing(at_once: AtOnce) -> None:
    def behaviour(asker: Any, answerer: Any) -> None:
        late = asker.counts()[1]
        with pytest.raises(RequestTimeout):
            asker.ask(DEFER, timeout=0.01)
        assert asker.counts()[0] == 0
        while asker.counts() != (0, late + 1):  # at once if it was not begun, else when the far end has answered
            if answerer.number_deferred():
                assert asker.ask(ANSWER)[0]
            assert is_alive(asker)

    at_once(behaviour)


def test_a_cancelled_request_leaves_nothing(at_once: AtOnce) -> None:
    def behaviour(asker: Any, answerer: Any) -> None:
        late = asker.counts()[1]
        number = asker.submit(DEFER)
        answerer.await_deferred(1)
        asker.cancel(number)
        assert asker.counts()[0] == 0
        assert asker.ask(ANSWER)[0]
        assert is_alive(asker)
        while asker.counts() != (0, late + 1):  # what a cancelled result comes to may be later
            assert is_alive(asker)

    at_once(behaviour)


def test_the_stream_can_be_used_again_after_a_clean_end(link: Link, sides: list[tuple[Any, Any]]) -> None:
    for _ in range(3):
        for asker, _ in sides:
            assert is_alive(asker)
        with ThreadPoolExecutor(2) as pool:
            for step in "close", "open":
                for doing in [pool.submit(getattr(peer, step)) for peer in (link.a, link.b)]:
                    doing.result(LIMIT)
    for asker, _ in sides:
        assert is_alive(asker)

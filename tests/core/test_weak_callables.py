"""What drives a connection calls what the connection was given, and does not keep it."""

from __future__ import annotations

from typing import Any

import pytest

from packetwire.core.channels import Weak, WeakHandler, WeakObserver, WeakReceiver
from packetwire.core.engine import NOT_DONE, ConnectionEngine
from packetwire.core.events import PeerEndedRequests, RequestReceived
from packetwire.core.packets import Packet
from packetwire.errors import RequestError

REQUEST = RequestReceived(16, 2, 1, 0, b"asked")


class Slotted:
    """What cannot be referred to weakly."""

    __slots__ = ()

    def __call__(self, *args: Any) -> tuple[Any, ...]:
        return args


def given() -> Any:
    """A function of which nobody else knows."""
    return lambda *args: args


def test_what_is_there_is_called() -> None:
    function = given()
    assert WeakHandler(function)(1, 0, b"x") == (1, 0, b"x")
    assert WeakReceiver(function)(REQUEST) == (REQUEST,)
    assert WeakObserver(function)("seen") is None  # type: ignore[func-returns-value]
    assert Weak(function).func is function


def test_an_observer_sees_everything() -> None:
    seen: list[Any] = []

    def observe(*args: Any) -> None:
        seen.append(args)

    WeakObserver(observe)(1, 2)
    assert seen == [(1, 2)]


def test_what_is_gone_is_not_missed() -> None:
    weak, receiver, observer = Weak(given()), WeakReceiver(given()), WeakObserver(given())
    assert weak.func is None
    assert receiver(PeerEndedRequests()) is None
    observer("seen")


def test_a_request_for_what_is_gone_is_answered() -> None:
    for call in (lambda: WeakHandler(given())(1, 0, b""), lambda: WeakReceiver(given())(REQUEST)):
        with pytest.raises(RequestError, match=NOT_DONE.decode()):
            call()


def test_what_cannot_be_referred_to_weakly_is_kept() -> None:
    assert WeakHandler(Slotted())(1, 0, b"x") == (1, 0, b"x")


def test_an_engine_that_lets_go_keeps_nothing_of_a_packet_that_had_begun() -> None:
    engine = ConnectionEngine()
    engine.receive(
        Packet(is_request=True, channel=0, tag=2, flags=0, rq_type=1, payload=bytes(9000)).__bytes__()[:5000]
    )
    assert engine.partial_octets != b""
    engine.let_go()
    assert engine.partial_octets == b""
    assert engine.octets_wanted >= 0

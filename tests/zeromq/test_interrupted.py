"""A signal that comes in the middle of a call of ZMQ has its handler run, and changes nothing else."""

from __future__ import annotations

import errno
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import zmq

from packetwire import PacketConnection
from packetwire.messaging import Protocol
from packetwire.messaging.zmq import DealerChannel, RouterChannel
from packetwire.streams.zmq import open_dealer, open_pair
from packetwire.streams.zmqrouter import ZmqListener
from packetwire.zmq.calls import uninterrupted

from .conftest import WAIT, accepted, echo

pytestmark = pytest.mark.timeout(60)

NOT_REPEATED = ("monitor", "disconnect", "unbind")
"""What pyzmq itself does not call again."""


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Each first and second call of these is interrupted; their names."""
    names: list[str] = []

    def interrupt(name: str) -> None:
        real = getattr(zmq.Socket, name)

        def call(sock: Any, *args: Any) -> Any:
            names.append(name)
            if len(names) % 3:
                raise zmq.InterruptedSystemCall() if name == "monitor" else zmq.ZMQError(errno.EINTR)
            return real(sock, *args)

        monkeypatch.setattr(zmq.Socket, name, call)

    for name in NOT_REPEATED:
        interrupt(name)
    return names


@pytest.mark.parametrize("opener", [open_dealer, open_pair])
def test_opening_and_closing(
    interrupted: list[str], listening: Callable[..., ZmqListener], linked_endpoint: str, opener: Any
) -> None:
    listener = listening(linked_endpoint, pair=opener is open_pair)
    with (
        PacketConnection(lambda: opener(listener.endpoint)) as client,
        PacketConnection(accepted(listener), request_handler=echo),
    ):
        assert client(1, b"x", timeout=WAIT) == (True, 0, b"x")
    assert "monitor" in interrupted


def test_a_channel_whose_link_is_lost(interrupted: list[str], linked_endpoint: str) -> None:
    with RouterChannel(Protocol()) as router, DealerChannel(Protocol()) as dealer:
        dealer.connect(router.bind(linked_endpoint))
        dealer.start()
        assert dealer.wait_linked(WAIT)
        router.close()
        assert dealer.wait_until(lambda: not dealer.sessions, WAIT)
    assert "disconnect" in interrupted


def test_other_errors_are_not_repeated() -> None:
    calls: list[int] = []

    def fail() -> None:
        calls.append(1)
        raise zmq.ZMQError(errno.EADDRINUSE)

    with pytest.raises(zmq.ZMQError, match="in use"):
        uninterrupted(fail)
    assert calls == [1]


@pytest.fixture
def storm() -> Iterator[list[int]]:
    """A signal every millisecond."""
    seen: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, _: seen.append(number))
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    yield seen
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("opener", [open_dealer, open_pair])
def test_openings_among_many_signals(
    storm: list[int], listening: Callable[..., ZmqListener], linked_endpoint: str, opener: Any
) -> None:
    listener = listening(linked_endpoint, pair=opener is open_pair)
    for _ in range(30):
        with (
            PacketConnection(lambda: opener(listener.endpoint)) as client,
            PacketConnection(accepted(listener), request_handler=echo),
        ):
            assert client(1, b"x", timeout=WAIT)[0]
    assert storm

"""Looking again before sleeping: when it is done, when it is given up, and that it can be left out."""

from __future__ import annotations

from typing import Any

import pytest

from packetwire import LocalProtocolError, PacketConnection
from packetwire.hosts.threads.spinning import SPIN_PATIENCE, SPIN_PROBE, Spin

pytestmark = pytest.mark.timeout(30)

FOUND = [(3, 1)]
SECONDS = 1e-6


class Poll:
    """Finds something at the looks that are said."""

    def __init__(self) -> None:
        self.looks = 0
        self.finds_at: int | None = None

    def __call__(self, timeout: int) -> list[Any]:
        assert timeout == 0
        self.looks += 1
        return FOUND if self.looks == self.finds_at else []

    def looked(self) -> bool:
        looks, self.looks = self.looks, 0
        return looks > 0


def test_it_looks_until_something_is_there() -> None:
    poll = Poll()
    poll.finds_at = 1000
    assert Spin(poll, seconds=1000)() == FOUND
    assert poll.looks == 1000


def test_it_is_given_up_after_some_misses_and_tried_again_now_and_then() -> None:
    poll = Poll()
    spin = Spin(poll, SECONDS)
    tried = []
    for _ in range(SPIN_PATIENCE + 3 * SPIN_PROBE):
        assert not spin()
        tried.append(poll.looked())
    assert tried[:SPIN_PATIENCE] == [True] * SPIN_PATIENCE
    assert tried[SPIN_PATIENCE:] == ([False] * (SPIN_PROBE - 1) + [True]) * 3


def test_one_success_restores_it() -> None:
    poll = Poll()
    spin = Spin(poll, SECONDS)
    while True:
        spin()
        if not poll.looked():
            break
    poll.finds_at = 1
    while not spin():
        pass
    poll.finds_at = None
    poll.looked()
    for _ in range(SPIN_PATIENCE):
        assert not spin()
        assert poll.looked()
    spin()
    assert not poll.looked()


def test_without_seconds_it_never_looks() -> None:
    poll = Poll()
    spin = Spin(poll, 0)
    assert not any(spin() for _ in range(2 * SPIN_PROBE))
    assert not poll.looked()


@pytest.mark.parametrize("handlers", [4, "inline"])
@pytest.mark.parametrize("spin", [0, 1e-3])
def test_requests_are_served_with_and_without_it(fd_connect: Any, handlers: Any, spin: float) -> None:
    served = {"request_handler": lambda rq_type, flags, payload: payload, "handlers": handlers, "spin": spin}
    a, b = fd_connect(served, served)
    for i in range(100):
        assert a(1, b"%d" % i) == (True, 0, b"%d" % i)
        assert b(1, b"%d" % i) == (True, 0, b"%d" % i)
    assert [reply for _, _, reply in a.map([(1, b"%d" % i) for i in range(200)])] == [b"%d" % i for i in range(200)]


@pytest.mark.parametrize("spin", [-1, "soon", None])
def test_what_is_no_time_is_refused(spin: Any) -> None:
    with pytest.raises(LocalProtocolError, match="spin must be 0 or more seconds"):
        PacketConnection((0, 1), spin=spin)

"""How long a packet takes there and back."""

from __future__ import annotations

import pytest

from packetwire import ConnectionEnded
from packetwire.core.roundtrips import SMOOTHING, PingWaiter, RoundTrips


def test_several_measurements() -> None:
    trips = RoundTrips()
    assert trips.time is None
    trips.add(0.5)
    assert trips.time == (0.5, 0.5, 0.5)
    trips.add(1.3)
    assert trips.time == (1.3, 0.5, pytest.approx(0.5 + 0.8 / SMOOTHING))
    trips.add(0.25)
    assert trips.time is not None
    assert trips.time.last == trips.time.smallest == 0.25
    for _ in range(200):
        trips.add(2.0)
    assert trips.time.smallest == 0.25
    assert trips.time.smoothed == pytest.approx(2.0, abs=1e-6)


def test_a_ping_is_measured_when_it_is_answered() -> None:
    trips = RoundTrips()
    now = 7.0
    waiter = PingWaiter(trips, now, lambda: now)
    waiter.fail(ConnectionEnded("it broke"))
    assert trips.time is None
    now = 7.25
    waiter.set_response(True, 0, b"")
    assert trips.time == (0.25, 0.25, 0.25)

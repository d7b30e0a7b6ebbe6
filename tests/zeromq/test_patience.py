"""Seconds that are spent, and come back slowly."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packetwire.streams.patience import Patience

LIMIT, SHARE = 5.0, 0.1
SECONDS = st.floats(0.0, 100.0)


def test_it_is_spent_and_comes_back() -> None:
    patience = Patience(LIMIT, SHARE)
    assert patience.left(1000.0) == LIMIT
    patience.spend(3.0, 1003.0)
    assert patience.left(1003.0) == pytest.approx(2.0)
    assert patience.left(1013.0) == pytest.approx(3.0)
    assert patience.left(2000.0) == LIMIT


def test_more_than_there_was_is_a_debt() -> None:
    patience = Patience(LIMIT, SHARE)
    patience.spend(7.0, 1007.0)
    assert patience.left(1007.0) == pytest.approx(-2.0)
    assert patience.left(1027.0) == pytest.approx(0.0)
    assert patience.left(1032.0) == pytest.approx(0.5)


@given(st.lists(st.tuples(SECONDS, SECONDS), max_size=20), SECONDS)
def test_no_more_than_the_limit_and_a_share_of_the_time_is_spent(
    spells: list[tuple[float, float]], last: float
) -> None:
    """By who spends only what is left."""
    patience = Patience(LIMIT, SHARE)
    now = spent = 0.0
    for pause, wanted in spells:
        now += pause
        seconds = min(wanted, max(0.0, patience.left(now)))
        now += seconds
        patience.spend(seconds, now)
        spent += seconds
    assert spent <= LIMIT + now * SHARE + 1e-6
    assert patience.left(now + last) <= LIMIT

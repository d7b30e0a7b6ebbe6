"""A role is the same thing in Python, where it is a dict, and compiled."""

from __future__ import annotations

from typing import Any

import pytest

from packetwire.hosts.threads import role
from sources import plain

ROLES = [role.Role, plain("hosts.threads.role").Role]


@pytest.fixture(params=ROLES, ids=["in use", "in Python"])
def made(request: pytest.FixtureRequest) -> Any:
    return request.param()


def test_it_is_taken_by_the_first_who_comes(made: Any) -> None:
    assert not made
    assert (made.holder, made.get(0)) == (0, None)
    assert made.setdefault(0, 7) == 7
    assert made.setdefault(0, 8) == 7
    assert made
    assert (made.holder, made.get(0), made.get(0, 9)) == (7, 7, 7)


def test_it_is_given_up_by_who_has_it(made: Any) -> None:
    assert not made.give_up(7)
    made.setdefault(0, 7)
    assert not made.give_up(8)
    assert made.give_up(7)
    assert not made
    made.setdefault(0, 8)
    assert made.pop(0, None) == 8
    assert made.pop(0, None) is None
    assert made.get(0, 9) == 9


def test_it_can_be_passed_on_and_closed(made: Any) -> None:
    made.setdefault(0, 7)
    made[0] = role.CLOCK
    assert made.holder == role.CLOCK
    made.close()
    assert made.setdefault(0, 7) == role.CLOSED
    assert made.give_up(role.CLOSED)


def test_numbers_that_are_equal_are_the_same_holder(made: Any) -> None:
    ident = 1 << 40
    made.setdefault(0, ident)
    assert made.setdefault(0, int(str(ident))) == ident
    assert made.give_up(int(str(ident)))

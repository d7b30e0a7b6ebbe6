"""Which failures are logged one by one, and which are only counted."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pytest

from packetwire import BaseRequest, LocalProtocolError
from packetwire.core.faults import MAX_KINDS, SINGLY, FaultCounter, Worth, caused_by_peer, is_caused_by_peer
from packetwire.core.requests import HasRequestMap


def raised(error: Exception) -> Exception:
    try:
        raise error
    except Exception as caught:
        return caught


def elsewhere() -> Exception:
    try:
        raise ValueError
    except ValueError as caught:
        return caught


def test_the_first_of_a_kind_are_single_and_the_others_counted() -> None:
    counter = FaultCounter()
    counted = [counter.add(raised(ValueError(f"{number}"))) for number in range(SINGLY + 1200)]
    assert [each.worth for each in counted[: SINGLY + 2]] == [
        *[Worth.SINGLE] * SINGLY,
        Worth.FIRST_COUNTED,
        Worth.NOTHING,
    ]
    assert [each.number for each in counted if each.worth is Worth.ROUND] == [10, 100, 1000]
    assert counter.only_counted() == counter.only_counted() == 1200
    assert counter.add(raised(ValueError())).number == 1201
    assert sum(each.worth is not Worth.NOTHING for each in counted) == SINGLY + 4


def test_another_kind_is_single_again() -> None:
    counter = FaultCounter()
    for _ in range(SINGLY + 5):
        counter.add(raised(ValueError()))
    assert counter.add(raised(KeyError())).worth is Worth.SINGLE
    assert counter.add(elsewhere()).worth is Worth.SINGLE
    assert counter.add(ValueError("never raised")).worth is Worth.SINGLE
    assert counter.add(raised(ValueError())).worth is Worth.NOTHING


def test_kinds_are_bounded() -> None:
    counter = FaultCounter()
    worth = Counter(counter.add(type(f"Error{n}", (Exception,), {})()).worth for n in range(MAX_KINDS + 100))
    assert worth == {Worth.SINGLE: MAX_KINDS, Worth.FIRST_COUNTED: 1, Worth.ROUND: 2, Worth.NOTHING: 97}
    assert counter.only_counted() == 100


def test_the_line_that_raised_it_is_the_innermost() -> None:
    counter = FaultCounter()

    def fail(one: bool) -> None:
        if one:
            raise ValueError
        raise ValueError

    for one in [True] * SINGLY + [False]:
        with pytest.raises(ValueError) as caught:
            fail(one)
        assert counter.add(caught.value).worth is Worth.SINGLE


@dataclass(frozen=True)
class FrozenError(Exception):
    text: str


@pytest.mark.parametrize("error", [ValueError("x"), FrozenError("x"), LocalProtocolError("x")])
def test_what_the_peer_caused(error: Exception) -> None:
    assert not is_caused_by_peer(error)
    caused_by_peer(error)
    assert is_caused_by_peer(error)


@pytest.mark.parametrize("error", [NameError("x"), AttributeError("x"), NotImplementedError("x")])
def test_what_no_input_explains(error: Exception) -> None:
    caused_by_peer(error)
    assert not is_caused_by_peer(error)


class Picky(BaseRequest[None]):
    @classmethod
    def from_bytes(cls, bs: bytes) -> Picky:
        if bs != b"ok":
            raise ValueError("not ok")
        return cls()

    def fulfil(self, context: object) -> None:
        raise ValueError("in fulfil")


class Service(HasRequestMap):
    def __init__(self) -> None:
        self._keep_request_map({3: Picky})


@pytest.mark.parametrize(
    ("rq_type", "payload", "text", "by_peer"),
    [
        (4, b"ok", "unknown request type 4", True),
        (3, b"no", "not ok", True),
        (3, b"ok", "in fulfil", False),
    ],
)
def test_a_request_that_cannot_be_decoded(rq_type: int, payload: bytes, text: str, by_peer: bool) -> None:
    with pytest.raises(ValueError, match=text) as caught:
        Service().conn_handle_request(rq_type, 0, payload)
    assert is_caused_by_peer(caught.value) is by_peer

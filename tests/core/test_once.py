"""Requests that are done at most once: the table of their results."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packetwire import CapabilityMissing, RequestError
from packetwire.core import once
from packetwire.core.capabilities import Capabilities, Mode
from packetwire.core.engine import ConnectionEngine
from packetwire.core.hello import Feature, Hello
from packetwire.core.once import CALL_BYTES, ResultTable
from packetwire.core.requestids import Repeated, RequestId, RequestIds

from .agreed import agreed_pair, known

A, B = b"client a", b"client b"


def table(results: int = 3, size: int = 1 << 20, seconds: float = 10.0) -> ResultTable:
    return ResultTable(results, size, seconds)


def outcome() -> bytes:
    return b"done"


def do(done: ResultTable, client: bytes, number: int, now: float = 0.0, size: int = 0) -> None:
    _, is_new = done.begin(client, number, now)
    assert is_new
    done.finish(client, number, outcome, size, now)


def test_ids_go_up() -> None:
    ids = RequestIds(A)
    assert [ids.next() for _ in range(2)] == [RequestId(1, 1), RequestId(2, 1)]


def test_an_engine_has_those_of_its_end() -> None:
    ids = RequestIds(A)
    own = Hello(features=Feature.REQUEST_IDS)
    assert ConnectionEngine(capabilities=Capabilities(Mode.AUTO, own, None, ids)).request_ids is ids
    assert ConnectionEngine().request_ids is None


def test_a_peer_that_remembers_nothing() -> None:
    a, b = agreed_pair(Feature.META | Feature.REQUEST_IDS)
    assert known(a).features == known(b).features == Feature.META
    with pytest.raises(CapabilityMissing, match="a call: the peer's service has no Dedup, which would remember"):
        known(a).check(Feature.META | Feature.REQUEST_IDS, "a call")


def test_a_peer_that_remembers() -> None:
    features = Feature.META | Feature.REQUEST_IDS
    a, b = agreed_pair(own_a=Hello(features=features), own_b=Hello(features=features, epoch=b"12345678"))
    assert (known(a).features, known(b).features) == (features, Feature.META)


def test_a_request_that_comes_again_is_answered_as_before() -> None:
    done = table()
    entry, is_new = done.begin(A, 1, 0.0)
    assert is_new
    again, is_new = done.begin(A, 1, 1.0)
    assert (again, is_new) == (entry, False)
    again.waiting.append("waits")  # type: ignore[arg-type]
    assert done.finish(A, 1, outcome, 4, 2.0) == ["waits"]
    assert done.begin(A, 1, 3.0) == (entry, False)
    assert entry.outcome is outcome
    assert done.begin(B, 1, 3.0)[1]


@pytest.mark.parametrize(
    ("options", "now", "size"),
    [({"results": 1}, 0.0, 0), ({"size": 2 * CALL_BYTES + 5}, 0.0, 3), ({}, 10.0, 0)],
    ids=["too many", "too large together", "too old"],
)
def test_one_whose_result_is_gone_is_refused(options: Any, now: float, size: int) -> None:
    done = table(**options)
    do(done, A, 1, size=size)
    do(done, A, 2, now, size=size)
    with pytest.raises(Repeated, match="its result is not kept any more"):
        done.begin(A, 1, now)
    assert not done.begin(A, 2, now)[1]
    assert done.begin(A, 3, now)[1]


def test_one_that_comes_late_behind_others_that_are_forgotten_is_refused_too() -> None:
    """It may have been done: nobody knows any more."""
    done = table(results=1)
    running, _ = done.begin(A, 1, 0.0)
    for number in (3, 4):
        do(done, A, number)
    with pytest.raises(Repeated):
        done.begin(A, 2, 0.0)
    assert done.begin(A, 1, 0.0) == (running, False)
    assert done.begin(B, 2, 0.0)[1]


def test_the_clients_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(once, "MAX_CLIENTS", 2)
    done = table(results=1)
    for client in (b"1", b"2", b"3"):
        do(done, client, 1)
    with pytest.raises(RequestError, match="too many clients"):
        done.begin(b"4", 1, 0.0)
    with pytest.raises(Repeated):
        done.begin(b"1", 1, 9.0)
    do(done, b"4", 1, 10.0)  # nobody repeats a request after so long


def test_those_under_way_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(once, "MAX_UNDER_WAY", 2)
    done = table()
    for number in (1, 2):
        done.begin(A, number, 0.0)
    with pytest.raises(RequestError, match="too many requests"):
        done.begin(A, 3, 0.0)
    done.finish(A, 1, outcome, 0, 0.0)
    assert done.begin(A, 3, 0.0)[1]


@given(
    st.lists(st.tuples(st.sampled_from([A, B]), st.integers(1, 6), st.booleans(), st.integers(0, 3)), max_size=60)
)
def test_nothing_is_done_twice(steps: list[tuple[bytes, int, bool, int]]) -> None:
    done = table(results=2, seconds=5.0)
    begun: set[tuple[bytes, int]] = set()
    running: set[tuple[bytes, int]] = set()
    now = 0.0
    for client, number, finishes, seconds in steps:
        now += seconds
        key = client, number
        if finishes and key in running:
            running.remove(key)
            done.finish(client, number, outcome, 0, now)
            continue
        try:
            _, is_new = done.begin(client, number, now)
        except Repeated:
            continue
        if is_new:
            assert key not in begun
            begun.add(key)
            running.add(key)
        assert len(done._done) <= 2

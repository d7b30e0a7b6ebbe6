"""Reports of progress on their way to a user's function: in order, one at a time, and never too many."""

from __future__ import annotations

from threading import Barrier, Thread

import pytest

from packetwire.core.progress import MAX_KEPT, Reports


def test_each_is_delivered_in_order() -> None:
    told: list[bytes] = []
    reports = Reports(told.append)
    assert reports.add(b"1")
    assert not reports.add(b"2"), "whoever delivers the first takes this one, too"
    reports.deliver()
    assert told == [b"1", b"2"]
    assert reports.add(b"3")
    reports.deliver()
    assert told == [b"1", b"2", b"3"]


def test_one_that_comes_while_another_is_delivered() -> None:
    told: list[bytes] = []

    def callback(payload: bytes) -> None:
        told.append(payload)
        if payload == b"1":
            assert not reports.add(b"2")

    reports = Reports(callback)
    assert reports.add(b"1")
    reports.deliver()
    assert told == [b"1", b"2"]


def test_of_many_the_last_count() -> None:
    told: list[bytes] = []
    reports = Reports(told.append)
    for number in range(200):
        reports.add(b"%d" % number)
    reports.deliver()
    assert told == [b"%d" % number for number in range(200 - MAX_KEPT, 200)]


def test_a_function_that_raises() -> None:
    told: list[bytes] = []

    def callback(payload: bytes) -> None:
        told.append(payload)
        if payload == b"1":
            raise ValueError(payload)

    reports = Reports(callback)
    reports.add(b"1")
    reports.add(b"2")
    with pytest.raises(ValueError, match="1"):
        reports.deliver()
    assert told == [b"1"]
    assert reports.add(b"3"), "it is not given up"
    reports.deliver()
    assert told == [b"1", b"2", b"3"]


def test_one_that_comes_in_the_moment_before_the_turn_is_given_back() -> None:
    told: list[bytes] = []
    reports = Reports(told.append)

    class Turn(list[None]):
        def append(self, item: None) -> None:
            if len(told) == 1:
                reports._payloads.append(b"2")  # its `add` found the turn taken
            super().append(item)

    reports._turn = Turn([None])
    assert reports.add(b"1")
    reports.deliver()
    assert told == [b"1", b"2"]


def test_one_whose_own_thread_delivers_it() -> None:
    told: list[bytes] = []
    reports = Reports(told.append)

    class Turn(list[None]):
        def append(self, item: None) -> None:
            reports._payloads.append(b"2")  # another thread adds it, and takes the turn

    reports._turn = Turn([None])
    assert reports.add(b"1")
    reports.deliver()
    assert told == [b"1"]


def test_threads_that_add_and_deliver() -> None:
    """Nothing is delivered twice, or by two at the same time; what was added last is delivered."""
    told: list[bytes] = []
    inside: list[None] = []

    def callback(payload: bytes) -> None:
        assert not inside
        inside.append(None)
        told.append(payload)
        inside.pop()

    reports = Reports(callback)
    start = Barrier(3)

    def work(number: int) -> None:
        start.wait()
        for each in range(1000):
            if reports.add(b"%d %d" % (number, each)):
                reports.deliver()

    threads = [Thread(target=work, args=(number,), daemon=True) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert len(told) == len(set(told))
    assert not reports._payloads
    assert {b"0 999", b"1 999", b"2 999"}.intersection(told)

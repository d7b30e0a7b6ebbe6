"""Requests that stand in a queue although they were given up: each is claimed once, and they are swept."""

from __future__ import annotations

from collections import deque
from itertools import chain
from threading import Barrier, Thread
from typing import Any

from packetwire.core.cancelled import SWEEP_FROM, CancelledRequests
from packetwire.core.packetcodec import Fields


def request(key: Any) -> Fields:
    return key, 0, 1, b""


def test_each_is_claimed_once() -> None:
    cancelled = CancelledRequests()
    assert not cancelled.claim(2)
    cancelled.add(2)
    cancelled.add((16, 2))
    cancelled.add(2)
    assert cancelled.claim(2)
    assert not cancelled.claim(2)
    assert list(cancelled.keys) == [(16, 2)]


def test_a_queue_of_few_is_not_swept() -> None:
    cancelled = CancelledRequests()
    queue = deque(map(request, range(SWEEP_FROM - 1)))
    for key, *_ in queue:
        cancelled.add(key)
    cancelled.sweep(queue)
    assert len(queue) == len(cancelled.keys) == SWEEP_FROM - 1


def test_a_queue_of_which_few_are_cancelled_is_not_swept() -> None:
    cancelled = CancelledRequests()
    queues = deque(map(request, range(SWEEP_FROM))), deque(map(request, range(SWEEP_FROM, 2 * SWEEP_FROM + 1)))
    for key in range(SWEEP_FROM):
        cancelled.add(key)
    cancelled.sweep(*queues)
    assert len(cancelled.keys) == SWEEP_FROM
    queues[1].pop()
    cancelled.sweep(*queues)
    assert cancelled.keys == {}
    assert [len(queue) for queue in queues] == [0, SWEEP_FROM]


def test_what_is_left_keeps_its_order() -> None:
    cancelled = CancelledRequests()
    queue = deque(map(request, range(3 * SWEEP_FROM)))
    for key in range(0, 3 * SWEEP_FROM, 2):
        cancelled.add(key)
    cancelled.add((16, 5))
    cancelled.sweep(queue)
    assert [key for key, *_ in queue] == list(range(1, 3 * SWEEP_FROM, 2))
    assert list(cancelled.keys) == [(16, 5)], "one that stands elsewhere"


def test_the_queues_are_bounded_whatever_the_peer_does() -> None:
    """It asks and gives up in a loop, and nobody comes to begin anything."""
    cancelled = CancelledRequests()
    queue: deque[Fields] = deque(map(request, range(10)))
    longest = 0
    for tag in range(10, 20_000):
        queue.append(request(tag))
        cancelled.add(tag)
        cancelled.sweep(queue)
        longest = max(longest, len(queue))
    assert longest <= SWEEP_FROM + 10
    assert [key for key, *_ in queue][:10] == list(range(10))


def test_threads_that_begin_while_one_sweeps() -> None:
    """Each request is begun, or was cancelled: never both, and never neither."""
    cancelled = CancelledRequests()
    queue: deque[Fields] = deque()
    begun: list[list[Any]] = [[], [], []]
    refused: list[list[Any]] = [[], [], []]
    start = Barrier(4)
    over: list[bool] = []

    def begin(number: int) -> None:
        start.wait()
        while True:
            is_over = bool(over)  # first this, so that nothing is left behind it
            try:
                key = queue.popleft()[0]
            except IndexError:
                if is_over:
                    return
                continue
            (refused if cancelled.claim(key) else begun)[number].append(key)

    threads = [Thread(target=begin, args=(number,), daemon=True) for number in range(3)]
    for thread in threads:
        thread.start()
    start.wait()
    swept = 0
    for tag in range(5000):
        cancelled.add(tag)
        queue.append(request(tag))
        before = len(cancelled.keys)
        cancelled.sweep(queue)
        swept += before >= SWEEP_FROM
    for tag in range(5000, 5500):
        queue.append(request(tag))
    over.append(True)
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert sorted(chain.from_iterable(begun)) == list(range(5000, 5500))
    assert cancelled.keys == {}
    keys = list(chain.from_iterable(refused))
    assert len(keys) == len(set(keys))


def test_several_threads_claim_the_same() -> None:
    cancelled = CancelledRequests()
    for tag in range(3000):
        cancelled.add(tag)
    start = Barrier(4)
    claimed: list[list[int]] = [[] for _ in range(4)]

    def claim(number: int) -> None:
        start.wait()
        for tag in range(3000):
            if cancelled.claim(tag):
                claimed[number].append(tag)

    threads = [Thread(target=claim, args=(number,), daemon=True) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert sorted(chain.from_iterable(claimed)) == list(range(3000))


def test_a_queue_that_another_thread_empties() -> None:
    class Emptied(deque[Fields]):
        def popleft(self) -> Fields:
            raise IndexError

    cancelled = CancelledRequests()
    for tag in range(SWEEP_FROM):
        cancelled.add(tag)
    queue = Emptied([request(5)])
    cancelled.sweep(queue)
    assert len(cancelled.keys) == SWEEP_FROM

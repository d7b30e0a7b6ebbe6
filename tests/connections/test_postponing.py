"""What is put off, so that more leaves or is done together, is done all the same if nothing follows.

Each is tried after a load of many requests at a time, under which most is done by the clock.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(60)

LIMIT = 30
ROUNDS = 50
NOTE, BLOCK, QUICK = 1, 2, 3


class Peer:
    """Says which requests it got; a BLOCK waits for `release`."""

    def __init__(self) -> None:
        self.got: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self.release = threading.Semaphore(0)

    def handle(self, rq_type: int, flags: int, payload: bytes) -> bytes:
        if rq_type == NOTE:
            self.got.put(payload)
        elif rq_type == BLOCK:
            assert self.release.acquire(timeout=LIMIT)
        return payload


@pytest.fixture
def peer() -> Peer:
    return Peer()


@pytest.fixture
def loaded(peer: Peer, fd_connect: Any) -> Callable[[], Any]:
    a, _ = fd_connect(b={"request_handler": peer.handle})

    def load() -> Any:
        assert sum(ok for ok, _, _ in a.map([(QUICK, b"x")] * 300)) == 300
        return a

    return load


@pytest.mark.parametrize("number", [1, 4, 20])
def test_requests_leave_though_nobody_waits_for_their_responses(
    loaded: Callable[[], Any], peer: Peer, number: int
) -> None:
    for _ in range(ROUNDS):
        conn = loaded()
        results = [conn.submit(NOTE, payload=b"%d" % i) for i in range(number)]
        # the calling thread waits for something else than the connection
        assert sorted(peer.got.get(timeout=LIMIT) for _ in range(number)) == sorted(
            b"%d" % i for i in range(number)
        )
        assert all(result()[0] for result in results)


@pytest.mark.parametrize("number", [1, 3])
def test_requests_behind_handlers_that_wait_are_served(loaded: Callable[[], Any], peer: Peer, number: int) -> None:
    for _ in range(ROUNDS):
        conn = loaded()
        blocked = [conn.submit(BLOCK) for _ in range(number)]
        quick = [conn.submit(QUICK, payload=b"%d" % i) for i in range(8)]
        assert [result(timeout=LIMIT)[2] for result in quick] == [b"%d" % i for i in range(8)]
        assert not any(result.ready for result in blocked)
        for _ in blocked:
            peer.release.release()
        assert all(result(timeout=LIMIT)[0] for result in blocked)


def test_replies_leave_though_the_next_handler_waits(loaded: Callable[[], Any], peer: Peer) -> None:
    for _ in range(ROUNDS):
        conn = loaded()
        quick = conn.submit(QUICK, payload=b"first")
        blocked = conn.submit(BLOCK)
        assert quick(timeout=LIMIT) == (True, 0, b"first")
        peer.release.release()
        assert blocked(timeout=LIMIT)[0]

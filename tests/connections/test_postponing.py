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


def _leave_alone(load: Callable[[], Any]) -> Any:
    """Have the calling thread leave a connection that nobody reads then, as it mostly comes back."""
    for _ in range(1000):
        conn = load()
        if conn._driver._reader.is_left_alone():  # else the clock was quicker, or asleep
            return conn
    raise AssertionError("somebody else read each time")


def test_the_end_is_seen_though_nobody_reads_on(peer: Peer, fd_connect: Any) -> None:
    a, b = fd_connect(b={"request_handler": peer.handle})
    conn = _leave_alone(lambda: all(a.map([(QUICK, b"x")] * 300)) and a)
    b.close(0)
    assert conn.join(LIMIT)


def test_a_callback_is_called_though_nobody_reads_on(loaded: Callable[[], Any], peer: Peer) -> None:
    conn = _leave_alone(loaded)
    done: queue.SimpleQueue[Any] = queue.SimpleQueue()
    result = conn.submit(QUICK, payload=b"back")
    result.notify(done.put)
    assert done.get(timeout=LIMIT) is result
    loaded()
    assert not conn._driver._reader.is_left_alone()  # a worker reads at once from then on


def test_a_result_gets_ready_though_nobody_waits_for_it(loaded: Callable[[], Any], peer: Peer) -> None:
    conn = _leave_alone(loaded)
    peer.release.release()
    result = conn.submit(BLOCK)
    while not result.ready:
        assert not threading.Event().wait(0.001)


def test_a_thread_that_waits_is_served_when_the_reader_has_left(loaded: Callable[[], Any], peer: Peer) -> None:
    conn = loaded()
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
    for _ in range(ROUNDS):
        waiting = threading.Thread(target=lambda: answers.put(conn(BLOCK, b"late", timeout=LIMIT)))
        waiting.start()
        loaded()
        peer.release.release()
        assert answers.get(timeout=LIMIT)[2] == b"late"
        waiting.join(LIMIT)


@pytest.mark.parametrize("options", [{"channels": {16: print}}, {"request_handler": print}, {"on_event": bool}])
def test_what_may_get_more_than_responses_is_never_left_alone(
    peer: Peer, fd_connect: Any, options: dict[str, Any]
) -> None:
    a, _ = fd_connect(a=options, b={"request_handler": peer.handle})
    for _ in range(ROUNDS):
        assert all(ok for ok, _, _ in a.map([(QUICK, b"x")] * 300))
        assert a._driver._reader.is_eager


def test_what_is_attached_later_is_not_left_alone(loaded: Callable[[], Any], peer: Peer) -> None:
    conn = _leave_alone(loaded)
    events: queue.SimpleQueue[Any] = queue.SimpleQueue()
    conn.attach(16, events.put)
    conn.close()
    assert events.get(timeout=LIMIT) is not None

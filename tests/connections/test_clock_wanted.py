"""What a stream did not take is written on, also where the clock has ended, and the only worker is in a handler."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from packetwire import PacketConnection

pytestmark = pytest.mark.timeout(120)

WAIT = 30
START, SLEEP, LARGE, LAST = range(4)
MUCH = bytes(8 << 20)


class Ends:
    """A server whose handlers ask the client back, and the client that answers them."""

    def __init__(self) -> None:
        near, far = socket.socketpair()
        self.sockets = near, far
        self.by_handler = True
        self.asks_last, self.has_large = threading.Event(), threading.Event()
        self.server = PacketConnection(far, request_handler=self.serve, handlers=1)
        self.client = PacketConnection(near, request_handler=self.answer, handlers=2)

    def serve(self, rq_type: int, flags: int, payload: bytes) -> bytes:
        self.server(SLEEP, timeout=WAIT)
        if self.by_handler:
            return self.server(LARGE, MUCH, timeout=WAIT)[2]
        return self.server(LAST, timeout=WAIT)[2]

    def answer(self, rq_type: int, flags: int, payload: bytes) -> bytes:
        if rq_type == SLEEP:
            self.wait_until_the_clock_has_ended()
        elif rq_type == LARGE:
            self.has_large.set()
        else:
            self.asks_last.set()
            assert self.has_large.wait(WAIT)
        return b"answered"

    def wait_until_the_clock_has_ended(self) -> None:
        driver = self.server._driver
        assert driver is not None
        deadline = time.monotonic() + WAIT
        while driver._clock.thread is not None:
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.fixture
def ends() -> Iterator[Ends]:
    found = Ends()
    near, far = found.sockets
    with near, far, found.server, found.client:
        yield found


def test_by_the_handler(ends: Ends) -> None:
    assert ends.client(START, timeout=WAIT)[2] == b"answered"


def test_by_another_thread(ends: Ends) -> None:
    ends.by_handler = False
    started = ends.client.submit(START)
    assert ends.asks_last.wait(WAIT)
    assert ends.server(LARGE, MUCH, timeout=WAIT)[2] == b"answered"
    assert started(timeout=WAIT)[2] == b"answered"


def test_a_clock_that_waits_for_room_is_not_kept_awake_by_what_waits_behind_that() -> None:
    near, far = socket.socketpair()
    with near, far, PacketConnection(near, max_unsent=4 << 20, close_timeout=0) as conn:
        driver = conn._driver
        assert driver is not None
        conn.submit(LARGE, 0, bytes(1 << 20))
        conn.submit(LAST)
        assert driver._writing.leftover
        assert driver.engine.unsent
        looks = [(driver._loops.look(), driver._writing.flushes) for _ in range(6)]
        assert looks[-1] == looks[-2] == (False, driver._writing.flushes)

"""A signal that is noted, but wakes nobody, as one that comes in the moment before a thread goes to sleep."""

from __future__ import annotations

import _thread
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from packetwire import PacketConnection

WAIT = 15.0
NEVER, AT_ONCE = 1, 2

WAYS: dict[str, Callable[[PacketConnection], Any]] = {
    "call": lambda conn: conn(NEVER),
    "call with a limit": lambda conn: conn(NEVER, timeout=10 * WAIT),
    "result": lambda conn: conn.submit(NEVER)(),
    "result with a limit": lambda conn: conn.submit(NEVER)(timeout=10 * WAIT),
    "map": lambda conn: list(conn.map([(NEVER, 0, b"")])),
}


@contextmanager
def interrupted_when(asleep: Callable[[], bool], give_up: Callable[[], object]) -> Iterator[None]:
    """Have SIGINT noted once the main thread is asleep: its handler then runs when that wakes up by itself.

    If it does not, `give_up` is called, which wakes it.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    over = threading.Event()
    late: list[bool] = []

    def interrupt() -> None:
        while not asleep():
            time.sleep(0)
        _thread.interrupt_main()
        if not over.wait(WAIT):
            late.append(True)
            give_up()

    interrupting = threading.Thread(target=interrupt)
    interrupting.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            yield
    finally:
        over.set()
        interrupting.join(WAIT)
        signal.signal(signal.SIGINT, before)
    assert not late, "the handler ran only when something else had happened"


@pytest.mark.timeout(100)
@pytest.mark.parametrize("way", WAYS)
def test_its_handler_runs_before_long(way: str) -> None:
    go_on = threading.Event()

    def handle(rq_type: int, flags: int, payload: bytes) -> None:
        if rq_type == NEVER:
            go_on.wait()

    near, far = socket.socketpair()
    with near, far, PacketConnection(far, request_handler=handle), PacketConnection(near) as conn:
        assert conn(AT_ONCE)[0]
        reading: Any = conn._driver._reading
        try:
            with interrupted_when(lambda: reading.is_polling, go_on.set):
                WAYS[way](conn)
        finally:
            go_on.set()
        assert conn(AT_ONCE, timeout=10 * WAIT)[0]

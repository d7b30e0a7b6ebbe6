"""Many threads at once, at both ends, with all sizes and ways to ask; and a peer that is killed in the middle."""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from packetwire import ConnectionEnded, PacketConnection
from packetwire.testing import connection_pair

pytestmark = pytest.mark.timeout(120)

THREADS = 16
WATCHDOG = 60
SIZES = (0, 1, 16, 500, 639, 640, 641, 4096, 65_536, 1 << 20)
"""Bytes of a payload: about what is written at once, what a pipe holds, and what comes in many pieces."""
WEIGHTS = (4, 4, 16, 4, 4, 4, 4, 4, 2, 1)
HANDLERS = (1, 4, "inline")

ASK_BACK = 7
"""The type of requests whose handler asks back before it answers."""
CHILD = f"""
from packetwire import PacketConnection, stdio

def handler(rq_type, flags, payload):
    if rq_type == {ASK_BACK}:
        ok, _, payload = conn(1, payload)
        assert ok
    return payload[::-1]

conn = PacketConnection(stdio(), request_handler=handler, handlers=HANDLERS)
with conn:  # the first request may come before this is entered
    conn.join()
"""


def reverse(rq_type: int, flags: int, payload: bytes) -> tuple[int, bytes]:
    return rq_type + flags, payload[::-1]


def payloads(seed: int) -> Callable[[], bytes]:
    """Payloads of all sizes, each different from the last."""
    drawn = random.Random(seed)

    def payload() -> bytes:
        size = drawn.choices(SIZES, WEIGHTS)[0]
        return drawn.randbytes(min(size, 16)) + bytes(max(0, size - 16))

    return payload


def ask_one(conn: PacketConnection, payload: Callable[[], bytes]) -> None:
    for i in range(20):
        sent = payload()
        assert conn(1, sent, flags=i) == (True, 1 + i, sent[::-1])


def ask_in_windows(conn: PacketConnection, payload: Callable[[], bytes]) -> None:
    for _ in range(2):
        sent = [payload() for _ in range(32)]
        results = [conn.submit(2, i, each) for i, each in enumerate(sent)]
        for i, result in enumerate(results):
            assert result() == (True, 2 + i, sent[i][::-1])


def ask_by_map(conn: PacketConnection, payload: Callable[[], bytes]) -> None:
    sent = [payload() for _ in range(48)]
    responses = conn.map([(3, each) for each in sent], window=8)
    assert [response[2] for response in responses] == [each[::-1] for each in sent]


WAYS = (ask_one, ask_in_windows, ask_by_map)


def run_all(functions: list[Callable[[], object]]) -> list[BaseException]:
    """Run each in a thread of its own, at the same time; return what they raised. None of them hangs."""
    raised: list[BaseException] = []
    start = threading.Barrier(len(functions))

    def run(function: Callable[[], object]) -> None:
        start.wait(WATCHDOG)
        try:
            function()
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=run, args=(each,), daemon=True) for each in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WATCHDOG)
    assert not [thread for thread in threads if thread.is_alive()], "threads hang"
    return raised


@pytest.mark.parametrize("handlers", HANDLERS)
@pytest.mark.parametrize("over", ["socketpair", "pipes"])
def test_many_threads_both_ways(over: str, handlers: Any) -> None:
    settings = {"request_handler": reverse, "handlers": handlers}
    with connection_pair(settings, settings, over=over) as ends:

        def asking(number: int) -> Callable[[], None]:
            conn, payload = ends[number % 2], payloads(number)

            def ask() -> None:
                for way in WAYS[number % 3 :] + WAYS[: number % 3]:
                    way(conn, payload)

            return ask

        assert run_all([asking(number) for number in range(THREADS)]) == []
        assert [conn.outstanding for conn in ends] == [0, 0]


@pytest.mark.parametrize("handlers", HANDLERS)
@pytest.mark.parametrize("asked", [100, pytest.param(2000, marks=pytest.mark.long)])
def test_the_peer_is_killed(handlers: Any, asked: int) -> None:
    """Each caller gets results that are right, and then the reason."""
    argv = [sys.executable, "-c", CHILD.replace("HANDLERS", repr(handlers))]
    done = threading.Semaphore(0)
    with PacketConnection.spawn(argv, request_handler=reverse, handlers=handlers) as conn:
        # an inline handler cannot wait for a call of its own
        types = (1, 1, 2) if handlers == "inline" else (1, ASK_BACK, 2)

        def asking(number: int) -> Callable[[], None]:
            payload = payloads(number)

            def right(rq_type: int, sent: bytes, response: Any) -> None:
                assert response == (True, 0, sent if rq_type == ASK_BACK else sent[::-1])
                done.release()

            def ask() -> None:
                while True:
                    rq_type, sent = types[number % 3], payload()
                    if number % 2:
                        right(rq_type, sent, conn(rq_type, sent))
                    else:
                        results = [conn.submit(rq_type, 0, sent) for _ in range(16)]
                        for result in results:
                            right(rq_type, sent, result())

            return ask

        def kill() -> None:
            for _ in range(asked):
                assert done.acquire(timeout=WATCHDOG)
            process = conn.process
            assert process is not None
            process.kill()

        raised = run_all([kill, *(asking(number) for number in range(THREADS))])
        assert len(raised) == THREADS, raised
        for error in raised:
            assert isinstance(error, ConnectionEnded), error
        with pytest.raises(ConnectionEnded):
            conn(1, timeout=WATCHDOG)

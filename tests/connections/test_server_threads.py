"""The threads of a server: none only waits, those that are not needed end, and who leaves holds up nobody."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

import packetwire.server
from packetwire import HasPacketConnection, PacketConnection, serve
from packetwire.addresses import connect_to
from packetwire.hosts.threads import clock, loops

from .test_listeners import ECHO, FOREVER, LIMIT, WAIT, Service, is_answered, path, service

pytestmark = pytest.mark.timeout(60)

__all__ = ["path", "service"]  # fixtures


def wait_until(condition: Callable[[], object]) -> None:
    """The watchdog is what ends it otherwise."""
    while not condition():
        time.sleep(0.001)


def of_the_server(before: set[threading.Thread], server: Any) -> int:
    """Threads that are neither older than the server nor its clients'."""
    mine = [one for one in threading.enumerate() if one not in before and not one.name.startswith("client")]
    return len([one for one in mine if one is not server._thread])


def test_an_idle_client_has_one_thread_at_most(
    path: str, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock, "IDLE_SECONDS", 0.01)
    monkeypatch.setattr(loops, "IDLE_SECONDS", 0.01)
    before = set(threading.enumerate())
    with serve(f"unix:{path}", service) as server, ExitStack() as opened:
        clients = [
            opened.enter_context(PacketConnection(connect_to(server.address), f"client-{number}"))
            for number in range(8)
        ]
        for conn in clients:  # each has several handlers at work
            results = [conn.submit(WAIT) for _ in range(3)]
            for _ in results:
                assert service.waiting.acquire(timeout=LIMIT)
        assert of_the_server(before, server) >= 3 * len(clients)
        service.release.set()
        wait_until(lambda: of_the_server(before, server) <= len(clients))
        for conn in clients:  # and what has ended is there again when it is needed
            assert is_answered(conn)
            service.release.clear()
            result = conn.submit(WAIT)
            assert service.waiting.acquire(timeout=LIMIT)
            assert is_answered(conn)
            service.release.set()
            result(timeout=LIMIT)
        wait_until(lambda: of_the_server(before, server) <= len(clients))


def test_services_that_take_long_to_close_hold_up_nobody(path: str) -> None:
    go_on = threading.Event()
    closing: queue.SimpleQueue[str] = queue.SimpleQueue()

    class Slow(HasPacketConnection):
        def __init__(self, recv_send: Any) -> None:
            super().__init__(recv_send, rq_type_map={}, request_handler=lambda rq_type, flags, payload: payload)

        def __exit__(self, *exc_info: Any) -> None:
            closing.put("closing")
            assert go_on.wait(FOREVER)
            super().__exit__(*exc_info)

    count = 3 * packetwire.server.CLOSING_AT_ONCE
    with serve(f"unix:{path}", Slow) as server:
        try:
            with ExitStack() as opened:
                for _ in range(count):
                    conn = opened.enter_context(PacketConnection(connect_to(server.address), close_timeout=0))
                    assert conn(ECHO, b"x", timeout=LIMIT)[2] == b"x"
            for _ in range(count):
                closing.get(timeout=LIMIT)
            with PacketConnection(connect_to(server.address), close_timeout=0) as conn:
                assert conn(ECHO, b"x", timeout=LIMIT)[2] == b"x"
        finally:
            go_on.set()


def test_without_threads_a_client_that_left_is_closed_later(
    path: str, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start
    refused = threading.Event()

    def refuse(thread: threading.Thread) -> None:
        if "-client" in thread.name and not refused.is_set():
            refused.set()
            raise RuntimeError("can't start new thread")
        start(thread)

    with serve(f"unix:{path}", service) as server:
        with PacketConnection(connect_to(server.address), "first") as conn:
            assert is_answered(conn)
            monkeypatch.setattr(threading.Thread, "start", refuse)
        wait_until(lambda: not server.connections)
        assert refused.is_set()
        with PacketConnection(connect_to(server.address), "second") as conn:
            assert is_answered(conn)

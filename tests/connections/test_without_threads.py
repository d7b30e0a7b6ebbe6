"""A connection for which the system has no thread left: it ends with the reason, and nobody waits for ever."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from packetwire import ConnectionEnded, PacketConnection

pytestmark = pytest.mark.timeout(60)

NO_THREAD = "can't start new thread"


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Called with the end of a name: from then on threads of such names cannot be started."""
    start = threading.Thread.start

    def refuse(ending: str) -> None:
        def refusing(thread: threading.Thread) -> None:
            if thread.name.endswith(ending):
                raise RuntimeError(NO_THREAD)
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", refusing)

    return refuse


def test_no_thread_to_read(
    fd_ends: Any, no_threads: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    no_threads("-worker")
    with PacketConnection(fd_ends.a, "ours", close_timeout=0.1) as conn:
        with pytest.raises(ConnectionEnded, match=f"no thread can be started to read: {NO_THREAD}"):
            conn(1, timeout=20)
        assert isinstance(conn.ended, ConnectionEnded)
        assert isinstance(conn.ended.__cause__, RuntimeError)
    assert f"ours: {NO_THREAD}" in caplog.text


def test_no_thread_to_read_while_a_handler_runs(
    fd_connect: Any, no_threads: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    refused, go_on = threading.Event(), threading.Event()

    def handler(rq_type: int, flags: int, payload: bytes) -> bytes:
        go_on.wait(20)
        return payload

    a, _ = fd_connect({"close_timeout": 0.1}, {"request_handler": handler})
    no_threads("b-worker")
    slow = a.submit(1, 0, b"slow")
    a.submit(1)
    while (
        f"b: {NO_THREAD}" not in caplog.text
    ):  # there is none to read on: the one that runs the handler does, later
        refused.wait(0.001)
    go_on.set()
    assert slow(timeout=20) == (True, 0, b"slow")
    assert a(1, b"quick", timeout=20) == (True, 0, b"quick")


def test_no_thread_to_write_what_does_not_fit(fd_ends: Any, no_threads: Callable[[str], None]) -> None:
    no_threads("-clock")
    with PacketConnection(fd_ends.a, "ours", close_timeout=0.1) as conn:
        with pytest.raises(ConnectionEnded) as caught:
            conn.submit(1, payload=bytes(5_000_000))(timeout=20)  # a call writes on by itself
        chain: list[str] = []
        cause: BaseException | None = caught.value
        while cause is not None:
            chain.append(str(cause))
            cause = cause.__cause__
        assert NO_THREAD in chain[-1]

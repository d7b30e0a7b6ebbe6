"""What blocks cannot be done by the thread that reads: it raises there, and the connection lives on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from packetwire import LocalProtocolError, PacketConnection

pytestmark = pytest.mark.timeout(60)

WAITING: dict[str, Callable[[PacketConnection], object]] = {
    "a call": lambda conn: conn(1),
    "the result of a call": lambda conn: conn.submit(1)(timeout=20),
    "room for one more": lambda conn: [conn.submit(1) for _ in range(4)],
    "the end": lambda conn: conn.join(20),
    "the end of receiving": lambda conn: conn.join_recv(20),
    "all results": lambda conn: list(conn.map([(1, b"")] * 10)),
}


@pytest.mark.parametrize("waiting", WAITING.values(), ids=WAITING)
def test_an_inline_handler_that_waits(fd_connect: Any, waiting: Callable[[PacketConnection], object]) -> None:
    raised: list[BaseException] = []

    def handler(rq_type: int, flags: int, payload: bytes) -> bytes:
        try:
            waiting(b)
        except LocalProtocolError as error:
            raised.append(error)
        return b"done"

    a, b = fd_connect(
        {"request_handler": lambda rq_type, flags, payload: payload},
        {"request_handler": handler, "handlers": "inline", "max_outstanding": 3},
    )
    assert a(1, timeout=20) == (True, 0, b"done")
    assert ["wait for itself" in str(error) for error in raised] == [True]
    assert b(1, b"x", timeout=20) == (True, 0, b"x")


def test_ctrl_c_in_a_handler_is_the_handlers_own(fd_connect: Any) -> None:
    """A worker is not the program: the peer is told, and the next request is served."""

    def handler(rq_type: int, flags: int, payload: bytes) -> bytes:
        if rq_type == 1:
            raise KeyboardInterrupt
        return b"served"

    a, _ = fd_connect({}, {"request_handler": handler})
    ok, _, text = a(1, timeout=20)
    assert not ok
    assert b"KeyboardInterrupt" in text
    assert a(2, timeout=20) == (True, 0, b"served")

"""What a peer has written before it went is read to its end, however late somebody can read."""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import Any

import pytest

from packetwire import PacketConnection, RequestReceived

pytestmark = pytest.mark.timeout(60)

WAIT = 20
BLOCKED = 1.5
"""Seconds for which nobody reads; more than the grace for a reason why the stream ends, which is 1."""
COUNT = 50
CHILD = f"""
import os
from packetwire import Packet, PacketDecoder

def send(*packets):
    os.write(1, b"".join(map(bytes, packets)))

decoder, requests = PacketDecoder(), []
while len(requests) < {COUNT}:
    requests += decoder.feed(os.read(0, 65536))
# what holds the reader up comes first, then all answers; together they fit into the pipe
send(Packet(is_request=True, channel=0, tag=1, flags=0, rq_type=1, payload=b""))
send(*[Packet(is_request=False, channel=0, tag=each.tag, flags=1, payload=each.payload[::-1]) for each in requests])
"""


def wait_until_it_has_exited(conn: PacketConnection) -> None:
    """And for longer than the grace."""
    process = conn.process
    assert process is not None
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    time.sleep(BLOCKED)


HOLDING_UP = {
    "an inline handler": lambda held_up: {
        "request_handler": lambda rq_type, flags, payload: held_up(),
        "handlers": "inline",
    },
    "an inline type": lambda held_up: {
        "request_handler": lambda rq_type, flags, payload: held_up(),
        "inline": {0},
    },
    "an observer": lambda held_up: {
        "request_handler": lambda rq_type, flags, payload: None,
        "on_event": lambda event: held_up() if isinstance(event, RequestReceived) else None,
    },
}


@pytest.mark.parametrize("collected", ["at once", pytest.param("afterwards", marks=pytest.mark.long)])
@pytest.mark.parametrize("settings", HOLDING_UP.values(), ids=HOLDING_UP)
def test_answers_of_a_child_that_has_exited(settings: Any, collected: str) -> None:
    held_up = threading.Event()

    def hold_up() -> None:
        wait_until_it_has_exited(conn)
        held_up.set()

    argv = [sys.executable, "-c", CHILD]
    with PacketConnection.spawn(argv, exit_timeout=WAIT, **settings(hold_up)) as conn:
        sent = [b"%d" % i + bytes(500) for i in range(COUNT)]
        results = [conn.submit(0, 0, payload) for payload in sent]
        if collected == "afterwards":
            assert conn.join_recv(WAIT)
        responses = [result(timeout=WAIT) for result in results]
        assert held_up.wait(WAIT)
        assert conn.join_recv(WAIT)
    assert [response[2] for response in responses] == [payload[::-1] for payload in sent]

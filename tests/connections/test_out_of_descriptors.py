"""A server that runs out of descriptors: its clients wait, and nobody is hung up on."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from packetwire import PacketConnection, RequestTimeout, connect_to
from tools.attacks.victim import Victim

pytestmark = [pytest.mark.timeout(90), pytest.mark.long]

DESCRIPTORS = 36
CLIENTS = 20
WAIT = 30.0


@pytest.mark.parametrize("kind", ["serve", "aserve"])
@pytest.mark.parametrize("address", ["unix:{}/s", "tcp:127.0.0.1:0"])
def test_who_comes_then_waits(kind: str, address: str, tmp_path: Path) -> None:
    with Victim(kind, address.format(tmp_path), descriptors=DESCRIPTORS) as victim:
        with ExitStack() as opened:
            clients, waiting = [], []
            for _ in range(CLIENTS):  # each asks at once: silent ones give their place
                conn = opened.enter_context(PacketConnection(connect_to(victim.address), close_timeout=0.0))
                clients.append(conn)
                try:
                    assert conn(0, b"place", timeout=0.5)[2] == b"place"
                except RequestTimeout:
                    waiting.append(conn)
            assert 0 < len(waiting) < CLIENTS
            for conn in clients:
                if conn not in waiting:
                    conn.close()
            for conn in waiting:
                assert conn(0, b"at last", timeout=WAIT)[2] == b"at last"
                conn.close()
    assert victim.status == 0

"""The log of a bridge, whatever its clients do."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from packetwire import PacketConnection, serve
from packetwire.bridge import Bridge

pytestmark = pytest.mark.timeout(60)


def test_clients_that_are_reset_do_not_fill_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Each had a line of its own in the log of the bridge."""
    with serve(f"unix:{tmp_path}/inner", PacketConnection) as server:
        with Bridge(f"unix:{tmp_path}/front", server.address) as bridge:
            thread = threading.Thread(target=bridge.run)
            thread.start()
            for _ in range(200):
                with socket.socket(socket.AF_UNIX) as sock:
                    sock.connect(f"{tmp_path}/front")
                    sock.sendall(b"\xff" * 20)
                    with suppress(ConnectionError):
                        sock.recv(1)
            bridge.stop()
            thread.join()
    told = [record.getMessage() for record in caplog.records if "/front, client" in record.getMessage()]
    assert len(told) < 100

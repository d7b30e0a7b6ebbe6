"""The real packetwire 0.1.0 as peer, in both roles: it must not notice what this version adds."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from packetwire import CapabilityMissing, PacketConnection, RequestTimeout

pytestmark = pytest.mark.timeout(60)

WHEEL = Path(__file__).parents[2] / "fixtures" / "wheels" / "packetwire-0.1.0-py3-none-any.whl"
PEER = Path(__file__).with_name("old_packetwire_peer.py")
WATCHDOG = 30.0


@contextmanager
def old_peer(how: str) -> Iterator[subprocess.Popen[bytes]]:
    environment = {**os.environ, "PYTHONPATH": str(WHEEL), "PYTHONWARNINGS": "error"}
    argv = [sys.executable, str(PEER), how]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as peer:
        try:
            yield peer
        finally:
            peer.kill()


def echo(rq_type: int, flags: int, payload: bytes) -> bytes:
    return payload


def said_by(peer: subprocess.Popen[bytes]) -> list[str]:
    """Its standard error, when it has ended."""
    assert peer.stderr is not None
    assert peer.stdin is not None
    peer.stdin.close()
    lines = peer.stderr.read().decode().splitlines()
    assert peer.wait(WATCHDOG) == 0
    return lines


@pytest.mark.parametrize("capabilities", ["auto", "passive", "off"])
def test_it_serves(capabilities: str) -> None:
    with old_peer("serve") as peer:
        stream: Any = (peer.stdout, peer.stdin)
        with PacketConnection(stream, request_handler=echo, capabilities=capabilities) as conn:
            for rq_type in range(3):
                assert conn(rq_type, b"abc", 5, timeout=WATCHDOG) == (True, 0, b"cba")
            assert conn.peer is None
        assert said_by(peer) == [f"handled {rq_type} 5 b'abc'" for rq_type in range(3)]


@pytest.mark.parametrize("capabilities", ["auto", "passive", "off"])
def test_it_asks(capabilities: str) -> None:
    with old_peer("ask") as peer:
        stream: Any = (peer.stdout, peer.stdin)
        with PacketConnection(stream, request_handler=echo, capabilities=capabilities) as conn:
            assert peer.stderr is not None
            said = [peer.stderr.readline().decode() for _ in range(3)]
            assert conn.peer is None
        assert said == ["(True, 0, b'abc')\n"] * 3
        assert said_by(peer) == []


def test_what_it_does_not_understand_is_not_sent() -> None:
    """A passive end does not even ask what the peer understands."""
    with old_peer("serve") as peer:
        stream: Any = (peer.stdout, peer.stdin)
        with PacketConnection(stream, capabilities="passive") as conn:
            with pytest.raises(CapabilityMissing):
                conn(1, b"abc", deadline=WATCHDOG)
            with pytest.raises(RequestTimeout):
                conn(1, b"abc", timeout=0.0)
            assert conn(2, b"abc", timeout=WATCHDOG) == (True, 0, b"cba")
            with pytest.raises(CapabilityMissing, match="not marked"):
                conn.ping(WATCHDOG)
        assert set(said_by(peer)) <= {"handled 1 0 b'abc'", "handled 2 0 b'abc'"}

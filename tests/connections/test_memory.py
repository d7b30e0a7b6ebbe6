"""What all clients of a server make it hold together."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from packetwire import LocalProtocolError, Packet, PacketConnection, connect_to, memory
from packetwire.core import budget
from packetwire.core.engine import TOO_MUCH_FOR_ALL

from .serving import FACES, LIMIT, Serving, serving

pytestmark = pytest.mark.timeout(60)

MIB = 1 << 20
REPLY = bytes(MIB)


@pytest.fixture(params=FACES)
def face(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def address(tmp_path: Any) -> str:
    return f"unix:{tmp_path}/socket"


def request(tag: int, payload: bytes = b"x") -> bytes:
    return bytes(Packet(is_request=True, channel=0, tag=tag, flags=0, rq_type=1, payload=payload))


def large_reply(rq_type: int, flags: int, payload: bytes) -> Any:
    """A large reply to "x", the same to all else."""
    return flags, REPLY if payload == b"x" else payload


def raw_client(server: Serving) -> socket.socket:
    sock: socket.socket
    sock, _, _ = connect_to(server.address)()
    sock.settimeout(LIMIT)
    return sock


def ask(server: Serving) -> None:
    with PacketConnection(connect_to(server.address), close_timeout=2) as conn:
        assert conn(1, b"small", timeout=LIMIT) == (True, 0, b"small")


def wait_until(condition: Callable[[], object]) -> None:
    """The watchdog is what ends it otherwise."""
    while not condition():
        time.sleep(0.001)


def held(server: Serving) -> int:
    return int(server.server._budget.owed_bytes)


@pytest.mark.parametrize("handlers", [1, 4])
def test_clients_that_do_not_read_are_held_within_one_bound(face: str, address: str, handlers: int) -> None:
    """Each of them asks for 100 MiB. In all they get 8 MiB, or twice as much where many handlers run at once."""
    limits = {"max_memory": 8 * MIB, "max_connections": 8}
    with (
        serving(face, address, large_reply, limits, handlers=handlers, max_unsent=64 * MIB) as server,
        ExitStack() as all_,
    ):
        for _ in range(5):
            sock = all_.enter_context(raw_client(server))
            sock.sendall(b"".join(map(request, range(2, 102))))
        wait_until(lambda: server.server._budget.is_pressed)
        for _ in range(5):
            ask(server)
        assert held(server) <= (2 * 8 + 5 + 3) * MIB


@pytest.mark.usefixtures("plain_streams")
def test_requests_that_arrive_are_held_within_it_too(face: str, address: str) -> None:
    """Each announces 8 MiB, sends seven of them, and no more."""
    limits = {"max_memory": 4 * MIB, "max_connections": 8}
    begun = request(2, bytes(8 * MIB))[: 7 * MIB]
    refusal = bytes(Packet(is_request=False, channel=0, tag=2, flags=0, payload=TOO_MUCH_FOR_ALL))
    with serving(face, address, large_reply, limits) as server, ExitStack() as all_:
        for _ in range(5):
            sock = all_.enter_context(raw_client(server))
            sock.sendall(begun)
            assert sock.recv(1000) == refusal
        assert held(server) <= 4 * MIB
        ask(server)


def test_who_reads_gets_all(face: str, address: str) -> None:
    """Being held ends by itself."""
    limits = {"max_memory": 8 * MIB, "max_connections": 16}
    with serving(face, address, large_reply, limits, handlers=4) as server:
        with PacketConnection(connect_to(server.address), close_timeout=2) as conn:
            for _ in range(3):
                assert [len(payload) for _, _, payload in conn.map([(1, b"x")] * 40, window=16)] == [MIB] * 40


def test_who_takes_nothing_for_long_is_ended(
    face: str, address: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(budget, "STALL_SECONDS", 0.3)
    limits = {"max_memory": MIB, "max_connections": 4}
    with serving(face, address, large_reply, limits, handlers=4) as server, raw_client(server) as stalled:
        with PacketConnection(connect_to(server.address), close_timeout=2) as conn:
            assert conn(1, b"small", timeout=LIMIT) == (True, 0, b"small")
            stalled.sendall(b"".join(map(request, range(2, 102))))
            wait_until(lambda: server.connections == 1)
            assert conn(1, b"small", timeout=LIMIT) == (True, 0, b"small")
    assert "its client has taken nothing for" in caplog.text
    assert "max_memory=1048576" in caplog.text


def test_memory_is_given_back(face: str, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = threading.Event()
    monkeypatch.setattr("packetwire.server.give_back", given.set)
    monkeypatch.setattr("packetwire.aio.server.give_back", given.set)
    with serving(face, address, lambda *request: request[1:], {"max_memory": MIB, "max_connections": 4}) as server:
        ask(server)
        wait_until(lambda: server.connections == 0)
        assert not given.is_set()
        with PacketConnection(connect_to(server.address), close_timeout=2) as conn:
            assert conn(1, bytes(MIB), timeout=LIMIT)[0]
        assert given.wait(LIMIT)
    memory.give_back()


@pytest.mark.parametrize("wrong", [0, -1, 1.5, "1GiB"])
def test_bounds_that_make_no_sense(face: str, address: str, wrong: Any) -> None:
    with (
        pytest.raises(LocalProtocolError, match="max_memory must be 1 or more, got"),
        serving(face, address, lambda *request: None, {"max_memory": wrong}),
    ):
        pass


# the default


@pytest.fixture
def cgroups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(memory, "CGROUPS", tmp_path)
    (tmp_path / "a" / "b").mkdir(parents=True)
    return tmp_path


def found(text: str, monkeypatch: pytest.MonkeyPatch) -> int:
    real = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda self: text if str(self) == "/proc/self/cgroup" else real(self))
    return memory.memory_limit()


def test_the_memory_of_a_control_group(cgroups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (cgroups / "a" / "b" / "memory.max").write_text("max\n")
    (cgroups / "a" / "memory.max").write_text(f"{64 * MIB}\n")
    assert found("0::/a/b\n", monkeypatch) == 64 * MIB
    assert memory.default_max_memory() == 16 * MIB


def test_the_memory_of_a_control_group_of_the_older_kind(cgroups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (cgroups / "memory" / "a").mkdir(parents=True)
    (cgroups / "memory" / "a" / "memory.limit_in_bytes").write_text(f"{32 * MIB}\n")
    assert found("5:cpu,memory:/a\n4:pids:/a/b\n", monkeypatch) == 32 * MIB


def test_without_a_limit_it_is_the_machines(cgroups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert found("0::/\n", monkeypatch) == machine
    assert memory.default_max_memory() == min(1 << 30, machine // 4)

"""Peers that are killed: each is told apart from who comes back under its name, and leaves nothing behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from packetwire import Packet, PacketConnection, PacketDecoder, StreamTruncated, serve
from packetwire.capture import CaptureDecoder, Kind

from .conftest import echo, endpoint_of

pytestmark = pytest.mark.timeout(170)

LIMIT = 60.0

# who comes back under the same name

LIVES = 12
BEGUN = bytes(Packet(is_request=True, tag=2, rq_type=1, payload=bytes(1000)))[:500]
PHOENIX = f"""
import sys
from packetwire import PacketConnection, connect_to
from packetwire.addresses import ZmqDealerAddress

sys.stdin.readline()
stream = connect_to(ZmqDealerAddress(sys.argv[1], identity=b"phoenix"))()
conn = PacketConnection(stream).open()
assert conn(1, sys.argv[2].encode(), timeout={LIMIT}) == (True, 0, sys.argv[2].encode())
assert stream.try_write([bytes.fromhex({BEGUN.hex()!r})]) == {len(BEGUN)}
sys.stdin.read()
"""


class Lives:
    """Serves the phoenix: its connections in their order, of which one says that half a packet has come."""

    def __init__(self) -> None:
        self.conns: list[PacketConnection] = []
        self.asked: list[list[bytes]] = []
        self.half_way = threading.Event()

    def __call__(self, stream: Any) -> PacketConnection:
        read, asked = stream.try_read, []

        def try_read(size: int) -> bytes | None:
            data: bytes | None = read(size)
            if data and data.endswith(BEGUN):
                self.half_way.set()
            return data

        def handle(rq_type: int, flags: int, payload: bytes) -> bytes:
            asked.append(payload)
            return payload

        stream.try_read = try_read
        self.asked.append(asked)
        self.conns.append(PacketConnection(stream, request_handler=handle))
        return self.conns[-1]


@pytest.mark.parametrize("order", ["killed-first", "back-first"])
def test_killed_in_mid_packet_and_back_under_the_same_name(linked_endpoint: str, order: str) -> None:
    served = Lives()
    with serve(f"zmq+router:{linked_endpoint}", served) as server, ExitStack() as started:
        endpoint = server.address.endpoint
        lives = [started.enter_context(_phoenix(endpoint, number)) for number in range(LIVES)]
        for number, life in enumerate(lives):
            if order == "killed-first" and number:
                _kill(lives[number - 1])
            served.half_way.clear()
            life.stdin.write(b"rise\n")
            life.stdin.flush()
            assert served.half_way.wait(LIMIT)
        _kill(lives[-1])
        assert len(served.conns) == LIVES
        for conn in served.conns:
            assert conn.join_recv(LIMIT)
            assert type(conn.ended) is StreamTruncated
        assert served.asked == [[b"%d" % number] for number in range(LIVES)]


@contextmanager
def _phoenix(endpoint: str, number: int) -> Iterator[Any]:
    argv = [sys.executable, "-c", PHOENIX, endpoint, str(number)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            _kill(process)


def _kill(process: Any) -> None:
    process.kill()
    process.wait()


# many at a time

PEERS, KILLED, PROCESSES = 400, 100, 4
SERVER = """
import ctypes, gc, os, resource, sys, threading
from packetwire import PacketConnection, serve

most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
KEPT = "PeerStream", "PacketConnection", "Driver"

def figures():
    gc.collect()
    if hasattr(ctypes.CDLL(None), "malloc_trim"):
        ctypes.CDLL(None).malloc_trim(0)  # what is free in the arenas of threads that are gone counts, too
    kept = sum(type(thing).__name__ in KEPT for thing in gc.get_objects())
    resident = int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return server.connections, kept, len(os.listdir("/proc/self/fd")), threading.active_count(), resident

def service(recv_send):
    return PacketConnection(recv_send, request_handler=lambda rq_type, flags, payload: payload)

with serve(sys.argv[1], service, max_connections=1000) as server:
    print(server.address.endpoint, flush=True)
    for line in sys.stdin:
        print(*figures(), flush=True)
"""
CLIENT = """
import resource, sys, threading
from packetwire import PacketConnection, connect_to

most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
address, peers, role = sys.argv[1], int(sys.argv[2]), sys.argv[3]
half_way = threading.Barrier(peers + 1)
completed = []

def one(number):
    requests = [(1, b"%d %d" % (number, i)) for i in range(100)]
    with PacketConnection(connect_to(address, timeout=100)) as conn:
        replies = conn.map(requests[:50], timeout=100)
        assert [payload for _, _, payload in replies] == [payload for _, payload in requests[:50]]
        half_way.wait(100)
        replies = conn.map(requests[50:], timeout=100)
        if role == "killed":
            next(replies)
            half_way.wait(100)
            half_way.wait()  # for ever
        assert [payload for _, _, payload in replies] == [payload for _, payload in requests[50:]]
    completed.append(number)

threads = [threading.Thread(target=one, args=(number,)) for number in range(peers)]
for thread in threads:
    thread.start()
half_way.wait(100)
if role == "killed":
    half_way.wait(100)
    print("in the middle", flush=True)
else:
    for thread in threads:
        thread.join()
    print(len(completed), flush=True)
"""


class Figures(NamedTuple):
    """Of the serving process."""

    connections: int
    kept: int
    fds: int
    threads: int
    resident: int


@pytest.mark.parametrize("kind", ["tcp"])
def test_many_peers_of_whom_some_are_killed(kind: str, tmp_path: Path) -> None:
    """Twice, as the first time leaves what the interpreter and ZMQ need from then on."""
    address = f"zmq+router:{endpoint_of(kind, tmp_path)}"
    with _piped(SERVER, address) as server:
        endpoint = _line(server)

        def figures() -> Figures:
            server.stdin.write(b"?\n")
            server.stdin.flush()
            return Figures(*map(int, _line(server).split()))

        before = figures()
        rounds = []
        for _ in range(2):
            _ask_and_kill(f"zmq+dealer:{endpoint}")
            while (after := figures())[:4] != before[:4]:
                pass  # sessions of the killed are on their way out; the test's time limit is the bound
            rounds.append(after)
        assert rounds[1].resident - rounds[0].resident < 8 << 20


def _ask_and_kill(address: str) -> None:
    with ExitStack() as running:
        each = PEERS // PROCESSES
        whole = [running.enter_context(_piped(CLIENT, address, str(each), "whole")) for _ in range(PROCESSES)]
        doomed = running.enter_context(_piped(CLIENT, address, str(KILLED), "killed"))
        assert _line(doomed) == "in the middle"
        _kill(doomed)
        assert [_line(process) for process in whole] == [str(each)] * PROCESSES


@contextmanager
def _piped(program: str, *args: str) -> Iterator[Any]:
    argv = [sys.executable, "-c", program, *args]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            _kill(process)


def _line(process: Any) -> str:
    line: bytes = process.stdout.readline()
    return line.decode().rstrip("\n")


# what is left of a conversation

CAPTURED = """
import os, signal, sys
from packetwire import PacketConnection, connect_to
from packetwire.capture import CaptureWriter

with CaptureWriter(sys.argv[2]) as capture:
    conn = PacketConnection(connect_to(sys.argv[1]), capture=capture).open()
    for number in range(200):
        conn(number, bytes(number))
    conn.submit(200, 0, bytes(1 << 20))
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.usefixtures("plain_streams")
def test_a_capture_of_a_killed_conversation_is_read_to_its_last_whole_packet(
    linked_endpoint: str, tmp_path: Path
) -> None:
    path = tmp_path / "capture"
    with serve(
        f"zmq+router:{linked_endpoint}", lambda stream: PacketConnection(stream, request_handler=echo)
    ) as server:
        argv = [sys.executable, "-c", CAPTURED, f"zmq+dealer:{server.address.endpoint}", str(path)]
        assert subprocess.run(argv, check=False, timeout=LIMIT).returncode == -signal.SIGKILL
    whole = path.read_bytes()
    for size in len(whole), len(whole) - 1, len(whole) - 600_000:  # and what a full disk would leave of it
        records = CaptureDecoder().feed(whole[:size])
        assert [record.kind for record in records[:1]] == [Kind.BEGIN]
        asked, answered = (
            PacketDecoder().feed(b"".join(record.data for record in records if record.kind is kind))
            for kind in (Kind.FORTH, Kind.BACK)
        )
        assert [packet.rq_type - 1 for packet in asked[:200]] == list(range(200))
        assert [packet.payload for packet in answered[:200]] == [bytes(number) for number in range(200)]
    path.write_bytes(whole[:size])
    dump = subprocess.run(
        [sys.executable, "-m", "packetwire", "dump", str(path)], check=False, capture_output=True, timeout=LIMIT
    )
    assert dump.returncode == 0
    assert dump.stdout.count(b" response ") == 200

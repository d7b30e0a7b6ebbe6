"""1,000 clients of `serve`: the threads that they cost it, and the wait of a newcomer when they all leave at once.

    python tests/bench/many_clients.py [CLIENTS]

The server is a process of its own. The clients are sockets that have made one call each, and stay idle; then all
are closed at once, and one more client connects and calls. Prints how many threads and descriptors the server has,
and how long the newcomer waited for its response; exits with 1 if that was too long, or if a client costs more than
one thread.
"""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from packetwire import Packet, PacketConnection, PacketDecoder

CLIENTS = 1000
LIMIT = 0.5
"""Seconds that a newcomer may wait."""
PATIENCE = 60.0
"""Seconds after which a client's response is given up."""
SPARE = 100
"""Descriptors and clients beside those that are counted."""

SERVER = """
import sys
from packetwire import PacketConnection, serve

def client(recv_send):
    return PacketConnection(recv_send, request_handler=lambda rq_type, flags, payload: payload)

with serve(sys.argv[1], client, max_connections=int(sys.argv[2])):
    print("serving", flush=True)
    sys.stdin.read()
"""


@contextmanager
def server(path: str, most: int) -> Iterator[int]:
    """Its process id."""
    argv = [sys.executable, "-c", SERVER, f"unix:{path}", str(most)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"serving\n"
        yield process.pid


def ask(client: socket.socket) -> None:
    """One call, without a connection of ours: only the server's threads and times count."""
    client.sendall(bytes(Packet(channel=0, tag=1, is_request=True, flags=0, rq_type=1, payload=b"hello")))
    decoder = PacketDecoder()
    while not (found := decoder.feed(client.recv(4096))):
        pass
    assert found[0].payload == b"hello"


def connected(path: str) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(PATIENCE)
    while True:
        try:
            client.connect(path)
        except BlockingIOError:  # more wait than may
            time.sleep(0.001)
        else:
            return client


def status(pid: int) -> tuple[int, int, int]:
    """How many threads and descriptors a process has, and its memory in KiB."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(lines["Threads"]), len(os.listdir(f"/proc/{pid}/fd")), int(lines["VmRSS"].split()[0])


def newcomer(path: str) -> float:
    """How long it takes to connect, call and get the response."""
    began = time.perf_counter()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(PATIENCE)
        sock.connect(path)
        with PacketConnection(sock) as conn:
            assert conn(0, b"newcomer", timeout=PATIENCE) == (True, 0, b"newcomer")
            return time.perf_counter() - began


def main(count: int) -> int:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with tempfile.TemporaryDirectory() as directory:
        path = f"{directory}/socket"
        with server(path, count + SPARE) as pid:
            newcomer(path)  # what is loaded at the first client
            before = status(pid)
            clients = []
            for _ in range(count):
                clients.append(connected(path))
                ask(clients[-1])
            began = time.perf_counter()  # idle is who has done nothing for a moment
            while status(pid)[0] - before[0] > count and time.perf_counter() - began < PATIENCE:
                time.sleep(0.01)
            threads, descriptors, kib = (now - then for now, then in zip(status(pid), before, strict=True))
            print(f"{count} idle clients: {threads} threads, {descriptors} descriptors, {kib / 1024:.0f} MiB")
            calm = newcomer(path)
            for client in clients:
                client.close()
            waited = newcomer(path)
            print(f"a newcomer beside them waited {calm * 1000:.1f} ms, one when all left {waited * 1000:.1f} ms")
            began = time.perf_counter()
            while status(pid)[0] > before[0] and time.perf_counter() - began < PATIENCE:
                time.sleep(0.01)
            print(f"all threads had gone after {time.perf_counter() - began:.2f} s more")
    return 1 if waited > LIMIT or threads > count else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else CLIENTS))

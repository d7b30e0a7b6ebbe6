"""Three children and three servers, and what happens to them."""

from __future__ import annotations

import collections
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from packetwire import child

STOPPED_SECONDS = 0.4
PROGRAM = """
import os, signal, socket, sys, time
from packetwire import Dedup, PacketConnection, serve, stdio

log = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
dedup = Dedup()
streams = []

def handle(rq_type, flags, payload):
    os.write(log, payload + b"\\n")
    if flags:
        time.sleep(0.3)
    return payload

def make(recv_send):
    streams.append(recv_send)
    return PacketConnection(recv_send, request_handler=handle, dedup=dedup, close_timeout=1)

def cut(*_):
    "Cut the newest connection, as a broken line would."
    if streams:
        stream = streams.pop()
        fd = stream.fileno() if hasattr(stream, "fileno") else stream.read_fd
        try:
            with socket.socket(fileno=os.dup(fd)) as sock:
                sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it has ended

if sys.argv[2] == "stdio:":
    with make(stdio()) as conn:
        conn.join_recv()
else:
    server = None
    signal.signal(signal.SIGTERM, lambda *_: server.stop() if server else sys.exit())
    signal.signal(signal.SIGUSR1, cut)
    with serve(sys.argv[2], make) as server:
        server.wait()
"""


class Places:
    """The processes; all of them write down which calls they do."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self.log = directory / "log"
        self.log.touch()
        self.happened: collections.Counter[str] = collections.Counter()
        self._command = [sys.executable, "-c", PROGRAM, str(self.log)]
        self._addresses = [f"unix:{directory}/{name}" for name in "abc"]
        self._servers = {address: self._start(address) for address in self._addresses}
        stack.callback(self._end)

    def _start(self, address: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([*self._command, address])

    def _end(self) -> None:
        for server in self._servers.values():
            server.send_signal(signal.SIGCONT)
            server.kill()
            server.wait()

    @property
    def targets(self) -> list[Any]:
        """For a pool: the servers first."""
        return [*self._addresses, *(child([*self._command, "stdio:"]) for _ in range(3))]

    def disturb(self, members: Any, rng: random.Random) -> None:
        """Kill a child, cut a connection, have a server drained and replaced, and stop another one for a while."""
        conns = [member.conn for member in members if not member.name.startswith("unix:")]
        processes = [conn.process for conn in conns if conn is not None and conn.process is not None]
        if processes:
            rng.choice(processes).kill()
            self.happened["killed"] += 1
        drained, stopped, cut = rng.sample(self._addresses, 3)
        self._servers[drained].terminate()
        self._servers[stopped].send_signal(signal.SIGSTOP)
        if self._is_there(cut):
            self._servers[cut].send_signal(signal.SIGUSR1)
            self.happened["cut"] += 1
        self._servers[drained].wait()
        self._servers[drained] = self._start(drained)
        time.sleep(STOPPED_SECONDS)
        self._servers[stopped].send_signal(signal.SIGCONT)
        self.happened["drained"] += 1
        self.happened["stopped"] += 1

    def _is_there(self, address: str) -> bool:
        """True if it serves, and so does not end by that signal."""
        return Path(address.removeprefix("unix:")).exists()

    def executed(self) -> collections.Counter[bytes]:
        """How often each call was begun."""
        return collections.Counter(self.log.read_bytes().split())


def are_ready(members: Any, part: float = 0.5) -> bool:
    """True if that part of the connections can be used."""
    return sum(member.conn is not None for member in members) >= part * len(members)


@contextmanager
def disturbed(places: Places, members: Any, interval: float, seed: int) -> Iterator[None]:
    """A block during which all that goes on, with such a pause in between."""
    over = threading.Event()

    def disturb() -> None:
        rng = random.Random(seed)
        while not over.wait(interval):
            if are_ready(members):  # else the machine is so busy that nothing would ever be there
                places.disturb(members, rng)

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()

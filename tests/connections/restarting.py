"""Servers that are replaced by others again and again, as processes, and clients that call all the time.

A process that has imported everything forks a server when it is told to, so that a replacement takes no longer than
the end of the former one.
"""

from __future__ import annotations

import collections
import itertools
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from packetwire import Draining, PacketConnection, Reconnecting, connect_to
from packetwire.pool import Backoff

LIMIT = 30
"""Seconds for a call."""

PROGRAM = """
import asyncio, os, signal, socket, sys

from packetwire import AsyncPacketConnection, PacketConnection, aserve, serve
from packetwire import serving
from packetwire.givensockets import inherited_sockets
from packetwire.streams.tls import server_context

serving.FIRST_WORD_SECONDS = 20.0  # on a machine with much else to do a client may take its time to say something

way, face, address, log, cert, key = sys.argv[1:]
while os.open(os.devnull, os.O_RDONLY) < 3:
    pass  # the number is for what is passed
log = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
passed = None
if way == "passed" and address.startswith("unix:"):
    passed = socket.socket(socket.AF_UNIX)
    passed.bind(address.removeprefix("unix:"))
    passed.listen(100)
elif way == "passed":
    passed = socket.create_server(("127.0.0.1", int(address.rpartition(":")[2])), backlog=100)

def handle(rq_type, flags, payload):
    os.write(log, payload + b"\\n")
    return payload

def options():
    made = {"ssl_context": server_context(cert, key)} if address.startswith("tls:") else {}
    if passed is None:
        return made | {way: True}
    os.dup2(passed.fileno(), 3)
    os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
    return made | {"listener": inherited_sockets()}

def ready():
    os.write(1, b"%d\\n" % os.getpid())

def serve_in_threads():
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    with serve(address, lambda stream: PacketConnection(stream, request_handler=handle), **options()) as server:
        signal.signal(signal.SIGTERM, lambda *_: server.stop())
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        ready()
        server.wait()

async def serve_in_a_loop():
    def make(stream):
        return AsyncPacketConnection(stream, request_handler=handle)
    async with await aserve(address, make, **options()) as server:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, server.stop)
        ready()
        await server.wait()

for line in sys.stdin:
    if pid := int(line):
        os.kill(pid, signal.SIGTERM)
        os.write(1, b"%d\\n" % os.waitpid(pid, 0)[1])
    elif not os.fork():
        os.close(0)
        serve_in_threads() if face == "threads" else asyncio.run(serve_in_a_loop())
        os._exit(0)
"""


class Servers:
    """One server at a time, but while one replaces the other."""

    def __init__(self, way: str, face: str, address: str, log: Path, *certificate: str) -> None:
        self.address = address
        self.log = log
        log.touch()
        command = [sys.executable, "-c", PROGRAM, way, face, address, str(log), *(certificate or ("", ""))]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._pid = self._start()

    def _ask(self, pid: int) -> int:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{pid}\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def _start(self) -> int:
        return self._ask(0)

    def replace(self, *, overlapping: bool = True) -> None:
        """Have the next server take the place of this one, which ends in order."""
        if overlapping:
            old, self._pid = self._pid, self._start()
            assert self._ask(old) == 0
        else:
            assert self._ask(self._pid) == 0
            self._pid = self._start()

    def close(self) -> None:
        """End the last one."""
        try:
            assert self._ask(self._pid) == 0
        finally:
            self._process.communicate()

    def executed(self) -> collections.Counter[bytes]:
        """How often each request was executed."""
        return collections.Counter(self.log.read_bytes().split())


class Clients:
    """Threads that call all the time: some by `Reconnecting`, some connect anew on `Draining`."""

    def __init__(self, address: str, count: int, **options: Any) -> None:
        self.answered: list[bytes] = []
        self.failures: list[BaseException] = []
        self.moved = 0
        """How often a client has connected anew."""
        self._address = address
        self._options = options
        self._over = threading.Event()
        self._numbers = itertools.count()
        self._progress = threading.Condition()
        kinds = itertools.cycle((self._reconnect, self._connect_anew))
        self._threads = [
            threading.Thread(target=self._run, args=(kind,)) for kind, _ in zip(kinds, range(count), strict=False)
        ]

    def _run(self, kind: Any) -> None:
        try:
            kind()
        except BaseException as error:
            self.failures.append(error)
        finally:
            with self._progress:
                self._progress.notify_all()

    def _call(self, call: Any, payload: bytes) -> None:
        assert call(0, payload, timeout=LIMIT) == (True, 0, payload)
        self.answered.append(payload)
        with self._progress:
            self._progress.notify_all()

    def _reconnect(self) -> None:
        backoff = Backoff(first=0.01, longest=0.05)  # connections do not live as long here as elsewhere
        with Reconnecting(connect_to(self._address, **self._options), backoff=backoff) as call:
            while not self._over.is_set():
                self._call(call, b"%d" % next(self._numbers))

    def _connect_anew(self) -> None:
        payload = b"%d" % next(self._numbers)
        while not self._over.is_set():
            with PacketConnection(connect_to(self._address, **self._options)) as conn:
                try:
                    while not self._over.is_set():
                        self._call(conn, payload)
                        payload = b"%d" % next(self._numbers)
                except Draining:
                    self.moved += 1

    def wait_for_calls(self, more: int) -> None:
        """Wait until so many more calls were answered, or one has failed."""
        until = len(self.answered) + more
        with self._progress:
            assert self._progress.wait_for(lambda: self.failures or len(self.answered) >= until, LIMIT)

    @contextmanager
    def calling(self) -> Iterator[None]:
        """A block during which they call."""
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._over.set()
            for thread in self._threads:
                thread.join()

    def check(self, executed: collections.Counter[bytes]) -> None:
        """Each call was answered, and executed once."""
        if self.failures:
            raise ExceptionGroup(f"{len(self.failures)} clients failed", self.failures)  # type: ignore[type-var]
        assert sorted(executed) == sorted(self.answered)
        assert set(executed.values()) == {1}

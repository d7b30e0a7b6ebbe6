"""A pool of children and servers of which each second one is killed, one stopped, one restarted and one is slow."""

from __future__ import annotations

import asyncio
import collections
import itertools
import random
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from packetwire import ConnectionEnded, RequestTimeout, child
from packetwire.aio.pool import AsyncPool
from packetwire.pool import Pool

pytestmark = [pytest.mark.timeout(120), pytest.mark.long]

SECONDS = 15.0
CALLERS = 8
LIMIT = 10.0

PROGRAM = """
import os, sys, time
from packetwire import PacketConnection, serve, stdio

log = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def handle(rq_type, flags, payload):
    os.write(log, payload + b"\\n")
    if flags:
        time.sleep(0.3)
    return payload

def make(recv_send):
    return PacketConnection(recv_send, request_handler=handle, close_timeout=1)

if sys.argv[2] == "stdio:":
    with make(stdio()) as conn:
        conn.join_recv()
else:
    import signal
    signal.signal(signal.SIGTERM, lambda *_: server.stop())
    with serve(sys.argv[2], make) as server:
        server.wait()
"""


class Places:
    """Three children and three servers, and what happens to them."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self.log = directory / "log"
        self.log.touch()
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
        return [*self._addresses, *(child([*self._command, "stdio:"]) for _ in range(3))]

    def disturb(self, members: Any, rng: random.Random) -> None:
        """Kill a child, restart a server, stop another one for a while."""
        conns = [member.conn for member in members[3:] if member.conn is not None]
        if conns and (process := rng.choice(conns).process):
            process.kill()
        restarted, stopped, _ = rng.sample(self._addresses, 3)
        self._servers[restarted].terminate()
        self._servers[stopped].send_signal(signal.SIGSTOP)
        self._servers[restarted].wait()
        self._servers[restarted] = self._start(restarted)
        time.sleep(0.4)
        self._servers[stopped].send_signal(signal.SIGCONT)

    def executed(self) -> collections.Counter[bytes]:
        return collections.Counter(self.log.read_bytes().split())


class Tally:
    """What became of the calls."""

    def __init__(self) -> None:
        self.outcomes: dict[bytes, str] = {}
        self.seconds: list[float] = []
        self._numbers = itertools.count()

    def next(self) -> tuple[bytes, int, bool]:
        """A payload, flags that are 1 for a slow one, and if it is idempotent."""
        number = next(self._numbers)
        return b"%d" % number, int(number % 50 == 49), number % 2 == 1

    def note(self, payload: bytes, began: float, outcome: str) -> None:
        self.outcomes[payload] = outcome
        self.seconds.append(time.monotonic() - began)

    def check(self, executed: collections.Counter[bytes]) -> None:
        kinds = collections.Counter(self.outcomes.values())
        in_order = sorted(self.seconds)
        print(
            f"{len(self.outcomes)} calls: {dict(kinds)}; p50 {statistics.median(in_order) * 1000:.1f} ms, "
            f"p99 {in_order[int(len(in_order) * 0.99)] * 1000:.0f} ms, longest {in_order[-1]:.2f} s"
        )
        assert set(kinds) <= {
            "ok",
            "ConnectionEnded",
            "ChildExited",
            "StreamTruncated",
            "PeerClosed",
            "RequestTimeout",
        }
        assert kinds["ok"] > len(self.outcomes) * 0.9
        for payload, outcome in self.outcomes.items():
            times = executed[payload]
            if outcome == "ok":
                assert times >= 1, payload
            if int(payload) % 2 == 0:  # not idempotent
                assert times <= 1, (payload, outcome)


@contextmanager
def disturbed(places: Places, members: Any) -> Iterator[None]:
    """A block during which all that goes on."""
    over = threading.Event()

    def disturb() -> None:
        rng = random.Random(1)
        while not over.wait(0.5):
            places.disturb(members, rng)

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def run_threads(places: Places, tally: Tally) -> None:
    with Pool(places.targets) as pool:
        deadline = time.monotonic() + SECONDS

        def call() -> None:
            while time.monotonic() < deadline:
                payload, flags, idempotent = tally.next()
                began = time.monotonic()
                try:
                    ok, _, answer = pool(0, payload, flags, timeout=LIMIT, idempotent=idempotent)
                except (ConnectionEnded, RequestTimeout) as error:
                    tally.note(payload, began, type(error).__name__)
                else:
                    assert ok
                    assert answer == payload
                    tally.note(payload, began, "ok")

        with disturbed(places, pool.members):
            callers = [threading.Thread(target=call) for _ in range(CALLERS)]
            for caller in callers:
                caller.start()
            for caller in callers:
                caller.join()


def run_loop(places: Places, tally: Tally) -> None:
    async def call(pool: AsyncPool, deadline: float) -> None:
        while time.monotonic() < deadline:
            payload, flags, idempotent = tally.next()
            began = time.monotonic()
            try:
                ok, _, answer = await pool(0, payload, flags, timeout=LIMIT, idempotent=idempotent)
            except (ConnectionEnded, RequestTimeout) as error:
                tally.note(payload, began, type(error).__name__)
            else:
                assert ok
                assert answer == payload
                tally.note(payload, began, "ok")

    async def run() -> None:
        async with AsyncPool(places.targets) as pool:
            with disturbed(places, pool.members):
                deadline = time.monotonic() + SECONDS
                await asyncio.gather(*(call(pool, deadline) for _ in range(CALLERS)))

    asyncio.run(run())


@pytest.mark.parametrize("run", [run_threads, run_loop])
def test_no_call_is_lost_silently_and_none_is_done_twice_unasked(
    run: Callable[[Places, Tally], None], tmp_path: Path
) -> None:
    tally = Tally()
    with ExitStack() as stack:
        places = Places(tmp_path, stack)
        run(places, tally)
        tally.check(places.executed())

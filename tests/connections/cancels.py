"""Requests that are given up at random moments: each is answered once, and what had not begun never begins.

    python -m tests.connections.cancels [--requests 20000] [--seed N]

Over five transports and both faces. It says how many never began, how many were stopped while they ran, and how
long after the cancel a handler learned of it. The exit status is 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

from packetwire import (
    AsyncPacketConnection,
    PacketConnection,
    Responder,
    aserve,
    connect_to,
    current_request,
    serve,
)
from packetwire.core.statuses import StatusCode, flags_of
from packetwire.errors import LocalProtocolError

QUICK, WAITS, DEFERS = range(3)
LONGEST = 0.005
"""Seconds that a handler takes, at most, if nobody cancels it."""
LIMIT = 60.0
BATCH = 50
NOT_BEGUN = flags_of(StatusCode.CANCELLED, begun=False)
TRANSPORTS = (
    "unix:{}/socket",
    "tcp:127.0.0.1:0",
    "tcp:[::1]:0",
    "zmq+router:ipc://{}/router",
    "zmq+pair:ipc://{}/pair",
)


class Handling:
    """The far end: what has begun, and how late its handlers learned of a cancel."""

    def __init__(self) -> None:
        self.begun: set[bytes] = set()
        self.cancelled_at: dict[bytes, float] = {}
        self.late: list[float] = []
        self.connections: list[Any] = []

    def plain(self, rq_type: int, flags: int, payload: bytes) -> Any:
        self.begun.add(payload)
        if rq_type == WAITS:
            request = current_request()
            if request.wait(LONGEST) and payload in self.cancelled_at:
                self.late.append(time.monotonic() - self.cancelled_at[payload])
            request.check()
        if rq_type == DEFERS:
            responder = Responder()
            responder.on_cancel(lambda: _respond(responder))
            if flags:
                responder.respond(payload)
                return responder
            timer = threading.Timer(LONGEST, lambda: responder.answered or _respond(responder))
            timer.start()
            return responder
        return payload

    async def coroutine(self, rq_type: int, flags: int, payload: bytes) -> Any:
        if rq_type != WAITS:
            return self.plain(rq_type, flags, payload)
        self.begun.add(payload)
        try:
            await asyncio.sleep(LONGEST)
        except asyncio.CancelledError:
            if payload in self.cancelled_at:
                self.late.append(time.monotonic() - self.cancelled_at[payload])
            raise
        return payload


def _respond(responder: Responder) -> None:
    try:
        responder.respond(b"in time")
    except LocalProtocolError:  # another thread was first
        pass


@contextmanager
def serving(face: str, address: str, handling: Handling) -> Iterator[Any]:
    """A server of one face; yields its address."""
    if face == "threads":

        def service(stream: Any) -> PacketConnection:
            handling.connections.append(PacketConnection(stream, request_handler=handling.plain, handlers=2))
            return handling.connections[-1]

        with serve(address, service) as server:
            yield server.address
        return

    def aservice(stream: Any) -> AsyncPacketConnection:
        handling.connections.append(AsyncPacketConnection(stream, request_handler=handling.coroutine))
        return handling.connections[-1]

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        aserver = asyncio.run_coroutine_threadsafe(aserve(address, aservice), loop).result(LIMIT)
        try:
            yield aserver.address
        finally:
            loop.call_soon_threadsafe(aserver.stop)
            asyncio.run_coroutine_threadsafe(aserver.wait(LIMIT), loop).result(2 * LIMIT)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(LIMIT)
        loop.close()


def ask(
    conn: PacketConnection, handling: Handling, count: int, drawn: random.Random, outcomes: Counter[str]
) -> None:
    """Ask so many times, and give most of it up; raises AssertionError for what must not be."""
    for first in range(0, count, BATCH):
        asked = []
        for number in range(first, min(first + BATCH, count)):
            payload = b"%d/%d" % (threading.get_ident(), number)
            asked.append((payload, conn.submit(drawn.randrange(3), drawn.randrange(2), payload)))
        for payload, result in drawn.sample(asked, len(asked)):
            if drawn.random() < 0.1:
                conn.ping(LIMIT)  # so that some begin
            if drawn.random() < 0.8:
                handling.cancelled_at[payload] = time.monotonic()
                conn._driver.tell_cancelled(0, result.tag, "")
                outcomes["cancelled"] += 1
        for payload, result in asked:
            ok, flags, _ = result(timeout=LIMIT)
            outcomes["answered"] += 1
            if not ok and flags == NOT_BEGUN:
                outcomes["never begun"] += 1
                assert payload not in handling.begun, f"{payload!r} had begun"
            elif not ok:
                assert flags == flags_of(StatusCode.CANCELLED, begun=True), flags
                outcomes["stopped"] += 1


def tried(face: str, transport: str, count: int, drawn: random.Random) -> tuple[Counter[str], list[float]]:
    """One transport and face; raises AssertionError for what must not be."""
    handling, outcomes = Handling(), Counter[str]()
    with tempfile.TemporaryDirectory() as folder, serving(face, transport.format(folder), handling) as address:
        connect = connect_to(str(address).replace("+router:", "+dealer:"))
        with PacketConnection(connect, capabilities="require", max_outstanding=256) as conn:
            askers = [
                threading.Thread(target=ask, args=(conn, handling, count // 4, drawn, outcomes)) for _ in range(4)
            ]
            for asker in askers:
                asker.start()
            for asker in askers:
                asker.join()
            assert outcomes["answered"] == count // 4 * 4, "not all were answered"
            conn.ping(LIMIT)
            for end in (conn, handling.connections[-1]):
                engine = end._driver.engine
                tables = engine.waiters, engine._inbound, engine.contexts
                assert not any(tables), f"something is left: {tables}"
    return outcomes, handling.late


def main(argv: list[str]) -> int:
    """Try all; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000, help="in all")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    arguments = parser.parse_args(argv)
    print(f"--seed {arguments.seed}")
    drawn = random.Random(arguments.seed)
    status = 0
    for face in ("threads", "asyncio"):
        for transport in TRANSPORTS:
            each = arguments.requests // (2 * len(TRANSPORTS))
            try:
                outcomes, late = tried(face, transport, each, drawn)
            except AssertionError as error:
                print(f"FAILED {face} {transport}: {error}")
                status = 1
                continue
            told = (
                f"learned of it after {median(late) * 1e3:.2f} ms, at most {max(late) * 1e3:.2f} ms" if late else ""
            )
            print(f"{face:8} {transport:28} {dict(outcomes)} {told}")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

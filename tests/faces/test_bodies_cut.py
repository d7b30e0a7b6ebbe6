"""Bodies up, down and both ways, and payloads in pieces, on a connection that is lost at each of its bytes."""

from __future__ import annotations

import asyncio
import functools
import os
import select
import socket
import struct
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack, suppress
from typing import Any

import pytest

import packetwire.connectionbase
from packetwire import (
    AsyncPacketConnection,
    BodyEnded,
    CapabilityMissing,
    ConnectionEnded,
    PacketConnection,
    PacketwireError,
    PeerClosed,
    RequestCancelled,
    RequestTimeout,
    StreamTruncated,
    current_request,
)
from packetwire.testing import NO_FAULTS, Faults, FaultyLink

from .conftest import WATCHDOG

UP, DOWN, BOTH, LARGE_UP, LARGE_DOWN = range(5)
CREDIT = 80
CHUNKS = [bytes([number]) * 47 for number in range(1, 6)]
WHOLE = b"".join(CHUNKS)
LARGE = bytes(range(256)) * 2
EVERY = 61
"""Of the bytes one in so many is tried in the shorter test."""
BYTES_APART = int(os.environ.get("PACKETWIRE_BYTES_APART", "7"))
"""Those of the longer test; 1 for every byte, which takes some minutes."""
AT_ONCE = 8
"""Connections that are tried at the same time in the longer test."""
STILL = 0.05
"""Seconds for which something may stand still."""


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Payloads go in pieces, and bodies stop, at sizes that make a short conversation."""
    for name, value in (("PIECES_ABOVE", 150), ("JOIN_LIMIT", 50), ("SHORT_PIECE", 70)):
        monkeypatch.setattr(f"packetwire.core.engine.{name}", value)
    monkeypatch.setattr("packetwire.core.lanes.SHORT_PIECE", 70)
    hello = functools.partial(packetwire.connectionbase.Hello, body_credit=CREDIT)
    monkeypatch.setattr("packetwire.connectionbase.Hello", hello)
    for face in ("hosts.threads", "aio"):
        monkeypatch.setattr(f"packetwire.{face}.control.HELLO_TIMEOUT", 0.3)


class Handlers:
    """What is done at the far end, as functions in threads. All that was begun has to end."""

    def __init__(self) -> None:
        self.begun = self.ended = 0
        self.changed = threading.Condition()
        self.errors: list[BaseException] = []

    def begin(self) -> None:
        with self.changed:
            self.begun += 1

    def end(self, error: BaseException | None) -> None:
        with self.changed:
            self.ended += 1
            if error is not None:
                self.errors.append(error)
            self.changed.notify_all()

    def check(self) -> None:
        """None hangs, and each was told why it ended."""
        with self.changed:
            assert self.changed.wait_for(lambda: self.begun == self.ended, WATCHDOG), "a handler hangs"
        for error in self.errors:
            if not isinstance(error, GeneratorExit | asyncio.CancelledError):
                check_reason(error)

    def __call__(self, rq_type: int, flags: int, payload: bytes) -> Any:
        if rq_type == LARGE_UP:
            return b"%d" % (payload == LARGE)
        if rq_type == LARGE_DOWN:
            return LARGE
        if rq_type == UP:
            return b"%d" % (b"".join(self.counted(current_request().body)) == WHOLE)
        return self.counted(CHUNKS if rq_type == DOWN else current_request().body)

    def counted(self, source: Any) -> Iterator[bytes]:
        self.begin()
        error: BaseException | None = None
        try:
            yield from source
        except BaseException as raised:
            error = raised
            raise
        finally:
            self.end(error)


class Coroutines(Handlers):
    """The same as coroutines and asynchronous generators."""

    async def answer(self, rq_type: int, flags: int, payload: bytes) -> Any:
        if rq_type == UP:
            chunks = [chunk async for chunk in self.counted_later(current_request().body)]
            return b"%d" % (b"".join(chunks) == WHOLE)
        if rq_type == BOTH:
            return self.counted_later(current_request().body)
        return self(rq_type, flags, payload)

    async def counted_later(self, source: Any) -> AsyncIterator[bytes]:
        self.begin()
        error: BaseException | None = None
        try:
            async for chunk in source:
                yield chunk
        except BaseException as raised:
            error = raised
            raise
        finally:
            self.end(error)


RIGHT = {
    UP: ((True, 0, b"1"), b""),
    DOWN: ((True, 0, b""), WHOLE),
    BOTH: ((True, 0, b""), WHOLE),
    LARGE_UP: ((True, 0, b"1"), b""),
    LARGE_DOWN: ((True, 0, LARGE), b""),
}


class Outcome:
    """What became of one call."""

    def __init__(self, kind: int) -> None:
        self.kind = kind
        self.got = b""
        self.response: Any = None
        self.error: BaseException | None = None

    def check(self) -> None:
        """It is right, or failed for a reason."""
        response, body = RIGHT[self.kind]
        assert body.startswith(self.got), "a byte in the wrong place"
        if self.error is not None:
            assert isinstance(self.error, PacketwireError), repr(self.error)
            check_reason(self.error)
        elif self.response[0]:
            assert (self.response, self.got) == (response, body)
        else:
            assert self.response[2]


TOLD_BY_ITSELF = StreamTruncated, PeerClosed, BodyEnded, RequestTimeout, RequestCancelled, CapabilityMissing


def check_reason(error: BaseException) -> None:
    """It says what happened; where the system told that, it is chained to that."""
    text = str(error)
    assert text
    if isinstance(error, TOLD_BY_ITSELF):
        return
    assert isinstance(error, ConnectionEnded)
    assert error.__cause__ is not None or "closed" in text or "ended" in text, repr(error)


class Threads:
    """Both ends by threads."""

    make = PacketConnection

    def __init__(self, still: float) -> None:
        self.still = still
        self.outcomes = [Outcome(kind) for kind in RIGHT]
        self.handlers = Handlers()

    @property
    def is_over(self) -> bool:
        """Every call has ended."""
        return all(outcome.error is not None or outcome.response is not None for outcome in self.outcomes)

    def run(self, link: Any, disturb: Callable[[Any, list[Any]], None]) -> None:
        """All calls over the `link`, which `disturb` is called with, and the connections."""
        settings: Any = {"body_timeout": self.still, "close_timeout": self.still}
        with ExitStack() as stack:
            a = stack.enter_context(PacketConnection(link.ends[0], "a", **settings))
            b = stack.enter_context(PacketConnection(link.ends[1], "b", request_handler=self.handlers, **settings))
            threads = [threading.Thread(target=self.call, args=[a, outcome]) for outcome in self.outcomes]
            for thread in threads:
                thread.start()
            disturb(link, [a, b])
            for thread in threads:
                thread.join(WATCHDOG)
                assert not thread.is_alive(), "a call hangs"

    def call(self, conn: Any, outcome: Outcome) -> None:
        kind = outcome.kind
        try:
            if kind == UP:
                outcome.response = conn(kind, body=iter(CHUNKS), timeout=self.still)
            elif kind in (DOWN, BOTH):
                with conn.stream(kind) as call:
                    writer = threading.Thread(target=self.write, args=[call, CHUNKS if kind == BOTH else []])
                    writer.start()
                    try:
                        for chunk in call:
                            outcome.got += chunk
                    finally:
                        writer.join(WATCHDOG)
                        assert not writer.is_alive(), "a writer hangs"
                    outcome.response = call.result(self.still)
            else:
                outcome.response = conn(kind, LARGE if kind == LARGE_UP else b"", timeout=self.still)
        except BaseException as error:
            outcome.error = error

    def write(self, call: Any, chunks: list[bytes]) -> None:
        with suppress(PacketwireError):  # its reader is told the same
            for chunk in chunks:
                call.write(chunk)
            call.finish()


class Loop(Threads):
    """Both ends by one event loop."""

    def __init__(self, still: float) -> None:
        super().__init__(still)
        self.handlers = Coroutines()

    def run(self, link: Any, disturb: Callable[[Any, list[Any]], None]) -> None:
        async def within() -> None:
            async with asyncio.timeout(2 * WATCHDOG):
                await self.run_here(link, disturb)

        asyncio.run(within())

    async def run_here(self, link: Any, disturb: Callable[[Any, list[Any]], None]) -> None:
        settings: Any = {"body_timeout": self.still, "close_timeout": self.still}
        async with AsyncExitStack() as stack:
            a = await stack.enter_async_context(AsyncPacketConnection(link.ends[0], "a", **settings))
            handler = self.handlers.answer  # type: ignore[attr-defined]
            made = AsyncPacketConnection(link.ends[1], "b", request_handler=handler, **settings)
            b = await stack.enter_async_context(made)
            tasks = [asyncio.ensure_future(self.call_here(a, outcome)) for outcome in self.outcomes]
            loop = asyncio.get_running_loop()

            class Closing:
                """One of the connections, for another thread."""

                def __init__(self, conn: Any) -> None:
                    self.conn = conn

                def close(self) -> None:
                    asyncio.run_coroutine_threadsafe(self.conn.close(), loop).result(WATCHDOG)

            await asyncio.to_thread(disturb, link, [Closing(a), Closing(b)])
            await asyncio.wait(tasks, timeout=WATCHDOG)
            assert all(task.done() for task in tasks), "a call hangs"

    async def call_here(self, conn: Any, outcome: Outcome) -> None:
        kind = outcome.kind
        try:
            if kind == UP:
                outcome.response = await conn(kind, body=iter(CHUNKS), timeout=self.still)
            elif kind in (DOWN, BOTH):
                async with conn.stream(kind) as call:
                    writing = asyncio.ensure_future(self.write_here(call, CHUNKS if kind == BOTH else []))
                    try:
                        async for chunk in call:
                            outcome.got += chunk
                    finally:
                        await writing
                    outcome.response = await call.result(self.still)
            else:
                outcome.response = await conn(kind, LARGE if kind == LARGE_UP else b"", timeout=self.still)
        except BaseException as error:
            outcome.error = error

    async def write_here(self, call: Any, chunks: list[bytes]) -> None:
        with suppress(PacketwireError):
            for chunk in chunks:
                await call.write(chunk)
            await call.finish()


class ResetLink:
    """Two sockets with a relay between them, which resets both behind so many bytes of one end."""

    def __init__(self, who: int, at: int) -> None:
        self.at = at
        pairs = tcp_pair(), tcp_pair()
        self.ends = pairs[0][0], pairs[1][0]
        self.inner = pairs[0][1], pairs[1][1]
        self.limited = self.inner[who]
        self.thread = threading.Thread(target=self.relay)

    def __enter__(self) -> ResetLink:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for sock in self.ends:
            sock.close()
        self.thread.join(WATCHDOG)
        assert not self.thread.is_alive()

    def relay(self) -> None:
        left = self.at
        with suppress(OSError):
            while left:
                readable, _, _ = select.select(self.inner, [], [])
                for sock in readable:
                    data = sock.recv(min(left, 65536) if sock is self.limited else 65536)
                    if not data:
                        left = 0
                        break
                    self.inner[sock is self.inner[0]].sendall(data)
                    left -= len(data) if sock is self.limited else 0
        for sock in self.inner:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    for sock in ours, theirs:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return ours, theirs


def leave_alone(link: Any, conns: list[Any]) -> None:
    """Nothing is done beside what the link does."""


def trial(face: type[Threads], ending: str, who: int, at: int) -> tuple[Threads, Any]:
    """One conversation that is disturbed behind so many bytes of one end."""
    made = face(STILL if ending == "stall" else WATCHDOG)
    if ending == "reset":
        with ResetLink(who, at) as link:
            made.run(link, leave_alone)
    else:
        faults = Faults(cut_at=at) if ending == "cut" else Faults(stall_at=at)
        directions = (faults, NO_FAULTS) if who == 0 else (NO_FAULTS, faults)
        with FaultyLink(*directions) as link:
            direction = (link.a_to_b, link.b_to_a)[who]

            def close(link: Any, conns: list[Any]) -> None:
                """The end whose byte it was, or the other one, closes."""
                while not (direction.reached.wait(0.1) or made.is_over):
                    pass  # what is said first may be shorter this time
                link.release()
                conns[at & 1].close()

            made.run(link, close if ending == "close" else leave_alone)
    for outcome in made.outcomes:
        outcome.check()
    made.handlers.check()
    return made, link


FACES = {"threads": Threads, "asyncio": Loop}
ENDINGS = ("cut", "reset", "stall", "close")


@pytest.fixture(params=FACES)
def face_of_both(request: pytest.FixtureRequest) -> type[Threads]:
    return FACES[request.param]


def length(face: type[Threads], who: int) -> int:
    """Bytes that one end sends if nothing goes wrong, or some fewer, as that depends on who is first."""
    made = face(WATCHDOG)
    with FaultyLink() as link:
        made.run(link, leave_alone)
        passed = (link.a_to_b, link.b_to_a)[who].passed
    for outcome in made.outcomes:
        outcome.check()
        assert outcome.error is None
    return passed * 9 // 10


@pytest.mark.parametrize("who", [0, 1], ids=["asking", "answering"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_it_is_lost_at_some_bytes(face_of_both: type[Threads], ending: str, who: int) -> None:
    every = 4 * EVERY if ending == "stall" else EVERY  # as that takes its time
    for at in range(1 + who, length(face_of_both, who), every):
        trial(face_of_both, ending, who, at)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("who", [0, 1], ids=["asking", "answering"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_it_is_lost_at_many_bytes(face_of_both: type[Threads], ending: str, who: int) -> None:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        tried = range(1, length(face_of_both, who), BYTES_APART)
        trials = [pool.submit(trial, face_of_both, ending, who, at) for at in tried]
        for each in trials:
            each.result()

"""The standard error of children: line by line, with a prefix, quoted where they do not answer."""

from __future__ import annotations

import asyncio
import queue
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from packetwire import AsyncPacketConnection, ChildExited, PacketConnection, RequestTimeout, child
from packetwire.streams.childerrors import STDERR_LINE_LIMIT, StandardError

pytestmark = pytest.mark.timeout(60)

LIMIT = 30

SERVER = """
import os, sys, threading
from packetwire import PacketConnection, stdio

def handle(rq_type, flags, payload):
    os.write(2, payload)
    if rq_type == 1:
        os._exit(3)
    if rq_type == 2:
        threading.Event().wait()
    if rq_type == 3:
        while True:
            os.write(2, b"flood " * 1000)

with PacketConnection(stdio(), request_handler=handle, close_timeout=0.2) as conn:
    conn.join_recv()
"""
COMMAND = [sys.executable, "-c", SERVER]


@pytest.mark.parametrize(
    ("pieces", "lines"),
    [
        ([b"a\nb\r\n\nc"], ["a", "b", "", "c"]),
        ([b"a", b"b", b"\n", b"c\nd"], ["ab", "c", "d"]),
        ([b"\xff\n"], ["\ufffd"]),
        ([b"x" * STDERR_LINE_LIMIT, b"yz\n"], ["x" * STDERR_LINE_LIMIT, "yz"]),
        ([], []),
    ],
)
def test_lines(pieces: list[bytes], lines: list[str]) -> None:
    found: list[str] = []
    errors = StandardError(on_line=found.append)
    for piece in pieces:
        errors.receive(piece)
    errors.end()
    errors.end()
    assert found == lines
    assert errors.kept == b"".join(pieces)[-(64 << 10) :]


def test_a_callback_that_raises_is_logged_and_gets_the_next_line(caplog: pytest.LogCaptureFixture) -> None:
    found: list[str] = []

    def on_line(line: str) -> None:
        found.append(line)
        raise ValueError(line)

    StandardError(on_line=on_line).receive(b"a\nb\n")
    assert found == ["a", "b"]
    assert [record.getMessage() for record in caplog.records] == ["on_stderr failed"] * 2


def test_lines_come_while_the_child_lives() -> None:
    lines: queue.Queue[str] = queue.Queue()
    with PacketConnection.spawn(COMMAND, on_stderr=lines.put) as conn:
        conn(0, b"first\nsec", timeout=LIMIT)
        assert lines.get(timeout=LIMIT) == "first"
        conn(0, b"ond\n")
        assert lines.get(timeout=LIMIT) == "second"
        with pytest.raises(ChildExited):
            conn(1, b"the end", timeout=LIMIT)
    assert lines.get(timeout=LIMIT) == "the end"


def test_the_same_in_a_loop() -> None:
    async def ask() -> list[str]:
        lines: asyncio.Queue[str] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        start = child(COMMAND, on_stderr=lambda line: loop.call_soon_threadsafe(lines.put_nowait, line))
        async with AsyncPacketConnection(start) as conn:
            await conn(0, b"a\nb\n", timeout=LIMIT)
            return [await lines.get(), await lines.get()]

    assert asyncio.run(ask()) == ["a", "b"]


def test_lines_are_passed_on_with_a_prefix() -> None:
    program = f"""
    from packetwire import PacketConnection
    with PacketConnection.spawn({COMMAND!r}, forward_stderr="store: ") as conn:
        conn(0, b"first\\nsecond\\nno end")
    """
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(line[4:] for line in program.splitlines())],
        capture_output=True,
        check=True,
        timeout=LIMIT,
    )
    assert done.stderr == b"store: first\nstore: second\nstore: no end\n"


def test_a_timeout_quotes_the_last_lines() -> None:
    seen = threading.Event()
    with PacketConnection.spawn(COMMAND, on_stderr=lambda line: seen.set(), close_timeout=0.1) as conn:
        result = conn.submit(2, payload=b"waiting for the disk\n")
        assert seen.wait(LIMIT)
        with pytest.raises(RequestTimeout, match="within 0.01 s; its standard error ends:\nwaiting for the disk$"):
            conn(2, timeout=0.01)
        assert not result.ready


def test_a_timeout_in_a_loop_quotes_them() -> None:
    async def ask() -> None:
        seen = threading.Event()
        start = child(COMMAND, on_stderr=lambda line: seen.set())
        async with AsyncPacketConnection(start, close_timeout=0.1) as conn:
            conn.submit(2, payload=b"waiting for the disk\n")
            await asyncio.to_thread(seen.wait, LIMIT)
            with pytest.raises(RequestTimeout, match="its standard error ends:\nwaiting for the disk$"):
                await conn(2, timeout=0.01)

    asyncio.run(ask())


def test_a_child_that_floods_does_not_delay_another() -> None:
    lines: list[Any] = []
    with PacketConnection.spawn(COMMAND, on_stderr=lines.append, close_timeout=0.1, exit_timeout=0.1) as flooding:
        with PacketConnection.spawn(COMMAND) as other:
            other(0, timeout=LIMIT)
            flooding.submit(3)
            deadline = time.monotonic() + LIMIT
            while not lines and time.monotonic() < deadline:
                assert other(0, timeout=LIMIT)[0]
            for _ in range(20):
                assert other(0, timeout=LIMIT)[0]
    assert max(map(len, lines)) <= STDERR_LINE_LIMIT


def test_a_dropped_connection_is_collected_although_it_is_told_lines() -> None:
    class Owner:
        def __init__(self) -> None:
            self.conn = PacketConnection.spawn(COMMAND, on_stderr=self.note).open()

        def note(self, line: str) -> None:
            pass

    import gc
    import weakref

    owner = Owner()
    gone, process = weakref.ref(owner), owner.conn.process
    with pytest.warns(ResourceWarning, match="unclosed"):  # noqa: PT031
        del owner
        gc.collect()
    assert gone() is None
    assert process
    process.wait(LIMIT)

"""A host with eight plugins, of which most do what they should not: the calls to the others are not delayed."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack
from typing import Any

import pytest

from childprocesses import child_processes
from packetwire import ChildExited, ConnectionEnded, RequestTimeout, child
from packetwire.aio.pool import AsyncSupervised
from packetwire.pool import Backoff, Supervised

pytestmark = [pytest.mark.timeout(120), pytest.mark.long]

LIMIT = 60
CALLS = 100
LINES = 2000
PROGRAM = """
import os, signal, sys, threading, time
from packetwire import PacketConnection, stdio

kind = sys.argv[1]
go_on = threading.Event()

def write(fd, line):
    go_on.wait()
    while True:
        os.write(fd, line)

def handle(rq_type, flags, payload):
    go_on.set()
    if kind == "crashes":
        os._exit(3)
    if kind == "hangs":
        time.sleep(3600)
    if kind == "stops":
        os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(3600)  # another thread may be the first to stop
    if kind == "prints":
        print("printed, where nothing should be", flush=True)
    return payload

if kind == "says noise":
    os.write(1, b"\\xff" * 20 + b"this is no packet\\n")
stream = stdio()
if kind in ("floods", "prints"):
    threading.Thread(target=write, args=(1 if kind == "prints" else 2, b"x" * 99 + b"\\n"), daemon=True).start()
with PacketConnection(stream, request_handler=handle) as conn:
    conn.join_recv()
"""
WORKING = ("works", "works too", "floods", "prints")
"""The plugins that answer, whatever else they do."""
OTHERS = ("crashes", "hangs", "stops", "says noise")
"""Those that do not."""
OPTIONS: dict[str, Any] = {"limit": None, "backoff": Backoff(0.05, 0.05), "close_timeout": 0.2}


class Flood:
    """What comes from the standard error of the plugins."""

    def __init__(self) -> None:
        self.lines: dict[str, int] = {}
        self.has_come = threading.Event()

    def of(self, kind: str) -> Any:
        self.lines[kind] = 0

        def take(line: str) -> None:
            self.lines[kind] += 1
            if min(self.lines["floods"], self.lines["prints"]) > LINES:
                self.has_come.set()

        return take

    def start(self, kind: str) -> Any:
        argv = [sys.executable, "-c", PROGRAM, kind]
        return child(argv, on_stderr=self.of(kind), exit_timeout=0.2)


@pytest.fixture(autouse=True)
def no_child_left() -> Iterator[None]:
    children = child_processes()
    yield
    assert child_processes() - children == set()


def test_calls_to_others_are_not_delayed_with_threads() -> None:
    flood = Flood()
    with ThreadPoolExecutor(len(OTHERS)) as threads, ExitStack() as opened:
        plugins = {
            kind: opened.enter_context(Supervised(flood.start(kind), **OPTIONS)) for kind in (*WORKING, *OTHERS)
        }
        for kind in WORKING:
            assert plugins[kind](1, kind.encode(), timeout=LIMIT)[2] == kind.encode()
        wrong = {kind: threads.submit(plugins[kind], 1, timeout=LIMIT) for kind in OTHERS if kind != "says noise"}
        assert isinstance(wrong["crashes"].exception(LIMIT), ChildExited)
        with pytest.raises((ConnectionEnded, RequestTimeout)):
            plugins["says noise"](1, timeout=0.5)
        assert flood.has_come.wait(LIMIT)
        before = dict(flood.lines)
        for number in range(CALLS):
            for kind in WORKING:
                assert plugins[kind](1, b"%d" % number, timeout=LIMIT) == (True, 0, b"%d" % number)
        assert not wrong["hangs"].done()
        assert not wrong["stops"].done()
        assert all(flood.lines[kind] > before[kind] for kind in ("floods", "prints"))  # which went on meanwhile
        assert plugins["crashes"].members[0].cause is not None
    for kind in "hangs", "stops":
        assert isinstance(wrong[kind].exception(LIMIT), ConnectionEnded)


def test_calls_to_others_are_not_delayed_in_an_event_loop() -> None:
    flood = Flood()

    async def run() -> None:
        async with AsyncExitStack() as opened:
            plugins = {
                kind: await opened.enter_async_context(AsyncSupervised(flood.start(kind), **OPTIONS))
                for kind in (*WORKING, *OTHERS)
            }
            for kind in WORKING:
                assert (await plugins[kind](1, kind.encode(), timeout=LIMIT))[2] == kind.encode()
            wrong = {
                kind: asyncio.ensure_future(plugins[kind](1, timeout=LIMIT))
                for kind in OTHERS
                if kind != "says noise"
            }
            with pytest.raises(ChildExited):
                await wrong["crashes"]
            with pytest.raises((ConnectionEnded, RequestTimeout)):
                await plugins["says noise"](1, timeout=0.5)
            assert await asyncio.to_thread(flood.has_come.wait, LIMIT)
            before = dict(flood.lines)
            for number in range(CALLS):
                for kind in WORKING:
                    assert await plugins[kind](1, b"%d" % number, timeout=LIMIT) == (True, 0, b"%d" % number)
            assert not wrong["hangs"].done()
            assert not wrong["stops"].done()
            assert all(flood.lines[kind] > before[kind] for kind in ("floods", "prints"))
        for kind in "hangs", "stops":
            with pytest.raises(ConnectionEnded):
                await wrong[kind]

    asyncio.run(run())


def test_the_crash_is_told_with_its_exit_status() -> None:
    with Supervised(Flood().start("crashes"), limit=(0, 60.0), close_timeout=0.2) as plugin:
        with pytest.raises(ChildExited) as caught:
            plugin(1, timeout=LIMIT)
        assert (caught.value.returncode, caught.value.signal) == (3, None)

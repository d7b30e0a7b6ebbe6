"""The threads that run plain handlers."""

from __future__ import annotations

import asyncio
import gc
import threading

import pytest

from packetwire.aio.workers import Workers
from packetwire.core.engine import ConnectionEngine

pytestmark = pytest.mark.timeout(60)


class Plain:
    """What answers, of no request that is special."""

    is_special = False


class Loop:
    """It is told that there are results, and does not take them."""

    def __init__(self):
        self.called = threading.Event()

    def call_soon_threadsafe(self, callback):
        self.called.set()


def test_a_coroutine_that_nobody_takes_is_closed():
    """Else the interpreter says that it was never awaited, which is an error here."""
    begun = []

    async def later():
        begun.append("later")

    async def main():
        workers = Workers(
            ConnectionEngine(),
            lambda request: later(),
            1,
            "test",
            deliver=print,
            delivered=print,
            max_unsent=1,
            answering=Plain(),
        )
        workers._loop = loop = Loop()
        workers.jobs.append((2, 0, 1, b""))
        workers.call()
        assert loop.called.wait(30)
        workers.stop()

    asyncio.run(main())
    gc.collect()
    assert begun == []


class Blocking:
    """A budget that is asked by whoever answers, and makes it wait."""

    def __init__(self):
        self.is_asked, self.goes_on = threading.Event(), threading.Event()

    def holds(self, more):
        return False

    def is_exhausted(self, more):
        self.is_asked.set()
        assert self.goes_on.wait(30)
        return False


def test_stopping_waits_for_a_worker_that_answers():
    """Whoever has the answer may close the connection, and nothing of it is left then."""

    async def main():
        engine, budget = ConnectionEngine(), Blocking()
        engine.receive(b"\x03\x02\x02\x01")
        workers = Workers(
            engine,
            lambda request: b"done",
            1,
            "answering",
            deliver=print,
            delivered=print,
            max_unsent=1,
            answering=Plain(),
        )
        engine.budget, engine.unsent_octets = budget, 1
        workers._loop = Loop()
        workers.jobs.append((2, 0, 1, b""))
        workers.call()
        assert budget.is_asked.wait(30)
        threading.Timer(0.05, budget.goes_on.set).start()
        workers.stop()
        assert not [thread for thread in threading.enumerate() if thread.name == "answering-worker"]

    asyncio.run(main())

"""The threads that run plain handlers."""

from __future__ import annotations

import asyncio
import gc
import threading

import pytest

from packetwire import RequestReceived
from packetwire.aio.workers import Workers

pytestmark = pytest.mark.timeout(60)


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
            lambda event: later(), 1, "test", deliver=print, delivered=print, held=lambda octets: False
        )
        workers._loop = loop = Loop()
        workers.add(RequestReceived(0, 2, 0, 0, b""))
        assert loop.called.wait(30)
        workers.stop()

    asyncio.run(main())
    gc.collect()
    assert begun == []

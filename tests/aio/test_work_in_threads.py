"""Blocking work beside the loop: what comes of it when whoever waits is cancelled."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from packetwire.aio.blocking import Work, in_thread, to_the_end_in_thread

from .conftest import Run

pytestmark = pytest.mark.timeout(60)

WAIT = 20
NAME = "work"
"""Of the threads."""


class Slow:
    """Work that goes on until it is told to end."""

    def __init__(self, outcome: Callable[[], Any] = lambda: "result") -> None:
        self.begun, self.end, self.disposed = threading.Event(), threading.Event(), threading.Event()
        self.results: list[Any] = []
        self._outcome = outcome

    def __call__(self) -> Any:
        self.begun.set()
        assert self.end.wait(WAIT)
        return self._outcome()

    def dispose(self, result: Any) -> None:
        self.results.append(result)
        self.disposed.set()


async def until(event: threading.Event) -> None:
    while not event.is_set():
        await asyncio.sleep(0.001)


@pytest.fixture(autouse=True)
def _threads_end(_nothing_left: None) -> Iterator[None]:
    """The last moments of a thread come behind what it tells the loop."""
    yield
    for thread in threading.enumerate():
        if thread.name == NAME:
            thread.join(WAIT)


@pytest.mark.parametrize("wait_for", [in_thread, to_the_end_in_thread])
def test_what_it_returns_or_raises(run: Run, wait_for: Any) -> None:
    async def main() -> None:
        assert await wait_for(lambda: 5, NAME) == 5
        with pytest.raises(ZeroDivisionError):
            await wait_for(lambda: 1 // 0, NAME)

    run(main)


def test_a_cancelled_wait_leaves_the_work_and_disposes_of_what_comes_of_it(run: Run) -> None:
    async def main() -> None:
        work = Slow()
        waiting = asyncio.create_task(in_thread(work, NAME, work.dispose))
        await until(work.begun)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert work.results == []
        work.end.set()
        await until(work.disposed)
        assert work.results == ["result"]

    run(main)


def test_a_cancelled_wait_with_nothing_to_dispose_of(run: Run) -> None:
    async def main() -> None:
        work = Slow()
        waiting = asyncio.create_task(in_thread(work, NAME))
        await until(work.begun)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        work.end.set()

    run(main)


@pytest.mark.parametrize("disposes", [True, False])
def test_a_wait_to_the_end_is_hurried_by_a_cancellation_and_ends_with_the_work(run: Run, disposes: bool) -> None:
    async def main() -> None:
        work = Slow()
        hurried: list[bool] = []

        def hurry() -> None:
            hurried.append(True)
            if len(hurried) == 2:
                work.end.set()

        waiting = asyncio.create_task(
            to_the_end_in_thread(work, NAME, hurry=hurry, dispose=work.dispose if disposes else None)
        )
        await until(work.begun)
        for _ in range(2):
            waiting.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert hurried == [True, True]
        assert work.results == (["result"] if disposes else [])

    run(main)


def test_a_wait_to_the_end_that_nothing_hurries(run: Run) -> None:
    async def main() -> None:
        work = Slow()
        waiting = asyncio.create_task(to_the_end_in_thread(work, NAME))
        await until(work.begun)
        waiting.cancel()
        await asyncio.sleep(0)
        assert not waiting.done()
        work.end.set()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    run(main)


def test_work_that_failed_leaves_nothing_to_dispose_of(run: Run) -> None:
    async def main() -> None:
        work = Slow(lambda: 1 // 0)
        waiting = Work(work, NAME)
        work.end.set()
        waiting.join()
        waiting.dispose_of_result(work.dispose)
        assert work.results == []
        with pytest.raises(ZeroDivisionError):
            waiting.result()
        await waiting.finished

    run(main)

"""A descriptor that tells of news only once, in an event loop."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from typing import Any

import pytest

from packetwire.hololinked.looping import LoopDriver


@pytest.mark.timeout(60)
def test_a_turn_that_fails_is_told_of_and_followed_by_another() -> None:
    read_fd, write_fd = os.pipe()
    told: list[Any] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: told.append(context["exception"]))
        news, done = "", asyncio.Event()

        def turn() -> bool:
            nonlocal news
            if not news:
                return False
            os.set_blocking(read_fd, False)
            with suppress(BlockingIOError):
                os.read(read_fd, 1)  # as with ZMQ's descriptor: what was told once is not told again
            first, news = news[0], news[1:]
            if first == "!":
                raise ZeroDivisionError
            done.set()
            return bool(news)

        driver = LoopDriver(read_fd, turn, lambda: None)
        driver.attach()
        news = "!."
        os.write(write_fd, b"x")
        await done.wait()
        driver.detach()

    try:
        asyncio.run(main())
    finally:
        os.close(read_fd)
        os.close(write_fd)
    assert [type(error) for error in told] == [ZeroDivisionError]

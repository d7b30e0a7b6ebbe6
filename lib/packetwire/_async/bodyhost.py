"""The places where an event loop differs from threads, for bodies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from contextlib import suppress
from inspect import isawaitable
from threading import get_ident
from typing import Any

from packetwire._sync.bodyhost import READ_SIZE, checked


class Signal:
    """Wakes the task that waits for a change of a body."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._thread = get_ident()
        self._told = False
        self._future: asyncio.Future[bool] | None = None

    def prepare(self) -> None:
        """Begin to notice changes: `wait` returns for those from now on."""
        self._told = False

    def tell(self) -> None:
        """Something has changed. From any thread."""
        self._told = True
        future = self._future
        if future is None:
            return
        if get_ident() == self._thread:
            _settle(future, True)
        else:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(_settle, future, True)

    async def wait(self, seconds: float | None) -> bool:
        """Wait for a change; false after so many seconds."""
        future: asyncio.Future[bool] = self._loop.create_future()
        self._future = future  # first this: whoever tells does it the other way round
        if self._told:
            self._future = None
            return True
        timer = None if seconds is None else self._loop.call_later(seconds, _settle, future, False)
        try:
            return await future
        finally:
            self._future = None
            if timer is not None:
                timer.cancel()


def _settle(future: asyncio.Future[bool], changed: bool) -> None:
    if not future.done():
        future.set_result(changed)


class BodyFile:
    """A reader in a loop is no file."""


async def chunks_of(source: object) -> AsyncGenerator[bytes]:
    """The bytes of a bytes-like object, a binary file or an iterable, which may be asynchronous.

    A file is read in a thread, as that may wait. The value that a generator returns gets lost.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        yield bytes(source)
    elif callable(read := getattr(source, "read", None)):
        while data := await _read(read):
            yield checked(data)
    elif isinstance(source, AsyncIterable):
        async for chunk in source:
            yield checked(chunk)
    elif not isinstance(source, Iterable) or isinstance(source, str):
        raise TypeError(f"a body must be bytes, an iterable of bytes or a binary file, got {type(source).__name__}")
    else:
        for chunk in source:
            yield checked(chunk)


async def _read(read: Any) -> Any:
    if asyncio.iscoroutinefunction(read):
        return await read(READ_SIZE)
    return await asyncio.to_thread(read, READ_SIZE)


async def close_source(source: object) -> None:
    """A handler has returned that, and nobody reads on."""
    close = getattr(source, "aclose", None) or getattr(source, "close", None)
    if callable(close):
        closed = close()
        if isawaitable(closed):
            await closed

"""The places where threads differ from an event loop, for bodies."""

from __future__ import annotations

import io
import time
from collections.abc import Generator, Iterable
from threading import get_ident
from typing import Any

from packetwire.errors import RequestCancelled
from packetwire.hosts.threads.waiter import Waiter

READ_SIZE = 128 << 10
"""Bytes that are read from a file at a time."""


class Signal:
    """Wakes the thread that waits for a change of a body, and reads meanwhile if nobody else does."""

    def __init__(self, driver: Any) -> None:
        self._driver = driver
        self._waiter = Waiter()
        self._sleeper = 0

    def prepare(self) -> None:
        """Begin to notice changes: `wait` returns for those from now on."""
        if self._waiter.done:
            self._waiter = Waiter()

    def tell(self) -> None:
        """Something has changed. From any thread."""
        waiter = self._waiter
        waiter.done = True
        if self._sleeper and self._sleeper != get_ident():
            waiter.wake()
            self._driver.interrupt_lead()

    def wait(self, seconds: float | None) -> bool:
        """Wait for a change; false after so many seconds.

        Raises `RequestCancelled` in a handler that is to stop.
        """
        self._sleeper = get_ident()  # first this: whoever tells does it the other way round
        waiter = self._waiter
        try:
            self._driver.wait_for(waiter, None if seconds is None else time.monotonic() + seconds)
        except BaseException:
            self._driver.recover()
            raise
        finally:
            self._sleeper = 0
        if waiter.given_up and not waiter.done:
            raise RequestCancelled("the request whose handler waits here was given up", begun=True)
        return waiter.done


class BodyFile:
    """The part of a reader that only threads have."""

    def file(self) -> io.RawIOBase:
        """The body as a binary file to read, for code that wants one; `io.BufferedReader` makes it buffered."""
        return _File(self)


class _File(io.RawIOBase):
    def __init__(self, reader: Any) -> None:
        self._reader = reader

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        data: bytes = self._reader.read(len(view))
        view[: len(data)] = data
        return len(data)


def chunks_of(source: Any) -> Generator[bytes, None, Any]:
    """The bytes of a bytes-like object, a binary file or an iterable; returns what a generator returns."""
    if isinstance(source, bytes | bytearray | memoryview):
        yield bytes(source)
        return None
    if callable(getattr(source, "read", None)):
        while data := source.read(READ_SIZE):
            yield checked(data)
        return None
    if isinstance(source, Generator):
        while True:
            try:
                chunk = next(source)
            except StopIteration as end:
                return end.value
            yield checked(chunk)
    if not isinstance(source, Iterable) or isinstance(source, str):
        raise TypeError(f"a body must be bytes, an iterable of bytes or a binary file, got {type(source).__name__}")
    for chunk in source:
        yield checked(chunk)
    return None


def checked(chunk: Any) -> bytes:
    """A piece of a body. Raises TypeError."""
    if not isinstance(chunk, bytes | bytearray | memoryview):
        raise TypeError(f"a body consists of bytes, got {type(chunk).__name__}: {chunk!r:.100}")
    return bytes(chunk)


def close_source(source: Any) -> None:
    """A handler has returned that, and nobody reads on."""
    if callable(close := getattr(source, "close", None)):
        close()

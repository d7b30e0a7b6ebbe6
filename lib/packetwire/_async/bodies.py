"""Bodies of requests and responses, as programs read and write them.

Strategy: the engine has two objects, one for what is sent and one for what comes, which say when something about
them has changed. Here that becomes reading and writing that waits. How it is waited, and what a request is, stands
in `bodyhost`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from types import TracebackType
from typing import Any, Protocol, Self

from packetwire._async.bodyhost import BodyFile, Signal, chunks_of, close_source
from packetwire.core.bodies import MOST_UNSENT, CallBodies, ReceivingBody, SendingBody
from packetwire.core.responses import Response
from packetwire.core.varint import BytesLike
from packetwire.errors import BodyEnded, ConnectionEnded, LimitExceeded, PacketwireError

PIECE = 256 << 10
"""Bytes that are written at a time: of a longer object only so much is unsent."""


class Exchange(Protocol):
    """A request with bodies, of ours or of the peer."""

    def signal(self) -> Signal:
        """A new one."""
        ...

    def flush(self) -> None:
        """Write what the engine wants sent."""
        ...

    def seconds(self) -> float | None:
        """The time for which a body may stand still from now on."""
        ...

    def timed_out(self, text: str) -> PacketwireError:
        """End the request, as a body stood still; returns why."""
        ...

    def why(self, error: PacketwireError) -> PacketwireError:
        """The exception to raise for the end of a body."""
        ...


class AsyncBodyReader(BodyFile):
    """A body that comes: that of a response, or of the request that a handler serves.

    One task or thread reads it. The far end may be ahead of it by a window, which is 256 KiB at first and grows to
    1 MiB while the reader keeps up.
    """

    __module__ = "packetwire"  # where it is public

    def __init__(self, body: ReceivingBody, exchange: Exchange) -> None:
        self._body = body
        self._exchange = exchange
        self._signal = exchange.signal()
        body.on_change = self._signal.tell

    @property
    def size(self) -> int | None:
        """Bytes of all of it, if the far end has said how many."""
        return self._body.size

    @property
    def at_end(self) -> bool:
        """True if all of it was read."""
        return self._body.at_end

    async def read(self, n: int = -1) -> bytes:
        """Up to `n` bytes, waiting until there is at least one; all that is left without `n`. b"" at the end.

        Raises `BodyEnded` if it is not whole, as the request failed or was given up; `ConnectionEnded`; or
        `RequestTimeout` if nothing came for the connection's `body_timeout`.
        """
        if n == 0:
            return b""
        if n > 0:
            return await self._next(n)
        chunks = []
        while chunk := await self._next(None):
            chunks.append(chunk)
        return b"".join(chunks)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        chunk = await self._next(None)
        if not chunk:
            raise StopAsyncIteration
        return chunk

    def stop(self) -> None:
        """No more of it is wanted: the far end is told, and what is here is dropped. The request goes on."""
        self._body.stop()
        self._exchange.flush()

    async def _next(self, most: int | None) -> bytes:
        body, exchange = self._body, self._exchange
        while True:
            self._signal.prepare()
            data = body.take(most)
            if data:
                exchange.flush()  # what was taken may be granted anew
                return data
            if body.at_end:
                return b""
            if body.failure is not None:
                if body.available:  # it came just before that
                    continue
                raise exchange.why(body.failure)
            body.wait()
            exchange.flush()
            seconds = exchange.seconds()
            if not await self._signal.wait(seconds):
                error = exchange.timed_out("the peer has sent nothing")
                body.end(error, keep=True)
                raise error


class BodyWriter:
    """A body that is sent."""

    def __init__(self, body: SendingBody, exchange: Exchange) -> None:
        self._body = body
        self._exchange = exchange
        self._signal = exchange.signal()
        body.on_change = self._signal.tell

    async def write(self, data: BytesLike) -> None:
        """Send bytes; returns when no more than 256 KiB are unsent."""
        if type(data) is bytes:  # which nobody changes, so it need not be copied
            await self._write(data)
            return
        view = memoryview(data).cast("B") if len(data) > PIECE else data
        for begin in range(0, len(data), PIECE):
            await self._write(bytes(view[begin : begin + PIECE]))

    async def _write(self, data: bytes) -> None:
        body, exchange = self._body, self._exchange
        self._signal.prepare()
        try:
            body.write(data)
        except PacketwireError as ended:
            error = exchange.why(ended)
            raise error from error.__cause__
        exchange.flush()
        await self._wait(MOST_UNSENT)

    async def drain(self) -> None:
        """Wait until all that was written has left, or never will."""
        self._signal.prepare()
        with suppress(PacketwireError):
            await self._wait(0)

    async def _wait(self, most: int) -> None:
        """Wait until no more than `most` bytes are unsent."""
        body, exchange = self._body, self._exchange
        while (unsent := body.unsent) > most:
            seconds = exchange.seconds()
            if not await self._signal.wait(seconds):
                if body.unsent < unsent:  # it is told only when little is unsent
                    continue
                text = "the peer has granted nothing" if body.waits_for_credit else "the peer has taken nothing"
                error = exchange.timed_out(text)
                body.end(error)
                raise error
            if body.ended is not None:
                raise exchange.why(body.ended)
            self._signal.prepare()

    def finish(self) -> None:
        """It is whole."""
        self._body.finish()
        self._exchange.flush()


class CallExchange(Exchange, Protocol):
    """A request of ours."""

    bodies: CallBodies

    async def response(self, timeout: float | None) -> Response:
        """Wait for the response."""
        ...

    def give_up(self, text: str) -> None:
        """Nobody wants the response any more."""
        ...


class Beginning(Protocol):
    """Sends a request."""

    async def __call__(self) -> CallExchange:
        """Send it, having waited for room."""
        ...


class AsyncStreamCall:
    """A request with a body each way: `stream` of a connection returns it, to be used by `async with`.

    In the block `write` and `finish` send the request's body, and reading gives that of the response; both can go
    on at the same time. Leaving the block by an exception gives the request up. Leaving it otherwise finishes the
    request's body, and drops what was not read of the response's; `result` can still be had then.
    """

    __module__ = "packetwire"  # where it is public

    def __init__(self, begin: Beginning) -> None:
        self._begin = begin
        self._begun: CallExchange | None = None

    async def __aenter__(self) -> Self:
        self._begun = exchange = await self._begin()
        bodies = exchange.bodies
        assert bodies.request is not None
        self._writer = BodyWriter(bodies.request, exchange)
        self._reader = None if bodies.response is None else AsyncBodyReader(bodies.response, exchange)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        exchange = self._exchange
        if exc_type is not None:
            exchange.give_up("")
            return
        await self.finish()
        if self._reader is not None:
            self._reader.stop()

    @property
    def _exchange(self) -> CallExchange:
        if self._begun is None:
            raise TypeError("a stream has begun only in its `async with` block")
        return self._begun

    @property
    def body(self) -> AsyncBodyReader:
        """The body of the response."""
        assert self._exchange is not None
        if self._reader is None:
            raise TypeError("this request takes no response body")
        return self._reader

    async def write(self, data: BytesLike) -> None:
        """Send bytes of the request's body; returns when no more than 256 KiB of it are unsent.

        Raises `BodyEnded` if the far end wants no more, or has answered; `ConnectionEnded`; or `RequestTimeout` if
        it has taken nothing for the `body_timeout`, which ends the request.
        """
        assert self._exchange is not None
        await self._writer.write(data)

    async def send(self, source: object) -> None:
        """Write all that a bytes object, an iterable of bytes or a binary file gives."""
        async for chunk in chunks_of(source):
            await self.write(chunk)

    async def finish(self) -> None:
        """The request's body is whole."""
        assert self._exchange is not None
        self._writer.finish()

    async def read(self, n: int = -1) -> bytes:
        """Bytes of the response's body: as `body.read`."""
        return await self.body.read(n)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self.body

    def give_up(self) -> None:
        """Nobody wants the response any more: the far end is told. Does nothing if it is there."""
        self._exchange.give_up("")

    async def result(self, timeout: float | None = None) -> Response:
        """Wait for the response, which comes behind its body: `(ok, flags, payload)`.

        As long as more of the response's body is to come than the window it must be read first. Raises
        `RequestTimeout` after `timeout` seconds, and can be called again then.
        """
        return await self._exchange.response(timeout)

    def cancel(self, reason: str = "") -> None:
        """Give the request up, from wherever: whoever reads or writes its bodies meanwhile gets `BodyEnded`.

        The far end is told, with `reason` as a text. Does nothing if the response has come.
        """
        self._exchange.give_up(reason)


async def call_with_body(call: AsyncStreamCall, source: object, timeout: float | None) -> Response:
    """Send a request with a body, return its response; the `timeout` begins behind the body."""
    async with call:
        with suppress(BodyEnded):  # the response says why
            await call.send(source)
        await call.finish()
        return await call.result(timeout)


async def answer_with(
    source: object, body: SendingBody | None, exchange: Exchange, most: int
) -> tuple[int, bytes] | Any:
    """Answer by what `source` gives: as the body, or joined to a payload of up to `most` bytes if that is None.

    Returns what a handler may return, for the response.
    """
    if body is None:
        return await joined_answer(source, most)
    chunks = chunks_of(source)
    try:
        writer = BodyWriter(body, exchange)
        while True:
            try:
                chunk = await anext(chunks)
            except StopAsyncIteration as end:
                return _trailer_of(end)
            except Exception:
                await writer.drain()  # what came before the error is told before it
                raise
            try:
                await writer.write(chunk)
            except (BodyEnded, ConnectionEnded):
                return None  # nobody wants more of it
    finally:
        await chunks.aclose()
        await close_source(source)


def _trailer_of(end: Exception) -> Any:
    """The value that a generator has returned."""
    return getattr(end, "value", None)


async def joined_answer(source: Any, most: int) -> tuple[int, bytes]:
    """All that `source` gives in one payload: (flags, payload), for a caller that takes no body.

    Raises `LimitExceeded` if it is more than so many bytes.
    """
    chunks = chunks_of(source)
    try:
        return await _joined(chunks, most)
    finally:
        await chunks.aclose()
        await close_source(source)


async def _joined(chunks: Any, most: int) -> tuple[int, bytes]:
    joined = bytearray()
    while True:
        try:
            chunk = await anext(chunks)
        except StopAsyncIteration as end:
            trailer = _trailer_of(end)
            flags, payload = (0, trailer or b"") if not isinstance(trailer, tuple) else trailer
            return flags, bytes(joined) + payload
        joined += chunk
        if len(joined) > most:
            raise LimitExceeded(f"the caller takes no body, and this is more than {most} bytes")


async def joined_body(payload: BytesLike, source: object, most: int) -> bytes:
    """A payload and a body behind it, for a peer without bodies. Raises `LimitExceeded` if it is too long."""
    joined = bytearray(payload)
    async for chunk in chunks_of(source):
        joined += chunk
        if len(joined) > most:
            raise LimitExceeded(f"the peer takes no bodies, and this one does not fit into {most} bytes")
    return bytes(joined)

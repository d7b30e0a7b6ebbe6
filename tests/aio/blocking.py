"""An `AsyncPacketConnection` in a loop of its own, in a thread of its own, used as a `PacketConnection` is.

So what is asserted of the one face can be asserted of the other. Each opening has its own loop; what would
block the loop's thread (a call by an inline handler) raises, as it does in the threaded face.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from typing import Any

from packetwire import (
    AsyncPacketConnection,
    ConnectionEnded,
    LocalProtocolError,
    PacketConnection,
    RequestTimeout,
    aserve,
)
from packetwire.connection import pipelined
from packetwire.connectionbase import request_arguments


class BlockingConnection:
    """A connection in a loop thread; its parameters are those of `PacketConnection`."""

    CH0_TAG_START = PacketConnection.CH0_TAG_START
    EOF_Packet = PacketConnection.EOF_Packet
    ERQ_Packet = PacketConnection.ERQ_Packet

    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None

    def __init__(self, recv_send: Any, name: str | None = None, **settings: Any) -> None:
        settings.pop("packet_grace", None)
        self.conn = AsyncPacketConnection(recv_send, name, **settings)
        self._lock = threading.RLock()
        self._loop: LoopThread | None = None
        self._opens = 0

    @classmethod
    def spawn(cls, argv: Any, name: str | None = None, **settings: Any) -> BlockingConnection:
        self = cls(None, name)
        self.conn = AsyncPacketConnection.spawn(argv, name, **settings)
        return self

    def __getattr__(self, name: str) -> Any:
        """What needs no loop: `name`, `closed`, `ended`, `process`, `trailing_octets`, `take` and the like."""
        return getattr(self.conn, name)

    def __str__(self) -> str:
        return str(self.conn)

    # opening and closing

    def open(self) -> BlockingConnection:
        with self._lock:
            if not self._opens:
                self._loop = LoopThread(self.conn.name, self.loop_factory)
                try:
                    self._loop.run(self.conn.open)
                except BaseException:
                    self._loop.stop()
                    raise
            self._opens += 1
        return self

    def close(self, timeout: float | None = None) -> None:
        if self._runs_handler():
            # a handler cannot wait for its own end
            threading.Thread(target=self._close, args=(timeout,), name=f"{self.conn.name}-closer").start()
        else:
            self._close(timeout)

    def _close(self, timeout: float | None) -> None:
        with self._lock:
            if not self._opens:
                return
            self._opens -= 1
            if self._opens:
                return
            assert self._loop
            try:
                self._loop.run(partial(self.conn.close, timeout))
            finally:
                self._loop.stop()

    def _runs_handler(self) -> bool:
        thread = threading.current_thread()
        in_loop = self._loop is not None and thread is self._loop.thread
        return in_loop or thread.name == f"{self.conn.name}-worker"

    def __enter__(self) -> BlockingConnection:
        return self.open()

    def __exit__(self, exc_type: Any, *_: Any) -> None:
        self.close(None if exc_type is None else min(1.0, self.conn.close_timeout))

    # calls

    def __call__(self, *args: Any, **kw: Any) -> Any:
        return self._run(partial(self.conn, *args, **kw))

    def submit(
        self, rq_type: int, flags: int = 0, payload: Any = b"", *, timeout: float | None = None, **kw: Any
    ) -> BlockingResult:
        """`timeout` is for room, as in the threaded face."""

        async def submit() -> BlockingResult:
            await self.conn.drain(timeout=timeout)
            return BlockingResult(self, self.conn.submit(rq_type, flags, payload, **kw))

        if self._loop is not None and threading.current_thread() is self._loop.thread:
            return BlockingResult(self, self.conn.submit(rq_type, flags, payload, **kw))
        return self._run(submit)

    def map(self, requests: Any, *, window: int = 64, channel: int = 0, timeout: Any = None) -> Iterator[Any]:
        return pipelined(
            self, lambda rq: self.submit(*request_arguments(rq), channel=channel), requests, window, timeout
        )

    def map_all(self, requests: Any, **kw: Any) -> list[Any]:
        """What the `map` of the asyncio face yields, which runs in the loop from its beginning to its end."""

        async def responses() -> list[Any]:
            return [response async for response in self.conn.map(requests, **kw)]

        return self._run(responses)  # type: ignore[no-any-return]

    def join(self, timeout: float | None = None) -> bool:
        return self._run(partial(self.conn.join, timeout)) if self.conn.is_open() else True

    join_recv = join

    def send_erq(self) -> None:
        self._run(partial(_called, self.conn.send_erq))

    def send_eof(self) -> None:
        self._run(partial(_called, self.conn.send_eof))

    def _run(self, call: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        if self._loop is None or not self.conn.is_open():
            state = "is closed" if self.conn.closed else "was never opened"
            raise ConnectionEnded(f"{self} {state}")
        return self._loop.run(call)


async def _called(function: Callable[[], Any]) -> Any:
    return function()


class BlockingServer:
    """An `AsyncServer` in a loop thread, made as `serve` makes a `Server`, and used in the same way."""

    def __init__(self, *args: Any, **limits: Any) -> None:
        self._loop = LoopThread("server")
        try:
            self.server = self._loop.run(partial(aserve, *args, **limits))
        except BaseException:
            self._loop.stop()
            raise

    def __getattr__(self, name: str) -> Any:
        """What needs no loop: `address`, `connections`, `failure`."""
        return getattr(self.server, name)

    def stop(self, drain_timeout: float | None = None) -> None:
        self._loop.run(partial(_called, partial(self.server.stop, drain_timeout)))

    def __enter__(self) -> BlockingServer:
        return self

    def __exit__(self, *exc: Any) -> None:
        try:
            self._loop.run(partial(self.server.__aexit__, *exc))
        finally:
            self._loop.stop()


class BlockingResult:
    """What `submit` returns: an asyncio future of another thread's loop, to be collected here."""

    def __init__(self, conn: BlockingConnection, future: Any) -> None:
        self._conn = conn
        self._future = future
        self._done: concurrent.futures.Future[Any] = concurrent.futures.Future()
        future.add_done_callback(self._settle)

    def _settle(self, future: asyncio.Future[Any]) -> None:
        if future.cancelled():
            self._done.cancel()
        elif (error := future.exception()) is not None:
            self._done.set_exception(error)
        else:
            self._done.set_result(future.result())

    @property
    def tag(self) -> int:
        return self._future.tag

    @property
    def ready(self) -> bool:
        return self._done.done()

    def __call__(self, timeout: float | None = None) -> Any:
        loop = self._conn._loop
        if loop is not None and not self._done.done():
            loop.check_thread()
        try:
            return self._done.result(timeout)
        except concurrent.futures.TimeoutError:
            raise RequestTimeout(f"no response within {timeout} s") from None

    def cancel(self) -> None:
        loop = self._conn._loop
        if loop is not None and not self._done.done():
            loop.run(partial(_called, self._future.cancel))

    def join(self, timeout: float | None = None) -> Any:
        try:
            return self(timeout), None
        except concurrent.futures.CancelledError:
            return None, None
        except Exception as error:
            return None, (type(error), error, error.__traceback__)


class LoopThread:
    """A thread that runs an event loop until `stop`."""

    def __init__(self, name: str, loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None) -> None:
        self._factory = loop_factory
        self._name = name
        self._started = threading.Event()
        self.thread = threading.Thread(target=self._run, name=f"{name}-loop", daemon=True)
        self.thread.start()
        self._started.wait()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=self._factory) as runner:
            runner.run(self._main())

    async def _main(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._stopped = asyncio.Event()
        self._started.set()
        await self._stopped.wait()

    def run(self, call: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """What `await call()` returns or raises there."""
        self.check_thread()
        future = asyncio.run_coroutine_threadsafe(call(), self.loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def check_thread(self) -> None:
        if threading.current_thread() is self.thread:
            raise LocalProtocolError(f"{self._name}: a blocking call in the loop would wait for itself")

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self._stopped.set)
        self.thread.join()

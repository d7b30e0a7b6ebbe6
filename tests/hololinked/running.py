"""A server that runs in a thread of its own, and what it answers."""

from __future__ import annotations

import asyncio
import threading
from types import TracebackType
from typing import Any, Self

from packetwire.hololinked import AsyncZMQServer, RequestMessage

WAIT = 60.0
"""Seconds after which a test gives up."""
SERVER_ID = "server"


class RunningServer:
    """`AsyncZMQServer.serve` in a thread: `echo`, `fail`, `invalid`, `sleep`, `count`, `hold`."""

    def __init__(self, access_point: str, *, running: int = 64, **options: Any) -> None:
        self.oneway: list[Any] = []
        self.asked = 0
        self.cancelled = threading.Event()
        self.ended = threading.Event()
        self._access_point, self._running, self._options = access_point, running, options
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="server under test")

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            self._failure = error
        finally:
            self._ready.set()
            self.ended.set()

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._held = asyncio.Event()
        async with AsyncZMQServer(id=SERVER_ID, access_point=self._access_point, **self._options) as self.server:
            assert self.server.socket_address
            self.address = self.server.socket_address
            self._task = asyncio.ensure_future(self.server.serve(self.answer, running=self._running))
            self._ready.set()
            try:
                await self._task
            except asyncio.CancelledError:
                pass

    def answer(self, request: RequestMessage) -> Any:
        self.asked += 1
        value = request.payload.deserialize()
        if request.server_execution_context.oneway:
            self.oneway.append(value)
        return getattr(self, str(request.operation).replace(" ", "_"))(request, value)

    def echo(self, request: RequestMessage, value: Any) -> Any:
        data = request.preserialized_payload.as_bytes()
        return (value, data) if data else value

    def fail(self, request: RequestMessage, value: Any) -> Any:
        raise ValueError(value)

    def fail_long(self, request: RequestMessage, value: Any) -> Any:
        raise OverflowError(value)

    def invalid(self, request: RequestMessage, value: Any) -> None:
        self.server.handle_invalid_message(request, TypeError(value))

    def time_out(self, request: RequestMessage, value: Any) -> None:
        self.server.handle_timeout(request, value)

    def unserializable(self, request: RequestMessage, value: Any) -> Any:
        return object()

    def count(self, request: RequestMessage, value: Any) -> Any:
        return len(self.oneway)

    async def sleep(self, request: RequestMessage, value: Any) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def hold(self, request: RequestMessage, value: Any) -> Any:
        """Answer when the test lets it."""
        await self._held.wait()
        return value

    def let_go(self) -> None:
        self.loop.call_soon_threadsafe(self._held.set)

    def in_loop(self, call: Any) -> Any:
        """What `call()` returns in the server's loop."""

        async def there() -> Any:
            return call()

        return asyncio.run_coroutine_threadsafe(there(), self.loop).result(WAIT)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(WAIT)
        if self._failure is not None:
            self._thread.join()
            raise self._failure
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.ended.is_set():
            try:
                self.loop.call_soon_threadsafe(self._task.cancel)
            except RuntimeError:
                pass  # it has just ended by itself
        self._thread.join(WAIT)
        assert not self._thread.is_alive()
        if self._failure is not None and error is None:
            raise self._failure

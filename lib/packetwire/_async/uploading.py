"""The places where an event loop differs from threads, for streams of typed items."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from packetwire.errors import BodyEnded
from packetwire.typed.items import ItemCodec

if TYPE_CHECKING:
    from packetwire._async.bodies import AsyncStreamCall


async def encoded(codec: ItemCodec, items: Any) -> AsyncGenerator[bytes]:
    """The bytes of items that an iterable gives, which may be asynchronous. Raises `BadValue`."""
    number = 0
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield codec.encode(number, item)
            number += 1
    else:
        for item in items:
            yield codec.encode(number, item)
            number += 1


class Upload:
    """Sends the body of a request while the one of its response is read: a task."""

    def __init__(self, call: AsyncStreamCall, source: object) -> None:
        self.error: BaseException | None = None
        """Why the source failed."""
        self._task = asyncio.get_running_loop().create_task(self._run(call, source))

    async def _run(self, call: AsyncStreamCall, source: object) -> None:
        try:
            with suppress(BodyEnded):  # the response says why
                await call.send(source)
                await call.finish()
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self.error = error
            call.give_up()

    def stop(self) -> None:
        """Nobody needs it any more."""
        if self._task is not asyncio.current_task():
            self._task.cancel()


def dropper(call: AsyncStreamCall) -> Callable[[], object]:
    """A function that gives a call up; in any thread, as that may be in the garbage collector's."""
    loop = asyncio.get_running_loop()

    def drop() -> None:
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(call.give_up)

    return drop

"""`stepped`: an asynchronous iterator for a thread."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Any

from packetwire.errors import RequestCancelled

_END: object = object()


def stepped(
    source: AsyncIterator[object], on_cancel: Callable[[Callable[[], object]], object] | None = None
) -> Iterator[Any]:
    """The items of an asynchronous iterator in a thread, by an event loop of its own.

    `on_cancel` takes a function that ends it by `RequestCancelled`, from any thread.
    """
    import asyncio

    task: asyncio.Task[object] | None = None

    async def following() -> object:
        nonlocal task
        task = asyncio.current_task()
        return await anext(source, _END)

    async def close() -> None:
        aclose: Any = getattr(source, "aclose", None)
        if aclose is not None:
            await aclose()

    with asyncio.Runner() as runner:
        loop = runner.get_loop()

        def cancel() -> None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(lambda: None if task is None else task.cancel())

        if on_cancel is not None:
            on_cancel(cancel)
        try:
            while (item := runner.run(following())) is not _END:
                yield item
        except asyncio.CancelledError:
            raise RequestCancelled("the caller gave this request up", begun=True) from None
        finally:
            runner.run(close())

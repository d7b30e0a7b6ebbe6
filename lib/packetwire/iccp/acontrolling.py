"""The controller for an event loop. The lives of components are the same; here they are awaited."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from packetwire.core.timelimits import time_limit
from packetwire.iccp.controlling import (
    DEFAULT_CONFIGURE_TIMEOUT,
    DEFAULT_MAX_COMPONENTS,
    Controller,
    LiveComponent,
    result_now,
)
from packetwire.iccp.life import Finished, Life, State, TimeLimits

T = TypeVar("T")


class Awaited(Generic[T]):
    """A future of another thread that any number of tasks of this loop wait for, for as long as each likes."""

    def __init__(self, future: Future[T]) -> None:
        self._future = future
        self._loop = asyncio.get_running_loop()
        self._done = asyncio.Event()
        future.add_done_callback(self._wake)

    def _wake(self, future: Future[T]) -> None:
        try:
            self._loop.call_soon_threadsafe(self._done.set)
        except RuntimeError:
            pass  # the loop was closed: nobody waits any more

    async def result(self, timeout: float | None = None, late: str = "") -> T:
        """What it comes to, as `result_of`."""
        limit = time_limit(timeout)
        if not self._future.done():  # in a fork of a loop there is nobody to wake it up
            with suppress(TimeoutError):  # as always, what counts is whether it is done
                async with asyncio.timeout(limit):
                    await self._done.wait()
        return result_now(self._future, timeout, late)


class AsyncStartedComponent(LiveComponent):
    """A component that an `AsyncController` has started: as `StartedComponent`, with what waits awaited."""

    def __init__(self, life: Life) -> None:
        super().__init__(life)
        self._ready = Awaited(life.ready)
        self._ended = Awaited(life.ended)

    async def wait_ready(self) -> None:
        """Wait until it says READY, which has a limit; raises what it did instead."""
        await self._ready.result()

    async def configure(self, config: Any = None, timeout: float | None = DEFAULT_CONFIGURE_TIMEOUT) -> None:
        """Give it a configuration, as `StartedComponent.configure`."""
        begin = self._life.begin_configure
        # to send may have to wait for a component that does not read, but not for one that has ended
        answer = begin(config) if self.state is State.ENDED else await asyncio.to_thread(begin, config)
        await Awaited(answer).result(timeout, f"{self} did not answer CONFIGURE")

    async def wait(self, timeout: float | None = None) -> Finished:
        """Wait for its end, as `StartedComponent.wait`."""
        return await self._ended.result(timeout, f"{self} has not ended")

    async def stop(self) -> Finished:
        """Have it end, as `StartedComponent.stop`. A cancellation ends the waiting only."""
        self.begin_stop()
        return await self._ended.result()


class AsyncController:
    """A `Controller` for an event loop, which nothing here blocks."""

    def __init__(
        self,
        *,
        limits: TimeLimits | None = None,
        max_components: int = DEFAULT_MAX_COMPONENTS,
    ) -> None:
        self._controller = Controller(limits=limits, max_components=max_components)
        self._components: list[AsyncStartedComponent] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def components(self) -> list[AsyncStartedComponent]:
        """Those that have not ended."""
        return [each for each in self._components if each.state is not State.ENDED]

    async def start(
        self,
        argv: Sequence[str],
        *,
        name: str | None = None,
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        forward_stderr: bool = False,
    ) -> AsyncStartedComponent:
        """Start a component and wait for its READY, as `Controller.start`; cancelled, it is stopped."""
        component = self.launch(argv, name=name, cwd=cwd, env=env, forward_stderr=forward_stderr)
        try:
            await component.wait_ready()
        except BaseException:
            component.begin_stop()
            raise
        return component

    def launch(
        self,
        argv: Sequence[str],
        *,
        name: str | None = None,
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        forward_stderr: bool = False,
    ) -> AsyncStartedComponent:
        """Start a component without waiting for it, as `Controller.launch`."""
        life = self._controller.begin(argv, name=name, cwd=cwd, env=env, forward_stderr=forward_stderr)
        component = AsyncStartedComponent(life)
        self._components = [*self.components, component]
        return component

    async def close(self) -> None:
        """Stop all components, and wait until they are gone."""
        for life in self._controller.begin_close():
            try:
                await Awaited(life.ended).result()
            except Exception:
                pass  # how each ended is its own `wait`'s to say
        self._controller.close()  # at once: their threads have nothing left to do

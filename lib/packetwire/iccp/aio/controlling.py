"""The controller for an event loop: the lives of components are the same, and go on in the loop.

A component belongs to the loop that it was started in. A loop that shuts down stops its components first, as
`close` does; one that is closed without that leaves them to be killed when somebody asks for them next.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Generic, Self, TypeVar, Unpack

from packetwire.aio.connection import AsyncPacketConnection
from packetwire.core.keeping import DEFAULT_RESTART_LIMIT, Backoff, MemberEvent
from packetwire.core.timelimits import time_limit
from packetwire.errors import ConnectionEnded, LocalProtocolError
from packetwire.iccp.config import Configuration
from packetwire.iccp.life import (
    DEFAULT_CONFIGURE_TIMEOUT,
    DEFAULT_MAX_COMPONENTS,
    LaunchOptions,
    Life,
    LiveComponent,
    Roster,
    result_now,
)
from packetwire.iccp.lifecore import TimeLimits
from packetwire.iccp.lifeevents import Finished, Leaving, Signal, State
from packetwire.iccp.packets import CHANNEL
from packetwire.streams import forking

if TYPE_CHECKING:
    from packetwire._async.components import AsyncSupervisedComponent

T = TypeVar("T")


class Awaited(Generic[T]):
    """A future that any number of tasks of this loop wait for, each as long as it likes."""

    def __init__(self, future: Future[T]) -> None:
        self._future = future
        self._loop = asyncio.get_running_loop()
        self._done = asyncio.Event()
        future.add_done_callback(self._wake)

    def _wake(self, future: Future[T]) -> None:
        with suppress(RuntimeError):  # the loop was closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._done.set)

    async def result(self, timeout: float | None = None, late: str = "") -> T:
        """The result; raises `RequestTimeout` with the text `late` after `timeout` seconds."""
        limit = time_limit(timeout)
        if not self._future.done():  # in a fork of a loop there is nobody to wake it up
            with suppress(TimeoutError):  # as always, what counts is whether it is done
                async with asyncio.timeout(limit):
                    await self._done.wait()
        return result_now(self._future, timeout, late)


class LoopLife(Life):
    """A component whose life goes on in the loop that it was begun in."""

    def __init__(self, argv: Sequence[str], limits: TimeLimits, **options: Unpack[LaunchOptions]) -> None:
        super().__init__(argv, limits, **options)
        self._loop = asyncio.get_running_loop()
        self._forked = False
        self._leaving = asyncio.Event()
        self._without_loop = threading.RLock()
        """For calls when the loop does not run any more, and so does not keep them apart."""
        self._timer: asyncio.TimerHandle | None = None
        self._connection = AsyncPacketConnection(self._open_stream, self.core.name, close_timeout=limits.exit)
        self._connection.attach(CHANNEL, self.take_event)

    def after_fork(self) -> None:
        """In the child of a fork: the component is the parent's."""
        self._forked = True
        super().after_fork()

    @property
    def _sender(self) -> AsyncPacketConnection:
        return self._connection

    def _begin(self) -> None:
        self._task = self._loop.create_task(self._live(), name=f"packetwire-component-{self.core.name}")

    async def _live(self) -> None:
        """Open the connection, and close it when the core says so, or the loop shuts down."""
        failure: Exception | None = None
        try:
            await self._connection.open()
            self._do(self.core.opened)
            await self._until_leaving()
        except Exception as error:
            failure = error
        finally:
            try:
                await self._connection.close()
            except Exception as error:
                failure = failure or error
            finally:
                self._do(partial(self._closed, failure))

    async def _until_leaving(self) -> None:
        try:
            await self._leaving.wait()
        except asyncio.CancelledError:
            # the loop waits for tasks that it has cancelled, so there is time to end it in order
            self.begin_stop()
            await self._leaving.wait()
            raise

    def begin_configure(self, config: Configuration) -> Future[None]:
        self.check_loop()
        return super().begin_configure(config)

    def _runs_here(self) -> bool:
        with suppress(RuntimeError):  # no loop runs here
            return asyncio.get_running_loop() is self._loop
        return False

    def _do(self, call: Callable[[float], None]) -> None:
        if self._forked:
            raise self._of_parent()
        if self.ended.done() or self._loop.is_closed():
            with self._without_loop:
                self._abandon()
                call(0.0)  # which does nothing any more, or raises the reason
            return
        if not self._runs_here():
            with suppress(RuntimeError):  # it was closed just now
                self._loop.call_soon_threadsafe(self._do, call)
            return
        now = self._loop.time()
        call(now)
        self._flush()
        self._react(self.core.take_events())
        self._set_timer(self._next_time(now))

    def _set_timer(self, when: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if when is None else self._loop.call_at(when, self._expire)

    def _leave(self, event: Leaving) -> None:
        self._leaving.set()

    def check_loop(self) -> None:
        """Raise `LocalProtocolError` in another loop than its own; end it if that was closed."""
        if self._loop.is_closed():
            self._abandon()
        elif not (self.ended.done() or self._runs_here()):
            raise LocalProtocolError(f"{self} belongs to another event loop")

    def end_without_loop(self) -> None:
        """End it if its loop, which is not the running one, does not run."""
        if not (self._loop.is_running() or self._runs_here()):
            self._abandon()

    def _abandon(self) -> None:
        with self._without_loop:
            if self.ended.done():
                return
            self._signal(Signal.KILL)
            self._closed(ConnectionEnded(f"{self}: its event loop does not run any more"), 0.0)
            self._react(self.core.take_events())
            with suppress(RuntimeError):  # the loop is closed
                self._leaving.set()
            # nobody can close it any more: dropped, it is let go of by a thread, with a ResourceWarning
            del self._connection


class AsyncStartedComponent(LiveComponent):
    """A component that an `AsyncController` has started: as `StartedComponent`, with what waits awaited."""

    _life: LoopLife

    def __init__(self, life: LoopLife) -> None:
        super().__init__(life)
        self._ready = Awaited(life.ready)
        self._ended = Awaited(life.ended)

    async def wait_ready(self) -> None:
        """Wait until it says READY, which has a limit; raises the reason if it does not."""
        self._life.check_loop()
        await self._ready.result()

    async def configure(
        self, config: Configuration = None, timeout: float | None = DEFAULT_CONFIGURE_TIMEOUT
    ) -> None:
        """Give it a configuration, as `StartedComponent.configure`."""
        time_limit(timeout)  # so that a mistake is raised before anything is sent
        answer = self._life.begin_configure(config)
        await Awaited(answer).result(timeout, f"{self} did not answer CONFIGURE")

    async def wait(self, timeout: float | None = None) -> Finished:
        """Wait for its end, as `StartedComponent.wait`."""
        self._life.check_loop()
        return await self._ended.result(timeout, f"{self} has not ended")

    async def stop(self) -> Finished:
        """Have it end, as `StartedComponent.stop`. A cancellation ends the waiting only."""
        self._life.check_loop()
        self.begin_stop()
        return await self._ended.result()


class AsyncController:
    """A `Controller` for an event loop, which nothing here blocks.

    Its components belong to the loop that they are started in, and are stopped when that shuts down.
    """

    def __init__(
        self,
        *,
        limits: TimeLimits | None = None,
        max_components: int = DEFAULT_MAX_COMPONENTS,
    ) -> None:
        self.limits = limits or TimeLimits()
        self.max_components = max_components
        self._lives: Roster[LoopLife] = Roster(max_components)
        self._components: list[AsyncStartedComponent] = []
        self._supervised: list[AsyncSupervisedComponent[AsyncStartedComponent]] = []
        self._of_parent: ConnectionEnded | None = None
        forking.register(self)

    def after_fork(self) -> None:
        """In the child of a fork: the components are the parent's."""
        self._of_parent = self._of_parent or ConnectionEnded(forking.of_parent("this controller"))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
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
        forward_stderr: bool | str = False,
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
        forward_stderr: bool | str = False,
    ) -> AsyncStartedComponent:
        """Start a component without waiting for it, as `Controller.launch`."""
        if self._of_parent is not None:
            raise self._of_parent.for_waiter()
        life = LoopLife(argv, self.limits, name=name, cwd=cwd, env=env, forward_stderr=forward_stderr)
        self._lives.add(life, lambda other: other.ended.done())
        life.begin()
        component = AsyncStartedComponent(life)
        self._components = [*self.components, component]
        return component

    def supervise(
        self,
        argv: Sequence[str],
        *,
        config: Configuration = None,
        restart: str = "on-failure",
        limit: tuple[int, float] | None = DEFAULT_RESTART_LIMIT,
        backoff: Backoff | None = None,
        on_event: Callable[[MemberEvent], object] | None = None,
        **options: Unpack[LaunchOptions],
    ) -> AsyncSupervisedComponent[AsyncStartedComponent]:
        """Start a component, and another one when it has ended, by the rules of `AsyncSupervised`; does not wait.

        `restart` is "on-failure", that is unless its outcome is OK and its exit status 0; "always"; or "never".
        After more than `limit` restarts, (number, seconds), it is given up. Each is given the `config`. `on_event`
        is told as that of a pool. The end of this controller stops it, too.
        """
        from packetwire._async.components import AsyncSupervisedComponent

        if self._of_parent is not None:
            raise self._of_parent.for_waiter()
        self._lives.check_open()
        name = options.get("name") or os.path.basename(os.fspath(argv[0]))
        supervised = AsyncSupervisedComponent(
            name,
            partial(self.launch, argv, **options),
            config,
            on_event,
            restart=restart,
            limit=limit,
            backoff=backoff,
        )
        self._supervised.append(supervised)
        supervised.start()
        return supervised

    async def close(self) -> None:
        """Stop all components, and wait until they are gone."""
        if self._of_parent is not None:
            return
        for each in self._supervised:
            each.halt()
        lives = self._lives.close()
        for life in lives:
            life.end_without_loop()
            life.begin_stop()
        for life in lives:
            try:
                await Awaited(life.ended).result()
            except Exception:
                pass  # how each ended is its own `wait`'s to say
        for each in self._supervised:
            await each.stop()

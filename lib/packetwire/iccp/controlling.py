"""A controller of components: starts them as children, configures them, stops them, and learns how each ended."""

from __future__ import annotations

import concurrent.futures
import os
import subprocess
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Final, Self, TypeVar, cast

from packetwire.core.timelimits import time_limit
from packetwire.errors import ConnectionEnded, LimitExceeded, LocalProtocolError, RequestTimeout
from packetwire.iccp.life import Finished, Life, State, TimeLimits, anew
from packetwire.messaging.descriptors import PeerDescriptor
from packetwire.streams import forking

DEFAULT_CONFIGURE_TIMEOUT: Final = 10.0
"""Seconds for a component to answer CONFIGURE."""
DEFAULT_MAX_COMPONENTS: Final = 64
"""Components of a controller at a time."""

T = TypeVar("T")


class LiveComponent:
    """What both faces tell of a component, and what they do without waiting."""

    def __init__(self, life: Life) -> None:
        self._life = life

    def __str__(self) -> str:
        return str(self._life)

    @property
    def state(self) -> State:
        """Where it is in its life."""
        return self._life.state

    @property
    def peer(self) -> PeerDescriptor | None:
        """Who it is, as its READY says."""
        return self._life.peer

    @property
    def endpoints(self) -> dict[str, list[str]]:
        """The addresses of its endpoints, as its READY says."""
        return self._life.endpoints

    @property
    def process(self) -> subprocess.Popen[bytes] | None:
        """Its process; None if that could not be started."""
        return self._life.process

    def begin_stop(self) -> None:
        """Have it end as `stop` does, without waiting for it."""
        self._life.begin_stop()

    def kill(self) -> None:
        """End it at once."""
        self._life.kill()


class StartedComponent(LiveComponent):
    """A component that a `Controller` has started. Any thread may use it."""

    def wait_ready(self) -> None:
        """Wait until it says READY, which has a limit; raises what it did instead."""
        result_of(self._life.ready)

    def configure(self, config: Any = None, timeout: float | None = DEFAULT_CONFIGURE_TIMEOUT) -> None:
        """Give it a configuration: a mapping, a `Config`, or an object with `save_proto`.

        Raises `ConfigureRefused` with what it answers, `RequestTimeout`, or why it has ended.
        """
        time_limit(timeout)  # a mistake is told before anything is sent
        result_of(self._life.begin_configure(config), timeout, f"{self} did not answer CONFIGURE")

    def wait(self, timeout: float | None = None) -> Finished:
        """Wait for its end: what it said, or an exception that says how it ended without a word.

        Raises `RequestTimeout` while it lives.
        """
        return result_of(self._life.ended, timeout, f"{self} has not ended")

    def stop(self) -> Finished:
        """Have it end, and return what it said; as `wait` if it has ended already.

        Its time is limited: after STOP it is sent SIGTERM, and then SIGKILL; then `ChildExited` is raised.
        """
        self._life.begin_stop()
        return result_of(self._life.ended)


class Controller:
    """Components as children over their pipes, each with a life of its own.

    It is a context manager, at whose end those that are left are stopped, all at a time. The limits are seconds,
    see `TimeLimits`; `max_components` may live at a time.
    """

    def __init__(
        self,
        *,
        limits: TimeLimits | None = None,
        max_components: int = DEFAULT_MAX_COMPONENTS,
    ) -> None:
        if max_components < 1:
            raise LocalProtocolError(f"max_components must be 1 or more, not {max_components}")
        self.limits = limits or TimeLimits()
        self.max_components = max_components
        self._lives: list[Life] = []
        self._components: list[StartedComponent] = []
        self._lock = threading.Lock()
        self._closed = False
        self._forked = False
        forking.register(self)

    def after_fork(self) -> None:
        """In the child of a fork: the components are the parent's."""
        if self._forked:
            return
        self._forked = True
        reason = ConnectionEnded(forking.of_parent("this controller"))
        self._lock = cast(Any, forking.ParentsLock(reason.for_waiter))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def components(self) -> list[StartedComponent]:
        """Those that have not ended."""
        return [each for each in self._components if each.state is not State.ENDED]

    def start(
        self,
        argv: Sequence[str],
        *,
        name: str | None = None,
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        forward_stderr: bool = False,
    ) -> StartedComponent:
        """Start a component and wait for its READY.

        Raises OSError if there is no such command, `RequestTimeout` if it is too late, `ChildExited` if it ends
        before, `ComponentError` if it says something else; then it is gone. Its standard error is kept, and
        quoted by these; with `forward_stderr` it is passed on to ours too.
        """
        component = self.launch(argv, name=name, cwd=cwd, env=env, forward_stderr=forward_stderr)
        try:
            component.wait_ready()
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
    ) -> StartedComponent:
        """Start a component as `start` does, without waiting for it: that is what `wait_ready` is for."""
        life = self.begin(argv, name=name, cwd=cwd, env=env, forward_stderr=forward_stderr)
        component = StartedComponent(life)
        with self._lock:
            self._components = [*self.components, component]
        return component

    def begin(self, argv: Sequence[str], **options: Any) -> Life:
        """Begin a component's life, for any face."""
        with self._lock:
            pass  # in a fork that says so
        life = Life(argv, self.limits, **options)
        with self._lock:
            if self._closed:
                raise LocalProtocolError("the controller was closed")
            self._lives = [each for each in self._lives if each.is_alive()]
            if sum(not each.ended.done() for each in self._lives) >= self.max_components:
                raise LimitExceeded(f"{self.max_components} components live; that is max_components")
            self._lives.append(life)
            life.begin()
        return life

    def begin_close(self) -> list[Life]:
        """Start no more, and have those that live end, all at a time; returns these."""
        if self._forked:
            return []
        with self._lock:
            self._closed = True
            lives = list(self._lives)
        for life in lives:
            life.begin_stop()
        return lives

    def close(self) -> None:
        """Stop all components, and wait until they are gone. How each ended is its own `wait`'s to say."""
        for life in self.begin_close():
            concurrent.futures.wait((life.ended,))
            life.join()


def result_of(future: Future[T], timeout: float | None = None, late: str = "") -> T:
    """What a future comes to; raises `RequestTimeout` with the text `late` after `timeout` seconds."""
    concurrent.futures.wait((future,), time_limit(timeout))
    return result_now(future, timeout, late)


def result_now(future: Future[T], timeout: float | None, late: str) -> T:
    """What a future has come to, for which `timeout` seconds were waited."""
    if not future.done():
        raise RequestTimeout(f"{late} within {timeout:g} s")
    failure = future.exception()
    if failure is not None:
        raise anew(failure)
    return future.result()

"""A controller of components for threads: starts, configures and stops them as children, and sees how each ended.

Strategy: the connection of a component has a thread that reads it, and its process one that watches it. They bring
what happens, so a component needs no further thread: one for all of them watches the deadlines, while there are
any. Starting a process and closing a connection may take a while; each is done in a thread of its own.
"""

from __future__ import annotations

import concurrent.futures
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack, cast

from packetwire.connection import PacketConnection
from packetwire.core.keeping import DEFAULT_RESTART_LIMIT, Backoff, MemberEvent
from packetwire.core.timelimits import LONGEST, time_limit
from packetwire.errors import ConnectionEnded
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
from packetwire.iccp.lifeevents import Finished, Leaving, State
from packetwire.iccp.packets import CHANNEL
from packetwire.streams import forking

if TYPE_CHECKING:
    from packetwire._sync.components import SupervisedComponent

logger = logging.getLogger("packetwire")

T = TypeVar("T")


class Overseer:
    """One thread that watches the deadlines of components; it exists while there are any."""

    def __init__(self) -> None:
        self.after_fork()
        forking.register(self)

    def after_fork(self) -> None:
        """In the child of a fork: the thread is the parent's."""
        self._condition = threading.Condition()
        self._changed: set[ThreadLife] = set()
        self._thread: threading.Thread | None = None
        self._runs = False

    def look_at(self, life: ThreadLife) -> None:
        """The deadline of that component is another one now."""
        with self._condition:
            self._changed.add(life)
            if self._runs:
                self._condition.notify()
                return
            thread = threading.Thread(target=self._run, name="packetwire-components", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # the next news of a component tries again
                logger.error("nothing watches the deadline of %s: %s", life, error)
                return
            self._thread, self._runs = thread, True

    def join(self) -> None:
        """Wait for the thread, which ends if no component has a deadline."""
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _run(self) -> None:
        due: dict[ThreadLife, float] = {}
        while True:
            with self._condition:
                if not due and not self._changed:
                    self._runs = False
                    return
                if not self._changed:
                    self._condition.wait(min(max(0.0, min(due.values()) - time.monotonic()), LONGEST))
                changed, self._changed = self._changed, set()
            for life in changed:
                when = life.next_time
                due.pop(life, None)
                if when is not None:
                    due[life] = when
            now = time.monotonic()
            for life in [life for life, when in due.items() if when <= now]:
                del due[life]
                try:
                    life.expire()
                except Exception:
                    logger.exception("the deadline of %s could not be dealt with", life)


class ThreadLife(Life):
    """A component whose life goes on in whatever threads bring news of it."""

    def __init__(
        self, argv: Sequence[str], limits: TimeLimits, overseer: Overseer, **options: Unpack[LaunchOptions]
    ) -> None:
        super().__init__(argv, limits, **options)
        self._overseer = overseer
        self._lock = threading.RLock()
        self.next_time: float | None = None
        """The time to call `expire`; None for never."""
        self._threads: list[threading.Thread] = []
        self._connection = PacketConnection(self._open_stream, self.core.name, close_timeout=limits.exit)
        self._connection.attach(CHANNEL, self.take_event)

    def after_fork(self) -> None:
        """In the child of a fork: the component is the parent's."""
        self._lock = cast(Any, forking.ParentsLock(self._of_parent().for_waiter))
        super().after_fork()

    @property
    def _sender(self) -> PacketConnection:
        return self._connection

    def _submit(self, rq_type: int, payload: bytes) -> None:
        self._connection.submit(rq_type, 0, payload, channel=CHANNEL, timeout=0)

    def _begin(self) -> None:
        self._run_in_thread(self._open)

    def is_over(self) -> bool:
        """True if nothing more is to be waited for."""
        return self.ended.done() and not any(each.is_alive() for each in self._threads)

    def join(self) -> None:
        """Wait for its threads, which have nothing left to do once `ended` is done."""
        for each in self._threads:
            if each is not threading.current_thread():
                each.join()

    def expire(self) -> None:
        """The time for it has come."""
        self._expire()

    def _do(self, call: Callable[[float], None]) -> None:
        with self._lock:
            now = time.monotonic()
            call(now)
            self._flush()
            events = self.core.take_events()
            when, before = self._next_time(now), self.next_time
            self.next_time = when
        if when is not None or before is not None:  # also if it is the same: a call may have been interrupted here
            self._overseer.look_at(self)
        self._react(events)

    def _run_in_thread(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, name=f"packetwire-component-{self.core.name}", daemon=True)
        self._threads.append(thread)
        try:
            thread.start()
        except BaseException:
            self._threads.remove(thread)
            raise

    def _open(self) -> None:
        try:
            self._connection.open()
        except Exception as error:
            self._do(partial(self._closed, error))
        else:
            self._do(self.core.opened)

    def _leave(self, event: Leaving) -> None:
        try:
            self._run_in_thread(self._close)
        except RuntimeError:  # the system has no more of them
            self._close()

    def _close(self) -> None:
        failure = None
        try:
            self._connection.close()
        except Exception as error:
            failure = error
        self._do(partial(self._closed, failure))


class StartedComponent(LiveComponent):
    """A component that a `Controller` has started. Any thread may use it."""

    def wait_ready(self) -> None:
        """Wait until it says READY, which has a limit; raises the reason if it does not."""
        result_of(self._life.ready)

    def configure(self, config: Configuration = None, timeout: float | None = DEFAULT_CONFIGURE_TIMEOUT) -> None:
        """Give it a configuration: a mapping, a `Config`, or an object with `save_proto`.

        Raises `ConfigureRefused` with its answer, `RequestTimeout`, or the reason of its end.
        """
        time_limit(timeout)  # so that a mistake is raised before anything is sent
        result_of(self._life.begin_configure(config), timeout, f"{self} did not answer CONFIGURE")

    def wait(self, timeout: float | None = None) -> Finished:
        """Wait for its end: its FINISHED, or an exception that says how it ended without a word.

        Raises `RequestTimeout` while it lives.
        """
        return result_of(self._life.ended, timeout, f"{self} has not ended")

    def stop(self) -> Finished:
        """Have it end, and return its FINISHED; as `wait` if it has ended already.

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
        self.limits = limits or TimeLimits()
        self.max_components = max_components
        self._lives: Roster[ThreadLife] = Roster(max_components)
        self._components: list[StartedComponent] = []
        self._supervised: list[SupervisedComponent[StartedComponent]] = []
        self._overseer = Overseer()
        self._lock = threading.Lock()
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

    def __exit__(self, *exc: object) -> None:
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
        forward_stderr: bool | str = False,
    ) -> StartedComponent:
        """Start a component and wait for its READY.

        Raises OSError if there is no such command, `RequestTimeout` if it is too late, `ChildExited` if it ends
        before, `ComponentError` if it says something else; then it is gone. Its standard error is kept, and
        quoted by these; with `forward_stderr` it is passed on to ours too, with that before
        each line if it is a string.
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
        forward_stderr: bool | str = False,
    ) -> StartedComponent:
        """Start a component as `start` does, without waiting for it: that is what `wait_ready` is for."""
        life = self.begin(argv, name=name, cwd=cwd, env=env, forward_stderr=forward_stderr)
        component = StartedComponent(life)
        with self._lock:
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
    ) -> SupervisedComponent[StartedComponent]:
        """Start a component, and another one when it has ended, by the rules of `Supervised`; does not wait.

        `restart` is "on-failure", that is unless its outcome is OK and its exit status 0; "always"; or "never".
        After more than `limit` restarts, (number, seconds), it is given up. Each is given the `config`. `on_event`
        is told as that of a pool. The end of this controller stops it, too.
        """
        from packetwire._sync.components import SupervisedComponent

        with self._lock:  # in a fork that says so
            self._lives.check_open()
        name = options.get("name") or os.path.basename(os.fspath(argv[0]))
        supervised = SupervisedComponent(
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

    def begin(self, argv: Sequence[str], **options: Unpack[LaunchOptions]) -> ThreadLife:
        """Begin a component's life."""
        with self._lock:
            pass  # in a fork that says so
        life = ThreadLife(argv, self.limits, self._overseer, **options)
        with self._lock:
            self._lives.add(life, ThreadLife.is_over)
            life.begin()
        return life

    def begin_close(self) -> list[ThreadLife]:
        """Start no more, and have those that live end, all at a time; returns these."""
        if self._forked:
            return []
        for each in self._supervised:
            each.halt()
        with self._lock:
            lives = self._lives.close()
        for life in lives:
            life.begin_stop()
        return lives

    def close(self) -> None:
        """Stop all components, and wait until they are gone. How each ended is its own `wait`'s to say."""
        for life in self.begin_close():
            concurrent.futures.wait((life.ended,))
            life.join()
        if not self._forked:
            for each in self._supervised:
                each.stop()
            self._overseer.join()


def result_of(future: Future[T], timeout: float | None = None, late: str = "") -> T:
    """The result of a future; raises `RequestTimeout` with the text `late` after `timeout` seconds."""
    concurrent.futures.wait((future,), time_limit(timeout))
    return result_now(future, timeout, late)

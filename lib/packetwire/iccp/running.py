"""Being a component, with threads: a process that a controller has started, configures, and stops."""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Self

from packetwire.connection import PacketConnection
from packetwire.errors import ConnectionEnded, RequestTimeout
from packetwire.iccp.componentrun import (
    DEFAULT_ORPHAN_TIMEOUT,
    EXIT_TERMINATED,
    ConfigHandler,
    Details,
    Run,
    StopHandler,
    details_of,
    standard,
)
from packetwire.iccp.control import Control, Terminated
from packetwire.iccp.packets import CHANNEL
from packetwire.messaging.descriptors import PeerDescriptor
from packetwire.streams import forking
from packetwire.streams.open import PacketConnectionRecvSend

PATIENCE = 30.0
"""Seconds that READY and FINISHED wait for a controller to take what it was sent before."""

MainFunction = Callable[[Control], Details | Awaitable[Details]]


def run_component(
    main: MainFunction | None = None,
    *,
    endpoints: Mapping[str, Sequence[str]] | None = None,
    on_config_request: ConfigHandler | None = None,
    on_stop_component: StopHandler | None = None,
    with_traceback: bool = False,
    orphan_timeout: float | None = DEFAULT_ORPHAN_TIMEOUT,
    peer: PeerDescriptor | None = None,
    recv_send: PacketConnectionRecvSend | None = None,
) -> int:
    """Be a component, in the process that a controller has started: say READY, run `main`, say FINISHED.

    `main(control)` is the work, and may be a coroutine function; it returns when `control` says that it is time to
    stop, or has nothing more to do. Its result is sent to the controller: nothing, a string, or several. Its
    exception is sent as an ERROR, with its traceback if `with_traceback`. Without `main` the component waits to be
    stopped.

    `on_config_request(config)` and `on_stop_component(exc)` are called by the thread that reads. Standard output
    belongs to the controller: what is printed goes to standard error. SIGTERM raises `Terminated` in `main`; it is
    raised too if that still runs `orphan_timeout` seconds after the controller is gone.

    Returns the exit status: 0, or 1 if it failed. The controller hears of SystemExit and KeyboardInterrupt too,
    which are raised again.
    """
    with Termination() as termination:
        run = ThreadRun(on_config_request, on_stop_component, with_traceback, orphan_timeout, termination)
        run.open(recv_send)
        try:
            run.say_ready(peer, endpoints)
            return run.work(main)
        finally:
            run.close()


class ThreadRun(Run):
    """A component whose main function runs in the calling thread."""

    def __init__(
        self,
        on_config_request: ConfigHandler | None,
        on_stop_component: StopHandler | None,
        with_traceback: bool,
        orphan_timeout: float | None,
        termination: Termination,
    ) -> None:
        super().__init__(on_config_request, on_stop_component, with_traceback, orphan_timeout)
        self._termination = termination
        self._lock = threading.RLock()
        self._timer: threading.Timer | None = None
        self._is_parents = False
        forking.register(self)

    def after_fork(self) -> None:
        """In the child of a fork: the conversation with the controller is the parent's."""
        self._lock = threading.RLock()
        self._timer = None
        self._is_parents = True

    def open(self, recv_send: PacketConnectionRecvSend | None) -> None:
        """Open the connection to the controller."""
        self._connection = PacketConnection(standard() if recv_send is None else recv_send, "controller")
        self._connection.attach(CHANNEL, self.take_event)
        self._connection.open()

    def work(self, main: MainFunction | None) -> int:
        """Run the main function; the exit status."""
        with self.ending() as ending, self._termination.raised():
            ending.details = details_of(self._call(main))
        return ending.status

    def _call(self, main: MainFunction | None) -> Details:
        if main is None:
            self.control.wait_stop()
            return None
        result = main(self.control)
        return asyncio.run(_awaited(result)) if inspect.isawaitable(result) else result

    def close(self) -> None:
        """Close the connection."""
        if self._timer is not None:
            self._timer.cancel()
        self._connection.close()

    def _apart(self) -> AbstractContextManager[object]:
        return self._lock

    @property
    def _now(self) -> float:
        return time.monotonic()

    def _submit(self, rq_type: int, payload: bytes) -> None:
        if not self._is_parents:
            with suppress(ConnectionEnded, RequestTimeout):  # there is nobody to tell
                self._connection.submit(rq_type, 0, payload, channel=CHANNEL, timeout=PATIENCE)

    def _watch(self, deadline: float) -> None:
        if self._termination.is_ours:
            self._timer = threading.Timer(max(0.0, deadline - self._now), self._expire)
            self._timer.daemon = True
            self._timer.start()

    def _expire(self) -> None:
        with self._lock:
            orphaned = self.core.expire(self._now)
            deadline = self.core.next_deadline()
        if orphaned is not None:
            self._termination.come()
        elif deadline is not None:  # the timer was early
            self._watch(deadline)


async def _awaited(result: Awaitable[Details]) -> Details:
    return await result


class Termination:
    """SIGTERM raises `Terminated` in the main function, if that runs in the main thread and nobody else handles it.

    One that comes before is raised when the main function begins, one that comes after does nothing.
    """

    def __init__(self) -> None:
        self._has_come = self._raises = self._is_over = self.is_ours = False
        self._lock = threading.Lock()
        forking.register(self)

    def after_fork(self) -> None:
        """In the child of a fork: the thread that holds the lock may not exist here."""
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        in_main_thread = threading.current_thread() is threading.main_thread()
        self.is_ours = in_main_thread and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        if self.is_ours:
            signal.signal(signal.SIGTERM, self._take)
        return self

    def __exit__(self, *exc: object) -> None:
        self._end()
        if self.is_ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    @contextmanager
    def raised(self) -> Iterator[None]:
        """Raise it inside of this."""
        self._raises = True
        try:
            if self._has_come:
                raise Terminated(EXIT_TERMINATED)
            yield
        finally:
            self._raises = False
            self._end()

    def come(self) -> None:
        """Send SIGTERM to this process, if the main function is not over."""
        with self._lock:
            if not self._is_over:
                os.kill(os.getpid(), signal.SIGTERM)

    def _end(self) -> None:
        with self._lock:
            self._is_over = True

    def _take(self, signum: int, frame: object) -> None:
        self._has_come = True
        if self._raises:
            self._raises = False  # once: what it interrupts needs time to clean up
            raise Terminated(EXIT_TERMINATED)

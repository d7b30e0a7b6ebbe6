"""Being a component, in an event loop: a process that a controller has started, configures, and stops."""

from __future__ import annotations

import asyncio
import inspect
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Self

from packetwire.aio.connection import AsyncPacketConnection
from packetwire.aio.opening import AsyncRecvSend
from packetwire.errors import ConnectionEnded, LimitExceeded
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
from packetwire.messaging.protobuf import ProtoMessage

AsyncMainFunction = Callable[[Control], Awaitable[Details] | Details]


async def arun_component(
    main: AsyncMainFunction | None = None,
    *,
    endpoints: Mapping[str, Sequence[str]] | None = None,
    on_config_request: ConfigHandler | None = None,
    on_stop_component: StopHandler | None = None,
    with_traceback: bool = False,
    orphan_timeout: float | None = DEFAULT_ORPHAN_TIMEOUT,
    peer: PeerDescriptor | None = None,
    recv_send: AsyncRecvSend | None = None,
) -> int:
    """Be a component, as `run_component`, in a program that has an event loop.

    `main(control)` is a coroutine function, which runs in the calling task: `await control.stopped()`. SIGTERM
    cancels it and then `Terminated` is raised; so is one that still runs `orphan_timeout` seconds after the
    controller is gone. It may be a plain function that waits for nothing, as the loop stands still meanwhile.

    `on_config_request(config)` and `on_stop_component(exc)` are called in the loop. The former may be a coroutine
    function: the configuration is answered when that has returned, or raised.
    """
    with LoopTermination() as termination:
        run = LoopRun(on_config_request, on_stop_component, with_traceback, orphan_timeout, termination)
        await run.open(recv_send)
        try:
            run.say_ready(peer, endpoints)
            return await run.work(main)
        finally:
            await run.close()


class LoopRun(Run):
    """A component whose main function runs in a task."""

    def __init__(
        self,
        on_config_request: ConfigHandler | None,
        on_stop_component: StopHandler | None,
        with_traceback: bool,
        orphan_timeout: float | None,
        termination: LoopTermination,
    ) -> None:
        super().__init__(on_config_request, on_stop_component, with_traceback, orphan_timeout)
        self._termination = termination
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    async def open(self, recv_send: AsyncRecvSend | None) -> None:
        """Open the connection to the controller."""
        self._connection = AsyncPacketConnection(standard() if recv_send is None else recv_send, "controller")
        self._connection.attach(CHANNEL, self.take_event)
        await self._connection.open()

    async def work(self, main: AsyncMainFunction | None) -> int:
        """Run the main function; the exit status."""
        with self.ending() as ending, self._termination.raised():
            ending.details = details_of(await self._call(main))
        return ending.status

    async def _call(self, main: AsyncMainFunction | None) -> Details:
        if main is None:
            await self.control.stopped()
            return None
        result = main(self.control)
        return await result if inspect.isawaitable(result) else result

    async def close(self) -> None:
        """Close the connection."""
        if self._timer is not None:
            self._timer.cancel()
        await self._connection.close()

    def _apart(self) -> AbstractContextManager[object]:
        return nullcontext()  # all of it happens in the loop

    @property
    def _now(self) -> float:
        return self._loop.time()

    def _submit(self, rq_type: int, payload: bytes) -> None:
        with suppress(ConnectionEnded, LimitExceeded):  # there is nobody to tell
            self._connection.submit(rq_type, 0, payload, channel=CHANNEL)

    def _watch(self, deadline: float) -> None:
        self._timer = self._loop.call_at(deadline, self._expire)

    def _expire(self) -> None:
        if self.core.expire(max(self._now, self.core.next_deadline() or 0.0)) is not None:
            self._termination.come()

    def _configure(self, config: ProtoMessage) -> object:
        if not inspect.iscoroutinefunction(self._on_config_request):
            return super()._configure(config)
        return self._loop.create_task(self._await_configured(self._on_config_request(config), config))

    async def _await_configured(self, taking: Awaitable[object], config: ProtoMessage) -> bytes:
        try:
            await taking
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            return self._refused(error)
        return self._taken(config)


class LoopTermination:
    """SIGTERM cancels the main function, if this is the main thread and nobody else handles it, as `Terminated`.

    One that comes before is raised when the main function begins, one that comes after does nothing.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._has_come = self._is_ours = False
        self._task: asyncio.Task[object] | None = None

    def __enter__(self) -> Self:
        in_main_thread = threading.current_thread() is threading.main_thread()
        self._is_ours = in_main_thread and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        if self._is_ours:
            self._loop.add_signal_handler(signal.SIGTERM, self.come)
        return self

    def __exit__(self, *exc: object) -> None:
        if self._is_ours:
            self._loop.remove_signal_handler(signal.SIGTERM)

    @contextmanager
    def raised(self) -> Iterator[None]:
        """Raise it inside of this."""
        if self._has_come:
            raise Terminated(EXIT_TERMINATED)
        self._task = task = asyncio.current_task()
        try:
            yield
        except asyncio.CancelledError:
            if not self._has_come:
                raise
            raise Terminated(EXIT_TERMINATED) from None
        finally:
            self._task = None
            if self._has_come and task is not None:
                task.uncancel()

    def come(self) -> None:
        """Cancel the main function, once, if it runs."""
        if self._task is not None and not self._has_come:
            self._task.cancel()
        self._has_come = True

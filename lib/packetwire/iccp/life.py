"""A component as a child process: the shell around `LifeCore` that threads and event loops share.

Strategy: whatever happens goes through `_do`, which calls the core and then performs what the core asks for: it
sends messages and signals, settles futures, and has the connection closed. How a call is kept apart from others,
how the deadline is watched, and how the connection is opened and closed are the business of the two subclasses.
"""

from __future__ import annotations

import os
import signal
import subprocess
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any, Final, Generic, Protocol, TypedDict, TypeVar

from packetwire.errors import ConnectionEnded, LimitExceeded, LocalProtocolError, RequestTimeout, ended_by
from packetwire.iccp.config import Configuration
from packetwire.iccp.lifecore import LifeCore, TimeLimits, anew
from packetwire.iccp.lifeevents import Answered, BecameReady, Ended, Finished, Leaving, LifeEvent, Signal, State
from packetwire.iccp.messages import ICCPMessage
from packetwire.iccp.packets import CHANNEL, PacketEnd, packet_of
from packetwire.messaging.descriptors import PeerDescriptor
from packetwire.streams import forking
from packetwire.streams.process import ProcessStream, child

OWN_GROUP: Final = 0
"""For Popen's `process_group`: Ctrl-C at the terminal reaches the controller alone."""
ROOM_CHECK: Final = 0.05
"""Seconds between two looks for room to send STOP to a component that does not read."""
SIGNALS: Final = {Signal.TERMINATE: signal.SIGTERM, Signal.KILL: signal.SIGKILL}

DEFAULT_CONFIGURE_TIMEOUT: Final = 10.0
"""Seconds for a component to answer CONFIGURE."""
DEFAULT_MAX_COMPONENTS: Final = 64
"""Components of a controller at a time."""

T = TypeVar("T")


class LaunchOptions(TypedDict, total=False):
    """The options of a component that is started."""

    name: str | None
    cwd: str | os.PathLike[str] | None
    env: Mapping[str, str] | None
    forward_stderr: bool | str


class Submits(Protocol):
    """A packet connection of either kind, as far as it is used to send."""

    def submit(
        self, rq_type: int, flags: int = 0, payload: bytes = b"", *, channel: int = 0, timeout: float | None = None
    ) -> object: ...


class Life(PacketEnd):
    """A component, from the start of its process until that is gone.

    `ready` and `ended` are futures for whoever waits; they cannot be cancelled. `begin_stop`, `begin_configure` and
    `kill` do not wait.
    """

    def __init__(
        self,
        argv: Sequence[str],
        limits: TimeLimits,
        *,
        name: str | None = None,
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        forward_stderr: bool | str = False,
    ) -> None:
        self.ready: Future[None] = uncancellable()
        self.ended: Future[Finished] = uncancellable()
        self._start = child(
            argv,
            cwd=cwd,
            env=env,
            forward_stderr=forward_stderr,
            exit_timeout=limits.exit,
            process_group=OWN_GROUP,
        )
        name = os.path.basename(os.fspath(argv[0])) if name is None else name
        self.core = LifeCore(name, limits)
        self._stream: ProcessStream | None = None
        self._reactions: dict[type[LifeEvent], Callable[[Any], None]] = {
            BecameReady: self._became_ready,
            Answered: self._answered,
            Signal: self._signal,
            Leaving: self._leave,
            Ended: self._end,
        }
        forking.register(self)

    def after_fork(self) -> None:
        """In the child of a fork: the component is the parent's."""
        self.core.closed(None, self._of_parent())
        waiting: list[Any] = [each.waiter for each in self.core.take_events() if isinstance(each, Answered)]
        futures: list[Future[Any]] = [self.ready, self.ended, *waiting]
        for future in futures:
            forking.fail_future(future, self._of_parent())

    def _of_parent(self) -> ConnectionEnded:
        return ConnectionEnded(forking.of_parent(str(self)))

    def __str__(self) -> str:
        return str(self.core)

    @property
    def process(self) -> subprocess.Popen[bytes] | None:
        """Its process, once that was started."""
        return self._stream.process if self._stream else None

    # calls

    def begin(self) -> None:
        """Start it."""
        try:
            self._begin()
        except BaseException as error:
            self._do(partial(self._closed, ended_by(error, f"{self} could not be started: {error!r}")))
            raise

    @abstractmethod
    def _begin(self) -> None:
        """Have the connection opened, and `core.opened` or `_closed` called."""

    def begin_configure(self, config: Configuration) -> Future[None]:
        """Send a configuration; the future has the answer, or `ConfigureRefused`.

        Raises `LocalProtocolError` before READY, `LimitExceeded` if it has not taken what it was sent before, and
        the reason once it has ended.
        """
        answer: Future[None] = uncancellable()
        self._do(partial(self._configure, config, answer))
        return answer

    def _configure(self, config: Configuration, answer: Future[None], now: float) -> None:
        self.core.configure(config, answer)
        try:
            has_room = self._flush()
        except BaseException:
            self.core.withdraw()
            raise
        if not has_room:
            self.core.withdraw()
            raise LimitExceeded(f"{self} does not take what it is sent")

    def begin_stop(self) -> None:
        """Have it end, however long that takes within its limits."""
        self._do(self.core.stop)

    def kill(self) -> None:
        """Have it ended at once, by SIGKILL."""
        self._do(self.core.kill)

    # events

    def take_message(self, msg: ICCPMessage) -> bytes:
        self._do(partial(self.core.receive, msg))
        return b""

    def take_violation(self, exc: Exception) -> None:
        self._do(partial(self.core.refuse, exc))

    def take_loss(self, exc: Exception) -> None:
        self._do(partial(self.core.lost, exc))

    def _take_exit(self, reason: ConnectionEnded) -> None:
        """In the thread that watches the process."""
        self._do(partial(self.core.exited, reason))

    def _expire(self) -> None:
        self._do(self.core.expire)

    # what is done

    def _open_stream(self) -> ProcessStream:
        """As the connection's `recv_send`: start the process."""
        stream = self._start()
        assert isinstance(stream, ProcessStream)
        self._stream = stream
        # before it can be heard
        self._do(partial(self.core.started, stream.process.pid))
        stream.when_exited = self._take_exit  # which also keeps this until its end, if its user drops it
        return stream

    def _closed(self, error: Exception | None, now: float) -> None:
        self.core.closed(self.process.returncode if self.process else None, error)

    @abstractmethod
    def _do(self, call: Callable[[float], None]) -> None:
        """Make a call to the core, with the time, and perform what it asks for."""

    @property
    @abstractmethod
    def _sender(self) -> Submits:
        """The connection."""

    def _flush(self) -> bool:
        """Send what stands in the outbox; false if there is no room for it."""
        outbox = self.core.outbox
        while outbox:
            rq_type, payload = packet_of(outbox[0])
            try:
                self._submit(rq_type, payload)
            except (RequestTimeout, LimitExceeded):
                return False
            except ConnectionEnded:
                pass  # the end of the stream says why
            outbox.popleft()
        return True

    def _submit(self, rq_type: int, payload: bytes) -> None:
        """Send a packet request without waiting for room."""
        self._sender.submit(rq_type, 0, payload, channel=CHANNEL)

    def _next_time(self, now: float) -> float | None:
        """The time to call `_expire`; None for never."""
        when = self.core.next_deadline()
        if self.core.outbox:
            when = now + ROOM_CHECK if when is None else min(when, now + ROOM_CHECK)
        return when

    def _react(self, events: list[LifeEvent]) -> None:
        for event in events:
            self._reactions[type(event)](event)

    def _became_ready(self, event: BecameReady) -> None:
        settle(self.ready, None, event.error)

    def _answered(self, event: Answered) -> None:
        answer = event.waiter
        assert isinstance(answer, Future)
        settle(answer, None, event.error)

    def _signal(self, which: Signal) -> None:
        """To its process group, which also holds the processes that it has started itself."""
        process = self.process
        if process is not None and process.returncode is None:
            with suppress(ProcessLookupError, PermissionError):  # it is empty, or not ours
                os.killpg(process.pid, SIGNALS[which])

    @abstractmethod
    def _leave(self, event: Leaving) -> None:
        """Have the connection closed, and then `_closed` called."""

    def _end(self, event: Ended) -> None:
        if isinstance(event.result, Finished):
            settle(self.ended, event.result)
        else:
            self.ended.set_exception(event.result)


LifeT = TypeVar("LifeT", bound=Life)


class Roster(Generic[LifeT]):
    """The components of a controller, of which at most `max_components` live at a time."""

    def __init__(self, max_components: int) -> None:
        if max_components < 1:
            raise LocalProtocolError(f"max_components must be 1 or more, not {max_components}")
        self.max_components = max_components
        self._lives: list[LifeT] = []
        self._closed = False

    def add(self, life: LifeT, is_over: Callable[[LifeT], bool]) -> None:
        """Take a component in, and forget those that are over."""
        self.check_open()
        self._lives = [each for each in self._lives if not is_over(each)]
        if sum(not each.ended.done() for each in self._lives) >= self.max_components:
            raise LimitExceeded(f"{self.max_components} components live; that is max_components")
        self._lives.append(life)

    def check_open(self) -> None:
        """Raise if no more are taken in."""
        if self._closed:
            raise LocalProtocolError("the controller was closed")

    def close(self) -> list[LifeT]:
        """Take no more in; those that are left."""
        self._closed = True
        return list(self._lives)


class LiveComponent:
    """A component as its user sees it, as far as nothing waits."""

    def __init__(self, life: Life) -> None:
        self._life = life

    def __str__(self) -> str:
        return str(self._life)

    @property
    def state(self) -> State:
        """The state of its life."""
        return self._life.core.state

    @property
    def peer(self) -> PeerDescriptor | None:
        """The description of its process, as its READY has it."""
        return self._life.core.peer

    @property
    def endpoints(self) -> dict[str, list[str]]:
        """The addresses of its endpoints, as its READY says."""
        return self._life.core.endpoints

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


def uncancellable() -> Future[T]:  # pyright: ignore[reportInvalidTypeVarUse]  # the caller says of what
    """A future for several who wait: one that gives up takes it from none of the others."""
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()
    return future


def settle(future: Future[T], result: T, error: BaseException | None = None) -> None:
    """Give a future its result, or its exception."""
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


def result_now(future: Future[T], timeout: float | None, late: str) -> T:
    """The result of a future, for which `timeout` seconds were waited; `late` is the text if there is none."""
    if not future.done():
        raise RequestTimeout(f"{late} within {timeout:g} s")
    failure = future.exception()
    if failure is not None:
        raise anew(failure)
    return future.result()

"""The life of a component that was started as a child: READY, configurations, STOP, FINISHED, and its exit.

Strategy: one thread per component goes through all of it, with a time limit at each step. So there is one place
where a component ends, whatever it did and whoever asked. Callers leave a wish and wait for futures, which
threads and event loops can do alike.
"""

from __future__ import annotations

import copy
import logging
import os
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from enum import Enum
from errno import EAGAIN, ENOTCONN
from typing import Any, Final, TypeVar

from packetwire.connection import PacketConnection
from packetwire.errors import (
    ChildExited,
    ConnectionEnded,
    LimitExceeded,
    LocalProtocolError,
    RemoteProtocolError,
    RequestTimeout,
    StreamTruncated,
)
from packetwire.iccp.controller import ICCPController
from packetwire.iccp.errors import ComponentError, ConfigureRefused
from packetwire.iccp.messages import ICCPMessage, MsgType, Outcome
from packetwire.iccp.requests import ICCPPacketChannel
from packetwire.messaging.channel import Channel
from packetwire.messaging.descriptors import PeerDescriptor
from packetwire.messaging.packets import PEER
from packetwire.messaging.session import Session
from packetwire.streams import forking
from packetwire.streams.process import ProcessStream, child

logger = logging.getLogger("packetwire")

DEFAULT_READY_TIMEOUT: Final = 30.0
"""Seconds for a component to say READY."""
DEFAULT_STOP_TIMEOUT: Final = 10.0
"""Seconds for FINISHED to follow STOP; then comes SIGTERM."""
DEFAULT_TERM_TIMEOUT: Final = 5.0
"""Seconds for a component to exit after SIGTERM; then comes SIGKILL."""
DEFAULT_EXIT_TIMEOUT: Final = 5.0
"""Seconds for a component to exit by itself after FINISHED, or after it closed its pipes."""
LAST_WORDS_WAIT: Final = 3.0
"""Seconds for the end of its output to be seen, once a component is gone."""
OWN_GROUP: Final = 0
"""For Popen's `process_group`: Ctrl-C at the terminal reaches the controller alone."""

T = TypeVar("T")
E = TypeVar("E", bound=BaseException)


@dataclass(frozen=True)
class TimeLimits:
    """Seconds that a component has for each step of its life. Raises `LocalProtocolError` for a negative one."""

    ready: float = DEFAULT_READY_TIMEOUT
    """From its start to READY."""
    stop: float = DEFAULT_STOP_TIMEOUT
    """From STOP to FINISHED; then comes SIGTERM."""
    terminate: float = DEFAULT_TERM_TIMEOUT
    """From SIGTERM to its exit; then comes SIGKILL."""
    exit: float = DEFAULT_EXIT_TIMEOUT
    """From FINISHED to its exit; then it is ended in the same way."""

    def __post_init__(self) -> None:
        for step, seconds in vars(self).items():
            if not 0 <= seconds <= threading.TIMEOUT_MAX:
                raise LocalProtocolError(f"{step} is a number of seconds, not {seconds!r}")


@dataclass(frozen=True)
class Finished:
    """How a component said that it ended."""

    outcome: Outcome
    """Whether its work was done, as FINISHED says."""
    details: list[str]
    """Lines of text about it, as FINISHED has them."""
    returncode: int | None
    """The exit status, as `subprocess` has it: negative if a signal ended it, None if that is not known."""


class State(Enum):
    """Where a component is in its life."""

    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"
    ENDED = "ended"


class Life:
    """A component, from the start of its process until that is gone.

    `ready` and `ended` are futures for what both faces wait for; they cannot be cancelled. `begin_stop`,
    `begin_configure` and `kill` do not wait.
    """

    def __init__(
        self,
        argv: Sequence[str],
        limits: TimeLimits,
        *,
        name: str | None = None,
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        forward_stderr: bool = False,
    ) -> None:
        self.ready: Future[None] = uncancellable()
        self.ended: Future[Finished] = uncancellable()
        self.peer: PeerDescriptor | None = None
        self.endpoints: dict[str, list[str]] = {}
        self._limits = limits
        self._start = child(
            argv,
            cwd=cwd,
            env=env,
            forward_stderr=forward_stderr,
            exit_timeout=limits.exit,
            process_group=OWN_GROUP,
        )
        self.name = os.path.basename(os.fspath(argv[0])) if name is None else name
        self._stream: ProcessStream | None = None
        self._stop_asked = self._kill_asked = self._is_late = False
        self._finished: ICCPMessage | None = None
        self._lost: Exception | None = None
        self._violation: Exception | None = None
        self._answers: deque[Future[None]] = deque()
        self._connection = PacketConnection(self._open, self.name, close_timeout=limits.exit)
        self._protocol = _ControllerOf(self)
        self._channel = ICCPPacketChannel(self._protocol, self._connection)
        # before the component can say anything, so that its end is seen even if it says nothing
        self._session = self._channel.create_session(PEER)
        self._channel.patience = limits.stop
        self._thread = threading.Thread(target=self._live, name=f"packetwire-component-{self.name}", daemon=True)
        forking.register(self)

    def after_fork(self) -> None:
        """In the child of a fork: the component is the parent's."""
        reason = ConnectionEnded(forking.of_parent(str(self)))
        futures: list[Future[Any]] = [self.ready, self.ended, *self._answers]
        for future in futures:
            forking.fail_future(future, reason.for_waiter())

    def __str__(self) -> str:
        process = self.process
        return f"component {self.name}" + (f" (pid {process.pid})" if process else "")

    @property
    def process(self) -> subprocess.Popen[bytes] | None:
        """Its process, once that was started."""
        return self._stream.process if self._stream else None

    @property
    def state(self) -> State:
        """Where it is in its life."""
        if self.ended.done():
            return State.ENDED
        if self._stop_asked or self._over:
            return State.STOPPING
        return State.READY if self.ready.done() else State.STARTING

    # what others wish

    def begin(self) -> None:
        """Start it."""
        self._thread.start()

    def begin_configure(self, config: Any) -> Future[None]:
        """Send a configuration; the future has the answer, or `ConfigureRefused`.

        Raises `LocalProtocolError` before READY, `LimitExceeded` if it has not taken what it was sent before, and
        the reason once it has ended.
        """
        msg = self._protocol.request_config_msg(config)
        answer: Future[None] = uncancellable()
        with self._channel.lock:
            if self.ended.done():
                raise self._reason()
            if not self.ready.done():
                raise LocalProtocolError(f"{self} is not ready to be configured")
            # without waiting for room, as SharedChannel does
            error_number = ENOTCONN if self._over else Channel.send(self._channel, msg, self._session)
            if error_number == EAGAIN:
                raise LimitExceeded(f"{self} does not take what it is sent")
            if error_number:
                raise ConnectionEnded(f"{self} is ending")
            # an answer is delivered under this lock too, and answers come in the order of their questions
            self._answers.append(answer)
        return answer

    def begin_stop(self) -> None:
        """Have it end, however long that takes within its limits."""
        with self._channel.lock:
            self._stop_asked = True
            self._channel.notify()

    def kill(self) -> None:
        """End it at once, by SIGKILL."""
        with self._channel.lock:
            self._stop_asked = self._kill_asked = True
            self._channel.notify()
        self._signal(signal.SIGKILL)

    def is_alive(self) -> bool:
        """Whether its thread is."""
        return self._thread.is_alive()

    def join(self) -> None:
        """Wait for its thread, which has nothing left to do once `ended` is done."""
        self._thread.join()

    # what the component says, under the lock of the channel

    def take_ready(self, msg: ICCPMessage) -> None:
        if self._is_late:
            return
        self.peer, self.endpoints = msg.peer, msg.endpoints
        self.ready.set_result(None)

    def take_answer(self, msg: ICCPMessage) -> None:
        answer = self._answers.popleft() if self._answers else None
        if answer is None:
            logger.warning("%s says %s unasked: %s", self, msg, msg.error)
        elif msg.msg_type is MsgType.ERROR:
            text = f"{self} refused its configuration: {msg.error}"
            answer.set_exception(ConfigureRefused(text, error=msg.error))
        else:
            answer.set_result(None)

    def take_end(self, msg: ICCPMessage) -> None:
        self._finished = msg

    def take_violation(self, exc: Exception) -> None:
        self._violation = self._violation or exc

    def take_loss(self, exc: Exception | None) -> None:
        self._lost = exc or ConnectionEnded(f"{self} is gone")

    @property
    def _over(self) -> bool:
        return bool(self._finished or self._lost or self._violation)

    # its thread

    def _open(self) -> ProcessStream:
        stream = self._start()
        assert isinstance(stream, ProcessStream)
        self._stream = stream
        return stream

    def _live(self) -> None:
        try:
            ending: Finished | Exception = self._all_of_it()
        except Exception as error:
            ending = error
        self._settle(ending)

    def _all_of_it(self) -> Finished | Exception:
        try:
            self._connection.open()
            ending = self._oversee()
        finally:
            self._leave_nothing()
        if isinstance(ending, Exception):
            return ending
        assert self.process
        return Finished(ending.outcome, ending.details, self.process.returncode)

    def _oversee(self) -> ICCPMessage | Exception:
        """See it through all steps until its process is told to end: FINISHED, or the one thing to say."""
        wait, limits = self._channel.wait_until, self._limits
        if not wait(lambda: self.ready.done() or self._over or self._stop_asked, limits.ready) and self._gives_up():
            return RequestTimeout(str(self._ended_by_force(f"did not say READY within {limits.ready:g} s")))
        wait(lambda: self._over or self._stop_asked)
        if not self._over and not self._kill_asked:
            self._channel.send(self._protocol.stop_msg(), self._session)
            wait(lambda: self._over or self._kill_asked, limits.stop)
        if self._finished:
            return self._finished
        if self._violation:
            self._end_by_force()
            return chained(ComponentError(f"{self} broke the protocol: {self._violation}"), self._violation)
        if self._lost and not isinstance(self._lost, LimitExceeded):
            return self._ended_without_a_word(self._lost)
        how = "was killed" if self._kill_asked else f"did not say FINISHED within {limits.stop:g} s of STOP"
        return self._ended_by_force(how)

    def _gives_up(self) -> bool:
        """Take READY no more; false if it has come after all."""
        with self._channel.lock:
            self._is_late = not self.ready.done()
            return self._is_late

    def _ended_without_a_word(self, lost: Exception) -> Exception:
        """Its side of the pipes has ended; its process has done so too, or must."""
        no_packets = isinstance(lost.__cause__, RemoteProtocolError)
        if not no_packets and self._has_exited(self._limits.exit):
            exited = lost if isinstance(lost, ChildExited) else self._exited()
            when = "before READY" if not self.ready.done() else "without FINISHED"
            return with_text(exited, f"{self} ended {when}: {in_full(exited)}")
        self._end_by_force()
        hint = " (does it print on its standard output?)" if no_packets else ""
        return chained(ComponentError(f"{self}: {lost}{hint}"), lost)

    def _ended_by_force(self, how: str) -> ConnectionEnded:
        self._end_by_force()
        # what it printed where packets belong is told by the end of the stream
        self._channel.wait_until(lambda: self._lost is not None, LAST_WORDS_WAIT)
        exited = self._lost if isinstance(self._lost, ChildExited) else self._exited()
        return with_text(exited, f"{self} {how}; {in_full(exited)}")

    def _end_by_force(self) -> None:
        """SIGTERM, then SIGKILL."""
        if not self._kill_asked:
            self._signal(signal.SIGTERM)
        if self._kill_asked or not self._has_exited(self._limits.terminate):
            self._signal(signal.SIGKILL)
            self._has_exited(self._limits.exit)

    def _has_exited(self, timeout: float) -> bool:
        """Whether its process is gone, within `timeout` seconds."""
        assert self.process
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _exited(self) -> ConnectionEnded:
        assert self._stream
        return self._stream.end_reason()

    def _signal(self, number: signal.Signals) -> None:
        """To its process group, which holds what it has started itself, too."""
        process = self.process
        if process is not None and process.returncode is None:
            send_to_group(process.pid, number)

    def _leave_nothing(self) -> None:
        """Close the pipes, see it exit, and end what it has left in its process group."""
        try:
            self._connection.close()
        finally:
            self._channel.close()
            if self.process is not None:
                send_to_group(self.process.pid, signal.SIGKILL)

    def _settle(self, ending: Finished | Exception) -> None:
        """Tell all who wait."""
        reason = ending if isinstance(ending, Exception) else ConnectionEnded(f"{self} has finished")
        with self._channel.lock:
            waiting = [self.ready, *self._answers]
            self._answers.clear()
            for future in waiting:
                if not future.done():
                    future.set_exception(reason)
            if isinstance(ending, Exception):
                self.ended.set_exception(ending)
            else:
                self.ended.set_result(ending)

    def _reason(self) -> BaseException:
        failure = self.ended.exception()
        return ConnectionEnded(f"{self} has finished") if failure is None else anew(failure)


class _ControllerOf(ICCPController):
    """The controller's side of the protocol, for one component: all that happens goes to its life."""

    def __init__(self, life: Life) -> None:
        super().__init__()
        self._life = life
        self.on_stop_controller = life.take_violation

    def handle_ready(self, channel: Channel, session: Session, msg: ICCPMessage) -> ICCPMessage:
        self._life.take_ready(msg)
        return msg

    def handle_oef(self, channel: Channel, session: Session, msg: ICCPMessage) -> ICCPMessage:
        if msg.msg_type is MsgType.FINISHED:
            self._life.take_end(msg)
        else:
            self._life.take_answer(msg)
        return msg

    def handle_session_lost(self, channel: Channel, session: Session, exc: Exception | None) -> None:
        self._life.take_loss(exc)


def uncancellable() -> Future[T]:
    """A future for several who wait: one that gives up takes it from none of the others."""
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()
    return future


def anew(error: BaseException) -> BaseException:
    """A copy to raise, because no two threads raise the same object."""
    return chained(copy.copy(error), error.__cause__)


def chained(error: E, cause: BaseException | None) -> E:
    """The error with a cause."""
    error.__cause__ = cause
    return error


def in_full(ended: ConnectionEnded) -> str:
    """How a child ended, and what it said last, if that was no packet."""
    cut_off = ended.__cause__
    return f"{ended}; {cut_off}" if isinstance(cut_off, StreamTruncated) else str(ended)


def with_text(ended: ConnectionEnded, text: str) -> ConnectionEnded:
    """The same end, told in more words."""
    told = ended.for_waiter()
    told.args = (text, *told.args[1:])
    return told


def send_to_group(group: int, number: signal.Signals) -> None:
    """Send a signal to a process group; that it is empty, or not ours, is no error."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        pass

"""The life of a component that was started as a child, as a state machine. No process, no thread, no clock.

News of it goes in: `started`, `opened`, messages by `receive`, `refuse`, `lost` (its stream), `exited` (its
process), `closed`. So do calls: `configure`, `stop`, `kill`. Messages to send stand in `outbox`, and what else is
to be done, or has come about, in `events`. `expire` has to be called when `next_deadline` has come.

Strategy: a life is at one step at a time, and each step has at most one time limit, so there is one deadline. All
ways to the end meet in `_leave`: then the connection is to be closed, whatever the component did and whoever asked
for it.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Final, TypeVar

from packetwire.errors import (
    ChildExited,
    ConnectionEnded,
    LocalProtocolError,
    RemoteProtocolError,
    RequestTimeout,
    StreamTruncated,
)
from packetwire.iccp.config import Configuration
from packetwire.iccp.controllercore import ControllerCore
from packetwire.iccp.errors import ComponentError, ConfigureRefused
from packetwire.iccp.lifeevents import (
    Answered,
    BecameReady,
    Ended,
    Finished,
    Leaving,
    LifeEvent,
    Signal,
    State,
    Step,
)
from packetwire.iccp.messages import ICCPMessage, MsgType
from packetwire.messaging.errors import StopError

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
KILL_WAIT: Final = 1.0
"""Seconds, besides those to exit, for a component to be gone after SIGKILL: it may be stuck in the system."""

LOGGED_UNASKED: Final = 3
"""Answers that nobody has asked for and that are logged as warnings."""

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
            if not 0 <= seconds < math.inf:
                raise LocalProtocolError(f"{step} is a number of seconds, not {seconds!r}")


_TALKING = frozenset((Step.STARTING, Step.RUNNING, Step.STOPPING))
"""The steps at which its messages count."""


class LifeCore(ControllerCore):
    """One component, from the start of its process until that is gone."""

    def __init__(self, name: str, limits: TimeLimits) -> None:
        super().__init__()
        self.name = name
        self.pid: int | None = None
        self.step = Step.OPENING
        self._limits = limits
        self._events: list[LifeEvent] = []
        self._deadline: float | None = None
        self._is_open = self._stop_asked = self._kill_asked = self._ready_late = False
        self._unasked = 0
        self._lost: Exception | None = None
        self._exited: ConnectionEnded | None = None
        self._how = ""
        """Why it is ended by force, if that is all there is to say."""
        self._error: Exception | None = None
        """Its end, if that is already known to be this."""
        self._reason: Exception | None = None
        self._at_deadline: dict[Step, Callable[[float], None]] = {
            Step.STARTING: self._gives_up,
            Step.STOPPING: self._does_not_finish,
            Step.EXITING: self._does_not_exit,
            Step.TERMINATING: self._kill,
            Step.KILLING: self._after_force,
            Step.LISTENING: self._conclude,
        }

    def __str__(self) -> str:
        return f"component {self.name}" + ("" if self.pid is None else f" (pid {self.pid})")

    @property
    def state(self) -> State:
        """The state of its life."""
        if self.step is Step.ENDED:
            return State.ENDED
        if self._stop_asked or self.step not in (Step.OPENING, Step.STARTING, Step.RUNNING):
            return State.STOPPING
        return State.READY if self.step is Step.RUNNING else State.STARTING

    @property
    def reason(self) -> Exception:
        """Why it cannot be configured any more, once it has ended."""
        assert self._reason is not None
        return self._reason

    def take_events(self) -> list[LifeEvent]:
        """The events since the last call, in order."""
        events, self._events = self._events, []
        return events

    # the process and its stream

    def started(self, pid: int, now: float) -> None:
        """Its process was started: from now on it may say something."""
        self.pid = pid
        self._go_to(Step.STARTING, now + self._limits.ready)
        if self._kill_asked:
            self.kill(now)

    def opened(self, now: float) -> None:
        """The connection is open: from now on messages can be sent."""
        self._is_open = True
        if self._stop_asked:
            self.stop(now)

    def lost(self, exc: Exception, now: float) -> None:
        """Nothing more comes from it."""
        if self._lost is None or isinstance(exc, ChildExited):
            self._lost = exc
        if self.step is Step.LISTENING:
            self._conclude(now)
        elif self.step in _TALKING:
            if isinstance(exc.__cause__, RemoteProtocolError):
                text = f"{self}: {exc} (does it print on its standard output?)"
                self._end_by_force(now, error=chained(ComponentError(text), exc))
            elif isinstance(exc, ChildExited):
                self._ended_without_a_word(exc)
            elif self._exited is not None:
                self._ended_without_a_word(self._exited)
            else:
                self._go_to(Step.EXITING, now + self._limits.exit)

    def exited(self, reason: ConnectionEnded, now: float) -> None:
        """Its process is gone. While its stream goes on, that may still have its last words."""
        self._exited = reason
        if self.step is Step.EXITING:
            self._ended_without_a_word(reason)
        elif self.step in (Step.TERMINATING, Step.KILLING):
            self._after_force(now)

    def closed(self, returncode: int | None, error: Exception | None = None) -> None:
        """The connection is closed, and nothing is left of it; or `error` says what came between."""
        if self.step is Step.ENDED:
            return
        self._go_to(Step.ENDED, None)
        result: Finished | Exception
        if error is None and self.finished is not None and self._error is None:
            result = Finished(self.finished.outcome, self.finished.details, returncode)
            self._reason = ConnectionEnded(f"{self} has finished")
        else:
            result = self._reason = error or self._error or ConnectionEnded(f"{self} was abandoned")
        if self.peer is None:
            self._events.append(BecameReady(self._reason))
        self._events += [Answered(waiter, self._reason) for waiter in self._unanswered]
        self._unanswered.clear()
        self.outbox.clear()
        self._events.append(Ended(result))

    # its messages

    def receive(self, msg: ICCPMessage, now: float) -> None:
        """A message has come; one that breaks the rules ends the component."""
        if self.step in _TALKING:
            try:
                super().receive(msg, now)
            except StopError as error:
                self.refuse(error, now)

    def refuse(self, exc: Exception, now: float) -> None:
        """It has broken the rules."""
        if self.step in _TALKING:
            self._end_by_force(now, error=chained(ComponentError(f"{self} broke the protocol: {exc}"), exc))

    def _take_ready(self, msg: ICCPMessage, now: float) -> None:
        super()._take_ready(msg, now)
        if self.step is Step.STARTING:
            self._go_to(Step.RUNNING, None)
        self._events.append(BecameReady())

    def _take_answer(self, msg: ICCPMessage, now: float) -> None:
        if not self._unanswered:
            self._unasked += 1
            # the component must not fill the log
            level = logging.WARNING if self._unasked <= LOGGED_UNASKED else logging.DEBUG
            logger.log(level, "%s says %s unasked: %s", self, msg, msg.error)
            return
        error = None
        if msg.msg_type is MsgType.ERROR:
            error = ConfigureRefused(f"{self} refused its configuration: {msg.error}", error=msg.error)
        self._events.append(Answered(self._unanswered.popleft(), error))

    def _take_finished(self, msg: ICCPMessage, now: float) -> None:
        super()._take_finished(msg, now)
        self._leave()

    # calls

    def configure(self, config: Configuration, waiter: Hashable) -> None:
        """Send a configuration; `Answered` follows.

        Raises `LocalProtocolError` before READY, and the reason once it has ended.
        """
        if self.step is Step.ENDED:
            raise anew(self.reason)
        if self.peer is not None and self.step not in _TALKING:
            raise ConnectionEnded(f"{self} is ending")
        super().configure(config, waiter)

    def stop(self, now: float) -> None:
        """Have it end, however long that takes within its limits."""
        self._stop_asked = True
        if self._is_open and self.step in (Step.STARTING, Step.RUNNING):
            super().stop(now)
            self._go_to(Step.STOPPING, now + self._limits.stop)

    def kill(self, now: float) -> None:
        """Have it ended at once, by SIGKILL."""
        self._stop_asked = self._kill_asked = True
        if self.step in _TALKING:
            self._end_by_force(now, how="was killed")
        elif self.step is Step.TERMINATING:
            self._kill(now)
        elif self.step not in (Step.OPENING, Step.ENDED):
            self._events.append(Signal.KILL)

    # time

    def next_deadline(self) -> float | None:
        """The time to call `expire`; None for never."""
        return self._deadline

    def expire(self, now: float) -> None:
        """Go on with a life whose deadline has come."""
        if self._deadline is not None and self._deadline <= now:
            self._at_deadline[self.step](now)

    def _gives_up(self, now: float) -> None:
        self._ready_late = True
        self._end_by_force(now, how=f"did not say READY within {self._limits.ready:g} s")

    def _does_not_finish(self, now: float) -> None:
        self._end_by_force(now, how=f"did not say FINISHED within {self._limits.stop:g} s of STOP")

    def _does_not_exit(self, now: float) -> None:
        assert self._lost is not None
        self._end_by_force(now, error=chained(ComponentError(f"{self}: {self._lost}"), self._lost))

    # the end

    def _go_to(self, step: Step, deadline: float | None) -> None:
        self.step, self._deadline = step, deadline

    def _end_by_force(self, now: float, *, how: str = "", error: Exception | None = None) -> None:
        self._how, self._error = how, error
        if self._exited is not None:
            self._after_force(now)
        elif self._kill_asked:
            self._kill(now)
        else:
            self._events.append(Signal.TERMINATE)
            self._go_to(Step.TERMINATING, now + self._limits.terminate)

    def _kill(self, now: float) -> None:
        self._events.append(Signal.KILL)
        self._go_to(Step.KILLING, now + self._limits.exit + KILL_WAIT)

    def _after_force(self, now: float) -> None:
        # the end of the stream quotes what it printed where packets belong
        if self._how and self._lost is None:
            self._go_to(Step.LISTENING, now + LAST_WORDS_WAIT)
        else:
            self._conclude(now)

    def _conclude(self, now: float) -> None:
        if self._error is None:
            exited = self._lost if isinstance(self._lost, ChildExited) else self._exited
            exited = exited or ConnectionEnded("its process does not end")
            self._error = with_text(exited, f"{self} {self._how}; {in_full(exited)}")
            if self._ready_late:
                self._error = RequestTimeout(str(self._error))
        self._leave()

    def _ended_without_a_word(self, exited: ConnectionEnded) -> None:
        when = "before READY" if self.peer is None else "without FINISHED"
        self._error = with_text(exited, f"{self} ended {when}: {in_full(exited)}")
        self._leave()

    def _leave(self) -> None:
        self._go_to(Step.LEAVING, None)
        self._events.append(Leaving())


def anew(error: E) -> E:
    """A copy to raise, because no two threads raise the same object."""
    return chained(copy.copy(error), error.__cause__)


def chained(error: E, cause: BaseException | None) -> E:
    """The error with a cause."""
    error.__cause__ = cause
    return error


def in_full(ended: ConnectionEnded) -> str:
    """How a child ended, and its last output, if that was no packet."""
    cut_off = ended.__cause__
    return f"{ended}; {cut_off}" if isinstance(cut_off, StreamTruncated) else str(ended)


def with_text(ended: ConnectionEnded, text: str) -> ConnectionEnded:
    """The same end, with another text."""
    same = ended.for_waiter()
    same.args = (text, *same.args[1:])
    return same

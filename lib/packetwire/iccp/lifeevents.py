"""The steps of a component's life, and what comes about in it."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from enum import Enum, auto

from packetwire.iccp.messages import Outcome


class State(Enum):
    """The states of a component."""

    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"
    ENDED = "ended"


class Step(Enum):
    """The steps of a life: its states in more detail."""

    OPENING = auto()
    """Its process is being started."""
    STARTING = auto()
    """READY is awaited."""
    RUNNING = auto()
    STOPPING = auto()
    """FINISHED is awaited."""
    EXITING = auto()
    """Its stream has ended; its exit is awaited."""
    TERMINATING = auto()
    """The same, after SIGTERM."""
    KILLING = auto()
    """The same, after SIGKILL."""
    LISTENING = auto()
    """It is gone; the end of its output is awaited."""
    LEAVING = auto()
    """Its connection is being closed."""
    ENDED = auto()


@dataclass(frozen=True)
class Finished:
    """How a component said that it ended."""

    outcome: Outcome
    """The outcome of its work, as FINISHED says."""
    details: list[str]
    """Lines of text about it, as FINISHED has them."""
    returncode: int | None
    """The exit status, as `subprocess` has it: negative if a signal ended it, None if that is not known."""


@dataclass(frozen=True)
class BecameReady:
    """READY has come, or never will, for the reason `error`."""

    error: BaseException | None = None


@dataclass(frozen=True)
class Answered:
    """The configuration of `waiter` was taken, or not, for the reason `error`."""

    waiter: Hashable
    error: BaseException | None = None


class Signal(Enum):
    """A signal that is to be sent to the process group of the component."""

    TERMINATE = "SIGTERM"
    KILL = "SIGKILL"


@dataclass(frozen=True)
class Leaving:
    """The connection is to be closed, and the process reaped; then `closed` is to be called."""


@dataclass(frozen=True)
class Ended:
    """The end of the life: the last event."""

    result: Finished | Exception


LifeEvent = BecameReady | Answered | Signal | Leaving | Ended

"""Compatibility of results with cs.result, for programs that use that package.

Strategy: nothing here imports cs.result until a result is asked for something that only a `cs.result.Result` has.
Until the program itself has imported it there is no `Result` to compare a result with, and no `CancellationError`
to catch; from then on a result is a `Result` by its `__class__`, and its cancellation is a `CancellationError`,
too. So a result costs no more than a waiter, and does not need the package.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

from packetwire.errors import RequestCancelled
from packetwire.hosts.threads.answering import logger
from packetwire.hosts.threads.nesting import as_users
from packetwire.hosts.threads.waiter import RequestWaiter

Callback = Callable[[Any, Any], object]

ONLY_THERE = frozenset(
    [
        *("DOT_NODE_FILLCOLOR_PALETTE", "DOT_NODE_FONTCOLOR_PALETTE", "FSM_ANY_STATE", "FSM_TRANSITIONS", "bg"),
        *("cancelled", "complete", "dispatch", "dot_node", "dot_node_attrs", "dot_node_attrs_str", "dot_node_id"),
        *("dot_node_label", "dot_node_palette_key", "fsm_as_svg", "fsm_dot", "fsm_event_is_allowed", "fsm_events"),
        *("fsm_print", "fsm_print_state_diagram", "fsm_state_diagram_as_dot", "fsm_svg", "fsm_transitions_as_dot"),
        *("pending", "post_notify", "run_func_in_thread", "state"),
    ]
)
"""Attributes of a `Result` that make us import cs.result; any other may just be a question, as in `hasattr`."""


def loaded(module: str, name: str) -> Any:
    """`name` of a module if the program has imported that, else None."""
    return getattr(sys.modules.get(module), name, None)


def needed(purpose: str) -> tuple[Any, Any, Any]:
    """`Result`, `FSMTransitionEvent` and `AttrableMapping`, imported for `purpose`."""
    try:
        from cs.fsm import FSMTransitionEvent
        from cs.mappings import AttrableMapping
        from cs.result import Result
    except ModuleNotFoundError as error:
        text = f"{purpose} needs the package cs.result, and {error}: pip install cs.result"
        raise ModuleNotFoundError(text, name=error.name) from error
    return Result, FSMTransitionEvent, AttrableMapping


def attribute_of(result: object, name: str) -> Any:
    """The attribute `name` of a `Result`, for a `result` that does not have it itself."""
    cls = type(result)
    if any(name in vars(base) for base in cls.__mro__):
        # a property raised AttributeError: have it raise that again, with its message
        return object.__getattribute__(result, name)
    base = loaded("cs.result", "Result")
    if base is None and name in ONLY_THERE:
        base, _, _ = needed(f"{cls.__name__}.{name}")
    if base is None or name.startswith("_"):
        raise AttributeError(f"{cls.__name__!r} object has no attribute {name!r}", name=name, obj=result)
    for definer in base.__mro__:
        if name in vars(definer):
            found = vars(definer)[name]
            return found.__get__(result, result.__class__) if hasattr(type(found), "__get__") else found
    return base.__getattr__(result, name)  # makes attributes of states and events


# cancellation is a CancellationError


def cancellation(text: str, result: object) -> RequestCancelled:
    """The exception of a cancelled result."""
    base = loaded("cs.fsm", "CancellationError")
    if base is None:
        return RequestCancelled(text)
    kind: Any = globals().get("_Cancelled")
    if kind is None or not issubclass(kind, base):
        names = {
            "__module__": RequestCancelled.__module__,
            "__doc__": RequestCancelled.__doc__,
            # as a plain one: where it is unpickled there may be no cs.fsm
            "__reduce__": lambda self: (RequestCancelled, self.args),
        }
        kind = globals()["_Cancelled"] = type(RequestCancelled.__name__, (RequestCancelled, base), names)
    error: RequestCancelled = kind(text)
    # the attributes of the other class, whose constructor would check that the result is an FSM
    error.message, error.fsm = text, result  # type: ignore[attr-defined]
    return error


def is_cancellation(error: BaseException) -> bool:
    """True if an exception says that something was cancelled."""
    kind = loaded("cs.fsm", "CancellationError")
    return isinstance(error, RequestCancelled) or (kind is not None and isinstance(error, kind))


# the interface of a Result


class _Entry(NamedTuple):
    """A callback for when a result is done."""

    state: object
    """The state in which it is called, or None for any."""
    function: Callable[..., object]
    with_transition: bool


class ResultWaiter(RequestWaiter):
    """A waiter with the interface of a `Result`: states, callbacks, and everything else from there."""

    __slots__ = ()

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    DONE = "DONE"
    CANCELLED = "CANCELLED"

    _cancelled = False
    collected = True  # so that nothing is logged when it is garbage-collected

    def __getattr__(self, name: str) -> Any:
        return attribute_of(self, name)

    @property
    def extra(self) -> Any:
        """A mapping for the user's own attributes."""
        if "_extra" not in self.__dict__:
            _, _, mapping = needed("RequestResult.extra")
            self.__dict__.setdefault("_extra", mapping())
        return self.__dict__["_extra"]

    @property
    def fsm_state(self) -> str:
        """`PENDING`, `DONE`, or `CANCELLED`, which it also is if the connection ended first."""
        if not self.done:
            return "PENDING"
        # as in the reference, a request that was lost with its connection is not DONE
        return "CANCELLED" if self._cancelled or self.ended is not None else "DONE"

    @property
    def fsm_history(self) -> None:
        """No history is kept."""
        return None

    @property
    def ready(self) -> bool:
        """True once it is done, in any way."""
        return self.done

    def empty(self) -> bool:
        """True until it is done: the opposite of `ready`."""
        return not self.done

    @property
    def is_pending(self) -> bool:
        """True until it is done."""
        return not self.done

    @property
    def is_running(self) -> bool:
        """False: a request is answered elsewhere."""
        return False

    @property
    def is_done(self) -> bool:
        """True if it was answered, or completed by hand."""
        return self.fsm_state == "DONE"

    @property
    def is_cancelled(self) -> bool:
        """True if it was cancelled, or lost with its connection."""
        return self.fsm_state == "CANCELLED"

    @property
    def name(self) -> str:
        raise NotImplementedError

    def cancel(self, msg: str | None = None, *, wait: float | None = None) -> bool | None:
        raise NotImplementedError

    # callbacks

    def notify(self, notifier: Callable[[Any], object]) -> None:
        """Call `notifier(self)` when done, in the thread that reads the connection; at once if it is done."""
        self._add_callback(_Entry(None, notifier, False))

    def fsm_callback(self, state: object, callback: Callback) -> None:
        """Call `callback(self, transition)` on the transition to `state`; at once if that is its state."""
        self._add_callback(self._entry(state, callback))

    def fsm_callback_discard(self, state: object, callback: Callback) -> None:
        """Undo `fsm_callback`, if the callback has not begun."""
        if self._callbacks is not None:
            entry = self._entry(state, callback)
            with suppress(ValueError):
                while True:  # one at a time, as others may be added and taken meanwhile
                    self._callbacks.remove(entry)

    def _entry(self, state: object, callback: Callback) -> _Entry:
        fsm, _, _ = needed("RequestResult.fsm_callback")
        if state is fsm.FSM_ANY_STATE:
            return _Entry(None, callback, True)
        if state not in fsm.FSM_TRANSITIONS:
            raise ValueError(f"{self}: {state!r} is none of its states {sorted(fsm.FSM_TRANSITIONS)}")
        return _Entry(state, callback, True)

    def _add_callback(self, entry: _Entry) -> None:
        self._own_list("_callbacks").append(entry)
        self._driver.be_eager()
        if self.done:  # maybe just now, by another thread: a callback that is popped runs once
            self._run_callbacks()

    def _run_callbacks(self) -> None:
        """Call the callbacks; no lock is held, so they can do anything."""
        callbacks, transition = self._callbacks, None
        while callbacks:
            try:
                state, function, with_transition = callbacks.pop(0)
            except IndexError:
                return
            if state is not None and state != self.fsm_state:
                continue
            if with_transition and transition is None:
                transition = self._transition()
            try:
                as_users(function, self, *([transition] if with_transition else []))
            except Exception as error:
                # as in a plain Result: the callback's own work was cancelled, which is not a failure
                if not is_cancellation(error):
                    logger.exception("%s: callback %r failed", self.name, function)

    def _transition(self) -> object:
        state = self.fsm_state
        _, transition, _ = needed("RequestResult.fsm_callback")
        return transition(
            old_state="PENDING",
            new_state=state,
            event="complete" if state == "DONE" else "cancel",
            when=time.time(),
            extra={},
        )

    def fsm_event(self, event: str, **extra: object) -> str:
        """Only "cancel" can be sent by hand; see `result` and `exc_info` for completing."""
        if event == "cancel":
            self.cancel()
        elif event != "dispatch":
            raise ValueError(f"{self}: event {event!r} is not for its users")
        return self.fsm_state

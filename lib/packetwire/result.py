"""What `submit` returns: a `cs.result.Result` that costs little until its rarer abilities are used.

A plain Result sets up a state machine, two locks and an attribute mapping, and tells all of them about its
end; that takes ten times as long as the request. This subclass answers the usual questions (`ready`,
`is_done`, calling it, `join`, `notify`) from the waiter that it also is, and sets the rest up when asked.

This module is imported at the first `submit`: cs.result takes a while to load.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

from cs.fsm import CancellationError, FSMTransitionEvent
from cs.result import Result

from packetwire.core.events import ResponseReceived
from packetwire.core.responses import DecodeResponse, ending_of
from packetwire.core.timelimits import time_limit
from packetwire.errors import ConnectionEnded, RequestTimeout
from packetwire.hosts.threads.answering import logger
from packetwire.hosts.threads.driver import Driver
from packetwire.hosts.threads.waiter import Waiter, outcome_of

if TYPE_CHECKING:
    from typing import TypeAlias

    ExcInfo: TypeAlias = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]

Callback = Callable[[Any, FSMTransitionEvent], Any]

_DONE = ("DONE", "CANCELLED")


class RequestResult(Waiter, Result):  # type: ignore[misc]
    """The result of one request: `(ok, flags, payload)`, once the response is there.

    Call it to wait for that; `timeout` limits the wait, in seconds, and raises `RequestTimeout`, after
    which it can still be called again. `decode_response` runs in the thread that collects the result.
    If the connection ends first, the call raises why.
    """

    # the state, while the machinery of Result is not set up
    _outcome: tuple[Any, ExcInfo | None] | None = None
    _cancelled = False
    _cancel_msg: str | None = None
    _callbacks: list[tuple[Any, Callback]] | None = None
    tag = -1
    collected = True  # nothing to complain about in __del__

    def __init__(
        self, driver: Driver, label: str | None, channel: int, decode_response: DecodeResponse | None
    ) -> None:
        self._driver = driver
        self._label = label
        self._channel = channel
        self._decode = decode_response

    __del__ = staticmethod(bool)  # does nothing, and not in Python: a Ctrl-C in here would get lost

    def __str__(self) -> str:
        return f"{type(self).__name__}[{self.name!r}:{self.fsm_state}]"

    __repr__ = __str__

    # what a plain Result has as attributes

    @property
    def name(self) -> str:
        """The connection, the tag of the request, and its label if it has one."""
        return f"{self._driver.name}:{self.tag}" + (f":{self._label}" if self._label else "")

    @property
    def extra(self) -> Any:
        """What its users note there, as attributes."""
        from cs.mappings import AttrableMapping

        return self.__dict__.setdefault("_extra", AttrableMapping())

    @property
    def fsm_state(self) -> str:
        """`PENDING`, `DONE`, or `CANCELLED`, which it also is if the connection ended first."""
        if not self.done:
            return "PENDING"
        # a request that was lost with its connection is not DONE for whoever acts on that, as in the reference
        return "CANCELLED" if self._cancelled or self.ended is not None else "DONE"

    @property
    def fsm_history(self) -> None:
        return None

    @property
    def ready(self) -> bool:
        return self.done

    # completion, by the reader of the connection

    def deliver(self, response: ResponseReceived) -> None:
        """Complete it by an event."""
        self.set_response(response.ok, response.flags, response.payload)

    def set_response(self, ok: bool, flags: int, payload: bytes) -> None:
        if not ok and (cause := ending_of(flags, payload)) is not None:
            self.fail(cause)
            return
        self.response = ok, flags, payload
        self.done = True
        if self.locks is not None:
            self.wake()
        if self._callbacks is not None:
            self._run_callbacks()

    def fail(self, cause: ConnectionEnded) -> None:
        super().fail(cause)
        if self._callbacks is not None:
            self._run_callbacks()

    def _end_by_hand(self) -> None:
        """Wake whoever waits, though there is neither a response nor an end of the connection."""
        self.done = True
        self.wake()
        self._driver.interrupt_lead()
        if self._callbacks is not None:
            self._run_callbacks()

    def _complete(self, result: Any, exc_info: ExcInfo | None) -> None:
        """Complete it by hand: the response will be dropped."""
        if result is not None and exc_info is not None:
            raise ValueError(f"one of (result, exc_info) must be None, got ({result!r}, {exc_info!r})")
        if self.done or not self._driver.forget(self._channel, self.tag):
            raise RuntimeError(f"{self} already completed")
        self._outcome = result, exc_info
        self._end_by_hand()

    def cancel(self, msg: str | None = None) -> None:
        """Give the request up: whoever waits for it gets a CancellationError, a late response is dropped."""
        if not self.done and self._driver.forget(self._channel, self.tag):
            # from here on no response can be delivered
            self._cancelled, self._cancel_msg = True, msg
            self._end_by_hand()

    # collection

    def join(self, timeout: float | None = None) -> tuple[Any, ExcInfo | None]:
        """Wait; return (result, None), (None, exc_info), or (None, None) if cancelled."""
        self._wait(timeout)
        return self._collect()

    def _collect(self) -> tuple[Any, ExcInfo | None]:
        if self._cancelled:
            return None, None
        outcome = self._outcome
        if outcome is None:
            try:
                outcome = self._make_result(), None
            except BaseException as error:
                outcome = None, (type(error), error, error.__traceback__)
            self._outcome = outcome
        return outcome

    def _make_result(self) -> tuple[bool, int, Any]:
        return outcome_of(self, self._decode)

    def __call__(self, *a: Any, timeout: float | None = None, **kw: Any) -> Any:
        if a:
            if timeout is not None:
                kw["timeout"] = timeout
            self.run_func(*a, **kw)
            timeout = None
        if not self.done:
            self._wait(timeout)
        elif timeout is not None:
            time_limit(timeout)  # a mistake is told however quick the peer was
        if self.response is not None and self._decode is None:
            return self.response
        result, exc_info = self._collect()
        if exc_info is not None and exc_info[1] is not None:
            raise exc_info[1].with_traceback(exc_info[2])
        if self._cancelled:
            raise CancellationError(self._cancel_msg or self, fsm=self)
        return result

    def _wait(self, timeout: float | None) -> None:
        limit = None if timeout is None else time_limit(timeout)
        deadline = None if limit is None else time.monotonic() + limit
        try:
            done = self._driver.wait_for(self, deadline)
        except BaseException:
            self._driver.recover()
            raise
        if not done:
            raise RequestTimeout(f"{self.name}: no response within {timeout} s")

    @property
    def result(self) -> Any:
        if not self.done:
            raise AttributeError(f".result: {self} not ready")
        if self._cancelled:
            raise CancellationError(self._cancel_msg or ".result: cancelled", fsm=self)
        return self._collect()[0]

    @result.setter
    def result(self, new_result: Any) -> None:
        self._complete(new_result, None)

    @property
    def exc_info(self) -> ExcInfo | None:
        if not self.done:
            raise AttributeError(f".exc_info: {self} not ready")
        if self._cancelled:
            raise CancellationError(".exc_info: cancelled", fsm=self)
        return self._collect()[1]

    @exc_info.setter
    def exc_info(self, exc_info: ExcInfo) -> None:
        self._complete(None, exc_info)

    def run_func(self, func: Callable[..., Any], *a: Any, **kw: Any) -> None:
        """Complete it by `func(*a, **kw)`."""
        try:
            outcome = func(*a, **kw)
        except BaseException:
            self._complete(None, sys.exc_info())
        else:
            self._complete(outcome, None)

    # callbacks

    def notify(self, notifier: Callable[[Any], Any]) -> None:
        """Call `notifier(self)` when done, in the thread that reads the connection; at once if it is done."""

        def callback(result: Any, transition: FSMTransitionEvent) -> Any:
            return notifier(result)

        self._add_callback(self.FSM_ANY_STATE, callback)

    def fsm_callback(self, state: Any, callback: Callback) -> None:
        """Call `callback(self, transition)` on the transition to `state`; at once if that is its state."""
        if state is not self.FSM_ANY_STATE and state not in self.FSM_TRANSITIONS:
            raise ValueError(f"{self}: {state!r} is none of its states {sorted(self.FSM_TRANSITIONS)}")
        self._add_callback(state, callback)

    def fsm_callback_discard(self, state: Any, callback: Callback) -> None:
        if self._callbacks is not None:
            self._callbacks[:] = [entry for entry in self._callbacks if entry != (state, callback)]

    def _add_callback(self, state: Any, callback: Callback) -> None:
        if self._callbacks is None:
            self._callbacks = []
        self._callbacks.append((state, callback))
        if self.done:  # it may have become so just now: a callback that is popped runs once
            self._run_callbacks()

    def _run_callbacks(self) -> None:
        event = "complete" if self.fsm_state == "DONE" else "cancel"
        transition = FSMTransitionEvent(
            old_state="PENDING", new_state=self.fsm_state, event=event, when=time.time(), extra={}
        )
        while self._callbacks:
            try:
                state, callback = self._callbacks.pop(0)
            except IndexError:
                return
            if state in (self.FSM_ANY_STATE, self.fsm_state):
                try:
                    callback(self, transition)
                except CancellationError:
                    pass  # as in a plain Result: the callback belongs to something that was cancelled
                except Exception:
                    logger.exception("%s: callback %r failed", self.name, callback)

    def fsm_event(self, event: str, **extra: Any) -> str:
        """Only "cancel" can be sent by hand; see `result` and `exc_info` for completing."""
        if event == "cancel":
            self.cancel()
        elif event != "dispatch":
            raise ValueError(f"{self}: event {event!r} is not for its users")
        return self.fsm_state


class RequestState(NamedTuple):
    """A request's `decode_response` and `Result`, and the three ways to end it, as the reference has them."""

    decode_response: DecodeResponse | None
    result: Any

    def cancel(self) -> None:
        """Cancel this request."""
        self.result.cancel()

    def complete(self, flags: int, payload: bytes) -> None:
        """Complete it from an "ok" response."""
        if self.decode_response is None:
            self.result.result = True, flags, payload
            return
        try:
            decoded = self.decode_response(flags, payload)
        except Exception:
            self.result.raise_()
        else:
            self.result.result = True, flags, decoded

    def fail(self, flags: int, payload: bytes) -> None:
        """Complete it from a "not ok" response."""
        self.result.result = False, flags, payload

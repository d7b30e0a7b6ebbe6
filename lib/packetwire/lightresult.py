"""What `submit` returns: a waiter for one response that can do all that a `cs.result.Result` can.

A plain Result sets up a state machine, two locks and an attribute mapping, and tells all of them about its
end; that takes ten times as long as the request. This one answers the usual questions (`ready`, `is_done`,
calling it, `join`, `notify`) from the waiter that it is. What else a Result has is taken from cs.result when it is
asked for (`csresult`); all but that works where cs.result is not installed.

No lock is held anywhere here, as the threads that complete, cancel and wait agree by single steps: the engine gives
a request away once, a callback is taken from the list before it is called, and the first outcome that is stored is
everybody's.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from packetwire.core.events import ResponseReceived
from packetwire.core.timelimits import time_limit
from packetwire.csresult import ResultWaiter, cancellation, loaded
from packetwire.errors import RequestTimeout
from packetwire.hosts.threads.waiter import call_waiter, outcome_of

if TYPE_CHECKING:
    from typing import TypeAlias

    ExcInfo: TypeAlias = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


class LightResult(ResultWaiter):
    """The result of one request: `(ok, flags, payload)`, once the response is there.

    Call it to wait for that; `timeout` limits the wait, in seconds, and raises `RequestTimeout`, after
    which it can still be called again. `decode_response` runs in the thread that collects the result.
    If the connection ends first, the call raises why.

    To its users it is a `packetwire.RequestResult`, and a `cs.result.Result` if they have that.
    """

    _outcome: tuple[Any, ExcInfo | None] | None = None
    _cancel_msg: str | None = None

    def __str__(self) -> str:
        name = "RequestResult" if type(self) is LightResult else type(self).__name__
        return f"{name}[{self.name!r}:{self.fsm_state}]"

    __repr__ = __str__

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError(
            f"{self} can be neither pickled nor copied: it waits for a response on a connection of this process; "
            "pickle or copy what calling it returns"
        )

    def __copy__(self) -> NoReturn:
        self.__reduce_ex__(None)

    def __deepcopy__(self, memo: object) -> NoReturn:
        self.__reduce_ex__(None)

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        # `isinstance` looks here, too. Before cs.result is imported there is no Result that it could be asked for
        if type(self) is LightResult and loaded("cs.result", "Result") is not None:
            module = import_module("packetwire.result")  # not by a statement, as it imports this module
            # it has no such name yet for a signal handler that interrupts its import
            shown: type = getattr(module, "RequestResult", LightResult)
            return shown
        return type(self)

    @property
    def name(self) -> str:
        """The connection, the tag of the request, and its label if it has one."""
        return f"{self._driver.name}:{self.tag}" + (f":{self._label}" if self._label else "")

    # completion, by the reader of the connection

    def deliver(self, response: ResponseReceived) -> None:
        """Complete it by an event."""
        self.set_response(response.ok, response.flags, response.payload)

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
        """Give the request up: whoever waits for it gets `RequestCancelled`, a late response is dropped."""
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
                outcome = outcome_of(self, self._decode), None
            except BaseException as error:
                outcome = None, (type(error), error, error.__traceback__)
            # of threads that decode at a time all take what the first of them got
            outcome = self.__dict__.setdefault("_outcome", outcome)
        return outcome

    __call__ = call_waiter

    def _call_with(self, a: tuple[Any, ...], timeout: float | None, kw: dict[str, Any]) -> Any:
        if a:
            if timeout is not None:
                kw["timeout"] = timeout
            self.run_func(*a, **kw)
            timeout = None
        if not self.done:
            self._wait(timeout)
        elif timeout is not None:
            time_limit(timeout)  # a mistake is told however quick the peer was
        return self._result_or_raise()

    def _result_or_raise(self) -> Any:
        result, exc_info = self._collect()
        if exc_info is not None and exc_info[1] is not None:
            raise exc_info[1].with_traceback(exc_info[2])
        if self._cancelled:
            raise cancellation(self._cancel_msg or f"cancelled: {self}", self)
        return result

    def get(self, default: Any = None) -> Any:
        """Wait; return the result, or `default` if there is none."""
        result, exc_info = self.join()
        return result if exc_info is None and not self._cancelled else default

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is done; false after `timeout` seconds."""
        with suppress(RequestTimeout):
            self._wait(timeout)
        return self.done

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
        """The result of one that is done; assigning it completes it by hand, and the response will be dropped."""
        if not self.done:
            raise AttributeError(f".result: {self} not ready")
        if self._cancelled:
            raise cancellation(self._cancel_msg or ".result: cancelled", self)
        return self._collect()[0]

    @result.setter
    def result(self, new_result: Any) -> None:
        self._complete(new_result, None)

    @property
    def exc_info(self) -> ExcInfo | None:
        """The exception of one that is done, as `sys.exc_info` has it, or None; can be assigned like `result`."""
        if not self.done:
            raise AttributeError(f".exc_info: {self} not ready")
        if self._cancelled:
            raise cancellation(".exc_info: cancelled", self)
        return self._collect()[1]

    @exc_info.setter
    def exc_info(self, exc_info: ExcInfo) -> None:
        self._complete(None, exc_info)

    def put(self, value: Any) -> None:
        """Complete it with `value`."""
        self._complete(value, None)

    def raise_(self, exc: BaseException | type[BaseException] | None = None) -> None:
        """Complete it by an exception: `exc`, or the one that is being handled."""
        if exc is None:
            self._complete(None, sys.exc_info())
            return
        try:
            raise exc
        except BaseException:
            self._complete(None, sys.exc_info())

    def run_func(self, func: Callable[..., Any], *a: Any, **kw: Any) -> None:
        """Complete it by `func(*a, **kw)`."""
        try:
            outcome = func(*a, **kw)
        except BaseException:
            self._complete(None, sys.exc_info())
        else:
            self._complete(outcome, None)

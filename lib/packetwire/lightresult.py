"""The result of `submit`: a waiter for one response, with the whole interface of a `cs.result.Result`.

A plain Result sets up a state machine, two locks and an attribute mapping, and updates all of them when it is done;
that takes ten times as long as the request. This one implements the usual operations (`ready`, `is_done`, calling
it, `join`, `notify`) itself. All others of a Result are taken from cs.result on demand (`csresult`); only these
need cs.result to be installed.

No lock is held anywhere here, as the threads that complete, cancel and wait agree by atomic steps: the engine gives
a request away once, a callback is taken from the list before it is called, and the first outcome that is stored is
the outcome for all.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from packetwire.core.calloptions import CallPlan
from packetwire.core.events import ResponseReceived
from packetwire.core.progress import Reports
from packetwire.core.responses import failure_of
from packetwire.core.statuses import StatusCode
from packetwire.core.timelimits import time_limit
from packetwire.csresult import ResultWaiter, cancellation, loaded
from packetwire.errors import DeadlineExceeded, RequestCancelled, RequestTimeout
from packetwire.hosts.threads.waiter import call_waiter, outcome_of

if TYPE_CHECKING:
    from typing import TypeAlias

    from packetwire.hooks import Span

    ExcInfo: TypeAlias = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


def _as_it_is(flags: int, payload: bytes) -> bytes:
    return payload


class LightResult(ResultWaiter):
    """The result of one request: `(ok, flags, payload)`, once the response is there.

    Call it to wait for that; after `timeout` seconds that raises `RequestTimeout`, and it can be called
    again. `decode_response` runs in the thread that collects the result. If the connection ends first,
    the call raises the reason.

    For `isinstance` it is a `packetwire.RequestResult`, and a `cs.result.Result` if cs.result is imported.
    """

    __slots__ = ()  # its attributes are where those of the waiter are: compiled, it has no dict until it needs one

    _outcome: tuple[object, ExcInfo | None] | None = None
    _cancel_msg: str | None = None
    _plan: CallPlan | None = None
    _span: Span | None = None
    _reports: Reports | None = None
    _heard = 0.0

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
    def __class__(self) -> type:  # pyright: ignore[reportIncompatibleMethodOverride]  # it has no setter
        # `isinstance` looks here, too. Before cs.result is imported nobody can ask for its Result
        if type(self) is LightResult and loaded("cs.result", "Result") is not None:
            module = import_module("packetwire.result")  # not by a statement, as that module imports this one
            # in a signal handler that interrupts its import it does not have that name yet
            shown: type = getattr(module, "RequestResult", LightResult)
            return shown
        return type(self)

    @property
    def name(self) -> str:
        """The connection, the tag of the request, and its label if it has one."""
        return f"{self._driver.name}:{self.tag}" + (f":{self._label}" if self._label else "")

    def _where(self) -> str:
        label = f" ({self._label})" if self._label else ""
        return f"PacketConnection[{self._driver.name}]: request {self.tag}{label}"

    # completion, by the connection's reader

    def deliver(self, response: ResponseReceived) -> None:
        """Complete it with the response of an event."""
        self.set_response(response.ok, response.flags, response.payload)

    def _end_by_hand(self) -> None:
        """Wake waiting threads, with neither a response nor an end of the connection."""
        self.done = True
        self.wake()
        self._driver.interrupt_lead()
        if self._callbacks is not None:
            self._run_callbacks()

    def _complete(self, result: object, exc_info: ExcInfo | None) -> None:
        """Complete it without the response, which will be dropped."""
        if result is not None and exc_info is not None:
            raise ValueError(f"one of (result, exc_info) must be None, got ({result!r}, {exc_info!r})")
        if self.done or not self._driver.forget(self._channel, self.tag):
            raise RuntimeError(f"{self} already completed")
        self._outcome = result, exc_info
        self._end_by_hand()

    def cancel(self, msg: str | None = None, *, wait: float | None = None) -> bool | None:
        """Give the request up: waiting calls raise `RequestCancelled`, a late response is dropped.

        The far end is told, if it understands that, and `msg` with it. With `wait` the response is waited for, so
        many seconds at most: it is the far end's word that it is done with the request, and the result, if it has
        one. Then this returns whether the handler had begun; None if the far end does not say.
        """
        if wait is not None:
            return self._cancel_and_wait(msg, wait)
        if not self.done and self._driver.forget(self._channel, self.tag, StatusCode.CANCELLED, msg or ""):
            # forgotten by the engine: no response can be delivered any more
            self._cancelled, self._cancel_msg = True, msg
            self._end_by_hand()
        return None

    def _cancel_and_wait(self, msg: str | None, wait: float) -> bool | None:
        if not self.done:
            self._driver.tell_cancelled(self._channel, self.tag, msg or "")
        if not self.wait(wait):
            self.cancel(msg)
        response = self.response
        if response is None or response[0]:
            return None if response is None else True
        begun: bool | None = self._driver.engine.status_of(response[1]).begun
        return begun

    # a call with options

    def follow(self, plan: CallPlan, span: Span | None) -> None:
        """Wait as the plan says, and report what comes to whom it names. The span ends with the request."""
        self._plan, self._span = plan, span
        if self._decode is None:
            self._decode = _as_it_is  # so that the response is collected by `_collect`
        self._heard = time.monotonic()
        if plan.on_progress is not None:
            self._reports = Reports(plan.on_progress)

    @property
    def deadline(self) -> float | None:
        """The time after which nobody needs the response."""
        return None if self._plan is None else self._plan.deadline

    def take_report(self, payload: bytes) -> Callable[[], object] | None:
        """A report of progress came."""
        self._heard = time.monotonic()
        reports = self._reports
        return reports.deliver if reports is not None and reports.add(payload) else None

    def _check_deadline(self) -> None:
        """Raise `DeadlineExceeded` if the far end says that the deadline has passed: its clock may be first."""
        response = self.response
        if self._plan is None or self._plan.deadline is None or response is None or response[0]:
            return
        status = self._driver.engine.status_of(response[1])
        if status.code is StatusCode.DEADLINE:
            raise failure_of(status, response[1], response[2], self.name)

    def collect(self, timeout: float | None) -> Any:
        """Wait as the plan says; return the response, or give the request up and raise why."""
        try:
            try:
                self._wait(timeout)
            finally:
                if not self.done:
                    self._driver.forget(self._channel, self.tag)
            collected = self._result_or_raise()
        except BaseException as error:
            if self._span is not None:
                self._span.leave(error)
            raise
        self.leave_span()
        return collected

    def leave_span(self) -> None:
        """It is done: have the hooks know by what."""
        if self._span is None:
            return
        response = self.response
        error: BaseException | None = None
        if self._cancelled:
            error = cancellation(self._cancel_msg or f"cancelled: {self}", self)
        elif self._outcome is not None and self._outcome[1] is not None:
            error = self._outcome[1][1]
        elif self.ended is not None:
            error = self.ended.for_waiter()
        elif response is not None and not response[0]:
            status = self._driver.engine.status_of(response[1])
            error = failure_of(status, response[1], response[2], self._label or "request")
        self._span.leave(error, None if response is None else len(response[2]))

    def _give_up(self, error: Exception, code: StatusCode) -> Exception:
        """Nobody waits for it any more; returns why."""
        self._driver.forget(self._channel, self.tag, code)
        if self._span is not None:
            self._span.leave(error)
        return error

    def _wait_as_planned(self, plan: CallPlan, limit: float | None, timeout: float | None) -> None:
        end = None if limit is None else time.monotonic() + limit
        while True:
            idle = None if plan.idle_timeout is None else self._heard + plan.idle_timeout
            until = min((each for each in (end, plan.deadline, idle) if each is not None), default=None)
            if self._driver.wait_for(self, until):
                return
            now = time.monotonic()
            if self.given_up:
                return
            if plan.deadline is not None and now >= plan.deadline:
                late = DeadlineExceeded(f"{self._where()}: no response before the deadline")
                raise self._give_up(late, StatusCode.DEADLINE)
            if end is not None and now >= end:
                raise RequestTimeout(f"{self._where()}: no response within {timeout} s")
            if plan.idle_timeout is not None and now >= self._heard + plan.idle_timeout:
                text = f"{self._where()}: neither response nor progress within {plan.idle_timeout} s"
                raise self._give_up(RequestTimeout(text), StatusCode.CANCELLED)

    # collection

    def join(self, timeout: float | None = None) -> tuple[Any, ExcInfo | None]:
        """Wait; return (result, None), (None, exc_info), or (None, None) if cancelled."""
        self._wait(timeout)
        return self._collect()

    def _collect(self) -> tuple[object, ExcInfo | None]:
        if self._cancelled:
            return None, None
        outcome = self._outcome
        if outcome is None:
            try:
                self._check_deadline()
                outcome = outcome_of(self, self._decode), None
            except BaseException as error:
                outcome = None, (type(error), error, error.__traceback__)
            # if several threads decode at the same time, all take the outcome of the first
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
            time_limit(timeout)  # so that an invalid timeout raises even if the peer was quicker
        return self._result_or_raise()

    def _result_or_raise(self) -> Any:
        result, exc_info = self._collect()
        if exc_info is not None and exc_info[1] is not None:
            raise exc_info[1].with_traceback(exc_info[2])
        if self._cancelled:
            raise cancellation(self._cancel_msg or f"cancelled: {self}", self)
        return result

    def get(self, default: object = None) -> Any:
        """Wait; return the result, or `default` if there is none."""
        result, exc_info = self.join()
        return result if exc_info is None and not self._cancelled else default

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is done; False after `timeout` seconds."""
        with suppress(RequestTimeout):
            self._wait(timeout)
        return self.done

    def _wait(self, timeout: float | None) -> None:
        limit = None if timeout is None else time_limit(timeout)
        deadline = None if limit is None else time.monotonic() + limit
        try:
            if self._plan is None:
                done = self._driver.wait_for(self, deadline)
            else:
                self._wait_as_planned(self._plan, limit, timeout)
                done = self.done
        except BaseException:
            self._driver.recover()
            raise
        if self.given_up and not done:
            self.cancel()
            raise RequestCancelled(f"{self.name}: the request whose handler made it was given up")
        if not done:
            raise RequestTimeout(f"{self._where()}: no response within {timeout} s")

    @property
    def result(self) -> Any:
        """The result, once done. Assigning it completes the result; the response will be dropped."""
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
        """The exception, once done, as in `sys.exc_info()`, or None; can be assigned like `result`."""
        if not self.done:
            raise AttributeError(f".exc_info: {self} not ready")
        if self._cancelled:
            raise cancellation(".exc_info: cancelled", self)
        return self._collect()[1]

    @exc_info.setter
    def exc_info(self, exc_info: ExcInfo) -> None:
        self._complete(None, exc_info)

    def put(self, value: object) -> None:
        """Complete it with `value`."""
        self._complete(value, None)

    def raise_(self, exc: BaseException | type[BaseException] | None = None) -> None:
        """Complete it with an exception: `exc`, or the one that is being handled."""
        if exc is None:
            self._complete(None, sys.exc_info())
            return
        try:
            raise exc
        except BaseException:
            self._complete(None, sys.exc_info())

    def run_func(self, func: Callable[..., object], *a: object, **kw: object) -> None:
        """Complete it with the outcome of `func(*a, **kw)`."""
        try:
            outcome = func(*a, **kw)
        except BaseException:
            self._complete(None, sys.exc_info())
        else:
            self._complete(outcome, None)

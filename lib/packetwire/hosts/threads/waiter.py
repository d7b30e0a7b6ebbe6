"""The object on which one thread waits for one answer.

Strategy: most answers are read by the thread that waits for them, so a waiter has no lock until a thread
really has to sleep on it. The side that answers sets `done` and then looks for locks; the side that waits
adds its lock and then looks at `done`; so one of them always sees the other.
"""

from __future__ import annotations

from _thread import allocate_lock
from collections.abc import Callable
from threading import get_ident
from typing import TYPE_CHECKING, Any

from packetwire.core.responses import DecodeResponse, Response, ending_of
from packetwire.errors import ConnectionEnded, LimitExceeded
from packetwire.hosts.threads.signals import MAX_WAIT, main_thread, sleep_limit

if TYPE_CHECKING:
    from threading import Lock


class Waiter:
    """The answer to one request: `response`, or `ended` if there will be none."""

    # with defaults on the class, see below: making one costs nothing
    done: bool
    given_up: bool
    """True if waiting shall stop: nobody needs the response any more."""
    response: Response | None
    ended: ConnectionEnded | LimitExceeded | None
    locks: list[Lock] | None
    _callbacks: list[Any] | None
    """Called by `_run_callbacks` once it is done; None if there are none."""

    def set_response(self, ok: bool, flags: int, payload: bytes) -> None:
        """The response came."""
        if not ok and (cause := ending_of(flags, payload)) is not None:
            self.fail(cause)
            return
        self.response = ok, flags, payload
        self.done = True
        if self.locks is not None:
            self.wake()
        if self._callbacks is not None:
            self._run_callbacks()

    def fail(self, cause: ConnectionEnded | LimitExceeded) -> None:
        """There will be no response."""
        if not self.done:
            self.ended = cause
            self.done = True
        if self.locks is not None:
            self.wake()
        if self._callbacks is not None:
            self._run_callbacks()

    def _run_callbacks(self) -> None:
        """Call what there is to call."""
        raise NotImplementedError

    def take_report(self, payload: bytes) -> Callable[[], object] | None:
        """A report of progress came; returns what is to be called in a thread of ours, if anything is."""
        return None

    def wake(self) -> None:
        """Let go whoever sleeps. Again, if the first time was interrupted."""
        for lock in tuple(self.locks or ()):  # whoever gives up waiting takes his lock away
            try:  # not by `suppress`, which is an object and two calls
                lock.release()
            except RuntimeError:  # released before
                pass

    def sleep(self, timeout: float | None, naps: int = 0) -> bool:
        """Sleep until done, at most `timeout` seconds, and maybe less after that many sleeps."""
        lock = allocate_lock()
        lock.acquire()
        locks = self._own_list("locks")
        locks.append(lock)
        try:
            if not self.done:
                me = get_ident()
                if self.given_up:
                    pass
                elif timeout is None and me not in main_thread:
                    lock.acquire(True, MAX_WAIT)
                else:
                    lock.acquire(True, sleep_limit(me, timeout, naps))
        finally:
            if not self.done:
                locks.remove(lock)
        return self.done

    def _own_list(self, name: str) -> list[object]:
        """The list of that name, which is made now if there is none: in one step, as several threads may come."""
        if _HAS_DICT:
            made: list[object] = self.__dict__.setdefault(name, [])
        else:
            made = []  # first, as the garbage collector may let others run; compiled, no thread comes below
            found: list[object] | None = getattr(self, name)
            if found is not None:
                return found
            setattr(self, name, made)
        return made


_HAS_DICT = hasattr(Waiter(), "__dict__")
"""True if a waiter keeps its attributes in a dict, as it does unless it is compiled; they begin like this then."""
if _HAS_DICT:
    Waiter.done = Waiter.given_up = False
    Waiter.response = Waiter.ended = Waiter.locks = Waiter._callbacks = None


class RequestWaiter(Waiter):
    """A waiter that the caller gets: it knows its request, and waits for the response by `call_waiter`."""

    tag: int

    def __init__(
        self, driver: Any, label: str | None, channel: int, decode_response: DecodeResponse | None
    ) -> None:
        self._driver = driver
        self._label = label
        self._channel = channel
        self._decode = decode_response
        self.tag = -1

    def _call_with(self, a: tuple[object, ...], timeout: float | None, kw: dict[str, object]) -> object:
        raise NotImplementedError

    def _wait(self, timeout: float | None) -> None:
        raise NotImplementedError

    def _result_or_raise(self) -> object:
        raise NotImplementedError


def call_waiter(self: RequestWaiter, *a: object, timeout: float | None = None, **kw: object) -> Any:
    """Wait for the response, and return it: `(ok, flags, payload)`; at most `timeout` seconds."""
    # it is the method `__call__` of results; a function, because what is compiled as a method has no signature
    if a or timeout is not None or kw:
        return self._call_with(a, timeout, kw)
    if _HAS_DICT and self.response is not None and self._decode is None:
        return self.response
    # compiled, all is there, where the waiter has a type: to find the attributes of a result by name takes long
    return response_of(self)


def response_of(waiter: RequestWaiter) -> Any:
    """The same, for as long as it takes."""
    if not waiter.done:
        waiter._wait(None)
    if waiter.response is not None and waiter._decode is None:
        return waiter.response
    return waiter._result_or_raise()


def outcome_of(waiter: Waiter, decode_response: DecodeResponse | None) -> Response:
    """The result of a waiter that is done: (ok, flags, payload), or its exception is raised."""
    response = waiter.response
    if response is None:
        assert waiter.ended is not None
        raise waiter.ended.for_waiter()
    ok, flags, payload = response
    if decode_response is None or not ok:
        return response
    return True, flags, decode_response(flags, payload)

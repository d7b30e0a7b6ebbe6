"""Blocking work beside the event loop, in daemon threads of our own.

Not in the loop's default executor: its threads are joined at exit, which would wait for whatever they do.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar

from packetwire.errors import ConnectionEnded
from packetwire.streams import forking

ResultT = TypeVar("ResultT")


class NoThread(RuntimeError):
    """The system starts no more threads; nothing was begun."""


async def in_thread(
    work: Callable[[], ResultT], name: str, dispose: Callable[[ResultT], object] | None = None
) -> ResultT:
    """Return or raise as `work()` does. Raises `NoThread` if none can be started.

    If this is cancelled the thread goes on, and `dispose` is called with what comes of it.
    """
    thread = Work(work, name)
    try:
        await thread.finished
    except BaseException:
        if dispose is not None:
            thread.abandon(dispose)
        raise
    return thread.result()


async def to_the_end_in_thread(
    work: Callable[[], ResultT],
    name: str,
    *,
    hurry: Callable[[], object] | None = None,
    dispose: Callable[[ResultT], object] | None = None,
) -> ResultT:
    """As `in_thread`, but a cancellation has to wait until the work is done, which `hurry` may speed up."""
    thread = Work(work, name)
    cancelled: asyncio.CancelledError | None = None
    while not thread.finished.done():
        try:
            await asyncio.wait([thread.finished])
        except asyncio.CancelledError as error:
            cancelled = error
            if hurry is not None:
                hurry()
    if cancelled is not None:
        if dispose is not None:
            thread.dispose_of_result(dispose)
        raise cancelled
    return thread.result()


class Work(Generic[ResultT]):
    """A thread that does one piece of work, from now on; `finished` is done soon after.

    Raises `NoThread` if none can be started.
    """

    def __init__(self, work: Callable[[], ResultT], name: str) -> None:
        self._work = work
        self._name = name
        self._lock = threading.Lock()  # guards the next two
        self._done = False
        self._dispose: Callable[[ResultT], object] | None = None
        self._loop = asyncio.get_running_loop()
        self._results: list[ResultT] = []
        self._failure: BaseException | None = None
        self.finished: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        forking.register(self)
        try:
            self._thread.start()
        except RuntimeError as error:
            raise NoThread(f"{name}: {error}") from error

    def after_fork(self) -> None:
        """In the child of a fork: the thread is the parent's."""
        self._lock = threading.Lock()
        if not self._results and self._failure is None:
            self._failure = ConnectionEnded(forking.of_parent(self._name))
        # a loop that shuts down here waits for its tasks, and these for this
        with suppress(RuntimeError):  # in a thread beside the loop, which does not go on here
            self._finish()

    def _run(self) -> None:
        try:
            self._results.append(self._work())
        except BaseException as error:  # raised where the result is taken
            self._failure = error
        with self._lock:
            self._done = True
            dispose = self._dispose
        if dispose is not None:
            self.dispose_of_result(dispose)
        with suppress(RuntimeError):  # the loop may be closed by now
            self._loop.call_soon_threadsafe(self._finish)

    def _finish(self) -> None:
        if not self.finished.done():
            self.finished.set_result(None)

    def abandon(self, dispose: Callable[[ResultT], object]) -> None:
        """Nobody waits for it any more: have `dispose` called with what it returns, which may wait, in a thread."""
        with self._lock:
            done = self._done
            self._dispose = dispose
        if not done:
            return  # the thread itself will see to it
        try:
            threading.Thread(target=self.dispose_of_result, args=(dispose,), name=self._name, daemon=True).start()
        except RuntimeError:
            self.dispose_of_result(dispose)  # better late than never

    def join(self) -> None:
        """Wait until it is done, from any thread."""
        self._thread.join()

    def result(self) -> ResultT:
        """Return or raise what the work did, once it is finished."""
        self._thread.join()
        failure, self._failure = self._failure, None
        if failure is None:
            return self._results[0]
        try:
            raise failure
        finally:
            failure = None  # its traceback refers to this frame

    def dispose_of_result(self, dispose: Callable[[ResultT], object]) -> None:
        """Wait until it is done, from any thread, and call `dispose` with what it returned."""
        if self._thread is not threading.current_thread():
            self._thread.join()
        for result in self._results:
            dispose(result)

"""Request handlers that are coroutines. One that finishes without waiting costs no task.

Strategy: a coroutine is stepped once where its request is taken up. On Python 3.12 that is an eager task.
Before, it is stepped in the name of a task that is *lent*: asyncio takes that for the current one meanwhile,
and it has not begun. If the coroutine waits for something the task is its own from then on, and goes on with it
in the next round of the loop; else the task is lent to the next one. It ends in that round if nobody
needs it. Each coroutine has a context of its own.

A task is not lent again if it was cancelled, or anybody keeps it: what is meant for one handler must not reach
another.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio import tasks as asyncio_tasks
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context, copy_context
from sys import getrefcount
from typing import Any
from weakref import getweakrefcount

from packetwire.aio.belonging import running_loop
from packetwire.aio.current import serving
from packetwire.core.packetcodec import Key

Finish = Callable[[Key, int, Any, BaseException | None], object]

_EAGER = sys.version_info >= (3, 12)
_tasks: Any = asyncio_tasks
_new_task: Any = asyncio.Task
_LENDS = not _EAGER and all(hasattr(_tasks, name) for name in ("_enter_task", "_leave_task", "_current_tasks"))
"""True if a task can be lent: by private functions of asyncio, which are known of Python 3.11."""


class HandlerRun:
    """The coroutine of one handler as its task sees it: behind it comes the answer.

    One without a coroutine is for a task that is lent.
    """

    def __init__(self, handlers: CoroutineHandlers, key: Key, rq_type: int, coroutine: Any) -> None:
        self._handlers = handlers
        self._key = key
        self._rq_type = rq_type
        self._coroutine = coroutine
        self._context: Context | None = None  # its task's, unless it was stepped before it had one
        self._is_new = False
        self._awaited: Any = None
        self.task: Any = None
        self.references: tuple[int, int] | None = None  # to it, while it is lent and nobody else keeps it

    def lend_to(self, key: Key, rq_type: int, coroutine: Any, context: Context, awaited: Any) -> None:
        """The task, which was only lent, is this coroutine's from now on, which waits for what it has `awaited`."""
        self._key = key
        self._rq_type = rq_type
        self._coroutine = coroutine
        self._context = context
        self._awaited = awaited
        self._is_new = True

    def send(self, value: Any) -> Any:
        """The task goes on."""
        coroutine = self._coroutine
        if coroutine is None:
            self._handlers.take_back(self)
            raise StopIteration
        if self._is_new:
            self._is_new = False
            awaited, self._awaited = self._awaited, None
            return awaited
        try:
            if self._context is None:
                return coroutine.send(value)
            return self._context.run(coroutine.send, value)
        except BaseException as error:
            self._end(error)
        raise StopIteration

    def throw(self, error: Any, *more: Any) -> Any:
        """The task goes on by an exception."""
        coroutine = self._coroutine
        if coroutine is None:
            self._handlers.take_back(self)
            raise error
        if self._is_new:  # as a task that is cancelled cancels first what it waits for
            self._is_new = False
            awaited, self._awaited = self._awaited, None
            if (
                awaited is not None
                and isinstance(error, asyncio.CancelledError)
                and awaited.cancel(*error.args[:1])
            ):
                return awaited
        try:
            if self._context is None:
                return coroutine.throw(error)
            return self._context.run(coroutine.throw, error)
        except BaseException as raised:
            self._end(raised)
        finally:
            error = None  # else it refers to this frame by its traceback, and to the request
        raise StopIteration

    def _end(self, error: BaseException) -> None:
        """The handler is done with; what is kept here would keep the request."""
        self._coroutine = self._context = None
        handlers, task = self._handlers, self.task
        self.task = None
        if task is not None:
            handlers.forget(self, self._key)
        if isinstance(error, StopIteration):
            handlers.finish(self._key, self._rq_type, error.value, None)
            return
        handlers.finish(self._key, self._rq_type, None, error)
        if isinstance(error, KeyboardInterrupt):  # it is meant for the program
            if task is not None:
                raise error
            handlers.raise_soon(error)  # and not for who reads

    def close(self) -> None:
        """Nobody goes on with it."""
        if self._coroutine is not None:
            self._coroutine.close()

    def __await__(self) -> Any:
        raise RuntimeError("this is for a task")

    def __getattr__(self, name: str) -> Any:  # for whoever shows tasks
        return getattr(self._coroutine, name)


class CoroutineHandlers:
    """Runs the coroutines of one connection's handlers. `finish(key, rq_type, result, error)` takes what comes
    of each."""

    def __init__(self, loop: asyncio.AbstractEventLoop, finish: Finish, server: Any) -> None:
        self.finish = finish
        self._server = server
        self._runs: dict[Key, HandlerRun] = {}  # of requests whose handlers wait
        self.begun = 0
        """Tasks since somebody set this to 0."""
        self._loop: Any = loop
        self._is_stepping = False
        self._lent: HandlerRun | None = None

    @property
    def can_step(self) -> bool:
        """True if coroutines can be stepped at this moment; else their tasks begin in the next turn of the loop.

        A program that makes its tasks itself (`set_task_factory`) shall make these, too.
        """
        is_here: bool = running_loop() is self._loop
        return is_here and (_EAGER or _LENDS) and self._loop.get_task_factory() is None

    def begin(self, key: Key, rq_type: int, coroutine: Any, can_step: bool) -> None:
        """Run a coroutine, if that `can_step` as far as that goes without waiting; a task does the rest."""
        before = serving.set((self._server, key, rq_type))
        try:
            if not can_step:
                self._start_task(key, rq_type, coroutine)
            elif _EAGER:
                self._start_eager_task(key, rq_type, coroutine)
            else:
                self._step(key, rq_type, coroutine)
        finally:
            serving.reset(before)

    def _start_task(self, key: Key, rq_type: int, coroutine: object) -> None:
        """All of it in a task."""
        run = HandlerRun(self, key, rq_type, coroutine)
        run.task = self._loop.create_task(run)
        self._runs[key] = run
        self.begun += 1

    def _start_eager_task(self, key: Key, rq_type: int, coroutine: object) -> None:
        run = HandlerRun(self, key, rq_type, coroutine)
        outer, self._is_stepping = self._is_stepping, True
        try:
            task = _new_task(run, loop=self._loop, eager_start=True)
        finally:
            self._is_stepping = outer
        if not task.done():
            run.task = task
            self._runs[key] = run
            self.begun += 1

    def _step(self, key: Key, rq_type: int, coroutine: Any) -> None:
        """Step it once in the name of a task that is lent."""
        run = self._lent
        if run is None:
            run = self._lend()
        self._lent = None
        task, loop = run.task, self._loop
        if run.references is None:
            run.references = getrefcount(task), getweakrefcount(task)
        context = copy_context()
        outer = _tasks._current_tasks.get(loop)
        if outer is not None:  # something in a task has made room for this
            _tasks._leave_task(loop, outer)
        was_stepping, self._is_stepping = self._is_stepping, True
        result: object = None
        failure: BaseException | None = None
        waits = False
        awaited: object = None
        _tasks._enter_task(loop, task)
        try:
            awaited = context.run(coroutine.send, None)
            waits = True
        except StopIteration as end:
            result = end.value
        except BaseException as error:
            failure = error
        finally:
            _tasks._leave_task(loop, task)
            self._is_stepping = was_stepping
            if outer is not None:
                _tasks._enter_task(loop, outer)
        if waits:
            self._runs[key] = run
            self.begun += 1
            task._log_destroy_pending = True
            run.lend_to(key, rq_type, coroutine, context, awaited)
            return
        if not task._must_cancel and (getrefcount(task), getweakrefcount(task)) == run.references:
            self._lent = run
        self.finish(key, rq_type, result, failure)
        if failure is not None and isinstance(failure, KeyboardInterrupt):
            self.raise_soon(failure)
        failure = None  # else this frame and its traceback refer to each other

    def raise_soon(self, error: BaseException) -> None:
        """Raise it in the loop."""
        self._loop.call_soon(_raise, error)

    def _lend(self) -> HandlerRun:
        run = HandlerRun(self, 0, 0, None)
        run.task = task = self._loop.create_task(run)
        task._log_destroy_pending = False  # it has nothing to do yet
        return run

    def take_back(self, run: HandlerRun) -> None:
        """Nobody needed the task of this run, which ends."""
        run.task = None
        if self._lent is run:
            self._lent = None

    def forget(self, run: HandlerRun, key: Key) -> None:
        """It is done with."""
        if self._runs.get(key) is run:
            del self._runs[key]

    def canceller_of(self, key: Key) -> Callable[[], object] | None:
        """The function that cancels the handler of a request, if that waits."""
        run = self._runs.get(key)
        return None if run is None or run.task is None else run.task.cancel

    @property
    def runs_this_task(self) -> bool:
        """True if the present task runs a handler."""
        if self._is_stepping:
            return True
        found = serving.get()
        run = None if found is None or found[0] is not self._server else self._runs.get(found[1])
        return run is not None and run.task is asyncio.current_task()

    def cancel(self) -> list[asyncio.Task[None]]:
        """Cancel what waits, and return the tasks."""
        tasks = [run.task for run in list(self._runs.values()) if run.task is not None]
        for task in tasks:
            task.cancel("the connection was closed")
        return tasks


Coroutine.register(HandlerRun)  # pyright: ignore[reportAttributeAccessIssue]  # it is an ABC where it runs


async def awaited(awaitable: Awaitable[Any]) -> Any:
    """A coroutine of what is none."""
    return await awaitable


def _raise(error: BaseException) -> None:
    raise error

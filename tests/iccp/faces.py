"""The two faces of ICCP, used alike: what belongs to an event loop runs there while a test waits for it."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Self

from packetwire.iccp import (
    AsyncController,
    AsyncStartedComponent,
    AsyncSupervisedComponent,
    Control,
    Controller,
    arun_component,
    run_component,
)

FACES = ("threads", "asyncio")


class InLoop:
    """A controller or component of an event loop, whose coroutines are run to their ends."""

    def __init__(self, runner: asyncio.Runner, inner: Any) -> None:
        self.inner = inner
        self._runner = runner

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.inner, name)
        if not callable(value):
            return self._seen(value)

        async def call(*args: Any, **options: Any) -> Any:
            result = value(*args, **options)
            return await result if inspect.isawaitable(result) else result

        return lambda *args, **options: self._seen(self._runner.run(call(*args, **options)))

    def _seen(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._seen(each) for each in value]
        belongs_to_loop = isinstance(value, AsyncStartedComponent | AsyncSupervisedComponent)
        return InLoop(self._runner, value) if belongs_to_loop else value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, InLoop) and self.inner is other.inner

    def __hash__(self) -> int:
        return hash(self.inner)

    def __str__(self) -> str:
        return str(self.inner)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def controllers_of(face: str, opened: ExitStack) -> Callable[..., Any]:
    """Makes controllers that are used as a `Controller`."""
    if face == "threads":
        return Controller
    runner = opened.enter_context(asyncio.Runner())
    return lambda **options: InLoop(runner, AsyncController(**options))


def run_of(face: str) -> Callable[..., int]:
    """Runs a component as `run_component`; in an event loop plain functions that may wait run beside it."""
    if face == "threads":
        return run_component

    def run(main: Any = None, **options: Any) -> int:
        async def beside(control: Control) -> Any:
            return await asyncio.to_thread(main, control)

        is_plain = main is not None and not inspect.iscoroutinefunction(main)
        return asyncio.run(arun_component(beside if is_plain else main, **options))

    return run

"""A component of a controller that is started again when it has ended, by the rules of `AsyncSupervised`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic
from typing import Generic, Protocol, TypeVar

from packetwire._async.keeping import Change
from packetwire._async.member import Keeper
from packetwire.core.keeping import Backoff, MemberEvent, MemberReady, Rules
from packetwire.core.timelimits import time_limit
from packetwire.errors import ConnectionEnded, RequestTimeout, ended_by
from packetwire.iccp.errors import ComponentError
from packetwire.iccp.lifeevents import Finished
from packetwire.iccp.messages import Outcome

logger = logging.getLogger("packetwire")


class Component(Protocol):
    """A component that a controller has started."""

    async def wait_ready(self) -> None: ...

    async def configure(self, config: object = None) -> None: ...

    async def wait(self) -> Finished: ...

    def begin_stop(self) -> None: ...


ComponentT = TypeVar("ComponentT", bound=Component)


class AsyncSupervisedComponent(Keeper, Generic[ComponentT]):
    """A component that is started again when it has ended, as `supervise` of a controller returns it.

    `component` is the present one while it is ready, `cause` the reason why the last one ended, and `given_up` is
    true if it is not started again any more.
    """

    __module__ = "packetwire.iccp"  # where it is public

    def __init__(
        self,
        name: str,
        launch: Callable[[], ComponentT],
        config: object,
        on_event: Callable[[MemberEvent], object] | None,
        *,
        restart: str,
        limit: tuple[int, float] | None,
        backoff: Backoff | None,
    ) -> None:
        rules = Rules(Backoff() if backoff is None else backoff, restart, limit)
        super().__init__(name, rules, tell=self._tell_user, changed=Change())
        self.component: ComponentT | None = None
        self._launch = launch
        self._config = config
        self._on_event = on_event
        self._made: ComponentT | None = None

    def __str__(self) -> str:
        return f"{type(self).__name__}[{self.name}]"

    def _tell_user(self, event: MemberEvent) -> None:
        if self._on_event is not None:
            try:
                self._on_event(event)
            except Exception:
                logger.exception("%s: on_event failed", self)

    async def wait_ready(self, timeout: float | None = None) -> ComponentT:
        """The component, as soon as it is ready and configured.

        Raises `RequestTimeout` after `timeout` seconds, and `ConnectionEnded` once it is given up or stopped.
        """
        limit = time_limit(timeout)
        until = float("inf") if limit is None else monotonic() + limit
        while True:
            seen, component, because = self._changed.count, self.component, f": {self.cause}" if self.cause else ""
            if component is not None:
                return component
            if self._stopping:
                raise ConnectionEnded(f"{self} was stopped")
            if self.given_up:
                text = f"{self} was given up{because}"
                raise ConnectionEnded(text) if self.cause is None else ended_by(self.cause, text)
            if monotonic() >= until:
                raise RequestTimeout(f"{self} was not ready within {timeout:g} s{because}") from self.cause
            await self._changed.wait(seen, min(until - monotonic(), 3600.0))

    async def configure(self, config: object = None, timeout: float | None = None) -> None:
        """Give it a configuration, and all that come after it; waits until one is ready.

        Raises as `wait_ready` and the component do; then it is not kept.
        """
        await (await self.wait_ready(timeout)).configure(config)
        self._config = config

    def halt(self) -> None:
        """Have it end, and start none any more; does not wait."""
        super().halt()
        self._changed.tell()
        made = self._made
        if made is not None:
            made.begin_stop()

    async def stop(self) -> None:
        """Have it end, within the limits of the controller, and start none any more."""
        self.halt()
        await self._work.stop(3600.0)  # which these limits end sooner

    async def _one(self) -> BaseException | None:
        try:
            self._made = component = self._launch()
        except Exception as error:
            return error
        try:
            if self._stopping:  # before it could be seen
                return None
            await component.wait_ready()
            if self._config is not None:
                await component.configure(self._config)
            self._attempts.ready(monotonic())
            self.component = component
            self._tell(MemberReady(self.name))
            self._changed.tell()
            finished = await component.wait()
        except Exception as error:
            return error
        finally:
            self.component = None
            await self._ended(component)
        return _failure(component, finished)

    async def _ended(self, component: ComponentT) -> None:
        component.begin_stop()
        try:
            await component.wait()
        except Exception:
            pass  # its reason is that of the first wait


def _failure(component: object, finished: Finished) -> ComponentError | None:
    """None if it has done its work."""
    if finished.outcome is Outcome.OK and not finished.returncode:
        return None
    details = "; ".join(finished.details)
    return ComponentError(
        f"{component} finished by {finished.outcome.name}: {details} (exit status {finished.returncode})"
    )

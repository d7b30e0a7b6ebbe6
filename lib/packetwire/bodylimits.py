"""How long a body may stand still, and what its end means to whoever reads or writes it."""

from __future__ import annotations

from collections.abc import Callable

from packetwire.core.requestcontext import RequestContext
from packetwire.errors import (
    BodyEnded,
    DeadlineExceeded,
    PacketwireError,
    RequestCancelled,
    RequestTimeout,
    copy_of,
)


class BodyLimits:
    """The times of one request with bodies, by the `clock`: a `timeout` for each wait, and maybe a deadline."""

    def __init__(
        self, name: str, clock: Callable[[], float], timeout: float | None, deadline: float | None = None
    ) -> None:
        self._name = name
        self._clock = clock
        self._timeout = timeout
        self._deadline = deadline

    def seconds(self) -> float | None:
        """The time for which a body may stand still from now on."""
        if self._deadline is None:
            return self._timeout
        left = max(0.0, self._deadline - self._clock())
        return left if self._timeout is None else min(left, self._timeout)

    def error(self, text: str) -> PacketwireError:
        """The exception for a body that stood still so long; `text` says what the peer has not done."""
        if self._deadline is not None and self._clock() >= self._deadline:
            return DeadlineExceeded(f"{self._name}: the deadline passed before the body was whole")
        return RequestTimeout(f"{self._name}: {text} for {self._timeout:g} s")


def why_served(context: RequestContext, error: PacketwireError) -> PacketwireError:
    """The exception for a handler whose body has ended by `error`."""
    if isinstance(error, BodyEnded) and context.cancelled is not None:
        said = context.cancelled[1]
        return RequestCancelled("the caller gave this request up" + (f": {said}" if said else ""), begun=True)
    return copy_of(error)

"""The public class of the results of `submit`, for type annotations, `isinstance` and subclasses.

Importing this module imports cs.result, if that is installed, which takes a while; submitting and collecting do not
need it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from packetwire.core.responses import DecodeResponse
from packetwire.lightresult import LightResult

try:
    from cs.result import Result
except ModuleNotFoundError:
    RequestResult = LightResult  # pyright: ignore[reportAssignmentType]
else:

    class RequestResult(LightResult, Result):  # type: ignore[misc,no-redef]
        __doc__ = LightResult.__doc__

        # does nothing, and without Python code: a Ctrl-C in that would get lost
        __del__ = staticmethod(bool)  # pyright: ignore[reportAssignmentType]


class RequestState(NamedTuple):
    """A request's `decode_response` and `Result`, and the three ways to end it, as in the reference."""

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

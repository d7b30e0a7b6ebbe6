"""Bodies of a capture that are sent again, and those of responses, as far as they are compared."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from packetwire.cli.exchanges import STOPPED, WHOLE, Body
from packetwire.errors import BodyEnded, PacketwireError, RequestTimeout

if TYPE_CHECKING:
    from packetwire.core.responses import Response

    StreamCall = Any  # that of `packetwire._sync.bodies`, which only who has bodies imports


@dataclass(frozen=True)
class Content:
    """A response, for comparing: a body and the payload behind it count as one."""

    ok: bool
    flags: int
    payload: bytes
    size: int = 0
    digest: bytes = b""
    """Of a body and the payload, if there was a body."""


class Replayed:
    """A request with bodies that was sent again, in the present.

    Its response body is read in a thread of its own, as it comes, whatever the file says about the time.
    """

    def __init__(self, call: StreamCall, timeout: float) -> None:
        self._call = call.__enter__()
        self._timeout = timeout
        self._is_stuck = False
        self.is_whole = False
        """All of the request's body was sent."""
        self._body_ended = False
        self._failure: PacketwireError | None = None
        self._was, self._is = hashlib.sha256(), hashlib.sha256()
        self._sizes = [0, 0]
        self._is_compared = True
        self._enough: int | None = None
        self._reader = threading.Thread(target=self._read, name="packetwire-replay", daemon=True)
        self._reader.start()

    def repeat(self, data: bytes) -> None:
        """Send bytes of the request's body again. Raises `RequestTimeout` if the other end takes none."""
        if self._body_ended:
            return
        # not by body_timeout, which holds for the body of the response, too: that may stand still meanwhile
        timer = threading.Timer(self._timeout, self._take_no_more)
        timer.daemon = True
        timer.start()
        try:
            self._call.write(data)
        except BodyEnded:
            if self._is_stuck:
                raise RequestTimeout(f"the peer has taken nothing for {self._timeout:g} s") from None
            self._body_ended = True  # it wants no more of them, though it did then
        finally:
            timer.cancel()

    def _take_no_more(self) -> None:
        self._is_stuck = True
        self._call.cancel("the peer takes nothing")

    def note(self, data: bytes) -> None:
        """These bytes came then."""
        self._was.update(data)
        self._sizes[0] += len(data)

    def end(self, body: Body) -> None:
        """A body has ended then: do the same now."""
        if not body.of_response:
            self._body_ended = True
            if body.end == WHOLE:
                self._call.finish()
                self.is_whole = True
            return
        self._is_compared = body.end == WHOLE
        if body.end == STOPPED:
            self._enough = body.size

    def give_up(self) -> None:
        """Nobody waited for the response then."""
        self._call.cancel("given up in the recording")

    def response(self, timeout: float) -> Response:
        """Wait for the response. Raises `RequestTimeout`, and can be called again then."""
        self._reader.join(timeout)
        if self._failure is not None:
            raise self._failure
        if self._reader.is_alive():
            raise RequestTimeout(f"the body of the response was not whole within {timeout:g} s")
        response: Response = self._call.result(timeout)
        self._call.__exit__(None, None, None)
        return response

    def compared(self, before: Response, now: Response) -> tuple[Content, Content]:
        """The former response and the present one, as far as the recording has all of it."""
        if not self._is_compared or self._sizes == [0, 0]:
            return Content(*before), Content(*now)
        return _joined(before, self._sizes[0], self._was), _joined(now, self._sizes[1], self._is)

    def _read(self) -> None:
        try:
            for chunk in self._call:
                self._is.update(chunk)
                self._sizes[1] += len(chunk)
                if self._enough is not None and self._sizes[1] >= self._enough:
                    self._call.body.stop()
                    return
        except BodyEnded:
            pass  # the response says why
        except PacketwireError as error:
            self._failure = error


def _joined(response: Response, size: int, digest: Any) -> Content:
    ok, flags, payload = response
    digest.update(payload)
    return Content(ok, flags, b"", size + len(payload), digest.digest())

"""The ids by which a service knows a request again that comes once more."""

from __future__ import annotations

from typing import NamedTuple

from packetwire.errors import RequestError


class RequestId(NamedTuple):
    """Which request of a client it is, and how often it was sent."""

    number: int
    attempt: int = 1


class RequestIds:
    """The numbers of one client, which go up over all of its connections."""

    def __init__(self, client: bytes) -> None:
        self.client = client
        """Its name: random bytes."""
        self._numbers = iter(range(1, 1 << 63))

    def next(self) -> RequestId:
        """The id of a new request."""
        return RequestId(next(self._numbers))


class Repeated(RequestError):
    """The error by which a request is refused whose result is gone."""

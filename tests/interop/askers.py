"""Who asks: either end of a connection to the reference, in the same words."""

from __future__ import annotations

from typing import Any, Protocol

from reference_process import ReferencePeer

from packetwire import PacketConnection

Request = tuple[int, int, bytes]
"""rq_type, flags, payload"""
Response = tuple[bool, int, bytes]
"""ok, flags, payload"""


class Asker(Protocol):
    """One end of a connection; the other end serves the requests of `exchange`."""

    def call(self, rq_type: int, flags: int = 0, payload: bytes = b"") -> Response:
        """Ask and wait."""
        ...

    def submit(self, requests: list[Request]) -> None:
        """Ask many times without waiting."""
        ...

    def collect(self) -> tuple[list[Response], list[int]]:
        """The responses to what was submitted, and the order in which they came."""
        ...


class OurAsker:
    """packetwire asks."""

    def __init__(self, conn: PacketConnection) -> None:
        self._conn = conn
        self._submitted: list[Any] = []
        self._order: list[int] = []

    def call(self, rq_type: int, flags: int = 0, payload: bytes = b"") -> Response:
        return self._conn(rq_type, payload, flags)

    def submit(self, requests: list[Request]) -> None:
        self._submitted, self._order = [], []
        for number, request in enumerate(requests):
            result = self._conn.submit(*request)
            result.notify(lambda _, number=number: self._order.append(number))
            self._submitted.append(result)

    def collect(self) -> tuple[list[Response], list[int]]:
        return [result() for result in self._submitted], self._order


class ReferenceAsker:
    """The reference asks."""

    def __init__(self, peer: ReferencePeer) -> None:
        self._peer = peer

    def call(self, rq_type: int, flags: int = 0, payload: bytes = b"") -> Response:
        return self._peer.ask("call", rq_type, flags, payload)

    def submit(self, requests: list[Request]) -> None:
        self._peer.ask("submit", requests)

    def collect(self) -> tuple[list[Response], list[int]]:
        return self._peer.ask("collect")

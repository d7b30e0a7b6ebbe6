"""One end of a conversation, under orders: the same for each face, in this process or in another.

`Peer` does what it is told with a connection of its own, and takes and returns only what can be pickled.
"""

from __future__ import annotations

import os
import socket
import stat
import threading
from collections.abc import Callable
from typing import Any

from packetwire import PacketConnection, RequestReceived, Responder

LIMIT = 30
"""Seconds for what does not take any."""
ECHO, FAIL, DEFER, ANSWER = range(4)

Response = tuple[bool, int, bytes]


def connection_class(face: str) -> Callable[..., Any]:
    """What makes connections with `face`, to be used as `PacketConnection` is."""
    if face == "threads":
        return PacketConnection
    from tests.aio.blocking import BlockingConnection

    if face == "asyncio":
        return BlockingConnection
    import uvloop

    class UvloopConnection(BlockingConnection):
        loop_factory = staticmethod(uvloop.new_event_loop)

    return UvloopConnection


class Peer:
    """One end. Requests of the other end are echoed, fail, or are answered when it says so."""

    def __init__(self, face: str, recv_send: Any, cut: Callable[[], None]) -> None:
        """After `cut()` nothing leaves here any more, without a word to the other end."""
        self._deferred: list[Responder] = []
        self._arrived = threading.Condition()
        self._seen: list[bytes] = []
        self._results: dict[int, Any] = {}
        self.cut = cut
        self.conn = connection_class(face)(
            recv_send, face, request_handler=self._handle, on_event=self._see, close_timeout=LIMIT
        )

    # what the other end asks for

    def _handle(self, rq_type: int, flags: int, payload: bytes) -> Any:
        if rq_type == ECHO:
            return flags & 0xFF, payload
        if rq_type == FAIL:
            raise ValueError(payload.decode())
        if rq_type == DEFER:
            responder = Responder()
            with self._arrived:
                self._deferred.append(responder)
                self._arrived.notify_all()
            return responder
        assert rq_type == ANSWER
        self.answer(payload)
        return None

    def answer(self, payload: bytes) -> None:
        """Answer the oldest deferred request, once there is one."""
        self.await_deferred(1)
        with self._arrived:
            responder = self._deferred.pop(0)
        responder.respond(payload)

    def await_deferred(self, number: int) -> None:
        """Wait for that many deferred requests."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: len(self._deferred) >= number, LIMIT)

    def number_deferred(self) -> int:
        """How many there are."""
        with self._arrived:
            return len(self._deferred)

    def forget_deferred(self) -> None:
        with self._arrived:
            self._deferred.clear()

    def _see(self, event: Any) -> None:
        if isinstance(event, RequestReceived):
            self._seen.append(event.payload)

    # orders

    def open(self) -> None:
        self.conn.open()

    def close(self, timeout: float | None = None) -> None:
        self.conn.close(timeout)

    def ask(self, rq_type: int, payload: bytes = b"", flags: int = 0, timeout: float = LIMIT) -> Response:
        response: Response = self.conn(rq_type, payload, flags, timeout=timeout)
        return response

    def echo_of_size(self, size: int) -> bool:
        """Whether that many octets come back as they went; they need not be sent to whoever gives the order."""
        payload = os.urandom(size)
        return self.ask(ECHO, payload) == (True, 0, payload)

    def echo_many(self, number: int, window: int) -> list[bytes]:
        requests = ((ECHO, b"%d" % i) for i in range(number))
        map_all = getattr(self.conn, "map_all", self.conn.map)  # one visit to the loop, not one for each request
        return [payload for _, _, payload in map_all(requests, window=window, timeout=LIMIT)]

    def submit(self, rq_type: int, payload: bytes = b"") -> int:
        """A number for `result` and `cancel`."""
        number = len(self._results)
        self._results[number] = self.conn.submit(rq_type, payload=payload)
        return number

    def result(self, number: int) -> Response:
        response: Response = self._results[number](timeout=LIMIT)
        return response

    def cancel(self, number: int) -> None:
        self._results[number].cancel()

    def seen(self) -> list[bytes]:
        """The payloads of the requests that came, in the order of the wire, since the last call."""
        seen, self._seen = self._seen, []
        return seen

    def end_requests(self) -> None:
        self.conn.send_erq()

    def counts(self) -> tuple[int, int]:
        """Requests without an answer, and answers that came too late."""
        return self.conn.outstanding, self.conn.late_responses

    def await_end(self) -> str:
        """The name of the exception with which receiving ended."""
        assert self.conn.join_recv(LIMIT)
        return type(self.conn.ended).__name__

    def pid(self) -> int:
        return os.getpid()


def cut_fd(fd: int) -> None:
    """What is written there goes nowhere from now on."""
    if stat.S_ISSOCK(os.fstat(fd).st_mode):
        with socket.socket(fileno=os.dup(fd)) as same:
            same.shutdown(socket.SHUT_WR)
    else:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, fd)
        os.close(null)

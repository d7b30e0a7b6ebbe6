"""The bodies of a call: one from a file or standard input, and one to standard output."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO

from packetwire.cli.display import Transfer, megabytes, transfer_shown
from packetwire.cli.failure import EXIT_FAILED, EXIT_TIMEOUT, EXIT_USAGE, CommandFailed
from packetwire.errors import BodyEnded, CapabilityMissing, PacketwireError

if TYPE_CHECKING:
    from packetwire.connection import PacketConnection
    from packetwire.core.responses import Response

    StreamCall = Any  # that of `packetwire._sync.bodies`, which only who has bodies imports

READ_SIZE = 64 << 10
LOOKS = 5
"""How often it is looked if bodies move, within the time that they may stand still."""
SENT, RECEIVED = "sent", "received"


@dataclass
class Bodies:
    """The bodies of one call, and how far they have come."""

    source: BinaryIO | None
    """The body to send; None: an empty one."""
    in_hex: bool = False
    body_timeout: float | None = None
    """Seconds for which a body may stand still."""
    sent: int = 0
    received: int = 0
    begun: bool = field(default=False, init=False)

    def ask(
        self,
        conn: PacketConnection,
        rq_type: int,
        payload: bytes,
        flags: int,
        *,
        timeout: float | None,
        **options: Any,
    ) -> Response:
        """Send a request, and bodies both ways at once; returns the response.

        `timeout` are the seconds for beginning, and for the response if that is no body.
        """
        request = rq_type, payload, flags
        try:
            with conn.stream(*request, timeout=timeout, body_timeout=None, **options) as call:
                self.begun = True
                with self._watched(call, conn.name or "the call"):
                    return self._transfer(call)
        except CapabilityMissing as error:
            if self.source is None:
                return conn(*request, timeout=timeout, **options)
            text = f"{error}; --file FILE sends the bytes as the payload, if they fit into a packet"
            raise CommandFailed(text, EXIT_FAILED) from error

    @property
    def progress(self) -> str:
        """How far they came, as a text."""
        sent = f"{megabytes(self.sent)} sent, " if self.source is not None else ""
        return f"{sent}{megabytes(self.received)} received"

    @contextmanager
    def _watched(self, call: StreamCall, name: str) -> Iterator[None]:
        """Give the call up in this block when neither body moves for too long."""
        if self.body_timeout is None:
            yield
            return
        # one limit for both: while one body is sent nothing may come of the other
        still = StandsStill(self.body_timeout, lambda: self.sent + self.received)
        done = threading.Event()

        def watch() -> None:
            while not done.wait(still.timeout / LOOKS):
                if still.is_over():
                    call.cancel("the bodies stood still")
                    return

        watcher = threading.Thread(target=watch, name="packetwire-watch", daemon=True)
        watcher.start()
        try:
            yield
        except PacketwireError:
            if still.was_over:
                text = f"{name}: nothing was sent or came for {still.timeout:g} s"
                raise CommandFailed(text, EXIT_TIMEOUT) from None
            raise
        finally:
            done.set()
            watcher.join()

    def _transfer(self, call: StreamCall) -> Response:
        with transfer_shown() as transfer:
            sending = _Sending(call, self, transfer)
            sending.start()
            try:
                self._write_out(call, transfer)
                response: Response = call.result()
            except PacketwireError:
                if sending.failure is not None:
                    raise sending.failure from None
                raise
        if self.source is not None and not sending.is_whole:
            print(f"the peer answered after {self.sent} bytes of the body, and took no more", file=sys.stderr)
        return response

    def _write_out(self, call: StreamCall, transfer: Transfer) -> None:
        """Write the body of the response to standard output."""
        out = sys.stdout.buffer
        is_shown = not sys.stdout.isatty()  # else the bar would be amid the body
        with suppress(BodyEnded):  # the response says why
            for chunk in call:
                self.received += len(chunk)
                out.write(chunk.hex().encode() if self.in_hex else chunk)
                out.flush()
                if is_shown:
                    transfer(RECEIVED, self.received, call.body.size)
        if self.in_hex and self.received:
            out.write(b"\n")
            out.flush()


class StandsStill:
    """Tells when `moved()` has returned the same for `timeout` seconds."""

    def __init__(
        self, timeout: float, moved: Callable[[], int], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.timeout = timeout
        self.was_over = False
        self._moved = moved
        self._clock = clock
        self._last, self._since = moved(), clock()

    def is_over(self) -> bool:
        """Look again."""
        moved, now = self._moved(), self._clock()
        if moved != self._last:
            self._last, self._since = moved, now
        self.was_over = now - self._since >= self.timeout
        return self.was_over


class _Sending(threading.Thread):
    """Sends the body of the request, while that of the response is read."""

    def __init__(self, call: StreamCall, bodies: Bodies, transfer: Transfer) -> None:
        # a daemon: nothing can interrupt it while it reads standard input
        super().__init__(name="packetwire-body", daemon=True)
        self.failure: CommandFailed | None = None
        self.is_whole = bodies.source is None
        self._call = call
        self._bodies = bodies
        self._transfer = transfer

    def run(self) -> None:
        """Send all of it; if it cannot be read the request is given up."""
        try:
            if self._bodies.source is not None:
                self._send(self._bodies.source)
            self._call.finish()
        except PacketwireError:
            pass  # whoever waits for the response is told, too
        except OSError as error:
            self.failure = CommandFailed(f"the body cannot be read: {error.strerror}", EXIT_FAILED)
            self._call.cancel(str(self.failure))

    def _send(self, source: BinaryIO) -> None:
        total = size_of(source)
        while data := source.read(READ_SIZE):
            self._call.write(data)
            self._bodies.sent += len(data)
            self._transfer(SENT, self._bodies.sent, total)
        self.is_whole = True


def size_of(source: BinaryIO) -> int | None:
    """Bytes that are left in it; None if nobody knows."""
    try:
        return os.fstat(source.fileno()).st_size - source.tell()
    except OSError:
        return None  # a pipe, which has no position


@contextmanager
def body_source(word: str | None) -> Iterator[BinaryIO | None]:
    """The file for `@FILE`, or standard input for `-` and `@-`. Raises `CommandFailed`."""
    if word is None:
        yield None
        return
    name = word.removeprefix("@")
    if name == "-" and sys.stdin is None:
        raise CommandFailed("standard input is closed", EXIT_USAGE)
    try:
        # no buffer: what has come is sent at once, and no lock is held when the program ends
        file = open(0 if name == "-" else name, "rb", buffering=0, closefd=name != "-")  # noqa: SIM115
    except OSError as error:
        raise CommandFailed(f"cannot read {name!r}: {error.strerror}", EXIT_USAGE) from None
    with file:
        yield file

"""Tools for tests of your requests: connections within one process, and a link with faults.

    def test_put():
        with connection_pair(b={"request_handler": handle}) as (a, b):
            assert a(PUT, b"Emma", timeout=5) == (True, 1, b"")

`connection_pair` makes two open connections, `stream_pair` two streams to make connections of. A `FaultyLink`
carries bytes between two ends, and its `Faults` say how: they come in small pieces, are delayed or damaged, or stop
coming.

Strategy of the link. It is a relay: each end has two pipes, and a thread passes bytes from pipe to pipe. So the
ends are descriptors, which every kind of connection can poll, in this process or in another, and a fault looks as
it does in reality: a stalled peer is a pipe that fills up, a cut is an end of the stream. The place of a fault is
the number of a byte, and bytes that are held back are released by a call; nothing depends on time.
"""

from __future__ import annotations

import itertools
import os
import select
import socket
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Self

from packetwire.connection import PacketConnection
from packetwire.errors import LocalProtocolError
from packetwire.streams import forking
from packetwire.streams.open import PacketConnectionRecvSend
from packetwire.streams.wakeup import Wakeup

__all__ = ["NO_FAULTS", "Direction", "Faults", "FaultyLink", "connection_pair", "stream_pair"]

PACKET_PIPE_SIZE = select.PIPE_BUF
"""Bytes that a pipe passes on as one piece, at most."""
RELAY_SIZE = 65536
"""Bytes that a link holds before it waits for the receiver, unless it delays them on purpose."""

Ends = tuple[PacketConnectionRecvSend, PacketConnectionRecvSend]


@contextmanager
def stream_pair(over: str | Ends = "socketpair") -> Iterator[Ends]:
    """Two streams that are connected to each other, closed at the end.

        with stream_pair() as (ours, theirs), Shop(theirs), Shop(ours) as shop:
            assert shop.conn_do_remote(Put("Emma")) == 1

    `over`: "socketpair" or "pipes"; or two streams, which are returned as they are.
    """
    if not isinstance(over, str):
        yield over
    elif over == "socketpair":
        a, b = socket.socketpair()
        with a, b:
            yield a, b
    elif over == "pipes":
        with ExitStack() as opened:
            (a_recv, b_send), (b_recv, a_send) = _pipe(opened), _pipe(opened)
            yield (a_recv, a_send), (b_recv, b_send)
    else:
        raise LocalProtocolError(f"over must be 'socketpair', 'pipes' or two streams, got {over!r}")


@contextmanager
def connection_pair(
    a: Mapping[str, Any] | None = None,
    b: Mapping[str, Any] | None = None,
    *,
    over: str | Ends = "socketpair",
    capabilities: str = "off",
) -> Iterator[tuple[PacketConnection, PacketConnection]]:
    """Two open connections, each the other's peer.

        with connection_pair(b={"request_handler": lambda rq_type, flags, payload: payload}) as (a, b):
            assert a(0, b"abc") == (True, 0, b"abc")

    `a` and `b` are the arguments of each `PacketConnection`; `over` is that of `stream_pair`, for instance
    `link.ends` of a `FaultyLink`. `capabilities` is that of both; "off", so that the bytes are those of the
    requests alone. At the end both are closed, which waits up to `close_timeout` for requests that have no answer.
    """
    with (
        stream_pair(over) as (ours, theirs),
        PacketConnection(ours, **{"name": "a", "capabilities": capabilities, **(a or {})}) as first,
        PacketConnection(theirs, **{"name": "b", "capabilities": capabilities, **(b or {})}) as second,
    ):
        yield first, second


@dataclass(frozen=True)
class Faults:
    """The faults of one direction, whose bytes are numbered from 0.

        Faults(pieces=[1])                 each read gets one byte
        Faults(pieces=[3, 1, 4096])        these sizes, again and again
        Faults(stall_at=100)               100 bytes pass, the others are not taken: the sender's pipe fills up
        Faults(delay_at=100)               100 bytes pass, the others are taken, and passed on later
        Faults(cut_at=100)                 100 bytes pass, then the stream ends, in both directions
        Faults(flips={100: 0x80})          the highest bit of byte 100 is flipped

    `pieces`: a read of the receiver gets at most that many bytes, on Linux exactly that many unless there
    are no more; at most 4096. `stall_at` and `delay_at` last until the link's `release`.
    For a random fault draw these numbers from a `random.Random` with a known seed.
    """

    pieces: Sequence[int] = ()
    stall_at: int | None = None
    delay_at: int | None = None
    cut_at: int | None = None
    flips: Mapping[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for size in self.pieces:
            if not 1 <= size <= PACKET_PIPE_SIZE:
                raise LocalProtocolError(f"a piece has from 1 to {PACKET_PIPE_SIZE} bytes, got {size!r}")
        for what in ("stall_at", "delay_at", "cut_at"):
            at = getattr(self, what)
            if at is not None and at < 0:
                raise LocalProtocolError(f"{what} is the number of a byte, got {at!r}")


NO_FAULTS = Faults()
"""A direction without faults."""


class FaultyLink:
    """Two ends with a relay between them, to be used by `with`.

        with FaultyLink(a_to_b=Faults(cut_at=10)) as link:
            with connection_pair(over=link.ends) as (a, b):
                with pytest.raises(ConnectionEnded):
                    a(0, b"more than ten bytes")

    `a` and `b` are (recv, send) descriptors, which another process can have, too. They belong to the link, which
    closes them at the end. Close the connections first, as `with` does; if the link still holds bytes back by then,
    call `release` or `cut` before, or they wait for each other until their `close_timeout`.
    """

    def __init__(self, a_to_b: Faults = NO_FAULTS, b_to_a: Faults = NO_FAULTS) -> None:
        self._opened = ExitStack()
        self._wakeup = Wakeup()
        self._opened.callback(self._wakeup.close)
        try:
            self.a_to_b = Direction(a_to_b, self._opened, self._wakeup)
            """The direction from a to b, and its state."""
            self.b_to_a = Direction(b_to_a, self._opened, self._wakeup)
            """The direction from b to a."""
        except BaseException:
            self._opened.close()
            raise
        self.a = self.b_to_a.receiver_fd, self.a_to_b.sender_fd
        self.b = self.a_to_b.receiver_fd, self.b_to_a.sender_fd
        self._cut = False
        self._stopped = False
        self._thread = threading.Thread(target=self._relay, name="packetwire-faulty-link", daemon=True)

    @property
    def ends(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Both ends, for `connection_pair(over=…)`."""
        return self.a, self.b

    def release(self) -> None:
        """Release bytes that are stalled or delayed, and hold none back from now on. Thread-safe."""
        self.a_to_b.release()
        self.b_to_a.release()

    def cut(self) -> None:
        """End the stream in both directions, now, as when a process or a line dies. Thread-safe."""
        self._cut = True
        self._wakeup.set()

    def __enter__(self) -> Self:
        try:
            self._thread.start()
        except BaseException:  # the system has no more threads
            self._opened.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._stopped = True
        self._wakeup.set()
        self._thread.join()
        self._opened.close()

    def _relay(self) -> None:
        directions = (self.a_to_b, self.b_to_a)
        while not self._stopped:
            if self._cut or any(direction.is_cut for direction in directions):
                for direction in directions:
                    direction.end()
            poller = select.poll()
            poller.register(self._wakeup.fileno(), select.POLLIN)
            for direction in directions:
                for fd, event in direction.wanted():
                    poller.register(fd, event)
            ready = dict(poller.poll())
            self._wakeup.clear()
            for direction in directions:
                direction.work(ready)


class Direction:
    """One direction of a `FaultyLink`."""

    def __init__(self, faults: Faults, opened: ExitStack, wakeup: Wakeup) -> None:
        self.faults = faults
        self.taken = 0
        """Bytes that were taken from the sender."""
        self._passed = 0
        self.reached = threading.Event()
        """Set when the place of a stall, a delay or a cut is reached, or the first byte was damaged."""
        self._wakeup = wakeup
        self._in_fd, self.sender_fd = _pipe(opened, keep="write")
        self.receiver_fd, self._out_fd = _pipe(opened, packets=bool(faults.pieces), keep="read")
        opened.callback(self.end)
        os.set_blocking(self._in_fd, False)
        os.set_blocking(self._out_fd, False)
        self._passing = threading.Lock()
        self._sizes = itertools.cycle(faults.pieces)
        self._size = next(self._sizes, RELAY_SIZE)
        self._held = bytearray()
        self._released = False
        self._sender_ended = False
        self._note()
        forking.register(self)

    def after_fork(self) -> None:
        """In the child of a fork: replace the locks, which another thread may have held."""
        self._passing = threading.Lock()
        reached, self.reached = self.reached, threading.Event()
        if reached.is_set():
            self.reached.set()

    @property
    def passed(self) -> int:
        """Bytes that were passed on: the receiver cannot have seen more."""
        with self._passing:
            return self._passed

    @property
    def is_cut(self) -> bool:
        """True once the place of the cut is reached."""
        return self.passed == self.faults.cut_at

    def release(self) -> None:
        """Release bytes that are stalled or delayed. Thread-safe."""
        self._released = True
        self._wakeup.set()

    # all below runs in the relay's thread

    def wanted(self) -> list[tuple[int, int]]:
        """The descriptors to poll, with their events."""
        wanted = []
        if self._in_fd >= 0 and self._to_take():
            wanted.append((self._in_fd, select.POLLIN))
        if self._out_fd >= 0:
            # even without events a poll says that the receiver is gone
            wanted.append((self._out_fd, select.POLLOUT if self._to_pass() else 0))
        return wanted

    def work(self, ready: Mapping[int, int]) -> None:
        """Take and pass on as much as possible; `ready` has the events of descriptors."""
        try:
            if self._in_fd in ready:
                self._take()
            if ready.get(self._out_fd, 0) & select.POLLERR:
                raise BrokenPipeError
            self._pass_on()
        except BlockingIOError:
            pass  # the pipe is full
        except BrokenPipeError:
            self.end()  # the receiver is gone: let the sender see that
        self._note()

    def end(self) -> None:
        """Nothing more passes. A second call does nothing."""
        for fd in (self._in_fd, self._out_fd):  # in this order: once the receiver sees the end, sending fails
            if fd >= 0:
                os.close(fd)
        self._in_fd = self._out_fd = -1

    def _to_take(self) -> int:
        """Bytes to take from the sender now."""
        delaying = self.faults.delay_at is not None and not self._released
        room = RELAY_SIZE if delaying else max(0, RELAY_SIZE - len(self._held))
        return min(room, self._before(self.faults.stall_at, self.taken), self._before_cut(self.taken))

    def _to_pass(self) -> int:
        """Bytes to pass on with one write."""
        before = self._before(self.faults.delay_at, self.passed)
        return min(len(self._held), self._size, before, self._before_cut(self.passed))

    def _before(self, held_back_at: int | None, number: int) -> int:
        return sys.maxsize if held_back_at is None or self._released else held_back_at - number

    def _before_cut(self, number: int) -> int:
        return sys.maxsize if self.faults.cut_at is None else self.faults.cut_at - number

    def _take(self) -> None:
        size = self._to_take()
        if not size:
            return  # `release` came in between, and bytes that are held have to leave first
        data = bytearray(os.read(self._in_fd, size))
        if not data:
            os.close(self._in_fd)
            self._in_fd = -1
            self._sender_ended = True
        for place, bits in self.faults.flips.items():
            if 0 <= place - self.taken < len(data):
                data[place - self.taken] ^= bits
                self.reached.set()
        self.taken += len(data)
        self._held += data

    def _pass_on(self) -> None:
        while self._out_fd >= 0 and (size := self._to_pass()):
            with self._passing:
                count = os.write(self._out_fd, self._held[:size])
                self._passed += count
            del self._held[:count]
            self._size = next(self._sizes, RELAY_SIZE)
        if self._sender_ended and not self._held:
            self.end()

    def _note(self) -> None:
        stalled = self.taken == self.faults.stall_at
        delayed = self.passed == self.faults.delay_at
        if stalled or delayed or self.is_cut:
            self.reached.set()


def _pipe(opened: ExitStack, *, packets: bool = False, keep: str = "both") -> tuple[int, int]:
    """A pipe, (read, write); the ends that `keep` names are closed with `opened`.

    With `packets` each read returns the bytes of one write, on systems that can do that.
    """
    if packets and hasattr(os, "O_DIRECT") and hasattr(os, "pipe2"):
        read_fd, write_fd = os.pipe2(os.O_CLOEXEC | os.O_DIRECT)
    else:
        read_fd, write_fd = os.pipe()
    if keep in ("read", "both"):
        opened.callback(os.close, read_fd)
    if keep in ("write", "both"):
        opened.callback(os.close, write_fd)
    return read_fd, write_fd

"""Streams in memory: two directions with latency, a bounded capacity, and faults.

A `Socket` is one end. It has the methods of a socket that asyncio's transports call, and is read and written
without waiting; `readable` and `writable` are what a selector asks.
"""

from __future__ import annotations

import socket
from collections import deque
from dataclasses import dataclass

from .worlds import World


@dataclass(frozen=True)
class Weather:
    """How one direction carries bytes. Times are in seconds.

    - `capacity`: bytes that fit in, on their way and received.
    - `latency`: from the least to the most.
    - `chunk`: bytes that one read or write takes at most.
    - `cut_at`: bytes that pass before the link is cut, and `is_reset` how that shows.
    - `flip_at`: the byte of which a bit flips.
    - `stall_at`, `stall_for`: bytes that pass before the others wait for so long; for ever if that is None.
    """

    capacity: int = 1 << 16
    latency: tuple[float, float] = (0.0001, 0.001)
    chunk: int = 1 << 16
    cut_at: int | None = None
    is_reset: bool = False
    flip_at: int | None = None
    stall_at: int | None = None
    stall_for: float | None = None


class Direction:
    """Bytes on their way from one end to the other."""

    def __init__(self, world: World, weather: Weather) -> None:
        self.weather = weather
        self.received = bytearray()
        self.has_ended = False
        """The end has arrived behind what was received."""
        self.is_broken = False
        """Nobody reads it any more."""
        self.is_reset = False
        self.stalled_since: float | None = None
        self._world = world
        self._under_way: deque[bytes] = deque()
        self._bytes_under_way = 0
        self._passed = 0
        self._last_arrival = 0.0
        self._stall_is_over = False
        self.link: Link | None = None

    @property
    def room(self) -> int:
        """Bytes that can be written now."""
        return max(0, self.weather.capacity - self._bytes_under_way - len(self.received))

    def write(self, data: bytes | memoryview) -> int:
        """Take as much as fits, at once."""
        world, weather = self._world, self.weather
        size = min(self.room, len(data), weather.chunk)
        if size > 1 and world.random.random() < 0.1:
            size = world.random.randint(1, size)  # a partial write
        if size:
            chunk = bytes(data[:size])
            world.note(f"write {size}")
            self._bytes_under_way += size
            self._under_way.append(chunk)
            self._send(self._arrive)
        return size

    def end(self) -> None:
        """Nothing more is written."""
        self._send(self._arrive_end)

    def _send(self, arrive: object) -> None:
        low, high = self.weather.latency
        self._last_arrival = max(self._last_arrival, self._world.now + self._world.random.uniform(low, high))
        self._world.at(self._last_arrival, arrive)  # type: ignore[arg-type]

    def _arrive(self) -> None:
        weather = self.weather
        if self.stalled_since is not None or self.is_reset or not self._under_way:
            return
        if weather.stall_at is not None and not self._stall_is_over and self._passed >= weather.stall_at:
            self.stalled_since = self._world.now
            self._world.note("stall")
            if weather.stall_for is not None:
                self._world.after(weather.stall_for, self._resume)
            return
        chunk = self._under_way.popleft()
        self._bytes_under_way -= len(chunk)
        if weather.flip_at is not None and self._passed <= weather.flip_at < self._passed + len(chunk):
            damaged = bytearray(chunk)
            damaged[weather.flip_at - self._passed] ^= 1 << self._world.random.randrange(8)
            chunk = bytes(damaged)
        if weather.cut_at is not None and self._passed + len(chunk) > weather.cut_at:
            self._receive(chunk[: weather.cut_at - self._passed])
            assert self.link is not None
            self.link.cut(reset=weather.is_reset)
            return
        self._receive(chunk)

    def _receive(self, chunk: bytes) -> None:
        self._passed += len(chunk)
        if not self.is_broken:
            self.received += chunk

    def _resume(self) -> None:
        self._world.note("resume")
        self.stalled_since, self._stall_is_over = None, True
        while self._under_way:
            self._arrive()
        if self._end_waits:
            self.has_ended = True

    _end_waits = False

    def _arrive_end(self) -> None:
        if self.stalled_since is not None:
            self._end_waits = True
        else:
            self.has_ended = True

    def cut(self, *, reset: bool) -> None:
        """Nothing more passes."""
        self._under_way.clear()
        self._bytes_under_way = 0
        self.has_ended = self.is_broken = True
        self.stalled_since = None
        if reset:
            self.is_reset = True
            self.received.clear()


class Socket:
    """One end of a link, with what asyncio's transports need of a socket."""

    family = socket.AF_UNIX
    type = socket.SOCK_STREAM
    proto = 0

    def __init__(self, world: World, fd: int, incoming: Direction, outgoing: Direction) -> None:
        self.fd = fd
        self.incoming = incoming
        self.outgoing = outgoing
        self.is_closed = False
        self._world = world
        self._has_shut_down = False

    # what a selector asks

    @property
    def readable(self) -> bool:
        """There are bytes, or an end."""
        incoming = self.incoming
        return bool(incoming.received) or incoming.has_ended or incoming.is_reset

    @property
    def writable(self) -> bool:
        """There is room, or a write fails."""
        outgoing = self.outgoing
        return outgoing.is_broken or outgoing.is_reset or outgoing.room > 0

    @property
    def is_cut_off(self) -> bool:
        """Nobody reads what is written."""
        return self.outgoing.is_broken or self.outgoing.is_reset or self.is_closed

    # what a transport calls

    def recv(self, size: int) -> bytes:
        """As that of a socket which does not block."""
        if self.is_closed:
            raise OSError(9, "Bad file descriptor")
        incoming = self.incoming
        if incoming.is_reset:
            raise ConnectionResetError(104, "Connection reset by peer")
        if not incoming.received:
            if incoming.has_ended:
                return b""
            raise BlockingIOError(11, "Resource temporarily unavailable")
        size = min(size, incoming.weather.chunk)
        if size > 1 and self._world.random.random() < 0.1:
            size = self._world.random.randint(1, min(size, len(incoming.received)))
        data = bytes(incoming.received[:size])
        del incoming.received[:size]
        self._world.note(f"read {len(data)}")
        return data

    def send(self, data: bytes | memoryview) -> int:
        """As that of a socket which does not block."""
        if self.is_closed:
            raise OSError(9, "Bad file descriptor")
        if self.outgoing.is_reset:
            raise ConnectionResetError(104, "Connection reset by peer")
        if self.outgoing.is_broken or self._has_shut_down:
            raise BrokenPipeError(32, "Broken pipe")
        taken = self.outgoing.write(data)
        if not taken and len(data):
            raise BlockingIOError(11, "Resource temporarily unavailable")
        return taken

    def sendmsg(self, buffers: object) -> int:
        """As that of a socket which does not block."""
        return self.send(b"".join(buffers))  # type: ignore[call-overload]

    def shutdown(self, how: int) -> None:
        """End the outgoing direction."""
        if not self._has_shut_down:
            self._has_shut_down = True
            self.outgoing.end()

    def close(self) -> None:
        """End both directions. A second call does nothing."""
        if not self.is_closed:
            self.is_closed = True
            self.incoming.is_broken = True
            self.shutdown(socket.SHUT_WR)

    def fileno(self) -> int:
        """Its descriptor, which is one of /dev/null; -1 when it is closed."""
        return -1 if self.is_closed else self.fd

    def setblocking(self, flag: bool) -> None:
        """It never blocks."""

    def gettimeout(self) -> float:
        """It never blocks."""
        return 0.0

    def getsockname(self) -> str:
        """It has no name."""
        return ""

    def getpeername(self) -> str:
        """Nor has its peer."""
        return ""


class Link:
    """Two ends, joined by two directions."""

    def __init__(self, world: World, fds: tuple[int, int], forth: Weather, back: Weather) -> None:
        self.forth, self.back = Direction(world, forth), Direction(world, back)
        self.forth.link = self.back.link = self
        self.a = Socket(world, fds[0], self.back, self.forth)
        self.b = Socket(world, fds[1], self.forth, self.back)
        self.is_cut = False
        self._world = world

    def cut(self, *, reset: bool) -> None:
        """End it in both directions, as when a process or a line dies."""
        if not self.is_cut:
            self.is_cut = True
            self._world.note(f"cut reset={reset}")
            self.forth.cut(reset=reset)
            self.back.cut(reset=reset)

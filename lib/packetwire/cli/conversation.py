"""The content of a capture or a raw packet stream: its packets, each response with its request.

A raw packet stream, the bytes of one direction without a capture's header, is read as one connection without times,
of which only the first end's bytes are known. Nothing in the file is trusted: everything that is held while it is
read has bounds.
"""

from __future__ import annotations

import os
import stat
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from packetwire.capture import HEADER, CaptureDecoder, CaptureError, Kind, Record
from packetwire.cli.failure import EXIT_FAILED, EXIT_USAGE, CommandFailed
from packetwire.core.packet import EOF_PACKET, ERQ_PACKET, Packet
from packetwire.core.packets import PacketDecoder
from packetwire.core.settings import DEFAULT_MAX_PACKET_SIZE
from packetwire.errors import RemoteProtocolError, StreamTruncated
from packetwire.printable import printable

STDIN = "-"
READ_SIZE = 65536
FIFO_SECONDS = 10.0
"""Seconds to wait until somebody opens a FIFO for writing."""
FOLLOW_INTERVAL = 0.1
"""Seconds between two looks at a file that may grow."""
MAX_CONNECTIONS = 10_000
"""Connections that are open at the same time in a capture, at most."""
MAX_WAITING = 200_000
"""Requests, of all connections, whose response has not come; beyond that the oldest are forgotten."""
MAX_HELD = 256 << 20
"""Bytes of incomplete packets, of all connections together, at most."""
QUOTED_TEXT = 300

RAW = 0
"""The connection number of a raw packet stream; those of captures begin at 1."""
OPPOSITE = {Kind.FORTH: Kind.BACK, Kind.BACK: Kind.FORTH}


class Asked(NamedTuple):
    """A request, as remembered until its response comes."""

    time: int
    wire_rq_type: int


class Seen(NamedTuple):
    """A packet; the `request` of a response, if that was seen."""

    connection: int
    time: int
    direction: Kind
    packet: Packet
    request: Asked | None = None
    pieces: int = 0
    """How many came before it, with the beginning of its payload."""
    is_frame: bool = False
    """It is about a request, and never answered."""

    @property
    def is_special(self) -> bool:
        """True if it is EOF or ERQ."""
        return self.packet.rq_type == 0 and self.packet in (EOF_PACKET, ERQ_PACKET)

    @property
    def rq_type(self) -> int | None:
        """The request type, as in calls: of the request itself, or of the one that is answered."""
        if self.packet.rq_type is not None:
            return self.packet.rq_type - 1
        return None if self.request is None else self.request.wire_rq_type - 1

    @property
    def latency(self) -> int | None:
        """Nanoseconds from the request to this response."""
        return None if self.request is None else self.time - self.request.time


@dataclass(frozen=True, slots=True)
class Note:
    """Another event of a connection; a `fault` is a violation of the protocol."""

    connection: int
    time: int
    sign: str
    text: str
    fault: bool = False


@dataclass(slots=True)
class _Direction:
    serial: int
    """A unique number of the connection; numbers in a damaged file need not be unique."""
    decoder: PacketDecoder
    taken: int = 0
    ended: bool = False
    """True once nothing more can be decoded."""

    @property
    def held(self) -> int:
        return 0 if self.ended else self.taken - self.decoder.octets_decoded


class Conversations:
    """Records in, packets and notes out. `faults` counts violations of the protocol."""

    def __init__(self, max_packet_size: int = DEFAULT_MAX_PACKET_SIZE) -> None:
        self.faults = 0
        self.connections = 0
        self._max_packet_size = max_packet_size
        self._waiting: OrderedDict[tuple[int, Kind, int, int], Asked] = OrderedDict()
        self._under_way: dict[int, dict[Kind, _Direction]] = {}
        self._held = 0
        self._last_time = 0

    def add(self, record: Record) -> Iterable[Seen | Note]:
        """The packets and notes of a record. Raises `CommandFailed` if a bound is passed."""
        self._last_time = record.time
        if record.kind not in OPPOSITE:
            return self._begin_or_leave(record)
        directions = self._under_way.get(record.connection) or self._begin(record.connection)
        direction = directions[record.kind]
        held = direction.held
        found: list[Seen | Note] = []
        if not record.data:
            found += self._end(record, direction, "ends its direction")
        elif not direction.ended:
            self._decode(record, direction, found)
        self._held += direction.held - held
        if self._held > MAX_HELD:
            raise CommandFailed(f"more than {MAX_HELD} bytes of packets that do not end", EXIT_FAILED)
        return found

    def _begin_or_leave(self, record: Record) -> Iterator[Note]:
        yield from self._leave(record.connection, record.time)
        text = shown(record.data.decode("utf-8", "replace"))
        if record.kind is Kind.BEGIN:
            self._begin(record.connection)
            yield Note(record.connection, record.time, "+", text)
        else:
            yield Note(record.connection, record.time, "-", "over" + (f": {text}" if text else ""))

    @property
    def last_time(self) -> int:
        """That of the last record."""
        return self._last_time

    def finish(self) -> Iterator[Note]:
        """The notes at the end of the file."""
        for connection in list(self._under_way):
            yield from self._leave(connection, self._last_time)

    def _begin(self, connection: int) -> dict[Kind, _Direction]:
        if len(self._under_way) >= MAX_CONNECTIONS:
            raise CommandFailed(f"more than {MAX_CONNECTIONS} connections at the same time", EXIT_FAILED)
        self.connections += 1
        directions = {kind: _Direction(self.connections, PacketDecoder(self._max_packet_size)) for kind in OPPOSITE}
        self._under_way[connection] = directions
        return directions

    def _leave(self, connection: int, when: int) -> Iterator[Note]:
        for kind, direction in self._under_way.pop(connection, {}).items():
            self._held -= direction.held
            yield from self._end(Record(kind, connection, when), direction, None)

    def _decode(self, record: Record, direction: _Direction, found: list[Seen | Note]) -> None:
        direction.taken += len(record.data)
        decoder = direction.decoder
        fault: RemoteProtocolError | None = None
        try:
            packets = decoder.feed(record.data)
            fault = decoder.fault
        except RemoteProtocolError as error:
            packets, fault = [], error
        for packet in packets:
            found.append(self._see(record, packet, direction.serial))
        if fault is not None:
            direction.ended = True
            self.faults += 1
            text = shown(f"malformed: {fault}; the rest of this direction is left out")
            found.append(Note(record.connection, record.time, record.sign, text, fault=True))
        elif decoder.ended:
            direction.ended = True
            if decoder.trailing:
                text = f"{len(decoder.trailing)} bytes or more behind EOF, which are left out"
                found.append(Note(record.connection, record.time, record.sign, text))

    def _see(self, record: Record, packet: Packet, serial: int) -> Seen:
        kind, connection, when, _ = record
        _, channel, tag, _, wire_rq_type, _ = packet
        if wire_rq_type is None:
            asked = self._waiting.pop((serial, OPPOSITE[kind], channel, tag), None)
            return Seen(connection, when, kind, packet, asked)
        seen = Seen(connection, when, kind, packet)
        if not seen.is_special:
            self._waiting[serial, kind, channel, tag] = Asked(when, wire_rq_type)
            if len(self._waiting) > MAX_WAITING:
                self._waiting.popitem(last=False)
        return seen

    def _end(self, record: Record, direction: _Direction, text: str | None) -> Iterator[Note]:
        """End a direction: nothing more comes."""
        if not direction.ended:
            direction.ended = True
            try:
                direction.decoder.finish()
            except StreamTruncated as error:
                text = shown(str(error))
            except RemoteProtocolError:
                pass  # noted before
        if text is not None:
            yield Note(record.connection, record.time, record.sign, text)


def shown(text: str) -> str:
    """An untrusted text in one line, with nothing in it that controls a terminal."""
    line = printable(text)
    return line if len(line) <= QUOTED_TEXT else line[:QUOTED_TEXT] + "…"


# the file


class Input:
    """The records of a file; `is_capture` is right once the first of them was returned."""

    def __init__(self, read: Callable[[int], bytes], *, follow: bool = False) -> None:
        self.is_capture = True
        self.partial_size = 0
        """Bytes after the last whole record, at the end."""
        self._read = read
        self._follow = follow

    def __iter__(self) -> Iterator[Record]:
        """The records. Raises `CommandFailed` if it is a damaged capture."""
        data = self._next()
        self.is_capture = data[:1] in (HEADER[:1], b"")
        if not self.is_capture:
            while data:
                yield Record(Kind.FORTH, RAW, 0, data)
                data = self._next()
            return
        decoder = CaptureDecoder()
        try:
            while data:
                yield from decoder.feed(data)
                data = self._next()
        except CaptureError as error:
            raise CommandFailed(shown(str(error)), EXIT_FAILED) from None
        self.partial_size = decoder.partial_size

    def _next(self) -> bytes:
        sys.stdout.flush()  # show the output so far before waiting for more
        while not (data := self._read(READ_SIZE)) and self._follow:
            time.sleep(FOLLOW_INTERVAL)
        return data


@contextmanager
def open_input(path: str, *, follow: bool = False) -> Iterator[Input]:
    """The records of a file, or of standard input. Raises `CommandFailed` if it cannot be read."""
    if path == STDIN:
        if sys.stdin is None:
            raise CommandFailed("standard input is closed", EXIT_USAGE)
        yield Input(partial(os.read, sys.stdin.fileno()))
        return
    try:
        # O_NONBLOCK, as opening a FIFO waits until somebody opens it for writing
        file = open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb", buffering=0)  # noqa: SIM115
    except OSError as error:
        raise CommandFailed(f"argument FILE: cannot read {path!r}: {error.strerror}", EXIT_USAGE) from None
    with file:
        first = b""
        if stat.S_ISFIFO(os.fstat(file.fileno()).st_mode):
            first = _first_of_fifo(file.fileno(), path, None if follow else FIFO_SECONDS)
        os.set_blocking(file.fileno(), True)
        read: Callable[[int], bytes] = file.read
        yield Input(_Behind(first, read) if first else read, follow=follow and os.path.isfile(path))


def _first_of_fifo(fd: int, path: str, seconds: float | None) -> bytes:
    """The first bytes of a FIFO; none if a writer has opened it and not written yet.

    Raises `CommandFailed` if nobody opens it for writing.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    said = False
    while True:
        try:
            if data := os.read(fd, READ_SIZE):
                return data
        except BlockingIOError:
            return b""  # there is a writer: from now on reading may block
        if deadline is not None and time.monotonic() >= deadline:
            raise CommandFailed(
                f"argument FILE: nobody has opened the FIFO {path!r} for writing within {seconds:g} s", EXIT_USAGE
            )
        if not said:
            said = True
            limit = "" if seconds is None else f", for {seconds:g} s at most"
            print(f"waiting for somebody to write into the FIFO {path!r}{limit}", file=sys.stderr, flush=True)
        time.sleep(FOLLOW_INTERVAL)


class _Behind:
    """Reads the bytes that were read before, and then goes on."""

    def __init__(self, first: bytes, read: Callable[[int], bytes]) -> None:
        self._first = first
        self._read = read

    def __call__(self, size: int) -> bytes:
        first, self._first = self._first, b""
        return first or self._read(size)

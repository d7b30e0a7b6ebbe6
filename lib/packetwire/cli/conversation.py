"""What is in a capture or a raw packet stream: its packets, each response with its request.

A raw packet stream, the octets of one direction without a capture's header, reads as one connection without
times, of which only the first end's octets are known. Nothing in the file is trusted: what is held while it is
read has bounds, whatever it says.
"""

from __future__ import annotations

import os
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from packetwire.capture import HEADER, CaptureDecoder, CaptureError, Kind, Record
from packetwire.cli.failure import EXIT_FAILED, EXIT_USAGE, CommandFailed
from packetwire.core.packets import DEFAULT_MAX_PACKET_SIZE, EOF_PACKET, ERQ_PACKET, Packet, PacketDecoder
from packetwire.errors import RemoteProtocolError, StreamTruncated

STDIN = "-"
READ_SIZE = 65536
FOLLOW_INTERVAL = 0.1
"""Seconds between two looks at a file that may grow."""
MAX_CONNECTIONS = 10_000
"""Connections that are under way at the same moment of a capture."""
MAX_WAITING = 200_000
"""Requests, of all connections, whose response has not come; beyond it the oldest are forgotten."""
MAX_HELD = 256 << 20
"""Octets of packets that are not whole, of all connections together."""
QUOTED_TEXT = 300

RAW = 0
"""The number of the connection that a raw packet stream is; those of captures begin at 1."""
OPPOSITE = {Kind.FORTH: Kind.BACK, Kind.BACK: Kind.FORTH}


@dataclass(frozen=True, slots=True)
class Asked:
    """What is remembered of a request until its response comes."""

    time: int
    wire_rq_type: int


@dataclass(frozen=True, slots=True)
class Seen:
    """A packet; `request` is what a response answers, if that was seen."""

    connection: int
    time: int
    direction: Kind
    packet: Packet
    request: Asked | None = None

    @property
    def is_special(self) -> bool:
        """Whether it is EOF or ERQ."""
        return self.packet in (EOF_PACKET, ERQ_PACKET)

    @property
    def rq_type(self) -> int | None:
        """The request type, as calls have it: of the request itself, or of that which is answered."""
        if self.packet.rq_type is not None:
            return self.packet.rq_type - 1
        return None if self.request is None else self.request.wire_rq_type - 1

    @property
    def latency(self) -> int | None:
        """Nanoseconds from the request to this response."""
        return None if self.request is None else self.time - self.request.time


@dataclass(frozen=True, slots=True)
class Note:
    """Something else that happened to a connection; a `fault` is what a peer must not do."""

    connection: int
    time: int
    sign: str
    text: str
    fault: bool = False


@dataclass(slots=True)
class _Direction:
    serial: int
    """Of the connection, of which a number in a damaged file may tell nothing."""
    decoder: PacketDecoder
    taken: int = 0
    ended: bool = False
    """Whether nothing more can be decoded."""

    @property
    def held(self) -> int:
        return 0 if self.ended else self.taken - self.decoder.octets_decoded


class Conversations:
    """Records in, packets and notes out. `faults` counts what peers must not do."""

    def __init__(self, max_packet_size: int = DEFAULT_MAX_PACKET_SIZE) -> None:
        self.faults = 0
        self.connections = 0
        self._max_packet_size = max_packet_size
        self._waiting: OrderedDict[tuple[int, Kind, int, int], Asked] = OrderedDict()
        self._under_way: dict[int, dict[Kind, _Direction]] = {}
        self._held = 0
        self._last_time = 0

    def add(self, record: Record) -> Iterator[Seen | Note]:
        """What this record brings. Raises `CommandFailed` where a bound is passed."""
        self._last_time = record.time
        if record.kind in OPPOSITE:
            directions = self._under_way.get(record.connection) or self._begin(record.connection)
            direction = directions[record.kind]
            self._held -= direction.held
            if record.octets:
                yield from self._decode(record, direction)
            else:
                yield from self._end(record, direction, "ends its direction")
            self._held += direction.held
            if self._held > MAX_HELD:
                raise CommandFailed(f"more than {MAX_HELD} octets of packets that do not end", EXIT_FAILED)
            return
        yield from self._leave(record.connection, record.time)
        text = shown(record.octets.decode("utf-8", "replace"))
        if record.kind is Kind.BEGIN:
            self._begin(record.connection)
            yield Note(record.connection, record.time, "+", text)
        else:
            yield Note(record.connection, record.time, "-", "over" + (f": {text}" if text else ""))

    def finish(self) -> Iterator[Note]:
        """The file ends here."""
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

    def _decode(self, record: Record, direction: _Direction) -> Iterator[Seen | Note]:
        if direction.ended:
            return
        direction.taken += len(record.octets)
        decoder = direction.decoder
        fault: RemoteProtocolError | None = None
        try:
            packets = decoder.feed(record.octets)
            fault = decoder.fault
        except RemoteProtocolError as error:
            packets, fault = [], error
        for packet in packets:
            yield self._see(record, packet, direction.serial)
        if fault is not None:
            direction.ended = True
            self.faults += 1
            text = shown(f"malformed: {fault}; the rest of this direction is left out")
            yield Note(record.connection, record.time, record.sign, text, fault=True)
        elif decoder.ended:
            direction.ended = True
            if decoder.trailing:
                text = f"{len(decoder.trailing)} octets or more behind EOF, which are left out"
                yield Note(record.connection, record.time, record.sign, text)

    def _see(self, record: Record, packet: Packet, serial: int) -> Seen:
        request = None
        if not packet.is_request:
            request = self._waiting.pop((serial, OPPOSITE[record.kind], packet.channel, packet.tag), None)
        seen = Seen(record.connection, record.time, record.kind, packet, request)
        if packet.rq_type is not None and not seen.is_special:
            self._waiting[serial, record.kind, packet.channel, packet.tag] = Asked(record.time, packet.rq_type)
            if len(self._waiting) > MAX_WAITING:
                self._waiting.popitem(last=False)
        return seen

    def _end(self, record: Record, direction: _Direction, text: str | None) -> Iterator[Note]:
        """Nothing more comes in this direction."""
        if not direction.ended:
            direction.ended = True
            try:
                direction.decoder.finish()
            except StreamTruncated as error:
                text = shown(str(error))
            except RemoteProtocolError:
                pass  # it was told of before
        if text is not None:
            yield Note(record.connection, record.time, record.sign, text)


def shown(text: str) -> str:
    """A text from elsewhere in one line: nothing in it moves a cursor."""
    line = "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)
    return line if len(line) <= QUOTED_TEXT else line[:QUOTED_TEXT] + "…"


# the file


class Input:
    """The records of a file; `is_capture` is known when the first of them is there."""

    def __init__(self, read: Callable[[int], bytes], *, follow: bool = False) -> None:
        self.is_capture = True
        self.partial_octets = 0
        """Octets behind the last whole record, at the end."""
        self._read = read
        self._follow = follow

    def __iter__(self) -> Iterator[Record]:
        """Raises `CommandFailed` if it is a damaged capture."""
        octets = self._next()
        self.is_capture = octets[:1] in (HEADER[:1], b"")
        if not self.is_capture:
            while octets:
                yield Record(Kind.FORTH, RAW, 0, octets)
                octets = self._next()
            return
        decoder = CaptureDecoder()
        try:
            while octets:
                yield from decoder.feed(octets)
                octets = self._next()
        except CaptureError as error:
            raise CommandFailed(shown(str(error)), EXIT_FAILED) from None
        self.partial_octets = decoder.partial_octets

    def _next(self) -> bytes:
        sys.stdout.flush()  # what was found is shown before more is waited for
        while not (octets := self._read(READ_SIZE)) and self._follow:
            time.sleep(FOLLOW_INTERVAL)
        return octets


@contextmanager
def open_input(path: str, *, follow: bool = False) -> Iterator[Input]:
    """The records of a file, or of standard input. Raises `CommandFailed` if it cannot be read."""
    if path == STDIN:
        if sys.stdin is None:
            raise CommandFailed("standard input is closed", EXIT_USAGE)
        yield Input(partial(os.read, sys.stdin.fileno()))
        return
    try:
        file = open(path, "rb", buffering=0)  # noqa: SIM115  (only opening it is the argument's fault)
    except OSError as error:
        raise CommandFailed(f"argument FILE: cannot read {path!r}: {error.strerror}", EXIT_USAGE) from None
    with file:
        yield Input(file.read, follow=follow and os.path.isfile(path))

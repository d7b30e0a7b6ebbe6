"""`packetwire dump`: shows the packets of a capture, or of a raw packet stream."""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import BinaryIO

from packetwire.capture import Kind
from packetwire.cli.arguments import Commands, size, whole_number
from packetwire.cli.conversation import OPPOSITE, STDIN, Conversations, Input, Note, Seen, open_input, shown
from packetwire.cli.display import open_display
from packetwire.cli.exchanges import CUT_OFF, STOPPED, WHOLE, Body, BodyBytes, BodyOver, Exchanges, Happening
from packetwire.cli.failure import EXIT_FAILED, EXIT_USAGE, CommandFailed
from packetwire.cli.fbspdump import as_fbsp
from packetwire.cli.helptext import examples
from packetwire.cli.pcap import pcap_of
from packetwire.core.engine import MAX_RQ_TYPE
from packetwire.core.frames import FRAME_CHANNEL, Frame, FrameType, decode_frame, decode_meta, decode_reason
from packetwire.core.hello import CONTROL_CHANNEL, DESCRIBE, DRAIN, HELLO, PING
from packetwire.core.packet import EOF_PACKET, Packet
from packetwire.core.settings import DEFAULT_MAX_PACKET_SIZE
from packetwire.core.varint import MAX_UINT
from packetwire.errors import RemoteProtocolError

PREVIEW = 32
"""Bytes of a payload that are shown in the line of its packet, at most."""
HEX_ROW = 16
MAX_GROUPS = 1000
"""Request types with a line of their own in the summary, at most; all others share one."""
SAMPLES = 4096
"""Latencies of a request type that are kept, as a random sample."""

DESCRIPTION = """
Shows what is in FILE, which "packetwire bridge --tap" or a program with a CaptureWriter has written, or which
holds the bytes of a packet stream as they went over the wire in one direction; - is standard input. Each packet
is a line: seconds since the first one, the connection, > for the first end's packets and < for the second
end's, CHANNEL:TAG, and of a response what it answers and after how long. A payload that came in pieces is shown
with its packet, and a body as one line where it ends: whole, by STOP, or cut off; --body writes it out by its
number. + and - are lines about the connection itself, and ! is what a peer must not do.
Exit status: 0 when the file is shown up to its last whole packet, 1 if packets in it are malformed or it is
damaged, 2 for bad arguments, 130 after Ctrl-C.
"""

DecodePayload = Callable[[Seen], str | None]
"""Describes a payload in words; None if it cannot, and then the bytes are shown."""


def _as_text(seen: Seen) -> str | None:
    try:
        return repr(seen.packet.payload.decode("utf-8"))
    except UnicodeDecodeError:
        return None


DECODERS: dict[str, DecodePayload] = {"text": _as_text, "fbsp": as_fbsp}
"""The choices of `--decode`. A protocol adds its own here."""


EXAMPLES = examples(
    "packetwire dump talk.capture",
    "packetwire dump talk.capture --summary --type 0",
)


def add_parser(commands: Commands) -> None:
    """Add this command and its options to the command line."""
    parser = commands.add_parser(
        "dump", help="show the packets of a capture", description=DESCRIPTION, epilog=EXAMPLES
    )
    parser.set_defaults(run=run)
    parser.add_argument("file", metavar="FILE", help="a capture or a raw packet stream; - for standard input")
    only = parser.add_argument_group("show only")
    only.add_argument("--connection", type=whole_number(0), metavar="N", help="this connection")
    only.add_argument("--channel", type=whole_number(0, MAX_UINT), metavar="N", help="packets on this channel")
    only.add_argument(
        "--tag", type=whole_number(0, MAX_UINT), metavar="N", help="requests and responses with this tag"
    )
    only.add_argument(
        "--type",
        type=whole_number(0, MAX_RQ_TYPE),
        metavar="N",
        help="requests of this type, and the responses to them",
    )
    parser.add_argument("--follow", action="store_true", help="wait for more at the end of FILE, until Ctrl-C")
    parser.add_argument("--summary", action="store_true", help="figures for each request type, in place of packets")
    parser.add_argument(
        "--frames", action="store_true", help="show all frames, in place of bodies and whole payloads"
    )
    parser.add_argument(
        "--body", type=whole_number(1), metavar="N", help="write the bytes of this body, and nothing else"
    )
    parser.add_argument(
        "-o", "--output", metavar="OUT", help="with --body: into this file (default: standard output)"
    )
    parser.add_argument(
        "--pcap", metavar="OUT", help="write a file for Wireshark in place of all this (see packetwire wireshark)"
    )
    parser.add_argument("--hex", action="store_true", help="all of each payload in hexadecimal, below its packet")
    parser.add_argument("--decode", choices=DECODERS, help="show payloads as this says")
    parser.add_argument(
        "--max-packet",
        type=size(1, MAX_UINT, "from 1"),
        default=DEFAULT_MAX_PACKET_SIZE,
        metavar="SIZE",
        help="what is longer is malformed (default: 64MiB)",
    )


def run(args: argparse.Namespace) -> int:
    """Show the file, return the exit status."""
    if args.follow and args.summary:
        raise CommandFailed("--summary is shown at the end of FILE, and --follow has none", EXIT_USAGE)
    if args.follow and args.file == STDIN:
        raise CommandFailed("--follow is for a file: standard input is read to its end anyway", EXIT_USAGE)
    if args.pcap is not None:
        return _write_pcap(args)
    if args.body is not None:
        return _write_body(args)
    if args.output is not None:
        raise CommandFailed("--output is for --body", EXIT_USAGE)
    conversations, exchanges = Conversations(args.max_packet), Exchanges()
    wanted = _Wanted(args.connection, args.channel, args.tag, args.type)
    with open_input(args.file, follow=args.follow) as source:
        happenings = _happenings(source, conversations, exchanges, joined=not args.frames)
        if not wanted.all:
            happenings = filter(wanted, happenings)
        if args.summary:
            summary = Summary()
            for happening in happenings:
                summary.add(happening)
            summary.show(conversations.connections, exchanges.frames)
        else:
            lines = _Lines(source, exchanges, args.hex, DECODERS.get(args.decode))
            for happening in happenings:
                lines.show(happening)
        sys.stdout.flush()
        if source.partial_size:
            print(f"the file ends inside a record, after {source.partial_size} bytes of it", file=sys.stderr)
    return EXIT_FAILED if conversations.faults else 0


def _write_pcap(args: argparse.Namespace) -> int:
    """Write the whole capture, or one connection of it, as a pcap file."""
    if args.follow or args.summary:
        raise CommandFailed("--pcap is written once, and nothing else is shown", EXIT_USAGE)
    try:
        with open_input(args.file) as source, open(args.pcap, "wb") as out:
            chosen = (record for record in source if args.connection in (None, record.connection))
            for piece in pcap_of(chosen):
                out.write(piece)
    except OSError as error:
        raise CommandFailed(f"cannot write {args.pcap!r}: {error.strerror}", EXIT_FAILED) from None
    return 0


def _write_body(args: argparse.Namespace) -> int:
    """Write the bytes of one body."""
    if args.follow or args.summary or args.pcap is not None:
        raise CommandFailed("--body is written, and nothing else is shown", EXIT_USAGE)
    conversations, exchanges = Conversations(args.max_packet), Exchanges()
    with open_input(args.file) as source, _output(args.output) as out:
        for happening in _happenings(source, conversations, exchanges):
            if isinstance(happening, BodyBytes) and happening.body.number == args.body:
                out.write(happening.data)
            elif isinstance(happening, BodyOver) and happening.body.number == args.body:
                out.flush()
                if happening.body.end == WHOLE:
                    return 0
                raise CommandFailed(f"body {args.body} is not whole: {_ended(happening.body)}", EXIT_FAILED)
    raise CommandFailed(f"there is no body {args.body} in FILE, which has {exchanges.bodies}", EXIT_FAILED)


@contextmanager
def _output(path: str | None) -> Iterator[BinaryIO]:
    if path is None:
        yield sys.stdout.buffer
        return
    try:
        file = open(path, "wb")  # noqa: SIM115
    except OSError as error:
        raise CommandFailed(f"cannot write {path!r}: {error.strerror}", EXIT_FAILED) from None
    with file:
        yield file


def _happenings(
    source: Input, conversations: Conversations, exchanges: Exchanges, *, joined: bool = True
) -> Iterator[Happening]:
    """All of a file; `joined` says whether frames become whole payloads and bodies."""
    for record in source:
        for happening in conversations.add(record):
            found = exchanges.add(happening)
            yield from found if joined else (happening,)
    for note in conversations.finish():
        yield from exchanges.add(note)
    if joined:
        yield from exchanges.finish(conversations.last_time)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A filter: returns True for packets and notes to be shown."""

    connection: int | None
    channel: int | None
    tag: int | None
    rq_type: int | None

    @property
    def all(self) -> bool:
        """True if everything is shown."""
        return self.connection is self.channel is self.tag is self.rq_type is None

    def __call__(self, happening: Happening) -> bool:
        if isinstance(happening, BodyBytes | BodyOver):
            return self._is_wanted(happening.body)
        if self.connection is not None and happening.connection != self.connection:
            return False
        if isinstance(happening, Note):
            return happening.fault or self.channel is self.tag is self.rq_type is None
        packet = happening.packet
        return (
            (self.channel is None or packet.channel == self.channel)
            and (self.tag is None or (packet.tag == self.tag and not happening.is_special))
            and (self.rq_type is None or happening.rq_type == self.rq_type)
        )

    def _is_wanted(self, body: Body) -> bool:
        return (
            self.connection in (None, body.connection)
            and self.channel in (None, body.channel)
            and self.tag in (None, body.tag)
            and self.rq_type in (None, body.rq_type)
        )


# line by line


class _Lines:
    """Prints packets and notes."""

    def __init__(self, source: Input, exchanges: Exchanges, in_hex: bool, decode: DecodePayload | None) -> None:
        self._source = source
        self._exchanges = exchanges
        self._in_hex = in_hex
        self._decode = decode
        self._first: int | None = None

    def show(self, happening: Happening) -> None:
        if isinstance(happening, BodyBytes):
            return
        if isinstance(happening, BodyOver):
            body = happening.body
            print(f"{self._start(body.ended, body.connection)} {chr(body.direction)} {self._body(body)}")
            return
        start = self._start(happening.time, happening.connection)
        if isinstance(happening, Note):
            sign = "!" if happening.fault else happening.sign
            where = f"{happening.sign} " if happening.fault else ""
            print(f"{start} {sign} {where}{happening.text}")
            return
        print(f"{start} {chr(happening.direction)} {self._line(happening)}")
        if self._in_hex:
            _print_hex(happening.packet.payload)

    def _start(self, time: int, connection: int) -> str:
        """The time and the connection, as far as they are known."""
        if not self._source.is_capture:
            return " "
        if self._first is None:
            self._first = time
            began = datetime.fromtimestamp(time // 10**9, UTC)
            print(f"times are seconds since {began:%Y-%m-%d %H:%M:%S}.{time % 10**9:09} UTC")
        return f"{(time - self._first) / 1e9:14.6f} {connection:4}"

    def _body(self, body: Body) -> str:
        rq_type = "" if body.rq_type is None else f" type={body.rq_type}"
        what = f"body {body.number} of {'response' if body.of_response else 'request'} {body.channel}:{body.tag}"
        took = f" in {_milliseconds(body.ended - body.began)}" if self._source.is_capture else ""
        return f"{what}{rq_type} {body.size} byte{'s' * (body.size != 1)}{took}, {_ended(body)}"

    def _line(self, seen: Seen) -> str:
        packet = seen.packet
        if seen.is_special:
            return "EOF" if packet == EOF_PACKET else "ERQ"
        of_tag = f"{packet.channel}:{packet.tag}"
        if packet.is_request and self._exchanges.have_agreed(seen.connection) and seen.rq_type is not None:
            if packet.channel == CONTROL_CHANNEL and seen.rq_type in CONTROL_NAMES:
                return f"{CONTROL_NAMES[seen.rq_type]} {of_tag} {self._payload(seen)}"
            if packet.channel == FRAME_CHANNEL:
                return _frame_text(packet, seen.rq_type)
        if packet.is_request:
            what = f"request  {of_tag} type={_type_text(seen)} flags=0x{packet.flags:x}"
            answers = ""
        else:
            ok = "ok" if packet.flags & 1 else "not ok"
            what = f"response {of_tag} {ok} flags=0x{packet.flags >> 1:x}"
            answers = "" if not self._source.is_capture else f"; {_answered(seen)}"
        return f"{what} {self._payload(seen)}{answers}"

    def _payload(self, seen: Seen) -> str:
        payload = seen.packet.payload
        count = f"{len(payload)} byte" + "s" * (len(payload) != 1)
        if seen.pieces:
            count += f" in {seen.pieces + bool(payload)} pieces"
        text = _decoded(seen, self._decode)
        if text is not None:
            return f"{count} {shown(text)}"
        if not payload or self._in_hex:
            return count
        return f"{count} {payload[:PREVIEW]!r}" + "…" * (len(payload) > PREVIEW)


def _decoded(seen: Seen, decode: DecodePayload | None) -> str | None:
    if decode is None:
        return None
    try:
        return decode(seen)
    except ImportError as error:
        raise CommandFailed(f"--decode needs more: {error}", EXIT_FAILED) from error
    except Exception as error:  # an unexpected payload must not end the dump
        return f"not decoded: {type(error).__name__}: {error}"


def _frame_text(packet: Packet, kind: int) -> str:
    """A frame: what it says about which request, and of whom that is."""
    try:
        frame = decode_frame(packet.tag, packet.flags, kind, packet.payload)
        said = _said(frame)
    except RemoteProtocolError as error:
        return f"frame that nobody understands: {error}"
    whose = "the other end's" if frame.of_receiver else "its"
    return f"{frame.kind.name} of {whose} request {frame.channel}:{frame.tag}{said}"


def _said(frame: Frame) -> str:
    if frame.kind is FrameType.META:
        meta = decode_meta(frame)
        left = "" if meta.milliseconds_left is None else f", {meta.milliseconds_left} ms left"
        wants = "" if meta.progress_interval is None else ", wants progress"
        if meta.has_body:
            wants += ", has a body"
        if meta.response_credit is not None:
            wants += ", takes a body"
        return f"{left}{wants}" + (f", {dict(meta.metadata)!r:.100}" if meta.metadata else "")
    if frame.kind in (FrameType.CANCEL, FrameType.STOP):
        code, text = decode_reason(frame)
        return f", code {code}" + (f" {text!r:.100}" if text else "")
    return f", {len(frame.payload)} bytes" if frame.payload else ""


def _ended(body: Body) -> str:
    """How a body has ended."""
    if body.end == CUT_OFF:
        return f"cut off: {body.reason}"
    return f"STOP, {body.reason}" if body.end == STOPPED else body.end


CONTROL_NAMES = {HELLO: "HELLO", PING: "PING", DRAIN: "DRAIN", DESCRIBE: "DESCRIBE"}


def _type_text(seen: Seen) -> str:
    return "reserved" if seen.rq_type == -1 else str(seen.rq_type)


def _answered(seen: Seen) -> str:
    if seen.latency is None:
        return "to no request that was seen"
    return f"to type {_type_text(seen)}, after {_milliseconds(seen.latency)}"


def _milliseconds(nanoseconds: float) -> str:
    return f"{nanoseconds / 1e6:.3f} ms"


def _print_hex(data: bytes) -> None:
    for offset in range(0, len(data), HEX_ROW):
        row = data[offset : offset + HEX_ROW]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        print(f"  {offset:08x}  {row.hex(' '):{HEX_ROW * 3 - 1}}  {text}")


# in figures


@dataclass(slots=True)
class _Group:
    """The requests of one type on one channel, in one direction."""

    requests: int = 0
    answered: int = 0
    refused: int = 0
    size: int = 0
    """Bytes of all payloads and bodies, in both directions."""
    samples: list[int] = field(default_factory=list)
    """A sample of the latencies."""

    def add_latency(self, latency: int, choose: random.Random) -> None:
        if len(self.samples) < SAMPLES:
            self.samples.append(latency)
        elif (place := choose.randrange(self.answered)) < SAMPLES:
            self.samples[place] = latency


class Summary:
    """Counts packets, and the latencies of responses, for each channel and request type."""

    def __init__(self) -> None:
        self._groups: dict[tuple[Kind, int, int] | None, _Group] = {}
        self._packets = {Kind.FORTH: 0, Kind.BACK: 0}
        self._sizes = {Kind.FORTH: 0, Kind.BACK: 0}
        self._bodies = {WHOLE: 0, STOPPED: 0, CUT_OFF: 0}
        self._size_of_bodies = 0
        self._choose = random.Random(0)

    def add(self, happening: Happening) -> None:
        """Count a packet or a body; print a fault."""
        if isinstance(happening, BodyBytes):
            return
        if isinstance(happening, BodyOver):
            self._add_body(happening.body)
            return
        if isinstance(happening, Note):
            if happening.fault:
                print(f"  connection {happening.connection} ! {happening.sign} {happening.text}")
            return
        _, when, direction, packet, asked, _, is_frame = happening
        _, channel, _, flags, wire_rq_type, payload = packet
        size = len(payload)
        self._packets[direction] += 1
        self._sizes[direction] += size
        if asked is not None:
            group = self._group(OPPOSITE[direction], channel, asked.wire_rq_type - 1)
            group.answered += 1
            group.refused += not flags & 1
            group.add_latency(when - asked.time, self._choose)
        elif wire_rq_type is not None and not (is_frame or happening.is_special):
            group = self._group(direction, channel, wire_rq_type - 1)
            group.requests += 1
        else:
            return
        group.size += size

    def _add_body(self, body: Body) -> None:
        self._bodies[body.end] += 1
        self._size_of_bodies += body.size
        self._sizes[body.direction] += body.size
        if body.rq_type is not None:
            asker = OPPOSITE[body.direction] if body.of_response else body.direction
            self._group(asker, body.channel, body.rq_type).size += body.size

    def _group(self, asker: Kind, channel: int, rq_type: int) -> _Group:
        key = (asker, channel, rq_type)
        group = self._groups.get(key)
        if group is not None:
            return group
        return self._groups.setdefault(key if len(self._groups) < MAX_GROUPS else None, _Group())

    def show(self, connections: int, frames: Mapping[Kind, int]) -> None:
        """Print all figures; `frames` are those that bodies and payloads were made of."""
        display = open_display()
        display.fact("connections", str(connections))
        for kind in Kind.FORTH, Kind.BACK:
            display.fact(
                chr(kind),
                f"{self._packets[kind]} packets, {self._sizes[kind]} bytes of payload{_in_frames(frames[kind])}",
            )
        if count := sum(self._bodies.values()):
            ends = ", ".join(f"{number} {end}" for end, number in self._bodies.items() if number)
            display.fact("bodies", f"{count}, {self._size_of_bodies} bytes: {ends}")
        if self._groups:
            first_end_first = sorted(self._groups, key=lambda key: (key is None, key and (-key[0], *key[1:])))
            display.table(
                ("requests", "number", "not ok", "no answer", "bytes", "median", "p99", "slowest"),
                [_figures(key, self._groups[key]) for key in first_end_first],
            )


def _in_frames(count: int) -> str:
    return f" and bodies, {count} frames" if count else ""


def _figures(key: tuple[Kind, int, int] | None, group: _Group) -> list[str]:
    name = "others"
    if key is not None:
        asker, channel, rq_type = key
        name = f"{chr(asker)} type {'reserved' if rq_type == -1 else rq_type}" + (
            f", channel {channel}" if channel else ""
        )
    latencies = sorted(group.samples)
    times = [
        _milliseconds(latencies[min(len(latencies) - 1, int(len(latencies) * part))]) if latencies else "-"
        for part in (0.5, 0.99, 1)
    ]
    no_answer = max(0, group.requests - group.answered)
    return [name, str(group.requests), str(group.refused), str(no_answer), str(group.size), *times]

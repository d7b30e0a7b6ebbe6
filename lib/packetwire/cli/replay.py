"""`packetwire replay`: repeats the requests of a capture, and compares the responses."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from packetwire.addresses import connect_to
from packetwire.capture import Kind, Record
from packetwire.cli import curve
from packetwire.cli.addressing import add_sync_option, address, check_connectable, seconds
from packetwire.cli.arguments import Commands, whole_number
from packetwire.cli.conversation import OPPOSITE, RAW, Conversations, Note, Seen, open_input
from packetwire.cli.exchanges import WHOLE, BodyBytes, BodyOver, Exchanges
from packetwire.cli.failure import EXIT_FAILED, EXIT_TIMEOUT, CommandFailed
from packetwire.cli.helptext import examples
from packetwire.cli.replayedbodies import Content, Replayed
from packetwire.cli.tls import add_client_options, client_ssl_context
from packetwire.connection import PacketConnection
from packetwire.core.engine import FIRST_CHANNEL, MAX_REQUEST_FLAGS
from packetwire.core.frames import FRAME_CHANNEL, FrameType
from packetwire.core.hello import CONTROL_CHANNEL, HELLO
from packetwire.errors import CapabilityMissing, RequestTimeout

if TYPE_CHECKING:
    from packetwire.core.responses import Response

PREVIEW = 32
"""Bytes that are shown of each of two payloads that differ, at most."""
MAX_CONNECTIONS = 100
"""Connections of the file that are open at the same time, at most."""
MAX_UNDER_WAY = 10_000
"""Requests of one connection that wait for their response, at most."""
PATIENCE = 3.0
"""Seconds without a response after which a message says so."""
CLOSE_TIMEOUT = 1.0
"""Seconds for the peer to end a connection, too."""

DESCRIPTION = """
Sends the requests of FILE, a capture as "packetwire dump" shows it, to ADDRESS, on a connection for each one of
the file. Their order is kept: a request is sent when the responses that came before it in FILE have come again;
the pauses between them are left out. A response is the same if ok, flags and payload are. Requests that the
other end made, such as call-backs, are not made again, and the server's are refused. Bodies are sent again, as fast
as the present other end takes them; those of responses are compared by their digests. A request whose response
is not in FILE, as in a raw packet stream, is sent, and its response waited for but compared with nothing.
Exit status: 0 if all responses are the same, 1 if some differ, the connection fails or FILE is damaged, 2 for
bad arguments, 124 if the time is over, 130 after Ctrl-C.
"""


EXAMPLES = examples(
    "packetwire replay talk.capture unix:chunks",
    "packetwire replay talk.capture unix:chunks --connection 1 --quiet",
)


def add_parser(commands: Commands) -> None:
    """Add this command and its options to the command line."""
    parser = commands.add_parser(
        "replay",
        help="send the requests of a capture again, compare the responses",
        description=DESCRIPTION,
        epilog=EXAMPLES,
    )
    parser.set_defaults(run=run)
    parser.add_argument("file", metavar="FILE", help="a capture or a raw packet stream; - for standard input")
    parser.add_argument("address", metavar="ADDRESS", type=address(check_connectable), help="where to")
    parser.add_argument(
        "--end",
        choices=("first", "second"),
        default="first",
        help="whose requests to send: those marked > (first, the default) or < in the dump",
    )
    parser.add_argument("--connection", type=whole_number(0), metavar="N", help="only this one (default: all)")
    parser.add_argument(
        "--timeout",
        type=seconds,
        default=30.0,
        metavar="SECONDS",
        help="for connecting, and for each response (default: 30)",
    )
    parser.add_argument("--quiet", action="store_true", help="no line for each response that differs")
    add_sync_option(parser)
    add_client_options(parser)
    curve.add_client_options(parser)


def run(args: argparse.Namespace) -> int:
    """Send and compare, return the exit status."""
    connect = connect_to(
        curve.to_connect(args.address, args.curve_server, args.curve_key),
        timeout=max(args.timeout, 0.001),
        ssl_context=client_ssl_context(args),
        server_name=args.server_name,
        sync=args.sync,
    )
    conversations = Conversations()
    asker = Kind.FORTH if args.end == "first" else Kind.BACK
    try:
        with open_input(args.file) as source, ExitStack() as opened:
            replay = Replay(partial(_open, opened, connect, str(args.address)), asker, args.timeout, args.quiet)
            for record in source:
                if args.connection in (None, record.connection):
                    replay.take(record, conversations)
            replay.finish()
    except RequestTimeout as error:
        raise CommandFailed(f"{args.address}: no response within {args.timeout:g} s", EXIT_TIMEOUT) from error
    except TimeoutError as error:
        raise CommandFailed(str(error), EXIT_TIMEOUT) from error
    _print_outcome(replay)
    if conversations.faults:
        raise CommandFailed("packets in FILE are malformed; those before were replayed", EXIT_FAILED)
    return EXIT_FAILED if replay.different else 0


def _open(opened: ExitStack, connect: Callable[[], object], name: str) -> PacketConnection:
    conn = PacketConnection(connect, name, max_outstanding=MAX_UNDER_WAY, close_timeout=CLOSE_TIMEOUT)
    return opened.enter_context(conn)


def _print_outcome(replay: Replay) -> None:
    requests = f"{replay.requests} request" + "s" * (replay.requests != 1)
    connections = f"{replay.connections} connection" + "s" * (replay.connections != 1)
    print(f"{requests} on {connections}; responses: {replay.same} the same, {replay.different} different", end="")
    print(f", {replay.uncompared} not in FILE" if replay.uncompared else "")
    sys.stdout.flush()


@dataclass(slots=True)
class _Under:
    """Our connection that repeats one of the file; results are by channel and tag in the file."""

    conn: PacketConnection
    results: dict[tuple[int, int], _Asked]


@dataclass(slots=True)
class _Asked:
    """A request that we have repeated."""

    rq_type: int
    collect: Callable[..., Response]
    """Returns its response, within `timeout`."""
    streamed: Replayed | None = None
    """Its bodies, if it has any."""


class Replay:
    """Repeats the requests of a file's records, and counts the outcomes."""

    def __init__(self, open_conn: Callable[[], PacketConnection], asker: Kind, timeout: float, quiet: bool) -> None:
        self.requests = self.connections = 0
        self.same = self.different = self.uncompared = 0
        self._open_conn = open_conn
        self._asker = asker
        self._timeout = timeout
        self._quiet = quiet
        self._under_way: dict[int, _Under] = {}
        self._exchanges = Exchanges()

    def take(self, record: Record, conversations: Conversations) -> None:
        """Process the packets that a record completes."""
        for happening in conversations.add(record):
            is_for_the_engine = isinstance(happening, Seen) and self._is_for_the_engine(happening)
            for found in self._exchanges.add(happening):
                if isinstance(found, Note):
                    if found.sign == "-":
                        self._close(found.connection)
                elif isinstance(found, BodyBytes | BodyOver):
                    self._stream(found)
                elif not is_for_the_engine:
                    self._take(found)
                elif found.packet.channel == FRAME_CHANNEL and found.rq_type == FrameType.CANCEL:
                    self._give_up(found)

    def _take(self, seen: Seen) -> None:
        packet = seen.packet
        if seen.is_special:
            return
        if packet.is_request and seen.direction is self._asker:
            self._ask(seen)
        elif not packet.is_request and seen.direction is not self._asker:
            self._compare(seen)

    def _is_for_the_engine(self, seen: Seen) -> bool:
        """A control request or a frame: what the recorded ends have agreed on is nothing to the present ones."""
        return seen.packet.channel in (CONTROL_CHANNEL, FRAME_CHANNEL) and (
            self._exchanges.have_agreed(seen.connection) or is_hello(seen)
        )

    def finish(self) -> None:
        """Close all connections, at the end of the file."""
        for connection in list(self._under_way):
            self._close(connection)

    def _ask(self, seen: Seen) -> None:
        packet = seen.packet
        is_reserved = 0 < packet.channel < FIRST_CHANNEL
        if seen.rq_type is None or seen.rq_type < 0 or packet.flags > MAX_REQUEST_FLAGS or is_reserved:
            raise CommandFailed(f"a request in FILE cannot be sent again: {packet}", EXIT_FAILED)
        under = self._under_way.get(seen.connection) or self._begin(seen.connection)
        key = (packet.channel, packet.tag)
        if key in under.results:
            self._wait_uncompared(under, key)
        if len(under.results) >= MAX_UNDER_WAY:
            self._wait_uncompared(under, next(iter(under.results)))
        limit, streamed = self._timeout, None
        if self._exchanges.has_body(seen):
            streamed = self._begin_stream(under.conn, seen, seen.rq_type)
            collect: Any = streamed.response
        else:
            collect = under.conn.submit(
                seen.rq_type, packet.flags, packet.payload, channel=packet.channel, timeout=limit
            )
        self.requests += 1
        under.results[key] = _Asked(seen.rq_type, collect, streamed)
        if seen.connection == RAW and streamed is None:
            self._wait_uncompared(under, key)

    def _begin_stream(self, conn: PacketConnection, seen: Seen, rq_type: int) -> Replayed:
        packet = seen.packet
        call = conn.stream(
            rq_type, packet.payload, packet.flags, channel=packet.channel, timeout=self._timeout,
            body_timeout=None,
        )  # fmt: skip
        try:
            return Replayed(call, self._timeout)
        except CapabilityMissing as error:
            where = f"{packet.channel}:{packet.tag}"
            raise CommandFailed(f"request {where} in FILE is one with bodies: {error}", EXIT_FAILED) from error

    def _stream(self, found: BodyBytes | BodyOver) -> None:
        """Send some of a body again, or end it as it was; note those of the other end, for comparing."""
        body = found.body
        asker = body.direction if not body.of_response else OPPOSITE[body.direction]
        under = self._under_way.get(body.connection)
        key = (body.channel, body.tag)
        asked = under.results.get(key) if under is not None and asker is self._asker else None
        if under is None or asked is None or asked.streamed is None:
            return
        if isinstance(found, BodyOver):
            asked.streamed.end(body)
            if body.connection == RAW and body.end == WHOLE:
                self._wait_uncompared(under, key)
        elif body.of_response:
            asked.streamed.note(found.data)
        else:
            asked.streamed.repeat(found.data)

    def _give_up(self, seen: Seen) -> None:
        """A request with bodies was given up."""
        under = self._under_way.get(seen.connection)
        key = (seen.packet.flags >> 1, seen.packet.tag)
        asked = under.results.get(key) if under is not None and seen.direction is self._asker else None
        if under is not None and asked is not None and asked.streamed is not None:
            asked.streamed.give_up()
            del under.results[key]
            self.uncompared += 1

    def _begin(self, connection: int) -> _Under:
        if len(self._under_way) >= MAX_CONNECTIONS:
            raise CommandFailed(f"more than {MAX_CONNECTIONS} connections at the same time in FILE", EXIT_FAILED)
        under = self._under_way[connection] = _Under(self._open_conn(), {})
        self.connections += 1
        return under

    def _compare(self, seen: Seen) -> None:
        packet = seen.packet
        under = self._under_way.get(seen.connection)
        asked = under.results.pop((packet.channel, packet.tag), None) if under else None
        if asked is None:
            return  # a response without its request
        response = self._response((packet.channel, packet.tag), asked)
        recorded = bool(packet.flags & 1), packet.flags >> 1, packet.payload
        before, now = Content(*recorded), Content(*response)
        if asked.streamed is not None:
            before, now = asked.streamed.compared(recorded, response)
        if now == before:
            self.same += 1
            return
        self.different += 1
        if not self._quiet:
            where = f"connection {seen.connection}, " * (seen.connection != RAW)
            print(f"{where}request {packet.channel}:{packet.tag} type={asked.rq_type}: {_differences(before, now)}")

    def _response(self, key: tuple[int, int], asked: _Asked) -> Response:
        """Wait for a response. Raises `RequestTimeout`."""
        collect = asked.collect
        if self._timeout <= PATIENCE:
            return collect(timeout=self._timeout)
        try:
            return collect(timeout=PATIENCE)
        except RequestTimeout:
            channel, tag = key
            print(
                f"no response to request {channel}:{tag} for {PATIENCE:g} s; waiting for another "
                f"{self._timeout - PATIENCE:g} s, unless Ctrl-C comes",
                file=sys.stderr,
                flush=True,
            )
            return collect(timeout=self._timeout - PATIENCE)

    def _wait_uncompared(self, under: _Under, key: tuple[int, int]) -> None:
        asked = under.results.pop(key)
        if asked.streamed is not None and not asked.streamed.is_whole:
            asked.streamed.give_up()  # the rest of its body is not in FILE
        else:
            self._response(key, asked)
        self.uncompared += 1

    def _close(self, connection: int) -> None:
        under = self._under_way.pop(connection, None)
        if under is not None:
            for key in list(under.results):
                self._wait_uncompared(under, key)
            under.conn.close()


def is_hello(seen: Seen) -> bool:
    """The request after which all is agreed."""
    return seen.packet.is_request and seen.packet.channel == CONTROL_CHANNEL and seen.rq_type == HELLO


def _differences(before: Content, now: Content) -> str:
    """The differences between two responses, as a text."""
    found = []
    if now.ok != before.ok:
        found.append("now ok" if now.ok else "now not ok")
    if now.flags != before.flags:
        found.append(f"flags 0x{before.flags:x}, now 0x{now.flags:x}")
    if now.payload != before.payload:
        found.append(f"payload {_quoted(before.payload)}, now {_quoted(bytes(now.payload))}")
    if (now.size, now.digest) != (before.size, before.digest):
        found.append(f"body of {before.size} bytes, now {now.size} bytes")
    return "; ".join(found)


def _quoted(data: bytes) -> str:
    return f"{data[:PREVIEW]!r}" + (f"… ({len(data)} bytes)" if len(data) > PREVIEW else "")

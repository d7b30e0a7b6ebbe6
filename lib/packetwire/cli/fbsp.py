"""`packetwire fbsp`: asks a Firebird Butler service for its identity, round trips, or a call; gateways."""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import packetwire
from packetwire.addresses import connect_to
from packetwire.cli import fbspgateway
from packetwire.cli.addressing import check_connectable, seconds
from packetwire.cli.arguments import Commands, whole_number
from packetwire.cli.call import file_bytes, hex_bytes
from packetwire.cli.display import open_display
from packetwire.cli.endpoints import Endpoint, end_at
from packetwire.cli.failure import EXIT_FAILED, EXIT_TIMEOUT, EXIT_USAGE, CommandFailed
from packetwire.cli.helptext import examples
from packetwire.cli.tls import add_client_options, client_ssl_context
from packetwire.connection import PacketConnection
from packetwire.errors import RequestTimeout

if TYPE_CHECKING:
    from packetwire.fbsp import ButlerInterface, ServiceClient, ServiceError, State

STDIN = "-"
CONNECT_TIMEOUT = 10.0
PINGS = 10
CLOSE_TIMEOUT = 1.0
"""Seconds for the peer to end a packet connection, too."""
HIGHEST = 255
"""The highest number of an interface, or of an operation."""
AGENT_UID = uuid.UUID("7d3f2c1e-6a0f-4b58-9d3f-0c5f7f3c2a11")
"""The identity of this program, for services."""

ADDRESS = """
ADDRESS is a ZMQ endpoint, tcp://HOST:PORT or ipc://PATH, as Saturnin's services have one, or a packet stream:
exec:CMD (a child process), ssh:[OPTIONS] HOST CMD, unix:PATH, tcp:HOST:PORT, tls:HOST:PORT, or zmq+pair: or
zmq+dealer: with an endpoint.
"""
STATUS = """
Exit status: 0 if the service answers, 1 if it answers with an error or the connection fails, 2 for bad
arguments, 124 if the time is over, 130 after Ctrl-C.
"""
HELLO = f"Shows which program the service is, where it runs, and which interfaces it has.\n{ADDRESS}{STATUS}"
PING = f"Sends NOOPs that the service has to acknowledge, one after the other.\n{ADDRESS}{STATUS}"
CALL = f"""
Asks for one operation and writes the frames of the reply to standard output, as they are and one behind the
other, then those of the data that follow. INTERFACE is the number that "packetwire fbsp hello" shows, or a
UUID; OPERATION is a number. Each FRAME is taken as text; - is standard input. What the service says of the
state of its work is shown on standard error.
{ADDRESS}{STATUS}
"""


EXAMPLES = {
    "hello": examples("packetwire fbsp hello tcp://127.0.0.1:5555", "packetwire fbsp hello unix:service"),
    "ping": examples("packetwire fbsp ping tcp://127.0.0.1:5555 --count 100"),
    "call": examples(
        "packetwire fbsp call tcp://127.0.0.1:5555 1 1 'a frame'",
        "packetwire fbsp call unix:service 1 2 --hex 00ff --hex-out",
    ),
}


def add_parser(commands: Commands) -> None:
    """Add this command and its options to the command line."""
    fbsp = commands.add_parser(
        "fbsp", help="ask a Firebird Butler service", description="Commands for FBSP.", epilog=EXAMPLES["hello"]
    )
    subcommands = fbsp.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add(subcommands, "hello", hello, "who a service is", HELLO)
    parser = _add(subcommands, "ping", ping, "how long a round trip takes", PING)
    parser.add_argument(
        "--count", type=whole_number(1), default=PINGS, metavar="N", help=f"round trips (default: {PINGS})"
    )
    parser = _add(subcommands, "call", call, "one call of a service", CALL)
    parser.set_defaults(late_words="frames")
    parser.add_argument("interface", metavar="INTERFACE", type=_interface, help="its number, or its UUID")
    parser.add_argument("operation", metavar="OPERATION", type=whole_number(1, HIGHEST), help="its number")
    parser.add_argument("frames", metavar="FRAME", nargs="*", default=(), help="texts, or - for standard input")
    frames = parser.add_mutually_exclusive_group()
    frames.add_argument(
        "--hex",
        type=hex_bytes,
        action="append",
        metavar="HEX",
        dest="frames_as_bytes",
        help="a frame, in hexadecimal; several times",
    )
    frames.add_argument(
        "--file",
        type=file_bytes,
        action="append",
        metavar="FILE",
        dest="frames_as_bytes",
        help="a frame is this file; several times",
    )
    parser.add_argument(
        "--stream", action="store_true", help="data follows the reply, even if that does not announce it"
    )
    parser.add_argument("--hex-out", action="store_true", help="print each frame in hexadecimal, in its own line")
    fbspgateway.add_parser(subcommands)


def _add(
    commands: Commands, name: str, run: Callable[[argparse.Namespace], int], text: str, description: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=description, epilog=EXAMPLES[name])
    parser.set_defaults(run=run)
    parser.add_argument("address", metavar="ADDRESS", type=end_at(check_connectable), help="where the service is")
    parser.add_argument(
        "--timeout",
        type=seconds,
        metavar="SECONDS",
        help="for connecting and each answer (default: 10, no limit)",
    )
    add_client_options(parser)
    return parser


def hello(args: argparse.Namespace) -> int:
    """Show the identity of the service."""
    with _client(args) as client:
        service, peer = client.service, client.service_peer
        display = open_display()
        display.fact("service", f"{service.name} {service.version}")
        display.fact("uid", str(service.uid))
        display.fact("vendor", str(service.vendor_uid))
        if service.classification:
            display.fact("is", service.classification)
        display.fact("platform", f"{service.platform_uid} {service.platform_version}")
        display.fact("runs as", f"process {peer.pid} on {peer.host}, {peer.uid}")
        for uid, number in client.interfaces.items():
            display.fact(f"interface {number}", str(uid))
    return 0


def ping(args: argparse.Namespace) -> int:
    """Show the times of round trips."""
    with _client(args) as client:
        times = [client.ping(args.timeout) * 1e3 for _ in range(args.count)]
    display = open_display()
    display.fact("round trips", str(len(times)))
    figures = ("shortest", min(times)), ("median", statistics.median(times)), ("longest", max(times))
    for label, milliseconds in figures:
        display.fact(label, f"{milliseconds:.3f} ms")
    return 0


def call(args: argparse.Namespace) -> int:
    """Make one call, and write the answer."""
    frames = _frames(args)
    with _client(args) as client:
        code = _api_code(client, args.interface, args.operation)
        asked = client.start(code, *frames, on_state=_show_state, stream=args.stream)
        try:
            for frame in asked.result(args.timeout):
                _write(frame, args.hex_out)
            for data in asked.stream(args.timeout):
                for frame in data:
                    _write(frame, args.hex_out)
        except BaseException:
            client.abandon(asked)
            raise
    return 0


@contextmanager
def _client(args: argparse.Namespace) -> Iterator[ServiceClient]:
    """A client of the service at the address, whose failures become one line."""
    try:
        from packetwire.fbsp import VENDOR_UID, AgentDescriptor, ServiceClient, ServiceError
    except ImportError as error:
        raise CommandFailed(f"FBSP needs more: {error}", EXIT_FAILED) from error
    agent = AgentDescriptor(AGENT_UID, "packetwire", packetwire.__version__, VENDOR_UID, "tool")
    timeout = CONNECT_TIMEOUT if args.timeout is None else max(args.timeout, 0.001)
    try:
        if isinstance(args.address, Endpoint):
            client_ssl_context(args)
            client = args.address.client(agent=agent, timeout=timeout)
        else:
            connect = connect_to(
                args.address,
                timeout=timeout,
                ssl_context=client_ssl_context(args),
                server_name=args.server_name,
            )
            conn = PacketConnection(connect, str(args.address), close_timeout=CLOSE_TIMEOUT)
            # pyright does not see that its settings, which are descriptors, are integers
            client = ServiceClient.on(conn, agent=agent, timeout=timeout)  # pyright: ignore[reportArgumentType]
        with client:
            yield client
    except ServiceError as error:
        raise CommandFailed(f"{args.address}: {_in_one_line(error)}", EXIT_FAILED) from error
    except (RequestTimeout, TimeoutError) as error:
        raise CommandFailed(f"{args.address}: {error}", EXIT_TIMEOUT) from error


def _in_one_line(error: ServiceError) -> str:
    """The answer of a service: the code, and each description."""
    name, *descriptions = str(error).splitlines()
    return ": ".join([name, "; caused by ".join(line.partition(" : ")[2] or line for line in descriptions)])


def _api_code(client: ServiceClient, interface: int | uuid.UUID, operation: int) -> ButlerInterface:
    """The operation, as a member of an interface of which only the identity is known."""
    from packetwire.fbsp import ButlerInterface

    for uid, number in client.interfaces.items():
        if interface in (uid, number):
            break
    else:
        known = ", ".join(f"{number} ({uid})" for uid, number in client.interfaces.items())
        raise CommandFailed(f"the service has no interface {interface}; it has {known}", EXIT_FAILED)

    class Interface(ButlerInterface):
        @classmethod
        def get_uid(cls) -> uuid.UUID:
            return uid

    # an enumeration without members: to call it makes one that has them
    define = cast("Callable[[str, dict[str, int]], type[ButlerInterface]]", Interface)
    return define(f"interface {number}", {f"operation_{operation}": operation})(operation)


def _show_state(state: State) -> None:
    print(f"state: {state.name}", file=sys.stderr, flush=True)


def _write(frame: bytes, in_hex: bool) -> None:
    if in_hex:
        print(frame.hex())
    else:
        sys.stdout.buffer.write(frame)
    sys.stdout.flush()


def _frames(args: argparse.Namespace) -> list[bytes]:
    if args.frames_as_bytes and args.frames:
        raise CommandFailed(f"the frames are given twice: by an option, and as {args.frames[0]!r}", EXIT_USAGE)
    if list(args.frames).count(STDIN) > 1:
        raise CommandFailed("standard input can be one frame only", EXIT_USAGE)
    return args.frames_as_bytes or [_frame(word) for word in args.frames]


def _frame(word: str) -> bytes:
    if word != STDIN:
        return os.fsencode(word)
    if sys.stdin is None:
        raise CommandFailed("standard input is closed", EXIT_USAGE)
    return sys.stdin.buffer.read()


def _interface(text: str) -> int | uuid.UUID:
    try:
        number = int(text) if text.isdecimal() else None
        found = uuid.UUID(text) if number is None else number
    except ValueError:
        found = -1
    if isinstance(found, int) and not 0 <= found <= HIGHEST:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to {HIGHEST} or a UUID, got {text!r}")
    return found

"""`packetwire serve`: serves a service from a module of the user's at an address."""

from __future__ import annotations

import argparse
import signal
import sys
from typing import Any

from packetwire.addresses import StdioAddress, TcpAddress, UnixAddress
from packetwire.cli import curve
from packetwire.cli.addressing import address, seconds
from packetwire.cli.arguments import Commands, add_admission_options, check_admission_options, size, whole_number
from packetwire.cli.failure import EXIT_FAILED, EXIT_USAGE, CommandFailed
from packetwire.cli.helptext import examples
from packetwire.cli.named import MakeService, described, find_service, is_typed_service
from packetwire.cli.running import log_shown, run_until_signal, stop_signals
from packetwire.cli.tls import add_server_options, server_ssl_context
from packetwire.core.descriptions import description_of
from packetwire.core.settings import DEFAULT_DRAIN, DEFAULT_HANDLERS, DEFAULT_MAX_CONNECTIONS, ERROR_DETAILS
from packetwire.errors import PacketwireError
from packetwire.givensockets import inherited_sockets
from packetwire.listeners import check_listenable, is_for_strangers
from packetwire.server import connection_of, serve
from packetwire.service import HasPacketConnection
from packetwire.streams.open import PacketConnectionRecvSend

DESCRIPTION = """
Serves MODULE:NAME at ADDRESS, to many clients at a time; each gets a service of its own. NAME is a
HasPacketConnection class or another callable that makes one from a recv_send, or a request map
{number: class}; modules in the current directory are found. ADDRESS is unix:PATH (the socket gets mode
0600), tcp:HOST:PORT (port 0: any that is free), tls:HOST:PORT (with --cert), zmq+router:ENDPOINT (a ZMQ ROUTER at
tcp://HOST:PORT or ipc://PATH; port *: any that is free), zmq+pair:ENDPOINT (one client at a time) or stdio: (one
client, the process that started this one).
Whoever can reach a tcp: address, or a zmq+ address without --curve-key, can use the service: there is no
authentication and no encryption.
SIGTERM and Ctrl-C let it end: nobody is accepted any more, outstanding replies are sent, then the connections are
closed; a second signal cuts that short.
So that a new server follows an old one and no client is lost, it serves at the sockets of systemd (--listen-fds),
or is started beside the old one (--reuse-port for tcp: and tls:, --replace for unix:), which gets SIGTERM then.
Exit status: 0 after SIGTERM or when the client of stdio: has ended, 1 if it failed, 2 for bad arguments or a
MODULE:NAME that cannot be used, 130 after Ctrl-C.
"""


EXAMPLES = examples(
    "packetwire serve packetwire.cli.chunkstore:ChunkStore unix:chunks",
    "packetwire serve --inspect stats packetwire.cli.benchmarks:REQUESTS unix:bench",
)


def add_parser(commands: Commands) -> None:
    """Add this command and its options to the command line."""
    parser = commands.add_parser(
        "serve", help="serve a class of yours at an address", description=DESCRIPTION, epilog=EXAMPLES
    )
    parser.set_defaults(run=run)
    parser.add_argument("service", metavar="MODULE:NAME", help="what is served")
    parser.add_argument(
        "address",
        metavar="ADDRESS",
        type=address(check_listenable),
        help="unix:PATH, tcp:HOST:PORT, tls:HOST:PORT, zmq+router:ENDPOINT, zmq+pair:ENDPOINT or stdio:",
    )
    parser.add_argument(
        "--max-connections",
        type=whole_number(1),
        default=DEFAULT_MAX_CONNECTIONS,
        metavar="N",
        help="clients at a time; idle ones make room, or more are turned away "
        f"(default: {DEFAULT_MAX_CONNECTIONS})",
    )
    add_admission_options(parser)
    parser.add_argument(
        "--max-memory",
        type=size(1, 1 << 62, "from 1"),
        metavar="SIZE",
        help="what all connections may hold together (default: 1GiB, or a quarter of the memory if that is less)",
    )
    parser.add_argument(
        "--handlers",
        type=handlers,
        metavar="N",
        help="handlers that run at once for one client, or 'inline' for one at a time in the thread that reads "
        f"(default: what the service says, else {DEFAULT_HANDLERS})",
    )
    parser.add_argument(
        "--error-detail",
        choices=ERROR_DETAILS,
        help="what a client is told of an exception (default: what the service says, else message)",
    )
    parser.add_argument(
        "--drain",
        type=seconds,
        default=DEFAULT_DRAIN,
        metavar="SECONDS",
        help=f"how long the end may take once it is asked for (default: {DEFAULT_DRAIN:g})",
    )
    parser.add_argument(
        "--describe",
        action=argparse.BooleanOptionalAction,
        help="tell clients that ask what a packetwire.typed.Service offers (default: yes, but not at tcp: and ZMQ "
        "addresses, where anybody may ask)",
    )
    parser.add_argument(
        "--inspect",
        metavar="PATH",
        help="a Unix socket, for you only, at which the server tells what it does, to packetwire top, curl and "
        "Prometheus",
    )
    parser.add_argument(
        "--quiet",
        action="store_true",
        help="standard error gets only what ends the server: no line when it is ready, no failures of handlers",
    )
    parser.add_argument(
        "--sync",
        action="store_true",
        help="for stdio: as a forced command of sshd: if the client says --sync, have it drop what came before",
    )
    _add_listening_options(parser)
    add_server_options(parser)
    curve.add_server_options(parser)


def _add_listening_options(parser: argparse.ArgumentParser) -> None:
    ways = parser.add_argument_group("beside, or in place of, another server").add_mutually_exclusive_group()
    ways.add_argument(
        "--listen-fds",
        action="store_true",
        help="serve at the sockets passed by LISTEN_FDS, as by systemd; a port in ADDRESS is theirs, or 0",
    )
    ways.add_argument(
        "--fd-name", metavar="NAME", help="the same, but only those with this name (FileDescriptorName= of systemd)"
    )
    ways.add_argument(
        "--reuse-port",
        action="store_true",
        help="listen at a port at which other servers do so with this option",
    )
    ways.add_argument(
        "--replace", action="store_true", help="take the place of a server at a unix: address, which is to end then"
    )


def listening_options(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `serve` for these options. Raises `CommandFailed` for what makes no sense."""
    kind = UnixAddress if args.replace else TcpAddress if args.reuse_port else UnixAddress | TcpAddress
    given = [each for each in ("listen_fds", "fd_name", "reuse_port", "replace") if getattr(args, each)]
    if not given:
        return {}
    (option,) = given
    name = f"--{option.replace('_', '-')}"
    if not isinstance(args.address, kind):
        raise CommandFailed(f"{name} is not for {args.address}", EXIT_USAGE)
    if option in ("reuse_port", "replace"):
        return {option: True}
    sockets = inherited_sockets(args.fd_name)
    if not sockets:
        which = f" with the name {args.fd_name!r}" if args.fd_name else ""
        raise CommandFailed(f"{name}: no socket{which} was passed to this process by LISTEN_FDS", EXIT_USAGE)
    return {"listener": sockets}


def handlers(text: str) -> int | str:
    """A number of handlers, or "inline"."""
    if text == "inline":
        return text
    try:
        return whole_number(1)(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(str(error).replace(", got", " or 'inline', got")) from None


def run(args: argparse.Namespace) -> int:
    """Serve until a signal, or the end of the only client; returns the exit status."""
    check_admission_options(args, args.address)
    place = curve.to_serve(args.address, args.curve_key, args.curve_clients)
    describe = not is_for_strangers(place) if args.describe is None else args.describe
    make_service = _with_options(find_service(args.service), args.handlers, args.error_detail, describe)
    if args.sync:
        if not isinstance(place, StdioAddress):
            raise CommandFailed(f"--sync is for stdio:, not for {place}", EXIT_USAGE)
        place = StdioAddress(sync=True)
    options: dict[str, Any] = {
        "max_connections": args.max_connections,
        "max_per_address": args.max_per_address,
        "allow_uids": args.allow_uid,
        "max_memory": args.max_memory,
        "drain_timeout": args.drain,
        "inspect": args.inspect,
        **listening_options(args),
    }
    with (
        stop_signals() as (told, tell),
        log_shown(args.quiet),
        serve(place, make_service, **options, ssl_context=server_ssl_context(args)) as server,
    ):
        if not args.quiet:
            print(f"serving {args.service} on {server.address}", file=sys.stderr, flush=True)
        signum = run_until_signal(server.wait, lambda is_first: server.stop(None if is_first else 0), told, tell)
    if server.failure is not None:
        raise CommandFailed(_text_of(server.failure), EXIT_FAILED) from server.failure
    if signum == signal.SIGINT:
        raise KeyboardInterrupt
    return 0


def _text_of(failure: BaseException) -> str:
    return str(failure) if isinstance(failure, PacketwireError | OSError) else described(failure)


def _with_options(
    make_service: MakeService, handlers: int | str | None, error_detail: str | None, describe: bool
) -> MakeService:
    """The same service, with these options of its connection if they are given."""

    def make(recv_send: PacketConnectionRecvSend) -> object:
        service = make_service(recv_send)
        conn = connection_of(service)
        if handlers is not None:
            conn.handlers = handlers
        if error_detail is not None:
            conn.error_detail = error_detail
        served: Any = getattr(service, "service", None)
        if describe and is_typed_service(served):
            conn.description = served.description()
        elif describe and isinstance(service, HasPacketConnection) and conn.description is None:
            conn.description = description_of(type(service).__name__, service.conn_rq_class_by_type)
        return service

    return make

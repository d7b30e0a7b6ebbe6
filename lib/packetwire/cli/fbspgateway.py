"""`packetwire fbsp gateway`: clients over ZMQ in front of a service on a packet stream, and the other way round."""

from __future__ import annotations

import argparse
import signal
import sys
from typing import Any

from packetwire.cli import tls
from packetwire.cli.addressing import check_connectable, seconds
from packetwire.cli.arguments import Commands, add_admission_options, check_admission_options, whole_number
from packetwire.cli.endpoints import Endpoint, end_at
from packetwire.cli.failure import EXIT_FAILED, EXIT_USAGE, CommandFailed
from packetwire.cli.helptext import examples
from packetwire.cli.running import log_shown, run_until_signal, stop_signals
from packetwire.listeners import check_listenable

CONNECT_TIMEOUT = 10.0
MAX_CLIENTS = 128

DESCRIPTION = """
Lets clients of FBSP at A use the service at B, where one of them is a ZMQ endpoint, as those of Saturnin have one,
and the other a packet stream. It listens at A: tcp://HOST:PORT (port *: any that is free) or ipc://PATH for ZMQ, or
unix:PATH, tcp:HOST:PORT, tls:HOST:PORT or stdio: for packet streams. For each client that says HELLO it connects to
B: exec:CMD, ssh:[OPTIONS] HOST CMD, unix:PATH, tcp:HOST:PORT, tls:HOST:PORT, zmq+pair: or zmq+dealer: with an
endpoint, or tcp://HOST:PORT or ipc://PATH for a service on ZMQ. All messages pass as they are; what is none, or
breaks a rule, is answered here. When either side ends its session, or is lost, the other one is told CLOSE.
Whoever can reach A can use B: a gateway checks nobody, unless A is tls: and there is a --client-ca.
Exit status: 0 after SIGTERM or when the client of stdio: has ended, 1 if it failed, 2 for bad arguments, 130 after
Ctrl-C.
"""


EXAMPLES = examples(
    "packetwire fbsp gateway unix:front tcp://127.0.0.1:5555",
    "packetwire fbsp gateway tcp://127.0.0.1:5556 unix:service",
)


def add_parser(commands: Commands) -> None:
    """Add this command and its options to those of FBSP."""
    parser = commands.add_parser(
        "gateway",
        help="ZMQ in front of packet streams, or the other way round",
        description=DESCRIPTION,
        epilog=EXAMPLES,
    )
    parser.set_defaults(run=run)
    parser.add_argument("a", metavar="A", type=end_at(check_listenable), help="where clients come to")
    parser.add_argument("b", metavar="B", type=end_at(check_connectable), help="where the service is")
    parser.add_argument(
        "--timeout",
        type=seconds,
        default=CONNECT_TIMEOUT,
        metavar="SECONDS",
        help=f"for connecting to B (default: {CONNECT_TIMEOUT:g})",
    )
    parser.add_argument(
        "--max-clients",
        type=whole_number(1),
        default=MAX_CLIENTS,
        metavar="N",
        help=f"clients at a time; an idle one makes room, else more are refused (default: {MAX_CLIENTS})",
    )
    add_admission_options(parser)
    parser.add_argument("--quiet", action="store_true", help="no lines on standard error but what ends the gateway")
    tls.add_options_of_both_ends(parser, "if A is a tls: address")


def run(args: argparse.Namespace) -> int:
    """Pass messages until a signal, or the end of the only client; returns the exit status."""
    try:
        from packetwire.fbsp.gateway import Gateway

        if isinstance(args.a, Endpoint) or isinstance(args.b, Endpoint):
            import packetwire.messaging.zmq  # noqa: F401 - what is missing is said before anybody comes
    except ImportError as error:
        raise CommandFailed(f"a gateway needs more: {error}", EXIT_FAILED) from error
    options = _options(args)
    a, b = (each.text if isinstance(each, Endpoint) else each for each in (args.a, args.b))
    with stop_signals() as (told, tell), log_shown(args.quiet), Gateway(a, b, **options) as gateway:
        if not args.quiet:
            print(f"gateway from {gateway.address} to {args.b}", file=sys.stderr, flush=True)
        signum = run_until_signal(gateway.wait, lambda is_first: gateway.stop(), told, tell)
    if gateway.failure is not None:
        raise CommandFailed(str(gateway.failure), EXIT_FAILED) from gateway.failure
    if signum == signal.SIGINT:
        raise KeyboardInterrupt
    return 0


def _options(args: argparse.Namespace) -> dict[str, Any]:
    check_admission_options(args, args.a)
    if args.max_per_address is not None and isinstance(args.a, Endpoint):
        raise CommandFailed(f"--max-per-address is for packet streams, not for {args.a}", EXIT_USAGE)
    return {
        "timeout": args.timeout,
        "max_clients": args.max_clients,
        "max_per_address": args.max_per_address,
        "allow_uids": args.allow_uid,
        "ssl_context_a": tls.ssl_context_at_a(args),
        "ssl_context_b": tls.ssl_context_at_b(args),
        "server_name": args.server_name,
    }

"""`packetwire bridge`: joins two addresses, and can record the traffic."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from packetwire.addresses import Address, StdioAddress
from packetwire.bridge import DEFAULT_MAX_CLIENTS, Bridge, listens_at
from packetwire.capture import CaptureError, CaptureWriter
from packetwire.cli import curve, tls
from packetwire.cli.addressing import address, check_connectable
from packetwire.cli.arguments import Commands, add_admission_options, check_admission_options, whole_number
from packetwire.cli.failure import EXIT_FAILED, EXIT_USAGE, CommandFailed
from packetwire.cli.helptext import examples
from packetwire.cli.running import STOP_SIGNALS, log_shown, stop_signals

DESCRIPTION = """
Passes bytes between two addresses, both ways and as they are. At A, if it is unix:PATH (the socket gets mode
0600), tcp:HOST:PORT (port 0: any that is free), tls:HOST:PORT, zmq+router:ENDPOINT or zmq+pair:ENDPOINT, it
listens, and connects each client to B by a connection of its own. If A is exec:CMD, ssh:[OPTIONS] HOST CMD or
stdio:, or with --connect, there is one connection, and the bridge ends with it. When one side ends its direction
that is passed on, and the other direction goes on; a side that takes nothing stops the other's reading. A client
for whom B cannot be reached is closed, with a line on standard error. Whoever can reach A can use B: a bridge
checks nobody, unless A is tls: and there is a --client-ca, or zmq+ and there is a --curve-key.
With --tap all bytes are recorded, with their times, for "packetwire dump" and "packetwire replay"; if FILE is
such a record already it is continued. Should writing fail, the relaying goes on without.
SIGTERM and Ctrl-C end all connections.
Exit status: 0 after SIGTERM or when the only connection has ended, 1 if it failed, 2 for bad arguments, 130
after Ctrl-C.
"""


EXAMPLES = examples(
    "packetwire bridge unix:front unix:chunks --tap talk.capture",
    "packetwire bridge tcp:127.0.0.1:5001 unix:chunks --max-clients 10",
)


def add_parser(commands: Commands) -> None:
    """Add this command and its options to the command line."""
    parser = commands.add_parser("bridge", help="join two addresses", description=DESCRIPTION, epilog=EXAMPLES)
    parser.set_defaults(run=run)
    parser.add_argument(
        "a",
        metavar="A",
        type=address(lambda parsed: None),
        help="unix:PATH, tcp:HOST:PORT, tls:HOST:PORT, zmq+router:ENDPOINT, stdio:, exec:CMD or "
        "ssh:[OPTIONS] HOST CMD",
    )
    parser.add_argument(
        "b", metavar="B", type=address(_check_b), help="unix:, tcp:, tls:, zmq+dealer:, exec: or ssh:"
    )
    parser.add_argument("--connect", action="store_true", help="connect to A, too, rather than listen there")
    parser.add_argument("--tap", metavar="FILE", help="record both directions in FILE")
    parser.add_argument(
        "--max-clients",
        type=whole_number(1),
        default=DEFAULT_MAX_CLIENTS,
        metavar="N",
        help=f"clients at a time; an idle one makes room, else more are closed (default: {DEFAULT_MAX_CLIENTS})",
    )
    add_admission_options(parser)
    parser.add_argument("--quiet", action="store_true", help="no lines on standard error but what ends the bridge")
    tls.add_options_of_both_ends(parser, "if A is a tls: address to listen at")
    curve.add_server_keys(parser.add_argument_group("CURVE, if A is zmq+router: or zmq+pair: to listen at"))
    curve_b = parser.add_argument_group("CURVE, if B is a zmq+dealer: or zmq+pair: address")
    curve_b.add_argument("--curve-server", metavar="FILE", help=curve.SERVER_HELP)
    curve_b.add_argument("--curve-client-key", metavar="FILE", help="our secret key there (default: a new one)")


def _check_b(parsed: Address) -> None:
    if isinstance(parsed, StdioAddress):
        from packetwire.errors import LocalProtocolError

        raise LocalProtocolError("stdio: goes first: packetwire bridge stdio: ADDRESS")
    check_connectable(parsed)


def run(args: argparse.Namespace) -> int:
    """Relay until a signal, or the end of the only connection; returns the exit status."""
    if args.connect:
        _check_connect(args)
    with ExitStack() as opened:
        # first, so that a signal while the bridge is being made stops it as soon as it runs
        told, tell = opened.enter_context(stop_signals())
        opened.enter_context(log_shown(args.quiet))
        bridge = opened.enter_context(_make_bridge(args, opened))
        if bridge.listens and not args.quiet:
            print(f"bridging {bridge.address} to {bridge.b}", file=sys.stderr, flush=True)
        with _stopped_by_signals(bridge, told, tell) as signals:
            bridge.run()
    if bridge.failure is not None:
        raise CommandFailed(str(bridge.failure), EXIT_FAILED) from bridge.failure
    if signal.SIGINT in signals:
        raise KeyboardInterrupt
    return 0


def _check_connect(args: argparse.Namespace) -> None:
    if not listens_at(args.a):
        raise CommandFailed(f"--connect is for an A to listen at, not for {args.a}", EXIT_USAGE)
    try:
        check_connectable(args.a)
    except ValueError as error:
        raise CommandFailed(f"argument A: {error}", EXIT_USAGE) from None


def _make_bridge(args: argparse.Namespace, opened: ExitStack) -> Bridge:
    check_admission_options(args, args.a)
    if args.connect and (args.curve_key or args.curve_clients):
        raise CommandFailed("--curve-key and --curve-clients are for an A to listen at", EXIT_USAGE)
    ssl_context_a = None if args.connect else tls.ssl_context_at_a(args)
    ssl_context_b = tls.ssl_context_at_b(args)
    return Bridge(
        curve.to_serve(args.a, args.curve_key, args.curve_clients),
        curve.to_connect(args.b, args.curve_server, args.curve_client_key),
        connect_a=args.connect,
        max_clients=args.max_clients,
        max_per_address=args.max_per_address,
        allow_uids=args.allow_uid,
        capture=None if args.tap is None else opened.enter_context(_open_tap(args.tap)),
        ssl_context_a=ssl_context_a,
        ssl_context_b=ssl_context_b,
        server_name=args.server_name,
    )


def _open_tap(path: str) -> CaptureWriter:
    try:
        return CaptureWriter(path)
    except OSError as error:
        raise CommandFailed(f"argument --tap: cannot write {path!r}: {error.strerror}", EXIT_USAGE) from None
    except CaptureError as error:
        raise CommandFailed(f"argument --tap: {error}", EXIT_USAGE) from None


@contextmanager
def _stopped_by_signals(bridge: Bridge, told: int, tell: int) -> Iterator[set[int]]:
    """A block during which signals stop the bridge; its value is the set of those that came."""
    signals: set[int] = set()

    def watch() -> None:
        while byte := os.read(told, 1)[0]:
            if byte in STOP_SIGNALS:
                signals.add(byte)
                bridge.stop()

    watcher = threading.Thread(target=watch, name="packetwire-watch", daemon=True)
    watcher.start()
    try:
        yield signals
    finally:
        os.write(tell, b"\0")  # ends the thread: no signal has that number
        watcher.join()

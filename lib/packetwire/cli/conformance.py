"""`packetwire conformance`: checks any implementation of the packet stream against docs/wire.md."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path

from packetwire.addresses import Address, ExecAddress, connect_to
from packetwire.cli.addressing import add_sync_option, address, check_connectable, seconds
from packetwire.cli.arguments import Commands
from packetwire.cli.failure import EXIT_FAILED, EXIT_USAGE, CommandFailed
from packetwire.cli.helptext import examples
from packetwire.cli.tls import add_client_options, client_ssl_context
from packetwire.conformance.farends import Accepting, Connecting, FarEnds
from packetwire.conformance.play import Outcome, Verdict
from packetwire.conformance.report import junit, lines_about
from packetwire.conformance.running import Runner
from packetwire.conformance.table import CHECKS, Check
from packetwire.conformance.talk import FarEnd
from packetwire.core.engine import MAX_RQ_TYPE
from packetwire.errors import LocalProtocolError
from packetwire.listeners import listen

TIMEOUT = 5.0
"""Seconds to wait for something that must come."""
CLIENT_WAIT = 60.0
"""Seconds to wait for the client of the next check."""

DESCRIPTION = """
Checks an implementation of the packet stream, in any language, against docs/wire.md. ADDRESS is where it serves, as
for "packetwire call"; it is connected to, or started, anew for each check. It need only answer one request, ok or
not: type 0 without a payload, or --request. With --role client, ADDRESS is exec:CMD, a command that asks over its
standard input and output, or unix:PATH or tcp:HOST:PORT, where a client is waited for, for each check. It must ask
something by itself, and end the connection when it has been answered. What applies only to an end with capabilities
is skipped at one without. Of a check that fails all bytes are shown, and a * marks what is wrong.
Exit status: 0 if nothing failed, 1 if something did or there is nobody, 2 for bad arguments, 130 after Ctrl-C.
"""


EXAMPLES = examples(
    "packetwire conformance unix:chunks --only 1-5",
    "packetwire conformance --role client --list",
)


def add_parser(commands: Commands) -> None:
    """Add this command and its options to the command line."""
    parser = commands.add_parser(
        "conformance", help="check an implementation", description=DESCRIPTION, epilog=EXAMPLES
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "address", metavar="ADDRESS", nargs="?", type=address(lambda _: None), help="where the far end is"
    )
    parser.add_argument(
        "--role", choices=("server", "client"), default="server", help="what it is (default: server)"
    )
    parser.add_argument("--only", type=_numbers, metavar="N,…", help="these checks only; 5-9 are five of them")
    parser.add_argument("--list", action="store_true", help="list the checks, and run none")
    parser.add_argument("--junit", metavar="FILE", help="write the outcomes there, too, as JUnit's XML")
    parser.add_argument(
        "--request",
        type=_request,
        default=(0, b""),
        metavar="TYPE:HEX",
        help="a request that a server answers (default: 0:)",
    )
    parser.add_argument(
        "--answer", type=_hex, default=b"", metavar="HEX", help="the payload of what a client is answered"
    )
    parser.add_argument(
        "--timeout",
        type=seconds,
        default=TIMEOUT,
        metavar="SECONDS",
        help="for each thing that must come (default: 5)",
    )
    add_sync_option(parser)
    add_client_options(parser)


def run(args: argparse.Namespace) -> int:
    """Run the checks, return the exit status."""
    checks = [check for check in CHECKS if args.role in check.roles]
    if args.only is not None:
        checks = _chosen(checks, args.only, args.role)
    if args.list:
        for check in checks:
            print(f"{check.number:3} {check.title}  ({check.section})")
        return 0
    if args.address is None:
        raise CommandFailed("ADDRESS is missing; --list goes without", EXIT_USAGE)
    rq_type, payload = args.request
    far = FarEnd(is_client=args.role == "client", rq_type=rq_type, payload=payload, answer=args.answer)
    outcomes: list[tuple[Check, Outcome]] = []
    with closing(_far_ends(args)) as ends:
        runner = Runner(ends, far, args.timeout)
        runner.probe()
        for check, outcome in runner.run(checks):
            outcomes.append((check, outcome))
            print("\n".join(lines_about(check, outcome)), flush=True)
    counts = Counter(outcome.verdict for _, outcome in outcomes)
    print(", ".join(f"{counts[verdict]} {verdict}" for verdict in Verdict))
    if args.junit is not None:
        _write(args.junit, junit(f"packetwire conformance {args.address}", outcomes))
    return EXIT_FAILED if counts[Verdict.FAILED] else 0


def _far_ends(args: argparse.Namespace) -> FarEnds:
    where: Address = args.address
    try:
        if args.role == "client" and not isinstance(where, ExecAddress):
            print(f"waiting for clients at {where}, one for each check", file=sys.stderr, flush=True)
            return Accepting(listen(where), CLIENT_WAIT)
        check_connectable(where)
        connect = connect_to(
            where, ssl_context=client_ssl_context(args), server_name=args.server_name, sync=args.sync
        )
    except LocalProtocolError as error:
        raise CommandFailed(f"argument ADDRESS: {error}", EXIT_USAGE) from None
    return Connecting(connect)


def _chosen(checks: list[Check], numbers: set[int], role: str) -> list[Check]:
    unknown = numbers - {check.number for check in checks}
    if unknown:
        shown = ", ".join(map(str, sorted(unknown)[:5]))
        raise CommandFailed(f"argument --only: there is no check {shown} of a {role} (see --list)", EXIT_USAGE)
    return [check for check in checks if check.number in numbers]


def _write(path: str, text: str) -> None:
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise CommandFailed(f"cannot write {path!r}: {error.strerror}", EXIT_FAILED) from None


# kinds of arguments


def _numbers(text: str) -> set[int]:
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not first.isdigit() or (dash and not last.isdigit()) or len(part) > 9:
            raise argparse.ArgumentTypeError(f"expected numbers of checks, such as 1,5-9, got {text!r}")
        found |= (
            set(range(int(first), int(last or first) + 1)) if int(last or first) < 1000 else {int(last or first)}
        )
    return found


def _request(text: str) -> tuple[int, bytes]:
    number, _, payload = text.partition(":")
    if not (number.isascii() and number.isdigit() and int(number) <= MAX_RQ_TYPE):
        raise argparse.ArgumentTypeError(f"expected TYPE:HEX, such as 1:6869, got {text!r}")
    return int(number), _hex(payload)


def _hex(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected pairs of hexadecimal digits, got {text!r:.100}") from None

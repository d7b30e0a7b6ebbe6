"""`packetwire report`: a page about a capture, to look into it in a browser."""

from __future__ import annotations

import argparse
import os
import sys

from packetwire.capture import FILE_MODE
from packetwire.cli.arguments import Commands, size, whole_number
from packetwire.cli.conversation import STDIN, Conversations, Input, open_input
from packetwire.cli.failure import EXIT_FAILED, EXIT_USAGE, CommandFailed
from packetwire.cli.helptext import examples
from packetwire.cli.reporting.collecting import PREVIEW, Collector
from packetwire.cli.reporting.model import Report
from packetwire.cli.reporting.page import page_of
from packetwire.core.settings import DEFAULT_MAX_PACKET_SIZE
from packetwire.core.varint import MAX_UINT

DESCRIPTION = """
Writes a page about FILE, which "packetwire bridge --tap" or a program with a CaptureWriter has written: a diagram
of its requests and responses, latencies by request type, throughput, bodies and how long they waited, cancels,
errors, what was outstanding at the end, and why each connection ended. The page is one file that needs no network.
It holds the beginnings of payloads; --payload 0 leaves them out. The diagram of a large capture is a sample; the
figures are about all of it.
Exit status: 0 when the page is about all packets up to the last whole one, 1 if some are malformed or the file is
damaged or cannot be written, 2 for bad arguments, 130 after Ctrl-C.
"""


EXAMPLES = examples(
    "packetwire report talk.capture",
    "packetwire report talk.capture --payload 0 -o talk.html",
)


def add_parser(commands: Commands) -> None:
    """Add this command and its options to the command line."""
    parser = commands.add_parser(
        "report", help="make an HTML page about a capture", description=DESCRIPTION, epilog=EXAMPLES
    )
    parser.set_defaults(run=run)
    parser.add_argument("file", metavar="FILE", help="a capture; - for standard input")
    parser.add_argument(
        "-o", "--output", metavar="OUT", help="the page; - for standard output (default: FILE with .html behind it)"
    )
    parser.add_argument("--connection", type=whole_number(0), metavar="N", help="only this one (default: all)")
    parser.add_argument(
        "--payload",
        type=size(0, PREVIEW, f"up to {PREVIEW}"),
        default=PREVIEW,
        metavar="SIZE",
        help=f"bytes of each payload in the page, at most; 0 for no texts of errors either (default: {PREVIEW})",
    )
    parser.add_argument(
        "--max-packet",
        type=size(1, MAX_UINT, "from 1"),
        default=DEFAULT_MAX_PACKET_SIZE,
        metavar="SIZE",
        help="what is longer is malformed (default: 64MiB)",
    )


def run(args: argparse.Namespace) -> int:
    """Write the page, return the exit status."""
    output = args.output or (STDIN if args.file == STDIN else f"{args.file}.html")
    if output != STDIN and os.path.exists(output) and args.file != STDIN and os.path.samefile(args.file, output):
        raise CommandFailed(f"{output!r} is the capture itself", EXIT_USAGE)
    with open_input(args.file) as source:
        conversations = Conversations(args.max_packet)
        report = read(source, conversations, args.connection)
    name = "standard input" if args.file == STDIN else os.path.basename(args.file)
    _write(page_of(report, name, args.payload), output)
    if output != STDIN:
        print(output)
    if report.damage:
        print(f"packetwire: {report.damage}", file=sys.stderr)
    is_whole = not report.damage or source.partial_size > 0
    return EXIT_FAILED if conversations.faults or not is_whole else 0


def read(source: Input, conversations: Conversations, connection: int | None = None) -> Report:
    """The report about a capture, or about what stands before some damage.

    Raises `CommandFailed` if the file is something else.
    """
    collector = Collector()
    damage = ""
    try:
        for record in source:
            if not source.is_capture:
                raise _NotACapture(
                    "FILE is not a capture; packetwire dump shows it, if it is a raw packet stream", EXIT_FAILED
                )
            if connection in (None, record.connection):
                collector.add_all(conversations.add(record))
    except _NotACapture:
        raise
    except CommandFailed as failure:
        damage = str(failure)
    collector.add_all(conversations.finish())
    report = collector.finish()
    if source.partial_size:
        damage = f"the file ends inside a record, after {source.partial_size} bytes of it"
    report.damage = damage
    return report


class _NotACapture(CommandFailed):
    """The file is a raw stream, or anything else."""


def _write(page: str, output: str) -> None:
    """Write the page, for its owner alone, as it holds payloads."""
    try:
        if output == STDIN:
            sys.stdout.buffer.write(page.encode())
            return
        fd = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, FILE_MODE)
        with open(fd, "w", encoding="utf-8", newline="\n") as file:
            file.write(page)
    except OSError as error:
        raise CommandFailed(f"cannot write {output!r}: {error.strerror}", EXIT_FAILED) from None

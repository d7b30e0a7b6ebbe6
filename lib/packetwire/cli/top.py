"""`packetwire top`: what a server does now, again and again."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread
from types import FrameType
from typing import Any, Protocol

from packetwire.addresses import UnixAddress, parse_address
from packetwire.cli import topview
from packetwire.cli.addressing import seconds
from packetwire.cli.arguments import Commands, whole_number
from packetwire.cli.asking import WRONG, ask
from packetwire.cli.display import open_console
from packetwire.cli.failure import EXIT_FAILED, EXIT_USAGE, CommandFailed
from packetwire.cli.helptext import examples
from packetwire.errors import LocalProtocolError

INTERVAL = 1.0
SHORTEST_INTERVAL = 0.1
ANSWER_SECONDS = 5.0
PLAIN_WIDTH = 100
HEIGHT = 45
"""Columns and lines of the output where that is no terminal."""

Snapshot = dict[str, Any]


class Show(Protocol):
    """Shows a snapshot, beside the one before it."""

    def __call__(self, snapshot: Snapshot, before: Snapshot | None) -> None: ...


DESCRIPTION = """
Shows what a server does now: its clients, the requests under way and since when, how many there are in a second and
how long they take, and what is held in memory. SOCKET is the Unix socket of `packetwire serve --inspect SOCKET`, or
of serve(inspect=SOCKET). On a terminal the view is renewed until Ctrl-C or SIGTERM; else one text follows
the other. Exit status: 0, also after these; 1 if nobody answers there, or it is another kind of socket; 2 for bad
arguments.
"""


EXAMPLES = examples(
    "packetwire top stats",
    "packetwire top stats --once --json",
)


def add_parser(commands: Commands) -> None:
    """Add this command and its options to the command line."""
    parser = commands.add_parser(
        "top", help="show what a server does now", description=DESCRIPTION, epilog=EXAMPLES
    )
    parser.set_defaults(run=run)
    parser.add_argument("socket", metavar="SOCKET", type=_path, help="a path, or unix:PATH")
    parser.add_argument(
        "--interval",
        type=seconds,
        default=INTERVAL,
        metavar="SECONDS",
        help=f"between two views (default: {INTERVAL:g}, at least {SHORTEST_INTERVAL:g})",
    )
    parser.add_argument("--once", action="store_true", help="one view, and no more")
    parser.add_argument("--json", action="store_true", help="as JSON for programs, each view in a line")
    parser.add_argument(
        "--sort", choices=topview.SORTS, default="busy", help="the order of clients (default: busy)"
    )
    parser.add_argument(
        "--rows",
        type=whole_number(1),
        metavar="N",
        help=f"rows of each table (default: what the terminal has room for, else about {HEIGHT} lines)",
    )


def _path(text: str) -> str:
    if not text.startswith("unix:"):
        return text
    try:
        parsed = parse_address(text)
    except LocalProtocolError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return parsed.path if isinstance(parsed, UnixAddress) else text


def run(args: argparse.Namespace) -> int:
    """Show it until Ctrl-C, or once; returns the exit status."""
    if args.interval < SHORTEST_INTERVAL and not args.once:
        raise CommandFailed(f"--interval must be {SHORTEST_INTERVAL:g} seconds or more", EXIT_USAGE)
    is_live = sys.stdout.isatty() and os.environ.get("TERM") != "dumb" and not args.json and not args.once
    try:
        snapshot = ask(args.socket, ANSWER_SECONDS)  # before a screen is opened: there may be none
        with _ended_by_sigterm(), _live(args) if is_live else _printed(args) as show:
            _repeat(args, snapshot, show)
    except KeyboardInterrupt:
        if args.once:
            raise
    return 0


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """SIGTERM ends the command as Ctrl-C does, so that the terminal is left as it was."""
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL or current_thread() is not main_thread():
        yield
        return
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    signal.signal(signum, signal.SIG_IGN)  # a second one must not come while the terminal is restored
    raise KeyboardInterrupt


def _repeat(args: argparse.Namespace, snapshot: Snapshot, show: Show) -> None:
    before: Snapshot | None = None
    while True:
        try:
            show(snapshot, before)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise CommandFailed(f"{args.socket}: {WRONG}", EXIT_FAILED) from error
        if args.once:
            return
        time.sleep(args.interval)
        before, snapshot = snapshot, ask(args.socket, ANSWER_SECONDS)


@contextmanager
def _printed(args: argparse.Namespace) -> Iterator[Show]:
    """One view below the other."""

    def show(snapshot: Snapshot, before: Snapshot | None) -> None:
        if args.json:
            print(json.dumps(snapshot), flush=True)
            return
        if before is not None:
            print()
        width = shutil.get_terminal_size((PLAIN_WIDTH, 0)).columns
        print(topview.text_of(_lines(args, snapshot, before, width, HEIGHT)), end="", flush=True)

    yield show


@contextmanager
def _live(args: argparse.Namespace) -> Iterator[Show]:
    """One view in place of the other, on the whole terminal."""
    try:
        from rich.live import Live
        from rich.text import Text

        console = open_console()
    except ImportError:  # rich comes with the extra "cli"
        with _printed(args) as show:
            yield show
        return
    with Live(console=console, screen=True, auto_refresh=False) as live:

        def show(snapshot: Snapshot, before: Snapshot | None) -> None:
            width, height = console.size
            lines = _lines(args, snapshot, before, width, height)
            text = Text("\n", no_wrap=True).join(Text.assemble(*line) for line in lines[:height])
            live.update(text, refresh=True)

        yield show


def _lines(
    args: argparse.Namespace, snapshot: Snapshot, before: Snapshot | None, width: int, height: int
) -> list[topview.Line]:
    return topview.lines_of(snapshot, before, width=width, rows=args.rows, height=height, sort=args.sort)

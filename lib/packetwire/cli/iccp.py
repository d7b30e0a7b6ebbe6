"""`packetwire iccp run`: runs a component under a controller, in the terminal."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packetwire.cli.addressing import seconds
from packetwire.cli.arguments import Commands
from packetwire.cli.display import Display, open_display
from packetwire.cli.failure import EXIT_FAILED, EXIT_USAGE, CommandFailed
from packetwire.cli.helptext import examples
from packetwire.cli.running import STOP_SIGNALS, log_shown, stop_signals
from packetwire.errors import PacketwireError

if TYPE_CHECKING:
    from packetwire.iccp import StartedComponent

READY_TIMEOUT = 30.0
STOP_TIMEOUT = 10.0

ENDED, READY, CONFIGURED = 0, 254, 255
"""Bytes that are not the number of a signal."""

DESCRIPTION = """
Starts CMD, a component of ICCP that talks over its standard input and output, and shows what becomes of it: that
it is ready, and how it says that it has ended. Its standard error is passed on.
Ctrl-C and SIGTERM send it STOP; if that does not end it in time, SIGTERM and SIGKILL do. A second Ctrl-C kills it
at once.
Exit status: 0 if its outcome is OK, 1 if that is another one, or if it ended without a word, was late, or could not
be started, 2 for bad arguments, 130 if it was killed by a second Ctrl-C.
"""


EXAMPLES = examples(
    "packetwire iccp run python3 component.py",
    "packetwire iccp run --config settings.json --stop-timeout 5 ./component",
)


def add_parser(commands: Commands) -> None:
    """Add this command and its options to the command line."""
    iccp = commands.add_parser(
        "iccp", help="run a component of ICCP", description="Commands for ICCP.", epilog=EXAMPLES
    )
    parser = iccp.add_subparsers(title="commands", metavar="COMMAND", required=True).add_parser(
        "run", help="run a component under a controller", description=DESCRIPTION, epilog=EXAMPLES
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "--config", metavar="FILE", help="configure it, once it is ready, by a JSON object; one inside is a section"
    )
    parser.add_argument(
        "--ready-timeout",
        type=seconds,
        default=READY_TIMEOUT,
        metavar="SECONDS",
        help=f"for it to say READY (default: {READY_TIMEOUT:g})",
    )
    parser.add_argument(
        "--stop-timeout",
        type=seconds,
        default=STOP_TIMEOUT,
        metavar="SECONDS",
        help=f"for it to end after STOP (default: {STOP_TIMEOUT:g})",
    )
    parser.add_argument("program", metavar="CMD", help="the command; all behind it belongs to it")
    arguments = parser.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    arguments.required = False


def run(args: argparse.Namespace) -> int:
    """Run the component until its end, return the exit status."""
    try:
        from packetwire.iccp import Controller, Outcome, TimeLimits
    except ImportError as error:
        raise CommandFailed(f"ICCP needs more: {error}", EXIT_FAILED) from error
    config = read_config(args.config) if args.config else None
    argv = [args.program, *args.arguments]
    display = open_display()
    limits = TimeLimits(ready=args.ready_timeout, stop=args.stop_timeout)
    with stop_signals() as (told, tell), log_shown(), Controller(limits=limits) as controller:
        display.fact("starting", shlex.join(argv))
        component = controller.launch(argv, forward_stderr=True)
        supervision = Supervision(component, display, config, tell)
        signals = supervision.watch(told)
    if signals.count(signal.SIGINT) > 1:
        raise KeyboardInterrupt
    if supervision.failure is not None:
        raise supervision.failure
    finished = component.wait()
    good = finished.outcome is Outcome.OK
    for line in finished.details:
        display.fact("detail", line.rstrip())
    display.verdict(f"outcome {finished.outcome.value}, exit status {finished.returncode}", good=good)
    return 0 if good else EXIT_FAILED


def read_config(name: str) -> dict[str, Any]:
    """The JSON object in a file."""
    try:
        config = json.loads(Path(name).read_bytes())
    except OSError as error:
        raise CommandFailed(f"argument --config: cannot read {name!r}: {error.strerror}", EXIT_USAGE) from error
    except ValueError as error:
        raise CommandFailed(f"argument --config: {name!r} is not valid JSON: {error}", EXIT_USAGE) from error
    if not isinstance(config, dict):
        raise CommandFailed(f"argument --config: {name!r} is not a JSON object", EXIT_USAGE)
    return config


class Supervision:
    """Runs a component and shows its life; `failure` is the first thing that went wrong."""

    def __init__(
        self, component: StartedComponent, display: Display, config: dict[str, Any] | None, tell: int
    ) -> None:
        self.component = component
        self.failure: Exception | None = None
        self._display = display
        self._config = config
        self._tell = tell

    def watch(self, told: int) -> list[int]:
        """Wait until the component has ended, stopping it at a signal; returns the signals."""
        watcher = threading.Thread(target=self._watch_life, name="packetwire-watch", daemon=True)
        watcher.start()
        signals: list[int] = []
        while (byte := os.read(told, 1)[0]) != ENDED:
            if byte == READY:
                self._show_ready()
            elif byte == CONFIGURED:
                self._display.fact("configured", "")
            elif byte in STOP_SIGNALS:
                self._end_it(first=not signals)
                signals.append(byte)
        watcher.join()
        return signals

    def _watch_life(self) -> None:
        """Wait for the events of the component's life, in a thread of its own."""
        try:
            self.component.wait_ready()
            os.write(self._tell, bytes((READY,)))
            if self._config is not None:
                self.component.configure(self._config)
                os.write(self._tell, bytes((CONFIGURED,)))
        except (PacketwireError, ValueError, OSError) as error:
            self.failure = error
            self.component.begin_stop()
        try:
            self.component.wait()
        except (PacketwireError, OSError) as error:
            self.failure = self.failure or error
        os.write(self._tell, bytes((ENDED,)))

    def _show_ready(self) -> None:
        peer = self.component.peer
        assert peer
        self._display.fact("ready", f"pid {peer.pid} on {peer.host}, {peer.uid}")
        for name, addresses in self.component.endpoints.items():
            self._display.fact("endpoint", f"{name}: {', '.join(addresses)}")

    def _end_it(self, first: bool) -> None:
        if first:
            self._display.fact("stopping", "again to kill it")
            self.component.begin_stop()
        else:
            self._display.fact("killing", "")
            self.component.kill()

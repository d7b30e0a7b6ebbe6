"""The command line: finds the command, and turns every failure into one line and an exit status."""

from __future__ import annotations

import argparse
import io
import os
import re
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from types import FrameType, ModuleType
from typing import Any, NoReturn

import packetwire
from packetwire.cli.failure import EXIT_FAILED, EXIT_INTERRUPTED, CommandFailed, did_you_mean
from packetwire.cli.helptext import HelpText, examples
from packetwire.errors import PacketwireError, StreamTruncated
from packetwire.printable import printable

EXIT_BROKEN_PIPE = 128 + signal.SIGPIPE
COMMANDS = (
    *("demo", "serve", "call", "bench", "bridge", "dump", "report", "replay", "describe", "fbsp", "iccp"),
    *("conformance", "top", "wireshark", "completion"),
)
EXAMPLES = examples("packetwire demo --size 1MB", "packetwire call --help")


def commands(words: Sequence[str] = ()) -> list[ModuleType]:
    """The modules of the commands. Their `add_parser(commands)` sets `run`, which returns the exit status.

    All of them, or only the one with which `words` begin: without the others the start is quicker. They are
    imported by `main`, so that Ctrl-C during the import is handled as at any other time.
    """
    names = [word for word in words[:1] if word in COMMANDS] or COMMANDS
    return [import_module(f"packetwire.cli.{name}") for name in names]


class OneLineParser(argparse.ArgumentParser):
    """Says in one line what is wrong with the arguments, naming the help of the command concerned."""

    _words: Sequence[str] = ()

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **({"formatter_class": HelpText} | options))

    def error(self, message: str) -> NoReturn:
        if message.endswith(" are required: COMMAND") and (options := self._unknown_options(self._words)):
            message = f"unrecognized arguments: {options[0]}"
        self.exit(2, f"{self.prog}: {message}{self._meant(message)} (see {self.prog} --help)\n")

    def _unknown_options(self, words: Sequence[str]) -> list[str]:
        return [word for word in words if word.startswith("-") and word not in self._option_string_actions]

    def _meant(self, message: str) -> str:
        """Asks for the name that was probably meant."""
        if choice := re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message):
            names = re.findall(r"[\w-]+", choice[2])
            return did_you_mean(choice[1], names)
        if message.startswith("unrecognized arguments: "):
            option = message.split()[2].partition("=")[0]
            return did_you_mean(option, self._option_string_actions) if option.startswith("--") else ""
        return ""

    def parse_known_args(  # pyright: ignore[reportIncompatibleMethodOverride]  # which has overloads
        self, args: Any = None, namespace: Any = None
    ) -> Any:
        """Parse, with a workaround: until 3.12 an argument that may be empty gets no words that follow an option.

        The default of `late_words` names the argument that gets them here.
        """
        self._words = sys.argv[1:] if args is None else args
        parsed, rest = super().parse_known_args(args, namespace)
        late_words = self.get_default("late_words")
        options_end = rest.index("--") if "--" in rest else len(rest)
        if late_words and not any(word.startswith("-") and word != "-" for word in rest[:options_end]):
            setattr(
                parsed, late_words, [*getattr(parsed, late_words), *rest[:options_end], *rest[options_end + 1 :]]
            )
            rest = []
        if rest and self.get_default("run"):
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        return parsed, rest


class ShowVersion(argparse.Action):
    """Shows the version in one line, without wrapping it."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        how = "compiled" if packetwire.compiled is True else f"not compiled: {packetwire.compiled}"
        print(f"packetwire {packetwire.__version__} ({how})")
        parser.exit()


def parser_for(words: Sequence[str] = ()) -> OneLineParser:
    """The parser of the command line: with all commands, or only that with which `words` begin."""
    parser = OneLineParser(
        prog="packetwire", description="Tagged requests over any bidirectional byte stream.", epilog=EXAMPLES
    )
    parser.add_argument("--version", action=ShowVersion, nargs=0, help="show the version, and if it is compiled")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in commands(words):
        command.add_parser(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command, return its exit status."""
    _fill_in_standard_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # do not fail on a terminal that has no "µ"
    interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if interruptible:
        signal.signal(signal.SIGINT, _interrupt_once)
    try:
        try:
            return _run(argv)
        finally:
            sys.stdout.flush()
            if interruptible:
                signal.signal(signal.SIGINT, signal.SIG_IGN)  # done: Ctrl-C must not change the exit status
    except KeyboardInterrupt:
        return _failed("interrupted", EXIT_INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # so that the flush at exit does not fail
        return EXIT_BROKEN_PIPE
    except CommandFailed as failure:
        return _failed(_one_line(str(failure)), failure.status)
    except (PacketwireError, OSError) as error:
        number = f"[Errno {getattr(error, 'errno', None)}] "  # which adds nothing to the text
        text = _one_line(str(error).removeprefix(number))
        if isinstance(error.__cause__, StreamTruncated):
            text += f"; {error.__cause__}"  # what came before the end
        return _failed(text, EXIT_FAILED)


def _fill_in_standard_streams() -> None:
    """Open standard streams that are closed, on /dev/null: no other file gets their numbers, and `print` works.

    `sys.stdin` stays None if it is closed, so that commands that want to read it can say so.
    """
    fd = os.open(os.devnull, os.O_RDWR)
    while fd <= 2:
        fd = os.dup(fd)
    os.close(fd)
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115  (for the rest of the process)
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115


def _run(argv: Sequence[str] | None) -> int:
    import logging

    logging.getLogger("packetwire").addHandler(logging.NullHandler())  # failures that matter are exceptions
    parser = parser_for(sys.argv[1:] if argv is None else argv)
    if "_ARGCOMPLETE" in os.environ:  # a shell asks for words, see `completion`
        from argcomplete import autocomplete

        autocomplete(parser, always_complete_options=False)
    args = parser.parse_args(argv)
    status: int = args.run(args)
    return status


def _interrupt_once(signum: int, frame: FrameType | None) -> None:
    """Handle Ctrl-C once: closing takes a few seconds at most, which a second Ctrl-C must not interrupt."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


def _failed(text: str, status: int) -> int:
    print(f"packetwire: {printable(text)}", file=sys.stderr)
    return status


def _one_line(text: str) -> str:
    """The first line and the last one, which in a child's quoted standard error is the one with the reason."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " ".join(dict.fromkeys([lines[0], lines[-1]])) if lines else "failed"

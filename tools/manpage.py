"""Makes the manual page packetwire(1) of the parsers that also make `--help`.

`python -m tools.manpage`, in the root of the project, writes docs/packetwire.1, which is installed with the
package; with `--check` it says that the file is not what would be made. It is the same with every version of
Python: argparse is asked for its arguments, not for texts.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import packetwire
from packetwire.cli.helptext import example_lines, paragraphs
from packetwire.cli.main import parser_for

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "packetwire.1"

STATUS = "0 if all is well, 1 if something failed, 2 for bad arguments, 124 if the time is over, 130 after Ctrl-C; "
ENVIRONMENT = {
    "NO_COLOR": "if it is not empty there are no colours",
    "COLUMNS": "the width of the terminal; tables that are wider are shown row by row",
    "TERM": "if it is dumb there are no colours and no progress bars",
    "PACKETWIRE_PURE": "if it is not empty no compiled modules are used",
}


def page() -> str:
    """The whole page."""
    parser = parser_for()
    lines = [
        '.\\" made by tools/manpage.py',
        f'.TH PACKETWIRE 1 "" "packetwire {packetwire.__version__}" "User Commands"',
        *(".nh", ".ad l"),  # names and options in one piece, and no gaps between them
        *(".SH NAME", f"packetwire \\- {_text(_description(parser)[0].rstrip('.').lower())}"),
        *(".SH SYNOPSIS", ".B packetwire", _text("[-h] [--version]"), _italic("COMMAND"), _text("...")),
        *(".SH OPTIONS", *_option("-h, --help", "show a help text, of packetwire or of a command, and exit")),
        *_arguments(parser),
        ".SH COMMANDS",
    ]
    for name, command in _commands(parser):
        lines += _command(name, command)
    lines += [".SH EXIT STATUS", _text(STATUS + "what else a command says by it stands with the command.")]
    lines += [".SH ENVIRONMENT", *(line for pair in ENVIRONMENT.items() for line in _option(*pair))]
    lines += [".SH EXAMPLES", *_examples(parser)]
    return "\n".join(lines) + "\n"


def _commands(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """The commands, and in place of a group of commands those in it."""
    for name, command in _subparsers(parser).items():
        inner = _subparsers(command)
        yield from ((f"{name} {each}", inner[each]) for each in inner) if inner else [(name, command)]


def _subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    found: dict[str, argparse.ArgumentParser] = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found |= action.choices
    return found


def _command(name: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    yield f".SS packetwire {name}"
    yield f".B packetwire {name}"
    yield from map(_text, _usage(parser))
    for paragraph in _description(parser):
        yield ".PP"
        yield _text(paragraph)
    yield from _arguments(parser)
    yield ".PP"
    yield "Examples:"
    yield from _examples(parser)


def _description(parser: argparse.ArgumentParser) -> list[str]:
    return paragraphs(parser.description)


def _examples(parser: argparse.ArgumentParser) -> list[str]:
    return [".PP", ".nf", ".RS", *map(_text, example_lines(parser.epilog)), ".RE", ".fi"]


# arguments


def _usage(parser: argparse.ArgumentParser) -> Iterator[str]:
    """The arguments in square brackets, as `--help` has them; those that exclude each other are in one pair."""
    shown = list(filter(_has_text, parser._actions))
    groups = {id(each): group for group in parser._mutually_exclusive_groups for each in group._group_actions}
    done: set[int] = set()
    for action in [each for each in shown if each.option_strings]:
        if id(action) not in done:
            together = groups[id(action)]._group_actions if id(action) in groups else [action]
            done |= set(map(id, together))
            yield f"[{' | '.join(map(_short, together))}]"
    yield from (_values(each) for each in shown if not each.option_strings)


def _short(action: argparse.Action) -> str:
    if isinstance(action, argparse.BooleanOptionalAction):
        return " | ".join(action.option_strings)
    return f"{action.option_strings[0]} {_values(action)}".rstrip()


def _values(action: argparse.Action) -> str:
    if action.nargs == 0:
        return ""
    choices = "{" + ",".join(map(str, action.choices or ())) + "}"
    name = action.metavar or (choices if action.choices else action.dest.upper())
    return {argparse.OPTIONAL: f"[{name}]", argparse.ZERO_OR_MORE: f"[{name} ...]"}.get(
        str(action.nargs), str(name)
    )


def _arguments(parser: argparse.ArgumentParser) -> Iterator[str]:
    """The arguments with their help, group by group."""
    for number, group in enumerate(parser._action_groups):
        if number > 1 and any(map(_has_text, group._group_actions)):
            yield ".PP"
            yield _italic(f"{group.title}:")
        for action in filter(_has_text, group._group_actions):
            yield from _option(", ".join(_forms(action)), str(action.help) % {"default": action.default})


def _has_text(action: argparse.Action) -> bool:
    """It is told about: `--help` is, once, in the beginning."""
    without = argparse._SubParsersAction, argparse._HelpAction
    return action.help not in (None, argparse.SUPPRESS) and not isinstance(action, without)


def _forms(action: argparse.Action) -> Iterable[str]:
    if not action.option_strings:
        return [str(action.metavar) if action.metavar else _values(action)]
    return [f"{option} {_values(action)}".rstrip() for option in action.option_strings]


# text


def _option(name: str, text: str) -> list[str]:
    return [".TP", f'.B "{_text(name)}"', _text(text)]


def _italic(text: str) -> str:
    return f'.I "{_text(text)}"'


def _text(text: str) -> str:
    """Text as roff takes it for itself."""
    plain = text.replace("\\", "\\e").replace("-", "\\-").replace('"', "\\(dq").replace("'", "\\(aq")
    plain = re.sub(r"[^\x00-\x7f]", lambda found: f"\\[u{ord(found[0]):04X}]", plain)
    return f"\\&{plain}" if plain.startswith(".") else plain


def main(arguments: Sequence[str]) -> int:
    """Write the page; with `--check` say that it is not as it would be."""
    if arguments == ["--check"]:
        is_right = PAGE.exists() and PAGE.read_text() == page()
        if not is_right:
            print(f"{PAGE.relative_to(ROOT)} is not what tools/manpage.py makes", file=sys.stderr)
        return 0 if is_right else 1
    if arguments:
        print(__doc__, file=sys.stderr)
        return 2
    PAGE.write_text(page())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

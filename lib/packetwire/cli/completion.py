"""`packetwire completion`: a script by which a shell completes the words of packetwire commands."""

from __future__ import annotations

import argparse

from packetwire.cli.arguments import Commands
from packetwire.cli.failure import EXIT_FAILED, CommandFailed
from packetwire.cli.helptext import examples

SHELLS = ("bash", "zsh", "fish")

DESCRIPTION = """
Prints a script for the completion of packetwire's commands, options and arguments by TAB. In bash and zsh:
eval "$(packetwire completion bash)", in fish: packetwire completion fish | source. Behind `packetwire call ADDRESS`
the service at a unix:, tcp:, tls: or ZMQ address is asked for its methods and their fields, for two seconds at
most; no program is started for that. It needs argcomplete, which the extra cli brings.
"""


EXAMPLES = examples(
    "packetwire completion bash",
    "packetwire completion fish",
)


def add_parser(commands: Commands) -> None:
    """Add this command to the command line."""
    parser = commands.add_parser(
        "completion", help="print a script for completion by TAB", description=DESCRIPTION, epilog=EXAMPLES
    )
    parser.set_defaults(run=run)
    parser.add_argument("shell", choices=SHELLS, help="the shell")


def run(args: argparse.Namespace) -> int:
    """Print the script."""
    try:
        from argcomplete.shell_integration import shellcode
    except ImportError as error:
        raise CommandFailed("this needs argcomplete: pip install 'packetwire[cli]'", EXIT_FAILED) from error
    print(shellcode(["packetwire"], True, args.shell))
    return 0

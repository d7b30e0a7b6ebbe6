"""`packetwire wireshark`: the dissector for Wireshark and tshark, and installing it."""

from __future__ import annotations

import argparse
import os
import sys
from importlib import resources
from pathlib import Path

from packetwire.cli.arguments import Commands
from packetwire.cli.failure import EXIT_FAILED, CommandFailed
from packetwire.cli.helptext import examples

NAME = "packetwire.lua"
PERSONAL = "~/.local/lib/wireshark/plugins"
"""The directory of a user's own Lua plugins, on Linux and macOS: "Personal Lua Plugins" in Wireshark's folders."""

DESCRIPTION = """
Writes the dissector for packet streams, a Lua script for Wireshark and tshark, to standard output; --install puts
it where Wireshark finds it at its next start, and says where that is. "packetwire dump CAPTURE --pcap FILE" makes a
file of a capture that Wireshark opens. A stream over tcp: is recognised by its port, 52652 unless the preferences
of the protocol say otherwise, or by "Decode As".
Exit status: 0, or 1 if it cannot be written.
"""


EXAMPLES = examples(
    "packetwire wireshark --install",
    "packetwire wireshark --install plugins",
)


def add_parser(commands: Commands) -> None:
    """Add this command and its options to the command line."""
    parser = commands.add_parser(
        "wireshark", help="the dissector for Wireshark", description=DESCRIPTION, epilog=EXAMPLES
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "--install",
        metavar="DIR",
        nargs="?",
        const=PERSONAL,
        help=f"write it to this directory (default: {PERSONAL})",
    )


def run(args: argparse.Namespace) -> int:
    """Write the script, return the exit status."""
    script = resources.files("packetwire").joinpath("wireshark", NAME).read_bytes()
    if args.install is None:
        sys.stdout.buffer.write(script)
        return 0
    path = Path(args.install).expanduser() / NAME
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(script)
    except OSError as error:
        raise CommandFailed(f"cannot write {os.fspath(path)!r}: {error.strerror}", EXIT_FAILED) from None
    print(path)
    return 0

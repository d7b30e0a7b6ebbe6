"""`python -m tests.poolload`: the command."""

from __future__ import annotations

import argparse
import tempfile
from contextlib import ExitStack
from pathlib import Path

from .load import FACES, Tally
from .places import Places

PROG = "python -m tests.poolload"


def parsed(argv: list[str] | None = None) -> argparse.Namespace:
    """The arguments of the command."""
    parser = argparse.ArgumentParser(prog=PROG, description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="for each face (default: %(default)s)")
    parser.add_argument("--faces", nargs="+", choices=FACES, default=list(FACES), help="one or both")
    parser.add_argument("--interval", type=float, default=0.5, help="seconds of peace (default: %(default)s)")
    parser.add_argument(
        "--seed", type=int, default=1, help="what it happens to is drawn from (default: %(default)s)"
    )
    return parser.parse_args(argv)


def main() -> None:
    arguments = parsed()
    for face in arguments.faces:
        tally = Tally()
        with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
            places = Places(Path(directory), stack)
            FACES[face](places, tally, arguments.seconds, arguments.interval, arguments.seed)
            print(
                f"{face}, {arguments.seconds:g} s\n{tally.report(places.executed(), places.happened)}\n", flush=True
            )
            tally.check(places.executed())


if __name__ == "__main__":
    main()

"""`python -m tests.soak`: the command."""

from __future__ import annotations

import argparse
import random
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .plan import WORDS
from .rounds import NoSuchRound, RoundFailed, Tally, soaking

PROG = "python -m tests.soak"


def parsed(argv: list[str]) -> argparse.Namespace:
    """The arguments of the command."""
    parser = argparse.ArgumentParser(prog=PROG, description=__doc__)
    parser.add_argument("--seed", type=int, help="what all is drawn from; else one that is chosen, and shown")
    parser.add_argument(
        "--seconds", type=float, help="begin no round after that time (60 if there are no --rounds)"
    )
    parser.add_argument("--rounds", type=int, help="end after that many rounds")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="the number of the first round")
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="WORD",
        help="only rounds with all of these: pair faulty child server bridge; tcp tls pipes zmq zmq+pair-ipc ...; "
        "threads asyncio uvloop; clean cut killed ...",
    )
    parser.add_argument("--every", type=int, default=100, metavar="N", help="print a line each N rounds")
    arguments = parser.parse_args(argv)
    unknown = set(arguments.only) - WORDS
    if unknown:
        parser.error(f"--only: no round has the word {min(unknown)!r}; there are: {' '.join(sorted(WORDS))}")
    return arguments


@contextmanager
def _ended_by_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Ctrl-C and SIGTERM end it behind the present round."""
    former = {number: signal.signal(number, lambda *_: stop()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def main() -> int:
    arguments = parsed(sys.argv[1:])
    seed = random.SystemRandom().randrange(1 << 31) if arguments.seed is None else arguments.seed
    seconds = 60.0 if arguments.seconds is None and arguments.rounds is None else arguments.seconds
    print(f"seed {seed}", flush=True)

    def after_each(tally: Tally) -> None:
        if tally.rounds % arguments.every == 0:
            asked = sum(tally.requests.values())
            print(
                f"{tally.seconds:7.0f} s, {tally.rounds} rounds, {asked} requests, {tally.octets >> 20} MiB, "
                f"{len(tally.at_end.threads)} threads, {len(tally.at_end.fds)} descriptors"
                + (f", {tally.memory[-1].resident >> 20} MiB resident" if tally.memory else ""),
                flush=True,
            )

    with soaking(seed) as soak, _ended_by_signals(soak.stop):
        status = 0
        try:
            soak.run(
                first=arguments.first,
                seconds=seconds,
                rounds=arguments.rounds,
                only=tuple(arguments.only),
                after_each=after_each,
            )
        except RoundFailed as failed:
            print(f"FAILED: {failed}", file=sys.stderr, flush=True)
            status = 1
        except NoSuchRound as none:
            print(f"{PROG}: {none}", file=sys.stderr, flush=True)
            status = 2
        for line in soak.tally.lines():
            print(line)
    return status


if __name__ == "__main__":
    sys.exit(main())

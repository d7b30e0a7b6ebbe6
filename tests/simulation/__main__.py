"""`python -m tests.simulation`: the command."""

from __future__ import annotations

import argparse
import gc
import random
import sys
import time

from .rounds import Failed, Report, run_seed

PROG = "python -m tests.simulation"


def parsed(argv: list[str]) -> argparse.Namespace:
    """The arguments of the command."""
    parser = argparse.ArgumentParser(
        prog=PROG, description="Simulates conversations; a seed that fails is repeated exactly."
    )
    parser.add_argument("--face", choices=("asyncio", "threads"), default="asyncio")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--seed", type=int, help="only this one; without --seeds, all from one that is chosen")
    which.add_argument("--seeds", metavar="A..B", help="these, B included")
    parser.add_argument("--steps", type=int, default=1_000_000, metavar="N", help="end after so many (1,000,000)")
    parser.add_argument("-x", action="store_true", help="end after the first that fails; else after the tenth")
    parser.add_argument("--log", action="store_true", help="show what happens, with --seed")
    return parser.parse_args(argv)


def main() -> int:
    arguments = parsed(sys.argv[1:])
    if arguments.seed is not None:
        seeds = range(arguments.seed, arguments.seed + 1)
    elif arguments.seeds is not None:
        first, last = arguments.seeds.split("..")
        seeds = range(int(first), int(last) + 1)
    else:
        first = random.SystemRandom().randrange(1 << 31)
        seeds = range(first, first + (1 << 31))
    print(f"seeds from {seeds[0]}", flush=True)
    run = run_seed
    if arguments.face == "threads":
        from .threadrounds import run_thread_seed as run
    total, failed = Report(), 0
    began = time.perf_counter()
    for number, seed in enumerate(seeds):
        log: list[str] | None = [] if arguments.log else None
        try:
            total.add(run(seed, log=log))
        except Failed as failure:
            failed += 1
            print(failure, flush=True)
        for line in log or ():
            print(line)
        if number % 50 == 49:
            gc.collect()
        if total.steps >= arguments.steps or failed >= (1 if arguments.x else 10):
            break
    show(total, time.perf_counter() - began)
    return 1 if failed else 0


def show(total: Report, took: float) -> None:
    """Print the figures."""
    print(f"{total.rounds} rounds, {total.steps} steps in {took:.1f} s, {total.seconds / 3600:.2f} simulated hours")
    print(f"{total.requests} requests: " + ", ".join(f"{name} {n}" for name, n in sorted(total.outcomes.items())))
    print("ends: " + ", ".join(f"{name} {number}" for name, number in sorted(total.ends.items())))
    print(f"trace {total.trace:08x}")


if __name__ == "__main__":
    sys.exit(main())

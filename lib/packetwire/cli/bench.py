"""`packetwire bench`: measures requests, on this machine beside other libraries, or with a server at an address.

The measurements are in `packetwire.cli.benchmarks`, the contenders in `packetwire.cli.contenders`. All of it runs
in processes of their own, which `packetwire.cli.measured` starts afresh for each round.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import packetwire
from packetwire.cli import curve
from packetwire.cli.addressing import address, check_connectable, seconds
from packetwire.cli.arguments import Commands, whole_number
from packetwire.cli.benchmarks import BULK, CALLERS, DEPTH
from packetwire.cli.contenders import CONNECTION, CONTENDERS, DEFAULT, INLINE, RAW
from packetwire.cli.display import Display, open_console, open_display
from packetwire.cli.failure import EXIT_USAGE, CommandFailed
from packetwire.cli.helptext import examples
from packetwire.cli.measured import MeasuredProcess, contest, remote

WARM_UP = 2000
"""Requests before the first measurement."""
STDOUT = "-"

DESCRIPTION = f"""
Measures round trips, requests per second with {DEPTH} in flight and with {CALLERS} calling threads, 1 MiB up and
down, CPU time per request ({DEPTH} in flight), and how much memory grows. Without ADDRESS: between two processes
on this machine, beside bare read and write (raw) and multiprocessing.connection (mp.connection), in turn, with
our handlers in threads (the default) and inline; CPU time and memory are those of both processes. With ADDRESS:
a server that is somewhere, started there by "packetwire serve packetwire.cli.benchmarks:REQUESTS ADDRESS"; CPU
time and memory are those of this end. Shown are medians of all rounds. Let the machine do nothing else.
Exit status: 0 when all is measured, 1 if it failed, 2 for bad arguments, 130 after Ctrl-C.
"""

FIGURES = {
    "round_trip_us": ("round trip, µs", 1),
    "round_trip_p99_us": ("  99 % within, µs", 1),
    "in_flight_per_s": (f"{DEPTH} in flight, /s", 0),
    "cpu_us_per_request": ("  CPU/request, µs", 1),
    "callers_per_s": (f"{CALLERS} callers, /s", 0),
    "up_mb_per_s": ("1 MiB up, MB/s", 0),
    "down_mb_per_s": ("1 MiB down, MB/s", 0),
    "growth_kib": ("memory growth, KiB", 0),
}
"""The figures: their labels, and the number of decimals."""

RATIOS = {"raw": RAW, "mp": CONNECTION}
"""The contenders that ours is compared with, by their short names in the table."""

Figures = dict[str, float]
"""A value for each of `FIGURES`, except those that make no sense for a contender."""
Ends = Sequence[MeasuredProcess]
"""The process that asks, and the one that serves it if that is ours."""
Step = Callable[[], None]
"""To be called after each measurement."""


EXAMPLES = examples(
    "packetwire bench --rounds 1",
    "packetwire bench unix:bench --json figures.json",
)


def add_parser(commands: Commands) -> None:
    """Add this command and its options to the command line."""
    parser = commands.add_parser(
        "bench", help="measure how fast requests are", description=DESCRIPTION, epilog=EXAMPLES
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "address",
        metavar="ADDRESS",
        nargs="?",
        type=address(check_connectable),
        help="a server to measure alone: exec:CMD, ssh:[OPTIONS] HOST CMD, unix:PATH, tcp: or tls:HOST:PORT, "
        "zmq+dealer: or zmq+pair:ENDPOINT",
    )
    parser.add_argument("--pipe", action="store_true", help="a pair of pipes rather than of Unix sockets")
    parser.add_argument("--rounds", type=whole_number(1), default=5, metavar="N", help="(default: 5)")
    parser.add_argument(
        "--seconds", type=_some_seconds, default=0.5, metavar="S", help="for each measurement (default: 0.5)"
    )
    parser.add_argument(
        "--growth",
        type=whole_number(1),
        default=200_000,
        metavar="N",
        help="requests during which memory may grow (default: 200000)",
    )
    parser.add_argument(
        "--seed", type=whole_number(0), default=1, metavar="N", help="of the order in each round (default: 1)"
    )
    parser.add_argument(
        "--json", type=_writable, metavar="FILE", help="write all figures to FILE, or to - (instead of a table)"
    )
    curve.add_client_options(parser)


def _some_seconds(text: str) -> float:
    value = seconds(text)
    if not value:
        raise argparse.ArgumentTypeError(f"expected more than 0 seconds, got {text!r}")
    return value


def _writable(text: str) -> str:
    """The name of a file, checked before all the measuring, without leaving an empty file behind."""
    path = Path(text)
    is_new = not os.path.lexists(path)
    if text == STDOUT or not (is_new or path.is_file() or path.is_dir()):
        return text  # not opened: the reader of a FIFO would take that for its end
    try:
        path.open("ab").close()
        if is_new:
            path.unlink()
    except OSError as error:
        raise argparse.ArgumentTypeError(f"cannot write {text!r}: {error.strerror}") from None
    return text


def run(args: argparse.Namespace) -> int:
    """Measure and show; returns the exit status."""
    if args.address is not None and args.pipe:
        raise CommandFailed("--pipe is for this machine, without ADDRESS", EXIT_USAGE)
    keys = args.curve_server, args.curve_key
    if args.address is not None:
        curve.to_connect(args.address, *keys)  # before all the measuring
    elif any(keys):
        raise CommandFailed("CURVE is for a zmq+ ADDRESS", EXIT_USAGE)
    display = None if args.json == STDOUT else open_display()
    if display:
        show_plan(args, display)
    rounds = measure_address(args) if args.address else measure_contenders(args)
    medians = {name: medians_of(of_each_round) for name, of_each_round in rounds.items()}
    ratios = {name: ratios_of(medians, name) for name in (DEFAULT, INLINE) if name in medians and RAW in medians}
    if display:
        show_medians(medians, display)
        if ratios:
            show_ratios(ratios, display)
    if args.json is not None:
        write_json(args.json, describe(args) | {"medians": medians, "ratios": ratios, "rounds": rounds})
    return 0


# measuring


def measure_contenders(args: argparse.Namespace) -> dict[str, list[Figures]]:
    """Every contender in every round, in an order that differs from round to round."""
    rounds: dict[str, list[Figures]] = {name: [] for name in CONTENDERS}
    order = list(CONTENDERS)
    shuffle = random.Random(args.seed).shuffle
    with progress(args.rounds * sum(steps(contender.many_callers) for contender in CONTENDERS.values())) as step:
        for _ in range(args.rounds):
            shuffle(order)
            for name in order:
                rounds[name].append(
                    measure(contest(name, args.pipe), args, step, many_callers=CONTENDERS[name].many_callers)
                )
    return rounds


def measure_address(args: argparse.Namespace) -> dict[str, list[Figures]]:
    """The server at the address, in every round over a new connection."""
    with progress(args.rounds * steps(many_callers=True)) as step:
        return {DEFAULT: [measure(server_at(args), args, step) for _ in range(args.rounds)]}


def server_at(args: argparse.Namespace) -> AbstractContextManager[Ends]:
    """The process that asks the server at the address."""
    return remote(str(args.address), args.curve_server, args.curve_key)


def steps(many_callers: bool) -> int:
    """The number of measurements in one round of a contender."""
    return 6 if many_callers else 5


def measure(
    processes: AbstractContextManager[Ends], args: argparse.Namespace, step: Step, *, many_callers: bool = True
) -> Figures:
    """All figures of one contender in one round."""
    figures: Figures = {}
    with processes as ends:
        asker = ends[0]
        asker.rate("in_flight", float("inf"), WARM_UP)
        # first of all: memory that the other measurements leave allocated would hide growth
        figures["growth_kib"] = measure_growth(ends, args.growth)
        step()
        round_trips = asker.round_trip(args.seconds)
        figures["round_trip_us"] = round_trips.median * 1e6
        figures["round_trip_p99_us"] = round_trips.p99 * 1e6
        step()
        figures |= measure_in_flight(ends, args.seconds)
        step()
        if many_callers:
            rate = asker.rate("callers", args.seconds)
            figures["callers_per_s"] = rate.requests / rate.seconds
            step()
        for direction in "up", "down":
            rate = asker.rate(direction, args.seconds)
            figures[f"{direction}_mb_per_s"] = rate.requests * len(BULK) / rate.seconds / 1e6
            step()
    return {name: figures[name] for name in FIGURES if name in figures}


def measure_growth(ends: Ends, requests: int) -> float:
    """KiB by which the peak memory of all ends grew."""
    before = sum(end.usage(new_peak=True).peak for end in ends)
    ends[0].rate("in_flight", float("inf"), requests)
    return sum(end.usage().peak for end in ends) - before


def measure_in_flight(ends: Ends, seconds: float) -> Figures:
    """Requests per second, and the CPU time of each, at all ends."""
    before = sum(end.usage().cpu for end in ends)
    rate = ends[0].rate("in_flight", seconds)
    used = sum(end.usage().cpu for end in ends) - before
    return {
        "in_flight_per_s": rate.requests / rate.seconds,
        "cpu_us_per_request": used / rate.requests * 1e6,
    }


@contextmanager
def progress(total: int) -> Iterator[Step]:
    """A bar on standard error, if that is a terminal; it is drawn between two measurements and never during one."""
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield lambda: None
        return
    try:
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        console = open_console(to_stderr=True)
    except ImportError:
        with _plain_progress(total) as step:
            yield step
        return
    columns = TextColumn("  measuring"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
    with Progress(
        *columns, console=console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False
    ) as bars:
        task = bars.add_task("", total=total)
        bars.refresh()
        yield lambda: bars.update(task, advance=1, refresh=True)


@contextmanager
def _plain_progress(total: int) -> Iterator[Step]:
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        print(f"\r  measuring {100 * done // total:3} %", end="", file=sys.stderr, flush=True)

    try:
        yield step
    finally:
        print("\r" + " " * 20, end="\r", file=sys.stderr, flush=True)


# results


def medians_of(rounds: Sequence[Figures]) -> Figures:
    """The median of each figure."""
    return {figure: statistics.median(of_round[figure] for of_round in rounds) for figure in rounds[0]}


def ratios_of(medians: Mapping[str, Figures], name: str) -> dict[str, Figures]:
    """The figures of one contender as multiples of those that it is compared with."""
    return {
        other: {
            figure: value / medians[other][figure]
            for figure, value in medians[name].items()
            if medians[other].get(figure) and figure != "growth_kib"  # a growth near zero is no measure
        }
        for other in RATIOS.values()
    }


def describe(args: argparse.Namespace) -> dict[str, object]:
    """The measured software and machine, and the settings."""
    return {
        "packetwire": packetwire.__version__,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": platform.platform(),
        "cpus": os.cpu_count(),
        "address": None if args.address is None else str(args.address),
        "transport": None if args.address else "pipe" if args.pipe else "unix",
        "seconds": args.seconds,
        "growth_requests": args.growth,
        "seed": args.seed,
    }


def show_plan(args: argparse.Namespace, display: Display) -> None:
    """Say what is going to be measured."""
    about = describe(args)
    display.title(f"packetwire {about['packetwire']}: how fast requests are")
    display.fact("on", f"{about['python']}, {about['cpus']} CPUs, {about['system']}")
    if args.address is not None:
        display.fact("server", str(args.address))
        display.fact("here", "CPU time and memory are those of this end alone")
    else:
        display.fact("between", f"two processes, over a pair of {'pipes' if args.pipe else 'Unix sockets'}")
    display.fact("rounds", f"{args.rounds}, {args.seconds:g} s for each measurement, medians are shown")


def show_medians(medians: Mapping[str, Figures], display: Display) -> None:
    """The table of all figures."""
    rows = [
        [label, *(_number(figures.get(figure), decimals) for figures in medians.values())]
        for figure, (label, decimals) in FIGURES.items()
    ]
    display.table(["", *(CONTENDERS[name].label for name in medians)], rows)


def show_ratios(ratios: Mapping[str, Mapping[str, Figures]], display: Display) -> None:
    """The table of ours as multiples of the others."""
    pairs = [(name, short, other) for name in ratios for short, other in RATIOS.items()]
    rows = [
        [label, *(_number(ratios[name][other].get(figure), 2) for name, _, other in pairs)]
        for figure, (label, _) in FIGURES.items()
        if any(figure in ratios[name][other] for name, _, other in pairs)
    ]
    display.fact("ratios", "ours / theirs: of times less is better, of rates more")
    display.table(["ours / theirs", *(f"{CONTENDERS[name].label}/{short}" for name, short, _ in pairs)], rows)


def _number(value: float | None, decimals: int) -> str:
    return "-" if value is None else f"{value:,.{decimals}f}"


def write_json(where: str, results: Mapping[str, object]) -> None:
    """Write all results to a file, or to standard output."""
    text = json.dumps(results, indent=2) + "\n"
    if where == STDOUT:
        sys.stdout.write(text)
    else:
        Path(where).write_text(text, encoding="utf-8")

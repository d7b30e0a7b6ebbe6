"""`packetwire demo`: a chunk store as a child process, filled, read back, compared and measured.

The store is `packetwire.cli.chunkstore`, what goes into it comes from `packetwire.cli.sources`. A second
store is killed in mid-transfer, to show what its user gets to see.
"""

from __future__ import annotations

import argparse
import itertools
import random
import shlex
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import packetwire
from packetwire import ChildExited, child
from packetwire.cli.arguments import UNITS, size, whole_number
from packetwire.cli.chunkclient import REPLY_TIMEOUT, ChunkClient, Measured
from packetwire.cli.chunkstore import OWN_GROUP, Add, Contains, Get, Length, address_of, store_command
from packetwire.cli.display import Display, megabytes, open_display
from packetwire.cli.killedstore import kill_store
from packetwire.cli.sources import Chunk, GeneratedSource, cut, find_files

ROUND_TRIPS = 2000
MISMATCHES_SHOWN = 5

DESCRIPTION = f"""
Starts a chunk store as a child process and talks to it over its pipes. Stores the package's own sources,
the files of fixtures/ if run in a checkout, and octets generated from a seed. Reads all of it back and
compares it with digests made anew from the disk. Kills a second store in mid-transfer and shows the error.
Prints the rates. A SIZE is a number of octets, or has a unit: {", ".join(filter(None, UNITS))}.
Exit status: 0 if everything came back right, 1 if not, 2 for bad arguments, 130 after Ctrl-C.
"""


def add_parser(commands: Any) -> None:
    """Add this command and its options to the command line."""
    parser = commands.add_parser(
        "demo", help="store files and 20 MB in a child process, read them back, compare", description=DESCRIPTION
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "--seed", type=whole_number(0), default=1, metavar="N", help="seed of the generated octets (default: 1)"
    )
    parser.add_argument(
        "--size",
        type=size(0, 10**9, "up to 1GB"),
        default=20 * 10**6,
        metavar="SIZE",
        help="how much is generated, up to 1GB (default: 20MB)",
    )
    parser.add_argument(
        "--in-flight",
        type=whole_number(1, 1024),
        default=64,
        metavar="N",
        help="requests under way at a time, 1 to 1024 (default: 64)",
    )
    parser.add_argument(
        "--chunk-size",
        type=size(1 << 10, 16 << 20, "from 1KiB to 16MiB"),
        default=64 << 10,
        metavar="SIZE",
        help="size of a chunk, 1KiB to 16MiB (default: 64KiB)",
    )
    parser.add_argument(
        "--corrupt", action="store_true", help="let the store flip one octet, which must be found: exit status 1"
    )


@dataclass(frozen=True)
class Mismatch:
    """A chunk that did not come back as it is on the disk."""

    chunk: Chunk
    expected: bytes
    got: bytes


def run(args: argparse.Namespace) -> int:
    """The whole demo; returns the exit status."""
    display = open_display()
    files = find_files()
    plan = list(cut([*files, GeneratedSource(args.seed, args.size)], args.chunk_size))
    damaged = random.Random(args.seed).choice(plan) if args.corrupt else None
    argv = store_command(address_of(damaged.read()) if damaged else None)

    display.title(f"packetwire {packetwire.__version__}: a chunk store as a child process, over its pipes")
    display.fact("child", shlex.join(argv))
    display.fact("files", f"{len(files)}, {megabytes(sum(file.size for file in files))}")
    display.fact("generated", f"{megabytes(args.size)} from seed {args.seed}")
    display.fact(
        "chunks", f"{len(plan):,} of up to {args.chunk_size:,} octets, {args.in_flight} requests in flight"
    )
    if damaged:
        display.fact("corrupt", f"the store flips one octet of {damaged}")

    with ChunkClient(child(argv, process_group=OWN_GROUP), window=args.in_flight) as client:
        client.conn_submit(Length())(timeout=REPLY_TIMEOUT)  # so that no start is measured, neither end's
        addresses = store_all(client, plan, display)
        faults = look_up(client, addresses, display)
        mismatches = read_back(client, plan, addresses, display)
        in_turn = itertools.islice(itertools.cycle(addresses), ROUND_TRIPS)
        client.ask_in_turn("Contains, one by one", map(Contains, in_turn))
    faults += show_killed_store(display)
    display.table(COLUMNS, [table_row(measured) for measured in client.measured])
    faults += show_mismatches(mismatches, len(plan), display)
    if damaged and damaged not in [mismatch.chunk for mismatch in mismatches]:
        faults.append("the octet that the store flipped was not found")
    for fault in faults:
        display.verdict(fault, good=False)
    if faults:
        return 1
    display.verdict(f"all {len(plan):,} chunks came back as they are on the disk (SHA-256)", good=True)
    return 0


def store_all(client: ChunkClient, plan: Sequence[Chunk], display: Display) -> list[bytes]:
    """Add every chunk, return the addresses that the store gave them."""
    size_in_all = sum(chunk.size for chunk in plan)
    addresses = []
    with display.progress("store", size_in_all) as advance:
        replies = client.ask_in_flight("Add", (Add(chunk.read()) for chunk in plan), size_in_all)
        for chunk, address in zip(plan, replies, strict=True):
            addresses.append(address)
            advance(chunk.size)
    return addresses


def look_up(client: ChunkClient, addresses: Sequence[bytes], display: Display) -> list[str]:
    """Ask for every address whether it is there, and how many there are; return what is wrong with that."""
    there = sum(client.ask_in_flight("Contains", map(Contains, addresses)))
    length, distinct = client.ask(Length()), len(set(addresses))
    display.fact("look up", f"{there:,} of {len(addresses):,} chunks are there, {length:,} different ones")
    if there == len(addresses) and length == distinct:
        return []
    return [
        f"the store was given {distinct} different chunks and has {length}; {len(addresses) - there} are missing"
    ]


def read_back(
    client: ChunkClient, plan: Sequence[Chunk], addresses: Sequence[bytes], display: Display
) -> list[Mismatch]:
    """Get every chunk, compare it with its source as that is now."""
    size_in_all = sum(chunk.size for chunk in plan)
    mismatches = []
    with display.progress("read back", size_in_all) as advance:
        replies = client.ask_in_flight("Get", map(Get, addresses), size_in_all)
        for chunk, address, data in zip(plan, addresses, replies, strict=True):
            expected, got = address_of(chunk.read()), address_of(data)
            if not expected == got == address:
                mismatches.append(Mismatch(chunk, expected, got if got != expected else address))
            advance(chunk.size)
    return mismatches


def show_killed_store(display: Display) -> list[str]:
    """Kill a second store and show the error; return what is wrong with that."""
    display.title("a second store, killed by SIGKILL in mid-transfer")
    killed = kill_store()
    lost = len(killed.errors)
    for error in killed.errors[:1]:
        display.fact(type(error).__name__, str(error))
    display.fact("requests", f"{killed.submitted} submitted, {killed.answered} answered, {lost} lost, none waits")
    told = [error for error in killed.errors if isinstance(error, ChildExited) and error.signal == signal.SIGKILL]
    if told and len(told) == lost and killed.answered + lost == killed.submitted:
        return []
    return ["not every request that was lost with its store ended with ChildExited and signal 9"]


def show_mismatches(mismatches: Sequence[Mismatch], total: int, display: Display) -> list[str]:
    """Show what did not come back as it was; return what is wrong."""
    for mismatch in mismatches[:MISMATCHES_SHOWN]:
        display.fact("mismatch", str(mismatch.chunk))
        display.fact("  expected", mismatch.expected.hex())
        display.fact("  got", mismatch.got.hex())
    return (
        [f"{len(mismatches):,} of {total:,} chunks did not come back as they are on the disk"] if mismatches else []
    )


COLUMNS = ("", "requests/s", "MB/s", "median round trip", "p99")


def table_row(measured: Measured) -> list[str]:
    """The row for one series of requests."""
    return [
        measured.what,
        f"{len(measured.round_trips) / measured.seconds:,.0f}",
        f"{measured.octets / measured.seconds / 1e6:,.1f}" if measured.octets else "",
        _duration(measured.median),
        _duration(measured.p99),
    ]


def _duration(seconds: float) -> str:
    return f"{seconds * 1e6:,.0f} µs" if seconds < 0.01 else f"{seconds * 1e3:,.1f} ms"

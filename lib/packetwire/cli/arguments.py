"""Types of arguments for argparse: numbers and sizes; and the options about admission."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TypeAlias

from packetwire.addresses import Address, UnixAddress
from packetwire.cli.failure import EXIT_USAGE, CommandFailed

UNITS = {"": 1, "kB": 1000, "MB": 1000**2, "GB": 1000**3, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""The commands of a command line, to which a command adds its parser."""

_MULTIPLES = {unit.lower(): multiple for unit, multiple in UNITS.items()}


def whole_number(low: int, high: int | None = None) -> Callable[[str], int]:
    """The type of a number from `low` to `high`."""
    return _bounded(_digits, f"a whole number from {low}" + ("" if high is None else f" to {high}"), low, high)


def size(low: int, high: int, bounds: str) -> Callable[[str], int]:
    """The type of a number of bytes from `low` to `high`, as `bounds` says, with or without one of `UNITS`."""
    return _bounded(_bytes_in, f"a size {bounds}, such as 300kB or 4MiB", low, high)


def _bounded(parse: Callable[[str], int], expected: str, low: int, high: int | None) -> Callable[[str], int]:
    def parse_bounded(text: str) -> int:
        try:
            value = parse(text)
        except (ValueError, KeyError):
            value = low - 1
        if value < low or (high is not None and value > high):
            raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}")
        return value

    return parse_bounded


def _digits(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValueError
    return int(text)


def _bytes_in(text: str) -> int:
    number = text.rstrip("kKmMgGiIbB")
    return _digits(number) * _MULTIPLES[text[len(number) :].lower()]


def add_admission_options(parser: argparse.ArgumentParser) -> None:
    """Add the options about the clients that may connect."""
    parser.add_argument(
        "--max-per-address",
        type=whole_number(1),
        metavar="N",
        help="clients at a time from one IP address (default: no other limit than that for all)",
    )
    parser.add_argument(
        "--allow-uid",
        type=whole_number(0),
        action="append",
        metavar="UID",
        help="the number of a user who may connect to a unix: address; can be given several times (default: you)",
    )


def check_admission_options(args: argparse.Namespace, address: Address) -> None:
    """Raise `CommandFailed` for an option that makes no sense at that address."""
    if args.allow_uid and not isinstance(address, UnixAddress):
        raise CommandFailed(f"--allow-uid is for a unix: address, not for {address}", EXIT_USAGE)

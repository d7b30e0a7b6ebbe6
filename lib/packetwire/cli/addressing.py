"""Types of arguments for argparse: addresses and times."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

from packetwire.addresses import Address, StdioAddress, TcpAddress, ZmqAddress, ZmqRouterAddress, parse_address
from packetwire.errors import LocalProtocolError


def address(check: Callable[[Address], None]) -> Callable[[str], Address]:
    """The type of an address; `check` raises `LocalProtocolError` for one that the command cannot use."""

    def parse_checked(text: str) -> Address:
        try:
            parsed = parse_address(text)
            check(parsed)
        except LocalProtocolError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
        if isinstance(parsed, ZmqAddress):
            _check_zmq(parsed)
        return parsed

    return parse_checked


def _check_zmq(target: ZmqAddress) -> None:
    if target.endpoint.startswith("inproc:"):
        raise argparse.ArgumentTypeError(
            f"{target}: inproc: is for within one process, and a command is another one"
        )
    try:
        import zmq  # noqa: F401
    except ImportError:
        text = f"{target} needs pyzmq, which is not installed: pip install 'packetwire[zmq]'"
        raise argparse.ArgumentTypeError(text) from None


def check_connectable(target: Address) -> None:
    """Raise `LocalProtocolError` for an address that is only for serving."""
    if isinstance(target, StdioAddress):
        raise LocalProtocolError("stdio: is for serving: here standard output is for the results")
    if isinstance(target, ZmqRouterAddress):
        raise LocalProtocolError(f"{target}: a ROUTER is for serving; connect by zmq+dealer:")
    if isinstance(target, TcpAddress) and not target.port:
        raise LocalProtocolError(f"{target}: port 0 is for listening, there is nothing to connect to")


def seconds(text: str) -> float:
    """A time in seconds, not negative."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number of seconds, such as 2.5, got {text!r}")
    return value


def add_sync_option(parser: argparse.ArgumentParser) -> None:
    """Add the option for shells that say something before the far program starts."""
    parser.add_argument(
        "--sync",
        action="store_true",
        help="drop what the shell of an ssh: address says before the command starts, such as a greeting; also for "
        "exec: where the last word is a command for a shell",
    )

"""The words that a shell completes, where the parsers do not know them: methods of a service, and their fields.

Strategy. There are no words if anything goes wrong. Only sockets are asked: a TAB starts no program, and asks for
no password.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from typing import Any

from packetwire.addresses import KINDS, TcpAddress, UnixAddress, ZmqAddress, connect_to

ASKED_FOR = 2.0
"""Seconds for connecting, and as many for the answer."""

Completer = Callable[..., Iterable[str]]


def completed_by(argument: argparse.Action, completer: Completer) -> None:
    """Have argcomplete, if that is there, ask `completer` for the words of an argument."""
    argument.completer = completer  # type: ignore[attr-defined]


def addresses(prefix: str, **_: Any) -> list[str]:
    """The beginnings of addresses."""
    return [f"{kind}:" for kind in KINDS]


def methods(prefix: str, parsed_args: argparse.Namespace, **_: Any) -> list[str]:
    """The methods of the service at the address that stands before."""
    return [*_methods_at(parsed_args)]


def fields(prefix: str, parsed_args: argparse.Namespace, **_: Any) -> list[str]:
    """The fields of the method that stands before, but for those that are given."""
    method = _methods_at(parsed_args).get(parsed_args.type)
    if method is None:
        return []
    given = {word.partition("=")[0].partition(":")[0] for word in parsed_args.words or ()}
    return [f"{name}=" for name in method["fields"] if name not in given]


def _methods_at(args: argparse.Namespace) -> dict[str, Any]:
    try:
        return _asked(args) if isinstance(args.address, UnixAddress | TcpAddress | ZmqAddress) else {}
    except BaseException:  # also SystemExit
        return {}


def _asked(args: argparse.Namespace) -> dict[str, object]:
    from packetwire.cli import curve
    from packetwire.cli.describe import schema_of_peer
    from packetwire.cli.tls import client_ssl_context
    from packetwire.connection import PacketConnection

    connect = connect_to(
        curve.to_connect(args.address, args.curve_server, args.curve_key),
        timeout=ASKED_FOR,
        ssl_context=client_ssl_context(args),
        server_name=args.server_name,
    )
    with PacketConnection(connect, request_handler=None, close_timeout=0.5) as conn:
        found: dict[str, object] = schema_of_peer(conn, ASKED_FOR, "")["methods"]
        return found

"""The options of commands that use CURVE with a `zmq+` address, and the address with the keys.

Keys are in files as made by `zmq.auth.create_certificates`: NAME.key has a public key, NAME.key_secret the secret
key as well.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import replace

from packetwire.addresses import Address, ZmqDealerAddress, ZmqPairAddress, ZmqRouterAddress
from packetwire.cli.failure import EXIT_USAGE, CommandFailed
from packetwire.errors import LocalProtocolError
from packetwire.streams.curve import CurveClient, CurveServer, curve_keys

TITLE = "CURVE, for zmq+ addresses; key files are as zmq.auth.create_certificates makes them"
SERVER_HELP = "the server's public key, which nobody else can have"


def add_client_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a command that connects."""
    curve = parser.add_argument_group(TITLE)
    curve.add_argument("--curve-server", metavar="FILE", help=SERVER_HELP)
    curve.add_argument("--curve-key", metavar="FILE", help="our secret key (default: a new one)")


def add_server_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a command that serves."""
    add_server_keys(parser.add_argument_group(TITLE))


def add_server_keys(group: argparse._ArgumentGroup) -> None:
    """Add the options for `to_serve`."""
    group.add_argument("--curve-key", metavar="FILE", help="our secret key; clients need the public one")
    group.add_argument(
        "--curve-clients", metavar="PATH", help="let in only those whose public keys are in this file or directory"
    )


def to_connect(target: Address, server: str | None, key: str | None) -> Address:
    """The address with the server's public key and our own key, from these files."""
    if server is None and key is None:
        return target
    if not isinstance(target, ZmqDealerAddress | ZmqPairAddress):
        raise CommandFailed(f"CURVE is for zmq+dealer: and zmq+pair: addresses, not for {target}", EXIT_USAGE)
    if server is None:
        raise CommandFailed("our key for CURVE is of no use without --curve-server FILE", EXIT_USAGE)
    public, secret = curve_keys() if key is None else _pair(key)
    try:
        return replace(target, curve=CurveClient(_public(server), public, secret))
    except LocalProtocolError as error:
        raise CommandFailed(f"invalid key for CURVE: {error}", EXIT_USAGE) from None


def to_serve(target: Address, key: str | None, clients: str | None) -> Address:
    """The address with our own key, from a file, and those of the clients, from a file or directory."""
    if key is None and clients is None:
        return target
    if not isinstance(target, ZmqRouterAddress | ZmqPairAddress):
        raise CommandFailed(f"CURVE is for zmq+router: and zmq+pair: addresses, not for {target}", EXIT_USAGE)
    if key is None:
        raise CommandFailed("--curve-clients needs --curve-key FILE", EXIT_USAGE)
    known = None if clients is None else [_public(path) for path in _key_files(clients)]
    try:
        return replace(target, curve=CurveServer(_pair(key)[1], known))
    except LocalProtocolError as error:
        raise CommandFailed(f"invalid key for CURVE: {error}", EXIT_USAGE) from None


def _key_files(path: str) -> list[str]:
    """The file, or the files of public keys in the directory."""
    try:
        if not os.path.isdir(path):
            return [path]
        return [entry.path for entry in os.scandir(path) if entry.name.endswith(".key")]
    except OSError as error:
        raise CommandFailed(f"cannot read {path!r}: {error.strerror}", EXIT_USAGE) from None


def _public(path: str) -> bytes:
    return _load(path)[0]


def _pair(path: str) -> tuple[bytes, bytes]:
    public, secret = _load(path)
    if secret is None:
        raise CommandFailed(f"there is no secret key in {path!r}, only a public one", EXIT_USAGE)
    return public, secret


def _load(path: str) -> tuple[bytes, bytes | None]:
    from zmq.auth import load_certificate

    try:
        with open(path, "rb"):
            return load_certificate(path)
    except OSError as error:
        raise CommandFailed(f"cannot read {path!r}: {error.strerror}", EXIT_USAGE) from None
    except (ValueError, IndexError):  # an IndexError for a line without a "="
        raise CommandFailed(f"there is no key for CURVE in {path!r}", EXIT_USAGE) from None

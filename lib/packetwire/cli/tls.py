"""The options of commands that use a `tls:` address, and the `ssl.SSLContext` made of them."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from packetwire.addresses import TlsAddress
from packetwire.cli.failure import EXIT_USAGE, CommandFailed

if TYPE_CHECKING:
    from ssl import SSLContext


def add_client_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a command that connects."""
    tls = parser.add_argument_group("for tls: addresses")
    tls.add_argument("--cafile", metavar="FILE", help="the CAs to trust (default: the system's)")
    tls.add_argument("--server-name", metavar="NAME", help="whom the certificate must be for (default: the host)")
    _add_own_certificate(tls, "our certificate, for a server that wants one")


def add_server_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a command that serves."""
    tls = parser.add_argument_group("for tls: addresses")
    _add_own_certificate(tls, "the server's certificate")
    tls.add_argument("--client-ca", metavar="FILE", help="serve only those with a certificate from a CA in there")


def add_options_of_both_ends(parser: argparse.ArgumentParser, at_a: str) -> None:
    """Add the options of a command whose clients come to A, and which connects to B for each."""
    tls_a = parser.add_argument_group(at_a)
    _add_own_certificate(tls_a, "our certificate")
    tls_a.add_argument("--client-ca", metavar="FILE", help="only those with a certificate from a CA in there")
    tls_b = parser.add_argument_group("if B is a tls: address")
    tls_b.add_argument("--cafile", metavar="FILE", help="the CAs to trust (default: the system's)")
    tls_b.add_argument("--server-name", metavar="NAME", help="whom B's certificate must be for (default: the host)")


def _add_own_certificate(tls: argparse._ArgumentGroup, what: str) -> None:
    tls.add_argument("--cert", metavar="FILE", help=f"{what}, in PEM")
    tls.add_argument("--key", metavar="FILE", help="its key, if that is in a file of its own")


def client_ssl_context(args: argparse.Namespace) -> SSLContext | None:
    """The context for connecting to the address; None for the default one, or for another kind of address."""
    given = _given(args, "cafile", "cert", "key")
    if not _is_tls(args, given or _given(args, "server_name")) or not given:
        return None
    from packetwire.streams.tls import client_context

    return client_context(args.cafile, args.cert, args.key)


def server_ssl_context(args: argparse.Namespace) -> SSLContext | None:
    """The context for serving at the address; None for another kind of address."""
    if not _is_tls(args, _given(args, "cert", "key", "client_ca")):
        return None
    if args.cert is None:
        raise CommandFailed(f"{args.address} needs --cert FILE", EXIT_USAGE)
    from packetwire.streams.tls import server_context

    return server_context(args.cert, args.key, args.client_ca)


def ssl_context_at_a(args: argparse.Namespace) -> SSLContext | None:
    """The context for serving at A, by the options of both ends."""
    return server_ssl_context(
        argparse.Namespace(address=args.a, cert=args.cert, key=args.key, client_ca=args.client_ca)
    )


def ssl_context_at_b(args: argparse.Namespace) -> SSLContext | None:
    """The context for connecting to B, by the options of both ends."""
    return client_ssl_context(
        argparse.Namespace(address=args.b, cafile=args.cafile, server_name=args.server_name, cert=None, key=None)
    )


def _given(args: argparse.Namespace, *names: str) -> list[str]:
    return [f"--{name.replace('_', '-')}" for name in names if getattr(args, name) is not None]


def _is_tls(args: argparse.Namespace, given: list[str]) -> bool:
    is_tls = isinstance(args.address, TlsAddress)
    if given and not is_tls:
        raise CommandFailed(f"{given[0]} is for tls: addresses, not for {args.address}", EXIT_USAGE)
    return is_tls

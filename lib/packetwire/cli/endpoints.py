"""The places of Butler services and clients, on command lines: ZMQ endpoints, and addresses of packet streams."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from packetwire.addresses import Address
from packetwire.cli.addressing import address
from packetwire.cli.failure import EXIT_FAILED, CommandFailed

if TYPE_CHECKING:
    from packetwire.fbsp import ServiceClient


@dataclass(frozen=True)
class Endpoint:
    """A ZMQ endpoint that a service, or a gateway, is bound to."""

    text: str

    def __str__(self) -> str:
        return self.text

    def client(self, **client: Any) -> ServiceClient:
        """A client of the service there."""
        from packetwire.fbsp import ServiceClient

        try:
            return ServiceClient.connect(self.text, **client)
        except ImportError as error:
            raise CommandFailed(f"a ZMQ endpoint needs more: {error}", EXIT_FAILED) from error


def end_at(check: Callable[[Address], None]) -> Callable[[str], Endpoint | Address]:
    """The type of an argument: an endpoint, or an address that is checked."""
    parse_address = address(check)

    def parse(text: str) -> Endpoint | Address:
        transport, separator, place = text.partition("://")
        if not separator or ":" in transport:
            return parse_address(text)
        if transport not in ("tcp", "ipc") or not place:
            raise argparse.ArgumentTypeError(f"expected tcp://HOST:PORT or ipc://PATH, got {text!r}")
        return Endpoint(text)

    return parse

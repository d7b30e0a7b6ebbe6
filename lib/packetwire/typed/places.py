"""The place of a service: an address, or a stream."""

from __future__ import annotations

from typing import Any, cast

from packetwire.addresses import (
    Address,
    ExecAddress,
    SshAddress,
    StdioAddress,
    TcpAddress,
    UnixAddress,
    ZmqAddress,
    connect_to,
)

ADDRESSES = ExecAddress, SshAddress, StdioAddress, TcpAddress, UnixAddress, ZmqAddress


def recv_send_of(where: object) -> Any:
    """The stream of a connection: it as it is, or how to connect to an address."""
    if isinstance(where, str):
        return connect_to(where)
    return connect_to(cast(Address, where)) if isinstance(where, ADDRESSES) else where

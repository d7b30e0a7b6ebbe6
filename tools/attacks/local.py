"""Connecting to what is attacked, which has to be on this machine."""

from __future__ import annotations

import ipaddress
import socket

CONNECT_SECONDS = 20.0


def connect_locally(endpoint: str) -> socket.socket:
    """A socket connected to `tcp://ADDRESS:PORT` or `ipc://PATH`. Raises ValueError for any other machine."""
    transport, _, rest = endpoint.partition("://")
    if transport == "ipc":
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(CONNECT_SECONDS)
        sock.connect(f"\0{rest[1:]}" if rest.startswith("@") else rest)
        return sock
    host, _, port = rest.rpartition(":")
    if transport != "tcp" or not ipaddress.ip_address(host.strip("[]")).is_loopback:
        raise ValueError(f"attacks are for this machine only, not {endpoint}")
    return socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS)

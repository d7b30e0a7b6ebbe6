"""Recognising ZMQ endpoints that strangers can reach, and the warning for those.

libzmq keeps the frames of a message until the last one has come, without any bound: a peer that can connect can
make it keep gigabytes. Only keeping strangers out helps: by a loopback address, a file, or CURVE, by which no frame
is accepted from a peer before its key was checked.
"""

from __future__ import annotations

import ipaddress
import logging

logger = logging.getLogger("packetwire")

LOCAL_TRANSPORTS = ("ipc", "inproc")
LOOPBACK_NAMES = ("localhost", "lo", "lo0")
"""Names of hosts and interfaces that ZMQ binds to loopback addresses."""


def is_exposed(endpoint: str) -> bool:
    """True if programs on other machines may be able to connect to a socket bound to `endpoint`."""
    transport, _, rest = endpoint.partition("://")
    if transport in LOCAL_TRANSPORTS:
        return False
    host = rest.rpartition(":")[0].removeprefix("[").removesuffix("]").partition("%")[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host.lower() not in LOOPBACK_NAMES
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return not (mapped or address).is_loopback


def warn_if_exposed(endpoint: str, *, with_curve: bool) -> None:
    """Log a WARNING if a socket is bound where strangers can connect, and no key keeps them out.

    `endpoint` is the one that the user gave. It is logged, not warned of by `warnings`: the program is not wrong.
    """
    if not with_curve and is_exposed(endpoint):
        logger.warning(
            "%s: whoever reaches this address can make this process run out of memory, since ZMQ keeps a message "
            "without bounds until its last frame comes, and lets everybody in without CURVE: bind it to 127.0.0.1, "
            "use an ipc endpoint, or CURVE keys with a list of clients",
            endpoint,
        )

"""The words of the protocol, and what is bounded by how much."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

HANDSHAKE: Final = "HANDSHAKE"
OPERATION: Final = "OPERATION"
EXIT: Final = "EXIT"
REPLY: Final = "REPLY"
TIMED_OUT: Final = "TIMEOUT"
ERROR: Final = "EXCEPTION"
INVALID_MESSAGE: Final = "INVALID_MESSAGE"
EVENT: Final = "EVENT"

INVOKATION: Final = "invokation"
"""The payload of TIMEOUT when the operation was not begun in time; spelled as on the wire."""
EXECUTION: Final = "execution"
"""The payload of TIMEOUT when the operation was begun, but not done in time."""

JSON_TYPE: Final = "application/json"
TEXT_TYPE: Final = "text/plain"
OCTETS_TYPE: Final = "application/octet-stream"
UNKNOWN_TYPE: Final = "unknown"


class ZMQ_TRANSPORTS(StrEnum):  # noqa: N801, the reference's name
    """What brokers can be reached by."""

    TCP = "TCP"
    IPC = "IPC"
    INPROC = "INPROC"


DEFAULT_MAX_MESSAGE_SIZE: Final = 64 << 20
"""Octets of a message."""
HEADER_LIMIT: Final = 65536
"""Octets of a message's header."""
DEFAULT_MAX_PENDING: Final = 10_000
"""Requests that a server holds without an answer."""
DEFAULT_MAX_PENDING_PER_CLIENT: Final = 1000
"""As many of them as one client may have."""
DEFAULT_MAX_CLIENTS: Final = 1000
"""Clients of a server with requests under way at a time."""
DEFAULT_MAX_UNREAD: Final = 10_000
"""Responses that wait for one client, which does not read them; what comes then is dropped."""
DEFAULT_MAX_OUTSTANDING: Final = 1000
"""Requests of a client without an answer, or with one that was not collected."""
DEFAULT_MAX_EVENTS: Final = 10_000
"""Events that wait in each end for a consumer."""
DEFAULT_RUNNING: Final = 64
"""Operations of `AsyncZMQServer.serve` that run at a time."""

DEFAULT_HANDSHAKE_TIMEOUT: Final = 60_000
"""Milliseconds."""
HANDSHAKE_INTERVAL: Final = 0.5
"""Seconds after which an unanswered handshake is sent again."""
UNREACHABLE_INTERVAL: Final = 0.02
"""Seconds after which it is tried again while there is no link yet."""
RESPONSE_GRACE: Final = 5.0
"""Seconds that a client waits beyond the two timeouts of the request."""
UNCOLLECTED_SECONDS: Final = 60.0
"""Seconds that a response is kept for whoever may ask for it."""

FIRST_TCP_PORT: Final = 60000
LAST_TCP_PORT: Final = 65534
"""Where a server looks for a free port if it is told none."""

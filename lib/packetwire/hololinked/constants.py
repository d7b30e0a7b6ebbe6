"""The words of the protocol, and its bounds and times."""

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
BYTES_TYPE: Final = "application/octet-stream"
UNKNOWN_TYPE: Final = "unknown"


class ZMQ_TRANSPORTS(StrEnum):  # noqa: N801, the reference's name
    """The transports of brokers."""

    TCP = "TCP"
    IPC = "IPC"
    INPROC = "INPROC"


DEFAULT_MAX_MESSAGE_SIZE: Final = 64 << 20
"""Bytes of a message, at most."""
HEADER_LIMIT: Final = 65536
"""Bytes of a message's header, at most."""
DEFAULT_MAX_PENDING: Final = 10_000
"""Requests that a server holds without an answer."""
DEFAULT_MAX_PENDING_PER_CLIENT: Final = 1000
"""The same for one client."""
DEFAULT_MAX_CLIENTS: Final = 1000
"""Clients of a server that have requests under way at the same time."""
DEFAULT_MAX_UNREAD: Final = 10_000
"""Responses that wait for a client that does not read; further ones are dropped."""
DEFAULT_MAX_OUTSTANDING: Final = 1000
"""Requests of a client that were not answered, or whose answer was not collected."""
DEFAULT_MAX_EVENTS: Final = 10_000
"""Events that wait for a consumer, at either end."""
DEFAULT_RUNNING: Final = 64
"""Operations that `AsyncZMQServer.serve` runs at a time."""

DEFAULT_HANDSHAKE_TIMEOUT: Final = 60_000
"""Milliseconds."""
HANDSHAKE_INTERVAL: Final = 0.5
"""Seconds after which an unanswered handshake is repeated."""
UNREACHABLE_INTERVAL: Final = 0.02
"""The same while there is no link yet."""
RESPONSE_GRACE: Final = 5.0
"""Seconds that a client waits beyond the two timeouts of the request."""
UNCOLLECTED_SECONDS: Final = 60.0
"""Seconds that a response is kept until it is collected."""

FIRST_TCP_PORT: Final = 60000
LAST_TCP_PORT: Final = 65534
"""The range in which a server looks for a free port if it is not given one."""

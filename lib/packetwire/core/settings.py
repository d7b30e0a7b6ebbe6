"""The options of connections and servers that are values: their defaults, and what they may be.

Strategy: an option is a field here. It is checked once, when the settings are made, so that nothing behind them has
to care. Settings are frozen: to change an option is to make, and check, them anew. Callables, streams and names are
not settings; they stay with the connection.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

from packetwire.core.bounds import bound_of
from packetwire.core.timelimits import seconds_of
from packetwire.errors import LocalProtocolError

DEFAULT_HANDLERS = 4
DEFAULT_MAX_PACKET_SIZE = 64 << 20
"""Bytes of a packet after its length field."""
DEFAULT_MAX_OUTSTANDING = 1024
DEFAULT_MAX_UNSENT = 1 << 20
DEFAULT_CLOSE_TIMEOUT = 5.0
DEFAULT_BODY_TIMEOUT = 60.0
"""Seconds for which a body may stand still."""
DEFAULT_SPIN = 0.0
"""Seconds: threads do not look again and again before they sleep, which costs processor time."""
DEFAULT_PACKET_GRACE = 0.0
"""Seconds that a packet waits for company before it leaves: none, what is queued together leaves together."""
ERROR_DETAILS = ("none", "message", "traceback")
MODES = ("auto", "require", "passive", "off")
"""How an end goes about capabilities; see `packetwire.core.capabilities.Mode`."""
MAX_NAME_SIZE = 255
"""Bytes of the name of a protocol, or of its version."""

DEFAULT_MAX_CONNECTIONS = 128
"""Clients at a time. Each takes a handful of descriptors, of which a process usually has 1024."""
DEFAULT_DRAIN = 5.0
"""Seconds for what is owed to the clients when the server stops."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """The options of a connection that are values.

    Raises TypeError or `LocalProtocolError`, which names the option and the value, for what makes no sense. Times
    may be infinite, for no limit.

    - `handlers`: how many handlers run at once, or "inline".
    - `inline`: the request types whose handler runs in the thread or loop that reads.
    - `max_packet_size`: bytes of a packet after its length field, both ways.
    - `max_outstanding`: our requests without a response.
    - `max_unsent`: bytes that are not written yet.
    - `error_detail`: what the peer is told of an exception: one of `ERROR_DETAILS`.
    - `close_timeout`: seconds, for closing.
    - `half_close`: whether the end of the stream stands for ERQ and EOF.
    - `spin`: seconds of looking for bytes before a thread sleeps.
    - `packet_grace`: seconds, without effect; None for the default.
    - `capabilities`: "auto", "require", "passive" or "off".
    - `keepalive`: seconds of silence after which the peer is asked for a sign of life, None for never, "auto" for
      what suits the stream.
    - `protocol`: the name of what is spoken over the connection, if it has one.
    - `protocol_version`: the version of that.
    - `body_timeout`: seconds for which a body may stand still; None for ever.
    - `description`: what this end tells of its service to whoever asks, mostly JSON; None for nothing.
    """

    handlers: int | str = DEFAULT_HANDLERS
    inline: Container[int] | None = None
    max_packet_size: int = DEFAULT_MAX_PACKET_SIZE
    max_outstanding: int = DEFAULT_MAX_OUTSTANDING
    max_unsent: int = DEFAULT_MAX_UNSENT
    error_detail: str = "message"
    close_timeout: float = DEFAULT_CLOSE_TIMEOUT
    half_close: bool = False
    spin: float = DEFAULT_SPIN
    packet_grace: float | None = None
    capabilities: str = "auto"
    protocol: str | None = None
    protocol_version: str | None = None
    description: bytes | None = None
    keepalive: float | str | None = "auto"
    body_timeout: float | None = DEFAULT_BODY_TIMEOUT

    def __post_init__(self) -> None:
        check_handlers(self.handlers)
        check_inline(self.inline)
        self._keep("max_packet_size", bound_of(self.max_packet_size, "max_packet_size"))
        self._keep("max_outstanding", bound_of(self.max_outstanding, "max_outstanding"))
        self._keep("max_unsent", bound_of(self.max_unsent, "max_unsent", 0))
        check_error_detail(self.error_detail)
        self._keep("close_timeout", seconds_of(self.close_timeout, "close_timeout"))
        self._keep("half_close", flag_of("half_close", self.half_close))
        check_spin(self.spin)
        grace = DEFAULT_PACKET_GRACE if self.packet_grace is None else self.packet_grace
        self._keep("packet_grace", seconds_of(grace, "packet_grace"))
        check_capabilities(self.capabilities)
        check_keepalive(self.keepalive)
        check_body_timeout(self.body_timeout)
        for name in ("protocol", "protocol_version"):
            check_text(name, getattr(self, name))
        if self.description is not None and not isinstance(self.description, bytes):
            raise TypeError(f"description must be bytes, got {type(self.description).__name__}")

    def _keep(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)  # while it is made, it is not frozen yet


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerSettings:
    """The options of a server that are values, checked likewise.

    - `max_connections`: clients at a time.
    - `max_per_address`: clients at a time from one address; None for as many as there are places.
    - `max_memory`: bytes that all connections hold together; None for what suits the machine.
    - `drain_timeout`: seconds for what is owed to the clients when the server stops.
    """

    max_connections: int = DEFAULT_MAX_CONNECTIONS
    max_per_address: int | None = None
    max_memory: int | None = None
    drain_timeout: float = DEFAULT_DRAIN

    def __post_init__(self) -> None:
        check_places("max_connections", self.max_connections)
        check_places("max_per_address", self.max_per_address, optional=True)
        check_places("max_memory", self.max_memory, optional=True)
        object.__setattr__(self, "drain_timeout", seconds_of(self.drain_timeout, "drain_timeout"))


def flag_of(name: str, value: object) -> bool:
    """True or False; TypeError for what is neither."""
    if isinstance(value, bool) or (isinstance(value, int) and value in (0, 1)):
        return bool(value)
    raise TypeError(f"{name} must be True or False, got {type(value).__name__}: {value!r:.100}")


def check_places(name: str, value: int | None, *, optional: bool = False) -> None:
    """Raises `LocalProtocolError` if that is no number of places."""
    if optional and value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise LocalProtocolError(f"{name} must be 1 or more, got {value!r}")


def check_handlers(handlers: object) -> None:
    """Raises `LocalProtocolError` unless it is a number of handlers, or "inline"."""
    if isinstance(handlers, str) and handlers == "inline":
        return
    if not isinstance(handlers, int) or isinstance(handlers, bool) or handlers < 1:
        raise LocalProtocolError(f"handlers must be 1 or more, or 'inline', got {handlers!r}")


def check_keepalive(keepalive: object) -> None:
    """Raises TypeError or `LocalProtocolError` unless it is None, "auto" or more than 0 seconds."""
    if keepalive is None or keepalive == "auto":
        return
    if isinstance(keepalive, str):
        raise LocalProtocolError(f"keepalive must be a number of seconds, 'auto' or None, got {keepalive!r:.100}")
    if seconds_of(keepalive, "keepalive") <= 0:
        raise LocalProtocolError(f"keepalive must be more than 0 seconds, got {keepalive!r}")


def check_body_timeout(body_timeout: object) -> None:
    """Raises TypeError or `LocalProtocolError` unless it is None or more than 0 seconds."""
    if body_timeout is not None and seconds_of(body_timeout, "body_timeout") <= 0:
        raise LocalProtocolError(f"body_timeout must be more than 0 seconds, got {body_timeout!r}")


def check_capabilities(capabilities: object) -> None:
    """Raises `LocalProtocolError` unless it is one of `MODES`."""
    if capabilities not in MODES:
        raise LocalProtocolError(f"capabilities must be one of {MODES}, got {capabilities!r:.100}")


def check_text(name: str, text: object) -> None:
    """Raises TypeError or `LocalProtocolError` unless it is None or a string that is not too long to be said."""
    if text is not None and not isinstance(text, str):
        raise TypeError(f"{name} must be a string, got {type(text).__name__}: {text!r:.100}")
    if text is not None and len(text.encode(errors="replace")) > MAX_NAME_SIZE:
        raise LocalProtocolError(f"{name} may have {MAX_NAME_SIZE} bytes, got {text!r:.100}")


def check_inline(inline: object) -> None:
    """Raises TypeError unless request types can be looked for in it."""
    if inline is not None and (isinstance(inline, str) or not hasattr(inline, "__contains__")):
        raise TypeError(
            f"inline must be a container of request types, got {type(inline).__name__}: {inline!r:.100}"
        )


def check_error_detail(error_detail: object) -> None:
    """Raises `LocalProtocolError` unless it is one of `ERROR_DETAILS`."""
    if error_detail not in ERROR_DETAILS:
        raise LocalProtocolError(f"error_detail must be one of {ERROR_DETAILS}, got {error_detail!r}")


def check_spin(spin: object) -> None:
    """Raises `LocalProtocolError` unless it is a number of seconds from 0."""
    if not isinstance(spin, int | float) or not spin >= 0:  # nor NaN
        raise LocalProtocolError(f"spin must be 0 or more seconds, got {spin!r}")

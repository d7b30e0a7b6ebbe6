"""Addresses: where a peer is, written as a string, and how to reach it.

    exec:CMD                a child process over its standard input and output; CMD is split as a shell would
                            split it, but no shell is involved
    ssh:[OPTIONS] HOST CMD  a command on another machine, by the `ssh` program; CMD is for the shell there
    ship:[OPTIONS] HOST:MODULE:NAME  a service of ours, sent to another machine that has only Python
    unix:PATH               a Unix socket
    tcp:HOST:PORT           TCP, without any authentication or encryption; IPv6 as tcp:[::1]:PORT
    tls:HOST:PORT           TLS over TCP; trust is not part of the address, but of an `ssl.SSLContext`
    stdio:                  the process that started this one
    zmq+pair:ENDPOINT       a ZMQ socket PAIR; the endpoint is tcp://HOST:PORT, ipc://PATH or inproc://NAME
    zmq+dealer:ENDPOINT     a ROUTER there, to connect to
    zmq+router:ENDPOINT     a ROUTER here, to serve on

`parse_address` makes an object of such a string, `connect_to` a `recv_send` for `PacketConnection`.
Each kind is one class and one line of `KINDS`.
"""

from __future__ import annotations

import errno
import math
import re
import shlex
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Protocol, Self, cast

from packetwire.addresshints import about_unix_path, meant, without_slashes
from packetwire.core.preamble import check_sync
from packetwire.core.timelimits import seconds_of
from packetwire.errors import LocalProtocolError
from packetwire.sshaddresses import ShipAddress, SshAddress, as_ship, ssh_words
from packetwire.streams import forking
from packetwire.streams.sockets import connect_tcp
from packetwire.streams.zmqpeers import DEFAULT_IDLE_LIMIT

if TYPE_CHECKING:
    from ssl import SSLContext

    from packetwire.ship.shipment import Ship
    from packetwire.streams.bytestream import ByteStream
    from packetwire.streams.curve import CurveClient, CurveServer
    from packetwire.streams.tls import TlsStream

__all__ = [
    "Address",
    "ExecAddress",
    "ShipAddress",
    "SshAddress",
    "StdioAddress",
    "TcpAddress",
    "TlsAddress",
    "UnixAddress",
    "ZmqDealerAddress",
    "ZmqPairAddress",
    "ZmqRouterAddress",
    "connect_to",
    "parse_address",
]

CONNECT_TIMEOUT = 30.0
"""Seconds to make a connection."""

# A host that vanished is noticed within two minutes, even by a connection that only waits.
KEEPALIVE_IDLE = 60
KEEPALIVE_INTERVAL = 15
KEEPALIVE_PROBES = 4
DEFAULT_USER_TIMEOUT = 120.0
"""Seconds for the other machine to acknowledge what was sent, or a keepalive probe if nothing is."""
MAX_USER_TIMEOUT = 1_000_000.0
ZMQ_TRANSPORTS = ("tcp", "ipc", "inproc")


class Address(Protocol):
    """The protocol of all classes of addresses. Their `str` can be parsed again."""

    form: ClassVar[str]

    @classmethod
    def parse(cls, rest: str) -> Self:
        """The address for the part after the scheme's colon. Raises ValueError, which says what is wrong."""
        ...

    def open(self, timeout: float) -> object:
        """Connect; returns what a callable `recv_send` returns. Raises OSError."""
        ...


@dataclass(frozen=True)
class ExecAddress:
    """`exec:CMD`: a child process."""

    argv: tuple[str, ...]

    form: ClassVar[str] = "exec:CMD"

    def __post_init__(self) -> None:
        if not self.argv:
            raise LocalProtocolError("there is no command")

    @classmethod
    def parse(cls, rest: str) -> Self:
        """The address of a command, split as a shell would split it."""
        return cls(tuple(shlex.split(rest)))

    def __str__(self) -> str:
        return "exec:" + shlex.join(self.argv)

    def open(self, timeout: float, sync: bool | str = False) -> ByteStream:
        """Start the child; `sync` as for `child`. Raises OSError if it cannot be started."""
        from packetwire.streams.process import child

        return child(self.argv, sync=sync, sync_timeout=timeout)()


@dataclass(frozen=True)
class UnixAddress:
    """`unix:PATH`: a Unix socket."""

    path: str

    form: ClassVar[str] = "unix:PATH"

    def __post_init__(self) -> None:
        if not self.path:
            raise LocalProtocolError("there is no path")

    @classmethod
    def parse(cls, rest: str) -> Self:
        """The address of a path."""
        return cls(rest)

    def __str__(self) -> str:
        return f"unix:{self.path}"

    def open(self, timeout: float) -> object:
        """Connect, within `timeout` seconds. Raises OSError."""
        sock = forking.guarded_socket(lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        try:
            sock.settimeout(timeout)
            sock.connect(self.path)
            sock.settimeout(None)
        except BlockingIOError as error:
            sock.close()
            raise BlockingIOError(error.errno, "too many clients wait there to be accepted") from error
        except BaseException:
            sock.close()
            raise
        return sock, sock, partial(forking.close_socket, sock)


@dataclass(frozen=True)
class TcpAddress:
    """`tcp:HOST:PORT`: port 0 is for listening only, the system chooses one then."""

    host: str
    port: int
    user_timeout: float | None = field(default=DEFAULT_USER_TIMEOUT, repr=False)
    """Seconds without an acknowledgement after which the system ends a connection, idle or busy; so also one whose
    other end lives but takes nothing for that long. None, or infinity, leaves that to the system. It is not part of
    the string."""

    form: ClassVar[str] = "tcp:HOST:PORT"
    scheme: ClassVar[str] = "tcp"

    def __post_init__(self) -> None:
        if _is_infinite(self.user_timeout):
            object.__setattr__(self, "user_timeout", None)
        if self.user_timeout is not None and not _is_user_timeout(self.user_timeout):
            raise LocalProtocolError(
                f"user_timeout must be from 1 to {MAX_USER_TIMEOUT:.0f} seconds, or None, got {self.user_timeout!r}"
            )
        if not self.host:
            raise LocalProtocolError("there is no host")
        if "[" in self.host or "]" in self.host:
            raise LocalProtocolError(f"invalid host {self.host!r}")
        try:
            self.host.encode("idna")  # as the resolver does, whose UnicodeError would not be an OSError
        except UnicodeError as error:
            raise LocalProtocolError(f"invalid host {self.host!r}") from error
        if not 0 <= self.port <= 65535:
            raise LocalProtocolError(f"a port is a number from 0 to 65535, not {self.port}")

    @classmethod
    def parse(cls, rest: str) -> Self:
        """The address of HOST:PORT. Raises ValueError."""
        if (address := without_slashes(cls.scheme, rest)) is not None:
            raise ValueError(f"this is no URL: write {address}")
        host, colon, port = rest.rpartition(":")
        if not colon or not re.fullmatch("[0-9]+", port):
            raise ValueError(f"invalid port {port!r}")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            bare = host.strip("[]")
            raise ValueError(f"an IPv6 address goes in brackets: {cls.scheme}:[{bare}]:{port}")
        return cls(host, int(port))

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}:{host}:{self.port}"

    def open(self, timeout: float) -> object:
        """Connect, within `timeout` seconds. Raises OSError."""
        sock = self.connect(timeout)
        return sock, sock, partial(forking.close_socket, sock)

    def connect(self, timeout: float) -> socket.socket:
        """The socket. Raises OSError."""
        if not self.port:
            raise LocalProtocolError(f"{self}: port 0 is for listening, there is nothing to connect to")
        sock = connect_tcp(self.host, self.port, timeout)
        sock.settimeout(None)
        keep_alive(sock, self.user_timeout)
        return sock


@dataclass(frozen=True)
class TlsAddress(TcpAddress):
    """`tls:HOST:PORT`: TLS over TCP."""

    form: ClassVar[str] = "tls:HOST:PORT"
    scheme: ClassVar[str] = "tls"

    def open(
        self, timeout: float, ssl_context: SSLContext | None = None, server_name: str | None = None
    ) -> TlsStream:
        """Connect and shake hands. Without a context the system's CAs are trusted."""
        from packetwire.streams.open import open_stream
        from packetwire.streams.tls import client_context, start_tls

        deadline = time.monotonic() + timeout
        context = client_context() if ssl_context is None else ssl_context
        sock = self.connect(timeout)
        try:
            return start_tls(
                open_stream(lambda: (sock, sock, partial(forking.close_socket, sock))),
                context,
                server_name=server_name or self.host,
                timeout=max(0.0, deadline - time.monotonic()),
            )
        except BaseException:
            sock.close()
            raise


def _is_infinite(value: object) -> bool:
    return isinstance(value, float) and value == math.inf


def _is_user_timeout(value: float) -> bool:
    """True if a timeout is within the bounds. Raises TypeError if it is not a number."""
    try:
        return 1 <= seconds_of(value, "user_timeout") <= MAX_USER_TIMEOUT
    except LocalProtocolError:  # NaN
        return False


def keep_alive(sock: socket.socket, user_timeout: float | None = DEFAULT_USER_TIMEOUT) -> None:
    """Have the system notice when the other machine has vanished, whether anything is sent or not.

    SO_KEEPALIVE sends probes only while nothing is under way; unacknowledged data is retransmitted for a quarter of
    an hour unless there is a `user_timeout`, which on Linux also overrides the number of probes.
    """
    idle, interval = KEEPALIVE_IDLE, KEEPALIVE_INTERVAL
    options = []
    if user_timeout is not None:
        # probe early enough: the timeout includes the idle time before the first probe
        idle, interval = min(idle, max(1, int(user_timeout / 2))), min(interval, max(1, int(user_timeout / 8)))
        options.append(("TCP_USER_TIMEOUT", int(user_timeout * 1000)))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", idle),
        ("TCP_KEEPINTVL", interval),
        ("TCP_KEEPCNT", KEEPALIVE_PROBES),
        *options,
    ):
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


@dataclass(frozen=True)
class StdioAddress:
    """`stdio:`: the process that started this one, over our standard input and output."""

    sync: bool = field(default=False, repr=False)
    """True to say where the packets begin, if the near end has asked for that: see `packetwire.stdio`. It is not
    part of the string."""

    form: ClassVar[str] = "stdio:"

    @classmethod
    def parse(cls, rest: str) -> Self:
        """The address, if `rest` is empty; raises ValueError otherwise."""
        if rest:
            raise ValueError(f"{rest!r} stands behind it")
        return cls()

    def __str__(self) -> str:
        return "stdio:"

    def open(self, timeout: float) -> ByteStream:
        """Take standard input and output: see `packetwire.stdio`. Raises `LocalProtocolError` the second time."""
        from packetwire.streams.stdio import stdio

        return stdio(sync=self.sync)


@dataclass(frozen=True)
class ZmqAddress:
    """The base of the addresses of ZMQ sockets."""

    endpoint: str

    form: ClassVar[str]
    scheme: ClassVar[str]

    def __post_init__(self) -> None:
        transport, separator, place = self.endpoint.partition("://")
        if transport not in ZMQ_TRANSPORTS or not separator or not place:
            raise LocalProtocolError(
                f"invalid endpoint {self.endpoint!r}: expected tcp://HOST:PORT, ipc://PATH or inproc://NAME"
            )

    @classmethod
    def parse(cls, rest: str) -> Self:
        """The address of an endpoint."""
        return cls(rest)

    def __str__(self) -> str:
        return f"{self.scheme}:{self.endpoint}"


@dataclass(frozen=True)
class ZmqPairAddress(ZmqAddress):
    """`zmq+pair:ENDPOINT`: a PAIR, which has one peer at a time.

    `curve` are CURVE keys: a `CurveClient` to connect, a `CurveServer` to serve. They are not part of the string.
    """

    curve: CurveClient | CurveServer | None = field(default=None, repr=False)
    idle_limit: float | None = DEFAULT_IDLE_LIMIT
    """Seconds after which a silent client's connection is ended; None for never."""

    form: ClassVar[str] = "zmq+pair:ENDPOINT"
    scheme: ClassVar[str] = "zmq+pair"

    def open(self, timeout: float) -> ByteStream:
        """Connect, waiting up to `timeout` seconds for the peer. Raises OSError."""
        from packetwire.streams.zmq import open_pair

        return open_pair(self.endpoint, timeout=timeout, curve=_for_client(self.curve))


@dataclass(frozen=True)
class ZmqDealerAddress(ZmqAddress):
    """`zmq+dealer:ENDPOINT`: a ROUTER, to connect to.

    `curve` are CURVE keys; the ROUTER recognises us by the `identity`. They are not part of the string.
    """

    curve: CurveClient | None = field(default=None, repr=False)
    identity: bytes | None = None

    form: ClassVar[str] = "zmq+dealer:ENDPOINT"
    scheme: ClassVar[str] = "zmq+dealer"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.identity is not None and not (1 <= len(self.identity) <= 255 and self.identity[0]):
            raise LocalProtocolError("an identity has 1 to 255 bytes, and does not begin with a null byte")

    def open(self, timeout: float) -> ByteStream:
        """Connect, waiting up to `timeout` seconds for the ROUTER. Raises OSError."""
        from packetwire.streams.zmq import open_dealer

        return open_dealer(self.endpoint, timeout=timeout, curve=_for_client(self.curve), identity=self.identity)


@dataclass(frozen=True)
class ZmqRouterAddress(ZmqAddress):
    """`zmq+router:ENDPOINT`: a ROUTER, to serve on. `curve` are CURVE keys, which are not part of the string."""

    curve: CurveServer | None = field(default=None, repr=False)
    idle_limit: float | None = DEFAULT_IDLE_LIMIT
    """Seconds after which a silent client's connection is ended; None for never."""

    form: ClassVar[str] = "zmq+router:ENDPOINT"
    scheme: ClassVar[str] = "zmq+router"

    def open(self, timeout: float) -> NoReturn:
        """Raise `LocalProtocolError`: to connect to a ROUTER takes a `ZmqDealerAddress`."""
        raise LocalProtocolError(f"{self}: a ROUTER is for serving, connect to it by zmq+dealer:{self.endpoint}")


def _for_client(curve: object) -> CurveClient | None:
    from packetwire.streams.curve import CurveClient

    if curve is not None and not isinstance(curve, CurveClient):
        raise LocalProtocolError(f"who connects needs the keys of a CurveClient, got a {type(curve).__name__}")
    return curve


KINDS: dict[str, type[Address]] = {
    "exec": ExecAddress,
    "ssh": SshAddress,
    "ship": ShipAddress,
    "unix": UnixAddress,
    "tcp": TcpAddress,
    "tls": TlsAddress,
    "stdio": StdioAddress,
    "zmq+pair": ZmqPairAddress,
    "zmq+dealer": ZmqDealerAddress,
    "zmq+router": ZmqRouterAddress,
}
"""The kinds of addresses, by the part before the first colon."""


def forms(kinds: Sequence[type[Address]]) -> str:
    """The forms of addresses of these kinds, for messages."""
    *some, last = (kind.form for kind in kinds)
    return f"{', '.join(some)} or {last}" if some else last


def parse_address(text: str) -> Address:
    """The address in `text`. Raises `LocalProtocolError`, which says what was expected."""
    _check_text(text)
    scheme, colon, rest = text.partition(":")
    kind = KINDS.get(scheme) if colon else None
    if kind is None:
        hint = meant(text, KINDS)
        asked = "" if hint is None else f"; did you mean {hint!r}?"
        raise LocalProtocolError(f"invalid address {text!r}: expected {forms(list(KINDS.values()))}{asked}")
    try:
        if "\0" in text:
            raise ValueError("there is a null byte in it")
        return kind.parse(rest)
    except ValueError as error:
        reason = str(error)
        raise LocalProtocolError(f"invalid address {text!r}: expected {kind.form}; {reason}") from error


def _check_text(text: object) -> None:
    if not isinstance(text, str):
        raise TypeError(
            f"an address is a string such as 'tcp:localhost:5000', got {type(text).__name__}: {text!r:.100}"
        )


def connect_to(
    address: str | Address,
    *,
    timeout: float = CONNECT_TIMEOUT,
    ssl_context: SSLContext | None = None,
    server_name: str | None = None,
    sync: bool | str = False,
    ship: str | Ship | None = None,
) -> Callable[[], Any]:
    """A `recv_send` that connects to `address` at each opening, and disconnects at each close.

        with PacketConnection(connect_to("unix:/run/store.sock")) as conn: ...

    The server at a `tls:` address must have a certificate for `server_name`, or else for the host, from a CA that
    the system trusts. Another CA, or a certificate of our own, goes into the `ssl_context`; see
    `packetwire.streams.tls.client_context`.

    `sync=True` is for a shell that says something before the command of an `ssh:` address starts, as at a login:
    all of it is dropped. An `exec:` address must end by a command for a shell then, as in `exec:sh -lc CMD`. If
    `sync` is 16 hexadecimal digits, the far program has them too, and says so itself, by `stdio(sync=DIGITS)`.
    Opening raises `PreambleMissing` if that does not come within `timeout` seconds and 64 KiB.

    With `ship="MODULE:NAME"` the far end needs only Python 3.11 or newer: this service, and packetwire, are sent to
    it, and it serves. The address is `ssh:HOST`, or `ssh:HOST PYTHON`, or `exec:PYTHON`; see `packetwire.Ship`.

    Raises `LocalProtocolError` if the address is invalid. Opening raises an OSError, which names the address, if
    there is nobody, or the wrong one; sockets wait for up to `timeout` seconds.
    """
    timeout = seconds_of(timeout)
    target = _to_ship(address, ship) if ship is not None else _parsed(address)
    connect_within: Callable[[float], object] = target.open
    if isinstance(target, TlsAddress):
        if ssl_context is not None:
            from packetwire.streams.tls import prepared

            prepared(ssl_context, server_side=False)
        connect_within = partial(target.open, ssl_context=ssl_context, server_name=server_name)
    elif ssl_context is not None or server_name is not None:
        raise LocalProtocolError(f"{target} has no use for an ssl_context or a server_name: only tls: has")
    if isinstance(target, ExecAddress | SshAddress) and ship is None:
        check_sync(target.argv, sync)
        connect_within = partial(target.open, sync=sync)
    elif sync is not False:
        raise LocalProtocolError(f"{target} has no use for sync: only exec: and ssh: have")

    def connect() -> object:
        try:
            return connect_within(timeout)
        except OSError as error:
            raise naming(target, error) from error

    return connect


def takes_ship(address: object) -> bool:
    """True for an address of a Python to which a service can be sent."""
    if isinstance(address, str):
        return address.startswith(("exec:", "ssh:"))
    return isinstance(address, ExecAddress | SshAddress)


def _parsed(address: str | Address) -> Address:
    is_parsed = not isinstance(address, str) and hasattr(address, "open")
    return cast("Address", address) if is_parsed else parse_address(cast("str", address))


def _to_ship(address: str | Address, ship: str | Ship) -> Address:
    """The address of a far end to which a service is sent, of one with a Python in place of a command."""
    service = as_ship(ship)
    scheme, _, rest = address.partition(":") if isinstance(address, str) else ("", "", "")
    if scheme == "ssh":
        try:
            options, host, python = ssh_words(rest)
            return ShipAddress(host, service, options, python)
        except ValueError as error:
            raise LocalProtocolError(f"invalid address {address!r}: {error}") from error
    target = _parsed(address)
    if isinstance(target, SshAddress):
        return ShipAddress(target.host, service, target.options, target.command)
    if isinstance(target, ExecAddress):
        return _ShippedExec(target, service)
    raise LocalProtocolError(f"{target} has no use for ship: only exec: and ssh: have")


@dataclass(frozen=True)
class _ShippedExec(Address):
    """`exec:PYTHON`, to which a service is sent."""

    address: ExecAddress
    ship: Ship

    form: ClassVar[str] = "exec:PYTHON"

    @classmethod
    def parse(cls, rest: str) -> Self:
        """There is no string for it."""
        raise ValueError(rest)

    def __str__(self) -> str:
        return str(self.address)

    def open(self, timeout: float) -> ByteStream:
        """Start the child, and send what is needed."""
        return self.ship.open(self.ship.python_argv(self.address.argv), timeout, str(self))


def naming(address: Address, error: OSError) -> OSError:
    """The same error with the address in its text."""
    reason = error.strerror or str(error)
    if error.filename is not None:
        reason += f": {error.filename!r}"
    if isinstance(address, UnixAddress) and error.errno in (None, errno.ENOENT):
        reason += about_unix_path(address.path)
    named = type(error)(f"{address}: {reason}")
    named.errno = error.errno
    return named

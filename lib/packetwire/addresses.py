"""Addresses: where a peer is, written as one text, and how to reach it.

    exec:CMD                a child process over its standard input and output; CMD is split as a shell would
                            split it, but no shell is involved
    ssh:[OPTIONS] HOST CMD  a command on another machine, by the `ssh` program; CMD is for the shell there
    unix:PATH               a Unix socket
    tcp:HOST:PORT           TCP, without any authentication or encryption; IPv6 as tcp:[::1]:PORT
    tls:HOST:PORT           TLS over TCP; what is trusted is no part of the address, but an `ssl.SSLContext`
    stdio:                  the process that started this one
    zmq+pair:ENDPOINT       a ZMQ socket PAIR; the endpoint is tcp://HOST:PORT, ipc://PATH or inproc://NAME
    zmq+dealer:ENDPOINT     a ROUTER there, to connect to
    zmq+router:ENDPOINT     a ROUTER here, to serve on

`parse_address` makes an object of such a text, `connect_to` what `PacketConnection` takes as `recv_send`.
Each kind is one class and one line of `KINDS`.
"""

from __future__ import annotations

import io
import math
import re
import shlex
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

from packetwire.core.timelimits import seconds_of
from packetwire.errors import LocalProtocolError
from packetwire.streams import forking
from packetwire.streams.sockets import connect_tcp
from packetwire.streams.zmqpeers import DEFAULT_IDLE_LIMIT

if TYPE_CHECKING:
    from ssl import SSLContext

    from packetwire.streams.curve import CurveClient, CurveServer

__all__ = [
    "Address",
    "ExecAddress",
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
"""Seconds for a connection to be made."""

# A host that vanished is noticed within two minutes, even by a connection that only waits.
KEEPALIVE_IDLE = 60
KEEPALIVE_INTERVAL = 15
KEEPALIVE_PROBES = 4
DEFAULT_USER_TIMEOUT = 120.0
"""Seconds for the other machine to acknowledge what was sent, or what TCP asks when nothing is."""
MAX_USER_TIMEOUT = 1_000_000.0
SSH_ALIVE_INTERVAL = 30
"""Seconds of silence after which `ssh` asks whether the other machine is there; it gives up after three times."""
SSH_CONFIG_SECONDS = 10.0
"""Seconds for `ssh` to tell its configuration."""

SSH_FLAGS = frozenset("46AaCgKkMqsTvXxYy")
SSH_OPTIONS_WITH_VALUE = frozenset("BbcDEeFIiJLlmoPpRSw")
"""The options of `ssh` that go with a command whose standard input and output are a connection."""

ZMQ_TRANSPORTS = ("tcp", "ipc", "inproc")


class Address(Protocol):
    """What the classes of addresses have in common; their `str` can be parsed again."""

    form: ClassVar[str]

    @classmethod
    def parse(cls, rest: str) -> Self:
        """The address for what stands behind the colon. Raises ValueError, which says what is wrong."""
        ...

    def open(self, timeout: float) -> Any:
        """Connect: what a callable `recv_send` returns. Raises OSError."""
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
        """The address of the command that these words are."""
        return cls(tuple(shlex.split(rest)))

    def __str__(self) -> str:
        return "exec:" + shlex.join(self.argv)

    def open(self, timeout: float) -> Any:
        """Start the child. Raises OSError if it cannot be started."""
        from packetwire.streams.process import child

        return child(self.argv)()


@dataclass(frozen=True)
class SshAddress:
    """`ssh:[OPTIONS] HOST CMD`: a command on another machine.

    `host` may be `user@host`, `options` are those of the `ssh` program, an option's value being a word of
    its own: `("-p", "2222")`. No terminal is allocated there and nobody is asked for a password here
    (BatchMode). A program that gets the host from elsewhere should build this object, not the text.
    """

    host: str
    command: str
    options: tuple[str, ...] = ()

    form: ClassVar[str] = "ssh:[OPTIONS] HOST CMD"

    def __post_init__(self) -> None:
        words = iter(self.options)
        for word in words:
            if _ssh_option_has_value(word) and next(words, None) is None:
                raise LocalProtocolError(f"the ssh option {word} needs a value")
        if not self.host or self.host.startswith("-"):
            raise LocalProtocolError(f"{self.host!r} is no host")
        if not self.command:
            raise LocalProtocolError("there is no command")

    @classmethod
    def parse(cls, rest: str) -> Self:
        """The address of options, a host and a command. Raises ValueError."""
        text = io.StringIO(rest)  # of which the words are taken one by one, up to the host
        words = shlex.shlex(text, posix=True)
        words.whitespace_split = True
        words.commenters = ""
        options = []
        word = words.get_token() or ""
        while word.startswith("-") and word != "--":
            options.append(word)
            if _ssh_option_has_value(word):
                options += filter(None, [words.get_token()])
            word = words.get_token() or ""
        host = (words.get_token() or "") if word == "--" else word
        return cls(host, text.read().strip(), tuple(options))

    def __str__(self) -> str:
        return f"ssh:{shlex.join([*self.options, self.host])} {self.command}"

    @property
    def argv(self) -> list[str]:
        """The command that is run here. The user's options come first: of two, `ssh` takes the first."""
        return self._argv()

    def _argv(self, *more: str) -> list[str]:
        return ["ssh", *self.options, "-T", "-o", "BatchMode=yes", *more, "--", self.host, self.command]

    def open(self, timeout: float) -> Any:
        """Start `ssh`. Raises OSError if there is no such program.

        If neither the options nor the user's configuration has a ServerAliveInterval, ours is set, so that a dead
        link ends the connection.
        """
        from packetwire.streams.process import child

        return child(self._argv(*self._alive_options(timeout)))()

    def _alive_options(self, timeout: float) -> list[str]:
        """What to add if `ssh -G` says that there is no interval.

        An option of the command line goes before all that is configured, so one that may be there is not added.
        """
        if any("serveraliveinterval" in word.lower() for word in self.options):
            return []
        import subprocess

        try:
            told = subprocess.run(
                ["ssh", "-G", *self.options, "--", self.host],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                check=False,
                timeout=min(timeout, SSH_CONFIG_SECONDS),
            )
        except (OSError, subprocess.TimeoutExpired):
            return []  # whatever is wrong, the connection itself will tell
        found = re.search(rb"^serveraliveinterval +(\S+)", told.stdout, re.MULTILINE | re.IGNORECASE)
        return ["-o", f"ServerAliveInterval={SSH_ALIVE_INTERVAL}"] if found and found[1] == b"0" else []


def _ssh_option_has_value(word: str) -> bool:
    """Raises for what is no option, or none that makes sense here.

    A value stuck to its option is refused, so that a host of the form -oProxyCommand=… never is an option.
    """
    letters = word[1:]
    if word.startswith("-") and letters and SSH_FLAGS.issuperset(letters):
        return False
    if word.startswith("-") and letters in SSH_OPTIONS_WITH_VALUE:
        return True
    if word[:1] == "-" and letters[:1] in SSH_OPTIONS_WITH_VALUE:
        raise LocalProtocolError(f"write {word!r} as two words, {word[:2]} {letters[1:]}")
    raise LocalProtocolError(f"{word!r} is no option of ssh that can be used here")


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

    def open(self, timeout: float) -> Any:
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
    """Seconds without an acknowledgement after which the system ends a connection, idle or busy, and so also one
    whose other end lives but takes nothing for so long; None, or infinity, leaves that to the system. It is no part
    of the text."""

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
            raise LocalProtocolError(f"{self.host!r} is no host")
        try:
            self.host.encode("idna")  # as the resolver does, which would raise something else than an OSError
        except UnicodeError as error:
            raise LocalProtocolError(f"{self.host!r} is no host") from error
        if not 0 <= self.port <= 65535:
            raise LocalProtocolError(f"a port is a number from 0 to 65535, not {self.port}")

    @classmethod
    def parse(cls, rest: str) -> Self:
        """The address of HOST:PORT. Raises ValueError."""
        host, colon, port = rest.rpartition(":")
        if not colon or not re.fullmatch("[0-9]+", port):
            raise ValueError(f"{port!r} is no port")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise ValueError(f"an IPv6 address goes in brackets: {cls.scheme}:[{host}]:{port}")
        return cls(host, int(port))

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}:{host}:{self.port}"

    def open(self, timeout: float) -> Any:
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

    def open(self, timeout: float, ssl_context: SSLContext | None = None, server_name: str | None = None) -> Any:
        """Connect and shake hands; without a context the system's CAs are trusted."""
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


def _is_infinite(value: Any) -> bool:
    return isinstance(value, float) and value == math.inf


def _is_user_timeout(value: Any) -> bool:
    """Whether it is within the bounds. Raises TypeError for what is no number."""
    try:
        return 1 <= seconds_of(value, "user_timeout") <= MAX_USER_TIMEOUT
    except LocalProtocolError:  # NaN
        return False


def keep_alive(sock: socket.socket, user_timeout: float | None = DEFAULT_USER_TIMEOUT) -> None:
    """Have the system notice when the other machine has vanished, whether anything is sent or not.

    SO_KEEPALIVE only asks while nothing is under way; what is not acknowledged is sent again for a quarter of an
    hour unless there is a `user_timeout`, which on Linux replaces the number of questions as well.
    """
    idle, interval = KEEPALIVE_IDLE, KEEPALIVE_INTERVAL
    options = []
    if user_timeout is not None:
        # asked in time: the question comes first, and then the time for its answer
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

    form: ClassVar[str] = "stdio:"

    @classmethod
    def parse(cls, rest: str) -> Self:
        """The address, if `rest` is empty; raises ValueError otherwise."""
        if rest:
            raise ValueError(f"{rest!r} stands behind it")
        return cls()

    def __str__(self) -> str:
        return "stdio:"

    def open(self, timeout: float) -> Any:
        """Take standard input and output: see `packetwire.stdio`. Raises `LocalProtocolError` the second time."""
        from packetwire.streams.stdio import stdio

        return stdio()


@dataclass(frozen=True)
class ZmqAddress:
    """What the addresses of ZMQ sockets have in common."""

    endpoint: str

    form: ClassVar[str]
    scheme: ClassVar[str]

    def __post_init__(self) -> None:
        transport, separator, place = self.endpoint.partition("://")
        if transport not in ZMQ_TRANSPORTS or not separator or not place:
            raise LocalProtocolError(
                f"{self.endpoint!r} is no endpoint: expected tcp://HOST:PORT, ipc://PATH or inproc://NAME"
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

    `curve` are CURVE keys: a `CurveClient` to connect, a `CurveServer` to serve. They are no part of the text.
    """

    curve: CurveClient | CurveServer | None = field(default=None, repr=False)
    idle_limit: float | None = DEFAULT_IDLE_LIMIT
    """Seconds after which a client that is silent is let go; None for never."""

    form: ClassVar[str] = "zmq+pair:ENDPOINT"
    scheme: ClassVar[str] = "zmq+pair"

    def open(self, timeout: float) -> Any:
        """Connect; `timeout` seconds for the peer to be there. Raises OSError."""
        from packetwire.streams.zmq import open_pair

        return open_pair(self.endpoint, timeout=timeout, curve=_for_client(self.curve))


@dataclass(frozen=True)
class ZmqDealerAddress(ZmqAddress):
    """`zmq+dealer:ENDPOINT`: a ROUTER, to connect to.

    `curve` are CURVE keys; `identity` is how the ROUTER knows us again. They are no part of the text.
    """

    curve: CurveClient | None = field(default=None, repr=False)
    identity: bytes | None = None

    form: ClassVar[str] = "zmq+dealer:ENDPOINT"
    scheme: ClassVar[str] = "zmq+dealer"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.identity is not None and not (1 <= len(self.identity) <= 255 and self.identity[0]):
            raise LocalProtocolError("an identity has from 1 to 255 octets, and does not begin with a null octet")

    def open(self, timeout: float) -> Any:
        """Connect; `timeout` seconds for the ROUTER to be there. Raises OSError."""
        from packetwire.streams.zmq import open_dealer

        return open_dealer(self.endpoint, timeout=timeout, curve=_for_client(self.curve), identity=self.identity)


@dataclass(frozen=True)
class ZmqRouterAddress(ZmqAddress):
    """`zmq+router:ENDPOINT`: a ROUTER, to serve on. `curve` are CURVE keys, which are no part of the text."""

    curve: CurveServer | None = field(default=None, repr=False)
    idle_limit: float | None = DEFAULT_IDLE_LIMIT
    """Seconds after which a client that is silent is let go; None for never."""

    form: ClassVar[str] = "zmq+router:ENDPOINT"
    scheme: ClassVar[str] = "zmq+router"

    def open(self, timeout: float) -> Any:
        """Raises `LocalProtocolError`: one connects to a ROUTER by a `ZmqDealerAddress`."""
        raise LocalProtocolError(f"{self}: a ROUTER is for serving, connect to it by zmq+dealer:{self.endpoint}")


def _for_client(curve: Any) -> CurveClient | None:
    from packetwire.streams.curve import CurveClient

    if curve is not None and not isinstance(curve, CurveClient):
        raise LocalProtocolError(f"who connects needs the keys of a CurveClient, got a {type(curve).__name__}")
    return curve


KINDS: dict[str, type[Address]] = {
    "exec": ExecAddress,
    "ssh": SshAddress,
    "unix": UnixAddress,
    "tcp": TcpAddress,
    "tls": TlsAddress,
    "stdio": StdioAddress,
    "zmq+pair": ZmqPairAddress,
    "zmq+dealer": ZmqDealerAddress,
    "zmq+router": ZmqRouterAddress,
}
"""The kinds of addresses by what stands before the first colon."""


def forms(kinds: Sequence[type[Address]]) -> str:
    """How addresses of these kinds are written, for messages."""
    *some, last = (kind.form for kind in kinds)
    return f"{', '.join(some)} or {last}" if some else last


def parse_address(text: str) -> Address:
    """The address that `text` is. Raises `LocalProtocolError`, which says what was expected."""
    scheme, colon, rest = text.partition(":")
    kind = KINDS.get(scheme) if colon else None
    if kind is None:
        raise LocalProtocolError(f"{text!r} is no address: expected {forms(list(KINDS.values()))}")
    try:
        if "\0" in text:
            raise ValueError("there is a null octet in it")
        return kind.parse(rest)
    except ValueError as error:
        reason = str(error)
        raise LocalProtocolError(f"{text!r} is no address: expected {kind.form}; {reason}") from error


def connect_to(
    address: str | Address,
    *,
    timeout: float = CONNECT_TIMEOUT,
    ssl_context: SSLContext | None = None,
    server_name: str | None = None,
) -> Callable[[], Any]:
    """A `recv_send` that connects to `address` at each opening, and ends that at each close.

        with PacketConnection(connect_to("unix:/run/store.sock")) as conn: ...

    A `tls:` address is that of a server with a certificate for `server_name`, or else for the host, from a
    CA that the system trusts. Another CA, or a certificate of our own, is in the `ssl_context`; see
    `packetwire.streams.tls.client_context`.

    Raises `LocalProtocolError` if the text is no address. Opening raises an OSError, which names the
    address, if there is nobody, or not the right one; sockets wait for at most `timeout` seconds.
    """
    timeout = seconds_of(timeout)
    target = parse_address(address) if isinstance(address, str) else address
    connect_within = target.open
    if isinstance(target, TlsAddress):
        if ssl_context is not None:
            from packetwire.streams.tls import prepared

            prepared(ssl_context, server_side=False)
        connect_within = partial(target.open, ssl_context=ssl_context, server_name=server_name)
    elif ssl_context is not None or server_name is not None:
        raise LocalProtocolError(f"{target} has no use for an ssl_context or a server_name: only tls: has")

    def connect() -> Any:
        try:
            return connect_within(timeout)
        except OSError as error:
            raise naming(target, error) from error

    return connect


def naming(address: Address, error: OSError) -> OSError:
    """The same error with the address in its text."""
    reason = error.strerror or str(error)
    if error.filename is not None:
        reason += f": {error.filename!r}"
    named = type(error)(f"{address}: {reason}")
    named.errno = error.errno
    return named

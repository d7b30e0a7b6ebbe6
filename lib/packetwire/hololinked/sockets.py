"""The ZMQ sockets of brokers: addresses, bounds, keys, monitors and descriptors."""

from __future__ import annotations

import errno
import logging
import select
import socket as unix
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar, cast

import zmq

from packetwire.errors import LocalProtocolError
from packetwire.hololinked.constants import FIRST_TCP_PORT, HEADER_LIMIT, LAST_TCP_PORT, ZMQ_TRANSPORTS
from packetwire.hololinked.frames import PlainSocket
from packetwire.hololinked.messages import identity_bytes
from packetwire.streams.curve import CurveClient, CurveServer
from packetwire.streams.wakeup import Wakeup
from packetwire.streams.zmqsockets import (
    HANDSHAKE_TIMEOUT,
    HEARTBEAT_INTERVAL,
    HEARTBEAT_TIMEOUT,
    LINGER,
    Gatekeeper,
    be_curve_client,
    be_curve_server,
)
from packetwire.zmq.calls import uninterrupted
from packetwire.zmq.sockets import leave_to_parent

logger = logging.getLogger("packetwire")

SocketT = TypeVar("SocketT", bound="zmq.Socket[bytes]")

BUSY_SECONDS: Final = 0.5
"""Seconds to wait for an address that is in use."""
BUSY_PAUSE: Final = 0.01
SUBSCRIPTION_LIMIT: Final = HEADER_LIMIT
"""Bytes of a frame that a publisher receives, at most: a subscription, which is the id of an event."""
JOIN_WAIT: Final = 5.0
"""Seconds for the thread that checks keys to end."""
LONGEST_SLEEP: Final = 86_400.0
"""Seconds of one poll, whose time in milliseconds is a C int: 24 days at most."""
LOOPBACK: Final = "127.0.0.1"
"""The host at which a server listens for tcp by default."""
_EVENTS: Final = int(zmq.EVENTS)
_POLLIN: Final = int(zmq.POLLIN)
_get: Final = zmq.backend.Socket.get
_UNREACHABLE: Final = (errno.EHOSTUNREACH, errno.ENOTCONN)


# addresses


def endpoint_of(server_id: str, access_point: str) -> str:
    """The endpoint of a server, by an address, or by its id and the name of a transport; "" for any tcp port."""
    given = str(access_point)
    transport = given.split("://", maxsplit=1)[0].upper()
    if transport not in tuple(ZMQ_TRANSPORTS):
        raise NotImplementedError(f"brokers know TCP, IPC and INPROC, not {given!r}")
    if "://" not in given:
        if transport == "TCP":
            return ""
        return f"inproc://{server_id}" if transport == "INPROC" else f"ipc://{ipc_path(server_id)}"
    if transport == "IPC" and not given.endswith(".ipc"):
        return f"{given}.ipc"
    return given


def ipc_path(server_id: str) -> Path:
    """The file of a server's ipc socket, the same as in the reference."""
    parts = [part for part in server_id.split("/") if part]
    if not parts or ".." in parts or "\0" in server_id:
        raise LocalProtocolError(f"the id {server_id!r} cannot be the name of a file")
    return Path(tempfile.gettempdir(), "hololinked", *parts[:-1], f"{parts[-1]}.ipc")


def bind(socket: PlainSocket, endpoint: str) -> str:
    """Bind a server's socket, or find another free port if a tcp port is taken. Returns the endpoint."""
    try:
        if endpoint and not _bind_here(socket, endpoint):
            if not endpoint.startswith("tcp:"):
                raise OSError(errno.EADDRINUSE, f"{endpoint}: another server listens there")
            _bind_anywhere(socket, endpoint.removeprefix("tcp://").rpartition(":")[0])
            logger.warning("%s is in use: listening at %s", endpoint, _last_endpoint(socket))
        elif not endpoint:
            _bind_anywhere(socket, LOOPBACK)
    except zmq.ZMQError as error:
        raise OSError(error.errno, f"{endpoint}: {error.strerror}") from error
    return endpoint if endpoint.startswith("inproc:") else _last_endpoint(socket)


def _bind_here(socket: PlainSocket, endpoint: str) -> bool:
    """Bind to an address; False if it stays in use. ZMQ takes its time to free that of a closed socket."""
    give_up_at = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            if not endpoint.startswith("ipc://") or _prepare_file(Path(endpoint.removeprefix("ipc://"))):
                uninterrupted(socket.bind, endpoint)
                return True
        except zmq.ZMQError as error:
            if error.errno != errno.EADDRINUSE:
                raise
        if time.monotonic() > give_up_at:
            return False
        time.sleep(BUSY_PAUSE)


def _last_endpoint(socket: PlainSocket) -> str:
    return cast(bytes, socket.getsockopt(zmq.LAST_ENDPOINT)).rstrip(b"\0").decode()


def _bind_anywhere(socket: PlainSocket, host: str) -> None:
    for port in range(FIRST_TCP_PORT, LAST_TCP_PORT + 1):
        try:
            uninterrupted(socket.bind, f"tcp://{host}:{port}")
            return
        except zmq.ZMQError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    raise zmq.ZMQError(errno.EADDRINUSE)


def _prepare_file(path: Path) -> bool:
    """Make its directory; False if a server uses the file, which ZMQ would take away from it."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with unix.socket(unix.AF_UNIX, unix.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except BlockingIOError:
            return False  # the queue is full, so somebody listens
        except OSError:
            return True
    return False


def connect(socket: PlainSocket, endpoint: str) -> str:
    """Connect a client."""
    if not endpoint:
        raise RuntimeError("the address of the server is needed for a connection by TCP")
    try:
        uninterrupted(socket.connect, endpoint)
    except zmq.ZMQError as error:
        raise OSError(error.errno, f"{endpoint}: {error.strerror}") from error
    return endpoint


# options


def set_options(socket: PlainSocket, socket_id: str, endpoint: str, *, max_message_size: int, queue: int) -> None:
    """Set identity and bounds of a socket, before it is bound or connected."""
    kind = socket.getsockopt(zmq.TYPE)
    if kind in (zmq.ROUTER, zmq.DEALER, zmq.REQ, zmq.REP):
        socket.setsockopt(zmq.ROUTING_ID, identity_bytes(socket_id))
    if kind == zmq.ROUTER:
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    if kind in (zmq.PUB, zmq.XPUB):
        socket.setsockopt(zmq.XPUB_NODROP, 1)
    socket.linger = int(LINGER * 1000)
    socket.sndhwm = socket.rcvhwm = queue
    # a message that is a little too long gets an answer; one that is far too long is not even stored
    socket.maxmsgsize = SUBSCRIPTION_LIMIT if kind in (zmq.PUB, zmq.XPUB) else 2 * max_message_size
    socket.handshake_ivl = int(HANDSHAKE_TIMEOUT * 1000)
    if endpoint.startswith("tcp:") or not endpoint:
        socket.heartbeat_ivl = int(HEARTBEAT_INTERVAL * 1000)
        socket.heartbeat_timeout = socket.heartbeat_ttl = int(HEARTBEAT_TIMEOUT * 1000)
        socket.ipv6 = "[" in endpoint


def set_keys(socket: PlainSocket, curve: CurveClient | CurveServer | None, *, server: bool) -> None:
    """Set the CURVE keys of a socket, before it is bound or connected."""
    if curve is None:
        return
    if isinstance(curve, CurveServer) != server:
        raise LocalProtocolError(f"a {'server' if server else 'client'} takes the other kind of CURVE keys")
    if isinstance(curve, CurveServer):
        be_curve_server(socket, curve)
    else:
        be_curve_client(socket, curve)


def open_monitor(context: zmq.Context[SocketT], socket: PlainSocket, events: int) -> PlainSocket:
    """A socket that receives the link events of another; a plain one even in a context of asyncio."""
    endpoint = f"inproc://packetwire-monitor-{uuid.uuid4()}"
    # by its types, a context can only make sockets of its own class
    make = cast("Callable[..., PlainSocket]", context.socket)
    monitor = uninterrupted(make, zmq.PAIR, socket_class=zmq.Socket)
    try:
        uninterrupted(socket.monitor, endpoint, events)
        uninterrupted(monitor.connect, endpoint)
    except BaseException:
        monitor.close(0)
        raise
    return monitor


def needs_gatekeeper(curve: CurveClient | CurveServer | None) -> bool:
    """True if the keys of clients have to be checked."""
    return isinstance(curve, CurveServer) and curve.clients is not None


class GatekeeperThread:
    """Lets clients into the sockets of one context, by their keys, in a thread of its own."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], curve: CurveServer) -> None:
        self._gatekeeper = Gatekeeper(context, curve)
        self._wakeup = Wakeup()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="hololinked gatekeeper", daemon=True)
        try:
            self._thread.start()
        except BaseException:  # the system has no more threads
            self._gatekeeper.close()
            self._wakeup.close()
            raise

    def _run(self) -> None:
        poller = select.poll()
        poller.register(self._gatekeeper.fileno(), select.POLLIN)
        poller.register(self._wakeup.fileno(), select.POLLIN)
        try:
            while not self._stopping:
                self._gatekeeper.answer()
                poller.poll()
        except zmq.ZMQError:
            self._gatekeeper.close()  # the context has ended, and its `term` waits for this

    def after_fork(self) -> None:
        """In the child of a fork: the socket and its thread are the parent's."""
        leave_to_parent(self._gatekeeper.socket)

    def close(self) -> None:
        """End the thread: no client is let in any more."""
        self._stopping = True
        self._wakeup.set()
        self._thread.join(JOIN_WAIT)
        self._gatekeeper.close()
        self._wakeup.close()


# errors and descriptors


def is_unreachable(error_number: int) -> bool:
    """True if an errno says that there is no link to the peer."""
    return error_number in _UNREACHABLE


def descriptor_of(socket: PlainSocket) -> int:
    """The descriptor to poll for changes of a socket."""
    return int(cast(int, socket.getsockopt(zmq.FD)))


def pollable(socket: PlainSocket) -> bool:
    """True if there is something to receive, which the descriptor may have signalled already."""
    return bool(_get(socket, _EVENTS) & _POLLIN)  # type: ignore[operator]


def poll_milliseconds(seconds: float) -> float:
    """A time in seconds as an argument of poll: rounded up, and no longer than poll can wait."""
    return min(max(0.0, seconds), LONGEST_SLEEP) * 1000 + 1

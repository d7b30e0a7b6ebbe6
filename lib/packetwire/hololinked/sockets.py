"""The ZMQ sockets of brokers: where they are, their bounds and keys, and how frames go in and out of them."""

from __future__ import annotations

import errno
import logging
import select
import socket as unix
import tempfile
import threading
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, cast

import zmq

from packetwire.errors import LocalProtocolError
from packetwire.hololinked.constants import FIRST_TCP_PORT, HEADER_LIMIT, LAST_TCP_PORT, ZMQ_TRANSPORTS
from packetwire.hololinked.messages import FRAMES, identity_octets
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
    events_now,
)
from packetwire.zmq.calls import uninterrupted
from packetwire.zmq.reading import MessageReader
from packetwire.zmq.sockets import leave_to_parent

logger = logging.getLogger("packetwire")

PlainSocket = zmq.Socket[bytes]

BUSY_SECONDS: Final = 0.5
"""Seconds after which an address that is in use is taken to remain so."""
BUSY_PAUSE: Final = 0.01
SUBSCRIPTION_LIMIT: Final = HEADER_LIMIT
"""Bytes of a frame that comes to a publisher: a subscription, which holds the id of an event."""
JOIN_WAIT: Final = 5.0
"""Seconds for the thread that looks at keys to end."""
LONGEST_SLEEP: Final = 86_400.0
"""Seconds in one go: poll takes no more than 24 days."""
LOOPBACK: Final = "127.0.0.1"
"""Where a server listens for tcp unless it is told an address."""
_POLLIN: Final = int(zmq.POLLIN)
_NOBLOCK: Final = int(zmq.NOBLOCK)
_NOBLOCK_MORE: Final = int(
    zmq.NOBLOCK | zmq.SNDMORE
)  # as numbers, since to combine flags takes longer than to send
_UNREACHABLE: Final = (errno.EHOSTUNREACH, errno.ENOTCONN)
_GONE: Final = (zmq.ETERM, zmq.ENOTSOCK)


# addresses


def endpoint_of(server_id: str, access_point: str) -> str:
    """Where a server with that id is, by a transport's name or an address; "" for any tcp port."""
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
    """The file by which servers with that id are found, the same as the reference's."""
    parts = [part for part in server_id.split("/") if part]
    if not parts or ".." in parts or "\0" in server_id:
        raise LocalProtocolError(f"the id {server_id!r} cannot be the name of a file")
    return Path(tempfile.gettempdir(), "hololinked", *parts[:-1], f"{parts[-1]}.ipc")


def bind(socket: PlainSocket, endpoint: str) -> str:
    """Have a server found at an address, or near it: if a tcp port is taken, at the next free one."""
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
    """Whether the address was free, or became so: ZMQ closes what another server had in its own time."""
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
    """Make its directory; whether no living server has the file, which ZMQ would take away from it."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with unix.socket(unix.AF_UNIX, unix.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except BlockingIOError:
            return False  # its queue is full, so somebody listens
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
    """Identity and bounds, before it is bound or connected."""
    kind = socket.getsockopt(zmq.TYPE)
    if kind in (zmq.ROUTER, zmq.DEALER, zmq.REQ, zmq.REP):
        socket.setsockopt(zmq.ROUTING_ID, identity_octets(socket_id))
    if kind == zmq.ROUTER:
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    if kind in (zmq.PUB, zmq.XPUB):
        socket.setsockopt(zmq.XPUB_NODROP, 1)
    socket.linger = int(LINGER * 1000)
    socket.sndhwm = socket.rcvhwm = queue
    # what is a little too long gets an answer, what is far too long is not even stored
    socket.maxmsgsize = SUBSCRIPTION_LIMIT if kind in (zmq.PUB, zmq.XPUB) else 2 * max_message_size
    socket.handshake_ivl = int(HANDSHAKE_TIMEOUT * 1000)
    if endpoint.startswith("tcp:") or not endpoint:
        socket.heartbeat_ivl = int(HEARTBEAT_INTERVAL * 1000)
        socket.heartbeat_timeout = socket.heartbeat_ttl = int(HEARTBEAT_TIMEOUT * 1000)
        socket.ipv6 = "[" in endpoint


def set_keys(socket: PlainSocket, curve: CurveClient | CurveServer | None, *, server: bool) -> None:
    """CURVE, before it is bound or connected."""
    if curve is None:
        return
    if isinstance(curve, CurveServer) != server:
        raise LocalProtocolError(f"a {'server' if server else 'client'} takes the other kind of CURVE keys")
    if isinstance(curve, CurveServer):
        be_curve_server(socket, curve)
    else:
        be_curve_client(socket, curve)


def open_monitor(context: zmq.Context[Any], socket: PlainSocket, events: int) -> PlainSocket:
    """A socket that tells what happens to the links of another; never one of asyncio, whatever the context is."""
    endpoint = f"inproc://packetwire-monitor-{uuid.uuid4()}"
    monitor: PlainSocket = uninterrupted(context.socket, zmq.PAIR, socket_class=zmq.Socket)
    try:
        uninterrupted(socket.monitor, endpoint, events)
        uninterrupted(monitor.connect, endpoint)
    except BaseException:
        monitor.close(0)
        raise
    return monitor


def needs_gatekeeper(curve: CurveClient | CurveServer | None) -> bool:
    """Whether somebody has to look at the keys of clients."""
    return isinstance(curve, CurveServer) and curve.clients is not None


class GatekeeperThread:
    """Lets clients into the sockets of one context, by their keys, in a thread of its own."""

    def __init__(self, context: zmq.Context[Any], curve: CurveServer) -> None:
        self._gatekeeper = Gatekeeper(context, curve)
        self._wakeup = Wakeup()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="hololinked gatekeeper", daemon=True)
        try:
            self._thread.start()
        except BaseException:  # the system has no more of them
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
            self._gatekeeper.close()  # the context has ended, or waits to, and for this

    def after_fork(self) -> None:
        """In the child of a fork: the socket and its thread are the parent's."""
        leave_to_parent(self._gatekeeper.socket)

    def close(self) -> None:
        """Nobody is let in any more."""
        self._stopping = True
        self._wakeup.set()
        self._thread.join(JOIN_WAIT)
        self._gatekeeper.close()
        self._wakeup.close()


# frames


def reader_of(socket: PlainSocket) -> MessageReader:
    """What `receive_frames` takes."""
    return MessageReader(socket, FRAMES)


def receive_frames(reader: MessageReader) -> list[bytes] | None:
    """The next message, None if there is none. Of one that has too many frames the rest is thrown away.

    After None the socket's descriptor tells of what comes next, unless something is sent in between. An empty list
    says that only frames were thrown away, and that there may be more.
    """
    frames = reader.receive()
    return None if frames is None else [frame.bytes for frame in frames]


def send_frames(socket: PlainSocket, frames: Sequence[bytes]) -> int:
    """Send a message, or nothing of it: 0, or the number of the error.

    Raises `zmq.ZMQError` if the socket is gone.
    """
    try:
        for frame in frames[:-1]:
            socket.send(frame, _NOBLOCK_MORE)
        socket.send(frames[-1], _NOBLOCK)
    except zmq.ZMQError as error:
        if error.errno in _GONE:
            raise
        return error.errno or errno.EIO
    return 0


def is_unreachable(error_number: int) -> bool:
    """Whether there is no link to the peer."""
    return error_number in _UNREACHABLE


def descriptor_of(socket: PlainSocket) -> int:
    """What to poll for news of a socket."""
    return int(cast(int, socket.getsockopt(zmq.FD)))


def pollable(socket: PlainSocket) -> bool:
    """Whether there is something to receive, of which the descriptor may have told already."""
    return bool(events_now(socket) & _POLLIN)


def poll_milliseconds(seconds: float) -> float:
    """What to give poll for a time: rounded up, and in several goes if poll cannot wait for so long."""
    return min(max(0.0, seconds), LONGEST_SLEEP) * 1000 + 1

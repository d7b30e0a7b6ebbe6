"""ZMQ sockets for byte streams: their options, their keys, and the events of their monitors.

All bounds are set when a socket is made. A ZMQ socket never reconnects here: a stream that has lost bytes cannot go
on, so a lost link is the end of the stream, and a new stream takes a new socket.

A socket's descriptor is edge-triggered: it signals a change once, and any call on the socket may reset it. So after
each use of a socket its events are read before its lock is released.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import cast

import zmq
from zmq.utils import z85

from packetwire.streams.bytestream import Buffers
from packetwire.streams.curve import CurveClient, CurveServer, key_bytes
from packetwire.zmq import links
from packetwire.zmq.calls import uninterrupted
from packetwire.zmq.owned import let_go
from packetwire.zmq.sockets import owned_socket

FRAME_SIZE = 65536
"""Bytes of a frame that we send, at most."""
MAX_FRAME_SIZE = 1 << 20
"""Bytes of a frame that we accept, at most."""
FRAME_LIMIT = 64
"""Frames that ZMQ holds for one peer, in each direction."""
LINGER = 1.0
"""Seconds for sent frames to leave after a socket was closed."""
HEARTBEAT_INTERVAL = 10.0
HEARTBEAT_TIMEOUT = 30.0
"""Seconds without a sign of life after which a tcp peer counts as gone."""
NEVER_AGAIN = 1 << 30
"""Milliseconds until a lost link is re-established: twelve days, when its stream is long over. ZMQ's own value for
never (-1) makes it discard frames that came over the link and are not read yet."""
KEEPALIVE_INTERVAL = 5
"""Seconds between two keepalive probes, where there are no heartbeats."""
BACKLOG = 1024
"""Connections that the system accepts before ZMQ takes them; ZMQ's default is less. One that is refused is retried
after a second."""
HANDSHAKE_TIMEOUT = 10.0
"""Seconds for a peer to shake hands, for each connection."""

BOUNDARY = b""
"""The frame that begins and ends a stream."""

# plain numbers: an operation on ZMQ's enums takes as long as the call that needs it
POLLIN, POLLOUT = int(zmq.POLLIN), int(zmq.POLLOUT)
NOBLOCK = int(zmq.NOBLOCK)
MORE_NOBLOCK = int(zmq.SNDMORE | zmq.NOBLOCK)
_EVENTS = int(zmq.EVENTS)

ZmqSocket = zmq.Socket[bytes]
ZmqContext = zmq.Context[zmq.Socket[bytes]]

HANDSHAKE_FAILURES = links.HANDSHAKE_FAILURES
PEER_EVENTS = links.PEER_EVENTS
events_of = links.events_of

LINK_EVENTS = zmq.EVENT_HANDSHAKE_SUCCEEDED | HANDSHAKE_FAILURES | zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED
"""The events that the monitor of a connecting socket reports."""

_ZAP_ENDPOINT = "inproc://zeromq.zap.01"
_ZAP_CURVE_PARTS = 7


def make_socket(context: ZmqContext, kind: int, endpoint: str) -> ZmqSocket:
    """A new socket for streams, neither bound nor connected. Raises OSError."""
    sock = owned_socket(context, kind)
    sock.linger = int(LINGER * 1000)
    sock.sndhwm = sock.rcvhwm = FRAME_LIMIT
    sock.maxmsgsize = MAX_FRAME_SIZE
    sock.backlog = BACKLOG
    sock.handshake_ivl = int(HANDSHAKE_TIMEOUT * 1000)
    sock.reconnect_ivl = NEVER_AGAIN
    if "[" in endpoint:
        sock.ipv6 = True
    if endpoint.startswith("tcp:"):
        sock.heartbeat_ivl = int(HEARTBEAT_INTERVAL * 1000)
        sock.heartbeat_timeout = int(HEARTBEAT_TIMEOUT * 1000)
        sock.heartbeat_ttl = int(HEARTBEAT_TIMEOUT * 1000)
    return sock


def be_pair_server(sock: ZmqSocket) -> None:
    """Before a PAIR binds: use TCP keepalive on its links, not heartbeats.

    libzmq never reads from a second peer of a PAIR, so it does not see that peer leave; the second heartbeat over
    such a link fails an assertion, which aborts the process (libzmq 4.3.5, #4364).
    """
    sock.setsockopt(zmq.HEARTBEAT_IVL, 0)
    sock.setsockopt(zmq.TCP_KEEPALIVE, 1)
    sock.setsockopt(zmq.TCP_KEEPALIVE_IDLE, max(1, int(HEARTBEAT_INTERVAL)))
    sock.setsockopt(zmq.TCP_KEEPALIVE_INTVL, KEEPALIVE_INTERVAL)
    sock.setsockopt(zmq.TCP_KEEPALIVE_CNT, int(HEARTBEAT_TIMEOUT - HEARTBEAT_INTERVAL) // KEEPALIVE_INTERVAL)
    sock.setsockopt(zmq.TCP_MAXRT, int(HEARTBEAT_TIMEOUT * 1000))


def be_curve_client(sock: ZmqSocket, curve: CurveClient) -> None:
    """Set the keys of a socket that is about to connect."""
    sock.setsockopt(zmq.CURVE_SERVERKEY, key_bytes(curve.server_key))
    sock.setsockopt(zmq.CURVE_PUBLICKEY, key_bytes(curve.public_key))
    sock.setsockopt(zmq.CURVE_SECRETKEY, key_bytes(curve.secret_key))


def be_curve_server(sock: ZmqSocket, curve: CurveServer) -> None:
    """Set the keys of a socket that is about to bind. With `clients` the context needs a `Gatekeeper`."""
    sock.setsockopt(zmq.CURVE_SERVER, 1)
    sock.setsockopt(zmq.CURVE_SECRETKEY, key_bytes(curve.secret_key))
    if curve.clients is not None:
        sock.setsockopt(zmq.ZAP_DOMAIN, b"packetwire")


def events_now(sock: ZmqSocket) -> int:
    """POLLIN and POLLOUT, as of now; the descriptor signals nothing that happened before."""
    return cast(int, sock.get(_EVENTS))


def events_getter(sock: ZmqSocket) -> Callable[[], int]:
    """`events_now` of one socket, bound once for frequent calls."""
    return cast("Callable[[], int]", partial(sock.get, _EVENTS))


def close_monitor(sock: ZmqSocket, monitor: ZmqSocket) -> None:
    """Close the monitor of `sock`, before that itself is closed."""
    uninterrupted(sock.disable_monitor)
    monitor.close(0)


def await_link(monitor: ZmqSocket, timeout: float) -> None:
    """Wait until a socket that connects has a peer. Raises OSError, which says why it has none."""
    deadline = time.monotonic() + timeout
    while monitor.poll(max(0, int((deadline - time.monotonic()) * 1000))):
        for event, value in events_of(monitor):
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                return
            if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                raise PermissionError(errno.EACCES, f"the server does not let us in (status {value})")
            if event & HANDSHAKE_FAILURES:
                raise ConnectionRefusedError(errno.ECONNREFUSED, handshake_failure(event, value))
            if event == zmq.EVENT_DISCONNECTED:
                raise ConnectionRefusedError(
                    errno.ECONNREFUSED, "the server broke off the handshake: one side may have a wrong key, or none"
                )
            raise ConnectionRefusedError(errno.ECONNREFUSED, "nobody answers there")
    raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))


def handshake_failure(event: int, value: int) -> str:
    """The message for a HANDSHAKE_FAILED event of a monitor."""
    if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
        return f"its key is not one that is let in (status {value})"
    detail = f" (protocol error {value:#x})" if event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL else ""
    return f"the handshake failed: one side has a wrong key, or none{detail}"


def pieces(buffers: Buffers) -> Iterator[bytes | memoryview]:
    """`buffers`, cut into frames to send."""
    for buffer in buffers:
        if len(buffer) <= FRAME_SIZE:
            if buffer:
                yield buffer
        else:
            view = memoryview(buffer)
            for start in range(0, len(view), FRAME_SIZE):
                yield view[start : start + FRAME_SIZE]


def no_stream() -> OSError:
    """The error for a message that cannot be part of a stream: it has several frames, or one that is too long."""
    return OSError(
        errno.EPROTO, f"the peer sent a ZMQ message that is not one frame of at most {MAX_FRAME_SIZE} bytes"
    )


class Gatekeeper:
    """Tells the ZMQ library which clients may connect, by their keys (ZAP, RFC 27).

    There is one in a context, for all its sockets.
    """

    def __init__(self, context: ZmqContext, curve: CurveServer) -> None:
        self._keys = frozenset(z85.decode(key) for key in curve.clients or ())
        self.socket = owned_socket(context, zmq.REP)
        try:
            self.socket.linger = 0
            self.socket.bind(_ZAP_ENDPOINT)
        except BaseException:
            let_go(self.socket)
            raise

    def fileno(self) -> int:
        """The descriptor to poll."""
        return self.socket.fileno()

    def answer(self) -> None:
        """Answer all requests that have come."""
        while events_now(self.socket) & zmq.POLLIN:
            question = self.socket.recv_multipart(zmq.NOBLOCK)
            may = len(question) == _ZAP_CURVE_PARTS and question[5] == b"CURVE" and question[6] in self._keys
            status, text = (b"200", b"OK") if may else (b"400", b"unknown key")
            self.socket.send_multipart([b"1.0", question[1], status, text, b"", b""])

    def close(self) -> None:
        """Close the socket: no client is let in any more."""
        let_go(self.socket, 0)

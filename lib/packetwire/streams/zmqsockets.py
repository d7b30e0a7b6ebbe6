"""ZMQ sockets as this package uses them: their options, their keys, and what their monitors tell.

All bounds are set when a socket is made. A ZMQ socket never reconnects here: a stream that has lost octets
cannot go on, so a lost link is the end of the stream, and whoever wants another one opens it.

A socket's descriptor says "something has happened", once, and not "there is something to read": any call
on the socket may swallow that. So whoever used a socket asks for its events before letting go of it.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, cast

import zmq
from zmq.utils import z85

from packetwire.streams.bytestream import Buffers
from packetwire.streams.curve import CurveClient, CurveServer, key_octets
from packetwire.zmq import links
from packetwire.zmq.calls import uninterrupted
from packetwire.zmq.sockets import OwnedSocket, owned_socket

FRAME_SIZE = 65536
"""Octets of a frame that is sent."""
MAX_FRAME_SIZE = 1 << 20
"""Octets of a frame that is accepted."""
FRAME_LIMIT = 64
"""Frames that ZMQ holds for one peer, in each direction."""
LINGER = 1.0
"""Seconds for what was sent to leave, after a socket was closed."""
HEARTBEAT_INTERVAL = 10.0
HEARTBEAT_TIMEOUT = 30.0
"""Seconds without a sign of life after which a tcp peer is gone."""
NEVER_AGAIN = 1 << 30
"""Milliseconds until a lost link is made anew: twelve days, when its stream is long over. ZMQ's own never (-1) has
it throw away what came over the link and is not read yet."""
KEEPALIVE_INTERVAL = 5
"""Seconds between two tries to reach a peer that does not answer, where there are no heartbeats."""
BACKLOG = 1024
"""Links that the system makes before ZMQ has taken note of them; ZMQ's own number is less. One too many comes again
after a second."""
HANDSHAKE_TIMEOUT = 10.0
"""Seconds for a peer to shake hands, which it has to do again for each connection."""

BOUNDARY = b""
"""The frame that begins and ends a stream."""

# plain numbers: an operation on ZMQ's enums takes as long as the call that it is for
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
"""What the monitor of a connecting socket tells."""

_ZAP_ENDPOINT = "inproc://zeromq.zap.01"
_ZAP_CURVE_PARTS = 7


def make_socket(context: ZmqContext, kind: int, endpoint: str) -> OwnedSocket:
    """A socket for streams, neither bound nor connected. Raises OSError."""
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


def be_pair_server(sock: zmq.Socket[Any]) -> None:
    """Before a PAIR binds: have the system look after its links, not heartbeats.

    libzmq never reads what a peer sends to a PAIR that has another one, so it does not see that peer leave; the
    second heartbeat over such a link fails an assertion, which ends the process (libzmq 4.3.5, #4364).
    """
    sock.setsockopt(zmq.HEARTBEAT_IVL, 0)
    sock.setsockopt(zmq.TCP_KEEPALIVE, 1)
    sock.setsockopt(zmq.TCP_KEEPALIVE_IDLE, max(1, int(HEARTBEAT_INTERVAL)))
    sock.setsockopt(zmq.TCP_KEEPALIVE_INTVL, KEEPALIVE_INTERVAL)
    sock.setsockopt(zmq.TCP_KEEPALIVE_CNT, int(HEARTBEAT_TIMEOUT - HEARTBEAT_INTERVAL) // KEEPALIVE_INTERVAL)
    sock.setsockopt(zmq.TCP_MAXRT, int(HEARTBEAT_TIMEOUT * 1000))


def be_curve_client(sock: ZmqSocket, curve: CurveClient) -> None:
    """Before it connects."""
    sock.setsockopt(zmq.CURVE_SERVERKEY, key_octets(curve.server_key))
    sock.setsockopt(zmq.CURVE_PUBLICKEY, key_octets(curve.public_key))
    sock.setsockopt(zmq.CURVE_SECRETKEY, key_octets(curve.secret_key))


def be_curve_server(sock: ZmqSocket, curve: CurveServer) -> None:
    """Before it binds. If `clients` are given, a `Gatekeeper` has to be there in the same context."""
    sock.setsockopt(zmq.CURVE_SERVER, 1)
    sock.setsockopt(zmq.CURVE_SECRETKEY, key_octets(curve.secret_key))
    if curve.clients is not None:
        sock.setsockopt(zmq.ZAP_DOMAIN, b"packetwire")


def events_now(sock: ZmqSocket) -> int:
    """POLLIN, POLLOUT; nothing that happened before remains to be told by the descriptor."""
    return cast(int, sock.get(_EVENTS))


def events_getter(sock: ZmqSocket) -> Callable[[], int]:
    """`events_now` of one socket, for those who ask often."""
    return cast("Callable[[], int]", partial(sock.get, _EVENTS))


def close_monitor(sock: ZmqSocket, monitor: ZmqSocket) -> None:
    """Before `sock` itself is closed."""
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
    """What a monitor's HANDSHAKE_FAILED event means."""
    if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
        return f"its key is not one that is let in (status {value})"
    detail = f" (protocol error {value:#x})" if event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL else ""
    return f"the handshake failed: one side has a wrong key, or none{detail}"


def pieces(buffers: Buffers) -> Iterator[bytes | memoryview]:
    """The frames to send `buffers` in."""
    for buffer in buffers:
        if len(buffer) <= FRAME_SIZE:
            if buffer:
                yield buffer
        else:
            view = memoryview(buffer)
            for start in range(0, len(view), FRAME_SIZE):
                yield view[start : start + FRAME_SIZE]


def no_stream() -> OSError:
    """For a peer that sends what is no stream: a message of several frames, or one that is too long."""
    return OSError(
        errno.EPROTO, f"the peer sent a ZMQ message that is not one frame of at most {MAX_FRAME_SIZE} octets"
    )


class Gatekeeper:
    """Answers the ZMQ library's question whether a client with that key may come in (ZAP, RFC 27).

    There is one in a context, and it answers for all sockets there.
    """

    def __init__(self, context: ZmqContext, curve: CurveServer) -> None:
        self._keys = frozenset(z85.decode(key) for key in curve.clients or ())
        self.socket = owned_socket(context, zmq.REP)
        try:
            self.socket.linger = 0
            self.socket.bind(_ZAP_ENDPOINT)
        except BaseException:
            self.socket.let_go()
            raise

    def fileno(self) -> int:
        """What to poll."""
        return self.socket.fileno()

    def answer(self) -> None:
        """Answer what was asked."""
        while events_now(self.socket) & zmq.POLLIN:
            question = self.socket.recv_multipart(zmq.NOBLOCK)
            may = len(question) == _ZAP_CURVE_PARTS and question[5] == b"CURVE" and question[6] in self._keys
            status, text = (b"200", b"OK") if may else (b"400", b"unknown key")
            self.socket.send_multipart([b"1.0", question[1], status, text, b"", b""])

    def close(self) -> None:
        """Nobody is let in any more."""
        self.socket.let_go(0)

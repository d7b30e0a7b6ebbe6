"""Two peers that are connected, over each transport."""

from __future__ import annotations

import errno
import os
import select
import socket
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import zmq
from cs.buffer import CornuCopyBuffer

from packetwire import connect_to
from packetwire.streams.bytestream import ByteStream
from packetwire.streams.tls import client_context, server_context, start_tls
from packetwire.streams.zmqrouter import ZmqListener

from ..certificates import Certificate
from .cells import ZMQ_SOCKETS
from .peer import Peer, cut_fd
from .remote import RemotePeer, command

LIMIT = 30


@dataclass(frozen=True)
class End:
    """What a peer makes its connection of, and what ends that without a word to the other end."""

    recv_send: Any
    cut: Callable[[], None]


@dataclass
class Link:
    """`a` and `b` are connected; after a `broken` one nothing can be opened over the same stream."""

    a: Any
    b: Any
    broken: bool = False


def _of_sockets(stack: ExitStack, a: socket.socket, b: socket.socket) -> tuple[End, End]:
    for sock in a, b:
        stack.callback(sock.close)
    return End(a, lambda: cut_fd(a.fileno())), End(b, lambda: cut_fd(b.fileno()))


def socketpair(stack: ExitStack) -> tuple[End, End]:
    return _of_sockets(stack, *socket.socketpair())


def _accepted(family: int, place: Any) -> tuple[socket.socket, socket.socket]:
    with socket.socket(family) as listener:
        listener.bind(place)
        listener.listen()
        a = socket.socket(family)
        a.connect(listener.getsockname())
        b, _ = listener.accept()
    return a, b


def unix(stack: ExitStack) -> tuple[End, End]:
    return _of_sockets(stack, *_accepted(socket.AF_UNIX, ""))  # a name in no directory, chosen by the system


def tcp(stack: ExitStack) -> tuple[End, End]:
    return _of_sockets(stack, *_accepted(socket.AF_INET, ("127.0.0.1", 0)))


def _pipes(stack: ExitStack) -> tuple[int, int, int, int]:
    a_recv, b_send = os.pipe()
    b_recv, a_send = os.pipe()
    for fd in a_recv, a_send, b_recv, b_send:
        stack.callback(os.close, fd)
    return a_recv, a_send, b_recv, b_send


def pipes(stack: ExitStack) -> tuple[End, End]:
    a_recv, a_send, b_recv, b_send = _pipes(stack)
    return End((a_recv, a_send), partial(cut_fd, a_send)), End((b_recv, b_send), partial(cut_fd, b_send))


def files(stack: ExitStack) -> tuple[End, End]:
    a_recv, a_send, b_recv, b_send = _pipes(stack)

    def opened(recv: int, send: int) -> End:
        return End((open(recv, "rb", closefd=False), open(send, "wb", closefd=False)), partial(cut_fd, send))

    return opened(a_recv, a_send), opened(b_recv, b_send)


def buffers(stack: ExitStack) -> tuple[End, End]:
    a_recv, a_send, b_recv, b_send = _pipes(stack)
    bfrs = []
    for fd in a_recv, b_recv:
        bfrs.append(CornuCopyBuffer.from_fd(fd))
        stack.callback(bfrs[-1].close)
    b_file = open(b_send, "wb", closefd=False)
    return End((bfrs[0], a_send), partial(cut_fd, a_send)), End((bfrs[1], b_file), partial(cut_fd, b_send))


PAIRS = {make.__name__: make for make in (pipes, socketpair, unix, tcp, files, buffers)}
"""Transports whose two ends are in this process."""


def tls(stack: ExitStack, certificate: Certificate) -> tuple[End, End]:
    """Each opening is a connection of its own, as TLS ends for good."""
    listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    connect = connect_to(
        f"tls:127.0.0.1:{listener.getsockname()[1]}",
        ssl_context=client_context(certificate.certfile),
        server_name="localhost",
    )
    to_client = server_context(certificate.certfile, certificate.keyfile)
    streams: dict[str, Any] = {}

    def connected() -> Any:
        streams["a"] = connect()
        return streams["a"]

    def accepted() -> Any:
        sock, _ = listener.accept()
        streams["b"] = start_tls(lambda: (sock, sock, sock.close), to_client, server_side=True)
        return streams["b"]

    return (
        End(connected, lambda: cut_fd(streams["a"].write_fd)),
        End(accepted, lambda: cut_fd(streams["b"].write_fd)),
    )


def zmq_sockets(stack: ExitStack, transport: str, directory: Path) -> tuple[End, End]:
    """One of `ZMQ_TRANSPORTS`. Each opening is a stream of its own, as with TLS."""
    sockets, kind = transport.split("-")
    served, connecting = ZMQ_SOCKETS[sockets]
    place = {"ipc": f"ipc://{directory}/socket", "tcp": "tcp://127.0.0.1:*", "inproc": f"inproc://{directory}"}[
        kind
    ]
    stack.callback(lambda: zmq.Context.instance().term())  # which waits until its sockets are gone
    listener = ZmqListener(place, pair=served == "pair")
    stack.callback(listener.close)
    connect = connect_to(f"zmq+{connecting}:{listener.endpoint}")
    streams: dict[str, ByteStream] = {}

    def connected() -> ByteStream:
        streams["a"] = connect()
        return streams["a"]

    def accepted() -> ByteStream:
        poller = select.poll()
        poller.register(listener.fileno(), select.POLLIN)
        assert poller.poll(LIMIT * 1000)
        streams["b"], _ = listener.accept()
        return streams["b"]

    def cut(who: str) -> None:
        if (
            kind == "inproc"
        ):  # no link that could be lost, as one process lives or dies: the packets stop in mid-stream
            streams[who].end_write()
        else:
            cut_links(listener.endpoint)

    return End(connected, partial(cut, "a")), End(accepted, partial(cut, "b"))


def cut_links(endpoint: str) -> None:
    """Shut down this process's sockets that are connected to `endpoint`, whoever uses them."""
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError), open_socket(int(name)) as sock:
            peer = sock.getpeername()
            if endpoint == (f"tcp://{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else f"ipc://{peer}"):
                sock.shutdown(socket.SHUT_RDWR)


def open_socket(fd: int) -> socket.socket:
    """The socket of a descriptor, which is not closed with it. Raises OSError if it is none."""
    if not stat.S_ISSOCK(os.fstat(fd).st_mode):
        raise OSError(errno.ENOTSOCK, os.strerror(errno.ENOTSOCK))
    return socket.socket(fileno=os.dup(fd))


@dataclass
class Child:
    """A process with a `RemotePeer`, reached over the pipes of `process`."""

    process: subprocess.Popen[bytes]
    peer: RemotePeer
    stack: ExitStack = field(default_factory=ExitStack)

    @classmethod
    def start(cls, face: str, directory: Path, wrap: Callable[[list[str]], list[str]]) -> Child:
        """`wrap` makes of the command what starts it where it shall run."""
        with socket.socket(socket.AF_UNIX) as listener:
            control = directory / f"control-{os.urandom(4).hex()}"
            listener.bind(str(control))
            listener.listen()
            listener.settimeout(LIMIT)
            argv = wrap(command(face, control))
            process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            orders, _ = listener.accept()
        return cls(process, RemotePeer(orders))

    def stop(self) -> None:
        self.peer.let_go()
        for pipe in self.process.stdin, self.process.stdout:
            assert pipe
            pipe.close()
        self.process.kill()
        self.process.wait()


@contextmanager
def linked(face_a: str, face_b: str, make: Callable[[ExitStack], tuple[End, End]]) -> Iterator[Link]:
    """Both ends in this process."""
    with ExitStack() as stack:
        a, b = make(stack)
        yield Link(Peer(face_a, a.recv_send, a.cut), Peer(face_b, b.recv_send, b.cut))

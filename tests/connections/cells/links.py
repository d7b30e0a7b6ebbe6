"""Two peers that are connected, over each transport."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cs.buffer import CornuCopyBuffer

from packetwire import connect_to
from packetwire.streams.tls import client_context, server_context, start_tls

from ..certificates import Certificate
from .peer import Peer
from .remote import RemotePeer, command

LIMIT = 30


@dataclass(frozen=True)
class End:
    """What a peer makes its connection of, and the descriptor that it sends through."""

    recv_send: Any
    send_fd: Callable[[], int]


@dataclass
class Link:
    """`a` and `b` are connected; after a `broken` one nothing can be opened over the same stream."""

    a: Any
    b: Any
    broken: bool = False


def _of_sockets(stack: ExitStack, a: socket.socket, b: socket.socket) -> tuple[End, End]:
    for sock in a, b:
        stack.callback(sock.close)
    return End(a, a.fileno), End(b, b.fileno)


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
    return End((a_recv, a_send), lambda: a_send), End((b_recv, b_send), lambda: b_send)


def files(stack: ExitStack) -> tuple[End, End]:
    a_recv, a_send, b_recv, b_send = _pipes(stack)

    def opened(recv: int, send: int) -> End:
        return End((open(recv, "rb", closefd=False), open(send, "wb", closefd=False)), lambda: send)

    return opened(a_recv, a_send), opened(b_recv, b_send)


def buffers(stack: ExitStack) -> tuple[End, End]:
    a_recv, a_send, b_recv, b_send = _pipes(stack)
    bfrs = []
    for fd in a_recv, b_recv:
        bfrs.append(CornuCopyBuffer.from_fd(fd))
        stack.callback(bfrs[-1].close)
    return End((bfrs[0], a_send), lambda: a_send), End((bfrs[1], open(b_send, "wb", closefd=False)), lambda: b_send)


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
        End(connected, lambda: streams["a"].write_fd),
        End(accepted, lambda: streams["b"].write_fd),
    )


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
        yield Link(Peer(face_a, a.recv_send, a.send_fd), Peer(face_b, b.recv_send, b.send_fd))

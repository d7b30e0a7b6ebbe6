"""Making a `ByteStream` of every form of `recv_send`."""

from __future__ import annotations

import errno
import io
import os
import socket
import stat
import sys
from collections.abc import Callable, Iterable
from typing import IO, TYPE_CHECKING, TypeGuard, Union, cast

from packetwire.errors import LocalProtocolError
from packetwire.streams.bytestream import ByteStream, ReadHalf, WriteHalf
from packetwire.streams.fds import FdReader, FdWriter
from packetwire.streams.files import (
    BufferSource,
    CornuCopy,
    FileSource,
    IterableSource,
    PumpReader,
    PumpWriter,
    ReadableFile,
    SendableFile,
)
from packetwire.streams.ownership import Supplied
from packetwire.streams.sockets import SocketReader, SocketWriter

if TYPE_CHECKING:
    from subprocess import Popen

__all__ = ["PacketConnectionRecv", "PacketConnectionRecvSend", "PacketConnectionSend", "open_stream"]

PacketConnectionRecv = int | socket.socket | ReadableFile | Iterable[bytes]
"""A descriptor, a stream socket, a binary file, a CornuCopyBuffer, or an iterable of bytes."""

PacketConnectionSend = int | socket.socket | SendableFile
"""A descriptor, a stream socket, or a binary file."""

PacketConnectionRecvSend = Union[
    tuple[PacketConnectionRecv, PacketConnectionSend],
    int,
    socket.socket,
    ByteStream,
    Callable[[], object],
    "Popen[bytes]",
]
"""All forms of `recv_send` that `PacketConnection` accepts."""

FORMS = (
    "recv_send must be a (recv, send) pair, a descriptor, a stream socket, a Popen, a ByteStream, "
    "or a callable that returns (recv, send, close)"
)


def open_stream(recv_send: PacketConnectionRecvSend) -> ByteStream:
    """The stream for `recv_send`. Raises TypeError or OSError, which say what is wrong with it.

    The stream never closes descriptors and files that were supplied; those that a callable returned with a `close`
    are closed by that.
    """
    return _open(recv_send)


def _open(recv_send: object) -> ByteStream:
    if isinstance(recv_send, ByteStream):
        return recv_send
    if isinstance(recv_send, tuple) and len(recv_send) == 2 and callable(recv_send[0]) and recv_send[1] is None:
        recv_send = recv_send[0]  # the reference's other way to give a callable
    if isinstance(recv_send, int | socket.socket):
        return _pair(recv_send, recv_send)
    if isinstance(recv_send, tuple | list) and len(recv_send) == 2:
        recv, send = recv_send
        return _pair(recv, send)
    # if it is a Popen, its module is imported; importing it here could wait for another thread that is doing so
    popen = getattr(sys.modules.get("subprocess"), "Popen", None)
    if popen is not None and isinstance(recv_send, popen):
        return _open_popen(cast("Popen[bytes]", recv_send))
    if callable(recv_send):
        return _open_made(recv_send())
    hint = "; for an address there is connect_to(…)" if isinstance(recv_send, str) else ""
    raise TypeError(f"{FORMS}; got {type(recv_send).__name__}: {recv_send!r:.100}{hint}")


def _open_made(made: object) -> ByteStream:
    """The stream for the result of a callable `recv_send`."""
    if isinstance(made, tuple) and len(made) == 3:
        recv, send, shutdown = made
        if shutdown is not None and not callable(shutdown):
            raise TypeError(f"the third item of (recv, send, close) must be callable or None, got {shutdown!r}")
        return _pair(recv, send, shutdown)
    if callable(made):
        raise TypeError(f"a callable recv_send returned another callable: {made!r:.100}")
    return _open(made)


def _pair(
    recv: PacketConnectionRecv, send: PacketConnectionSend, on_close: Callable[[], object] | None = None
) -> ByteStream:
    return ByteStream(open_reader(recv), open_writer(send), on_close)


def open_reader(recv: PacketConnectionRecv, *, ours: bool = False) -> ReadHalf:
    """The half that reads from `recv`. A descriptor that is `ours` is not checked to be still the same file."""
    if isinstance(recv, socket.socket):
        fd = _stream_socket_fd(recv, "recv")
        return SocketReader(fd, supplied=Supplied(fd, recv))
    if isinstance(recv, int):
        mode = _mode(recv, "recv")
        supplied = None if ours else Supplied(recv)
        if stat.S_ISSOCK(mode):
            return SocketReader(recv, supplied=supplied)
        if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
            # a poll always says that a regular file is ready
            return PumpReader(FileSource(open(recv, "rb", buffering=0, closefd=False)))
        return FdReader(recv, supplied=supplied)
    if _is_cornu_copy_buffer(recv):
        return PumpReader(BufferSource(recv))
    _check_binary(recv, "recv")
    if _is_readable(recv):
        return PumpReader(FileSource(recv))
    if isinstance(recv, Iterable) and not isinstance(recv, str):
        return PumpReader(IterableSource([recv] if isinstance(recv, bytes) else recv))
    raise TypeError(
        "recv must be a descriptor, a stream socket, a binary file, a CornuCopyBuffer or an iterable of "
        f"bytes, got {type(recv).__name__}: {recv!r:.100}"
    )


def open_writer(send: PacketConnectionSend, *, ours: bool = False) -> WriteHalf:
    """The half that writes to `send`. A descriptor that is `ours` is not checked to be still the same file."""
    if isinstance(send, socket.socket):
        fd = _stream_socket_fd(send, "send")
        return SocketWriter(fd, supplied=Supplied(fd, send))
    if isinstance(send, int):
        mode = _mode(send, "send")
        supplied = None if ours else Supplied(send)
        return (SocketWriter if stat.S_ISSOCK(mode) else FdWriter)(send, supplied=supplied)
    _check_binary(send, "send")
    if callable(getattr(send, "write", None)) and callable(getattr(send, "flush", None)):
        return PumpWriter(send)
    raise TypeError(
        "send must be a descriptor, a stream socket or a binary file with write and flush, "
        f"got {type(send).__name__}: {send!r:.100}"
    )


def _check_binary(file: object, what: str) -> None:
    if isinstance(file, io.TextIOBase):
        hint = "its `buffer` is one; for standard input and output there is `stdio()`"
        raise TypeError(f"{what} must be a binary file, got one for text, {file!r:.100}: {hint}")


def _mode(fd: int, what: str) -> int:
    if isinstance(fd, bool) or fd < 0:
        raise LocalProtocolError(f"{what} is not a file descriptor: {fd!r}")
    try:
        return os.fstat(fd).st_mode
    except OSError as error:
        raise OSError(error.errno, f"{what}={fd} is not an open file descriptor") from error


def _stream_socket_fd(sock: socket.socket, what: str) -> int:
    fd = sock.fileno()
    if fd < 0:
        raise LocalProtocolError(f"{what} is a closed socket: {sock!r}")
    if sock.type != socket.SOCK_STREAM:
        raise LocalProtocolError(f"{what} must be a stream socket, got {sock!r}")
    if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise LocalProtocolError(
            f"{what} is a socket that listens, not a connection: give it what its accept() returns, or use serve()"
        )
    if _was_never_connected(sock):
        raise LocalProtocolError(f"{what} is a socket that is not connected: {sock!r}; call its connect() first")
    return fd


def _was_never_connected(sock: socket.socket) -> bool:
    """True if it is sure; a connection that was reset has no peer either, but an address of its own."""
    try:
        sock.getpeername()
    except OSError as error:
        if error.errno != errno.ENOTCONN:
            return False
        own = sock.getsockname()
        return not own or (isinstance(own, tuple) and len(own) > 1 and own[1] == 0)
    return False


def _is_readable(recv: object) -> TypeGuard[ReadableFile]:
    return callable(getattr(recv, "read", None))


def _is_cornu_copy_buffer(recv: object) -> TypeGuard[CornuCopy]:
    # if it is one, its module is imported: no need to import it for the question
    module = sys.modules.get("cs.buffer")
    return module is not None and isinstance(recv, module.CornuCopyBuffer)


def _open_popen(process: Popen[bytes]) -> ByteStream:
    from packetwire.streams.process import ProcessStream

    if process.stdin is None or process.stdout is None:
        raise LocalProtocolError(f"Popen {process.args!r} needs stdin=PIPE and stdout=PIPE")
    process.stdin.flush()
    reading, writing = process.stdout.fileno(), process.stdin.fileno()
    reader = FdReader(reading, supplied=Supplied(reading, process.stdout))
    writer = FdWriter(writing, supplied=Supplied(writing, process.stdin))
    stream = ProcessStream(process, reader, writer, owned=False)
    stream.leading_data = _buffered_data(process.stdout)
    return stream


def _buffered_data(file: IO[bytes]) -> bytes:
    """The content of the buffer of a BufferedReader over a pipe of our own, taken without waiting for more."""
    if not isinstance(file, io.BufferedReader):
        return b""
    fd = file.fileno()
    blocking = os.get_blocking(fd)
    os.set_blocking(fd, False)  # nobody else has this end of the pipe
    try:
        data = file.peek(1)
        return file.read1(len(data)) if data else b""
    finally:
        os.set_blocking(fd, blocking)

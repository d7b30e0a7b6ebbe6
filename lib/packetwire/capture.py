"""Captures: files that hold what went over streams, when, and in which direction.

A capture is a header and then records, each written with one system call, so what was killed while it wrote
leaves a file that can be read to its last whole record. Each connection in it has a number and two ends: for
a stream of ours the first end is this side, for a bridge it is the client. The format is specified in
`docs/wire.md`. What is read is not trusted: a record that is damaged, or larger than any writer makes it, is
refused as soon as its head is there.
"""

from __future__ import annotations

import enum
import fcntl
import logging
import os
import stat
import struct
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, NamedTuple, Self

from packetwire.errors import ConnectionEnded, PacketwireError
from packetwire.streams import forking
from packetwire.streams.bytestream import Buffers, ByteStream, ReadHalf, WriteHalf

__all__ = ["CaptureDecoder", "CaptureError", "CaptureWriter", "Kind", "Record"]

logger = logging.getLogger("packetwire")

MAGIC = b"\0packetwire-capture "
"""No packet stream begins like this: a packet of length 0 has no tag."""
HEADER = MAGIC + b"1\n"
HEADER_LIMIT = 32
"""Octets within which the header of any version ends."""
MAX_RECORD = 1 << 20
"""Octets that one record carries; more are split."""
FILE_MODE = 0o600
SCAN_SIZE = 65536

_HEAD = struct.Struct("!BIQI")


class CaptureError(PacketwireError):
    """What is read is no capture, or a damaged one."""


class Kind(enum.IntEnum):
    """What a record tells. The values are characters, to be seen in a dump of the file's octets."""

    BEGIN = ord("+")
    """A connection begins; the octets are a text about it."""
    FORTH = ord(">")
    """Octets from the first end to the second; none if the first end has ended its direction."""
    BACK = ord("<")
    """Octets from the second end to the first; none if the second end has ended its direction."""
    OVER = ord("-")
    """The connection is over; the octets are a text that says why, or none."""

    __hash__ = int.__hash__  # that of an enum is computed in Python, and a capture has millions of these


_KINDS = {int(kind): kind for kind in Kind}
_new_record: Any = tuple.__new__
"""As the class itself, in less time."""


class Record(NamedTuple):
    """One record of a capture."""

    kind: Kind
    connection: int
    """The number of the connection in this file, from 1."""
    time: int
    """Nanoseconds since 1970 (UTC)."""
    octets: bytes = b""
    """What went over the stream, or the text that the kind says."""

    @property
    def sign(self) -> str:
        """The kind, as the character that it is in the file."""
        return chr(self.kind)

    def __bytes__(self) -> bytes:
        return _HEAD.pack(self.kind, self.connection, self.time, len(self.octets)) + self.octets


class CaptureDecoder:
    """Octets in, records out, whatever the chunks that the octets come in."""

    def __init__(self) -> None:
        self.octets_decoded = 0
        """The position in the file behind the last whole record, or the header."""
        self._partial = bytearray()

    @property
    def partial_octets(self) -> int:
        """Octets of a record, or of the header, that is not whole yet."""
        return len(self._partial)

    def feed(self, octets: bytes) -> list[Record]:
        """Take octets, return the records that they complete.

        Raises `CaptureError` for what no writer writes; the records before it are lost with it only if they
        came in the same chunk.
        """
        self._partial += octets
        start = 0
        if self.octets_decoded == 0:
            start = self._header_size()
            if not start:
                return []
        records: list[Record] = []
        end = len(self._partial)
        partial = self._partial
        while end - start >= _HEAD.size:
            number, connection, when, size = _HEAD.unpack_from(partial, start)
            kind = _KINDS.get(number)
            if kind is None or not connection or size > MAX_RECORD:
                head = bytes(partial[start : start + _HEAD.size])
                raise CaptureError(f"a damaged record at offset {self.octets_decoded + start}: {head!r}")
            body = start + _HEAD.size
            behind = body + size
            if behind > end:
                break
            records.append(_new_record(Record, (kind, connection, when, bytes(partial[body:behind]))))
            start = behind
        del self._partial[:start]
        self.octets_decoded += start
        return records

    def _header_size(self) -> int:
        """The octets of the header; 0 if it is not whole."""
        begin = bytes(self._partial[:HEADER_LIMIT])
        if begin.startswith(HEADER):
            return len(HEADER)
        if HEADER.startswith(begin):
            return 0
        if begin.startswith(MAGIC):
            version = begin[len(MAGIC) :].partition(b"\n")[0]
            raise CaptureError(f"a capture of version {version!r}, of which nothing is known here")
        raise CaptureError(f"no capture: it begins with {begin!r}")


class CaptureWriter:
    """Writes captures of any number of connections to one file, from any thread.

        with CaptureWriter("shop.cap") as capture:
            stream = capture.stream(open_stream(ours), "to the shop")

    A file that is a capture already is continued, behind its last whole record. A write that fails is logged
    once and ends the capture, not the connections: `failure` is the reason. Raises OSError or `CaptureError`,
    which name the file, if it cannot be written to.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self.failure: OSError | None = None
        self._lock = threading.Lock()
        self._since = time.time_ns() - time.monotonic_ns()  # times only go up, even if the clock is set
        self._number = 0
        with forking.opening():
            self._fd = _open(self.path)
            forking.register(self)
        try:
            self._continue()
        except BaseException:
            self.close()
            raise

    def _continue(self) -> None:
        """Begin the file, or find the end of what is in there."""
        if not os.fstat(self._fd).st_size:
            self._write_header()
            return
        decoder = CaptureDecoder()
        try:
            while octets := os.read(self._fd, SCAN_SIZE):
                for record in decoder.feed(octets):
                    self._number = max(self._number, record.connection)
        except CaptureError as error:
            raise CaptureError(f"{self.path!r} is there already: {error}") from None
        os.ftruncate(self._fd, decoder.octets_decoded)
        if not decoder.octets_decoded:
            self._write_header()

    def _write_header(self) -> None:
        self._write(HEADER)
        if self.failure is not None:
            raise self.failure

    def begin(self, text: str) -> CapturedConnection:
        """A connection begins; `text` says which."""
        with self._lock:
            self._number += 1
            number = self._number
        connection = CapturedConnection(self, number)
        connection.record(Kind.BEGIN, text.encode("utf-8", "replace"))
        return connection

    def stream(self, stream: ByteStream, text: str) -> CapturedStream:
        """The same stream, of which all that is read and written is recorded."""
        return CapturedStream(stream, self.begin(text))

    def write(self, kind: Kind, connection: int, octets: bytes | memoryview) -> None:
        """Record what has just come, or gone."""
        view = memoryview(octets)
        with self._lock:
            for start in range(0, len(view) or 1, MAX_RECORD):
                piece = bytes(view[start : start + MAX_RECORD])
                self._write(bytes(Record(kind, connection, self._since + time.monotonic_ns(), piece)))

    def _write(self, octets: bytes) -> None:
        if self.failure is not None or self._fd < 0:
            return
        try:
            written = os.write(self._fd, octets)
            if written < len(octets):
                raise OSError(f"only {written} of {len(octets)} octets were taken")
        except OSError as error:
            self.failure = OSError(f"{self.path}: {error.strerror or error}")
            logger.warning("%s: nothing more is captured", self.failure)

    def close(self) -> None:
        """Close the file. A second call does nothing."""
        with self._lock, forking.opening():
            fd, self._fd = self._fd, -1
            if fd >= 0:
                os.close(fd)

    def after_fork(self) -> None:
        """In the child of a fork: the file, and its lock, are the parent's."""
        self._lock = threading.Lock()
        fd, self._fd = self._fd, -1
        forking.close_copy(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _open(path: str) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK
    fd = forking.above_standard(os.open(path, flags, FILE_MODE))
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise CaptureError(f"{path!r} is no regular file: a capture must not have to wait for a reader")
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OSError(error.errno, "another program is writing a capture there", path) from None
    except BaseException:
        os.close(fd)
        raise
    return fd


class CapturedConnection:
    """One connection in a capture that is being written."""

    def __init__(self, writer: CaptureWriter, number: int) -> None:
        self._writer = writer
        self._number = number
        self._over = False

    def record(self, kind: Kind, octets: bytes | memoryview = b"") -> None:
        """What has just happened."""
        self._writer.write(kind, self._number, octets)

    def over(self, text: str = "") -> None:
        """The connection is over. A second call does nothing."""
        if not self._over:
            self._over = True
            self.record(Kind.OVER, text.encode("utf-8", "replace"))


class CapturedStream(ByteStream):
    """`inner`, of which all that is read and written is recorded; it closes it."""

    def __init__(self, inner: ByteStream, connection: CapturedConnection) -> None:
        super().__init__(
            _CapturedReader(inner.reader, connection), _CapturedWriter(inner.writer, connection), inner.close
        )
        self._inner = inner
        self._connection = connection
        self.half_closes = inner.half_closes
        self.leading_octets, inner.leading_octets = inner.leading_octets, b""
        if self.leading_octets:
            connection.record(Kind.BACK, self.leading_octets)

    def __getattr__(self, name: str) -> Any:
        # what only some streams have: the process of a child, the ssl_object of TLS
        if name == "_inner":
            raise AttributeError(name)
        return getattr(self._inner, name)

    def start(self, on_exit: Callable[[ConnectionEnded], None]) -> None:
        self._inner.start(on_exit)

    @property
    def is_cut_off(self) -> bool:
        return self._inner.is_cut_off

    def end_reason(self) -> ConnectionEnded | None:
        return self._inner.end_reason()

    def hint(self) -> str:
        return self._inner.hint()

    def end_write(self) -> None:
        self._connection.record(Kind.FORTH)
        self._inner.end_write()

    def hurry(self) -> None:
        self._inner.hurry()

    def close(self) -> None:
        self._connection.over()
        super().close()


class _CapturedReader:
    """Records what is read."""

    def __init__(self, reader: ReadHalf, connection: CapturedConnection) -> None:
        self._try_read = reader.try_read
        self._connection = connection
        self._ended = False
        self.fileno = reader.fileno
        self.give_back = reader.give_back

    def try_read(self, size: int) -> bytes | None:
        octets = self._try_read(size)
        if octets or (octets is not None and not self._ended):
            self._ended = not octets
            self._connection.record(Kind.BACK, octets)
        return octets

    def close(self) -> None:
        """The stream closes what is below."""


class _CapturedWriter:
    """Records what the stream below is given, before it can be answered: the answer must not come first.

    Whoever tries again does so with the same octets, so it is noted how many of them are recorded already.
    """

    def __init__(self, writer: WriteHalf, connection: CapturedConnection) -> None:
        self._writer = writer
        self._connection = connection
        self._recorded = 0  # of the octets that come next
        self.fileno = writer.fileno
        self.end = writer.end

    @property
    def events(self) -> int:
        return self._writer.events

    def try_write(self, buffers: Buffers) -> int:
        position = 0
        for buffer in buffers:
            new = memoryview(buffer)[max(0, self._recorded - position) :]
            if new:
                self._connection.record(Kind.FORTH, new)
            position += len(buffer)
        self._recorded = max(self._recorded, position)
        taken = self._writer.try_write(buffers)
        self._recorded -= taken
        return taken

    def close(self) -> None:
        """The stream closes what is below."""

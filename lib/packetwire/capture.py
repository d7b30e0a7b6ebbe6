"""Captures: files with everything that went over streams, with times and directions.

A capture is a header and then records, each written with one system call, so a process that is killed while it
writes leaves a file that can be read to its last whole record. Each connection in it has a number and two ends: for
a stream of ours the first end is this side, for a bridge it is the client. The format is specified in
`docs/wire.md`. The content of a file is not trusted: a record that is damaged, or larger than any writer makes it,
is refused as soon as its head was read.
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
from typing import Any, NamedTuple, Self, cast

from packetwire.errors import ConnectionEnded, PacketwireError
from packetwire.streams import forking
from packetwire.streams.bytestream import Buffers, ByteStream, ReadHalf, WriteHalf

__all__ = ["CaptureDecoder", "CaptureError", "CaptureWriter", "Kind", "Record"]

logger = logging.getLogger("packetwire")

MAGIC = b"\0packetwire-capture "
"""No packet stream begins like this, as a packet of length 0 has no tag."""
HEADER = MAGIC + b"1\n"
HEADER_LIMIT = 32
"""Bytes of the header of any version, at most."""
MAX_RECORD = 1 << 20
"""Bytes that one record carries, at most; longer data is split."""
FILE_MODE = 0o600
SCAN_SIZE = 65536

_HEAD = struct.Struct("!BIQI")


class CaptureError(PacketwireError):
    """The file is not a capture, or a damaged one."""


class Kind(enum.IntEnum):
    """The kinds of records. Their values are characters, to be recognised in a dump of the file."""

    BEGIN = ord("+")
    """A connection begins; the data is a text about it."""
    FORTH = ord(">")
    """Data from the first end to the second; empty if the first end has ended its direction."""
    BACK = ord("<")
    """Data from the second end to the first; empty if the second end has ended its direction."""
    OVER = ord("-")
    """The connection is over; the data is a text that says why, or empty."""

    __hash__ = int.__hash__  # that of an enum is computed in Python, and a capture has millions of these


_KINDS = {int(kind): kind for kind in Kind}


class Record(NamedTuple):
    """One record of a capture."""

    kind: Kind
    connection: int
    """The number of the connection in this file, from 1."""
    time: int
    """Nanoseconds since 1970 (UTC)."""
    octets: bytes = b""
    """Another name of `data`."""

    @property
    def data(self) -> bytes:
        """The bytes that went over the stream, or the text of a BEGIN or OVER."""
        return self.octets

    @property
    def sign(self) -> str:
        """The kind, as the character that it is in the file."""
        return chr(self.kind)

    def __bytes__(self) -> bytes:
        return _HEAD.pack(self.kind, self.connection, self.time, len(self.octets)) + self.octets


_new_record = cast("Callable[[type[Record], tuple[Kind, int, int, bytes]], Record]", tuple.__new__)
"""The same as calling the class, in less time."""


class CaptureDecoder:
    """Decodes records from bytes, in chunks of any size."""

    def __init__(self) -> None:
        self.bytes_decoded = 0
        """The position in the file after the last whole record, or after the header."""
        self._partial = bytearray()

    @property
    def partial_size(self) -> int:
        """Bytes of a record, or of the header, that is not whole yet."""
        return len(self._partial)

    @property
    def octets_decoded(self) -> int:
        """Former name of `bytes_decoded`."""
        return self.bytes_decoded

    @property
    def partial_octets(self) -> int:
        """Former name of `partial_size`."""
        return self.partial_size

    def feed(self, octets: bytes) -> list[Record]:
        """Decode more bytes; returns the records that they complete.

        Raises `CaptureError` for anything that no writer writes; records before it are lost only if they came in
        the same chunk.
        """
        self._partial += octets
        start = 0
        if self.bytes_decoded == 0:
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
                raise CaptureError(f"a damaged record at offset {self.bytes_decoded + start}: {head!r}")
            body = start + _HEAD.size
            behind = body + size
            if behind > end:
                break
            records.append(_new_record(Record, (kind, connection, when, bytes(partial[body:behind]))))
            start = behind
        del self._partial[:start]
        self.bytes_decoded += start
        return records

    def _header_size(self) -> int:
        """The size of the header; 0 if it is not whole."""
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

    A file that is a capture already is continued, after its last whole record. A write that fails is logged once,
    and ends the capture, not the connections: `failure` is the reason. Raises OSError or `CaptureError`, which name
    the file, if it cannot be opened for that.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self.failure: OSError | None = None
        self._lock = threading.Lock()
        self._since = time.time_ns() - time.monotonic_ns()  # times only increase, even if the clock is set back
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
        """Begin the file, or find the end of the records in it."""
        if not os.fstat(self._fd).st_size:
            self._write_header()
            return
        decoder = CaptureDecoder()
        try:
            while data := os.read(self._fd, SCAN_SIZE):
                for record in decoder.feed(data):
                    self._number = max(self._number, record.connection)
        except CaptureError as error:
            raise CaptureError(f"{self.path!r} is there already: {error}") from None
        os.ftruncate(self._fd, decoder.bytes_decoded)
        if not decoder.bytes_decoded:
            self._write_header()

    def _write_header(self) -> None:
        self._write(HEADER)
        if self.failure is not None:
            raise self.failure

    def begin(self, text: str) -> CapturedConnection:
        """Record that a connection begins; `text` describes it."""
        with self._lock:
            self._number += 1
            number = self._number
        connection = CapturedConnection(self, number)
        connection.record(Kind.BEGIN, text.encode("utf-8", "replace"))
        return connection

    def stream(self, stream: ByteStream, text: str) -> CapturedStream:
        """`stream`, with everything that is read and written being recorded."""
        return CapturedStream(stream, self.begin(text))

    def write(self, kind: Kind, connection: int, octets: bytes | memoryview) -> None:
        """Record an event, with its data, at the present time."""
        view = memoryview(octets)
        with self._lock:
            for start in range(0, len(view) or 1, MAX_RECORD):
                piece = bytes(view[start : start + MAX_RECORD])
                self._write(bytes(Record(kind, connection, self._since + time.monotonic_ns(), piece)))

    def _write(self, data: bytes) -> None:
        if self.failure is not None or self._fd < 0:
            return
        try:
            written = os.write(self._fd, data)
            if written < len(data):
                raise OSError(f"only {written} of {len(data)} bytes were taken")
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
        """In the child of a fork: close the copy of the descriptor, replace the lock."""
        self._lock = threading.Lock()
        fd, self._fd = self._fd, -1
        forking.close_copy(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _open(path: str) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK
    fd = forking.above_standard(os.open(path, flags, FILE_MODE))
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise CaptureError(f"{path!r} is not a regular file: a capture must not have to wait for a reader")
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

    def record(self, kind: Kind, data: bytes | memoryview = b"") -> None:
        """Record an event that has just happened."""
        self._writer.write(kind, self._number, data)

    def over(self, text: str = "") -> None:
        """Record that the connection is over. A second call does nothing."""
        if not self._over:
            self._over = True
            self.record(Kind.OVER, text.encode("utf-8", "replace"))


class CapturedStream(ByteStream):
    """`inner`, with everything that is read and written being recorded. Closes `inner`."""

    def __init__(self, inner: ByteStream, connection: CapturedConnection) -> None:
        super().__init__(
            _CapturedReader(inner.reader, connection), _CapturedWriter(inner.writer, connection), inner.close
        )
        self._inner = inner
        self._connection = connection
        self.half_closes = inner.half_closes
        self.is_remote = inner.is_remote
        self.leading_data, inner.leading_data = inner.leading_data, b""
        if self.leading_data:
            connection.record(Kind.BACK, self.leading_data)

    def __getattr__(self, name: str) -> Any:
        # attributes of some streams only: the process of a child, the ssl_object of TLS
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
    """Records everything that is read."""

    def __init__(self, reader: ReadHalf, connection: CapturedConnection) -> None:
        self._try_read = reader.try_read
        self._connection = connection
        self._ended = False
        self.fileno = reader.fileno
        self.give_back = reader.give_back

    def try_read(self, size: int) -> bytes | None:
        data = self._try_read(size)
        if data or (data is not None and not self._ended):
            self._ended = not data
            self._connection.record(Kind.BACK, data)
        return data

    def close(self) -> None:
        """Nothing: the stream itself closes the one below."""


class _CapturedWriter:
    """Records everything that is written, before the stream below gets it: else the answer might be recorded first.

    A try that took less is repeated with the same bytes, so we note how many of them are recorded already.
    """

    def __init__(self, writer: WriteHalf, connection: CapturedConnection) -> None:
        self._writer = writer
        self._connection = connection
        self._recorded = 0  # of the bytes that come next
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
        """Nothing: the stream itself closes the one below."""

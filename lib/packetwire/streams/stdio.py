"""Standard input and output as a stream, for child processes; safe from stray prints."""

from __future__ import annotations

import os
import select
import sys
import threading
from functools import partial
from typing import IO, cast

from packetwire.core.preamble import asked_digits, checked_digits, line
from packetwire.errors import LocalProtocolError
from packetwire.streams import forking
from packetwire.streams.bytestream import Buffers, ByteStream
from packetwire.streams.open import open_reader, open_writer
from packetwire.streams.standard import STDERR, STDIN, STDOUT, check_standard, has_standard_error

READ_AHEAD_WAIT = 1.0
"""Seconds for `sys.stdin` to return what it has read ahead; another thread that is reading it may delay that."""


class _Once:
    """Standard input and output, which can be taken once."""

    def __init__(self) -> None:
        self._taken = False
        self.after_fork()

    def after_fork(self) -> None:
        self._lock = threading.Lock()

    def take(self) -> None:
        with self._lock:
            if self._taken:
                raise LocalProtocolError("stdio() was called before: standard input and output are in use")
            check_standard(STDIN)
            check_standard(STDOUT)
            self._taken = True


_once = forking.register(_Once())


def stdio(*, sync: bool | str = False) -> ByteStream:
    """Take descriptors 0 and 1 for a connection to the process that started us.

    Both are moved to other numbers. From then on 0 reads /dev/null and 1 writes to standard error, so that
    nothing that is printed, in Python or in C, gets between the packets. The stream owns the moved
    descriptors. Bytes that `sys.stdin.buffer` has read ahead belong to the stream.

    `sync` is for a far end whose shell says something first: with 16 hexadecimal digits, which are those of the
    near end's `sync`, a line with them is printed before the packets. With True that is done if the near end has
    asked for it by `sync=True`, and this is a forced command of sshd (SSH_ORIGINAL_COMMAND). Elsewhere the shell
    does it.

    Raises `LocalProtocolError` if called twice, if 0 or 1 is closed, and if bytes were read ahead as text.
    """
    digits = _digits(sync)
    _once.take()
    received, sent = forking.Descriptor(partial(os.dup, STDIN)), forking.Descriptor(partial(os.dup, STDOUT))

    def close() -> None:
        received.close()
        sent.close()

    try:
        _lead_elsewhere()
        if sys.stdout is not None:
            sys.stdout.flush()  # text printed before, and still buffered, must not get between the packets
        stream = ByteStream(open_reader(received.fd, ours=True), open_writer(sent.fd, ours=True), close)
        stream.leading_data = _read_ahead()
        if digits:
            say_line(stream, digits)
    except BaseException:
        close()
        raise
    return stream


def _digits(sync: bool | str) -> str | None:
    if sync is True:
        return asked_digits(os.environ.get("SSH_ORIGINAL_COMMAND", ""))
    return None if sync is False else checked_digits(sync)


def say_line(stream: ByteStream, digits: str) -> None:
    """Print the line that ends what was printed before, for the near end's `sync`."""
    data: Buffers = (line(digits),)
    poller = select.poll()
    poller.register(stream.write_fd, stream.write_events)
    while data:
        poller.poll()
        data = stream.write_batch(data)


def _lead_elsewhere() -> None:
    """Have 0 read nothing, and 1 write to standard error; to /dev/null if that is closed, and so does 2."""
    error_is_open = has_standard_error()
    null = forking.Descriptor(partial(os.open, os.devnull, os.O_RDWR))
    try:
        os.dup2(null.fd, STDIN)
        os.dup2(STDERR if error_is_open else null.fd, STDOUT)
        if not error_is_open and not _is_open(STDERR):
            os.dup2(null.fd, STDERR)  # before another file gets its number
    finally:
        null.close()


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def _read_ahead() -> bytes:
    """The bytes that `sys.stdin` has read ahead. Raises `LocalProtocolError` if some were decoded.

    Descriptor 0 reads /dev/null by now, so reading the file objects to their end does not wait.
    """
    files = {id(file): file for file in (sys.__stdin__, sys.stdin) if file is not None and _reads_stdin(file)}
    return b"".join(_rest_of(file) for file in files.values())


def _reads_stdin(file: IO[str]) -> bool:
    try:
        return file.fileno() == STDIN
    except (AttributeError, OSError, ValueError):
        return False


def _rest_of(file: IO[str]) -> bytes:
    """The bytes that a file object has buffered. Raises `LocalProtocolError` if it has decoded some."""
    found: list[tuple[bytes, object]] = []

    def read() -> None:
        try:
            binary = cast("IO[bytes]", getattr(file, "buffer", file))  # whatever stands in place of sys.stdin
            found.append((binary.read(), file.read()))
        except Exception as error:  # the buffered text ends amid a character
            found.append((b"", error))

    # in a thread: another one that reads sys.stdin now has the file's lock, and may keep it for ever
    reading = threading.Thread(target=read, name="packetwire-stdin", daemon=True)
    reading.start()
    reading.join(READ_AHEAD_WAIT)
    if not found:
        raise LocalProtocolError("another thread is reading sys.stdin: that has to end before stdio()")
    data, text = found[0]
    if text not in ("", b""):
        raise LocalProtocolError(
            f"sys.stdin has read ahead, and made text of it: {text!r:.100}; call stdio() before it is read, "
            "or read sys.stdin.buffer"
        )
    assert isinstance(data, bytes)
    return data

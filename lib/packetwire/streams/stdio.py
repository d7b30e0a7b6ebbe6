"""Being a child: standard input and output as a stream, safe from stray prints."""

from __future__ import annotations

import os
import sys
import threading
from functools import partial
from typing import Any

from packetwire.errors import LocalProtocolError
from packetwire.streams import forking
from packetwire.streams.bytestream import ByteStream
from packetwire.streams.open import open_reader, open_writer
from packetwire.streams.standard import STDERR, STDIN, STDOUT, check_standard, has_standard_error

READ_AHEAD_WAIT = 1.0
"""Seconds for `sys.stdin` to give what it has read ahead; longer if another thread is reading it."""


class _Once:
    """Standard input and output can be taken once."""

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


def stdio() -> ByteStream:
    """Take descriptors 0 and 1 for a connection to the process that started us.

    Both are moved to other numbers. Then 0 reads /dev/null and 1 writes to standard error, so that what
    any code prints, in Python or in C, cannot get between the packets. The stream owns the moved
    descriptors. Bytes that `sys.stdin.buffer` has read ahead belong to the stream.

    Raises `LocalProtocolError` if called twice, if 0 or 1 is closed, and if bytes were read ahead as text.
    """
    _once.take()
    received, sent = forking.Descriptor(partial(os.dup, STDIN)), forking.Descriptor(partial(os.dup, STDOUT))

    def close() -> None:
        received.close()
        sent.close()

    try:
        _lead_elsewhere()
        if sys.stdout is not None:
            sys.stdout.flush()  # what was printed before, and is still held, must not come between the packets
        stream = ByteStream(open_reader(received.fd, ours=True), open_writer(sent.fd, ours=True), close)
        stream.leading_octets = _read_ahead()
    except BaseException:
        close()
        raise
    return stream


def _lead_elsewhere() -> None:
    """Have 0 read nothing, and 1 write to standard error, or nowhere; so does a closed 2."""
    error_is_open = has_standard_error()
    null = forking.Descriptor(partial(os.open, os.devnull, os.O_RDWR))
    try:
        os.dup2(null.fd, STDIN)
        os.dup2(STDERR if error_is_open else null.fd, STDOUT)
        if not error_is_open and not _is_open(STDERR):
            os.dup2(null.fd, STDERR)  # before another file gets the number
    finally:
        null.close()


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def _read_ahead() -> bytes:
    """What Python's own objects for standard input have read of it. Raises `LocalProtocolError` for text.

    Descriptor 0 is at its end now, so reading them does not wait.
    """
    files = {id(file): file for file in (sys.__stdin__, sys.stdin) if _reads_stdin(file)}
    return b"".join(_rest_of(file) for file in files.values())


def _reads_stdin(file: Any) -> bool:
    try:
        return file is not None and file.fileno() == STDIN
    except (AttributeError, OSError, ValueError):
        return False


def _rest_of(file: Any) -> bytes:
    """The bytes that a file object holds. Raises `LocalProtocolError` if it has decoded some."""
    found: list[Any] = []

    def read() -> None:
        try:
            found.append((getattr(file, "buffer", file).read(), file.read()))
        except Exception as error:  # text that was cut off in the middle of a character
            found.append((b"", error))

    # in a thread, because one that is reading there has the file's lock, and waits for us as long as it likes
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

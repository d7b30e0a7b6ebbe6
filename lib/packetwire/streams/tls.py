"""TLS over any other stream.

Strategy. An SSL object stands between two memory BIOs and never sees a descriptor; the ciphertext passes through
the halves of the stream below, which never block. Two rules make it enough to poll that stream's descriptors:

- *A read leaves nothing behind.* Everything that came is decrypted and returned at once, because no poll sees bytes
  that have left the descriptor. Data decrypted during the handshake becomes the stream's `leading_data`. An end or
  a fault right after returned bytes is reported by `on_exit`, as no poll may see that either.
- *Bytes count as written when their ciphertext has gone.* Encryption cannot be undone, so we note how many of the
  next bytes are encrypted already; the next try is always with the same bytes.

A read can produce something to write: the answer to a key update, an alert. It is written at once if there is room,
else by the next read or write: it only has to precede what we send next, and nobody waits for it. A write never
needs a read, because the handshake is done before and renegotiation is off.

The reader and the writer may be two threads. One lock guards the SSL object and its BIOs, during a pure call;
another keeps the ciphertext in order on its way to the stream below, during a write that does not block. Neither is
held across a wait.
"""

from __future__ import annotations

import os
import re
import select
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

from packetwire.core.timelimits import seconds_of
from packetwire.errors import ConnectionEnded, LimitExceeded, LocalProtocolError, PeerClosed, StreamTruncated
from packetwire.streams import forking
from packetwire.streams.bytestream import Buffers, ByteStream, ReadHalf, WriteHalf
from packetwire.streams.open import PacketConnectionRecvSend, open_stream

__all__ = ["TlsStream", "client_context", "server_context", "start_tls"]

HANDSHAKE_TIMEOUT = 10.0
"""Seconds for a handshake, from the first byte to the last."""
MAX_PLAINTEXT = 16384
"""Bytes of plaintext in a record, at most."""
ENCRYPT_SIZE = 65536
"""Bytes to encrypt before each write: a few records in one system call."""
DECRYPT_SIZE = 16384
"""Bytes to decrypt before a look at what TLS itself has answered: records without data are small and take long."""
MOST_ANSWERS = 16384
"""Bytes that TLS itself answers, as to a peer that asks for new keys, before some data must have come."""
MOST_UNSENT_ANSWERS = 1 << 20
"""Bytes of ciphertext that may wait to be written when one of these answers is added."""

_QUOTED = 64
_HANDSHAKE, _ALERT = 0x16, 0x15
_VERSION_MAJOR = 0x03
"""The first bytes of a handshake: the type of the record, and the major version."""


def client_context(
    cafile: str | os.PathLike[str] | None = None,
    certfile: str | os.PathLike[str] | None = None,
    keyfile: str | os.PathLike[str] | None = None,
) -> ssl.SSLContext:
    """Settings for connecting: the server must have a certificate for its name.

    It is verified against the CAs of `cafile`, or else those of the system. `certfile` and `keyfile` are
    our own certificate, for peers that ask for one; without `keyfile` the key is in `certfile`. Raises
    OSError, which names the file.
    """
    try:
        context = ssl.create_default_context(cafile=cafile)
    except OSError as error:
        raise _unusable(error, "the CA certificates", cafile or "the system's place for them") from error
    if certfile is not None:
        _load_certificate(context, certfile, keyfile)
    elif keyfile is not None:
        raise LocalProtocolError(f"a key without its certificate: {os.fspath(keyfile)!r}")
    return prepared(context)


def server_context(
    certfile: str | os.PathLike[str],
    keyfile: str | os.PathLike[str] | None = None,
    client_cafile: str | os.PathLike[str] | None = None,
) -> ssl.SSLContext:
    """Settings for serving with a certificate; without `keyfile` the key is in `certfile`.

    With `client_cafile` only clients with a certificate from one of its CAs are served. Raises OSError,
    which names the file.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    _load_certificate(context, certfile, keyfile)
    if client_cafile is not None:
        try:
            context.load_verify_locations(client_cafile)
        except OSError as error:
            raise _unusable(error, "the CA certificates", client_cafile) from error
        context.verify_mode = ssl.CERT_REQUIRED
    return prepared(context)


def prepared(context: ssl.SSLContext, *, server_side: bool | None = None) -> ssl.SSLContext:
    """The same context, without renegotiation. Raises `LocalProtocolError` if it is for the other side."""
    if server_side is not None:
        try:
            context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_side, None if server_side else "host")
        except ssl.SSLError as error:
            side = "serving" if server_side else "connecting"
            raise LocalProtocolError(f"this ssl_context is not for {side}: {_words(error)}") from error
    context.options |= ssl.OP_NO_RENEGOTIATION
    return context


def _load_certificate(
    context: ssl.SSLContext, certfile: str | os.PathLike[str], keyfile: str | os.PathLike[str] | None
) -> None:
    try:
        context.load_cert_chain(certfile, keyfile)
    except OSError as error:
        files = certfile if keyfile is None else f"{os.fspath(certfile)}, {os.fspath(keyfile)}"
        raise _unusable(error, "the certificate and its key", files) from error


def _unusable(error: OSError, what: str, files: str | os.PathLike[str]) -> OSError:
    reason = _words(error) if isinstance(error, ssl.SSLError) else error.strerror
    unusable = OSError(f"{what} cannot be read from {os.fspath(files)}: {reason}")
    if not isinstance(error, ssl.SSLError):
        unusable.errno = error.errno
    return unusable


def start_tls(
    recv_send: PacketConnectionRecvSend,
    ssl_context: ssl.SSLContext,
    *,
    server_side: bool = False,
    server_name: str | None = None,
    timeout: float = HANDSHAKE_TIMEOUT,
) -> TlsStream:
    """Speak TLS over a stream in any form from now on; returns when the handshake is done.

    `server_name` is the name that the server's certificate must be for. A supplied stream is not closed,
    as usual. Raises OSError, which says what was wrong; the stream is of no use then.
    """
    prepared(ssl_context, server_side=server_side)
    stream = TlsStream(open_stream(recv_send), ssl_context, server_side=server_side, server_name=server_name)
    try:
        stream.shake_hands(timeout)
    except BaseException:
        stream.close()
        raise
    return stream


class TlsStream(ByteStream):
    """TLS over `inner`, which it closes. The handshake comes first: `shake_hands`, or `try_handshake`.

    `ssl_object` has more about the peer: `getpeercert()`, `version()`, `cipher()`.
    """

    def __init__(
        self,
        inner: ByteStream,
        ssl_context: ssl.SSLContext,
        *,
        server_side: bool,
        server_name: str | None = None,
    ) -> None:
        self._inner = inner
        self._server_side = server_side
        self._records = _Records(ssl_context, server_side, server_name)
        self._outgoing = _Outgoing(self._records, inner.writer)
        self._tls_reader = _TlsReader(self._records, self._outgoing, inner.reader)
        super().__init__(self._tls_reader, _TlsWriter(self._records, self._outgoing, inner.writer), inner.close)
        self._to_decrypt, inner.leading_data = inner.leading_data, b""
        self._begin = b""  # the first bytes of the peer

    @property
    def ssl_object(self) -> ssl.SSLObject:
        """The SSL object: only to be looked at, as it is in use."""
        return self._records.ssl_object

    # the handshake

    def shake_hands(self, timeout: float = HANDSHAKE_TIMEOUT) -> None:
        """Wait until the handshake is done, at most `timeout` seconds. Raises OSError if it fails."""
        deadline = time.monotonic() + seconds_of(timeout)
        while wanted := self.try_handshake():
            poller = select.poll()
            for fd, events in wanted:
                poller.register(fd, events)
            left = deadline - time.monotonic()
            if left <= 0 or not poller.poll(left * 1000 + 1):
                came = f"it began with {self._begin!r}" if self._begin else "it sent nothing"
                raise TimeoutError(f"the peer did not end the TLS handshake within {timeout:g} s; {came}")

    def try_handshake(self) -> list[tuple[int, int]]:
        """Go on with the handshake as far as possible without waiting.

        Returns the descriptors, with their events, to poll before the next try; none once it is done.
        Raises OSError if it failed.
        """
        while True:
            done = self._advance()
            sent = self._outgoing.flush()
            to_send = [] if sent else [(self._inner.write_fd, self._inner.write_events)]
            if done:
                if sent:
                    self.leading_data = self._decrypt_first()
                return to_send
            data = self._inner.try_read(DECRYPT_SIZE)
            if data is None:
                return _merged([*to_send, (self._inner.read_fd, select.POLLIN)])
            if not data:
                raise self._cut_short()
            self._begin = self._begin or data[:_QUOTED]
            self._check_begin()
            self._to_decrypt = data

    def _advance(self) -> bool:
        data, self._to_decrypt = self._to_decrypt, b""
        try:
            return self._records.shake_hands(data)
        except ssl.SSLError as error:
            raise self._failed(error) from error

    def _decrypt_first(self) -> bytes:
        """The data that came right after the handshake."""
        data = self._records.decrypt(b"")
        if self._records.failure is not None and not data:
            raise self._failed(self._records.failure) from self._records.failure
        return data

    def _failed(self, error: ssl.SSLError | LimitExceeded) -> OSError:
        with suppress(OSError):  # the peer may be gone
            self._outgoing.flush()  # send the alert
        hint = ""
        if self._server_side and isinstance(error, ssl.SSLError) and error.reason == "NO_SHARED_CIPHER":
            hint = "; has the ssl_context a certificate?"
        return ConnectionError(f"the TLS handshake failed: {_words(error)}{hint}")

    def _check_begin(self) -> None:
        kind, *version = self._begin[:2]
        if kind not in (_HANDSHAKE, _ALERT) or version not in ([], [_VERSION_MAJOR]):
            raise ConnectionError(f"the peer does not speak TLS: it began with {self._begin!r}")

    def _cut_short(self) -> OSError:
        when = "in the middle of" if self._begin else "without a word of"
        error = ConnectionError(f"the peer closed the stream {when} the TLS handshake")
        error.__cause__ = self._inner.end_reason()
        return error

    # the life of a stream

    def start(self, on_exit: Callable[[ConnectionEnded], None]) -> None:
        self._inner.start(on_exit)
        self._tls_reader.start(on_exit)

    half_closes = False  # TLS has a message of its own for the end of a direction
    is_remote = True

    @property
    def is_cut_off(self) -> bool:
        return self._inner.is_cut_off

    def end_reason(self) -> ConnectionEnded | None:
        return self._inner.end_reason() or self._tls_reader.end_reason

    def hurry(self) -> None:
        self._inner.hurry()


class _Records:
    """The SSL object between its BIOs, used by one thread at a time. Nothing here waits."""

    def __init__(self, context: ssl.SSLContext, server_side: bool, server_name: str | None) -> None:
        self._from_peer, self._to_peer = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.after_fork()
        forking.register(self)
        self.ssl_object = context.wrap_bio(self._from_peer, self._to_peer, server_side, server_name)
        self.closed_by_peer = False
        """True once close_notify has come."""
        self.failure: ssl.SSLError | LimitExceeded | None = None
        """Why nothing more can be decrypted."""
        self._answered = 0  # bytes that TLS itself has answered since there was data

    def after_fork(self) -> None:
        """In the child of a fork: replace the lock, which another thread may have held."""
        self._lock = threading.Lock()  # guards the SSL object and both BIOs

    def shake_hands(self, data: bytes) -> bool:
        """Go on with what came; True once the handshake is done. Raises `ssl.SSLError`."""
        with self._lock:
            self._from_peer.write(data)
            try:
                self.ssl_object.do_handshake()
            except ssl.SSLWantReadError:
                return False
            return True

    def decrypt(self, data: bytes) -> bytes:
        """Everything that can be read with what came; afterwards `closed_by_peer` or `failure` may be set."""
        found: list[bytes] = []
        view = memoryview(data)
        with self._lock:
            try:
                for start in range(0, len(data) or 1, DECRYPT_SIZE):
                    self._decrypt_some(view[start : start + DECRYPT_SIZE], found)
            except ssl.SSLZeroReturnError:
                self.closed_by_peer = True
            except (ssl.SSLError, LimitExceeded) as error:
                self.failure = error
        return found[0] if len(found) == 1 else b"".join(found)

    def _decrypt_some(self, data: memoryview, found: list[bytes]) -> None:
        """Add what can be read with `data`. Raises `ssl.SSLError` at the end, `LimitExceeded` in a flood."""
        unsent, had = self._to_peer.pending, len(found)
        self._from_peer.write(data)
        try:
            while self._from_peer.pending or self.ssl_object.pending():
                piece = self.ssl_object.read(MAX_PLAINTEXT)
                if not piece:
                    raise ssl.SSLZeroReturnError
                found.append(piece)
        except ssl.SSLWantReadError:
            pass
        answered = self._to_peer.pending - unsent
        self._answered = answered + (self._answered if len(found) == had else 0)
        if self._answered > MOST_ANSWERS or (answered and self._to_peer.pending > MOST_UNSENT_ANSWERS):
            raise LimitExceeded("the peer asks for new keys, or a new handshake, again and again")

    def encrypt(self, data: memoryview) -> None:
        with self._lock:
            while data:
                data = data[self.ssl_object.write(data) :]

    def close(self) -> None:
        """Produce close_notify, if the handshake was done."""
        # `unwrap` produces it, and raises until that of the peer has come; or if the handshake was not done
        with self._lock, suppress(ssl.SSLError):
            self.ssl_object.unwrap()

    def has_ciphertext(self) -> bool:
        with self._lock:
            return self._to_peer.pending > 0

    def take_ciphertext(self) -> bytes:
        with self._lock:
            return self._to_peer.read()


class _Outgoing:
    """The ciphertext on its way to the stream below, in order."""

    def __init__(self, records: _Records, writer: WriteHalf) -> None:
        self._records = records
        self._writer = writer
        self.after_fork()
        forking.register(self)
        self._unsent = memoryview(b"")

    def after_fork(self) -> None:
        """In the child of a fork: replace the lock, which another thread may have held."""
        self._lock = threading.Lock()

    def flush(self) -> bool:
        """Write as much as fits without waiting; True if nothing is left. Raises OSError."""
        with self._lock:
            while True:
                if not self._unsent:
                    self._unsent = memoryview(self._records.take_ciphertext())
                    if not self._unsent:
                        return True
                taken = self._writer.try_write((self._unsent,))
                if not taken:
                    return False
                self._unsent = self._unsent[taken:]


class _TlsReader:
    """Reads and decrypts."""

    def __init__(self, records: _Records, outgoing: _Outgoing, reader: ReadHalf) -> None:
        self._records = records
        self._outgoing = outgoing
        self._reader = reader
        self._on_exit: Callable[[ConnectionEnded], None] | None = None
        self.end_reason: ConnectionEnded | None = None

    def fileno(self) -> int:
        return self._reader.fileno()

    def start(self, on_exit: Callable[[ConnectionEnded], None]) -> None:
        self._on_exit = on_exit
        self._tell_end()

    def try_read(self, size: int) -> bytes | None:
        """As `ReadHalf.try_read`; may return more than `size`, by a record that was incomplete until now."""
        if self._is_over:
            return self._end()
        data = self._reader.try_read(size)
        if data is None:
            return None
        if not data:
            self.end_reason = StreamTruncated("the stream ended without a close_notify of TLS: it was cut off")
            return b""
        data = self._records.decrypt(data)
        if self._records.has_ciphertext():
            with suppress(OSError):  # the next write will raise it
                self._outgoing.flush()
        if data:
            self._tell_end()
            return data
        return self._end() if self._is_over else None

    @property
    def _is_over(self) -> bool:
        return self._records.closed_by_peer or self._records.failure is not None

    def _end(self) -> bytes:
        if self._records.failure is not None:
            raise _broken(self._records.failure) from self._records.failure
        return b""

    def _tell_end(self) -> None:
        """Report the end by `on_exit`: it follows bytes that are returned first, and no poll may see it."""
        if self._on_exit is None or not self._is_over:
            return
        cause: ConnectionEnded = PeerClosed("the peer closed the TLS stream without saying EOF")
        if self._records.failure is not None:
            cause = ConnectionEnded(str(_broken(self._records.failure)))
            cause.__cause__ = self._records.failure
        self._on_exit(cause)

    def give_back(self, octets: bytes) -> bytes:
        return octets

    def close(self) -> None:
        """Nothing: the stream itself closes the one below."""


class _TlsWriter:
    """Encrypts and writes."""

    def __init__(self, records: _Records, outgoing: _Outgoing, writer: WriteHalf) -> None:
        self._records = records
        self._outgoing = outgoing
        self._writer = writer
        self._encrypted = 0  # of the bytes that come next

    @property
    def events(self) -> int:
        return self._writer.events

    def fileno(self) -> int:
        return self._writer.fileno()

    def try_write(self, buffers: Buffers) -> int:
        if not self._outgoing.flush():
            return 0
        taken, self._encrypted = self._encrypted, 0
        for data in _behind(buffers, taken):
            self._records.encrypt(data)
            if not self._outgoing.flush():
                self._encrypted = len(data)
                break
            taken += len(data)
        return taken

    def end(self) -> None:
        self._records.close()
        with suppress(OSError):  # the peer is gone already, which ends this direction just as well
            self._outgoing.flush()  # close_notify
        self._writer.end()

    def close(self) -> None:
        """Nothing: the stream itself closes the one below."""


def _behind(buffers: Buffers, taken: int) -> Iterator[memoryview]:
    """The rest of `buffers` after the first `taken` bytes, in pieces of a good size to encrypt."""
    joined = bytearray()
    for buffer in buffers:
        view = memoryview(buffer)[taken:]
        taken = max(0, taken - len(buffer))
        if len(joined) + len(view) < ENCRYPT_SIZE:
            joined += view
            continue
        if joined:
            yield memoryview(joined)
            joined = bytearray()
        for start in range(0, len(view), ENCRYPT_SIZE):
            yield view[start : start + ENCRYPT_SIZE]
    if joined:
        yield memoryview(joined)


def _merged(wanted: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same with one entry for each descriptor, as a socket is polled for both directions."""
    merged: dict[int, int] = {}
    for fd, events in wanted:
        merged[fd] = merged.get(fd, 0) | events
    return list(merged.items())


def _broken(error: ssl.SSLError | LimitExceeded) -> OSError:
    return ConnectionError(f"TLS: {_words(error)}")


def _words(error: ssl.SSLError | LimitExceeded) -> str:
    """The message of a failure, for people to read."""
    if isinstance(error, LimitExceeded):
        return str(error)
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate verify failed: {error.verify_message}"
    reason = str(error.reason or "")
    _, is_alert, alert = reason.partition("_ALERT_")
    if is_alert:
        return f"the peer refused, its alert is {alert.replace('_', ' ').lower()!r}"
    return reason.replace("_", " ").lower() or re.sub(r" \(_ssl\.c:\d+\)$", "", str(error))

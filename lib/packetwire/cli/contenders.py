"""The contenders of `packetwire bench`; run as a program, one end of one of them.

Such a process gets its commands over a socket of its own, with a line of JSON for each command and each answer; so
standard output is not involved, and a progress bar is drawn by another process, between the measurements.
`packetwire.cli.measured` is the other end of that socket.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import queue
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from packetwire.addresses import connect_to, parse_address
from packetwire.cli import curve
from packetwire.cli.benchmarks import (
    BULK,
    DEPTH,
    PAYLOAD,
    REVERSE,
    Asker,
    Rate,
    RoundTrips,
    WrongAnswer,
    answer,
    expect,
    repeated,
    summary,
)
from packetwire.connection import PacketConnection
from packetwire.core.settings import DEFAULT_HANDLERS
from packetwire.errors import RequestFailed

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from packetwire.lightresult import LightResult

SERVE, ASK, ASK_ADDRESS = "serve", "ask", "ask-address"
"""The role of the process: its first argument."""

USAGE = "usage"
"""The only command that is not a method of `Asker`."""

Command = list[Any]
"""The name of a measurement, and its arguments, as they come from JSON."""

FIRST_ANSWER_TIMEOUT = 30.0
"""Seconds for the first answer of a server, which shows that it is the right one."""


# packetwire


class PacketwireAsker(Asker["LightResult"]):
    """Asks over a `PacketConnection`."""

    def __init__(self, conn: PacketConnection) -> None:
        self._conn = conn

    def call(self, rq_type: int, payload: bytes) -> bytes:
        return _payload(self._conn(rq_type, payload))

    def submit(self, rq_type: int, payload: bytes) -> LightResult:
        return self._conn.submit(rq_type, 0, payload)

    def collect(self, submitted: LightResult) -> bytes:
        return _payload(submitted())


def _payload(response: tuple[bool, int, bytes]) -> bytes:
    ok, flags, payload = response
    if not ok:
        raise RequestFailed(flags, payload, "a request")
    return payload


@contextmanager
def _packetwire_asker(recv_fd: int, send_fd: int) -> Iterator[Asker[Any]]:
    with PacketConnection((recv_fd, send_fd)) as conn:
        yield PacketwireAsker(conn)


def _packetwire_server(handlers: int | str) -> Callable[[int, int], None]:
    def serve(recv_fd: int, send_fd: int) -> None:
        with PacketConnection((recv_fd, send_fd), request_handler=answer, handlers=handlers) as conn:
            conn.join_recv()

    return serve


@contextmanager
def _address_asker(address: str, curve_server: str, curve_key: str) -> Iterator[Asker[Any]]:
    """Asks a server at an address. A wrong answer means that it is a server of another kind."""
    target = curve.to_connect(parse_address(address), curve_server or None, curve_key or None)
    with PacketConnection(connect_to(target), address) as conn:
        try:
            expect(_payload(conn(REVERSE, PAYLOAD, timeout=FIRST_ANSWER_TIMEOUT)), PAYLOAD[::-1])
            yield PacketwireAsker(conn)
        except (RequestFailed, WrongAnswer) as error:
            raise WrongAnswer(
                f"{address}: this server cannot be measured; start one there by "
                f"packetwire serve packetwire.cli.benchmarks:REQUESTS ADDRESS ({error})"
            ) from error


# multiprocessing.connection: messages with a length, and no tags


class ConnectionAsker(Asker[None]):
    """Asks over `multiprocessing.connection`: answers come in order, and callers take turns."""

    def __init__(self, reader: Connection, writer: Connection) -> None:
        self._receive, self._send = reader.recv_bytes, writer.send_bytes
        self._turn = threading.Lock()

    def call(self, rq_type: int, payload: bytes) -> bytes:
        with self._turn:
            self.submit(rq_type, payload)
            return self.collect(None)

    def submit(self, rq_type: int, payload: bytes) -> None:
        self._send(bytes((rq_type,)) + payload)

    def collect(self, submitted: None) -> bytes:
        return self._receive()


def _connections(recv_fd: int, send_fd: int) -> tuple[Connection, Connection]:
    from multiprocessing.connection import Connection

    if recv_fd == send_fd:
        both = Connection(recv_fd)
        return both, both
    return Connection(recv_fd, writable=False), Connection(send_fd, readable=False)


@contextmanager
def _connection_asker(recv_fd: int, send_fd: int) -> Iterator[Asker[Any]]:
    yield ConnectionAsker(*_connections(recv_fd, send_fd))


def _serve_connection(recv_fd: int, send_fd: int) -> None:
    reader, writer = _connections(recv_fd, send_fd)
    while True:
        try:
            message = reader.recv_bytes()
        except (EOFError, ConnectionError):
            return
        writer.send_bytes(answer(message[0], 0, message[1:]))


# only read and write

ECHO = b"e" * 20
"""In place of a request of 16 bytes, and of its answer: all bytes are equal, so any split by a read will do."""
UPLOAD = b"u" * len(BULK)
DOWNLOAD = b"d"
READ_SIZE = 1 << 16


class RawAsker(Asker[NoReturn]):
    """`os.read` and `os.write` in bare loops: the limit. It cannot tell callers apart."""

    def __init__(self, recv_fd: int, send_fd: int) -> None:
        self._recv_fd, self._send_fd = recv_fd, send_fd

    def call(self, rq_type: int, payload: bytes) -> bytes:
        raise NotImplementedError

    def submit(self, rq_type: int, payload: bytes) -> NoReturn:
        raise NotImplementedError

    def collect(self, submitted: NoReturn) -> bytes:
        raise NotImplementedError

    def round_trip(self, seconds: float) -> RoundTrips:
        recv_fd, send_fd, read, write = self._recv_fd, self._send_fd, os.read, os.write
        times: list[float] = []
        asked = time.perf_counter()
        end = asked + seconds
        while asked < end or not times:
            write(send_fd, ECHO)
            read(recv_fd, READ_SIZE)
            answered = time.perf_counter()
            times.append(answered - asked)
            asked = answered
        return summary(times)

    def in_flight(self, seconds: float, requests: float = math.inf) -> Rate:
        """One write for each packet; a read takes as much as there is."""
        recv_fd, send_fd, read, write = self._recv_fd, self._send_fd, os.read, os.write
        answered = received = 0
        begin = time.perf_counter()
        end = begin + seconds
        for _ in range(DEPTH):
            write(send_fd, ECHO)
        while answered < requests and time.perf_counter() < end:
            arrived, received = divmod(received + len(_read(read, recv_fd)), len(ECHO))
            for _ in range(arrived):
                write(send_fd, ECHO)
            answered += arrived
        while received < DEPTH * len(ECHO):
            received += len(_read(read, recv_fd))
        return Rate(answered + DEPTH, time.perf_counter() - begin)

    def up(self, seconds: float) -> Rate:
        def upload() -> bytes:
            _write_all(self._send_fd, UPLOAD)
            return _read(os.read, self._recv_fd)

        return repeated(upload, seconds, UPLOAD[:1])

    def down(self, seconds: float) -> Rate:
        def download() -> bytes:
            os.write(self._send_fd, DOWNLOAD)
            _read_exactly(self._recv_fd, len(BULK))
            return DOWNLOAD

        return repeated(download, seconds, DOWNLOAD)


@contextmanager
def _raw_asker(recv_fd: int, send_fd: int) -> Iterator[Asker[Any]]:
    yield RawAsker(recv_fd, send_fd)


def _serve_raw(recv_fd: int, send_fd: int) -> None:
    while data := os.read(recv_fd, READ_SIZE):
        if data[:1] == ECHO[:1]:
            os.write(send_fd, data)
        elif data[:1] == UPLOAD[:1]:
            _read_exactly(recv_fd, len(UPLOAD) - len(data))
            os.write(send_fd, UPLOAD[:1])
        else:
            _write_all(send_fd, BULK)


def _read(read: Callable[[int, int], bytes], fd: int) -> bytes:
    data = read(fd, READ_SIZE)
    if not data:
        raise EOFError("the raw server has ended")
    return data


def _read_exactly(fd: int, count: int) -> None:
    while count > 0:
        data = os.read(fd, len(BULK))
        if not data:
            raise EOFError("the other end of the raw connection has ended")
        count -= len(data)


def _write_all(fd: int, data: bytes) -> None:
    written = os.write(fd, data)
    while written < len(data):
        written += os.write(fd, memoryview(data)[written:])


# all of them


@dataclass(frozen=True)
class Contender:
    """A contender. Both ends are passed the descriptors to read and to write."""

    label: str
    serve: Callable[[int, int], None]
    ask: Callable[[int, int], AbstractContextManager[Asker[Any]]]
    many_callers: bool = True
    """True if threads can share the connection."""


RAW, CONNECTION, DEFAULT, INLINE = "raw", "multiprocessing", "packetwire", "packetwire-inline"

CONTENDERS = {
    RAW: Contender("raw", _serve_raw, _raw_asker, many_callers=False),
    CONNECTION: Contender("mp.connection", _serve_connection, _connection_asker),
    DEFAULT: Contender("packetwire", _packetwire_server(DEFAULT_HANDLERS), _packetwire_asker),
    INLINE: Contender("inline", _packetwire_server("inline"), _packetwire_asker),
}


# the process of one end


@dataclass(frozen=True)
class Usage:
    """The resources that a process has used: CPU time in seconds, and peak resident memory in KiB."""

    cpu: float
    peak: int


def usage(new_peak: bool = False) -> Usage:
    """The usage of this process. With `new_peak` the peak is first reset to the present memory; only on Linux."""
    cpu = time.process_time()
    try:
        if new_peak:
            with open("/proc/self/clear_refs", "w", encoding="ascii") as clear:
                clear.write("5")
        with open("/proc/self/status", encoding="ascii", errors="replace") as status:
            return Usage(cpu, int(status.read().partition("\nVmHWM:")[2].split()[0]))
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return Usage(cpu, peak // 1024 if sys.platform == "darwin" else peak)


def main(argv: Sequence[str]) -> int:
    """Be one end of a contender: `serve` or `ask`, its name and three descriptors, or `ask-address`.

    The arguments of `ask-address` are the address, a descriptor, and two files for `curve.to_connect`, "" for none.
    The descriptors are the socket for commands, one to read and one to write. The end of that socket is the end of
    the process, even amid a measurement: the process that started it may be gone.
    """
    role, name, control_fd, *more = argv
    signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(0))  # closes what is open
    with socket.socket(fileno=int(control_fd)) as control:
        commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
        obey = _told_usage(control) if role == SERVE else commands.put
        threading.Thread(target=_listen, args=(control, obey), daemon=True).start()
        if role == SERVE:
            CONTENDERS[name].serve(*map(int, more))
            return 0
        asking = _address_asker(name, *more) if role == ASK_ADDRESS else CONTENDERS[name].ask(*map(int, more))
        try:
            with asking as asker:
                _measure(asker, commands, control)
        except Exception as error:  # whatever it is, the process that asked must get it
            _say(control, {"failed": str(error) or type(error).__name__})
    return 1


def _listen(control: socket.socket, obey: Callable[[Command], None]) -> None:
    """Receive commands, in a thread that sleeps during a measurement."""
    with control.makefile("r", encoding="utf-8") as lines:
        for line in lines:
            obey(json.loads(line))
    os.kill(os.getpid(), signal.SIGTERM)


def _told_usage(control: socket.socket) -> Callable[[Command], None]:
    """Handles commands of a server, which are all about its usage."""
    return lambda command: _say(control, {"done": dataclasses.asdict(usage(*command[1:]))})


def _measure(asker: Asker[object], commands: queue.SimpleQueue[Command], control: socket.socket) -> NoReturn:
    while True:
        command, *arguments = commands.get()
        measurement = usage if command == USAGE else getattr(asker, command)
        _say(control, {"done": dataclasses.asdict(measurement(*arguments))})


def _say(control: socket.socket, message: dict[str, object]) -> None:
    try:
        control.sendall(json.dumps(message).encode() + b"\n")
    except OSError:
        pass  # the process that asked is gone


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

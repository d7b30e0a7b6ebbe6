"""One end of a connection on the real cs.packetstream: run by the interpreter of its own environment.

    reference_peer.py pipes|unix:PATH|tcp:PORT CONTROL_FD
    reference_peer.py pipes serve

The first form does what the test asks for over the control descriptor, a `multiprocessing.connection`.
The second is a server: it serves its standard input and output until their end.
"""

from __future__ import annotations

import faulthandler
import os
import socket
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from cs.packetstream import PacketConnection
from exchange import Exchange

WATCHDOG_SECONDS = 90
"""The reference can wait for ever, for the peer's EOF above all; the test shall see where it does."""


def open_streams(address: str) -> tuple[int, int]:
    """The descriptors (recv, send) of the stream. Standard output is free for the reference's prints after."""
    pipes = os.dup(0), os.dup(1)
    with open(os.devnull) as null:
        os.dup2(null.fileno(), 0)
    os.dup2(2, 1)
    if address == "pipes":
        return pipes
    for fd in pipes:
        os.close(fd)
    kind, _, where = address.partition(":")
    if kind == "unix":
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(where)
    else:
        sock = socket.create_connection(("127.0.0.1", int(where)))
    fd = sock.detach()
    return fd, fd


class Peer:
    """The commands that a test can give: its public methods."""

    def __init__(self, streams: tuple[int, int]) -> None:
        self._streams = streams
        self._conn: Any = None
        self._exchange = Exchange()
        self._submitted: list[Any] = []
        self._order: list[int] = []

    def open(self, handles: bool) -> None:
        """Open a connection, with a request handler or without."""
        self._exchange = Exchange()
        self._conn = PacketConnection(
            self._streams, "reference", request_handler=self._exchange if handles else None, packet_grace=0
        )
        self._exchange.conn = self._conn
        self._conn.open()

    def call(self, rq_type: int, flags: int, payload: bytes) -> Any:
        """Ask and wait for the response."""
        return self._conn(rq_type, payload, flags)

    def submit(self, requests: list[tuple[int, int, bytes]]) -> None:
        """Ask many times without waiting."""
        self._submitted, self._order = [], []
        for number, (rq_type, flags, payload) in enumerate(requests):
            result = self._conn.submit(rq_type, flags, payload)
            result.notify(self._note_completion(number))
            self._submitted.append(result)

    def _note_completion(self, number: int) -> Callable[[Any], None]:
        return lambda result: self._order.append(number)

    def collect(self) -> tuple[list[Any], list[int]]:
        """The responses to what was submitted, and the order in which they came."""
        return [result() for result in self._submitted], self._order

    def release(self) -> None:
        """Open the gate for the requests that are held here."""
        self._exchange.gate.set()

    def send_erq(self) -> None:
        """Say that there are no more requests from here."""
        self._conn.send_erq()

    def send_eof(self) -> None:
        """Say that there is nothing more from here."""
        self._conn.send_eof()

    def join_recv(self) -> None:
        """Wait for the end of the other direction."""
        self._conn.join_recv()

    def close(self) -> None:
        """Close the connection: what the reference does on leaving `with`."""
        self._conn.close()

    def serve(self) -> None:
        """Be a server: open, serve until the other side has ended, close."""
        self.open(True)
        self.join_recv()
        self.close()


def take_commands(peer: Peer, control: Connection) -> None:
    """Do what the test asks for, until it says None."""
    while (asked := control.recv()) is not None:
        command, *arguments = asked
        try:
            control.send((True, getattr(peer, command)(*arguments)))
        except Exception:
            control.send((False, traceback.format_exc()))


def main(address: str, control: str) -> None:
    faulthandler.dump_traceback_later(WATCHDOG_SECONDS, exit=True)
    peer = Peer(open_streams(address))
    if control == "serve":
        peer.serve()
    else:
        take_commands(peer, Connection(int(control)))


if __name__ == "__main__":
    main(*sys.argv[1:])

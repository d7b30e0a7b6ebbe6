"""A peer that speaks ZMTP by a plain socket, and sends what libzmq never would.

It shakes hands by the mechanism NULL, as ZMTP 3.0 has it, and then what is sent are bytes of the attack's own.
"""

from __future__ import annotations

import struct
from typing import Self

from tools.attacks.local import connect_locally

SIGNATURE = b"\xff" + bytes(8) + b"\x7f"
VERSION = bytes((3, 0))
GREETING_SIZE = 64
MORE, LONG, COMMAND = 1, 2, 4
READY = b"\x05READY"
PING, PONG = b"\x04PING", b"\x04PONG"
WAIT = 20.0


def greeting(mechanism: bytes = b"NULL") -> bytes:
    return SIGNATURE + VERSION + mechanism.ljust(20, b"\0") + bytes(1 + 31)


def frame(body: bytes = b"", *, more: bool = False, flags: int = 0) -> bytes:
    """One frame on the wire."""
    flags |= MORE if more else 0
    if len(body) < 256:
        return bytes((flags, len(body))) + body
    return bytes((flags | LONG,)) + struct.pack(">Q", len(body)) + body


def ready(kind: bytes, identity: bytes = b"") -> bytes:
    """The command with which a peer of the mechanism NULL is ready."""
    properties = {b"Socket-Type": kind, b"Identity": identity}
    packed = (bytes((len(name),)) + name + struct.pack(">I", len(of)) + of for name, of in properties.items())
    return frame(READY + b"".join(packed), flags=COMMAND)


class RawPeer:
    """A link to a ZMQ socket on this machine; with `greets=False` not even a greeting is sent."""

    def __init__(
        self,
        endpoint: str,
        kind: bytes = b"DEALER",
        *,
        identity: bytes = b"",
        mechanism: bytes = b"NULL",
        greets: bool = True,
        shakes_hands: bool = True,
    ) -> None:
        self.socket = connect_locally(endpoint)
        self.socket.settimeout(WAIT)
        try:
            if greets:
                self._greet(kind, identity, mechanism, shakes_hands=shakes_hands)
        except BaseException:
            self.socket.close()
            raise

    def _greet(self, kind: bytes, identity: bytes, mechanism: bytes, *, shakes_hands: bool) -> None:
        self.socket.sendall(greeting(mechanism))
        if shakes_hands:
            self.receive(GREETING_SIZE)
            self.socket.sendall(ready(kind, identity))
            self.receive_frame()

    def receive(self, size: int) -> bytes:
        """So many bytes. Raises ConnectionError at the end of the stream."""
        received = b""
        while len(received) < size:
            more = self.socket.recv(size - len(received))
            if not more:
                raise ConnectionResetError("the victim has closed the link")
            received += more
        return received

    def receive_frame(self) -> tuple[int, bytes]:
        """The flags and the body of the next frame or command; PING is answered, and left out."""
        while True:
            flags, size = self.receive(2)
            if flags & LONG:
                size = struct.unpack(">Q", bytes((size,)) + self.receive(7))[0]
            body = self.receive(size)
            if not (flags & COMMAND and body.startswith(PING)):
                return flags, body
            self.send(frame(PONG + body[len(PING) + 2 :], flags=COMMAND))

    def send(self, octets: bytes) -> bool:
        """Send bytes; false if the victim has closed the link, or takes nothing any more."""
        try:
            self.socket.sendall(octets)
        except OSError:
            return False
        return True

    def is_closed(self, seconds: float = WAIT) -> bool:
        """Whether the victim closes the link in that time; what it says until then is thrown away."""
        self.socket.settimeout(seconds)
        try:
            while self.socket.recv(65536):
                pass
        except TimeoutError:
            return False
        except OSError:
            pass
        return True

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

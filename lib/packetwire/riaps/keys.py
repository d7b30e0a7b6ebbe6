"""The CURVE keys of a member."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import zmq

from packetwire.errors import LocalProtocolError
from packetwire.riaps.links import ZmqSocket
from packetwire.streams.curve import CurveClient, CurveServer, Key, key_bytes


@dataclass(frozen=True)
class GroupKeys:
    """A member's keys: those of its bound ports, which are servers, and those of its connecting ports.

    `shared` is the way of RIAPS: all members have the same pair. The ports do not check the keys of clients; run an
    authenticator of `zmq.auth` in their context for that.
    """

    server: CurveServer
    client: CurveClient

    def __post_init__(self) -> None:
        if self.server.clients is not None:
            raise LocalProtocolError("group ports do not check clients: run an authenticator in their context")

    @classmethod
    def shared(cls, public_key: Key, secret_key: Key) -> Self:
        """One pair for all members and both directions."""
        return cls(CurveServer(secret_key), CurveClient(public_key, public_key, secret_key))

    def be_server(self, socket: ZmqSocket) -> None:
        """Set the keys of a socket that is about to bind."""
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_SECRETKEY, key_bytes(self.server.secret_key))

    def be_client(self, socket: ZmqSocket) -> None:
        """Set the keys of a socket that is about to connect; the server's key is set for each connection."""
        socket.setsockopt(zmq.CURVE_PUBLICKEY, key_bytes(self.client.public_key))
        socket.setsockopt(zmq.CURVE_SECRETKEY, key_bytes(self.client.secret_key))

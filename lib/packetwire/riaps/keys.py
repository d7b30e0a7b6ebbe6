"""The CURVE keys of a member."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import zmq

from packetwire.errors import LocalProtocolError
from packetwire.riaps.links import ZmqSocket
from packetwire.streams.curve import CurveClient, CurveServer, Key, key_octets


@dataclass(frozen=True)
class GroupKeys:
    """A member's keys: of its bound ports, which are servers, and of those that connect.

    `shared` is what RIAPS does: all members have one and the same pair. Whom a server lets in is not asked
    here; an authenticator of `zmq.auth` in the same context does that.
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
        """Before it is bound."""
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_SECRETKEY, key_octets(self.server.secret_key))

    def be_client(self, socket: ZmqSocket) -> None:
        """Before it connects. The key of each server is set with its connection."""
        socket.setsockopt(zmq.CURVE_PUBLICKEY, key_octets(self.client.public_key))
        socket.setsockopt(zmq.CURVE_SECRETKEY, key_octets(self.client.secret_key))

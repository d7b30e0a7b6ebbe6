"""The same service or client on different carriers, with a peer at the other end that says anything.

What a facade here offers is what `FakeChannel` offers, so that one suite runs on all of them. A *fence* tells
when all that was said before has been handled, and all that was answered has arrived.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import zmq

from packetwire import PacketConnection
from packetwire.fbsp.requests import FBSPPacketChannel
from packetwire.messaging import ANY, Channel, Protocol, Session
from packetwire.messaging.zmq import DealerChannel, RouterChannel

FENCE = b"fence"
ROUTE = b"route-1"
WAIT = 10000
"""Milliseconds."""


class Listener(Protocol):
    """Takes messages of any content."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[list[bytes]] = []
        self.handlers[ANY] = self.hear

    def hear(self, channel: Channel, session: Session, msg: Any) -> None:
        self.heard.append(msg.data)


class RawPackets(FBSPPacketChannel):
    """A peer that leaves requests open until it is told what to answer."""

    def is_awaited(self, key: Any) -> bool:
        return True

    def request_of(self, zmsg: list[bytes]) -> tuple[int, int]:
        header = zmsg[0] if zmsg else b""
        return (header[4] >> 3, header[5]) if len(header) > 5 else (1, 0)

    def concluded_by(self, zmsg: list[bytes]) -> Any:
        return super().concluded_by(zmsg) if zmsg and len(zmsg[0]) == 16 and zmsg[0][:4] == b"FBSP" else None


class RawPacketPeer:
    """The other end of a packet connection."""

    def __init__(self, conn: PacketConnection) -> None:
        self.conn = conn
        self.channel = RawPackets(Listener(), conn)
        self.session = self.channel.create_session(b"")

    def say(self, frames: list[bytes]) -> None:
        assert self.channel._transmit(frames, self.session) == 0

    def fence(self) -> None:
        self.conn(0, channel=16, timeout=WAIT / 1000)

    def take(self) -> list[list[bytes]]:
        with self.channel.lock:
            heard: list[list[bytes]] = self.channel.protocol.heard  # type: ignore[attr-defined]
            self.channel.protocol.heard = []  # type: ignore[attr-defined]
        return heard


class ZmqServiceChannel(RouterChannel):
    """Returns fences."""

    def deliver(self, routing_id: bytes, zmsg: Any) -> Any:
        if zmsg == [FENCE]:
            return self._try_send(routing_id, [FENCE])
        return super().deliver(routing_id, zmsg)


class ServiceFacade:
    """A service on a real carrier: what `Serving` needs of a channel."""

    def __init__(self, protocol: Any, opened: ExitStack) -> None:
        self.protocol = protocol
        self.opened = opened

    def channel_of(self, session: Session) -> Any:
        raise NotImplementedError

    def send(self, msg: Any, session: Session) -> int:
        return int(self.channel_of(session).send(msg, session))

    def discard_session(self, session: Session) -> None:
        self.channel_of(session).discard_session(session)

    def lose_session(self, session: Session, exc: Exception | None = None) -> None:
        self.channel_of(session).lose_session(session, exc)


class ZmqService(ServiceFacade):
    def __init__(self, protocol: Any, opened: ExitStack) -> None:
        super().__init__(protocol, opened)
        self.channel = opened.enter_context(ZmqServiceChannel(protocol, linger=0))
        self.address = self.channel.bind("tcp://127.0.0.1:*")
        self.channel.start()
        self.peers: dict[bytes, Any] = {}

    @property
    def sessions(self) -> dict[bytes, Session]:
        return self.channel.sessions

    def channel_of(self, session: Session) -> Any:
        return self.channel

    def _peer(self, route: bytes) -> Any:
        if route not in self.peers:
            peer = self.opened.enter_context(zmq.Context.instance().socket(zmq.DEALER))
            peer.linger = 0
            peer.rcvtimeo = WAIT
            peer.routing_id = route
            peer.connect(self.address)
            self.peers[route] = peer
        return self.peers[route]

    def deliver(self, route: bytes, frames: list[bytes]) -> None:
        self._peer(route).send_multipart(frames)

    def take_frames(self, route: bytes) -> list[list[bytes]]:
        peer = self._peer(route)
        peer.send(FENCE)
        taken = []
        while (frames := peer.recv_multipart()) != [FENCE]:
            taken.append(frames)
        return taken


class PacketService(ServiceFacade):
    """A connection for each route."""

    def __init__(self, protocol: Any, opened: ExitStack) -> None:
        super().__init__(protocol, opened)
        self.ends: dict[bytes, tuple[FBSPPacketChannel, RawPacketPeer]] = {}

    @property
    def sessions(self) -> dict[bytes, Session]:
        return {route: channel.sessions[b""] for route, (channel, _) in self.ends.items() if channel.sessions}

    def channel_of(self, session: Session) -> Any:
        for channel, _ in self.ends.values():
            if session in channel.sessions.values():
                return channel
        return next(iter(self.ends.values()))[0]

    def _end(self, route: bytes) -> tuple[FBSPPacketChannel, RawPacketPeer]:
        if route not in self.ends:
            theirs, ours = self.opened.enter_context(packet_pair())
            self.ends[route] = FBSPPacketChannel(self.protocol, ours), RawPacketPeer(theirs)
            self.opened.enter_context(ours)
            self.opened.enter_context(theirs)
        return self.ends[route]

    def deliver(self, route: bytes, frames: list[bytes]) -> None:
        self._end(route)[1].say(frames)

    def take_frames(self, route: bytes) -> list[list[bytes]]:
        peer = self._end(route)[1]
        peer.fence()
        return peer.take()


@contextmanager
def packet_pair() -> Iterator[tuple[PacketConnection, PacketConnection]]:
    """Two connections to each other, not open yet."""
    theirs, ours = socket.socketpair()
    with theirs, ours:
        # the peer of these tests leaves requests without an answer
        yield (
            PacketConnection(theirs, close_timeout=0.0),
            PacketConnection(ours, close_timeout=0.0, request_handler=lambda rq_type, flags, payload: None),
        )


class ClientFacade:
    """A client on a real carrier: what `Asking` needs of a channel."""

    channel: Any

    @property
    def sessions(self) -> dict[bytes, Session]:
        sessions: dict[bytes, Session] = self.channel.sessions
        return sessions

    def send(self, msg: Any, session: Session) -> int:
        return int(self.channel.send(msg, session))

    def discard_session(self, session: Session) -> None:
        self.channel.discard_session(session)

    def lose_session(self, session: Session, exc: Exception | None = None) -> None:
        self.channel.lose_session(session, exc)

    def receive(self) -> Any:
        return self.channel.receive(WAIT)


class ZmqClient(ClientFacade):
    def __init__(self, protocol: Any, opened: ExitStack) -> None:
        self.service = opened.enter_context(zmq.Context.instance().socket(zmq.ROUTER))
        self.service.linger = 0
        self.service.rcvtimeo = WAIT
        port = self.service.bind_to_random_port("tcp://127.0.0.1")
        self.channel = opened.enter_context(DealerChannel(protocol, routing_id=ROUTE, linger=0))
        self.address = f"tcp://127.0.0.1:{port}"

    def create_session(self, routing_id: bytes) -> Any:
        session = self.channel.connect(self.address)
        assert self.channel.wait_linked(WAIT / 1000)
        self.channel._try_send(b"", [FENCE])
        assert self.service.recv_multipart() == [ROUTE, FENCE]
        return session

    def say(self, frames: list[bytes]) -> None:
        self.service.send_multipart([ROUTE, *frames])

    def take_frames(self, route: bytes) -> list[list[bytes]]:
        self.channel._try_send(b"", [FENCE])
        taken = []
        while (frames := self.service.recv_multipart()[1:]) != [FENCE]:
            taken.append(frames)
        return taken


class PacketClient(ClientFacade):
    def __init__(self, protocol: Any, opened: ExitStack) -> None:
        theirs, self.ours = opened.enter_context(packet_pair())
        self.channel = FBSPPacketChannel(protocol, self.ours, receives=True)
        self.peer = RawPacketPeer(theirs)
        opened.enter_context(theirs)
        opened.enter_context(self.ours)

    def create_session(self, routing_id: bytes) -> Any:
        return self.channel.connect()

    def say(self, frames: list[bytes]) -> None:
        self.peer.say(frames)

    def take_frames(self, route: bytes) -> list[list[bytes]]:
        self.ours(0, channel=16, timeout=WAIT / 1000)
        return self.peer.take()


SERVICES: dict[str, Callable[[Any, ExitStack], Any]] = {"zmq": ZmqService, "packets": PacketService}
CLIENTS: dict[str, Callable[[Any, ExitStack], Any]] = {"zmq": ZmqClient, "packets": PacketClient}

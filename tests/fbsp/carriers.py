"""The same service or client on different carriers, with a peer at the other end that says anything.

What a facade here offers is what `FakeChannel` offers, so that one suite runs on all of them. A *fence* tells
when all that was said before has been handled, and all that was answered has arrived.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import zmq

from packetwire import AsyncPacketConnection, PacketConnection
from packetwire.fbsp.aiorequests import LoopFBSPPacketChannel
from packetwire.fbsp.requests import FBSPPacketChannel
from packetwire.messaging import ANY, Channel, Protocol, Session
from packetwire.messaging.loopzmq import LoopDealerChannel, LoopRouterChannel
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


class Fenced:
    """Mixed into the channel of a service: returns fences."""

    def deliver(self, routing_id: bytes, zmsg: Any) -> Any:
        if zmsg == [FENCE]:
            return self._try_send(routing_id, [FENCE])  # type: ignore[attr-defined]
        return super().deliver(routing_id, zmsg)  # type: ignore[misc]


class ZmqServiceChannel(Fenced, RouterChannel):
    """For a service with threads."""


class LoopZmqServiceChannel(Fenced, LoopRouterChannel):
    """For a service in an event loop."""


class Kept:
    """Mixed into the channel of a client: keeps what handlers return, as `receive` would return it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.results: list[Any] = []

    def deliver(self, routing_id: bytes, zmsg: Any) -> Any:
        result = super().deliver(routing_id, zmsg)  # type: ignore[misc]
        self.results.append(result)
        self.notify()  # type: ignore[attr-defined]
        return result


class LoopZmqClientChannel(Kept, LoopDealerChannel):
    """For a client in an event loop."""


class LoopPacketClientChannel(Kept, LoopFBSPPacketChannel):
    """For a client in an event loop."""


class Loop:
    """An event loop, which runs while a test waits for something."""

    def __init__(self, opened: ExitStack) -> None:
        self._runner = opened.enter_context(asyncio.Runner())

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self._runner.run(coroutine)

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call what needs a running loop."""

        async def call() -> Any:
            return function(*args)

        return self.run(call())

    def wait(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run while another thread waits in this function."""
        return self.run(asyncio.to_thread(function, *args))


class ServiceFacade:
    """A service on a real carrier: what `Serving` needs of a channel."""

    def __init__(self, protocol: Any, opened: ExitStack) -> None:
        self.protocol = protocol
        self.opened = opened

    def channel_of(self, session: Session) -> Any:
        raise NotImplementedError

    def send(self, msg: Any, session: Session) -> int:
        return int(self.channel_of(session).send(msg, session))

    def tell(self, msg: Any, session: Session) -> int:
        return int(self.channel_of(session).tell(msg, session))

    def discard_session(self, session: Session) -> None:
        self.channel_of(session).discard_session(session)

    def lose_session(self, session: Session, exc: Exception | None = None) -> None:
        self.channel_of(session).lose_session(session, exc)


class ZmqService(ServiceFacade):
    def __init__(self, protocol: Any, opened: ExitStack) -> None:
        super().__init__(protocol, opened)
        self.channel = self.open_channel()
        self.address = self.channel.bind("tcp://127.0.0.1:*")
        self.peers: dict[bytes, Any] = {}
        self.start()

    def open_channel(self) -> Any:
        return self.opened.enter_context(ZmqServiceChannel(self.protocol, linger=0))

    def start(self) -> None:
        self.channel.start()

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
        return take_until_fence(self._peer(route))


def take_until_fence(peer: Any) -> list[list[bytes]]:
    peer.send(FENCE)
    taken = []
    while (frames := peer.recv_multipart()) != [FENCE]:
        taken.append(frames)
    return taken


class LoopZmqService(ZmqService):
    def open_channel(self) -> Any:
        self.loop = Loop(self.opened)
        channel = LoopZmqServiceChannel(self.protocol, linger=0)
        self.opened.callback(self.loop.call, channel.close)
        return channel

    def start(self) -> None:
        self.loop.call(self.channel.start)

    def take_frames(self, route: bytes) -> list[list[bytes]]:
        frames: list[list[bytes]] = self.loop.wait(take_until_fence, self._peer(route))
        return frames


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
        self.wait(peer.fence)
        return peer.take()

    def wait(self, function: Callable[[], Any]) -> Any:
        return function()


class LoopPacketService(PacketService):
    def __init__(self, protocol: Any, opened: ExitStack) -> None:
        super().__init__(protocol, opened)
        self.loop = Loop(opened)

    def _end(self, route: bytes) -> tuple[FBSPPacketChannel, RawPacketPeer]:
        if route not in self.ends:
            theirs, ours = self.opened.enter_context(packet_pair(AsyncPacketConnection))
            channel = self.loop.call(LoopFBSPPacketChannel, self.protocol, ours)
            self.ends[route] = channel, RawPacketPeer(theirs)
            open_in_loop(self.loop, ours, theirs, self.opened)
        return self.ends[route]

    def wait(self, function: Callable[[], Any]) -> Any:
        return self.loop.wait(function)


@contextmanager
def packet_pair(kind: Any = PacketConnection) -> Iterator[tuple[PacketConnection, Any]]:
    """Two connections to each other, not open yet; the second, ours, is of this kind."""
    theirs, ours = socket.socketpair()
    with theirs, ours:
        # the peer of these tests leaves requests without an answer; fences are answered behind what came before
        fences = {16: lambda rq_type, flags, payload: None}
        yield (
            # without capabilities, as else a fence overtakes large messages, which then go in pieces
            PacketConnection(theirs, close_timeout=0.0, channels=fences, capabilities="off"),
            kind(ours, close_timeout=0.0, channels=fences, capabilities="off"),
        )


def open_in_loop(loop: Loop, ours: AsyncPacketConnection, theirs: PacketConnection, opened: ExitStack) -> None:
    """Open both, and have both closed."""
    loop.run(ours.__aenter__())
    opened.callback(lambda: loop.run(ours.close()))
    opened.enter_context(theirs)


class ClientFacade:
    """A client on a real carrier: what `Asking` needs of a channel."""

    channel: Any

    @property
    def sessions(self) -> dict[bytes, Session]:
        sessions: dict[bytes, Session] = self.channel.sessions
        return sessions

    def send(self, msg: Any, session: Session) -> int:
        return int(self.channel.send(msg, session))

    def tell(self, msg: Any, session: Session) -> int:
        return int(self.channel.tell(msg, session))

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
        self.channel = self.open_channel(protocol, opened)
        self.address = f"tcp://127.0.0.1:{port}"

    def open_channel(self, protocol: Any, opened: ExitStack) -> Any:
        return opened.enter_context(DealerChannel(protocol, routing_id=ROUTE, linger=0))

    def create_session(self, routing_id: bytes) -> Any:
        session = self.channel.connect(self.address)
        assert self.channel.wait_linked(WAIT / 1000)
        return self.fenced(session)

    def fenced(self, session: Any) -> Any:
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


class LoopZmqClient(ZmqClient):
    def open_channel(self, protocol: Any, opened: ExitStack) -> Any:
        self.loop = Loop(opened)
        channel = LoopZmqClientChannel(protocol, routing_id=ROUTE, linger=0)
        opened.callback(self.loop.call, channel.close)
        return channel

    def create_session(self, routing_id: bytes) -> Any:
        session = self.channel.connect(self.address)
        self.loop.call(self.channel.start)
        assert self.loop.run(self.channel.wait_for(lambda: self.channel.linked, WAIT / 1000))
        return self.fenced(session)

    def receive(self) -> Any:
        return receive_in_loop(self.loop, self.channel)


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


class LoopPacketClient(PacketClient):
    def __init__(self, protocol: Any, opened: ExitStack) -> None:
        theirs, ours = opened.enter_context(packet_pair(AsyncPacketConnection))
        self.async_ours = ours
        self.loop = Loop(opened)
        self.channel = self.loop.call(LoopPacketClientChannel, protocol, ours)
        self.peer = RawPacketPeer(theirs)
        open_in_loop(self.loop, ours, theirs, opened)

    def take_frames(self, route: bytes) -> list[list[bytes]]:
        self.loop.run(self.async_ours(0, channel=16, timeout=WAIT / 1000))
        return self.peer.take()

    def receive(self) -> Any:
        return receive_in_loop(self.loop, self.channel)


def receive_in_loop(loop: Loop, channel: Any) -> Any:
    """What the handler of the next message has returned."""
    assert loop.run(channel.wait_for(lambda: bool(channel.results), WAIT / 1000))
    return channel.results.pop(0)


SERVICES: dict[str, Callable[[Any, ExitStack], Any]] = {
    "zmq": ZmqService,
    "packets": PacketService,
    "aio-zmq": LoopZmqService,
    "aio-packets": LoopPacketService,
}
CLIENTS: dict[str, Callable[[Any, ExitStack], Any]] = {
    "zmq": ZmqClient,
    "packets": PacketClient,
    "aio-zmq": LoopZmqClient,
    "aio-packets": LoopPacketClient,
}

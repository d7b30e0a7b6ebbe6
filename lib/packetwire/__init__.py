"""Tagged requests over any bidirectional byte stream: pipes, sockets, a child process, an SSH tunnel.

    from packetwire import PacketConnection, BaseRequest, HasPacketConnection, stdio

See `PacketConnection` for a connection, `HasPacketConnection` and `BaseRequest` for a protocol of request
classes, `PacketConnection.spawn` and `stdio` for a child over its pipes.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from packetwire._async.bodies import AsyncBodyReader, AsyncStreamCall
    from packetwire._sync.bodies import BodyReader, StreamCall
    from packetwire.addresses import connect_to
    from packetwire.aio.connection import AsyncPacketConnection
    from packetwire.aio.pool import AsyncPool, AsyncReconnecting, AsyncSupervised
    from packetwire.aio.server import aserve
    from packetwire.aio.service import AsyncHasPacketConnection
    from packetwire.connection import DEFAULT_PACKET_GRACE, PacketConnection
    from packetwire.core.events import PeerEndedRequests, RequestReceived, ResponseReceived, StreamEnded
    from packetwire.core.packet import Packet
    from packetwire.core.packets import PacketDecoder
    from packetwire.core.requests import BaseRequest, Responder
    from packetwire.core.stats import ConnectionStats
    from packetwire.current import CurrentRequest, current_request
    from packetwire.dedup import Dedup
    from packetwire.errors import (
        BodyEnded,
        CapabilityMissing,
        ChildExited,
        ConnectionEnded,
        DeadlineExceeded,
        Drained,
        Draining,
        LimitExceeded,
        LocalProtocolError,
        PacketwireError,
        PeerClosed,
        PeerUnresponsive,
        PreambleMissing,
        ProtocolError,
        ProtocolMismatch,
        RemoteProtocolError,
        RequestCancelled,
        RequestError,
        RequestFailed,
        RequestTimeout,
        StreamTruncated,
    )
    from packetwire.hooks import ClientCall, ServedRequest
    from packetwire.pool import Pool, Reconnecting, Supervised
    from packetwire.result import RequestResult, RequestState
    from packetwire.server import serve
    from packetwire.service import HasPacketConnection
    from packetwire.ship.shipment import Ship
    from packetwire.streams.bytestream import ByteStream
    from packetwire.streams.files import ReadableFile, SendableFile
    from packetwire.streams.open import PacketConnectionRecv, PacketConnectionRecvSend, PacketConnectionSend
    from packetwire.streams.process import child
    from packetwire.streams.stdio import stdio

__version__ = "0.2.0"

compiled: bool | str
"""True if the modules that were compiled are used; else the reason why they are not."""
try:
    from packetwire.twins import choose
except ImportError as error:  # the core can also be imported where nothing else can be
    compiled = f"compiled modules cannot be looked for: {error}"
else:
    compiled = choose()
    del choose

__all__ = [
    "DEFAULT_PACKET_GRACE",
    "AsyncBodyReader",
    "AsyncHasPacketConnection",
    "AsyncPacketConnection",
    "AsyncPool",
    "AsyncReconnecting",
    "AsyncStreamCall",
    "AsyncSupervised",
    "BaseRequest",
    "BodyEnded",
    "BodyReader",
    "ByteStream",
    "CapabilityMissing",
    "ChildExited",
    "ClientCall",
    "ConnectionEnded",
    "ConnectionStats",
    "CurrentRequest",
    "DeadlineExceeded",
    "Dedup",
    "Drained",
    "Draining",
    "HasPacketConnection",
    "LimitExceeded",
    "LocalProtocolError",
    "Packet",
    "PacketConnection",
    "PacketConnectionRecv",
    "PacketConnectionRecvSend",
    "PacketConnectionSend",
    "PacketDecoder",
    "PacketwireError",
    "PeerClosed",
    "PeerEndedRequests",
    "PeerUnresponsive",
    "Pool",
    "PreambleMissing",
    "ProtocolError",
    "ProtocolMismatch",
    "ReadableFile",
    "Reconnecting",
    "RemoteProtocolError",
    "RequestCancelled",
    "RequestError",
    "RequestFailed",
    "RequestReceived",
    "RequestResult",
    "RequestState",
    "RequestTimeout",
    "Responder",
    "ResponseReceived",
    "SendableFile",
    "ServedRequest",
    "Ship",
    "StreamCall",
    "StreamEnded",
    "StreamTruncated",
    "Supervised",
    "aserve",
    "child",
    "connect_to",
    "current_request",
    "serve",
    "stdio",
]

_HOMES = {
    "packetwire._async.bodies": ("AsyncBodyReader", "AsyncStreamCall"),
    "packetwire._sync.bodies": ("BodyReader", "StreamCall"),
    "packetwire.addresses": ("connect_to",),
    "packetwire.aio.connection": ("AsyncPacketConnection",),
    "packetwire.aio.pool": ("AsyncPool", "AsyncReconnecting", "AsyncSupervised"),
    "packetwire.aio.server": ("aserve",),
    "packetwire.aio.service": ("AsyncHasPacketConnection",),
    "packetwire.connection": ("DEFAULT_PACKET_GRACE", "PacketConnection"),
    "packetwire.core.events": ("PeerEndedRequests", "RequestReceived", "ResponseReceived", "StreamEnded"),
    "packetwire.core.packet": ("Packet",),
    "packetwire.core.packets": ("PacketDecoder",),
    "packetwire.core.requests": ("BaseRequest", "Responder"),
    "packetwire.core.stats": ("ConnectionStats",),
    "packetwire.current": ("CurrentRequest", "current_request"),
    "packetwire.dedup": ("Dedup",),
    "packetwire.errors": (
        "BodyEnded",
        "CapabilityMissing",
        "ChildExited",
        "ConnectionEnded",
        "DeadlineExceeded",
        "Drained",
        "Draining",
        "LimitExceeded",
        "LocalProtocolError",
        "PacketwireError",
        "PeerClosed",
        "PeerUnresponsive",
        "PreambleMissing",
        "ProtocolError",
        "ProtocolMismatch",
        "RemoteProtocolError",
        "RequestCancelled",
        "RequestError",
        "RequestFailed",
        "RequestTimeout",
        "StreamTruncated",
    ),
    "packetwire.hooks": ("ClientCall", "ServedRequest"),
    "packetwire.pool": ("Pool", "Reconnecting", "Supervised"),
    "packetwire.result": ("RequestResult", "RequestState"),
    "packetwire.server": ("serve",),
    "packetwire.service": ("HasPacketConnection",),
    "packetwire.ship.shipment": ("Ship",),
    "packetwire.streams.bytestream": ("ByteStream",),
    "packetwire.streams.files": ("ReadableFile", "SendableFile"),
    "packetwire.streams.open": ("PacketConnectionRecv", "PacketConnectionRecvSend", "PacketConnectionSend"),
    "packetwire.streams.process": ("child",),
    "packetwire.streams.stdio": ("stdio",),
}
"""The modules of the public names. A module is imported when a name of it is asked for: so a child starts fast,
and the pure core can be imported where there are no threads."""

_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOME_OF[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
